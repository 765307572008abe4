"""Mapping: a region of a memfd in this process."""

import ctypes
import errno
import gc
import mmap
import os
import sys
import threading
import weakref

import pytest

import memfd
from memfd import Mapping, Seal, _mapping

PAGE = mmap.PAGESIZE
HUGE = _mapping.HUGE_PAGE_SIZE


def test_reads_what_the_file_holds(f):
    """A mapping shows the file's bytes, exactly as many as the file has."""
    f.truncate(5000)
    f.write(b"hello")

    with Mapping(f) as m:
        assert bytes(m) == b"hello" + bytes(4995)
        assert (len(m), m.size, m.mode, m.offset, m.closed) == (
            5000,
            5000,
            "r",
            0,
            False,
        )


@pytest.mark.parametrize("mode", ["r", "c"])
def test_private_modes_block_no_seal(f, mode):
    """With mappings of mode r and c alive a memfd can be sealed, and they live on."""
    with Mapping(f, mode) as m:
        f.seal()

        assert bytes(m) == bytes(8192)


def test_shared_writes_are_seen_by_all(f):
    """What is stored through r+ is in the file and in every other mapping."""
    with Mapping(f, "r+") as one, Mapping(f, "r") as other:
        memoryview(one)[100] = 7

        assert os.pread(f.fileno(), 1, 100) == b"\x07"
        assert memoryview(other)[100] == 7


def test_copy_on_write_stays_here(f):
    """What is stored through c is seen nowhere else, also on a sealed memfd."""
    f.seal()

    with Mapping(f, "c") as m:
        memoryview(m)[0] = 9
        assert memoryview(m)[0] == 9

    assert os.pread(f.fileno(), 1, 0) == b"\0"


def test_read_only_is_exported_read_only(f):
    """No writable view of mode r can be had."""
    with Mapping(f) as m:
        view = memoryview(m)
        assert view.readonly
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 1
        with pytest.raises((TypeError, BufferError)):
            f.readinto(m)
        view.release()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param(("w",), ValueError, "got 'w'", id="mode"),
        pytest.param(("r", 1), ValueError, "offset .*multiple.*got 1", id="unaligned"),
        pytest.param(("r", -PAGE), ValueError, f"got -{PAGE}", id="negative offset"),
        pytest.param(("r", 8192), ValueError, "past the end", id="offset at the end"),
        pytest.param(("r", 1 << 40), ValueError, "past the end", id="offset past end"),
        pytest.param(("r", 1 << 63), OverflowError, "offset", id="offset overflow"),
        pytest.param(("r", 0, 8193), ValueError, "size 8193 reach past", id="longer"),
        pytest.param(("r", PAGE, 8192), ValueError, "reach past", id="both"),
        pytest.param(("r", 0, 0), ValueError, "size must be positive", id="empty"),
        pytest.param(
            ("r", 0, -1), ValueError, "not be negative, got -1", id="negative"
        ),
        pytest.param(("r", 0, 1.5), TypeError, "size must be an int", id="float"),
    ],
)
def test_bad_part_is_refused(f, arguments, error, words):
    """What cannot be mapped is an error that names the argument, ours and the stdlib's."""
    with pytest.raises(error, match=words):
        Mapping(f, *arguments)
    with pytest.raises(error, match=words):
        f.mmap(*arguments)


def test_empty_file_cannot_be_mapped():
    """An empty memfd is a ValueError, never a surprising EINVAL."""
    with memfd.create() as f, pytest.raises(ValueError, match="empty file"):
        Mapping(f)


def test_part_of_a_file(f):
    """offset and size choose whole or partial pages."""
    os.pwrite(f.fileno(), b"second", PAGE)

    with Mapping(f, "r", PAGE, 6) as m:
        assert bytes(m) == b"second"


def test_sealed_against_writing(f):
    """r+ of a write-sealed memfd, or of a read-only descriptor, says what to do."""
    with f.reopen("r") as reader:
        with pytest.raises(PermissionError, match="not open for reading and writing"):
            Mapping(reader, "r+")
        f.seal()
        with pytest.raises(PermissionError, match='use mode "r" or "c"'):
            Mapping(f, "r+")
        with Mapping(reader) as m:
            assert len(m) == 8192


