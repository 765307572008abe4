"""A position of our own in a file whose description others share.

Who shares it moves the position that the kernel keeps, also between two reads of data that
can never change.  A file is opened again to get away from them; where that fails, for its
mode, without /proc or without a descriptor left, these functions stand in for the methods
of `io.FileIO` from then on.
"""

from __future__ import annotations

import _thread
import errno
import functools
import io
import operator
import os

from memfd import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    from typing_extensions import Buffer

    from memfd._file import Memfd

    _Arguments = TypeVarTuple("_Arguments")
    _Result = TypeVar("_Result")

# Read and moved at once, as in the kernel.  A signal handler may read, too.
_moving = _thread.RLock()
_END = 2**63 - 1


def _begin_anew() -> None:
    """Make a new lock in a forked child: a thread of the parent may have had it."""
    global _moving
    _moving = _thread.RLock()


os.register_at_fork(after_in_child=_begin_anew)


def _at_once(
    function: Callable[[*_Arguments], _Result],
) -> Callable[[*_Arguments], _Result]:
    """Let no other thread move the position between two steps of a function."""

    @functools.wraps(function)
    def call(*arguments: *_Arguments) -> _Result:
        return _core.locked(_moving, function, *arguments)

    return call


@_at_once
def read(f: Memfd, size: int | None) -> bytes:
    """Read up to `size` bytes, all by default."""
    if size is None or size < 0:
        return readall(f)
    data = os.pread(f.fileno(), size, f._position)
    f._position += len(data)
    return data


@_at_once
def readall(f: Memfd) -> bytes:
    """Read to the end."""
    pieces = []
    while piece := read(f, max(f.size - f._position, 1)):
        pieces.append(piece)
    return b"".join(pieces)


@_at_once
def readinto(f: Memfd, buffer: Buffer) -> int:
    """Read into a buffer and return the number of bytes."""
    got = os.preadv(f.fileno(), [buffer], f._position)
    f._position += got
    return got


@_at_once
def write(f: Memfd, data: Buffer) -> int:
    """Write some of `data` and return the number of bytes."""
    if not f.writable():
        raise io.UnsupportedOperation("File not open for writing")
    wrote = os.pwrite(f.fileno(), data, f._position)
    f._position += wrote
    return wrote


@_at_once
def seek(f: Memfd, offset: int, whence: int) -> int:
    """Move the position and return it."""
    offset = int(operator.index(offset))
    if not -_END <= offset <= _END:
        raise OverflowError(f"offset must be below 2**63, got {offset}")
    if whence == os.SEEK_CUR:
        offset += f._position
    elif whence == os.SEEK_END:
        offset += f.size
    if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END) or not (
        0 <= offset <= _END
    ):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    f._position = offset
    return offset
