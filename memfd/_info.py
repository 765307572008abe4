"""What a memfd takes of memory, as the kernel tells it."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from memfd import _core, _mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memfd._file import Memfd


class Info(NamedTuple):
    """What `Memfd.info` returns; all in bytes."""

    size: int
    resident: int
    huge: int | None


def info(f: Memfd) -> Info:
    """Return size and memory of `f`; see `Memfd.info`."""
    status = os.fstat(f.fileno())
    resident = status.st_blocks * 512
    huge: int | None = 0
    if _core.is_hugetlb(f.fileno()):
        huge = resident
    elif 0 < _mapping.HUGE_PAGE_SIZE <= resident and status.st_size:
        huge = _in_huge_pages(f, status.st_size)
    return Info(status.st_size, resident, huge)


def _in_huge_pages(f: Memfd, size: int) -> int | None:
    """Return how much of the file one mapping gets in huge pages, None if untold.

    The kernel counts what is mapped, so all is mapped and each huge page looked at once.
    """
    try:
        # An offset of its own, as the search moves it.
        with f.reopen() as own, _mapping.Mapping(own) as mapping:
            for offset in _present(own.fileno(), size):
                mapping._fault_in(offset)
            return _pmd_mapped(mapping.address)
    except OSError:
        return None


def _present(fd: int, size: int) -> list[int]:
    """Return the offsets of huge pages whose first page is there."""
    found, offset, huge = [], 0, _mapping.HUGE_PAGE_SIZE
    while offset < size:
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole follows
                raise
            break
        if data == offset:
            found.append(offset)
            offset += huge
        else:
            offset = (data + huge - 1) // huge * huge
    return found


def _pmd_mapped(address: int) -> int:
    """Return how much of the mapping at `address` is mapped in huge pages."""
    total, inside = 0, False
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            name, _, value = line.partition(b" ")
            if not name.endswith(b":"):
                start, _, end = name.partition(b"-")
                inside = int(start, 16) <= address < int(end, 16)
            elif inside and name in (b"ShmemPmdMapped:", b"FilePmdMapped:"):
                total += int(value.split()[0]) * 1024
    return total
