"""Passing through Unix sockets, to processes that trust you and from those that need not.

One item is one message.  On the wire it is a frame, with one descriptor at its first byte
(SCM_RIGHTS); docs/sockets.md describes it for other languages.

The protocol does not wait: its generators yield the event of poll(2) without which they
cannot go on, and whoever drives them waits for it, here or in aio.py.  Close one early, and
it closes the descriptors that it was given so far.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from memfd import _core, _file, _mapping, _message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, SupportsIndex, TypeAlias, TypeVar

    import numpy.typing as npt

    from memfd._arraydict import ArrayDict
    from memfd._descriptors import Descriptors
    from memfd._file import Memfd
    from memfd._seal import Seal
    from memfd._types import Mode

    Result = TypeVar("Result")
    Steps: TypeAlias = Generator[int, None, Result]
    Read: TypeAlias = tuple[bytes, Descriptors | None, bool]
    Received: TypeAlias = tuple[Descriptors, bytes | None]

# A frame: magic, version, kind, two bytes of zero, size of what follows.  No byte of a
# plain message begins like that: 0xFE is neither text in UTF-8 nor a small number.
_FRAME = struct.Struct("<4sBBHI")
_MAGIC = b"\xfeMFD"
_VERSION = 1
_FILE, _VIEW = 0, 1
_MAX_VIEW = 10_000  # bytes, as for the header of a .npy file
_WHOLE_FILE = _FRAME.pack(_MAGIC, _VERSION, _FILE, 0, 0)

_arrays: Any = None

_STREAM = int(socket.SOCK_STREAM)
_SEQPACKET = int(socket.SOCK_SEQPACKET)
_DATAGRAM = int(socket.SOCK_DGRAM)


def send(sock: socket.socket, item: Memfd | npt.NDArray[Any] | ArrayDict, /) -> None:
    """Send a memfd or an array to the process at the other end of a Unix socket.

    Parameters
    ----------
    sock : socket.socket
        A Unix socket: stream, seqpacket or datagram, connected.  Its timeout is the
        deadline of the whole call.
    item : Memfd, Array or ArrayDict
        What to send.  Of an Array, or a view of one, the descriptor of its memfd travels,
        and where in it the view lies; the memory is not copied.

    Raises
    ------
    TypeError
        `item` is neither; `memfd.share` makes an Array of an array.
    ValueError
        The item is closed, or the array's pages are its own (mode "c", frozen since), or
        it repeats elements until they are more than its memfd holds (broadcast).
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
    steps = sending(sock, item)
    if steps is not None:
        _drive(sock, steps)


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
    A close(2) that its file system keeps waiting goes on in a thread.

    The deadline is for the message.  Copying with ``copy=True`` comes after it, and takes
    as long as `max_size` allows.

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
    require, max_size = _core.check_requirements(require, max_size)
    descriptors, _ = _received(sock)
    return _file.adopt_owned(descriptors, require, max_size, dense, copy, hugetlb)


def recv_array(
    sock: socket.socket,
    mode: Mode = "r",
    *,
    require: Seal | int | None = _core.IMMUTABLE,
    max_size: SupportsIndex | None = None,
    dense: bool = True,
    copy: bool = False,
) -> Any:
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
    Array or ArrayDict
        What was sent: the array in the memfd's .npy file, or the view of it; or the
        arrays in a safetensors file.

    Raises
    ------
    ValueError
        As for `recv`; or the memfd holds no array, or the view lies outside of it or
        has more bytes than the memfd, by repeating them.
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
    _mapping.check_mode(mode)
    require, max_size = _core.check_requirements(require, max_size)
    descriptors, view = _received(sock)
    memfd = _file.adopt_owned(descriptors, require, max_size, dense, copy)
    return open_array(memfd, view, mode)


def sending(
    sock: socket.socket, item: Memfd | npt.NDArray[Any] | ArrayDict
) -> Steps[None] | None:
    """Send the item, and return the steps that are left, if there are any."""
    check_socket(sock)
    if isinstance(item, _file.Memfd):
        memfd, frame = item, _WHOLE_FILE
    elif hasattr(type(item), "memfd"):  # NumPy is not loaded to ask
        memfd, view = _load_arrays().locate(item)
        if view is None:
            frame = _WHOLE_FILE
        else:
            frame = _FRAME.pack(_MAGIC, _VERSION, _VIEW, 0, len(view)) + view
    else:
        raise TypeError(
            f"only a Memfd, an Array or an ArrayDict can be sent, not "
            f"{type(item).__name__}: memfd.share() makes them of arrays, "
            "memfd.from_bytes() a Memfd of bytes"
        )
    sent = _message.send(sock, frame, memfd)
    return None if sent == len(frame) else _send_rest(sock, frame, sent, memfd)


def receiving(sock: socket.socket) -> Received | Steps[Received]:
    """Receive one message, or return the steps that do.

    That is its one descriptor, and what it says of a view, if it does.
    """
    kind = check_socket(sock)
    # Of a stream only the head: what follows it is known then.  Two messages never come
    # as one, since a read ends where the next descriptor begins.
    size = _FRAME.size if kind == _STREAM else _FRAME.size + _MAX_VIEW
    read = _message.receive(sock, size)
    # The usual case, without the rest of the protocol.
    if read is not None and read[0] == _WHOLE_FILE:
        descriptors = read[1]
        if descriptors is not None and len(descriptors) == 1:
            return descriptors, None
    return _receive_message(sock, kind, size, read)


