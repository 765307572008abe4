# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
# cython: cdivision=True
"""Blocks: memory that is filled again and again, for readers who cannot write.

Whether a reader still holds or maps a block, the kernel says, also of one that was killed:
it grants a write lease only to the sole user of a file.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset
from posix.fcntl cimport (
    F_UNLCK, F_WRLCK, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_RDWR, fcntl, open,
)
from posix.mman cimport (
    MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE,
    mmap, munmap,
)
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport _SC_PAGESIZE, close, read, sysconf, write

cimport memfd._linux as _linux
cimport memfd._pages as _pages

from memfd._check cimport offset_in, raise_errno, size_argument
from memfd._core cimport memfd_add_seals

from memfd._core import keep
from memfd._mapping import HUGE_PAGE_SIZE

cdef extern from "fcntl.h" nogil:
    int F_SETSIG
    int F_SETLEASE

cdef extern from "signal.h" nogil:
    int SIGURG

cdef extern from "poll.h" nogil:
    short POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "sys/eventfd.h" nogil:
    int EFD_CLOEXEC
    int EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "sys/inotify.h" nogil:
    int IN_CLOEXEC
    int IN_NONBLOCK
    unsigned int IN_CLOSE
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, unsigned int mask)

cdef extern from "sys/mman.h" nogil:
    int MADV_DOFORK
    int MADV_DONTFORK

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <stddef.h>
    #include <stdint.h>
    struct memfd_block {
        struct memfd_block *next, **link;   /* what points to this one */
        char *address;  /* NULL: not in this process, a child of the one that made it */
        size_t length;
        int writer;     /* the description that asks for leases; -1 in a forked child */
        int reader;     /* for reading only; while the process forks, and in the child */
        int use;
        int was_sent;       /* its last frame may be, as far as is known here */
        int is_watched;     /* how many wait for it */
        int is_forking;     /* the child is to find it */
        int is_lost;        /* never used again */
    };
    struct memfd_watch {
        struct memfd_watch *next, **link;
        int fd, wake;
    };
    /* All of this process.  Nobody waits for the lock with the GIL: who has it may be about
     * to fork, and run what others have to do then, with the GIL. */
    static pthread_mutex_t memfd_blocks_lock;
    static struct memfd_block *memfd_blocks;
    static struct memfd_watch *memfd_watches;
    static int memfd_blocks_know_forks;
    #define MEMFD_KNOWS_FORKS() (memfd_blocks_know_forks = 1)

    /* When this is loaded, too: only glibc has an initializer for a recursive mutex. */
    __attribute__((constructor)) static void memfd_blocks_unlocked(void)
    {
        pthread_mutexattr_t recursive;
        pthread_mutexattr_init(&recursive);
        pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(&memfd_blocks_lock, &recursive);
    }
    #define MEMFD_ENLIST(list, one) \\
        do { \\
            (one)->next = (list); \\
            (one)->link = &(list); \\
            if ((list)) \\
                (list)->link = &(one)->next; \\
            (list) = (one); \\
        } while (0)
    #define MEMFD_UNLIST(one) \\
        do { \\
            *(one)->link = (one)->next; \\
            if ((one)->next) \\
                (one)->next->link = (one)->link; \\
        } while (0)
    """
    ctypedef struct Entry "struct memfd_block":
        Entry *next
        Entry **link
        char *address
        size_t length
        int writer
        int reader
        int use
        bint was_sent
        int is_watched
        bint is_forking
        bint is_lost
    ctypedef struct Waiter "struct memfd_watch":
        Waiter *next
        Waiter **link
        int fd
        int wake
    ctypedef struct pthread_mutex_t:
        pass
    pthread_mutex_t lock "memfd_blocks_lock"
    Entry *entries "memfd_blocks"
    Waiter *waiters "memfd_watches"
    const int knows_forks "memfd_blocks_know_forks"
    void knows_forks_now "MEMFD_KNOWS_FORKS"()
    void make_unlocked "memfd_blocks_unlocked"()
    void enlist_entry "MEMFD_ENLIST"(Entry *list, Entry *one)
    void enlist_waiter "MEMFD_ENLIST"(Waiter *list, Waiter *one)
    void unlist_entry "MEMFD_UNLIST"(Entry *one)
    void unlist_waiter "MEMFD_UNLIST"(Waiter *one)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_atfork(
        void (*prepare)() noexcept nogil,
        void (*parent)() noexcept nogil,
        void (*child)() noexcept nogil,
    )

