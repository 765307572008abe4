"""Wrong uses, each an error of both checkers; nothing runs this.

What mypy is told to ignore it has to find, and so has pyright: an ignored line that is
right is an error.
"""

import socket

import numpy as np

import memfd


def wrong(sock: socket.socket, f: memfd.Memfd) -> None:
    memfd.create(7)  # type: ignore[arg-type]
    memfd.create("it", sealabel=True)  # type: ignore[call-arg]
    memfd.create("it", 10, True)  # type: ignore[call-arg]
    memfd.memfd_create("it", "flags")  # type: ignore[arg-type]
    memfd.from_bytes("text")  # type: ignore[arg-type]
    memfd.from_bytes(b"data", huge="sometimes")  # type: ignore[arg-type]
    memfd.Memfd.from_fd(f)  # type: ignore[arg-type]
    memfd.Mapping(f, "w")  # type: ignore[arg-type]
    f.mmap("rw")  # type: ignore[arg-type]
    f.size = 10  # type: ignore[misc]
    f.seal("WRITE")  # type: ignore[arg-type]
    print(memfd.nonsense)  # type: ignore[attr-defined]
    memfd.dump()  # type: ignore[call-arg]
    memfd.load(f, "r+")  # type: ignore[arg-type]
    memfd.send(sock, b"data")  # type: ignore[arg-type]
    memfd.recv(sock, 10)  # type: ignore[call-arg]


def wrong_arrays() -> None:
    memfd.share(np.ones(3), mode="w")  # type: ignore[call-overload]
    memfd.share(np.ones(3), order="X")  # type: ignore[call-overload]
    memfd.share({1: np.ones(3)})  # type: ignore[dict-item]
    memfd.empty("3")  # type: ignore[arg-type]
    memfd.zeros((2, 3), order="K")  # type: ignore[call-overload]
    memfd.full(3)  # type: ignore[call-overload]
    memfd.freeze([1, 2])  # type: ignore[call-overload]
    memfd.attach([1, 2])  # type: ignore[call-overload]
    memfd.BufferPool(when_full="block")  # type: ignore[arg-type]
    memfd.BufferPool().put({"x": np.ones(3)})  # type: ignore[call-overload]
    a = memfd.share(np.ones(3))
    print(a.memfd.size)  # type: ignore[union-attr]
    print(a[[0, 1]].memfd)  # type: ignore[attr-defined]
    print((a + 1).memfd)  # type: ignore[attr-defined]
    other: memfd.Array[tuple[int], np.dtype[np.int16]] = a  # type: ignore[assignment]
    table: memfd.Array[tuple[int, int]] = a  # type: ignore[assignment]
    memfd.share({"x": a})["x"] = other  # type: ignore[index]
    print(table, other)


async def wrong_coroutines(sock: socket.socket) -> None:
    memfd.aio.send(sock, np.ones(3))  # type: ignore[unused-coroutine]
    memfd.aio.recv(sock).read()  # type: ignore[attr-defined]
