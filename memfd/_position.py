"""A position of our own in a file whose description others share.

Who shares it moves the position that the kernel keeps, also between two reads of data that
can never change.  A file is opened again to get away from them; where that is forbidden, by
its mode or without /proc, these functions stand in for the methods of `io.FileIO`.
"""

from __future__ import annotations

import _thread
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

    from memfd._file import Memfd

# Read and moved at once, as in the kernel.  A signal handler may read, too.
_moving = _thread.RLock()


def read(f: Memfd, size: int | None) -> bytes:
    """Read up to `size` bytes, all by default."""
    if size is None or size < 0:
        return readall(f)
    with _moving:
        data = os.pread(f.fileno(), size, f._position)
        f._position += len(data)
    return data


def readall(f: Memfd) -> bytes:
    """Read to the end."""
    pieces = []
    with _moving:
        while piece := read(f, max(f.size - f._position, 1)):
            pieces.append(piece)
    return b"".join(pieces)


def readinto(f: Memfd, buffer: Buffer) -> int:
    """Read into a buffer and return the number of bytes."""
    with _moving:
        got = os.preadv(f.fileno(), [buffer], f._position)
        f._position += got
    return got


def write(f: Memfd, data: Buffer) -> int:
    """Write some of `data` and return the number of bytes."""
    with _moving:
        wrote = os.pwrite(f.fileno(), data, f._position)
        f._position += wrote
    return wrote


def seek(f: Memfd, offset: int, whence: int) -> int:
    """Move the position and return it."""
    with _moving:
        if whence == os.SEEK_CUR:
            offset += f._position
        elif whence == os.SEEK_END:
            offset += f.size
        elif whence != os.SEEK_SET:
            raise ValueError(f"whence must be 0, 1 or 2, got {whence!r}")
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        f._position = offset
    return offset
