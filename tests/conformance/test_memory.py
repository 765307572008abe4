"""Rows 77 to 90: closing, exports, read-only views, huge pages, limits."""

import ctypes
import errno
import mmap
import os

import numpy as np
import pytest

import memfd
from memfd import Mapping, Seal

PAGE = mmap.PAGESIZE
HUGE = 2 << 20


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


# --- closing ---------------------------------------------------------------------------

row_77 = pytest.mark.row(77, "close twice; use what is closed", "no-op; ValueError")


@row_77
@pytest.mark.parametrize(
    "use",
    [
        lambda f: f.read(),
        lambda f: f.write(b"x"),
        lambda f: f.truncate(0),
        lambda f: f.seal(),
        lambda f: f.seals,
        lambda f: f.size,
        lambda f: f.reopen(),
        lambda f: f.mmap(),
        lambda f: f.info(),
        Mapping,
        memfd.get_seals,
        memfd.attach,
    ],
)
def test_closed_file(use):
    """A closed Memfd has no number that somebody else could have by now."""
    f = memfd.create(size=8192)
    f.close()
    f.close()
    with pytest.raises(ValueError, match="closed"):
        use(f)
    with pytest.raises(ValueError, match="closed"):
        f.fileno()


@row_77
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_closed_mapping(f, mode):
    """A closed Mapping has no bytes, and the standard library's neither."""
    for m in (Mapping(f, mode), f.mmap(mode)):
        m.close()
        m.close()
        assert m.closed
        with pytest.raises(ValueError, match="closed"):
            memoryview(m)
        with pytest.raises(ValueError, match="closed"):
            m.__enter__()


@row_77
def test_close_takes_one_descriptor(f):
    """The number is free after the first close, and the second takes no other file."""
    number = f.fileno()
    f.close()
    with fails(errno.EBADF):
        os.close(number)
    os.dup2(1, number, inheritable=False)
    f.close()
    os.fstat(number)
    os.close(number)


row_78 = pytest.mark.row(
    78,
    "close a mapping or shrink its file while a view is alive",
    "BufferError, nothing changed; ok when it is released",
)
VIEWS = {
    "memoryview": memoryview,
    "slice": lambda m: memoryview(m)[1:2],
    "frombuffer": lambda m: np.frombuffer(m, np.uint8),
    "view of an array": lambda m: np.frombuffer(m, np.uint8)[8:].view("u4")[::2],
    "memoryview of an array": lambda m: memoryview(np.frombuffer(m, np.uint8)),
}


@row_78
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_close_under_a_view(f, mode, view):
    """Memory stays as long as something looks at it, ours and the standard library's."""
    f.write(b"x" * 8192)
    for m in (Mapping(f, mode), f.mmap(mode)):
        seen = VIEWS[view](m)
        with pytest.raises(BufferError):
            m.close()
        assert not m.closed
        assert bytes(seen)[:1] == b"x"
        with pytest.raises(BufferError, match="cannot shrink from 8192 to 100 bytes"):
            f.truncate(100)
        assert f.size == 8192
        del seen
        m.close()
        assert m.closed
    assert f.truncate(100) == 100


@row_78
def test_shrink_under_an_array():
    """An array's file is refused to shrink, by the package and by its seal."""
    a = memfd.zeros(4096)
    with pytest.raises(PermissionError):
        a.memfd.truncate(0)
    with fails(errno.EPERM):
        os.ftruncate(a.memfd.fileno(), 0)
    assert not a.any()


@row_78
def test_seal_under_a_writable_view(f):
    """Who can still write is in the way of WRITE, and of no other seal."""
    with Mapping(f, "r+") as m:
        view = memoryview(m)
        with pytest.raises(BufferError, match="1 mappings of it in this process"):
            f.seal()
        view[0] = 7
        view.release()
    assert f.seal() & Seal.IMMUTABLE == Seal.IMMUTABLE
    assert f.read(1) == b"\7"


row_79 = pytest.mark.row(79, "file closed, mapping kept", "readable, and writable")


@row_79
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_mapping_outlives_the_descriptor(mode):
    """A mapping needs no descriptor, and has none of its own."""
    f = memfd.create()
    f.write(b"kept")
    before = len(os.listdir("/proc/self/fd"))
    with Mapping(f, mode) as m, memoryview(m) as view:
        f.close()
        assert len(os.listdir("/proc/self/fd")) == before - 1
        assert bytes(view) == b"kept"
        if mode != "r":
            view[0] = ord("K")
            assert bytes(view) == b"Kept"