def test_holds_no_descriptor(f):
    """The file can be closed; the mapping lives on and holds no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    m = Mapping(f)
    f.close()

    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert bytes(m) == bytes(8192)


def test_close_is_refused_while_exported(f):
    """close raises BufferError under a memoryview, changes nothing, and works after."""
    m = Mapping(f)
    view = memoryview(m)[1:2]

    with pytest.raises(BufferError, match="1 exported buffers"):
        m.close()
    assert (m.closed, view[0]) == (False, 0)

    view.release()
    gc.collect()
    m.close()
    m.close()
    assert (m.closed, m.size) == (True, 0)


def test_closed_mapping_is_unusable(f):
    """After close no buffer can be had, and repr still works."""
    m = Mapping(f)
    m.close()

    with pytest.raises(ValueError, match="closed"):
        memoryview(m)
    with pytest.raises(ValueError, match="closed"):
        m.__enter__()
    assert repr(m) == "<memfd.Mapping closed>"


def test_close_gives_the_memory_back_for_sealing(f):
    """After close nothing of this mapping blocks a seal, though the object lives."""
    m = Mapping(f, "r+")
    with pytest.raises(BufferError, match="in this process can write"):
        f.seal()

    m.close()

    assert f.seal() & Seal.WRITE


def test_memory_goes_with_the_last_user(f):
    """Dropping the object alone does not unmap; dropping the last export does."""
    m = Mapping(f)
    alive = weakref.ref(m)
    view = memoryview(m)
    del m

    assert view[0] == 0
    assert alive() is not None
    view.release()
    del view
    assert alive() is None


@pytest.mark.skipif(not HUGE, reason="this kernel has no transparent huge pages")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("offset", [0, PAGE, HUGE])
def test_large_mappings_fit_huge_pages(mode, offset):
    """From a huge page on, address and offset agree within a huge page."""
    with (
        memfd.create(size=offset + 2 * HUGE + 1) as f,
        Mapping(f, mode, offset) as m,
    ):
        assert (m.address - m.offset) % HUGE == 0
        assert memoryview(m)[2 * HUGE] == 0


@pytest.mark.skipif(not HUGE, reason="this kernel has no transparent huge pages")
@pytest.mark.parametrize("offset", [0, PAGE])
def test_what_lies_where_a_mapping_was_stays(offset):
    """A mapping comes where one has gone, if that fits and nothing else is there."""
    with memfd.create(size=4 * HUGE) as f:
        first = memfd.Mapping(f, size=2 * HUGE)
        place = first.address
        del first
        again = memfd.Mapping(f, offset=offset, size=2 * HUGE)
        assert (again.address - offset) % HUGE == 0
        assert offset or again.address == place
        place = again.address
        del again
        other = memfd.from_bytes(b"mine" * PAGE)
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        )
        taken = libc.mmap(
            place, PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE, other.fileno(), 0
        )
        assert taken == place
        third = memfd.Mapping(f, offset=offset, size=2 * HUGE)
        assert (third.address - offset) % HUGE == 0
        assert third.address + 2 * HUGE <= place or third.address >= place + PAGE
        assert ctypes.string_at(place, 4) == b"mine"
        memfd.unmap(place, PAGE)
        other.close()


def test_address_stays_reserved_after_close(run):
    """numpy.ndarray(buffer=mapping) holds no export, and still never points at nothing."""
    pytest.importorskip("numpy")
    run("""
        import gc, numpy as np
        import memfd
        with memfd.create(size=8192) as f:
            for mode in ("r", "r+", "c"):
                m = memfd.Mapping(f, mode)
                a = np.ndarray(8192, np.uint8, m)
                m.close()
                del m
                gc.collect()
                more = [memfd.Mapping(f, "r+") for _ in range(100)]
                assert not a.any()
                if a.flags.writeable:
                    a[:] = 1
                assert f.read() == bytes(8192)
                f.seek(0)
    """)


def test_writing_in_spite_of_read_only_is_private(run):
    """Code that ignores the read-only flag gets a page of its own, never a signal."""
    run("""
        import ctypes
        import memfd
        f = memfd.from_bytes(bytes(4096))
        m = memfd.Mapping(f)
        ctypes.memset(m.address, 7, 10)
        assert f.read(10) == bytes(10)
        assert bytes(m)[:10] == bytes([7]) * 10
    """)


def test_failed_mmap_leaks_nothing(run, strace):
    """ENOMEM from mmap is an OSError; the memfd is as before."""
    run(
        """
        import errno
        import memfd
        f = memfd.create(size=1 << 46)
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        maps = open("/proc/self/maps").read().count("memfd")
        for mode in ("r", "r+", "c"):
            try:
                memfd.Mapping(f, mode)
            except OSError as error:
                assert error.errno == errno.ENOMEM, error
            else:
                raise SystemExit("no error")
        assert open("/proc/self/maps").read().count("memfd") == maps
        """,
    )


def test_failed_close_leaves_it_open(run, strace):
    """Where no address space is left, close raises and the mapping goes on."""
    run(
        """
        import errno
        import memfd
        f = memfd.from_bytes(b"data")
        m = memfd.Mapping(f)
        try:
            m.close()
        except OSError as error:
            assert error.errno == errno.ENOMEM
        else:
            raise SystemExit("no error")
        assert not m.closed and bytes(m) == b"data"
        """,
        wrapper=strace("mremap:error=ENOMEM"),
    )


def test_threads_may_close_and_export(f):
    """Threads that export and one that closes never crash: buffer or an exception."""
    outcomes = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def export(m):
        while True:
            try:
                memoryview(m).release()
            except ValueError:
                outcomes.append("closed")
                return

    for _ in range(20):
        m = Mapping(f, "r+")
        threads = [threading.Thread(target=export, args=(m,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while not m.closed:
            try:
                m.close()
            except BufferError:
                continue
        for thread in threads:
            thread.join()

    sys.setswitchinterval(interval)
    assert outcomes == ["closed"] * 60


def test_closed_while_it_is_private(f):
    """What is closed in the midst of a freeze that fails does not come back."""
    m, other = Mapping(f, "r+"), Mapping(f, "r+")

    def seal():
        m.close()
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        _mapping.while_private([m, other], f.fileno(), seal)

    assert (m.closed, other.mode) == (True, "r+")
    with open("/proc/self/maps") as maps:
        (line,) = (line for line in maps if line.startswith(f"{m.address:x}-"))
    assert "memfd:" not in line
    other.close()
    assert f.seal() & Seal.WRITE


def test_threads_may_close_and_freeze(f):
    """Closing while a freeze fails leaves nothing that maps the file."""

    def fail():
        raise FloatingPointError

    for _ in range(300):
        m = Mapping(f, "r+")
        thread = threading.Thread(target=m.close)
        thread.start()
        with pytest.raises(FloatingPointError):
            _mapping.while_private([m], f.fileno(), fail)
        thread.join()
        with open("/proc/self/maps") as maps:
            assert "/memfd:f" not in maps.read()


def test_a_fork_while_another_thread_closes(run, strace):
    """A child forked while a mapping is closed can close its own ones."""
    out = run(
        """
        import os, signal, threading
        import memfd
        f = memfd.create(size=8192)
        one, other = memfd.Mapping(f), memfd.Mapping(f)

        def fork():
            while not one.closed:
                pass
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                other.close()
                os._exit(0)
            print(os.waitpid(pid, 0)[1])

        thread = threading.Thread(target=fork)
        thread.start()
        one.close()
        thread.join()
        """,
        wrapper=strace("mremap:delay_enter=500000"),
    )
    assert out == "0\n"


def test_stdlib_mmap(f):
    """f.mmap returns mmap.mmap in each mode; r blocks no seal."""
    with f.mmap("r+") as shared:
        shared[0] = 5
    with f.mmap("r") as read, f.mmap("c") as copy:
        f.seal()
        copy[0] = 6
        assert type(read) is mmap.mmap
        assert (read[0], copy[0]) == (5, 6)
        with pytest.raises(TypeError):
            read[0] = 1
    with pytest.raises(PermissionError):
        f.mmap("r+")


def test_live_mappings_are_known_until_they_go(f):
    """The list of live mappings follows close and deletion, for ours and the stdlib's."""
    status = os.fstat(f.fileno())
    key = status.st_dev, status.st_ino
    one, other, third = Mapping(f), Mapping(f, "c"), f.mmap()

    assert set(map(id, _mapping.live(*key))) == {id(one), id(other), id(third)}
    one.close()
    third.close()
    del other
    assert _mapping.live(*key) == []
    del one, third
    assert key not in _mapping._live