def open_array(memfd: Memfd, view: bytes | None, mode: Mode) -> Any:
    """Open the array in what was received and checked, or close it."""
    try:
        return _load_arrays().open_view(memfd, mode, view)
    except BaseException:
        memfd.close()
        raise


def _load_arrays() -> Any:
    """Import what knows arrays, which needs NumPy."""
    global _arrays
    if _arrays is None:
        from memfd import _share

        _arrays = _share
    return _arrays


def _send_rest(
    sock: socket.socket, frame: bytes, sent: int, memfd: Memfd
) -> Steps[None]:
    # Only a nearly full stream cuts a frame.
    while sent < len(frame):
        yield select.POLLOUT
        sent += _message.send(sock, frame[sent:], None if sent else memfd)


def _receive_message(
    sock: socket.socket, kind: int, size: int, read: Read | None
) -> Steps[Received]:
    """Receive one message, of which up to `size` bytes were read already, if any."""
    while read is None:
        yield select.POLLIN
        read = _message.receive(sock, size)
    frame, descriptors = _checked(sock, kind, read, size)
    if descriptors is None:  # guard: no descriptor
        raise ValueError("a message came without a descriptor")
    try:
        if len(descriptors) > 1:  # guard: several descriptors
            raise ValueError(f"a message came with {len(descriptors)} descriptors")
        if frame == _WHOLE_FILE or (len(frame) == 1 and frame != _MAGIC[:1]):
            return descriptors, None
        if kind == _STREAM and frame[:1] == _MAGIC[:1]:
            frame += yield from _rest(sock, kind, _FRAME.size - len(frame))
            frame += yield from _rest(sock, kind, _size_of(frame))
        view = frame[_FRAME.size :]
        if _size_of(frame) != len(view):  # guard: announced size
            raise ValueError(
                f"a message announces {_size_of(frame)} bytes and has {len(view)}"
            )
    except BaseException:
        descriptors.close()
        raise
    return descriptors, view if frame[5] == _VIEW else None


def _size_of(frame: bytes) -> int:
    """Return how many bytes follow the head of a frame."""
    if len(frame) < _FRAME.size:  # guard: half a head
        raise ValueError(f"a message of {len(frame)} bytes is none of ours: {frame!r}")
    magic, version, kind, zero, size = _FRAME.unpack(frame[: _FRAME.size])
    if magic != _MAGIC:  # guard: magic
        raise ValueError(f"a message is none of ours: it begins with {frame[:8]!r}")
    if version != _VERSION:  # guard: version
        raise ValueError(f"a message has version {version}: too new")
    if kind not in (_FILE, _VIEW):  # guard: kind
        raise ValueError(f"a message has kind {kind}: too new")
    if zero:  # guard: zero
        raise ValueError(f"a message has {zero} where zero should be: too new")
    if size > _MAX_VIEW:  # guard: long view
        raise ValueError(f"a message announces {size} bytes")
    if kind == _FILE and size:  # guard: view of a file
        raise ValueError(f"a message without a view announces {size} bytes")
    return int(size)


def _rest(sock: socket.socket, kind: int, size: int) -> Steps[bytes]:
    """Receive exactly so many bytes, and no descriptor."""
    data = b""
    while len(data) < size:
        left = size - len(data)
        read = _message.receive(sock, left)
        if read is None:
            yield select.POLLIN
            continue
        piece, descriptors = _checked(sock, kind, read, left)
        if descriptors is not None:  # guard: descriptor in the middle
            descriptors.close()
            raise ValueError("a descriptor came in the middle of a message")
        data += piece
    return data


def _checked(
    sock: socket.socket, kind: int, read: Read, size: int
) -> tuple[bytes, Descriptors | None]:
    """Return bytes and descriptors of a read of up to `size` bytes, if it was whole."""
    data, descriptors, cut = read
    if cut:  # guard: cut message
        if descriptors is not None:
            descriptors.close()
        raise ValueError(f"a message has more than {size} bytes")
    if not data and descriptors is None and _can_end(sock, kind):  # guard: end
        raise EOFError("the other side has closed the socket")
    return data, descriptors


def _can_end(sock: socket.socket, kind: int) -> bool:
    """Tell whether nothing was read since the other side has closed the socket."""
    if kind == _SEQPACKET:  # guard: empty packet
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        return bool(poll.poll(0))
    return kind != _DATAGRAM


def _received(sock: socket.socket) -> Received:
    got = receiving(sock)
    return got if isinstance(got, tuple) else _drive(sock, got)


def _drive(sock: socket.socket, steps: Steps[Result]) -> Result:
    """Run the protocol, and wait where it has to, until the deadline of the socket."""
    try:
        event = next(steps)
        deadline = _deadline(sock)
        while True:
            _wait(sock, event, deadline)
            event = next(steps)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        steps.close()


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


def check_socket(sock: socket.socket) -> int:
    """Refuse what is no Unix socket, and return its type."""
    if not isinstance(sock, socket.socket):
        hint = (
            ": asyncio's streams lose the descriptors, use a socket without one"
            if type(sock).__module__.startswith(("asyncio", "uvloop"))
            else ""
        )
        raise TypeError(f"sock must be a socket, not {type(sock).__name__}{hint}")
    kind = _message.unix_type(sock)
    if kind is None:
        raise ValueError(
            "descriptors only pass through Unix sockets, not "
            f"{sock.family!r} and {sock.type!r}"
        )
    return kind
