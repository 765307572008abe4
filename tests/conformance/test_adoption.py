"""Rows 99 to 108: what is adopted of a descriptor that came, and what is refused."""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat

import pytest

import memfd
from memfd import Mapping, Memfd, Seal, SealError

HUGE = 2 << 20
FRAME = b"\xfeMFD\x01" + bytes(7)


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


@pytest.fixture
def given(f):
    """A duplicate of the memfd `f`, as a peer would have given it, closed in the end."""
    fd = os.dup(f.fileno())
    status = os.fstat(fd)
    yield fd
    with contextlib.suppress(OSError):  # adopted, and closed
        if os.path.samestat(os.fstat(fd), status):
            os.close(fd)


def opened():
    return set(os.listdir("/proc/self/fd"))


row_99 = pytest.mark.row(
    99,
    "adopt: unsealed, partly sealed, FUTURE_WRITE for WRITE",
    "SealError with what is missing",
)
SHRINK, GROW, WRITE = Seal.SHRINK, Seal.GROW, Seal.WRITE


@row_99
@pytest.mark.parametrize(
    ("seals", "require", "missing"),
    [
        (0, Seal.IMMUTABLE, Seal.IMMUTABLE),
        (SHRINK | GROW, Seal.IMMUTABLE, WRITE),
        (SHRINK | WRITE, Seal.IMMUTABLE, GROW),
        (GROW | WRITE | Seal.SEAL, Seal.IMMUTABLE, SHRINK),
        (SHRINK | GROW | Seal.FUTURE_WRITE, Seal.IMMUTABLE, WRITE),
        (GROW, SHRINK, SHRINK),
        (SHRINK, SHRINK | Seal.SEAL, Seal.SEAL),
    ],
)
def test_missing_seals(f, given, pair, seals, require, missing):
    """The error names the seals, and the descriptor stays the caller's, or is closed."""
    os.pwrite(f.fileno(), b"x" * 8192, 0)
    f.seal(seals)
    here, there = pair
    memfd.send(here, f)
    before = opened()
    for adopt in (
        lambda: Memfd.from_fd(given, require=require),
        lambda: memfd.recv(there, require=require),
        lambda: memfd.attach(given, require=require),
    ):
        with pytest.raises(SealError, match=r"lacks seals .* \(it has ") as caught:
            adopt()
        assert caught.value.missing == missing
        assert caught.value.present == f.seals
    assert opened() == before


@row_99
def test_present_seals(f, given):
    """With the seals that are asked for it is adopted, and more seals do not matter."""
    os.pwrite(f.fileno(), b"x" * 8192, 0)
    f.seal(SHRINK)
    with Memfd.from_fd(os.dup(given), require=SHRINK, dense=False) as g:
        assert g.read() == b"x" * 8192
    f.seal()
    with Memfd.from_fd(given) as g:
        assert g.read() == b"x" * 8192


row_100 = pytest.mark.row(
    100,
    "adopt: holes, also under forged block counts; too large",
    "ValueError; holes and size can be allowed",
)


@row_100
@pytest.mark.parametrize("forged", [False, True])
def test_holes_are_refused(f, given, forged):
    """Reading holes takes the reader's memory, and blocks past the end hide them."""
    if forged:
        offset, size = ctypes.c_long(8192), ctypes.c_long(8192)
        assert ctypes.CDLL(None).fallocate(f.fileno(), 1, offset, size) == 0
        assert os.fstat(f.fileno()).st_blocks * 512 >= 8192
    f.seal()
    assert os.fstat(given).st_size == 8192
    with pytest.raises(ValueError, match="holes"):
        Memfd.from_fd(given)
    with pytest.raises(ValueError, match="8192 bytes, more than max_size=8191"):
        Memfd.from_fd(given, dense=False, max_size=8191)
    with Memfd.from_fd(given, dense=False, max_size=8192) as g:
        assert g.read() == bytes(8192)


@row_100
def test_sizes_are_limited(given, f):
    """A dense file is limited by max_size alone; an enormous one never by less."""
    os.pwrite(given, b"x" * 8192, 0)
    f.seal()
    with pytest.raises(ValueError, match="more than max_size=100"):
        Memfd.from_fd(given, max_size=100)
    with memfd.create(size=(1 << 63) - 1) as enormous:
        enormous.seal()
        with pytest.raises(ValueError, match="holes"):
            Memfd.from_fd(enormous.fileno())
        with pytest.raises(ValueError, match="more than max_size="):
            Memfd.from_fd(enormous.fileno(), dense=False)
    with Memfd.from_fd(given, max_size=8192) as g:
        assert len(g.read()) == 8192