cdef enum:
    _SEALS = _linux.F_SEAL_FUTURE_WRITE | _linux.F_SEAL_SHRINK | _linux.F_SEAL_GROW
    _PATH_SIZE = 32
    _COPY_STEP = 256 << 20  # bytes after which signals are looked at
    _MARK = 48

# Bytes before the last one of a .npy header, which are spaces.  Here, as spaces and tabs,
# they tell the frames of a block apart: a message that is read too late would else show
# another one.
MARK_SIZE = _MARK

cdef enum _Use:
    _FREE  # as far as this process is concerned
    _FILLED  # by a thread, which will show it or let it go
    _SHOWN  # by an array


cdef void _acquire() noexcept:
    """Take the lock; the GIL is not waited for with it."""
    while pthread_mutex_trylock(&lock):
        with nogil:
            pthread_mutex_lock(&lock)
            pthread_mutex_unlock(&lock)


cdef void _release() noexcept:
    pthread_mutex_unlock(&lock)


cdef void _path(int fd, char *path) noexcept nogil:
    snprintf(path, _PATH_SIZE, "/proc/self/fd/%d", fd)


cdef int _reopen(int fd, int access) noexcept nogil:
    """Open the file of a descriptor again, which waits for nobody.  -1 and errno."""
    cdef char path[_PATH_SIZE]
    _path(fd, path)
    return open(path, access | O_CLOEXEC | O_NONBLOCK)


cdef int _is_alone(int fd) noexcept nogil:
    """Tell whether nobody else has the file open or mapped.  0 or 1, or -1 and errno.

    `fd` comes from open(2): memfd_create(2) returns what is not counted.
    """
    # Who opens the file in this very moment has the kernel signal that; SIGIO would kill.
    # To take a lease back makes the kernel forget which signal it was.
    if fcntl(fd, F_SETSIG, SIGURG) == -1:  # guard: harmless signal
        return -1
    if fcntl(fd, F_SETLEASE, F_WRLCK) == -1:
        return 0 if errno.errno == errno.EAGAIN else -1
    return -1 if fcntl(fd, F_SETLEASE, F_UNLCK) == -1 else 1


# --- forks ---------------------------------------------------------------------------

# The writable mapping of a block is no child's.  Where an array shows it, a child finds a
# private mapping of a read-only description at the same address, and counts as a reader.
# This is done in C: a library may fork without Python, and other threads hold no GIL then.

cdef void _before_fork() noexcept nogil:
    cdef Entry *entry
    pthread_mutex_lock(&lock)
    entry = entries
    while entry != NULL:
        entry.is_forking = entry.writer != -1 and entry.use == _SHOWN
        if entry.is_forking:
            entry.was_sent = True
            # So that what others do in the child before us finds no hole to fill.
            _pages.madvise(entry.address, entry.length, MADV_DOFORK)
            entry.reader = _reopen(entry.writer, O_RDONLY)
            if entry.reader == -1:
                entry.is_lost = True  # guard: fork without a descriptor -> pass
        entry = entry.next


cdef void _after_fork_in_parent() noexcept nogil:
    cdef Entry *entry = entries
    while entry != NULL:
        # Maybe not shown any more: others, too, do something before a fork.
        if entry.is_forking:
            _pages.madvise(entry.address, entry.length, MADV_DONTFORK)
            if entry.reader != -1:
                close(entry.reader)
                entry.reader = -1
            entry.is_forking = False
        entry = entry.next
    pthread_mutex_unlock(&lock)


cdef void _after_fork_in_child() noexcept nogil:
    cdef Waiter *waiter = waiters
    cdef Entry *entry = entries
    while waiter != NULL:
        close(waiter.fd)
        close(waiter.wake)
        waiter.fd = waiter.wake = -1
        waiter = waiter.next
    while entry != NULL:
        if entry.writer != -1:
            if entry.is_forking:
                _map_privately(entry)
            else:
                entry.address = NULL
            entry.is_forking = False
            close(entry.writer)  # guard: descriptor of a parent -> pass
            entry.writer = -1
        entry = entry.next
    make_unlocked()


cdef void _map_privately(Entry *entry) noexcept nogil:
    """Replace the writable mapping, from the writer where there is no reader."""
    cdef int fd = entry.writer if entry.reader == -1 else entry.reader
    cdef int flags = MAP_PRIVATE | MAP_FIXED
    if mmap(
        entry.address, entry.length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0
    ) == MAP_FAILED:
        # Strict overcommit counts pages that could be written.
        mmap(entry.address, entry.length, PROT_READ, flags, fd, 0)


# --- Python --------------------------------------------------------------------------