@row_79
def test_stdlib_mapping_and_array_outlive_the_descriptor():
    """So do the standard library's mapping, and an array."""
    f = memfd.from_bytes(b"kept")
    with f.mmap() as m:
        f.close()
        assert m[:] == b"kept"
    a = memfd.share(np.arange(3))
    a.memfd.close()
    assert a.tolist() == [0, 1, 2]


@pytest.mark.row(
    80, "two mappings, a duplicate, a re-opened descriptor, pread", "the same bytes"
)
def test_all_views_are_one_memory(f):
    """Whoever stores, all others see it at once."""
    fd = os.dup(f.fileno())
    with (
        f.reopen("r+") as again,
        Mapping(f, "r+") as one,
        Mapping(fd, "r+") as two,
        Mapping(again) as three,
        f.mmap("r+") as four,
    ):
        memoryview(one)[0] = 1
        memoryview(two)[1] = 2
        four[2] = 3
        os.pwrite(fd, b"\4", 3)
        again.seek(4)
        again.write(b"\5")
        for seen in (one, two, three, four):
            assert bytes(memoryview(seen)[:6]) == b"\1\2\3\4\5\0"
        for descriptor in (fd, f.fileno(), again.fileno()):
            assert os.pread(descriptor, 6, 0) == b"\1\2\3\4\5\0"
    os.close(fd)


# --- read-only views -------------------------------------------------------------------

row_81 = pytest.mark.row(
    81, "write through a read-only view, or make it writable", "refused, no signal"
)


@row_81
def test_read_only_buffer_cannot_be_written(run):
    """Items, slices, ctypes and files are refused by memory that is for reading."""
    run("""
        import ctypes, io
        import memfd
        f = memfd.from_bytes(b"x" * 8192)
        for m in (memfd.Mapping(f), f.mmap()):
            view = memoryview(m)
            assert view.readonly
            for change in (
                lambda: view.__setitem__(0, 1),
                lambda: view.__setitem__(slice(0, 2), b"ab"),
                lambda: view.cast("I").__setitem__(0, 1),
                lambda: ctypes.c_char.from_buffer(m),
                lambda: (ctypes.c_char * 10).from_buffer(view),
                lambda: io.BytesIO(b"abc").readinto(m),
            ):
                try:
                    change()
                except (TypeError, ValueError, BufferError):
                    continue
                raise SystemExit("no error")
            assert bytes(view) == b"x" * 8192
    """)


@row_81
def test_read_only_array_cannot_be_made_writable(run):
    """NumPy knows that the memory is for reading, whichever way it came there."""
    run("""
        import numpy as np
        import memfd
        f = memfd.from_bytes(bytes(8192))
        m, shared = memfd.Mapping(f), memfd.share(np.zeros(1024))
        arrays = [
            np.frombuffer(m, "u1"),
            np.ndarray(8192, "u1", buffer=m),
            np.asarray(memoryview(m)),
            np.frombuffer(f.mmap(), "u1"),
            shared,
            shared[::2],
            np.asarray(shared),
            memfd.attach(shared.memfd),
        ]
        for a in arrays:
            assert not a.flags.writeable
            for change in (
                lambda: a.__setitem__(0, 1),
                lambda: a.fill(1),
                lambda: np.add(a, 1, out=a),
                lambda: setattr(a.flags, "writeable", True),
                lambda: a.setflags(write=True),
                lambda: a.view().setflags(write=True),
            ):
                try:
                    change()
                except ValueError:
                    continue
                raise SystemExit("no error")
            assert not a.any()
    """)


@row_81
def test_frozen_array_stays_read_only(run):
    """An array that was writable is no more after freeze, nor is the one it gives."""
    run("""
        import memfd
        a = memfd.zeros(1024)
        view = a[:10]
        b = memfd.freeze(a)
        for x in (a, b):
            for change in (
                lambda: x.__setitem__(0, 1),
                lambda: setattr(b.flags, "writeable", True),
            ):
                try:
                    change()
                except ValueError:
                    continue
                raise SystemExit("no error")
        view[:] = 7
        assert not b.any()
    """)


