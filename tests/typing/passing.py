"""The types of what passes through sockets."""

import asyncio
import socket
from typing import assert_type

import numpy as np

import memfd


def check_sockets() -> None:
    here, there = socket.socketpair()
    with here, there:
        memfd.send(here, memfd.from_bytes(b"data"))
        received = memfd.recv(there, require=memfd.Seal.IMMUTABLE, max_size=1 << 20)
        assert_type(received, memfd.Memfd)
        received.close()
        memfd.send(here, memfd.share(np.ones(3)))
        # What comes is known when it is there: whoever knows it before says so.
        array: memfd.Array[tuple[int], np.dtype[np.float64]]
        array = memfd.recv_array(there, "r", require=None, dense=False, copy=False)
        assert array.shape == (3,)
        memfd.send(here, memfd.share({"x": np.ones(3)}))
        arrays: memfd.ArrayDict = memfd.recv_array(there)
        assert list(arrays) == ["x"]


def check_asyncio() -> None:
    asyncio.run(in_loop())


async def in_loop() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        await memfd.aio.send(here, memfd.from_bytes(b"data"))
        received = await memfd.aio.recv(there, hugetlb=False)
        assert_type(received, memfd.Memfd)
        received.close()
        await memfd.aio.send(here, memfd.share(np.ones(3)))
        array: memfd.Array = await memfd.aio.recv_array(there, mode="c")
        assert array.shape == (3,)
