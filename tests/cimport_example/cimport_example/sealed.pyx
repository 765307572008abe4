# cython: language_level=3
"""Sealed memfds, made without the GIL by what memfd offers to cimport."""

from libc cimport errno
from libc.string cimport memcpy
from posix.types cimport off_t
from posix.unistd cimport close

from memfd cimport (
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    memfd_add_seals,
    memfd_create,
    memfd_get_seals,
    memfd_get_size,
    memfd_map,
    memfd_raise,
    memfd_set_size,
    memfd_unmap,
)

cdef int IMMUTABLE = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL


cdef int fill(int fd, const char *data, size_t size) noexcept nogil:
    """Size, write and seal the memfd `fd`.  0, or -1 and errno."""
    if memfd_set_size(fd, size) == -1:
        return -1
    cdef void *memory = memfd_map(fd, size, True, 0)
    if memory == NULL:
        return -1
    memcpy(memory, data, size)
    # While a writable mapping exists, the kernel refuses F_SEAL_WRITE.
    if memfd_unmap(memory, size) == -1:
        return -1
    return memfd_add_seals(fd, IMMUTABLE)


cdef int copy(const char *data, size_t size) noexcept nogil:
    """Return the descriptor of a sealed memfd that holds `data`, or -1 and errno."""
    cdef int error
    cdef int fd = memfd_create(b"cimport-example", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if fd != -1 and fill(fd, data, size) == -1:
        error = errno.errno
        close(fd)
        errno.errno = error  # that of the failure, whatever close() left
        return -1
    return fd


def sealed_copy(bytes data not None):
    """Return the descriptor of a memfd that holds `data` and never changes."""
    cdef const char *start = data
    cdef size_t length = len(data)
    cdef int fd
    with nogil:
        fd = copy(start, length)
    if fd == -1:
        memfd_raise()
    return fd


def seals(int fd):
    """Return the seals of the memfd `fd`."""
    cdef int found = memfd_get_seals(fd)
    if found == -1:
        memfd_raise()
    return found


def size(int fd):
    """Return the size of the file behind `fd` in bytes."""
    cdef off_t found = memfd_get_size(fd)
    if found == -1:
        memfd_raise()
    return found