@cython.final
cdef class Block:
    """Block(file, nbytes=0, huge="auto")

    The memory of a memfd, which nobody else can write or resize from now on.

    Parameters
    ----------
    file : int or object with fileno()
        A new memfd of its final size, which is closed then.
    nbytes : int, optional
        What whoever made it counts.
    huge : {"auto", "always", "never"}, optional
        Which pages it gets.

    Raises
    ------
    OSError
        ``ENOENT``: /proc is not mounted.  ``EINVAL``: this kernel, before Linux 5.1,
        lacks ``F_SEAL_FUTURE_WRITE``.  ``EAGAIN``: somebody else has taken a lease.
        ``EMFILE``, ``ENOMEM``.
    """

    cdef Entry _entry
    cdef bint _is_begun  # else there is nothing to give back
    cdef bint _is_always_huge
    cdef size_t _huge
    cdef uint64_t _number  # of its last frame
    cdef size_t _mark_at  # where that is written
    cdef readonly size_t size
    cdef readonly size_t nbytes
    cdef readonly uint64_t device
    cdef readonly uint64_t inode

    def __cinit__(self, file, nbytes=0, huge="auto"):
        cdef int fd, answer
        self._entry.writer = self._entry.reader = -1
        self._is_begun = True
        self.nbytes = nbytes
        self._is_always_huge = huge == "always"
        self._huge = 0 if huge == "never" else HUGE_PAGE_SIZE
        kept = keep(file)
        fd = PyObject_AsFileDescriptor(kept)
        with nogil:
            # All at once: a child that was forked meanwhile would keep what is half done.
            pthread_mutex_lock(&lock)
            answer = self._make(fd)
            pthread_mutex_unlock(&lock)
        if answer == -1:
            raise_errno("making a block of memory")

    cdef int _make(self, int fd) noexcept nogil:
        cdef struct_stat status
        cdef Entry *entry = &self._entry
        cdef size_t page = sysconf(_SC_PAGESIZE)
        entry.writer = _reopen(fd, O_RDWR)
        if entry.writer == -1 or fstat(entry.writer, &status) == -1:
            return -1
        self.size = status.st_size
        self.device = status.st_dev
        self.inode = status.st_ino
        if self.size < _pages.SMALL and not self._is_always_huge:
            self._huge = 0
        if self._huge:
            page = self._huge
        entry.length = (self.size + page - 1) & ~(page - 1)
        entry.address = _pages.place(
            entry.writer, entry.length, PROT_READ | PROT_WRITE, MAP_SHARED, 0, self._huge
        )
        if entry.address == NULL:
            return -1
        # guard: writable mapping of a child
        if _pages.madvise(entry.address, entry.length, MADV_DONTFORK) == -1:
            return -1
        if memfd_add_seals(entry.writer, _SEALS) == -1:  # guard: seals of a block
            return -1
        if not knows_forks:
            errno.errno = pthread_atfork(
                _before_fork, _after_fork_in_parent, _after_fork_in_child
            )
            if errno.errno:
                return -1
            knows_forks_now()
        enlist_entry(entries, entry)
        return 0

    def __dealloc__(self):
        cdef Entry *entry = &self._entry
        if not self._is_begun:
            return
        with nogil:
            pthread_mutex_lock(&lock)
            if entry.link != NULL:
                unlist_entry(entry)
            if entry.address != NULL:
                munmap(entry.address, entry.length)
            if entry.writer != -1:
                close(entry.writer)
            if entry.reader != -1:
                close(entry.reader)
            pthread_mutex_unlock(&lock)

    def populate(self):
        """Make the pages, huge where possible, so that no copy has to wait for them."""
        # What is used often may take long to make.
        errno.errno = _pages.populate(
            self._entry.address, self.size, 0, self._huge, self._is_always_huge, 16
        )
        # Else the first store would be a SIGBUS; of older kernels it is not known before.
        if errno.errno in (errno.EFAULT, errno.ENOMEM):
            errno.errno = errno.ENOMEM
            raise_errno(f"making {self.size} bytes of memory")

    @property
    def is_shown(self):
        """bool: Whether an array of this process is over it."""
        return self._entry.use == _SHOWN

    @property
    def is_lost(self):
        """bool: Whether it can never be used again."""
        return self._entry.is_lost or self._entry.writer == -1

    def is_free(self):
        """Tell whether nobody has the block: no array here, and no other process.

        None: the kernel does not tell.
        """
        if not _begin(&self._entry):
            return False
        answer = _is_alone(self._entry.writer)
        _end(&self._entry, _FREE)
        return None if answer == -1 else answer == 1