@pytest.mark.usefixtures("huge_page")
def test_hugetlb_mapping():
    """A hugetlb memfd maps whole pages of the pool; who reads sealed ones needs no more."""
    with memfd.create("huge", 2 << 20, hugetlb=2 << 20) as f:
        with Mapping(f, "r+") as m:
            assert len(m) == 2 << 20
            memoryview(m)[-1] = 1
        f.seal()
        with Mapping(f) as one, Mapping(f) as other:
            assert memoryview(one)[-1] == memoryview(other)[-1] == 1


@pytest.mark.usefixtures("huge_page")
def test_a_hugetlb_file_with_forged_blocks(run):
    """Pages past the end do not stand for those that are missing: no signal, but ENOMEM."""
    run("""
        import ctypes, os
        import memfd
        page = 2 << 20
        f = memfd.create(size=page, hugetlb=page)
        keep_size = 1
        libc = ctypes.CDLL(None)
        beyond = ctypes.c_long(page)
        while libc.fallocate(f.fileno(), keep_size, beyond, beyond) == 0:
            beyond.value += page  # until the pool is empty
        if not os.fstat(f.fileno()).st_blocks:
            raise SystemExit(0)
        f.seal()
        try:
            memoryview(memfd.Mapping(f))[0]
        except OSError as error:
            assert "mapping" in str(error)
        else:
            raise SystemExit("there was a page")
    """)


def test_an_empty_pool_is_no_memory():
    """Mapping a hugetlb memfd writable needs pages of the pool at once: ENOMEM."""
    try:
        f = memfd.create("huge", 1 << 40, hugetlb=2 << 20)
    except OSError as error:
        pytest.skip(f"no huge pages of 2 MiB: {error}")
    with f, pytest.raises(OSError, match="mapping") as caught:
        Mapping(f, "r+")
    assert caught.value.errno == errno.ENOMEM
