# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
# cython: cdivision=True
"""Copying in: bytes into a memfd, in huge pages where that is quicker.

A write allocates page by page.  Since Linux 6.1 MADV_COLLAPSE makes a huge page at once,
without privilege and whatever ``shmem_enabled`` says; the copy into it takes no faults,
and readers take one instead of 512.
"""

import _thread

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy
from posix.mman cimport MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from posix.types cimport off_t

cimport memfd._pages as _pages

from memfd._check cimport raise_errno, size_argument
from memfd._core cimport memfd_set_size

from memfd._core import keep
from memfd._mapping import HUGE_PAGE_SIZE

cdef extern from *:
    int __ATOMIC_RELAXED
    int __atomic_load_n(const int *flag, int order) nogil
    void __atomic_store_n(int *flag, int value, int order) nogil

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from "sys/mman.h" nogil:
    int MADV_DONTFORK

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t pwritev(int fd, const iovec *pieces, int count, off_t offset)

cdef enum:
    _LEAST_PART = 16 << 20  # bytes that keep a thread busy

HUGE = ("auto", "always", "never")


def check(huge, threads=1, /):
    """Return `huge` and `threads`, or raise what is wrong with them."""
    if huge not in HUGE:
        raise ValueError(f'huge must be "auto", "always" or "never", got {huge!r}')
    if size_argument(threads, "threads") == 0:
        raise ValueError("threads must be positive, got 0")
    return huge, threads


class _Stopped(Exception):
    """The filler was closed, or another part of the copy has failed."""