cdef bint _begin(Entry *entry) noexcept:
    """Take a block of this process that no array shows, so that nobody else takes it."""
    cdef bint free
    _acquire()
    free = entry.use == _FREE and entry.writer != -1 and not entry.is_lost
    if free:
        entry.use = _FILLED
    _release()
    return free


cdef void _end(Entry *entry, int use) noexcept:
    _acquire()
    entry.use = use
    _release()


cdef void _mark(Block block) noexcept:
    cdef char *mark = block._entry.address + block._mark_at
    cdef int i
    for i in range(_MARK):
        mark[i] = b"\t"[0] if block._number >> i & 1 else b" "[0]


cdef bint _begin_frame(Block block) noexcept:
    """Let a block be another frame, if nobody has it any more."""
    cdef Entry *entry = &block._entry
    cdef int answer = _is_alone(entry.writer)
    if answer == 1 and not entry.was_sent:
        return True
    if answer == 1:
        block._number += 1
        _mark(block)
        # Who has come since, with an old message, may have seen the old mark.
        answer = _is_alone(entry.writer)
        if answer == 1:
            entry.was_sent = False
            return True
        block._number -= 1
        _mark(block)
    if answer == -1:
        entry.is_lost = True
    return False


def claim(list blocks, size_t size, kind, /):
    """Return a `kind` of Frame in the first block of this size that nobody has, or None.

    That block goes to the end of the list: the one that was used the longest time ago is
    asked about first, and is most likely free.
    """
    cdef Block block
    cdef Py_ssize_t i
    for i in range(len(blocks)):
        block = blocks[i]
        if block.size != size or not _begin(&block._entry):
            continue
        if not _begin_frame(block):  # guard: alone
            _end(&block._entry, _FREE)
            continue
        del blocks[i]
        blocks.append(block)
        return _framed(block, kind)
    return None


def claim_new(Block block, kind, /):
    """Return a `kind` of Frame in a block that nobody has seen."""
    cdef Frame frame
    if block._number or not _begin(&block._entry):
        raise ValueError("the block is in use")
    block._number = 1
    frame = _framed(block, kind)
    frame._is_clear = True
    return frame


cdef _framed(Block block, kind):
    try:
        return kind(block)
    except BaseException:
        _end(&block._entry, _FREE)
        raise


@cython.no_gc_clear
cdef class Frame:
    """What a block holds, from when it is filled until the last array over it is gone."""

    cdef Block _block
    cdef bint _is_shown, _is_writable
    cdef bint _is_clear  # nothing was ever written
    cdef object _memfd

    def __cinit__(self, Block block):
        self._block = block

    def __dealloc__(self):
        cdef Entry *entry
        if self._block is None:
            return
        entry = &self._block._entry
        with nogil:
            pthread_mutex_lock(&lock)
            entry.use = _FREE
            if entry.writer == -1:
                # In a child the memory was there for this frame only.
                if entry.address != NULL:
                    munmap(entry.address, entry.length)
                    entry.address = NULL
                if entry.reader != -1:
                    close(entry.reader)
                    entry.reader = -1
            elif entry.is_watched:
                close(_reopen(entry.writer, O_RDONLY))  # who waits is woken by this
            pthread_mutex_unlock(&lock)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self._check()
        PyBuffer_FillInfo(
            buffer, self, self._block._entry.address, self._block.size,
            self._is_shown and not self._is_writable, flags,
        )

    cdef int _check(self) except -1:
        if self._block._entry.address == NULL:
            raise ValueError("this process was forked while the block was filled")
        return 0

    @property
    def size(self):
        """int: Bytes of the memfd."""
        return self._block.size

    @property
    def mode(self):
        """str: "r+", as it can change; "c" in a child, if it can write, privately."""
        return "c" if self._block._entry.writer == -1 and self._is_writable else "r+"

    @property
    def _mark(self):
        """tuple of int and bytes: What tells this frame from others, and where it is."""
        cdef size_t at = self._block._mark_at
        self._check()
        self._block._entry.was_sent = True
        return at, PyBytes_FromStringAndSize(self._block._entry.address + at, _MARK)

    def _path(self):
        """Return a path of the memfd in this process."""
        cdef char path[_PATH_SIZE]
        cdef Entry *entry = &self._block._entry
        _path(entry.reader if entry.writer == -1 else entry.writer, path)
        return path.decode()

    def _begin(self, header, /):
        """Write a .npy header, and in it what tells this frame from others."""
        if len(header) <= _MARK:
            raise ValueError("there is no room for a mark")
        self._write(header, 0)
        self._block._mark_at = len(header) - _MARK - 1
        _mark(self._block)

    def _write(self, data, offset, /):
        """Copy all bytes of a C-contiguous buffer to `offset`, before it is shown."""
        cdef size_t at = size_argument(offset, "offset"), done = 0, piece
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self._is_shown or at + view.len > self._block.size:
                raise ValueError(f"cannot write {view.len} bytes at {offset}")
            # Large pieces: the C library writes what no cache can hold past the caches.
            while done < <size_t>view.len:
                self._check()
                piece = _pages.smaller(_COPY_STEP, view.len - done)
                with nogil:
                    memcpy(
                        self._block._entry.address + at + done,
                        <const char *>view.buf + done, piece,
                    )
                done += piece
                PyErr_CheckSignals()
        finally:
            PyBuffer_Release(&view)

    def _clear(self, offset, /):
        """Write zeros from `offset` on, unless the block is new."""
        cdef size_t done = size_argument(offset, "offset"), piece
        cdef size_t end = self._block.size
        while done < end and not self._is_clear:
            self._check()
            piece = _pages.smaller(_COPY_STEP, end - done)
            with nogil:
                memset(self._block._entry.address + done, 0, piece)
            done += piece
            PyErr_CheckSignals()

    def _show(self, writable, /):
        """Let an array be over it from now on; its buffer may be read-only then."""
        self._check()
        if self._is_shown:
            raise ValueError("it is shown already")
        self._is_shown, self._is_writable = True, writable
        _end(&self._block._entry, _SHOWN)

    def _place(self, array, /):
        """Return where in this memory an array begins, or -1 if it reaches outside."""
        return offset_in(array, <size_t>self._block._entry.address, self._block.size)

    def _kept(self, memfd=None, /):
        """Return the memfd that was given first, or None."""
        with cython.critical_section(self):
            if self._memfd is None:
                self._memfd = memfd
            return self._memfd


