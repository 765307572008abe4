"""Copying in: the same bytes by every way, and nothing left when something fails."""

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import sysconfig
import threading

import numpy as np
import pytest

import memfd
from memfd import Seal, _fill, _mapping

PAGE = mmap.PAGESIZE
HUGE = _mapping.HUGE_PAGE_SIZE or 2 << 20
MIB = 1 << 20

# The last huge page may reach past the end, where it costs at most a quarter more ...
ONE_PAGE = -(-HUGE * 4 // 5)
TWO_PAGES = -(-HUGE * 8 // 5)
# ... and where at least 256 KiB are left over.
REST = 4 * HUGE + (256 << 10)

SIZES = sorted(
    {
        edge + step
        for edge in (1, PAGE, MIB, ONE_PAGE, HUGE, TWO_PAGES, 2 * HUGE, REST, 16 * MIB)
        for step in (-1, 0, 1)
        if edge + step > 0
    }
)

HELPERS = """
    import errno, os, resource, signal, threading, time
    import numpy as np
    import memfd

    def left():
        # Memfds that are open or mapped.
        fds = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
               if os.path.lexists(f"/proc/self/fd/{n}")]
        with open("/proc/self/maps") as file:
            return [x for x in fds + file.read().splitlines() if "/memfd:" in x]

    def threads():
        return len(os.listdir("/proc/self/task"))

    def until_alone():
        end = time.monotonic() + 20
        while threads() > alone:
            assert time.monotonic() < end, "threads are left"
            time.sleep(0.001)

    alone = threads()
    data = np.random.default_rng(0).integers(0, 256, 9 << 20, np.uint8)
"""


def same(one, other):
    """Compare without the difference in the report, which takes minutes to make."""
    return bytes(one) == bytes(other)


def in_huge_pages(size):
    """Return how many bytes of huge pages a file of `size` bytes should get."""
    whole, rest = size // HUGE * HUGE, size % HUGE
    if rest >= 256 << 10 and (HUGE - rest) * 4 <= size:
        whole += HUGE
    return whole


@pytest.fixture(scope="module")
def data():
    """Bytes of which no two pieces are alike."""
    return np.random.default_rng(0).integers(0, 256, 40 * MIB, np.uint8).tobytes()


@pytest.fixture(scope="module", autouse=True)
def reason():
    """Why this kernel makes no huge pages, or None; also warms the memory up."""
    if not _mapping.HUGE_PAGE_SIZE:
        return "the size of huge pages is not in /sys, or too large"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with memfd.create(size=32 * HUGE) as f, memfd.Mapping(f, "r+") as mapping:
        for at in range(0, mapping.size, HUGE):
            ctypes.memset(mapping.address + at, 1, 1)
            if libc.madvise(mapping.address + at, HUGE, 25):
                return f"MADV_COLLAPSE: {os.strerror(ctypes.get_errno())}"
    return None


@pytest.fixture
def huge_pages(reason):
    """Skip where the kernel makes no huge pages."""
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("huge", ["auto", "always", "never"])
@pytest.mark.parametrize("size", SIZES)
def test_contents_at_each_boundary(data, size, huge):
    """Every way to copy in gives the same bytes, and none after them."""
    piece = data[:size]

    f = memfd.from_bytes(piece, huge=huge)
    assert f.size == size
    assert same(f.read(), piece)
    with memfd.Mapping(f) as mapping:
        assert len(mapping) == size
        assert same(mapping, piece)
    assert f.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    f.close()

    # The file, header included, has this size.
    header = len(memfd.share(np.zeros(size, np.uint8)).memfd.read()) - size
    if size > header:
        a = memfd.share(np.frombuffer(piece[header:], np.uint8), huge=huge)
        assert a.memfd.size == size
        assert same(a.tobytes(), piece[header:])
        assert same(a.memfd.read()[header:], piece[header:])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 5000, HUGE - 1])
def test_written_at_each_boundary(data, size, start):
    """A large write gives the same bytes as a small one, and zeros after its end."""
    with memfd.create() as f:
        f.seek(start)
        assert f.write(data[:size]) == size
        assert f.tell() == f.size == start + size
        f.truncate(start + size + HUGE)
        f.seek(0)
        assert same(f.read(), bytes(start) + data[:size] + bytes(HUGE))