@pytest.mark.row(
    82, "DLPack of a read-only array", "BufferError, or flagged as read-only"
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: memfd.share(np.arange(4.0)),
        lambda: memfd.freeze(memfd.zeros(4)),
        lambda: np.frombuffer(Mapping(memfd.from_bytes(bytes(64)))),
    ],
)
def test_dlpack_of_read_only_memory(make):
    """No consumer gets memory that it takes for writable."""
    a = make()
    with pytest.raises(BufferError):
        a.__dlpack__()
    try:
        b = np.from_dlpack(a)
    except BufferError:
        return
    assert not b.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        b[0] = 1


# --- what is not there -----------------------------------------------------------------

row_83 = pytest.mark.row(
    83,
    "another descriptor shrinks a mapped file: system calls; a touch",
    "EFAULT, ENOMEM, a short read; SIGBUS",
)


@row_83
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_probes_of_memory_that_went(run, mode):
    """Without SHRINK the kernel takes pages away; calls on them are errors, no signals."""
    run(
        """
        import ctypes, errno, mmap, os, sys
        import memfd
        libc = ctypes.CDLL(None, use_errno=True)
        page = mmap.PAGESIZE
        f = memfd.create(size=4 * page)
        m = memfd.Mapping(f, sys.argv[1])
        sum(memoryview(m)[::page])
        with f.reopen("r+") as peer:
            memfd.set_size(peer, page)
        gone = ctypes.c_void_p(m.address + 2 * page)
        read, write = os.pipe()
        assert libc.write(write, gone, ctypes.c_size_t(1)) == -1
        assert ctypes.get_errno() == errno.EFAULT
        assert libc.mlock(gone, ctypes.c_size_t(page)) == -1
        assert ctypes.get_errno() in (errno.ENOMEM, errno.EPERM)
        assert os.pread(f.fileno(), 100, 2 * page) == b""
        assert len(os.pread(f.fileno(), 2 * page, 0)) == page
        assert memoryview(m)[page - 1] == 0
        """,
        mode,
    )


@row_83
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_touching_memory_that_went(run, mode):
    """A load from a page that is gone is SIGBUS, for which SHRINK is there."""
    out = run(
        """
        import mmap, os, resource, signal, sys
        import memfd
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        page = mmap.PAGESIZE
        for seals in (0, memfd.Seal.SHRINK):
            f = memfd.create(size=2 * page)
            view = memoryview(memfd.Mapping(f, sys.argv[1]))
            f.seal(seals)
            try:
                memfd.set_size(f, page)
            except PermissionError:
                print("refused", end=" ")
            pid = os.fork()
            if pid == 0:
                os._exit(view[page])
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(signal.Signals(-status).name if status else status, end=" ")
        """,
        mode,
    )
    assert out == "SIGBUS refused 0 "


row_84 = pytest.mark.row(
    84, "a file shrinks while it is copied in", "short read, ValueError"
)


@row_84
def test_copy_of_what_shrinks(run, strace):
    """A copy that cannot be whole is an error, with nothing left of it."""
    run(
        """
        import os
        import memfd
        f = memfd.create()
        f.write(b"x" * 600_000)
        before = os.listdir("/proc/self/fd")
        try:
            memfd.Memfd.from_fd(f.fileno(), copy=True, max_size=1 << 20)
        except ValueError as error:
            assert "shrank from 600000 bytes while it was copied" in str(error)
        else:
            raise SystemExit("no error")
        assert os.listdir("/proc/self/fd") == before
        assert f.size == 600_000
        """,
        wrapper=strace("preadv,preadv2:retval=0:when=2"),
    )


@row_84
def test_copy_under_a_peer_that_resizes(f, other):
    """Whatever a peer does to the size, a copy is as long as it says, or an error."""
    f.truncate(1 << 20)
    os.pwrite(f.fileno(), b"x" * (1 << 20), 0)
    fd = f.fileno()
    other(
        """
        import os, sys
        fd, data = int(sys.argv[1]), b"x" * (1 << 20)
        print("ready", flush=True)
        while True:
            os.ftruncate(fd, 100)
            os.pwrite(fd, data, 0)
        """,
        fd,
        pass_fds=[fd],
    )
    refused = []
    for _ in range(100):
        number = os.dup(fd)
        try:
            copied = memfd.Memfd.from_fd(number, copy=True, dense=False)
        except ValueError as error:
            refused.append(str(error))
            os.close(number)
            continue
        with copied:
            assert copied.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
            assert len(copied.read()) == copied.size
    assert all("shrank from" in words for words in refused)


