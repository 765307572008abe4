# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
# cython: cdivision=True
"""Memory: a region of a memfd in this process."""

import io
import os
import _weakref

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memcmp
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ,
    PROT_WRITE, mmap, munmap,
)
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t
from posix.unistd cimport _SC_PAGESIZE, close, pread, sysconf

cimport memfd._linux as _linux
cimport memfd._pages as _pages

from memfd._check cimport memory_size, offset_in, raise_errno, size_argument
from memfd._core cimport memfd_get_seals

from memfd._core import is_hugetlb, keep

cdef extern from "sys/mman.h" nogil:
    int MAP_POPULATE
    int MREMAP_MAYMOVE
    int MREMAP_FIXED
    int mincore(void *address, size_t size, unsigned char *there)
    void *mremap(void *old, size_t old_size, size_t new_size, int flags, void *new)

MODES = ("r", "r+", "c")

cdef enum:
    PAGEMAP_STEP = 4096  # pages
    _STAYS = _linux.F_SEAL_SHRINK | _linux.F_SEAL_WRITE  # not a page can be taken away


def _huge_page_size():
    """Return the size of the huge pages that ordinary mappings can have, or 0."""
    size = 0
    try:
        with io.open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") as file:
            size = int(file.read())
    except (OSError, ValueError):
        pass
    # With 64 KiB pages a huge page is 512 MiB: nothing to align ordinary mappings to.
    return size if size <= 32 << 20 else 0


HUGE_PAGE_SIZE = _huge_page_size()


# --- which mappings of a file live in this process ---------------------------------

# (st_dev, st_ino) -> {id of reference: reference}.  A size that shrinks and a seal have
# to know who looks at the file; received arrays find the mapping that is there already.
_live = {}


class _Reference(_weakref.ref):
    __slots__ = ("key",)


def _forget(reference, /):
    cdef dict table = _live, siblings
    key = reference.key
    with cython.critical_section(table):
        siblings = table.get(key)
        if siblings is not None:
            siblings.pop(id(reference), None)
            if not siblings:
                del table[key]


cdef int _remember(object mapping, uint64_t device, uint64_t inode) except -1:
    cdef dict table = _live, siblings
    reference = _Reference(mapping, _forget)
    reference.key = key = (device, inode)
    with cython.critical_section(table):
        siblings = table.get(key)
        if siblings is None:
            siblings = table[key] = {}
        siblings[id(reference)] = reference
    return 0


def remember(mapping, device, inode, /):
    """Note that `mapping`, an object with ``closed``, maps this file."""
    _remember(mapping, device, inode)


def live(device, inode, /):
    """Return the open mappings of a file in this process."""
    cdef dict table = _live, siblings
    cdef list references = []
    with cython.critical_section(table):
        siblings = table.get((device, inode))
        if siblings is not None:
            references = list(siblings.values())
    found = [reference() for reference in references]
    return [mapping for mapping in found if mapping is not None and not mapping.closed]


# --- the C side ----------------------------------------------------------------------

# Held by who lays something over an open mapping: `Mapping.close` and `while_private`.  Who
# holds it or waits for it has no GIL, and runs no signal handler.
cdef extern from * nogil:
    """
    #include <pthread.h>
    static pthread_mutex_t memfd_replacing = PTHREAD_MUTEX_INITIALIZER;
    """
    ctypedef struct pthread_mutex_t:
        pass
    pthread_mutex_t replacing "memfd_replacing"
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)


def _after_fork():
    # Who held it in the parent is no thread of this process.
    pthread_mutex_init(&replacing, NULL)


os.register_at_fork(after_in_child=_after_fork)


cdef char *_place_sealed(
    int fd, size_t length, off_t offset, size_t page
) noexcept nogil:
    """Map pages of the hugetlb pool for reading, if all are there and stay so, or NULL.

    Nothing is reserved then: it takes no other pages of the pool.
    """
    cdef int seals = memfd_get_seals(fd), flags = MAP_PRIVATE | MAP_NORESERVE
    cdef char *at
    if seals == -1 or seals & _STAYS != _STAYS:
        return NULL
    at = _pages.place(fd, length, PROT_READ, flags, offset, 0)
    # To touch a page that is not there would be a SIGBUS, and the number of blocks can lie.
    # guard: forged blocks of the pool
    if at != NULL and _pages.madvise(at, length, _linux.MADV_POPULATE_READ) == -1:
        munmap(at, length)
        at = NULL
        if errno.errno == errno.EINVAL:
            # Before Linux 5.14: who maps makes the pages, and does not say whether all.
            at = _pages.place(fd, length, PROT_READ, flags | MAP_POPULATE, offset, 0)
            if at != NULL and not _are_there(at, length, page):
                munmap(at, length)
                at = NULL
    return at