@cython.no_gc_clear
cdef class Watch:
    """Waits until one of some blocks may have become free.

    inotify reports that a reader's last descriptor or mapping has gone, also when it was
    killed, and nothing is asked meanwhile.
    """

    cdef object __weakref__
    cdef set _blocks
    cdef Waiter _waiter
    cdef int _looks  # since the last event
    cdef bint _is_blind  # without inotify, of which there are only so many

    def __cinit__(self):
        self._blocks = set()
        with nogil:
            pthread_mutex_lock(&lock)
            self._waiter.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
            self._waiter.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
            enlist_waiter(waiters, &self._waiter)
            pthread_mutex_unlock(&lock)
        self._is_blind = self._waiter.fd == -1 or self._waiter.wake == -1

    def __dealloc__(self):
        cdef Block block
        if self._waiter.link == NULL:
            return
        _acquire()
        unlist_waiter(&self._waiter)
        for block in self._blocks:
            block._entry.is_watched -= 1
        if self._waiter.fd != -1:
            close(self._waiter.fd)
        if self._waiter.wake != -1:
            close(self._waiter.wake)
        _release()

    def add(self, list blocks, /):
        """Watch these blocks, too."""
        cdef Block block
        cdef char path[_PATH_SIZE]
        for block in blocks:
            if block in self._blocks:
                continue
            self._blocks.add(block)
            _acquire()
            block._entry.is_watched += 1
            _path(block._entry.writer, path)
            if inotify_add_watch(self._waiter.fd, path, IN_CLOSE) == -1:
                self._is_blind = True
            _release()

    def wake(self):
        """End the wait of another thread."""
        cdef uint64_t one = 1
        write(self._waiter.wake, &one, sizeof(one))

    def wait(self, double seconds, int other=-1, /):
        """Return when a block may have become free, or after some seconds at most.

        Or when something can be read from another descriptor.
        """
        cdef char events[4096]
        cdef pollfd looks[3]
        cdef int milliseconds
        # What is closed counts a moment longer than the event comes, so a few looks follow.
        if self._looks < 4:
            seconds = min(seconds, 1e-4 * 10 ** self._looks)
            self._looks += 1
        elif self._is_blind:
            seconds = min(seconds, 1e-3)
        looks[0].fd, looks[1].fd, looks[2].fd = self._waiter.fd, self._waiter.wake, other
        looks[0].events = looks[1].events = looks[2].events = POLLIN
        looks[0].revents = looks[1].revents = 0
        milliseconds = <int>(max(min(seconds, 1.0), 0.0) * 1000 + 0.999)
        with nogil:
            poll(looks, 3, milliseconds)
        PyErr_CheckSignals()
        if looks[0].revents or looks[1].revents:
            while read(self._waiter.fd, events, sizeof(events)) > 0:
                pass
            read(self._waiter.wake, events, sizeof(events))
            self._looks = 0
