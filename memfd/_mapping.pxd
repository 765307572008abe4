"""Map a memfd into memory, for Cython: header-only, without the GIL, NULL and errno."""

from posix.mman cimport (
    MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)
from posix.types cimport off_t


cdef inline void *memfd_map(
    int fd, size_t size, bint writable, off_t offset
) noexcept nogil:
    """Map `size` bytes of `fd` from `offset` (whole pages).  NULL and errno on failure.

    Writable means shared: every holder sees what is stored.  Else the mapping is private
    and read-only, which every kernel allows on a sealed memfd and which blocks no seal.
    """
    cdef void *address = mmap(
        NULL,
        size,
        PROT_READ | PROT_WRITE if writable else PROT_READ,
        MAP_SHARED if writable else MAP_PRIVATE,
        fd,
        offset,
    )
    return NULL if address == MAP_FAILED else address


cdef inline int memfd_unmap(void *address, size_t size) noexcept nogil:
    """Unmap what memfd_map returned.  0, or -1 and errno."""
    return munmap(address, size)