row_101 = pytest.mark.row(
    101,
    "adopt: folder, FIFO, pipe, socket, device, eventfd, tmpfs file, O_PATH, O_WRONLY",
    "refused without waiting",
)


def no_memfd(kind, tmp_path):
    """Return a descriptor of this kind."""
    if kind == "FIFO":
        os.mkfifo(tmp_path / "fifo")
        return os.open(tmp_path / "fifo", os.O_RDWR)
    if kind == "pipe":
        fd, write = os.pipe()
        os.close(write)
        return fd
    if kind == "socket":
        return socket.socket(socket.AF_UNIX).detach()
    if kind == "eventfd":
        return os.eventfd(0)
    if kind == "tmpfs":
        fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE)
        os.truncate(fd, 4096)
        return fd
    if kind in ("O_PATH", "O_WRONLY"):
        with memfd.from_bytes(b"data") as f:
            return os.open(f.path, getattr(os, kind))
    return os.open(kind, os.O_RDONLY)


@row_101
@pytest.mark.parametrize("require", [Seal.IMMUTABLE, SHRINK, None])
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("/", ValueError, "not a memfd"),
        ("/dev/zero", ValueError, "not a memfd"),
        ("/proc/self/status", ValueError, "not a memfd"),
        ("FIFO", ValueError, "not a memfd"),
        ("pipe", ValueError, "not a memfd"),
        ("socket", ValueError, "not a memfd"),
        ("eventfd", ValueError, "not a memfd"),
        ("O_WRONLY", ValueError, "not open for reading"),
        ("O_PATH", OSError, rf"Errno {errno.EBADF}\b"),
    ],
)
def test_no_memfd(stream, tmp_path, require, kind, error, words):
    """It is told what it is by calls that never wait, and nothing is read from it."""
    here, there = stream
    fd = no_memfd(kind, tmp_path)
    socket.send_fds(here, [b"x"], [fd])
    with pytest.raises(error, match=words):
        Memfd.from_fd(fd, require=require)
    with pytest.raises(error, match=words):
        Memfd.from_fd(fd, require=require, copy=True)
    with pytest.raises(error, match=words):
        memfd.attach(fd, require=require)
    with pytest.raises(error, match=words):
        memfd.recv(there, require=require)
    os.close(fd)


@row_101
def test_tmpfs_file_is_no_memfd(tmp_path):
    """A file of a tmpfs has the seal that forbids seals, and so lacks all others."""
    try:
        fd = no_memfd("tmpfs", tmp_path)
    except OSError as error:
        pytest.skip(f"no unnamed file in /dev/shm: {error}")
    assert memfd.get_seals(fd) == Seal.SEAL
    with fails(errno.EPERM):
        memfd.add_seals(fd, Seal.IMMUTABLE)
    with pytest.raises(SealError) as caught:
        Memfd.from_fd(fd)
    assert caught.value.missing == Seal.IMMUTABLE
    os.close(fd)


@row_101
def test_paths_are_opened_without_waiting(run, tmp_path):
    """A FIFO that nobody writes to keeps nobody waiting, read-only and read-write."""
    os.mkfifo(tmp_path / "fifo")
    run(
        """
        import sys
        import memfd
        for mode in ("r", "r+", "c"):
            for path in sys.argv[1:]:
                try:
                    memfd.attach(path, mode)
                except (ValueError, OSError):
                    continue
                raise SystemExit("no error")
        """,
        str(tmp_path / "fifo"),
        str(tmp_path),
        "/dev/zero",
    )


row_102 = pytest.mark.row(
    102,
    "adopt: EXEC seal and x bits; EXEC seal while mapped writable",
    "SealError; EBUSY, unless the kernel's seals can lie",
)


@pytest.fixture
def executable():
    """A memfd with executable bits, on a kernel that has F_SEAL_EXEC."""
    try:
        f = memfd.create("executable", executable=True)
    except PermissionError as error:
        pytest.skip(str(error))
    with f:
        with memfd.create() as other:
            if not other.seals & Seal.EXEC:
                pytest.skip("this kernel has no F_SEAL_EXEC (Linux 6.3)")
        f.write(b"x" * 8192)
        yield f


@row_102
@pytest.mark.parametrize("seals", [Seal.EXEC, Seal.EXEC | Seal.IMMUTABLE])
def test_executable_is_refused_with_the_seal(executable, seals):
    """Where x bits and EXEC are there together, the seals prove nothing."""
    f = executable
    f.seal(seals)
    assert f.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    fd = os.dup(f.fileno())
    with pytest.raises(SealError, match="executable"):
        Memfd.from_fd(fd)
    with Memfd.from_fd(fd, copy=True) as g:
        assert g.read() == b"x" * 8192
        assert stat.S_IMODE(os.fstat(g.fileno()).st_mode) & 0o111 == 0


