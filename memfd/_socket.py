"""Passing through Unix sockets, to processes that trust you and from those that need not.

One item is one message.  On the wire it is a frame, with one descriptor at its first byte
(SCM_RIGHTS); docs/sockets.md describes it for other languages.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import time

from memfd import _core, _file, _message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    import numpy.typing as npt

    from memfd._array import Array
    from memfd._file import Memfd
    from memfd._seal import Seal
    from memfd._types import Mode

# A frame: magic, version, kind, two bytes of zero, size of what follows.  No byte of a
# plain message begins like that: 0xFE is neither text in UTF-8 nor a small number.
_FRAME = struct.Struct("<4sBBHI")
_MAGIC = b"\xfeMFD"
_VERSION = 1
_FILE, _VIEW = 0, 1
_MAX_VIEW = 10_000  # bytes, as for the header of a .npy file

_KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)


def send(sock: socket.socket, item: Memfd | npt.NDArray[Any], /) -> None:
    """Send a memfd or an array to the process at the other end of a Unix socket.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket: stream, seqpacket or datagram, connected.  Its timeout is the
        deadline of the whole call.
    item : Memfd or Array
        What to send.  Of an Array, or a view of one, the descriptor of its memfd travels,
        and where in it the view lies; the memory is not copied.

    Raises
    ------
    TypeError
        `item` is neither; `memfd.share` makes an Array of an array.
    ValueError
        The item is closed, or the array's pages are its own (mode "c", frozen since).
        `sock` is no Unix socket.
    TimeoutError, BlockingIOError
        The other side does not read.  Nothing was sent.
    OSError
        ``EPIPE``, ``ECONNRESET``: the other side is gone.  ``ETOOMANYREFS``: too many
        descriptors are on their way (RLIMIT_NOFILE).

    See Also
    --------
    recv, recv_array : the other end.

    Notes
    -----
    The receiver has the memfd, whatever happens to yours.  Seal it first if the receiver
    shall trust it; `share` has done so.

    Examples
    --------
    >>> import memfd, socket
    >>> here, there = socket.socketpair()
    >>> memfd.send(here, memfd.from_bytes(b"data"))
    >>> memfd.recv(there).read()
    b'data'
    >>> here.close(), there.close()
    (None, None)
    """
    _check_socket(sock)
    if isinstance(item, _file.Memfd):
        memfd, kind, more = item, _FILE, b""
    elif hasattr(type(item), "memfd"):  # NumPy is not loaded to ask
        from memfd import _array

        memfd, more = _array.locate(item)
        kind = _VIEW
    else:
        raise TypeError(
            f"only a Memfd or an Array can be sent, not {type(item).__name__}: "
            "memfd.share() makes an Array of an array, memfd.from_bytes() a Memfd of bytes"
        )
    rights = array.array("i", [memfd.fileno()])
    frame = _FRAME.pack(_MAGIC, _VERSION, kind, 0, len(more)) + more
    ancillary: Any = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    deadline = _deadline(sock)
    while frame:
        try:
            sent = sock.sendmsg(
                [frame], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            )
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline)
            continue
        # The rest of a frame, which only a nearly full stream can cut off.
        frame, ancillary = frame[sent:], []


def recv(
    sock: socket.socket,
    *,
    require: Seal | int | None = _core.IMMUTABLE,
    max_size: SupportsIndex | None = None,
    dense: bool = True,
    copy: bool = False,
    hugetlb: bool = False,
) -> Memfd:
    """Receive a memfd from the process at the other end of a Unix socket, and check it.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket: stream, seqpacket or datagram.  Its timeout is the deadline of the
        whole call.
    require, max_size, dense, copy, hugetlb : optional
        What the memfd has to be, as for `Memfd.from_fd`.

    Returns
    -------
    Memfd
        Close-on-exec from the first instant, reading from 0.

    Raises
    ------
    SealError
        Required seals are missing.
    ValueError
        What came is no memfd, too large, sparse or hugetlb; there was no descriptor with
        the message, or more than one; or it was no message of this kind.
    EOFError
        The other side has closed the socket, maybe within a message.
    TimeoutError, BlockingIOError
        Nothing came, or half a message.
    OSError
        ``EMFILE``: too many open files.

    See Also
    --------
    recv_array : for arrays.
    Memfd.from_fd : for descriptors that came otherwise.

    Notes
    -----
    Whatever goes wrong, all descriptors that came are closed.  After a ValueError, an
    EOFError or half a message, the rest of a stream means nothing: close the socket.

    A message of one byte (any but 0xFE) with one descriptor is taken as well; that is how
    many programs pass one.

    Examples
    --------
    >>> import memfd, socket
    >>> here, there = socket.socketpair()
    >>> memfd.send(here, memfd.create(size=10))
    >>> memfd.recv(there)
    Traceback (most recent call last):
    ...
    memfd.SealError: fd ... lacks seals SHRINK|GROW|WRITE (it has ...)
    >>> here.close(), there.close()
    (None, None)
    """
    descriptors, _ = _message_of(sock)
    with descriptors:
        return _file.adopt_owned(
            descriptors,
            require=require,
            max_size=max_size,
            dense=dense,
            copy=copy,
            hugetlb=hugetlb,
        )


def recv_array(
    sock: socket.socket,
    mode: Mode = "r",
    *,
    require: Seal | int | None = _core.IMMUTABLE,
    max_size: SupportsIndex | None = None,
    dense: bool = True,
    copy: bool = False,
) -> Array:
    """Receive an array from the process at the other end of a Unix socket, and check it.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket, as for `recv`.
    mode : {"r", "r+", "c"}, optional
        How to map it: read-only; shared and writable, which needs ``require=None`` or
        ``Seal.SHRINK``; or copy-on-write.
    require, max_size, dense, copy : optional
        What the memfd has to be, as for `Memfd.from_fd`.

    Returns
    -------
    Array
        What was sent: the array in the memfd's .npy file, or the view of it.

    Raises
    ------
    ValueError
        As for `recv`; or the memfd holds no array, or the view lies outside of it.
    SealError, EOFError, TimeoutError, OSError
        As for `recv`.

    Notes
    -----
    The header, and what the message says of a view, are read as hostile input; nothing
    is unpickled.

    Examples
    --------
    >>> import memfd, numpy as np, socket
    >>> here, there = socket.socketpair()
    >>> memfd.send(here, memfd.share(np.arange(10))[::3])
    >>> memfd.recv_array(there).tolist()
    [0, 3, 6, 9]
    >>> here.close(), there.close()
    (None, None)
    """
    from memfd import _array, _mapping

    _mapping.check_mode(mode)
    descriptors, view = _message_of(sock)
    with descriptors:
        memfd = _file.adopt_owned(
            descriptors, require=require, max_size=max_size, dense=dense, copy=copy
        )
    try:
        return _array.open_view(memfd, mode, view)
    except BaseException:
        memfd.close()
        raise


def _message_of(sock: socket.socket) -> tuple[_message.Descriptors, bytes | None]:
    """Receive one message: its one descriptor, and what it says of a view, if it does."""
    _check_socket(sock)
    deadline = _deadline(sock)
    streaming = sock.type == socket.SOCK_STREAM
    # Of a stream first one byte, so that two messages cannot come as one.
    size = 1 if streaming else _FRAME.size + _MAX_VIEW
    frame, descriptors = _receive(sock, size, deadline)
    if descriptors is None:
        raise ValueError("a message came without a descriptor")
    try:
        if len(descriptors) > 1:
            raise ValueError(f"a message came with {len(descriptors)} descriptors")
        if len(frame) == 1 and frame != _MAGIC[:1]:
            return descriptors, None
        if streaming:
            frame += _rest(sock, _FRAME.size - 1, deadline)
            frame += _rest(sock, _size_of(frame), deadline)
        view = frame[_FRAME.size :]
        if _size_of(frame) != len(view):
            raise ValueError(
                f"a message announces {_size_of(frame)} bytes and has {len(view)}"
            )
    except BaseException:
        descriptors.close()
        raise
    return descriptors, view if frame[5] == _VIEW else None


def _size_of(frame: bytes) -> int:
    """Return how many bytes follow the head of a frame."""
    if len(frame) < _FRAME.size:
        raise ValueError(f"a message of {len(frame)} bytes is none of ours: {frame!r}")
    magic, version, kind, zero, size = _FRAME.unpack(frame[: _FRAME.size])
    if magic != _MAGIC or zero:
        raise ValueError(f"a message is none of ours: it begins with {frame[:8]!r}")
    if version != _VERSION or kind not in (_FILE, _VIEW):
        raise ValueError(f"a message has version {version}, kind {kind}: too new")
    if size > _MAX_VIEW or (kind == _FILE and size):
        raise ValueError(f"a message announces {size} bytes")
    return int(size)


def _rest(sock: socket.socket, size: int, deadline: float | None) -> bytes:
    """Receive exactly so many bytes, and no descriptor."""
    data = b""
    while len(data) < size:
        piece, descriptors = _receive(sock, size - len(data), deadline)
        if descriptors is not None:
            descriptors.close()
            raise ValueError("a descriptor came in the middle of a message")
        data += piece
    return data


def _receive(
    sock: socket.socket, size: int, deadline: float | None
) -> tuple[bytes, _message.Descriptors | None]:
    """Wait for some bytes of one message."""
    while True:
        try:
            data, descriptors, cut = _message.receive(sock.fileno(), size)
        except BlockingIOError:
            _wait(sock, select.POLLIN, deadline)
            continue
        if cut:
            if descriptors is not None:
                descriptors.close()
            raise ValueError(f"a message has more than {size} bytes")
        if not data and descriptors is None and sock.type != socket.SOCK_DGRAM:
            raise EOFError("the other side has closed the socket")
        return data, descriptors


def _deadline(sock: socket.socket) -> float | None:
    timeout = sock.gettimeout()
    return None if timeout is None else time.monotonic() + timeout


def _wait(sock: socket.socket, event: int, deadline: float | None) -> None:
    """Wait until the socket is ready, or raise at the deadline."""
    if sock.gettimeout() == 0:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    left = None if deadline is None else (deadline - time.monotonic()) * 1000
    poll = select.poll()
    poll.register(sock, event)
    if (left is not None and left <= 0) or not poll.poll(left):
        raise TimeoutError("timed out")


def _check_socket(sock: socket.socket) -> None:
    if not isinstance(sock, socket.socket):
        hint = (
            ": asyncio's streams lose the descriptors, use a socket without one"
            if type(sock).__module__.startswith("asyncio")
            else ""
        )
        raise TypeError(f"sock must be a socket, not {type(sock).__name__}{hint}")
    if sock.family != socket.AF_UNIX or sock.type not in _KINDS:
        raise ValueError(
            "descriptors only pass through Unix sockets, not "
            f"{sock.family!r} and {sock.type!r}"
        )
