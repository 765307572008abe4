"""Seal.WRITE and Seal.FUTURE_WRITE: what they forbid, and what they do not."""

import contextlib
import ctypes
import errno
import mmap
import os

import pytest

import memfd
from memfd import Mapping, Memfd, Seal, SealError

PAGE = mmap.PAGESIZE
PUNCH_HOLE, KEEP_SIZE = 2, 1
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *3 * [ctypes.c_int],
    ctypes.c_long,
]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE


def checked(answer):
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def page_of(file, prot, flags=mmap.MAP_SHARED):
    """Map the first page and yield its address."""
    address = LIBC.mmap(None, PAGE, prot, flags, file.fileno(), 0)
    checked(-1 if address == ctypes.c_void_p(-1).value else 0)
    try:
        yield address
    finally:
        checked(LIBC.munmap(address, PAGE))


def protect(address, prot):
    checked(LIBC.mprotect(address, PAGE, prot))


def fallocate(file, mode, offset, length):
    checked(LIBC.fallocate(file.fileno(), mode, offset, length))


@contextlib.contextmanager
def refused(number):
    """Expect an OSError with this number."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number


@pytest.fixture
def sealed(f):
    """A memfd of two pages that begins with "data", and has the seal WRITE only."""
    f.write(b"data")
    f.seal(Seal.WRITE)
    assert f.seals & ~Seal.EXEC == Seal.WRITE
    f.seek(0)
    return f


WRITABLE = [
    pytest.param(lambda f: mmap.mmap(f.fileno(), 0), id="kernel"),
    pytest.param(lambda f: mmap.mmap(f.fileno(), 0, prot=WRITE), id="kernel, write"),
    pytest.param(lambda f: Mapping(f, "r+"), id="Mapping"),
    pytest.param(lambda f: f.mmap("r+"), id="mmap"),
    pytest.param(lambda f: memfd.map(f, PAGE, True), id="map"),
]


# --- WRITE -----------------------------------------------------------------------------

WRITES = [
    pytest.param(lambda f, at: os.pwrite(f.fileno(), b"x", at), id="pwrite"),
    pytest.param(lambda f, at: os.pwritev(f.fileno(), [b"x", b"y"], at), id="pwritev"),
    pytest.param(lambda f, at: (f.seek(at), os.write(f.fileno(), b"x")), id="write"),
    pytest.param(lambda f, at: (f.seek(at), f.write(b"x")), id="Memfd.write"),
    pytest.param(lambda f, at: (f.seek(at), f.writelines([b"x"])), id="writelines"),
]


@pytest.mark.row(49, "WRITE: write anywhere, or append", "EPERM")
@pytest.mark.parametrize("at", [0, 1, PAGE, 8191, 8192, 8193, 1 << 40])
@pytest.mark.parametrize("write", WRITES)
def test_write(sealed, write, at):
    """Nothing is written, neither over what is there nor behind it."""
    with refused(errno.EPERM):
        write(sealed, at)
    assert sealed.size == 8192
    assert os.pread(sealed.fileno(), 10000, 0) == b"data" + bytes(8188)


@pytest.mark.row(49, "WRITE: write anywhere, or append", "EPERM")
def test_append(sealed):
    """Nothing is appended, nor written through a description of its own."""
    fd = os.open(sealed.path, os.O_WRONLY | os.O_APPEND)
    try:
        with refused(errno.EPERM):
            os.write(fd, b"x")
    finally:
        os.close(fd)
    with sealed.reopen("r+") as again:
        with refused(errno.EPERM):
            again.write(b"x")
    assert sealed.read() == b"data" + bytes(8188)


@pytest.mark.row(49, "WRITE: write anywhere, or append", "EPERM")
def test_large_write(sealed):
    """What Memfd.write would put into huge pages is refused as well."""
    sealed.truncate(0)
    with refused(errno.EPERM):
        sealed.write(bytes(4 << 20))
    assert (sealed.size, sealed.tell()) == (0, 0)


@pytest.mark.row(50, "WRITE or GROW: write of no bytes", "0, no error")
@pytest.mark.parametrize("seal", [Seal.WRITE, Seal.GROW, Seal.IMMUTABLE], ids=str)
@pytest.mark.parametrize("at", [0, 8192, 10000])
def test_write_of_nothing(f, seal, at):
    """To write nothing is allowed to everybody, at every position."""
    f.seal(seal)
    assert os.pwrite(f.fileno(), b"", at) == 0
    f.seek(at)
    assert os.write(f.fileno(), b"") == 0
    assert f.write(b"") == 0
    assert f.write(memoryview(b"")) == 0
    assert (f.tell(), f.size) == (at, 8192)


@pytest.mark.row(51, "WRITE: map shared and writable", "EPERM, a PermissionError")
@pytest.mark.parametrize("map_it", WRITABLE)
def test_map_writable(sealed, map_it):
    """No new mapping can write, also not one of a description of its own."""
    with refused(errno.EPERM):
        map_it(sealed)
    with sealed.reopen("r+") as again, refused(errno.EPERM):
        map_it(again)


@pytest.mark.row(52, "WRITE: map read-only", "works, by every descriptor")
@pytest.mark.parametrize(
    "map_it",
    [
        pytest.param(
            lambda f: mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, READ), id="kernel"
        ),
        pytest.param(Mapping, id="Mapping"),
        pytest.param(Memfd.mmap, id="mmap"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_map_read_only(sealed, map_it, mode):
    """Who reads a sealed memfd maps it, whatever the descriptor is open for."""
    with sealed.reopen(mode) as again, map_it(again) as m, memoryview(m) as view:
        assert view.readonly
        assert view == b"data" + bytes(8188)


@pytest.mark.row(52, "WRITE: map read-only", "works, by every descriptor")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_map_read_only_by_address(sealed, mode):
    """The bare call maps it as well."""
    with sealed.reopen(mode) as again:
        address = memfd.map(again, 8192)
    try:
        assert ctypes.string_at(address, 5) == b"data\0"
    finally:
        memfd.unmap(address, 8192)


@pytest.mark.row(52, "WRITE: map read-only", "works, by every descriptor")
def test_map_shared_by_a_read_only_descriptor(sealed):
    """Through a read-only descriptor a mapping may also be shared."""
    with sealed.reopen() as again:
        with mmap.mmap(again.fileno(), 0, mmap.MAP_SHARED, READ) as m:
            assert m[:5] == b"data\0"


@pytest.mark.row(53, "WRITE: make a shared, read-only mapping writable", "EACCES")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_make_writable(sealed, mode):
    """A mapping that only reads never becomes one that writes."""
    with sealed.reopen(mode) as again, contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(page_of(again, READ))
        except PermissionError as error:
            if mode == "r":
                raise
            pytest.skip(f"no shared mapping by a writable descriptor: {error}")
        for prot in (WRITE, READ | WRITE):
            with refused(errno.EACCES):
                protect(address, prot)
        assert ctypes.string_at(address, 5) == b"data\0"


@pytest.mark.row(53, "WRITE: make a shared, read-only mapping writable", "EACCES")
def test_make_writable_what_was_mapped_before(f):
    """Nor does one that was there before the seal, by a read-only descriptor."""
    with f.reopen() as reader, page_of(reader, READ) as address:
        f.seal(Seal.WRITE)
        with refused(errno.EACCES):
            protect(address, READ | WRITE)


@pytest.mark.row(54, "WRITE: map private and writable", "works; the file stays")
@pytest.mark.parametrize(
    "map_it",
    [
        pytest.param(
            lambda f: mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE), id="kernel"
        ),
        pytest.param(lambda f: Mapping(f, "c"), id="Mapping"),
        pytest.param(lambda f: f.mmap("c"), id="mmap"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_map_private(sealed, map_it, mode):
    """What is stored into a private mapping is seen nowhere else."""
    with sealed.reopen(mode) as again, map_it(again) as m, map_it(again) as n:
        with memoryview(m) as mine, memoryview(n) as other:
            mine[:4] = b"mine"
            mine[-1] = 7
            assert (mine[:4], other[:4], other[-1]) == (b"mine", b"data", 0)
    assert sealed.read() == b"data" + bytes(8188)


@pytest.mark.row(54, "WRITE: map private and writable", "works; the file stays")
def test_store_into_what_is_mapped_for_reading(sealed):
    """Code that writes in spite of mode "r" changes a page of its own."""
    with Mapping(sealed) as m, Mapping(sealed) as n:
        ctypes.memmove(m.address, b"mine", 4)
        assert bytes(m)[:4] == b"mine"
        assert bytes(n)[:4] == sealed.read(4) == b"data"


@pytest.mark.row(55, "WRITE: punch a hole; MADV_REMOVE", "EPERM; EACCES")
def test_punch_hole(sealed):
    """Taking a page away would be a way of writing zeros."""
    for offset, length in ((0, PAGE), (0, 2), (PAGE, PAGE)):
        with refused(errno.EPERM):
            fallocate(sealed, PUNCH_HOLE | KEEP_SIZE, offset, length)
    assert sealed.read() == b"data" + bytes(8188)


@pytest.mark.row(55, "WRITE: punch a hole; MADV_REMOVE", "EPERM; EACCES")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_remove_by_address(sealed, mode):
    """Nor can a page be taken away through a mapping."""
    with sealed.reopen(mode) as again:
        flags = mmap.MAP_SHARED if mode == "r" else mmap.MAP_PRIVATE
        with mmap.mmap(again.fileno(), 0, flags, READ) as m:
            with refused(errno.EACCES):
                m.madvise(mmap.MADV_REMOVE)
            assert m[:5] == b"data\0"


@pytest.mark.row(56, "WRITE without SHRINK and GROW: resize", "works: not immutable")
@pytest.mark.parametrize(
    "resize", [lambda f, n: os.ftruncate(f.fileno(), n), memfd.set_size, Memfd.truncate]
)
def test_resize(sealed, resize):
    """WRITE keeps the bytes, not the size; so it is not enough to trust a memfd."""
    for size in (16384, 8192, 3, 0, 8192):
        resize(sealed, size)
        assert sealed.size == size
    assert sealed.read() == bytes(8192)
    with pytest.raises(SealError) as caught:
        Memfd.from_fd(sealed.fileno(), dense=False)
    assert caught.value.missing == Seal.SHRINK | Seal.GROW


@pytest.mark.row(57, "WRITE: change mode, owner, times; allocate", "works; bytes stay")
def test_what_is_not_written(f):
    """The seal is about the bytes, and nothing else that a file has."""
    f.write(b"data")
    f.seal()
    os.fchmod(f.fileno(), 0o600)
    os.fchown(f.fileno(), os.geteuid(), -1)
    os.utime(f.fileno(), (1, 2))
    status = os.fstat(f.fileno())
    assert status.st_mode & 0o7777 == 0o600
    assert (status.st_atime, status.st_mtime) == (1, 2)
    fallocate(f, 0, 0, 8192)
    assert f.info().resident >= 8192
    f.seek(0)
    assert f.read() == b"data" + bytes(8188)


# --- FUTURE_WRITE ----------------------------------------------------------------------

MAPPED = [
    pytest.param(lambda f: mmap.mmap(f.fileno(), 0), id="kernel"),
    pytest.param(lambda f: Mapping(f, "r+"), id="Mapping"),
    pytest.param(lambda f: f.mmap("r+"), id="mmap"),
]


@pytest.mark.row(
    58, "FUTURE_WRITE: store through an earlier mapping", "every reader sees it"
)
@pytest.mark.parametrize("map_it", MAPPED)
def test_earlier_mapping(f, map_it):
    """Who mapped the file before goes on writing; a private reader sees it, too."""
    with map_it(f) as m, memoryview(m) as view, f.reopen() as reader:
        f.seal(Seal.FUTURE_WRITE | Seal.SHRINK | Seal.GROW)
        with (
            mmap.mmap(reader.fileno(), 0, mmap.MAP_SHARED, READ) as shared,
            mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, READ) as private,
            Mapping(f) as ours,
            reader.mmap() as theirs,
        ):
            for data in (b"once", b"more"):
                view[PAGE : PAGE + 4] = data
                there = slice(PAGE, PAGE + 4)
                assert shared[there] == private[there] == theirs[there] == data
                assert bytes(ours)[there] == data
                assert os.pread(f.fileno(), 4, PAGE) == data
            with refused(errno.EPERM):
                os.pwrite(f.fileno(), b"x", PAGE)


@pytest.mark.row(
    58, "FUTURE_WRITE: store through an earlier mapping", "every reader sees it"
)
def test_not_immutable(f):
    """FUTURE_WRITE in place of WRITE is not enough to trust a memfd."""
    f.seal(Seal.FUTURE_WRITE | Seal.SHRINK | Seal.GROW | Seal.SEAL)
    with pytest.raises(SealError) as caught:
        Memfd.from_fd(f.fileno(), dense=False)
    assert caught.value.missing == Seal.WRITE


@pytest.fixture(params=["the same descriptor", "opened again", "opened for writing"])
def closed(request, f):
    """A descriptor of a memfd that has the seal FUTURE_WRITE only."""
    f.write(b"data")
    f.seal(Seal.FUTURE_WRITE)
    if request.param == "the same descriptor":
        yield f
    elif request.param == "opened again":
        with f.reopen("r+") as again:
            yield again
    else:
        with open(f.path, "r+b", buffering=0) as again:
            yield again
    assert os.pread(f.fileno(), 5, 0) == b"data\0"


@pytest.mark.row(59, "FUTURE_WRITE: write, punch a hole, map writable anew", "EPERM")
def test_new_writers(closed):
    """Nobody begins to write, by whichever descriptor."""
    for at in (0, PAGE, 8192, 1 << 40):
        with refused(errno.EPERM):
            os.pwrite(closed.fileno(), b"x", at)
        closed.seek(at)
        with refused(errno.EPERM):
            closed.write(b"x")
        assert closed.write(b"") == 0
    with refused(errno.EPERM):
        fallocate(closed, PUNCH_HOLE | KEEP_SIZE, 0, PAGE)
    with refused(errno.EPERM):
        mmap.mmap(closed.fileno(), 0)
    with refused(errno.EPERM):
        Mapping(closed, "r+")
    with refused(errno.EPERM):
        memfd.map(closed, PAGE, True)
    if isinstance(closed, Memfd):
        with refused(errno.EPERM):
            closed.mmap("r+")


@pytest.mark.row(
    60,
    "FUTURE_WRITE: make a read-only, shared mapping writable",
    "works for an earlier one, EACCES for a new one",
)
def test_make_earlier_mapping_writable(f):
    """A mapping from before the seal that only reads may begin to write."""
    with page_of(f, READ) as earlier:
        f.seal(Seal.FUTURE_WRITE)
        protect(earlier, READ | WRITE)
        ctypes.memmove(earlier, b"data", 4)
        assert os.pread(f.fileno(), 5, 0) == b"data\0"
        with Mapping(f) as m:
            assert bytes(m)[:5] == b"data\0"


@pytest.mark.row(
    60,
    "FUTURE_WRITE: make a read-only, shared mapping writable",
    "works for an earlier one, EACCES for a new one",
)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_make_new_mapping_writable(f, mode):
    """A new one may not; it can be made, and stays as it is."""
    f.seal(Seal.FUTURE_WRITE)
    with f.reopen(mode) as again, page_of(again, READ) as address:
        for prot in (WRITE, READ | WRITE):
            with refused(errno.EACCES):
                protect(address, prot)
        assert ctypes.string_at(address, 4) == bytes(4)


@pytest.mark.row(
    61, "FUTURE_WRITE: private mapping, written by a forked child", "not seen by us"
)
@pytest.mark.parametrize("kind", ["kernel", "Mapping", "mmap"])
@pytest.mark.parametrize("seals", [Seal.FUTURE_WRITE, Seal.WRITE], ids=str)
def test_private_mapping_of_a_child(run, kind, seals):
    """What a child stores into a private mapping that it inherited stays its own."""
    run(
        """
        import mmap, os, sys
        import memfd

        f = memfd.create("x", size=8192)
        f.write(b"data")
        f.seal(memfd.Seal(int(sys.argv[2])))
        m = {
            "kernel": lambda: mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE),
            "Mapping": lambda: memfd.Mapping(f, "c"),
            "mmap": lambda: f.mmap("c"),
        }[sys.argv[1]]()
        view = memoryview(m)
        view[4096:4100] = b"ours"
        pid = os.fork()
        if pid == 0:
            assert (view[:4], view[4096:4100]) == (b"data", b"ours")
            view[:4] = view[4096:4100] = b"mine"
            assert (view[:4], view[4096:4100]) == (b"mine", b"mine")
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        assert (view[:4], view[4096:4100]) == (b"data", b"ours")
        assert os.pread(f.fileno(), 9000, 0) == b"data" + bytes(8188)
        """,
        kind,
        str(int(seals)),
    )