@pytest.mark.row(85, "bytes past the end, in the last page", "no view reaches them")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_past_the_end_is_out_of_reach(run, mode):
    """What another mapping leaves in the rest of the last page is in no view of ours."""
    run(
        """
        import ctypes, mmap, os, sys
        import numpy as np
        import memfd
        f = memfd.create(size=100)
        address = memfd.map(f, mmap.PAGESIZE, True)
        ctypes.memset(address, 7, mmap.PAGESIZE)
        for m in (memfd.Mapping(f, sys.argv[1]), f.mmap(sys.argv[1])):
            assert (len(m), memoryview(m).nbytes) == (100, 100)
            assert np.frombuffer(m, "u1").size == 100
            for reach in (
                lambda: memoryview(m)[100],
                lambda: np.frombuffer(m, "u1", 101),
                lambda: np.ndarray(101, "u1", buffer=m),
                lambda: memfd.Mapping(f, size=101),
            ):
                try:
                    reach()
                except (IndexError, ValueError, TypeError):
                    continue
                raise SystemExit("no error")
        assert f.read() == os.pread(f.fileno(), 4096, 0) == bytes([7]) * 100
        memfd.unmap(address, mmap.PAGESIZE)
        """,
        mode,
    )


row_86 = pytest.mark.row(
    86, "holes: pread; a mapping", "zeros; only the mapping takes memory"
)


@row_86
@pytest.mark.parametrize("seals", [0, Seal.IMMUTABLE | Seal.SEAL])
def test_holes(seals):
    """To read a hole takes memory through a mapping alone, also of a sealed file."""
    size = 16 * PAGE
    with memfd.create(size=size) as f:
        f.seal(seals)
        assert os.pread(f.fileno(), size, 0) == f.read() == bytes(size)
        assert (f.info().resident, os.fstat(f.fileno()).st_blocks) == (0, 0)
        with Mapping(f) as m:
            assert f.info().resident == 0
            assert bytes(m) == bytes(size)
        assert f.info().resident >= size
        assert os.fstat(f.fileno()).st_blocks * 512 >= size


# --- huge pages ------------------------------------------------------------------------


@pytest.mark.row(87, "hugetlb: write; a mapping; pread", "EINVAL; ok; ok")
@pytest.mark.usefixtures("huge_page")
def test_hugetlb_is_written_through_mappings():
    """A file of the hugetlb pool takes no write, and what is stored in it is read."""
    with memfd.create(size=HUGE, hugetlb=HUGE) as f:
        with fails(errno.EINVAL):
            f.write(b"x")
        with fails(errno.EINVAL):
            os.pwrite(f.fileno(), b"x", 0)
        with Mapping(f, "r+") as m, memoryview(m) as view:
            view[:5] = view[-5:] = b"bytes"
        assert f.read(5) == os.pread(f.fileno(), 5, HUGE - 5) == b"bytes"
        f.seal()
        with Mapping(f) as m, memoryview(m) as view:
            assert (m.size, bytes(view[-5:])) == (HUGE, b"bytes")


@pytest.mark.row(87, "hugetlb: write; a mapping; pread", "EINVAL; ok; ok")
@pytest.mark.usefixtures("huge_page")
def test_hugetlb_sealed_is_mapped_before_linux_5_14(run):
    """To read what is sealed takes no more of the pool, also without MADV_POPULATE_READ."""
    run(
        """
        import ctypes, errno, struct
        import memfd
        # A filter of system calls that answers EINVAL to that advice, as an old kernel.
        filter = struct.pack(
            "=" + 6 * "HBBI",
            0x20, 0, 0, 0,  0x15, 0, 3, 28,  # madvise
            0x20, 0, 0, 32,  0x15, 0, 1, 22,  # its third argument
            0x06, 0, 0, 0x50000 | errno.EINVAL,  0x06, 0, 0, 0x7FFF0000,
        )
        held = ctypes.create_string_buffer(filter)
        program = struct.pack("HP", 6, ctypes.addressof(held))
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        assert prctl(38, 1, 0, 0, 0) == 0  # no new privileges
        assert prctl(22, 2, ctypes.c_char_p(program)) == 0, ctypes.get_errno()
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") as file:
            free = int(file.read())
        with memfd.create(size=free << 21, hugetlb=2 << 20) as f:
            with memfd.Mapping(f, "r+") as m, memoryview(m) as view:
                for page in range(free):
                    view[page << 21] = 7
            f.seal()
            with memfd.Mapping(f) as m, memoryview(m) as view:
                assert all(view[page << 21] == 7 for page in range(free))
        """
    )