cdef class Filler:
    """Filler(fd, start, end, huge="auto", alone=True)

    Fills a part of a memfd from front to back; gaps stay zero.

    Parameters
    ----------
    fd : int or object with fileno()
        A memfd; whoever fills keeps it open.
    start, end : int
        What will be written, as offsets in bytes.
    huge : {"auto", "always", "never"}, optional
        Huge pages where they are quicker; as many as can be had, also where that takes
        more time and memory; none.
    alone : bool, optional
        Nobody else has the file, which is zero and `end` bytes long already: bytes can be
        copied through a mapping.  Else a mapping only serves to make the pages, since
        whoever shrinks the file would kill us while we store into it.
    """

    cdef int _fd
    cdef char *_at  # where `_first` is mapped
    cdef size_t _length
    cdef size_t _huge
    cdef off_t _first, _ready, _limit  # huge pages: the first, made up to, made until
    cdef off_t _end
    cdef _pages.Costs _costs
    cdef bint _always, _alone
    cdef int _stopped  # atomic
    cdef pthread_mutex_t _inside  # held by who uses the mapping or the descriptor

    def __cinit__(self, fd, start, end, huge="auto", alone=True):
        cdef off_t begin
        cdef bint made
        pthread_mutex_init(&self._inside, NULL)
        begin = size_argument(start, "start")
        self._fd = PyObject_AsFileDescriptor(fd)
        self._end = size_argument(end, "end")
        self._always = huge == "always"
        self._alone = alone
        # The last huge page below 2**63 would end where no offset is.
        if huge != "never" and self._end <= INT64_MAX - <off_t>HUGE_PAGE_SIZE:
            self._huge = HUGE_PAGE_SIZE
        if self._huge:
            self._first = (begin + self._huge - 1) & ~(self._huge - 1)
            self._limit = _pages.huge_end(begin, self._end, self._huge, self._always)
        self._ready = self._first
        if self._limit <= self._first:
            self._limit = self._first
            return
        self._costs.total = self._length = self._limit - self._first
        self._costs.tolerance = 1.1  # readers gain so much that a little may be lost
        if self._alone and self._length >= _pages.MANY:
            # First see what a huge page takes, through a mapping that harms nobody.
            self._alone = False
            self._map()
            with nogil:
                made = self._limit > self._first and self._begin_page()
            if not made:
                self._unmap()
            elif not _pages.is_slow(&self._costs):
                _pages.leave(self._at, self._length)
                self._alone = True
                self._map()
        else:
            self._map()

    cdef int _map(self) except -1:
        """Map what shall be huge pages; where that fails all is written."""
        self._at = _pages.place(
            self._fd, self._length,
            PROT_READ | PROT_WRITE if self._alone else PROT_READ,
            MAP_SHARED if self._alone else MAP_PRIVATE,
            self._first, self._huge,
        )
        # The GIL stays until here: a child that a thread of Python's forks now would keep
        # a writable mapping, and nobody could seal.
        if self._at != NULL and (
            not self._alone
            # guard: kept from forked children -> or True
            or _pages.madvise(self._at, self._length, MADV_DONTFORK) == 0
        ):
            return 0
        self._unmap()
        return 0

    cdef void _unmap(self) noexcept nogil:
        """Let what is written from now on go into ordinary pages."""
        if self._at != NULL:
            _pages.leave(self._at, self._length)
        self._at = NULL
        self._limit = self._first

    def __dealloc__(self):
        self._unmap()
        pthread_mutex_destroy(&self._inside)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Stop, wait until no thread is inside, and unmap."""
        self.stop()
        # The mapping and the descriptor may go after that.  Nothing can end this wait, as
        # a signal handler that raises, a second Ctrl-C, ends the join of a thread.
        with nogil:
            pthread_mutex_lock(&self._inside)
            self._unmap()
            pthread_mutex_unlock(&self._inside)

    def stop(self):
        """Let a `write`, also in another thread, end at its next step and raise."""
        __atomic_store_n(&self._stopped, True, __ATOMIC_RELAXED)

    def write(self, data, offset, begin=0, end=None, /):
        """Copy all bytes of a C-contiguous buffer, or a part of them, to `offset`."""
        cdef off_t start = size_argument(offset, "offset")
        cdef size_t first = size_argument(begin, "begin"), last
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            last = view.len if end is None else size_argument(end, "end")
            if not first <= last <= <size_t>view.len:  # guard: part of a buffer
                raise ValueError(f"no bytes {begin} to {last} in a buffer of {view.len}")
            self._write(<const char *>view.buf + first, last - first, start)
        finally:
            PyBuffer_Release(&view)

    cdef int _write(self, const char *data, size_t size, off_t offset) except -1:
        cdef size_t done = 0, piece
        cdef int answer = 0, stopped
        while done < size:
            piece = _pages.smaller(_pages.COPY_STEP, size - done)
            with nogil:
                pthread_mutex_lock(&self._inside)
                stopped = __atomic_load_n(&self._stopped, __ATOMIC_RELAXED)
                if not stopped:
                    answer = self._copy(data + done, piece, offset + done)
                pthread_mutex_unlock(&self._inside)
            if stopped:  # guard: stopped
                raise _Stopped
            if answer == -1:
                raise_errno(f"writing {size} bytes at {offset}")
            done += piece
            PyErr_CheckSignals()
        return 0

    cdef int _copy(self, const char *data, size_t size, off_t offset) noexcept nogil:
        """Copy into huge pages as far as they go.  0, or -1 and errno."""
        cdef size_t piece
        cdef double begin
        while size > 0:
            if offset < self._first or offset >= self._limit:
                piece = size
                if offset < self._first:
                    piece = _pages.smaller(size, self._first - offset)
                if _pages.write_all(self._fd, data, piece, offset) == -1:
                    return -1
            else:
                if offset >= self._ready:
                    if not self._begin_page():
                        self._limit = self._ready
                    continue
                piece = _pages.smaller(size, self._ready - offset)
                begin = _pages.seconds(_pages.CLOCK_MONOTONIC)
                # guard: no store into what others can shrink -> if self._costs.is_huge:
                if self._alone and self._costs.is_huge:
                    memcpy(self._at + (offset - self._first), data, piece)
                elif _pages.write_all(self._fd, data, piece, offset) == -1:
                    return -1
                _pages.note(&self._costs, piece, begin)
            data += piece
            size -= piece
            offset += piece
        return 0

    cdef bint _begin_page(self) noexcept nogil:
        """Make the next huge page, or let it be written.

        False: no more huge pages can be had.
        """
        cdef char *at = self._at + (self._ready - self._first)
        cdef double begin
        if self._always:
            self._costs.is_huge = True
        else:
            _pages.next_is_huge(&self._costs, at, self._huge)
        if self._costs.is_huge:
            begin = _pages.seconds(_pages.CLOCK_MONOTONIC)
            # A small page has to be there.  Not by a store into the mapping, which would
            # kill us where there is no memory.
            if (
                _pages.write_all(self._fd, b"\0", 1, self._ready) == -1
                or _pages.make_huge(&self._costs, at, self._huge) == -1
            ):
                return False
            _pages.note(&self._costs, 0, begin)
            self._ready += self._huge
        elif self._costs.is_sample:
            self._ready += self._huge
        else:
            self._ready += _pages.smaller(_pages.COPY_STEP, self._limit - self._ready)
        return True


cdef int _write_both(
    int fd, const char *head, size_t head_size, const char *data, size_t size,
    off_t offset,
) noexcept nogil:
    """Write `head` and `data` at once.  0, or -1 and errno."""
    cdef iovec pieces[2]
    cdef ssize_t wrote
    if head_size == 0:
        return _pages.write_all(fd, data, size, offset)
    pieces[0].iov_base = <void *>head
    pieces[0].iov_len = head_size
    pieces[1].iov_base = <void *>data
    pieces[1].iov_len = size
    wrote = pwritev(fd, pieces, 2, offset)
    if wrote == <ssize_t>(head_size + size):
        return 0
    if wrote < <ssize_t>head_size:  # -1 too: what is wrong comes again
        if _pages.write_all(fd, head, head_size, offset) == -1:
            return -1
        wrote = head_size
    return _pages.write_all(
        fd, data + (wrote - head_size), head_size + size - wrote, offset + wrote
    )


def _write_pieces(Filler filler, pieces, off_t start, off_t end):
    """Write what of the pieces lies between two offsets."""
    cdef off_t offset, length, first, last
    for offset, length, piece in pieces:
        first, last = max(start - offset, 0), min(end - offset, length)
        if first < last:
            if hasattr(piece, "write"):
                piece.write(filler, offset, first, last)
            else:
                filler.write(piece, offset + first, first, last)


def _fill_parts(list parts):
    """Fill one part after another until none is left."""
    while True:
        try:
            part = parts.pop()
        except IndexError:
            return
        _write_pieces(*part)


def _help(list parts, list fillers, list errors, done):
    """Fill parts in a thread; an exception ends those of all other threads, too."""
    try:
        _fill_parts(parts)
    except BaseException as error:
        errors.append(error)
        for filler in fillers:
            filler.stop()
    finally:
        done.release()


def _wait(list working):
    """Wait for the locks that threads release as they end; what was waited for is gone."""
    while working:
        working[-1].acquire()
        working.pop()


def _in_threads(fd, pieces, start, end, huge, alone, count):
    """Let threads, and this one, fill parts of whole huge pages.

    Not by ``threading.Thread.start``: what a signal handler raises in the midst of that may
    come out as RuntimeError, as if there were no thread, or leave one waiting for ever.
    """
    page = HUGE_PAGE_SIZE or 1
    step = (end - start) // count
    bounds = [(start + step * i) // page * page for i in range(1, count)]
    bounds = [start, *bounds, end]
    ranges = list(zip(bounds, bounds[1:], strict=False))
    fillers = [Filler(fd, begin, stop, huge, alone) for begin, stop in ranges]
    parts = [
        (filler, pieces, begin, stop)
        for filler, (begin, stop) in zip(fillers, ranges, strict=True)
    ]
    working, errors = [], []
    try:
        for _ in range(count - 1):
            done = _thread.allocate_lock()
            done.acquire()
            try:
                _thread.start_new_thread(_help, (parts, fillers, errors, done))
            except RuntimeError:
                break  # a limit, or the end of the program: those there are do it all
            working.append(done)
        _fill_parts(parts)
        _wait(working)
    except BaseException as error:
        for filler in fillers:
            filler.stop()
        _wait(working)
        if not isinstance(error, _Stopped):
            raise
    finally:
        for filler in fillers:
            filler.close()
    if errors:
        raise errors[0]


def fill(fd, data, offset=0, /, *, head=b"", huge="auto", threads=1, alone=True):
    """Write all bytes of `head`, then of `data`, both C-contiguous, to `offset`.

    The buffers are held for the whole copy.  `huge` and `alone` are those of `Filler`;
    `threads` share the work where each gets enough of it.
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept), answer
    cdef off_t start = size_argument(offset, "offset"), end
    cdef size_t parts = threads
    cdef Py_buffer view, first
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(head, &first, PyBUF_SIMPLE)
        try:
            if first.len + view.len > INT64_MAX - start:  # guard: end beyond an offset
                errno.errno = errno.EFBIG
                raise_errno(f"writing {first.len + view.len} bytes at {start}")
            end = start + first.len + view.len
            parts = _pages.smaller(parts, <size_t>(end - start) // _LEAST_PART)
            if end - start < _pages.SMALL and huge != "always":
                with nogil:
                    answer = _write_both(
                        descriptor, <const char *>first.buf, first.len,
                        <const char *>view.buf, view.len, start,
                    )
                if answer == -1:
                    raise_errno(f"writing {end - start} bytes at {start}")
                return
            if alone and memfd_set_size(descriptor, end) == -1:
                raise_errno(f"setting the size to {end} bytes")
            if parts > 1:
                pieces = [(start, first.len, head), (start + first.len, view.len, data)]
                _in_threads(kept, pieces, start, end, huge, alone, parts)
            else:
                with Filler(kept, start, end, huge, alone) as filler:
                    (<Filler>filler)._write(<const char *>first.buf, first.len, start)
                    (<Filler>filler)._write(
                        <const char *>view.buf, view.len, start + first.len
                    )
        finally:
            PyBuffer_Release(&first)
    finally:
        PyBuffer_Release(&view)


def fill_pieces(fd, pieces, start, end, huge="auto", threads=1, /):
    """Write pieces, each ``(offset, size, piece)``, to the end of a new memfd.

    They are in order and leave no gaps between the two offsets.  A piece is a
    C-contiguous buffer, or has ``write(filler, offset, begin, end)``, which writes some
    of its bytes.
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef off_t begin = size_argument(start, "start"), stop = size_argument(end, "end")
    cdef size_t parts = _pages.smaller(threads, <size_t>(stop - begin) // _LEAST_PART)
    if memfd_set_size(descriptor, stop) == -1:
        raise_errno(f"setting the size to {stop} bytes")
    if parts > 1:
        _in_threads(kept, pieces, begin, stop, huge, True, parts)
    else:
        with Filler(kept, begin, stop, huge) as filler:
            _write_pieces(filler, pieces, begin, stop)
