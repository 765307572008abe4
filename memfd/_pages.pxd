"""Pages of a memfd: mapped where huge pages can be, made huge, written.

Inline and, but for `populate`, without the GIL, for the compiled modules of this package;
-1 and errno.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc cimport errno
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, mmap,
    munmap,
)
from posix.time cimport (
    CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, clockid_t, timespec,
)
from posix.types cimport off_t
from posix.unistd cimport pwrite

cimport memfd._linux as _linux

cdef extern from "sys/mman.h" nogil:
    int madvise(void *address, size_t size, int advice)

cdef enum:
    COPY_STEP = 16 << 20  # bytes after which signals are looked at
    SMALL = 1 << 20  # bytes below which no huge page is worth it
    MANY = 64 << 20  # bytes in so many huge pages that one does not count
    _LEAST_REST = 256 << 10  # a rest below that is quicker in ordinary pages


cdef inline size_t smaller(size_t one, size_t other) noexcept nogil:
    return one if one < other else other


# Where memory went last that began at a huge page: one call maps there what would else
# take four, and cold caches make those dear.  Each module has its own.
cdef extern from * nogil:
    """
    static void *memfd_free_place;
    #define memfd_set_free_place(at) \
        __atomic_store_n(&memfd_free_place, (void *)(at), __ATOMIC_RELAXED)
    #define memfd_take_free_place() \
        __atomic_exchange_n(&memfd_free_place, NULL, __ATOMIC_RELAXED)
    """
    void set_free_place "memfd_set_free_place"(char *at)
    void *take_free_place "memfd_take_free_place"()


cdef inline char *place(
    int fd, size_t length, int prot, int flags, off_t offset, size_t huge
) noexcept nogil:
    """Map, starting where whole huge pages of the file can be mapped.  NULL and errno."""
    cdef char *start = <char *>MAP_FAILED
    cdef char *at
    cdef size_t before
    cdef int error
    if huge and length >= huge:
        at = <char *>take_free_place()
        if at != NULL and not (<size_t>at - <size_t>offset) & (huge - 1):
            # Only a hint: what is there meanwhile stays there.
            start = <char *>mmap(at, length, prot, flags, fd, offset)
            if start == at:
                return at
            if start != MAP_FAILED:
                munmap(start, length)
        start = <char *>mmap(
            NULL, length + huge, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
        )
    if start == MAP_FAILED:
        at = <char *>mmap(NULL, length, prot, flags, fd, offset)
        return NULL if at == MAP_FAILED else at
    before = (<size_t>offset - <size_t>start) & (huge - 1)
    at = <char *>mmap(start + before, length, prot, flags | MAP_FIXED, fd, offset)
    if at == MAP_FAILED:
        error = errno.errno
        munmap(start, length + huge)
        errno.errno = error
        return NULL
    if before:
        munmap(start, before)
    munmap(at + length, huge - before)
    return at


cdef inline void leave(char *at, size_t length) noexcept nogil:
    """Unmap what `place` mapped."""
    munmap(at, length)
    if length >= SMALL:
        set_free_place(at)


cdef inline int write_all(
    int fd, const char *data, size_t size, off_t offset
) noexcept nogil:
    """Write all of `data`.  0, or -1 and errno."""
    cdef ssize_t wrote
    while size > 0:
        wrote = pwrite(fd, data, size, offset)
        if wrote > 0:
            data += wrote
            size -= wrote
            offset += wrote
        elif wrote == 0:
            errno.errno = errno.ENOSPC
            return -1
        else:
            return -1
    return 0


# --- huge pages ----------------------------------------------------------------------

cdef inline off_t huge_end(
    off_t start, off_t end, size_t huge, bint always
) noexcept nogil:
    """Return where the huge pages of what lies from `start` to `end` should end.

    The last one may reach past the end of the file, where it costs at most a quarter more
    memory and saves enough small pages.
    """
    cdef size_t rest
    if huge == 0:
        return start
    rest = <size_t>end & (huge - 1)
    end -= rest
    if rest and (
        always
        or rest >= _LEAST_REST
        and (huge - rest) * 4 <= <size_t>(end - start) + rest
    ):
        end += huge
    return end


cdef inline int collapse(char *at, size_t huge) noexcept nogil:
    """Make one huge page of the small ones at `at`, one of which is there already."""
    if madvise(at, huge, _linux.MADV_COLLAPSE) == 0:
        return 0
    if errno.errno == errno.EINVAL:
        # Linux 6.1 says so where no page table had the page, which is huge now.
        if madvise(at, 1, _linux.MADV_POPULATE_READ) == -1:
            return -1
    elif errno.errno != errno.EAGAIN:
        return -1
    return madvise(at, huge, _linux.MADV_COLLAPSE)


cdef inline double seconds(clockid_t clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


# --- whether huge pages are worth it -------------------------------------------------

# Making a huge page takes no bounded time: where memory is fragmented the kernel moves
# other pages first, and waits.  So the time of both kinds is kept, and where huge pages
# turn out to be clearly slower, ordinary pages are made until that has changed.
cdef struct Costs:
    double huge, ordinary  # seconds in all
    double waited  # seconds of `huge` in which the kernel made no use of the processor
    double last, slowest  # seconds of the current page, and of the slowest huge one
    double tolerance  # how many times longer huge pages may take
    size_t huge_size, ordinary_size, total  # bytes
    bint is_huge, is_sample  # what the current page is


cdef inline bint is_slow(const Costs *costs) noexcept nogil:
    """Tell whether the current page took longer than usual."""
    return costs.last > 1e-3


cdef inline bint is_worth_it(const Costs *costs) noexcept nogil:
    """Tell whether huge pages cost little enough more than ordinary ones."""
    cdef double rate = costs.ordinary / costs.ordinary_size
    cdef double lost = costs.huge - costs.tolerance * rate * costs.huge_size
    # Work is not lost: memory that was brought together, or back from a hypervisor, is
    # there for the next huge page, and both kinds in turn undo that.  Waiting is lost.
    cdef double limit = 3 if costs.waited * 4 < lost else 0.125
    return lost < 4e-3 or lost + costs.slowest < limit * rate * costs.total


cdef inline bint next_is_huge(Costs *costs, char *at, size_t huge) noexcept nogil:
    """Say whether the page at `at` should be a huge one."""
    cdef bint was_sample = costs.is_sample, slow = is_slow(costs)
    cdef double begin
    if costs.huge_size == 0:
        costs.is_huge = True
    elif costs.ordinary_size == 0:
        # One ordinary page to compare with, where there are many or it took long.
        costs.is_huge = not slow and costs.total < MANY
        costs.is_sample = not costs.is_huge
    else:
        costs.is_sample = (
            costs.is_huge and slow and costs.ordinary_size * 32 <= costs.huge_size
        )
        costs.is_huge = not costs.is_sample and is_worth_it(costs)
        # The sample is made huge, too, where that costs little or was asked for.
        if costs.is_huge and was_sample and (
            costs.slowest < 1e-3 or costs.tolerance > 2
        ):
            begin = seconds(CLOCK_MONOTONIC)
            make_huge(costs, at - huge, huge)
            note(costs, 0, begin)
    costs.last = 0
    return costs.is_huge


cdef inline int make_huge(Costs *costs, char *at, size_t huge) noexcept nogil:
    """As `collapse`, and add how long it waited."""
    cdef double begin, used
    cdef int answer, error
    if costs.total <= huge:  # there is no next page for which that would count
        return collapse(at, huge)
    begin = seconds(CLOCK_MONOTONIC)
    used = seconds(CLOCK_THREAD_CPUTIME_ID)
    answer = collapse(at, huge)
    error = errno.errno
    used = seconds(CLOCK_THREAD_CPUTIME_ID) - used
    costs.waited += seconds(CLOCK_MONOTONIC) - begin - used
    errno.errno = error
    return answer


cdef inline void note(Costs *costs, size_t size, double begin) noexcept nogil:
    """Add what `size` bytes have taken since `begin`."""
    cdef double took = seconds(CLOCK_MONOTONIC) - begin
    costs.last += took
    if costs.is_huge:
        costs.huge += took
        costs.huge_size += size
        if costs.last > costs.slowest:
            costs.slowest = costs.last
    else:
        costs.ordinary += took
        costs.ordinary_size += size


# --- pages made before they are touched ----------------------------------------------

cdef inline int _populate_small(char *at, size_t size) noexcept nogil:
    """Make ordinary pages of a shared mapping (Linux 5.14).  0, or -1 and errno."""
    return madvise(at, size, _linux.MADV_POPULATE_WRITE)


cdef inline bint _populate_next(char *at, size_t huge, Costs *costs) noexcept nogil:
    """Make a huge page of a shared mapping, or as many ordinary ones.

    False: that cannot be done.
    """
    cdef bint is_huge = next_is_huge(costs, at, huge)
    cdef double begin = seconds(CLOCK_MONOTONIC)
    # One page has to be there before it can be made huge.
    if _populate_small(at, 1 if is_huge else huge) == -1:
        return False
    if is_huge and make_huge(costs, at, huge) == -1:
        return False
    note(costs, huge, begin)
    return True


cdef inline int populate(
    char *start, size_t size, off_t offset, size_t huge, bint always, double tolerance
) except -1:
    """Make all pages of a shared mapping now, huge where possible.

    These may take `tolerance` times as long as ordinary ones.  The rest is made when it is
    touched; the errno of ordinary pages is returned, or 0.  Raises what signal handlers do.
    """
    cdef size_t done = 0, stop, last = 0
    cdef int error = 0
    cdef Costs costs
    memset(&costs, 0, sizeof(costs))
    costs.total = size
    costs.tolerance = tolerance
    if huge and not (<size_t>start | <size_t>offset) & (huge - 1):
        last = huge_end(0, size, huge, always)
    while done < size:
        stop = done + smaller(COPY_STEP, size - done)
        with nogil:
            while done < stop:
                if done >= last:
                    if _populate_small(start + done, stop - done) == -1:
                        error = errno.errno
                    done = stop
                elif _populate_next(start + done, huge, &costs):
                    done += huge
                else:
                    last = done
        PyErr_CheckSignals()
    return error