row_88 = pytest.mark.row(
    88,
    "hugetlb: size of 4096; a mapping of 4096; unmapping that",
    "EINVAL; a whole page; the kernel's EINVAL, ours ok",
)


@row_88
@pytest.mark.usefixtures("huge_page")
def test_hugetlb_sizes():
    """A file of the pool has whole pages, and no part of one."""
    for size in (1, PAGE, HUGE - 1, HUGE + PAGE):
        with fails(errno.EINVAL):
            memfd.create(size=size, hugetlb=HUGE)
    with memfd.create(size=HUGE, hugetlb=HUGE) as f:
        for size in (PAGE, HUGE + 1):
            with fails(errno.EINVAL):
                f.truncate(size)
            with fails(errno.EINVAL):
                os.ftruncate(f.fileno(), size)
        assert f.size == HUGE
        assert os.fstat(f.fileno()).st_blksize == HUGE


@row_88
@pytest.mark.usefixtures("huge_page")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_hugetlb_part_of_a_page(mode):
    """A mapping of a part has that part, and gives the page back when it is closed."""
    with memfd.create(size=HUGE, hugetlb=HUGE) as f:
        for _ in range(3):
            with Mapping(f, mode, 0, PAGE) as m:
                assert (m.size, bytes(m)) == (PAGE, bytes(PAGE))
            del m
        with pytest.raises((ValueError, OSError)):
            Mapping(f, mode, PAGE, PAGE)
        address = memfd.map(f, PAGE, mode == "r+")
        with fails(errno.EINVAL):
            memfd.unmap(address, PAGE)
        memfd.unmap(address, HUGE)


@pytest.mark.row(89, "hugetlb: more than the pool has", "ENOMEM; fallocate ENOSPC")
@pytest.mark.usefixtures("huge_page")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_hugetlb_pool_is_short(mode):
    """Pages are had or refused when a file is mapped, and a touch misses none."""
    with memfd.create(size=1 << 50, hugetlb=HUGE) as f:
        size = 1 << 45
        with fails(errno.ENOMEM):
            Mapping(f, mode, 0, size)
        with fails(errno.ENOMEM):
            f.mmap(mode, 0, size)
        libc = ctypes.CDLL(None, use_errno=True)
        part = ctypes.c_long(0), ctypes.c_long(size)
        assert libc.fallocate(f.fileno(), 0, *part) == -1
        assert ctypes.get_errno() == errno.ENOSPC
        f.truncate(0)
        f.truncate(HUGE)
        with Mapping(f, mode) as m:
            assert memoryview(m)[HUGE - 1] == 0


# --- limits ----------------------------------------------------------------------------

row_90 = pytest.mark.row(
    90, "RLIMIT_FSIZE: create, truncate, write, allocate", "EFBIG, no signal"
)
LIMITED = """
    import errno, os, resource
    import memfd
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    def refused(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise SystemExit("no error")
"""


@row_90
def test_limit_of_the_size_of_files(run):
    """What is beyond the limit is an OSError, and the process goes on."""
    run(
        LIMITED
        + """
    before = os.listdir("/proc/self/fd")
    refused(memfd.create, size=8193)
    refused(memfd.from_bytes, bytes(8193))
    assert os.listdir("/proc/self/fd") == before
    f = memfd.create(size=8192)
    refused(f.truncate, 8193)
    refused(memfd.set_size, f, 1 << 40)
    refused(os.ftruncate, f.fileno(), 8193)
    refused(os.posix_fallocate, f.fileno(), 8000, 200)
    f.seek(8192)
    refused(f.write, b"x")
    refused(os.write, f.fileno(), b"x")
    assert (f.size, f.info().resident) == (8192, 0)
    """
    )


@row_90
def test_write_across_the_limit(run):
    """write(2) writes what the limit allows; Memfd.write then raises."""
    run(
        LIMITED
        + """
    f = memfd.create()
    assert os.pwrite(f.fileno(), b"abcd", 8190) == 2
    assert f.size == 8192
    f.seek(8191)
    refused(f.write, b"xyz")
    assert os.pread(f.fileno(), 10, 8189) == b"\\0ax"
    """
    )


@row_90
def test_stores_know_no_limit(run):
    """A file that is larger than the limit is still mapped, and stored to."""
    run(
        """
        import os, resource
        import memfd
        f = memfd.create(size=1 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        m = memfd.Mapping(f, "r+")
        memoryview(m)[100_000] = 7
        assert os.pread(f.fileno(), 1, 100_000) == b"\\7"
        """
    )