@pytest.mark.parametrize("size", SIZES)
def test_how_much_memory(data, size, huge_pages):
    """Huge pages go as far as the rule says; "never" and "always" mean what they say."""
    whole_pages = -(-size // PAGE) * PAGE

    for _ in range(20):
        with memfd.from_bytes(data[:size]) as f:
            info = f.info()
        assert info.huge <= in_huge_pages(size)
        assert whole_pages <= info.resident <= max(in_huge_pages(size), whole_pages)
        if info.huge == in_huge_pages(size):
            assert info.resident == max(info.huge, whole_pages)
            break
    else:
        pytest.skip("making huge pages is so slow here that they are given up")
    with memfd.from_bytes(data[:size], huge="never") as f:
        assert f.info() == (size, whole_pages, 0)
    rounded = -(-size // HUGE) * HUGE
    for _ in range(5):  # the kernel may be at a page at this moment
        with memfd.from_bytes(data[:size], huge="always") as f:
            info = f.info()
        if info.huge == rounded:
            break
    assert info == (size, rounded, rounded)


def test_another_process_maps_huge_pages(data, huge_pages, run):
    """A reader gets the sender's huge pages, in one fault each."""
    with memfd.from_bytes(data[: 4 * HUGE], huge="always") as f:
        out = run(
            """
            import sys, memfd
            with open(sys.argv[1], "rb") as file:
                mapping = memfd.Mapping(file)
                view = memoryview(mapping)
                sum(view[::4096])
            from memfd import _info
            print(_info._pmd_mapped(mapping.address))
            """,
            f"/proc/{os.getpid()}/fd/{f.fileno()}",
        )
        assert int(out) == f.info().huge > 0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(data, threads):
    """Threads share the work, and the bytes are the same."""
    a = np.frombuffer(data, np.uint8)

    for huge in ("auto", "always", "never"):
        f = memfd.from_bytes(data, huge=huge, threads=threads)
        assert same(f.read(), data)
        assert (memfd.share(a, huge=huge, threads=threads) == a).all()


@pytest.mark.parametrize("huge", ["", "Always", "yes", None, True, 1, b"auto"])
def test_nonsense_for_huge(huge):
    """`huge` is one of three words; the message repeats what was given."""
    for call in (memfd.share, memfd.from_bytes):
        with pytest.raises(ValueError, match="huge must be") as caught:
            call(b"" if call is memfd.from_bytes else [1], huge=huge)
        assert repr(huge) in str(caught.value)


@pytest.mark.parametrize(
    ("threads", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)],
)
def test_nonsense_for_threads(threads, error):
    """`threads` is a positive int."""
    for call, source in ((memfd.share, [1]), (memfd.from_bytes, b"")):
        with pytest.raises(error, match="threads must"):
            call(source, threads=threads)


def test_filler_takes_a_part_of_a_buffer(f):
    """A part that the buffer does not have is refused."""
    with _fill.Filler(f, 0, 10) as filler:
        filler.write(b"abcdef", 3, 2, 4)
        with pytest.raises(ValueError, match="no bytes 2 to 7 in a buffer of 6"):
            filler.write(b"abcdef", 3, 2, 7)
    assert f.read(6) == b"\0\0\0cd\0"


@pytest.mark.parametrize("huge", ["auto", "always", "never"])
def test_filler_leaves_gaps(data, huge):
    """What is not written stays zero, also where it begins or spans a huge page."""
    places = [
        (5, 1000),
        (HUGE - 7, 20),
        (3 * HUGE + 9, HUGE),
        (7 * HUGE, 1),
        (9 * HUGE, 3),
    ]
    end = 9 * HUGE + 3
    expected = bytearray(end)

    with memfd.create(size=end) as f:
        with _fill.Filler(f, 0, end, huge) as filler:
            for start, size in places:
                filler.write(data, start, start, start + size)
                expected[start : start + size] = data[start : start + size]
        assert same(f.read(), expected)


@pytest.mark.parametrize("huge", ["always", "never"])
def test_close_waits_for_who_is_inside(run, huge):
    """Once a filler is closed no thread stores into its mapping or uses its descriptor."""
    run(
        HELPERS
        + f"""
    from memfd import _fill
    data, outcomes = bytes(256 << 20), []

    def write(filler):
        try:
            filler.write(data, 0)
        except _fill._Stopped:
            outcomes.append("stopped")

    for _ in range(5):
        fd = os.memfd_create("f")
        os.ftruncate(fd, len(data))
        filler = _fill.Filler(fd, 0, len(data), "{huge}")
        thread = threading.Thread(target=write, args=[filler])
        thread.start()
        while not os.fstat(fd).st_blocks:
            pass
        filler.close()
        os.close(fd)
        other = os.memfd_create("other")
        assert other == fd
        thread.join()
        assert not os.fstat(other).st_size
        os.close(other)
    assert outcomes == ["stopped"] * 5
        """
    )


def test_a_closed_filler_writes_nothing(f):
    """A part that comes too late raises, so that who makes it ends, too."""
    filler = _fill.Filler(f, 0, 10)
    filler.close()
    filler.close()

    with pytest.raises(_fill._Stopped):
        filler.write(b"abcdef", 0)
    assert f.read(6) == bytes(6)


# --- large writes -------------------------------------------------------------------


def test_a_large_write_keeps_what_is_there(data):
    """Writing over old bytes changes these bytes and no others."""
    with memfd.create() as f:
        f.write(data[: 9 * MIB])
        f.seek(3 * MIB + 1)
        f.write(data[: 4 * MIB])
        f.seek(0)
        expected = data[: 3 * MIB + 1] + data[: 4 * MIB] + data[7 * MIB + 1 : 9 * MIB]
        assert same(f.read(), expected)


def test_a_large_write_is_refused_as_a_small_one(data):
    """Seals, access mode, append mode and a closed file count for large writes too."""
    piece = data[: 3 * HUGE]
    with memfd.create() as f:
        f.seal(Seal.GROW)
        with pytest.raises(PermissionError):
            f.write(piece)
    with memfd.create(size=len(piece)) as f:
        f.seal(Seal.WRITE)
        with pytest.raises(PermissionError):
            f.write(piece)
    with memfd.from_bytes(b"") as f, f.reopen("r") as reader:
        with pytest.raises(OSError, match="not open for writing"):
            reader.write(piece)
    with pytest.raises(ValueError, match="closed"):
        f.write(piece)
    with memfd.create() as f:
        f.write(b"first")
        f.seek(0)
        fcntl.fcntl(f, fcntl.F_SETFL, fcntl.fcntl(f, fcntl.F_GETFL) | os.O_APPEND)
        f.write(piece)
        f.seek(0)
        assert same(f.read(), b"first" + piece)


@pytest.mark.parametrize("huge", ["auto", "always", "never"])
def test_written_up_to_the_last_offset(data, huge):
    """The last byte that a file can have can be written, and none after it: EFBIG."""
    for size in (3 * HUGE, HUGE, HUGE - 1):
        piece, start = data[:size], 2**63 - 1 - size
        with memfd.create() as f:
            _fill.fill(f, piece, start, huge=huge, alone=False)
            assert f.size == start + size
            assert same(os.pread(f.fileno(), size, start), piece)
            assert f.info().resident < size + 2 * HUGE

            for further in (start + 1, 2**63 - 1):
                with pytest.raises(OSError, match="writing") as caught:
                    _fill.fill(f, piece, further, huge=huge, alone=False)
                assert caught.value.errno == errno.EFBIG
            f.seek(further)
            with pytest.raises(OSError, match="Invalid argument"):
                f.write(data[: 3 * HUGE])
            assert f.tell() == further
            assert f.size == start + size


def test_shrunk_while_it_is_written(run):
    """Whoever shrinks a file while we write to it cannot kill us."""
    run(
        HELPERS
        + """
    with memfd.create() as f, f.reopen("r+") as other:
        stop = threading.Event()
        def shrink():
            while not stop.is_set():
                os.ftruncate(other.fileno(), 0)
        thread = threading.Thread(target=shrink)
        thread.start()
        for _ in range(30):
            f.seek(0)
            f.write(data)
        stop.set()
        thread.join()
        """
    )


# --- faults --------------------------------------------------------------------------

# NumPy would call madvise, too, and the C library for the threads of its algebra.
QUIET = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0", "OPENBLAS_NUM_THREADS": "1"}

COPY = (
    HELPERS
    + """
    try:
        a = memfd.share(data)
        assert (a == data).all()
        assert a.memfd.seals & 15 == 15
        print("shared", a.memfd.info().huge or 0)
        del a
    except OSError as error:
        print(errno.errorcode[error.errno])
        del error
    assert not left(), left()
    """
)


@pytest.mark.parametrize("error", ["EINVAL", "ENOMEM", "EAGAIN"])
@pytest.mark.parametrize("when", ["1", "2", "3", "2..3", "1+", "2+", "3+", "4+"])
def test_madvise_fails(run, strace, reason, error, when):
    """Where the kernel refuses a huge page the rest is written, and all bytes are right."""
    out = run(COPY, wrapper=strace(f"madvise:error={error}:when={when}"), env=QUIET)

    kind, huge = out.split()
    assert kind == "shared"
    # From Python 3.15 on, and without a GIL, the interpreter has calls of its own, for what
    # it allocates.
    if (
        reason
        or sys.version_info >= (3, 15)
        or sysconfig.get_config_var("Py_GIL_DISABLED")
    ):
        return
    # The first call is MADV_DONTFORK, without which nothing is mapped for writing.
    if when in ("1", "1+") or (when == "2" and error == "ENOMEM"):
        assert int(huge) == 0
    elif when[-1] == "+":
        assert int(huge) <= (int(when[0]) - 2) * HUGE


EVERYTHING = (
    HELPERS
    + """
    for source in (data, data[::-1]):
        a = memfd.share(source)
        assert (a == source).all()
        del a
    f = memfd.create()
    f.write(data)
    f.seek(0)
    assert f.read() == data.tobytes()
    f.close()
    a = memfd.full(data.shape, 7, data.dtype)
    assert (a == 7).all()
    del a, f
    assert not left(), left()
    """
)


@pytest.mark.parametrize("fault", ["error=EINVAL", "error=ENOMEM", "delay_exit=10000"])
def test_madvise_fails_at_every_position(run, strace, tmp_path, fault):
    """Each call of each way of copying in may fail or be slow: all bytes are right."""
    calls = tmp_path / "calls"
    wrapper = strace(f"madvise:{fault}:when=65535")  # none
    wrapper[wrapper.index("/dev/null")] = str(calls)
    run(EVERYTHING, wrapper=wrapper, env=QUIET)
    count = len(calls.read_text().splitlines())
    assert count > 4
    for when in range(1, count + 1):
        run(EVERYTHING, wrapper=strace(f"madvise:{fault}:when={when}"), env=QUIET)


@pytest.mark.parametrize("error", ["EAGAIN", "EINVAL"])
def test_again_is_tried_again(run, strace, huge_pages, error):
    """Errors that Linux has though a huge page can be made, or was, do not end it."""
    out = run(COPY, wrapper=strace(f"madvise:error={error}:when=2"), env=QUIET)
    assert int(out.split()[1]) >= HUGE


def test_slow_huge_pages_are_given_up(run, strace, patience, huge_pages):
    """Where making huge pages takes long, most is written in ordinary ones."""
    program = (
        HELPERS
        + """
    big = np.tile(data, 8)
    a = memfd.share(big)
    assert (a == big).all()
    print(a.memfd.info().huge)
    a = memfd.share(big, huge="always")
    print(a.memfd.info().huge)
    """
    )
    delay = 30_000 * patience  # microseconds: clearly longer than ordinary pages take
    out = run(program, wrapper=strace(f"madvise:delay_exit={delay}"))

    auto, always = map(int, out.split())
    assert auto <= 9 * MIB
    assert always >= 36 * MIB


@pytest.mark.parametrize(
    ("call", "errors"),
    [
        ("memfd_create", "EMFILE"),
        ("ftruncate", "EFBIG"),
        ("pwrite64", "ENOSPC"),
        ("pwritev", "ENOSPC"),
        ("mmap", "ENOMEM"),
        ("fcntl", "EPERM"),
    ],
)
def test_each_call_fails(run, strace, call, errors):
    """A refused system call is an OSError or is done without; nothing is left."""
    program = (
        HELPERS
        + """
    for array in data, data[:100], data[::-1]:
        try:
            a = memfd.share(array)
            assert (a == array).all()
            del a
        except OSError as error:
            assert error.errno, error
            del error
        assert not left(), left()
    """
    )
    for when in (1, 2, 3, 6):
        wrapper = strace(f"{call}:error={errors}:when={when}")
        if call in ("mmap", "fcntl"):
            wrapper += ["-P", "/memfd:uint8[9437184]"]
        run(program, wrapper=wrapper)


@pytest.mark.parametrize(
    ("when", "expected"), [("1", "shared 0\n"), ("1..3", "EBUSY\n"), ("1+", "EBUSY\n")]
)
def test_sealing_is_refused(run, strace, when, expected):
    """EBUSY, when a child in C holds what was copied through: once more, by writing."""
    # Between the two calls that seal, the first file is closed, with an fcntl of its own.
    only = ["-P", "/memfd:uint8[9437184]"]

    out = run(COPY, wrapper=strace(f"fcntl:error=EBUSY:when={when}") + only)
    assert out == expected


def test_a_thread_that_forks_all_the_time(run):
    """Children forked meanwhile hold nothing that keeps an array from being sealed."""
    run(
        HELPERS
        + """
    stop = threading.Event()
    def fork():
        while not stop.is_set():
            pid = os.fork()
            if pid == 0:
                time.sleep(0.01)
                os._exit(0)
            os.waitpid(pid, 0)
    threads = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            a = memfd.share(data)
            assert a.memfd.seals & 15 == 15
        assert (a == data).all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        """
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["data", "data[::-1]"])
def test_an_interrupt_ends_a_long_copy(run, strace, huge_pages, threads, what):
    """Ctrl-C while a copy begins ends it early, and nothing is left of it."""
    program = (
        HELPERS
        + f"""
    data = np.tile(data, 8)
    written = []
    def interrupt(*_):
        for n in os.listdir("/proc/self/fd"):
            path = f"/proc/self/fd/{{n}}"
            if os.path.lexists(path) and "/memfd:" in os.readlink(path):
                written.append(os.stat(path).st_blocks * 512)
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, interrupt)
    try:
        memfd.share({what}, huge="always", threads={threads})
    except KeyboardInterrupt:
        print(*written, data.nbytes)
    assert not left(), left()
    """
    )
    out = run(program, wrapper=strace("ftruncate:signal=SIGINT"))
    written, size = map(int, out.split())
    assert written <= size * 3 // 4


def test_interrupts_while_a_copy_ends(run):
    """A second Ctrl-C while the first one ends the threads hurts no memory, no file."""
    run(
        HELPERS
        + """
    def handler(*_):
        global left_over
        left_over -= 1
        if left_over >= 0:
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handler)
    data = np.full(256 << 20, 7, np.uint8)
    memfd.share(data, threads=2)
    for n in range(40):
        left_over = 2
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.004 + n % 8 * 0.0005, 0.001)
                memfd.share(data, threads=2, huge=("auto", "never")[n % 2])
            except KeyboardInterrupt:
                signal.pause()
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        other = memfd.create("other")
        until_alone()
        assert not other.size
        other.close()
        """
    )


@pytest.mark.parametrize("what", ["data", "dict(all=data)"])
def test_an_interrupt_at_any_line(run, what):
    """Ctrl-C at each line of Python that a copy in threads runs: it comes out as it is."""
    run(
        HELPERS
        + f"""
    import itertools, sys
    data = np.tile(data, 4)
    memfd.share({what}, threads=2)

    def interrupted(nth):
        # Return what a copy gives, or raises when its nth line of Python is about to run.
        def trace(frame, event, argument):
            nonlocal nth
            nth -= event == "line"
            if nth == 0:
                raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            return memfd.share({what}, threads=2), nth
        except BaseException as error:
            return error, nth
        finally:
            sys.settrace(None)

    for count in itertools.count(1):
        signal.alarm(30)
        outcome, left = interrupted(count)
        until_alone()
        if left > 0:
            break
        assert type(outcome) is KeyboardInterrupt, (count, outcome)
    assert count > 20
    outcome = outcome["all"] if type(outcome) is memfd.ArrayDict else outcome
    assert (outcome == data).all()
        """
    )


@pytest.mark.parametrize("fails", ["caller", "thread"])
def test_an_exception_ends_all_parts(run, fails):
    """Where one part fails the others end, in the midst of a piece."""
    out = run(
        HELPERS
        + f"""
    from memfd import _fill
    signal.alarm(30)
    begun = threading.Event()

    class Piece:
        def write(self, filler, offset, begin, end):
            caller = threading.get_ident() == threading.main_thread().ident
            if caller == ("{fails}" == "caller"):
                begun.wait()
                raise FloatingPointError
            begun.set()
            while True:
                filler.write(b"x", begin)

    fd = os.memfd_create("f")
    try:
        _fill.fill_pieces(fd, [(0, 32 << 20, Piece())], 0, 32 << 20, "auto", 2)
    except FloatingPointError:
        until_alone()
        print("raised")
        """
    )
    assert out == "raised\n"


def test_no_thread_can_be_started(run):
    """Where a limit forbids further threads the caller copies all."""
    run(
        HELPERS
        + """
    data = np.tile(data, 5)
    threading.stack_size(1 << 30)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * 4096
    limit = used + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        pass
    else:
        raise AssertionError("the limit allows a thread")
    for source in data, {"x": data[::-1]}:
        a = memfd.share(source, threads=2)
        if isinstance(source, dict):
            source, a = source["x"], a["x"]
        assert (a == source).all()
        """
    )


def test_a_copy_after_the_main_thread(run):
    """A thread that outlives the main one can still ask for threads."""
    out = run(
        HELPERS
        + """
    data = np.tile(data, 5)
    def share():
        threading.main_thread().join()
        print((memfd.share(data, threads=2) == data).all())
    threading.Thread(target=share).start()
        """
    )
    assert out == "True\n"


def test_the_source_is_held(run, strace, huge_pages):
    """A buffer that is being copied cannot be resized."""
    program = (
        HELPERS
        + """
    source = bytearray(data.tobytes())
    expected = bytes(source)
    def resize():
        while not any(os.stat(f"/proc/self/fd/{n}").st_size == len(expected)
                      for n in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{n}")):
            time.sleep(0.001)
        try:
            source.clear()
        except BufferError:
            print("held")
    thread = threading.Thread(target=resize)
    thread.start()
    f = memfd.from_bytes(source, huge="always")
    thread.join()
    assert f.read() == expected
    """
    )
    assert run(program, wrapper=strace("madvise:delay_exit=20000")) == "held\n"


def test_a_limit_of_file_sizes(run):
    """Beyond RLIMIT_FSIZE: EFBIG, by every way, and nothing is left."""
    run(
        HELPERS
        + """
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
    big = np.tile(data, 5)
    def write(data):
        with memfd.create() as f:
            f.write(data)
    for call in (
        lambda: memfd.share(data),
        lambda: memfd.share(data, huge="never"),
        lambda: memfd.share(data[::-1]),
        lambda: memfd.share(big, threads=2),
        lambda: memfd.from_bytes(data),
        lambda: memfd.empty(9 << 20, "u1", populate=True),
        lambda: write(data),
    ):
        try:
            call()
        except OSError as error:
            assert error.errno == errno.EFBIG, error
            del error
        else:
            raise AssertionError("no error")
        assert not left(), left()
    memfd.share(data[: 3 << 20])
        """
    )


def test_no_address_space(run):
    """Where there is no room to map for the copy, it is written."""
    run(
        HELPERS
        + """
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * 4096
    limit = used + (8 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    f = memfd.from_bytes(data)
    # Room for one mapping, and not for a second one to copy through.
    assert f.info().huge in (0, None)
    f.seek(0)
    assert all(f.read(1 << 20) == data[n << 20 : n + 1 << 20].tobytes() for n in range(9))
        """
    )


def test_threads_at_once(data):
    """Several threads that copy do not disturb one another."""
    results = {}

    def share(start):
        piece = np.frombuffer(data[start : start + 5 * MIB], np.uint8)
        results[start] = bool((memfd.share(piece) == piece).all())

    threads = [threading.Thread(target=share, args=(n * MIB,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n * MIB: True for n in range(8)}