@row_102
def test_executable_is_adopted_without_the_seal(executable):
    """Without EXEC the seals are those that somebody added, and hold."""
    executable.seal(Seal.IMMUTABLE)
    with Memfd.from_fd(os.dup(executable.fileno())) as g:
        assert g.read() == b"x" * 8192


@row_102
def test_executable_mapped_writable(executable):
    """A mended kernel refuses seals that do not hold; none of them deceives from_fd."""
    f = executable
    with f.mmap("r+"):
        try:
            memfd.add_seals(f, Seal.EXEC)
        except OSError as error:
            refused = error.errno
        else:
            refused = 0
            with pytest.raises(SealError, match="executable"):
                Memfd.from_fd(f.fileno())
    if not refused:
        pytest.skip("this kernel reports seals of a program that do not hold")
    assert refused == errno.EBUSY
    assert f.seals == 0


row_103 = pytest.mark.row(
    103, "adopt: sealed, with mode 0000 and another owner", "ok: a sender's to choose"
)


@row_103
def test_mode_and_owner_do_not_matter(f, given, run):
    """A passed descriptor is open already, and needs no right to the file."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    f.write(b"x" * 8192)
    f.seal()
    os.fchmod(f.fileno(), 0)
    run(
        """
        import os, sys
        import memfd
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        fd = int(sys.argv[1])
        try:
            os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        except PermissionError:
            pass
        else:
            raise SystemExit("no error")
        with memfd.Memfd.from_fd(fd, dense=False) as f:
            assert f.read(8) == b"x" * 8
            assert f.tell() == 8
            assert bytes(memfd.Mapping(f)) == b"x" * 8192
        """,
        str(given),
        pass_fds=[given],
    )


@row_103
def test_mode_of_a_file_of_ones_own(f, given):
    """Of mode 0000 it is the same for its owner."""
    f.write(b"x" * 8192)
    f.seal()
    os.fchmod(f.fileno(), 0)
    with Memfd.from_fd(given, dense=False) as g, Mapping(g) as m:
        assert g.read() == bytes(m) == b"x" * 8192


row_104 = pytest.mark.row(
    104,
    "adopt: the peer moves the position, and sets O_APPEND",
    "shared by raw descriptors; not by what is adopted",
)


@row_104
def test_raw_description_is_shared(f, stream):
    """Position and flags belong to the open file, which a passed descriptor shares."""
    here, there = stream
    socket.send_fds(here, [b"x"], [f.fileno()])
    _, (fd,), _, _ = socket.recv_fds(there, 1, 1)
    f.seek(100)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 100
    fcntl.fcntl(f, fcntl.F_SETFL, os.O_APPEND)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    assert os.pwrite(fd, b"end", 0) == 3
    assert (f.size, os.pread(fd, 3, 8192)) == (8195, b"end")
    os.close(fd)


@row_104
@pytest.mark.parametrize("adopt", ["recv", "from_fd"])
def test_adopted_position_is_its_own(stream, adopt):
    """Reading begins at 0, and neither side moves the other."""
    here, there = stream
    with memfd.from_bytes(b"0123456789") as f:
        f.seek(5)
        memfd.send(here, f)
        if adopt == "recv":
            g = memfd.recv(there)
        else:
            _, (fd,), _, _ = socket.recv_fds(there, len(FRAME), 1)
            g = Memfd.from_fd(fd)
        with g:
            assert g.read(2) == b"01"
            f.seek(9)
            assert g.read(2) == b"23"
            assert (f.tell(), g.tell()) == (9, 4)


row_105 = pytest.mark.row(
    105,
    "the receiver seals: sender unmapped; mapped writable; sealed with SEAL",
    "ok; EBUSY; EPERM",
)


@row_105
def test_sealed_on_receipt(stream, f):
    """Who was given a writable descriptor seals it, for the sender, too."""
    here, there = stream
    f.write(b"x" * 8192)
    memfd.send(here, f)
    with memfd.recv(there, require=None) as g:
        g.seal(Seal.IMMUTABLE)
        with fails(errno.EPERM):
            f.truncate(0)
        with Memfd.from_fd(os.dup(g.fileno())) as h:
            assert h.read() == b"x" * 8192


@row_105
def test_sealed_on_receipt_of_what_is_in_use(stream, other):
    """A sender that maps it writable is named; one that forbids seals has its way."""
    here, there = stream
    process = other(
        """
        import socket, sys
        import memfd
        sock = socket.socket(fileno=int(sys.argv[1]))
        f, g = memfd.create(size=4096), memfd.create(size=4096)
        m = memfd.Mapping(f, "r+")
        g.seal(memfd.Seal.SEAL)
        memfd.send(sock, f)
        memfd.send(sock, g)
        print("sent", flush=True)
        sys.stdin.read()
        """,
        here.fileno(),
        pass_fds=[here.fileno()],
    )
    with memfd.recv(there, require=None) as g:
        with fails(errno.EBUSY):
            fcntl.fcntl(g, memfd.F_ADD_SEALS, int(Seal.IMMUTABLE))
        with pytest.raises(OSError, match=str(process.pid)):
            g.seal(Seal.IMMUTABLE)
        assert not g.seals & Seal.IMMUTABLE
        g.seal(SHRINK | GROW)
    with memfd.recv(there, require=None) as g:
        with fails(errno.EPERM):
            g.seal(SHRINK)


@pytest.mark.row(106, "adopt: hugetlb", "ValueError, unless hugetlb=True")
@pytest.mark.usefixtures("huge_page")
def test_hugetlb_is_refused(stream):
    """Pages of the pool are adopted by those who ask for them."""
    here, there = stream
    with memfd.create(size=HUGE, hugetlb=HUGE) as f:
        with Mapping(f, "r+") as m:
            memoryview(m)[0] = 7
        f.seal()
        fd = os.dup(f.fileno())
        for require in (Seal.IMMUTABLE, None):
            with pytest.raises(ValueError, match="hugetlb"):
                Memfd.from_fd(fd, require=require)
            memfd.send(here, f)
            with pytest.raises(ValueError, match="hugetlb"):
                memfd.recv(there, require=require)
        with Memfd.from_fd(fd, hugetlb=True) as g, Mapping(g) as m:
            assert (g.size, m.size, memoryview(m)[0]) == (HUGE, HUGE, 7)


row_107 = pytest.mark.row(
    107, "adopt: refused; closed or impossible number", "caller's as before; error"
)


@row_107
def test_refused_descriptor_is_unchanged(f, given):
    """Who is refused a descriptor has it as it was: open, inheritable, at its position."""
    os.set_inheritable(given, True)
    os.lseek(given, 5, os.SEEK_SET)
    with pytest.raises(SealError):
        Memfd.from_fd(given)
    assert os.get_inheritable(given)
    assert os.lseek(given, 0, os.SEEK_CUR) == f.tell() == 5
    f.write(b"x" * 8187)
    os.pwrite(given, b"x" * 5, 0)
    f.seal()
    with Memfd.from_fd(given) as g:
        assert g.fileno() == given
        assert not os.get_inheritable(given)
    with fails(errno.EBADF):
        os.fstat(given)


@row_107
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (-1, ValueError),
        (1 << 31, (OSError, OverflowError)),
        (1 << 64, OverflowError),
        ("3", TypeError),
        (3.0, TypeError),
    ],
)
def test_impossible_descriptor(number, error):
    """What can be no descriptor is refused, and never cut to one that can."""
    with pytest.raises(error):
        Memfd.from_fd(number)


@row_107
def test_closed_descriptor(f):
    """A closed number is EBADF."""
    number = f.fileno()
    f.close()
    with fails(errno.EBADF):
        Memfd.from_fd(number)
    with fails(errno.EBADF):
        memfd.get_seals(number)


row_108 = pytest.mark.row(
    108, "adopt with copy=True: unsealed; sealed", "a sealed copy; the file itself"
)


@row_108
def test_copy_of_what_is_unsealed(f, given):
    """The copy is sealed, and what the sender writes later is not in it."""
    f.write(b"x" * 8192)
    with Memfd.from_fd(given, copy=True, dense=False) as g:
        with fails(errno.EBADF):
            os.fstat(given)
        os.pwrite(f.fileno(), b"y", 0)
        f.truncate(10)
        assert not os.path.sameopenfile(f.fileno(), g.fileno())
        assert g.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
        assert (g.name, g.read()) == ("f", b"x" * 8192)


@row_108
def test_copy_of_what_is_sealed(f, given):
    """What is sealed is not copied."""
    f.write(b"x" * 8192)
    f.seal()
    with Memfd.from_fd(given, copy=True) as g:
        assert g.fileno() == given
        assert os.path.sameopenfile(f.fileno(), g.fileno())
