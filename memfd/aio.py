"""Passing through Unix sockets under asyncio: the calls of memfd, as coroutines.

Streams and transports read by themselves and lose the descriptors, so the sockets are
plain ones, not blocking, as for ``loop.sock_recv()``.  `asyncio.timeout` is the deadline.
"""

from __future__ import annotations

import asyncio
import os
import select

from memfd import _core, _file, _mapping, _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, SupportsIndex

    import numpy.typing as npt

    from memfd._arraydict import ArrayDict
    from memfd._file import Memfd
    from memfd._seal import Seal
    from memfd._socket import Received, Result, Steps
    from memfd._types import Mode

__all__ = ["recv", "recv_array", "send"]


async def send(
    sock: socket.socket, item: Memfd | npt.NDArray[Any] | ArrayDict, /
) -> None:
    """Send a memfd or an array to the process at the other end of a Unix socket.

    See `memfd.send`, which this is but for the waiting.

    Parameters
    ----------
    sock : socket.socket
        A connected Unix socket, after ``sock.setblocking(False)``.
    item : Memfd, Array or ArrayDict
        What to send.  It must stay open until it is sent.

    Raises
    ------
    ValueError
        `sock` is blocking.
    TypeError, ValueError, OSError
        As for `memfd.send`.

    Notes
    -----
    Where this is cancelled, nothing was sent, unless a stream had room for a part of a
    message only; the rest of such a stream means nothing.

    Examples
    --------
    >>> import asyncio, memfd, memfd.aio, socket
    >>> async def main():
    ...     here, there = socket.socketpair()
    ...     with here, there:
    ...         here.setblocking(False)
    ...         there.setblocking(False)
    ...         await memfd.aio.send(here, memfd.from_bytes(b"data"))
    ...         with await memfd.aio.recv(there) as f:
    ...             return f.read()
    >>> asyncio.run(main())
    b'data'
    """
    _check(sock)
    steps = _socket.sending(sock, item)
    if steps is not None:
        await _drive(sock, steps)


async def recv(
    sock: socket.socket,
    *,
    require: Seal | int | None = _core.IMMUTABLE,
    max_size: SupportsIndex | None = None,
    dense: bool = True,
    copy: bool = False,
    hugetlb: bool = False,
) -> Memfd:
    """Receive a memfd from the process at the other end of a Unix socket, and check it.

    See `memfd.recv`, which this is but for the waiting.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket, after ``sock.setblocking(False)``.
    require, max_size, dense, copy, hugetlb : optional
        What the memfd has to be, as for `Memfd.from_fd`.

    Returns
    -------
    Memfd
        As from `memfd.recv`.

    Raises
    ------
    ValueError
        `sock` is blocking.
    SealError, TypeError, ValueError, EOFError, OSError
        As for `memfd.recv`.

    Notes
    -----
    Where this is cancelled, what came so far is closed.  Only a stream can be cut within a
    message; then its rest means nothing.

    Nothing but waiting goes on in the background: ``copy=True`` copies in the thread of
    the loop.

    Examples
    --------
    >>> import asyncio, memfd, memfd.aio, socket
    >>> async def main():
    ...     here, there = socket.socketpair()
    ...     with here, there:
    ...         there.setblocking(False)
    ...         async with asyncio.timeout(0.01):
    ...             await memfd.aio.recv(there)
    >>> asyncio.run(main())
    Traceback (most recent call last):
    ...
    TimeoutError
    """
    require, max_size = _core.check_requirements(require, max_size)
    descriptors, _ = await _received(sock)
    return _file.adopt_owned(descriptors, require, max_size, dense, copy, hugetlb)


async def recv_array(
    sock: socket.socket,
    mode: Mode = "r",
    *,
    require: Seal | int | None = _core.IMMUTABLE,
    max_size: SupportsIndex | None = None,
    dense: bool = True,
    copy: bool = False,
) -> Any:
    """Receive an array from the process at the other end of a Unix socket, and check it.

    See `memfd.recv_array`, which this is but for the waiting.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket, after ``sock.setblocking(False)``.
    mode : {"r", "r+", "c"}, optional
        How to map it, as for `memfd.recv_array`.
    require, max_size, dense, copy : optional
        What the memfd has to be, as for `Memfd.from_fd`.

    Returns
    -------
    Array or ArrayDict
        As from `memfd.recv_array`.

    Raises
    ------
    ValueError
        `sock` is blocking.
    SealError, TypeError, ValueError, EOFError, OSError
        As for `memfd.recv_array`.

    Notes
    -----
    As for `recv`.

    Examples
    --------
    >>> import asyncio, memfd, memfd.aio, numpy as np, socket
    >>> async def main():
    ...     here, there = socket.socketpair()
    ...     with here, there:
    ...         here.setblocking(False)
    ...         there.setblocking(False)
    ...         waiting = asyncio.create_task(memfd.aio.recv_array(there))
    ...         await memfd.aio.send(here, memfd.share(np.arange(10))[::3])
    ...         return (await waiting).tolist()
    >>> asyncio.run(main())
    [0, 3, 6, 9]
    """
    _mapping.check_mode(mode)
    require, max_size = _core.check_requirements(require, max_size)
    descriptors, view = await _received(sock)
    memfd = _file.adopt_owned(descriptors, require, max_size, dense, copy)
    return _socket.open_array(memfd, view, mode)


async def _received(sock: socket.socket) -> Received:
    _check(sock)
    got = _socket.receiving(sock)
    return got if isinstance(got, tuple) else await _drive(sock, got)


def _check(sock: socket.socket) -> None:
    _socket.check_socket(sock)
    if sock.gettimeout() != 0:  # guard: blocking socket
        raise ValueError("sock must not block: call sock.setblocking(False) first")


async def _drive(sock: socket.socket, steps: Steps[Result]) -> Result:
    """Run the protocol, and let the loop wait where it has to."""
    try:
        while True:
            await _wait(sock, next(steps))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        steps.close()


async def _wait(sock: socket.socket, event: int) -> None:
    """Wait until the socket is ready."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # A loop has one callback for a descriptor, and others may watch this socket as well.
    fd = os.dup(sock.fileno())
    try:
        if event == select.POLLIN:
            loop.add_reader(fd, ready.set)
        else:
            loop.add_writer(fd, ready.set)
        await ready.wait()
    finally:
        try:
            if event == select.POLLIN:
                loop.remove_reader(fd)
            else:
                loop.remove_writer(fd)
        finally:
            os.close(fd)  # guard: descriptor of a wait -> pass
