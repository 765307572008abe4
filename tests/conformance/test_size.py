"""Rows 62 to 76: sizes, the seals on them and on executable bits, extents of mappings."""

import ctypes
import errno
import mmap
import os
import stat

import pytest

import memfd
from memfd import Mapping, Seal

PAGE = mmap.PAGESIZE
KEEP_SIZE, PUNCH_HOLE = 1, 2
LARGEST = (1 << 63) - 1


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


def raw(name, *arguments, restype=ctypes.c_int):
    """Call a function of libc, and raise what it answers."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = restype
    result = function(*arguments)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def fallocate(f, mode, offset, size):
    raw("fallocate", f.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(size))


def raw_map(f, size, offset=0):
    """Map with mmap(2) as it is, which stays until the caller unmaps it."""
    return raw(
        "mmap",
        None,
        ctypes.c_size_t(size),
        mmap.PROT_READ,
        mmap.MAP_SHARED,
        f.fileno(),
        ctypes.c_long(offset),
        restype=ctypes.c_ssize_t,
    )


@pytest.fixture
def executable():
    """A memfd with executable bits, on a kernel that has F_SEAL_EXEC."""
    try:
        f = memfd.create("executable", 8192, executable=True)
    except PermissionError as error:
        pytest.skip(str(error))
    with f:
        with memfd.create() as other:
            if not other.seals & Seal.EXEC:
                pytest.skip("this kernel has no F_SEAL_EXEC (Linux 6.3)")
        yield f


# --- SHRINK ----------------------------------------------------------------------------

row_62 = pytest.mark.row(
    62, "SHRINK: resize down, to the same, up, back down", "EPERM, ok, ok, EPERM"
)


@row_62
def test_shrink_seal_on_truncate(f):
    """With SHRINK a file can grow, and then not go back."""
    f.seal(Seal.SHRINK)
    with fails(errno.EPERM):
        f.truncate(8191)
    assert f.truncate(8192) == 8192
    assert f.truncate(9000) == 9000
    with fails(errno.EPERM):
        f.truncate(8192)
    assert f.size == 9000


@row_62
def test_shrink_seal_on_ftruncate(f):
    """ftruncate(2) by any descriptor answers the same."""
    f.seal(Seal.SHRINK)
    with f.reopen("r+") as again:
        with fails(errno.EPERM):
            os.ftruncate(again.fileno(), 0)
        os.ftruncate(again.fileno(), 8192)
        os.ftruncate(again.fileno(), 9000)
        with fails(errno.EPERM):
            memfd.set_size(again, 8999)
    assert os.fstat(f.fileno()).st_size == 9000


@pytest.mark.row(63, "SHRINK: opened again with O_TRUNC", "EPERM; without it: empty")
@pytest.mark.parametrize("seals", [Seal.SHRINK, Seal.SHRINK | Seal.WRITE])
def test_open_with_truncation(f, seals):
    """O_TRUNC empties a file, unless it is sealed against shrinking."""
    with memfd.create(size=10) as unsealed:
        os.close(os.open(unsealed.path, os.O_RDWR | os.O_TRUNC))
        assert unsealed.size == 0
    f.seal(seals)
    with fails(errno.EPERM):
        os.open(f.path, os.O_RDWR | os.O_TRUNC)
    with fails(errno.EPERM):
        open(f.path, "wb")
    assert f.size == 8192


@pytest.mark.row(
    64, "SHRINK: punch a hole under mappings", "contents become zero, size stays"
)
def test_shrink_seal_and_holes(run):
    """SHRINK keeps the size, and not what the file holds."""
    run("""
        import ctypes
        import memfd
        libc = ctypes.CDLL(None)
        f = memfd.create()
        f.write(bytes(range(1, 129)) * 512)
        f.seal(memfd.Seal.SHRINK)
        mappings = [memfd.Mapping(f, mode) for mode in ("r", "r+", "c")]
        assert all(bytes(m)[:4] == b"\\1\\2\\3\\4" for m in mappings)
        hole = ctypes.c_long(f.size)
        assert libc.fallocate(f.fileno(), 1 | 2, ctypes.c_long(0), hole) == 0
        assert f.size == 65536
        assert all(bytes(m) == bytes(65536) for m in mappings)
        f.seek(0)
        assert f.read() == bytes(65536)
    """)


# --- GROW ------------------------------------------------------------------------------

row_65 = pytest.mark.row(65, "GROW: resize up; down; back up", "EPERM; ok; EPERM")


@row_65
def test_grow_seal_on_truncate(f):
    """With GROW a file can shrink, and then not go back."""
    f.seal(Seal.GROW)
    with fails(errno.EPERM):
        f.truncate(8193)
    assert f.truncate(8192) == 8192
    assert f.truncate(100) == 100
    with fails(errno.EPERM):
        f.truncate(8192)
    assert f.size == 100


@row_65
def test_grow_seal_on_ftruncate(f):
    """ftruncate(2) answers the same."""
    f.seal(Seal.GROW)
    with fails(errno.EPERM):
        os.ftruncate(f.fileno(), LARGEST)
    os.ftruncate(f.fileno(), 0)
    with fails(errno.EPERM):
        memfd.set_size(f, 1)
    assert os.fstat(f.fileno()).st_size == 0


@pytest.mark.row(66, "GROW: write from the end of the file, or past it", "EPERM")
@pytest.mark.parametrize("place", [8192, 10000])
def test_write_at_the_end(f, place):
    """What begins at the end is refused, by position, by offset and when appending."""
    f.seal(Seal.GROW)
    f.seek(place)
    with fails(errno.EPERM):
        f.write(b"x")
    with fails(errno.EPERM):
        os.write(f.fileno(), b"x")
    with fails(errno.EPERM):
        os.pwrite(f.fileno(), b"x", place)
    fd = os.open(f.path, os.O_WRONLY | os.O_APPEND)
    try:
        with fails(errno.EPERM):
            os.write(fd, b"x")
    finally:
        os.close(fd)
    assert (f.size, f.tell()) == (8192, place)


row_67 = pytest.mark.row(
    67, "GROW: write across the end of the file", "the kernel's is short; ours EPERM"
)


@row_67
def test_raw_write_across_the_end(f):
    """write(2) and pwrite(2) write what fits, and say how much; or nothing (Linux 7.3)."""
    f.seal(Seal.GROW)
    try:
        assert os.pwrite(f.fileno(), b"abcd", 8190) == 2
    except PermissionError:
        f.seek(8191)
        with fails(errno.EPERM):
            os.write(f.fileno(), b"xyz")
        assert os.pread(f.fileno(), 10, 8189) == b"\0\0\0"
        return
    f.seek(8191)
    assert os.write(f.fileno(), b"xyz") == 1
    assert os.pread(f.fileno(), 10, 8189) == b"\0ax"


@row_67
def test_write_across_the_end(f):
    """Memfd.write raises when not all of it fits, though what fits may be written."""
    f.seal(Seal.GROW)
    f.seek(8190)
    with fails(errno.EPERM):
        f.write(b"abcd")
    assert os.pread(f.fileno(), 10, 8189) in (b"\0ab", b"\0\0\0")  # or nothing: 7.3
    assert f.size == 8192


@pytest.mark.row(
    68, "GROW: store past the end, in the last page of a mapping", "no part of the file"
)
def test_store_past_the_end(run):
    """No seal is asked about the rest of the last page, and no file has it."""
    run("""
        import ctypes, os
        import memfd
        f = memfd.create(size=100)
        f.seal(memfd.Seal.SHRINK | memfd.Seal.GROW)
        address = memfd.map(f, 4096, True)
        ctypes.memset(address + 90, 7, 200)
        assert f.size == 100
        assert os.pread(f.fileno(), 4096, 0) == bytes(90) + bytes([7]) * 10
        with memfd.Mapping(f) as m:
            assert bytes(m) == bytes(90) + bytes([7]) * 10
        memfd.unmap(address, 4096)
    """)


@pytest.mark.row(69, "GROW: fallocate past the end, KEEP_SIZE or not", "EPERM")
@pytest.mark.parametrize("mode", [0, KEEP_SIZE])
@pytest.mark.parametrize("part", [(0, 8193), (8192, 1), (1 << 20, 4096)])
def test_allocation_past_the_end(f, mode, part):
    """Memory past the end is refused, also if the size would stay; within it is had."""
    f.seal(Seal.GROW)
    with fails(errno.EPERM):
        fallocate(f, mode, *part)
    with fails(errno.EPERM):
        os.posix_fallocate(f.fileno(), *part)
    assert f.info()[:2] == (8192, 0)
    fallocate(f, mode, 0, 8192)
    assert f.size == 8192
    assert f.info().resident >= 8192


@pytest.mark.row(70, "SHRINK and GROW: resize; write", "EPERM both ways; ok")
def test_fixed_size(f):
    """A file of fixed size takes writes of all kinds within it."""
    f.seal(Seal.SHRINK | Seal.GROW)
    for size in (0, 8191, 8193, LARGEST):
        with fails(errno.EPERM):
            f.truncate(size)
        with fails(errno.EPERM):
            os.ftruncate(f.fileno(), size)
    assert f.write(b"x" * 8192) == 8192
    os.pwrite(f.fileno(), b"y", 8191)
    with Mapping(f, "r+") as m, memoryview(m) as view:
        view[0] = ord("z")
    assert os.pread(f.fileno(), 8193, 0) == b"z" + b"x" * 8190 + b"y"


# --- EXEC ------------------------------------------------------------------------------

row_71 = pytest.mark.row(
    71, "EXEC, mode 0644: chmod of an x bit; of others; write", "EPERM; ok; ok"
)


@row_71
def test_exec_seal_without_executable_bits(executable):
    """The seal holds the executable bits that there are not, and nothing else."""
    f = executable
    os.fchmod(f.fileno(), 0o644)
    assert f.seal(Seal.EXEC) == Seal.EXEC
    for mode in (0o744, 0o654, 0o645, 0o777):
        with fails(errno.EPERM):
            os.fchmod(f.fileno(), mode)
        with fails(errno.EPERM):
            os.chmod(f.path, mode)
    for mode in (0o600, 0o666, 0o644):
        os.fchmod(f.fileno(), mode)
        assert stat.S_IMODE(os.fstat(f.fileno()).st_mode) == mode
    assert f.write(b"x") == 1
    assert f.truncate(9000) == 9000


@row_71
def test_exec_seal_from_birth(executable, f):
    """What is made not executable has the seal, and stays so."""
    assert f.seals == Seal.EXEC
    with fails(errno.EPERM):
        os.fchmod(f.fileno(), 0o755)
    os.fchmod(f.fileno(), 0o600)
    assert f.write(b"x") == 1
    fd = os.memfd_create("raw", memfd.MFD_NOEXEC_SEAL)
    try:
        assert memfd.get_seals(fd) == Seal.EXEC
        with fails(errno.EPERM):
            os.fchmod(fd, 0o777)
    finally:
        os.close(fd)


@pytest.mark.row(
    72,
    "EXEC, executable: seals; chmod; write; resize",
    "SHRINK, GROW, WRITE, FUTURE_WRITE too; EPERM",
)
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o711])
def test_exec_seal_of_a_program(executable, mode):
    """Sealing the bits of a program seals the program."""
    f = executable
    os.fchmod(f.fileno(), mode)
    seals = f.seal(Seal.EXEC)
    assert seals == Seal.IMMUTABLE | Seal.FUTURE_WRITE | Seal.EXEC
    for change in (
        lambda: os.fchmod(f.fileno(), mode ^ 0o010),
        lambda: os.fchmod(f.fileno(), 0o644),
        lambda: f.write(b"x"),
        lambda: os.pwrite(f.fileno(), b"x", 0),
        lambda: f.truncate(0),
        lambda: f.truncate(9000),
        lambda: Mapping(f, "r+"),
    ):
        with fails(errno.EPERM):
            change()


# --- sizes -----------------------------------------------------------------------------

row_73 = pytest.mark.row(
    73,
    "resize to 0, the same, -1, 2**63 - 1, 2**63",
    "ok, ok, ValueError (EINVAL), ok, OverflowError",
)


@row_73
@pytest.mark.parametrize("resize", [memfd.Memfd.truncate, memfd.set_size])
def test_sizes(f, resize):
    """Every size that a file can have is had, and no other reaches the kernel."""
    for size in (0, 0, 8192, 8192, LARGEST):
        resize(f, size)
        assert f.size == memfd.get_size(f) == size
    with pytest.raises(ValueError, match="-1"):
        resize(f, -1)
    with pytest.raises(OverflowError, match=str(1 << 63)):
        resize(f, 1 << 63)
    assert (f.size, f.info().resident) == (LARGEST, 0)


@row_73
def test_raw_sizes(f):
    """ftruncate(2) takes what fits its argument and is not negative."""
    for size in (0, 8192, LARGEST):
        os.ftruncate(f.fileno(), size)
        assert os.fstat(f.fileno()).st_size == size
    with fails(errno.EINVAL):
        os.ftruncate(f.fileno(), -1)
    with pytest.raises(OverflowError):
        os.ftruncate(f.fileno(), 1 << 63)
    with fails(errno.EINVAL):
        raw("ftruncate", f.fileno(), ctypes.c_long(-1 << 63))


@row_73
@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (1 << 63, OverflowError), (1.5, TypeError)]
)
def test_sizes_at_creation(size, error):
    """create refuses the same sizes, and leaves nothing."""
    with pytest.raises(error, match="size"):
        memfd.create(size=size)
    with memfd.create(size=LARGEST) as f:
        assert f.size == LARGEST


# --- extents of mappings ---------------------------------------------------------------

row_74 = pytest.mark.row(74, "map an empty file", "ValueError that says so")


@row_74
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_mapping_of_an_empty_file(mode):
    """Nothing to map is an error with words, in each mode."""
    with memfd.create() as f:
        for make in (Mapping, memfd.Memfd.mmap):
            with pytest.raises(ValueError, match="empty file cannot be mapped"):
                make(f, mode)
        with pytest.raises(ValueError, match="got 0: nothing to map"):
            memfd.map(f, 0)


@row_74
def test_raw_mapping_of_an_empty_file():
    """mmap(2) refuses a length of 0; another one it maps, though nothing is there."""
    with memfd.create() as f:
        with fails(errno.EINVAL):
            raw_map(f, 0)
        with pytest.raises(ValueError, match="empty file"):
            mmap.mmap(f.fileno(), 0)
        memfd.unmap(raw_map(f, 1), PAGE)


row_75 = pytest.mark.row(
    75,
    "map more than the file, from past it, from a negative or unaligned place",
    "ValueError",
)


@row_75
@pytest.mark.parametrize(
    ("offset", "size", "words"),
    [
        (0, 2 * PAGE + 1, "reach past the end"),
        (0, LARGEST, "reach past the end"),
        (PAGE, PAGE + 1, "reach past the end"),
        (2 * PAGE, None, "past the end"),
        (3 * PAGE, 1, "past the end"),
        (LARGEST - LARGEST % PAGE, LARGEST, "past the end"),
        (-PAGE, None, "negative"),
        (0, -1, "negative"),
        (1, None, "multiple"),
        (PAGE - 1, 1, "multiple"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_impossible_extents(f, mode, offset, size, words):
    """What is no part of the file is refused before the kernel is asked."""
    f.truncate(2 * PAGE)
    for make in (Mapping, memfd.Memfd.mmap):
        with pytest.raises(ValueError, match=words):
            make(f, mode, offset, size)


@row_75
def test_raw_extents(f):
    """mmap(2) itself minds the alignment, and not the size of the file."""
    for offset in (1, PAGE - 1):
        with fails(errno.EINVAL):
            raw_map(f, PAGE, offset)
        with fails(errno.EINVAL):
            memfd.map(f, PAGE, False, offset)
    with fails(errno.EOVERFLOW):
        raw_map(f, PAGE, -PAGE)
    memfd.unmap(raw_map(f, 1 << 20, 1 << 20), 1 << 20)


@pytest.mark.row(76, "map more than the address space has", "ENOMEM, nothing is left")
@pytest.mark.parametrize("size", [LARGEST, LARGEST - PAGE, 1 << 62, 1 << 57])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_more_than_the_address_space(size, mode):
    """No sum in the way overflows: a file of any size is mapped, or ENOMEM."""
    with memfd.create(size=size) as f:
        for make in (Mapping, memfd.Memfd.mmap):
            with fails(errno.ENOMEM):
                make(f, mode)
        with fails(errno.ENOMEM):
            memfd.map(f, size, mode == "r+")
        with fails(errno.ENOMEM):
            raw_map(f, size)
        # A part of it is no harder to map than a small file.
        with Mapping(f, mode, 1 << 50, PAGE) as m:
            assert bytes(m) == bytes(PAGE)