cdef bint _are_there(char *at, size_t length, size_t page) noexcept nogil:
    """Tell whether all pages of a mapping are there."""
    cdef unsigned char there = 0
    cdef size_t done = 0
    while done < length:
        if mincore(at + done, 1, &there) == -1 or not there & 1:
            return False
        done += page
    return True


cdef int _replace(
    char *at, size_t length, int prot, int flags, int fd, off_t offset
) noexcept nogil:
    """Lay another mapping over the one at `at`.  0, or -1, errno and nothing changed.

    It is made elsewhere and moved: MAP_FIXED can take the old one away and then fail.
    """
    cdef int error
    cdef void *made = mmap(NULL, length, prot, flags, fd, offset)
    if made == MAP_FAILED:
        return -1
    if mremap(made, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED:
        error = errno.errno
        munmap(made, length)
        errno.errno = error
        return -1
    return 0


cdef int _put_back(int fd, char *at, size_t size, off_t offset) noexcept nogil:
    """Write the pages that a private mapping of `fd` has of its own into the file.

    Which ones these are, /proc/self/pagemap says; comparing contents could not tell
    them from pages that another process writes at this moment, and is only the way out
    where /proc is not mounted.
    """
    cdef uint64_t entries[PAGEMAP_STEP]
    cdef char theirs[4096]
    cdef size_t page = sysconf(_SC_PAGESIZE), done = 0, piece, i, pages
    cdef ssize_t got
    cdef int answer = 0, error
    cdef int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
    while answer == 0 and done < size:
        if pagemap == -1:
            piece = _pages.smaller(sizeof(theirs), size - done)
            got = pread(fd, theirs, piece, offset + done)
            if got != <ssize_t>piece or memcmp(theirs, at + done, piece):
                answer = _pages.write_all(fd, at + done, piece, offset + done)
            done += piece
            continue
        pages = _pages.smaller(PAGEMAP_STEP, (size - done + page - 1) // page)
        got = pread(
            pagemap, entries, pages * 8, <off_t>((<size_t>at + done) // page * 8)
        )
        if got != <ssize_t>(pages * 8):
            close(pagemap)
            pagemap = -1
            continue
        for i in range(pages):
            piece = _pages.smaller(page, size - done)
            # Present or swapped (bits 63, 62), but neither of a file nor shared (61).
            if answer == 0 and entries[i] >> 62 and not entries[i] >> 61 & 1:
                answer = _pages.write_all(fd, at + done, piece, offset + done)
            done += piece
    error = errno.errno
    if pagemap != -1:
        close(pagemap)
    errno.errno = error
    return answer


# --- Python -------------------------------------------------------------------------

cdef int _extent(
    off_t file_size, object offset, object size, off_t *start, off_t *length
) except -1:
    """Set `start` and `length` to the part to map, or raise what is wrong with it."""
    cdef long page = sysconf(_SC_PAGESIZE)
    start[0] = size_argument(offset, "offset")
    if start[0] % page:  # guard: offset within a page
        raise ValueError(
            f"offset must be a multiple of the page size, {page} bytes, got {offset}"
        )
    if file_size == 0:  # guard: empty file
        raise ValueError("an empty file cannot be mapped: give it a size first")
    if start[0] >= file_size:  # guard: offset past the end
        raise ValueError(
            f"offset {offset} is past the end of a file of {file_size} bytes"
        )
    length[0] = file_size - start[0]
    if size is None:
        return 0
    wanted = size_argument(size)
    if wanted == 0:  # guard: nothing to map
        raise ValueError("size must be positive, got 0: nothing to map")
    if wanted > length[0]:  # guard: size past the end
        raise ValueError(
            f"offset {offset} and size {size} reach past the end of a file of "
            f"{file_size} bytes"
        )
    length[0] = wanted
    return 0


def extent(file_size, offset, size, /):
    """Return offset and size of the part to map, or raise what is wrong with them."""
    cdef off_t start, length
    _extent(file_size, offset, size, &start, &length)
    return start, length


def check_mode(mode, /):
    """Return `mode`, or raise unless it is one of "r", "r+" and "c"."""
    if mode not in MODES:
        raise ValueError(f'mode must be "r", "r+" or "c", got {mode!r}')
    return mode


def map(fd, size, writable=False, offset=0, /):
    """Map a memfd and return the address; nobody unmaps it but you.

    The Python side of the Cython function ``memfd_map``.  `Mapping` owns what it maps
    and is safe; this is for code that hands addresses to C.

    Parameters
    ----------
    fd : int or object with fileno()
        Descriptor of a memfd.
    size : int
        Bytes to map.
    writable : bool, optional
        Shared and writable, or (the default) private and read-only.
    offset : int, optional
        Where to begin, in bytes; a multiple of the page size.

    Returns
    -------
    int
        Address of the first byte, at a page boundary.

    Raises
    ------
    ValueError
        `size` or `offset` is negative, or `size` is 0.
    OSError
        As mmap(2): ``EINVAL`` for an offset within a page, ``EACCES`` for a read-only
        descriptor, ``EPERM`` for a sealed memfd, ``ENOMEM``.

    Examples
    --------
    >>> import memfd
    >>> with memfd.create(size=4096) as f:
    ...     address = memfd.map(f, 4096)
    >>> memfd.unmap(address, 4096)
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef size_t length = memory_size(size_argument(size))
    cdef off_t start = size_argument(offset, "offset")
    cdef bint shared = writable
    cdef void *address
    if length == 0:
        raise ValueError("size must be positive, got 0: nothing to map")
    with nogil:
        address = memfd_map(descriptor, length, shared, start)
    if address == NULL:
        raise_errno(f"mapping {length} bytes at {start} of {descriptor}")
    return <size_t>address


def unmap(address, size, /):
    """Unmap what `map` returned.  Python objects over that memory must be gone.

    Parameters
    ----------
    address : int
        What `map` returned.
    size : int
        Bytes, as given to `map`.

    Raises
    ------
    OSError
        ``EINVAL``: `address` is not at a page boundary, or `size` is 0.

    Examples
    --------
    See `map`.
    """
    cdef size_t start = size_argument(address, "address")
    cdef size_t length = memory_size(size_argument(size))
    cdef int answer
    with nogil:
        answer = memfd_unmap(<void *>start, length)
    if answer == -1:
        raise_errno(f"address {start:#x}, size {length}")


cdef class Mapping:
    """Mapping(file, mode="r", offset=0, size=None)

    A region of a memfd in the memory of this process.

    It offers its bytes as a buffer (``memoryview``, ``numpy.frombuffer``) and owns the
    memory: it goes when the last user is gone.  It holds no descriptor; the memfd may be
    closed while its mappings live.

    Parameters
    ----------
    file : Memfd, int or object with fileno()
        What to map.
    mode : {"r", "r+", "c"}, optional
        "r": read-only; sees what others write, and blocks no seal.  "r+": shared, every
        holder sees what is written.  "c": copy-on-write, writes stay in this process;
        allowed on sealed memfds.
    offset : int, optional
        Where to begin, in bytes; a multiple of the page size.
    size : int, optional
        Bytes to map, to the end of the file by default.

    Raises
    ------
    ValueError
        `mode` is none of the three, the file is empty, `offset` is not at a page
        boundary, or the part reaches past the end of the file.
    PermissionError
        "r+" of a memfd sealed with ``Seal.WRITE`` (``EPERM``) or of a descriptor that is
        open for reading only (``EACCES``).
    OSError
        ``ENOMEM``: no address space, or no huge pages in the pool.

    See Also
    --------
    Memfd.mmap : the standard library's object.

    Notes
    -----
    mmap(2).  "r" maps ``MAP_PRIVATE`` with writable pages and exports them read-only:
    code that writes in spite of that gets a private page, never a signal.  A mapping of
    1 MiB begins where the kernel can use huge pages: its address and `offset` have the
    same remainder.

    Bytes past the end of the file cannot be reached; who can shrink the file can still
    take them away under a mapping, so seal it with ``Seal.SHRINK`` before others get it.

    Examples
    --------
    >>> import memfd
    >>> f = memfd.from_bytes(b"anonymous")
    >>> with memfd.Mapping(f) as m:
    ...     bytes(m)
    b'anonymous'
    """

    cdef object __weakref__
    cdef char *_address
    cdef size_t _size
    cdef size_t _length
    cdef off_t _offset
    cdef uint64_t _device
    cdef uint64_t _inode
    cdef Py_ssize_t _exports
    cdef int _mode
    cdef bint _closed
    cdef bint _is_gone  # closed, and the memory given back

    def __cinit__(self, file, mode="r", offset=0, size=None):
        cdef struct_stat status
        kept = keep(file)
        cdef int fd = PyObject_AsFileDescriptor(kept)
        cdef int prot, flags
        cdef off_t length
        cdef size_t page = sysconf(_SC_PAGESIZE), huge = 0
        cdef bint hugetlb = False
        self._closed = True
        if mode == "r":
            self._mode = 0
        elif mode == "r+":
            self._mode = 1
        else:
            self._mode = 2
            check_mode(mode)
        if fstat(fd, &status) == -1:
            raise_errno(f"descriptor {fd}")
        _extent(status.st_size, offset, size, &self._offset, &length)
        self._size = memory_size(length)
        if <size_t>status.st_blksize > page and is_hugetlb(fd):
            # Whole pages of the pool, which the kernel aligns and has to reserve.
            hugetlb = True
            page = status.st_blksize
        self._length = (self._size + page - 1) & ~(page - 1)
        # Only what is large, or has so much memory that it may be in huge pages.
        if (
            not hugetlb
            and 0 < <size_t>HUGE_PAGE_SIZE
            and (self._size >= _pages.SMALL or status.st_blocks * 512 >= HUGE_PAGE_SIZE)
        ):
            huge = HUGE_PAGE_SIZE
            if self._offset + length == status.st_size:
                # The file may end inside a huge page, which only maps as a whole.
                self._length = (
                    (status.st_size + huge - 1) & ~(huge - 1)
                ) - self._offset
        prot = PROT_READ | PROT_WRITE
        if self._mode == 1:
            flags = MAP_SHARED
        elif self._mode == 0 and not hugetlb:
            # guard: blocks no seal -> flags = MAP_SHARED
            flags = MAP_PRIVATE | MAP_NORESERVE
        else:
            flags = MAP_PRIVATE
            if self._mode == 0:
                prot = PROT_READ
        with nogil:
            if hugetlb and self._mode == 0 and status.st_blocks * 512 >= status.st_size:
                self._address = _place_sealed(
                    fd, self._length, self._offset, page
                )
            if self._address == NULL:
                self._address = _pages.place(
                    fd, self._length, prot, flags, self._offset, huge
                )
            if self._address == NULL and self._mode == 0:
                # Strict overcommit counts pages that could be written.
                self._address = _pages.place(
                    fd, self._length, PROT_READ, MAP_PRIVATE, self._offset, huge
                )
        if self._address == NULL:
            error = errno.errno
            hint = f'mapping {length} bytes at {offset}, mode "{mode}"'
            if error == errno.EPERM:
                hint += ': sealed against writing, use mode "r" or "c"'
            elif error == errno.EACCES:
                hint += f": descriptor {fd} is not open for reading and writing"
            errno.errno = error
            raise_errno(hint)
        self._closed = False
        self._device = status.st_dev
        self._inode = status.st_ino
        _remember(self, status.st_dev, status.st_ino)

    def __dealloc__(self):
        if self._address != NULL:
            _pages.leave(self._address, self._length)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        with cython.critical_section(self):
            if self._closed:
                raise ValueError("operation on a closed mapping")
            PyBuffer_FillInfo(
                # guard: read-only -> buffer, self, self._address, self._size, 0, flags
                buffer, self, self._address, self._size, self._mode == 0, flags
            )
            self._exports += 1  # guard: counted exports -> pass

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self):
            self._exports -= 1

    def __len__(self):
        return self.size

    def __enter__(self):
        if self._closed:
            raise ValueError("operation on a closed mapping")
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        if self._closed:
            return "<memfd.Mapping closed>"
        return (
            f'<memfd.Mapping {self._size} bytes at {<size_t>self._address:#x}, '
            f'mode "{MODES[self._mode]}">'
        )

    @property
    def size(self):
        """int: Bytes that can be reached; 0 when closed."""
        return 0 if self._closed else self._size

    @property
    def mode(self):
        """str: "r", "r+" or "c"."""
        return MODES[self._mode]

    @property
    def offset(self):
        """int: Where in the file the region begins, in bytes."""
        return self._offset

    @property
    def address(self):
        """int: Address of the first byte.

        The addresses stay reserved until the object dies, also when it is closed.
        """
        return <size_t>self._address

    @property
    def closed(self):
        """bool: Whether `close` was called."""
        return self._closed

    def close(self):
        """Give the memory back now, also for sealing.  Closing twice does nothing.

        The addresses stay reserved (with empty private pages) until the object dies:
        ``numpy.ndarray(buffer=mapping)`` keeps a reference and no export, and then reads
        zeros instead of nothing at all.

        Raises
        ------
        BufferError
            Arrays or memoryviews of it are alive; nothing has changed.
        OSError
            ``ENOMEM``: nothing has changed.
        """
        cdef int answer
        with cython.critical_section(self):
            if self._closed:
                return
            if self._exports:  # guard: closed under a view
                raise BufferError(
                    f"cannot close a mapping with {self._exports} exported buffers: "
                    "delete or release the arrays and memoryviews made from it"
                )
            # Before the GIL goes, so that no export can begin meanwhile.
            self._closed = True
        with nogil:
            pthread_mutex_lock(&replacing)
            answer = _replace(
                self._address, self._length, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
            )
            self._is_gone = answer == 0
            pthread_mutex_unlock(&replacing)
        if answer == -1:
            self._closed = False
            raise_errno("the mapping is still open")

    def _siblings(self):
        """Return the open mappings of the same file in this process, this one included."""
        return live(self._device, self._inode)

    def _place(self, array, /):
        """Return where in this memory an array begins, or -1 if it reaches outside."""
        return offset_in(array, <size_t>self._address, self._size)

    def _populate(self):
        """Make all pages now, huge where possible; the rest is made when touched."""
        # Huge pages were asked for: for what comes after.
        _pages.populate(
            self._address, self._size, self._offset, HUGE_PAGE_SIZE, False, 4
        )

    def _fault_in(self, offset, /):
        """Map the page at `offset`, which is there (Linux 5.14); never a signal."""
        cdef size_t at = size_argument(offset, "offset")
        if at < self._length and _pages.madvise(
            self._address + at, 1, _linux.MADV_POPULATE_READ
        ) == -1:
            raise_errno(f"reading at {offset}")

    cdef int _make_private(self, int fd) noexcept nogil:
        """Lay private pages over a shared mapping: it goes on, alone, as mode "c"."""
        cdef int answer = 0
        pthread_mutex_lock(&replacing)
        if self._mode == 1 and not self._is_gone:
            answer = _replace(
                self._address, self._length, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_NORESERVE, fd, self._offset,
            )
            if answer == 0:
                self._mode = 2
        pthread_mutex_unlock(&replacing)
        return answer

    cdef int _make_shared(self, int fd) noexcept nogil:
        """Undo `_make_private`; what was written meanwhile goes into the file."""
        cdef int answer = 0
        pthread_mutex_lock(&replacing)
        if self._mode == 2 and not self._is_gone:
            # guard: written while private -> pass
            answer = _put_back(fd, self._address, self._size, self._offset)
            if answer == 0:
                answer = _replace(
                    self._address, self._length, PROT_READ | PROT_WRITE,
                    MAP_SHARED, fd, self._offset,
                )
            if answer == 0:
                self._mode = 1
        pthread_mutex_unlock(&replacing)
        return answer


def while_private(list mappings, int fd, seal, kind=None, /):
    """Call ``seal()`` while all shared mappings of a memfd are private.

    If the memfd is sealed against writing then, they stay so, and those of type `kind` lose
    their `memfd`, also where an exception is raised.  Else they are shared again, and what
    was written to them meanwhile is in the file.
    """
    cdef Mapping mapping
    cdef int answer, seals, error = 0
    cdef bint is_sealed = False
    # But for `seal` this is compiled, so that signal handlers can raise wherever they want:
    # none comes between a step and what has to follow it.
    try:
        for mapping in mappings:
            with nogil:
                answer = mapping._make_private(fd)
            if answer == -1:
                raise_errno("the mapping is still shared")
        seal()
        is_sealed = True
    finally:
        # A signal handler can raise when it is sealed, too.
        seals = memfd_get_seals(fd)
        if seals != -1:
            is_sealed = seals & _linux.F_SEAL_WRITE
        for mapping in mappings:
            if not is_sealed:  # guard: shared again
                with nogil:
                    answer = mapping._make_shared(fd)
                if answer == -1:
                    error = errno.errno
            if mapping._mode == 2 and type(mapping) is kind:
                mapping.memfd = None
        if error:
            errno.errno = error
            raise_errno("the mapping stays private")
