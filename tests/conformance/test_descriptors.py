"""Rows 109 to 115: descriptors of other processes, opened again, and what is shown."""

import ctypes
import errno
import fcntl
import os
import stat

import pytest

import memfd
from memfd import Mapping, Memfd, Seal, SealError

PIDFD_GETFD = 438
HOLDER = """
    import sys
    import memfd, numpy as np
    a = memfd.share(np.arange(5))
    f = memfd.create("unsealed", size=4096)
    f.seek(7)
    print(a.memfd.fileno(), f.fileno(), flush=True)
    sys.stdin.read()
"""
# The same for programs that run as another user.
GET = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)

    def pidfd_getfd(pidfd, fd, flags=0):
        got = libc.syscall(438, pidfd, fd, flags)
        return got if got != -1 else -ctypes.get_errno()
"""


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


@pytest.fixture
def getfd():
    """Call pidfd_getfd(2) on a process, where the kernel has it and allows it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def getfd(pidfd, fd, flags=0):
        got = libc.syscall(PIDFD_GETFD, pidfd, fd, flags)
        if got == -1:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return got

    try:
        own = os.pidfd_open(os.getpid())
    except OSError as error:
        pytest.skip(f"no pidfd_open: {error}")
    try:
        os.close(getfd(own, own))
    except OSError as error:
        pytest.skip(f"no pidfd_getfd: {error}")
    finally:
        os.close(own)
    return getfd


@pytest.fixture
def holder(other):
    """A process that holds a sealed array and an unsealed memfd; and their numbers."""
    process = other(HOLDER)
    return process, *map(int, process.said.split())


@pytest.mark.row(
    109,
    "pidfd_getfd; /proc/PID/fd opened",
    "the same open file, close-on-exec; one of its own",
)
def test_descriptors_of_another_process(getfd, holder):
    """Both ways lead to the file; by pidfd_getfd the position is shared."""
    process, _, unsealed = holder
    pidfd = os.pidfd_open(process.pid)
    try:
        fd = getfd(pidfd, unsealed)
    except PermissionError as error:
        os.close(pidfd)
        pytest.skip(f"not allowed here: {error}")
    own = os.open(f"/proc/{process.pid}/fd/{unsealed}", os.O_RDWR)
    assert not os.get_inheritable(fd)
    assert os.path.sameopenfile(fd, own)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    assert os.lseek(own, 0, os.SEEK_CUR) == 0
    with pytest.raises(SealError):
        Memfd.from_fd(fd)
    with Memfd.from_fd(fd, require=None) as f:
        assert (f.name, f.size, f.read(4)) == ("unsealed", 4096, bytes(4))
    with fails(errno.EINVAL):
        getfd(pidfd, unsealed, 1)
    for fd in (own, pidfd):
        os.close(fd)


row_110 = pytest.mark.row(
    110,
    "pidfd_getfd, /proc/PID/fd: dead process; bad number; other user; not dumpable",
    "ESRCH, ENOENT; EBADF, ENOENT; EPERM, EACCES; the same",
)


@row_110
def test_dead_process_and_bad_number(getfd, holder):
    """What is not there is an error that says so."""
    process, sealed, _ = holder
    pidfd = os.pidfd_open(process.pid)
    path = f"/proc/{process.pid}/fd"
    with fails(errno.EBADF):
        getfd(pidfd, 1_000_000)
    with fails(errno.ENOENT):
        memfd.attach(f"{path}/1000000")
    process.kill()
    process.wait()
    with fails(errno.ESRCH):
        getfd(pidfd, sealed)
    with fails(errno.ENOENT):
        memfd.attach(f"{path}/{sealed}")
    os.close(pidfd)


@row_110
def test_process_of_another_user(getfd, holder, run):
    """Nobody takes a descriptor from a process of somebody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    process, sealed, _ = holder
    run(
        GET
        + """
    import errno, sys
    import memfd
    memfd.attach  # loads NumPy, which the other user may not read
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    pid, fd = map(int, sys.argv[1:])
    assert pidfd_getfd(os.pidfd_open(pid), fd) == -errno.EPERM
    try:
        memfd.attach(f"/proc/{pid}/fd/{fd}")
    except PermissionError as error:
        assert error.errno == errno.EACCES
    else:
        raise SystemExit("no error")
    """,
        str(process.pid),
        str(sealed),
    )


@row_110
def test_process_that_is_not_dumpable(getfd, run):
    """A process that cannot be dumped is closed to others of the same user."""
    run(
        GET
        + """
    import errno, signal
    import memfd
    memfd.attach  # loads NumPy, which the other user may not read
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    f = memfd.from_bytes(b"data")
    read, write = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    pid = os.fork()
    if pid == 0:
        for dumpable in (1, 0):
            assert libc.prctl(4, dumpable, 0, 0, 0) == 0
            os.write(write, b"x")
            signal.sigwait([signal.SIGUSR1])
    pidfd = os.pidfd_open(pid)
    try:
        assert os.read(read, 1) == b"x"
        assert pidfd_getfd(pidfd, f.fileno()) >= 0
        os.kill(pid, signal.SIGUSR1)
        assert os.read(read, 1) == b"x"
        assert pidfd_getfd(pidfd, f.fileno()) == -errno.EPERM
        try:
            memfd.attach(f"/proc/{pid}/fd/{f.fileno()}")
        except PermissionError as error:
            assert error.errno == errno.EACCES
        else:
            raise SystemExit("no error")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    """
    )


@pytest.mark.row(111, "open in /proc, then adopt", "the checks of a received one")
def test_adopted_by_its_path(holder):
    """A path into another process is no shorter way: seals, size and kind are asked."""
    process, sealed, unsealed = holder
    folder = f"/proc/{process.pid}/fd"
    a = memfd.attach(f"{folder}/{sealed}", require=Seal.IMMUTABLE, dense=True)
    assert a.tolist() == [0, 1, 2, 3, 4]
    assert not os.get_inheritable(a.memfd.fileno())
    fd = os.open(f"{folder}/{sealed}", os.O_RDONLY)
    with Memfd.from_fd(fd) as f:
        assert memfd.attach(f).tolist() == [0, 1, 2, 3, 4]
    for path, error, words in (
        (f"{folder}/{unsealed}", SealError, "lacks seals SHRINK"),
        (f"{folder}/0", ValueError, "not a memfd"),
        (folder, ValueError, "not a memfd"),
        (f"/proc/{process.pid}/status", ValueError, "not a memfd"),
    ):
        with pytest.raises(error, match=words):
            memfd.attach(path, require=Seal.SHRINK)
    with pytest.raises(ValueError, match="more than max_size=100"):
        memfd.attach(f"{folder}/{sealed}", max_size=100)
    fd = os.open(f"{folder}/{unsealed}", os.O_RDONLY)
    with pytest.raises(SealError):
        Memfd.from_fd(fd)
    os.close(fd)


row_112 = pytest.mark.row(
    112, "open /proc/self/fd/N again", "own position and access; the mode is asked"
)


@row_112
def test_opened_again(f):
    """The same file by an open file of its own, which can be for reading only."""
    f.write(b"0123456789")
    fd = os.open(f.path, os.O_RDONLY)
    with f.reopen() as g:
        assert os.path.sameopenfile(fd, f.fileno())
        assert (g.read(2), os.read(fd, 3), f.tell()) == (b"01", b"012", 10)
        assert fcntl.fcntl(g, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with fails(errno.EBADF):
            os.write(fd, b"x")
        with fails(errno.EINVAL):
            os.ftruncate(fd, 0)
        with fails(errno.EPERM):
            g.seal()
        assert g.seals == f.seals
        with g.reopen("r+") as h:
            h.write(b"x")
        assert os.pread(fd, 2, 0) == b"x1"
    os.close(fd)


@row_112
@pytest.mark.parametrize(
    ("mode", "reading", "writing"),
    [
        (0o644, True, False),
        (0o444, True, False),
        (0o666, True, True),
        (0, False, False),
    ],
)
def test_mode_is_asked_when_opened_again(f, run, mode, reading, writing):
    """Another user gets by the descriptor what the mode says, and create says 0644."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    if mode == 0o644:
        assert stat.S_IMODE(os.fstat(f.fileno()).st_mode) == mode
    os.fchmod(f.fileno(), mode)
    with f.reopen() as reader:
        run(
            """
            import errno, os, sys
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
            path, *wanted = sys.argv[1:]
            for access, allowed in zip((os.O_RDONLY, os.O_RDWR), wanted):
                try:
                    os.close(os.open(path, access))
                except OSError as error:
                    assert error.errno == errno.EACCES
                    assert allowed == "False", access
                else:
                    assert allowed == "True", access
            """,
            reader.path,
            str(reading),
            str(writing),
            pass_fds=[reader.fileno()],
        )


@pytest.mark.row(
    113, "fork: the child closes, unmaps, seals", "the parent's are as they were"
)
def test_fork(run):
    """A child has its own descriptors and mappings, of the same file."""
    run("""
        import errno, os
        import memfd
        f = memfd.create(size=8192)
        m, n = memfd.Mapping(f, "r+"), memfd.Mapping(f, "c")
        memoryview(n)[1] = 2
        pid = os.fork()
        if pid == 0:
            memoryview(m)[0] = 7
            memoryview(n)[1] = 3
            m.close()
            n.close()
            try:
                f.seal()
            except OSError as error:
                assert error.errno == errno.EBUSY, error
            else:
                os._exit(1)
            f.seal(memfd.Seal.SHRINK)
            f.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert memoryview(m)[0] == 7
        assert memoryview(n)[1] == 2
        assert f.read(2) == b"\\7\\0"
        assert f.seals & memfd.Seal.IMMUTABLE == memfd.Seal.SHRINK
        m.close()
        f.seal()
    """)


@pytest.mark.row(
    114, "all seals: chmod, chown, times; a name for the file", "ok; EXDEV"
)
def test_what_no_seal_covers(tmp_path):
    """Seals are about contents and size; and no memfd ever gets a name in a folder."""
    with memfd.from_bytes(b"data") as f:
        status = os.fstat(f.fileno())
        os.fchmod(f.fileno(), 0o600)
        os.fchown(f.fileno(), status.st_uid, status.st_gid)
        os.utime(f.fileno(), (1, 2))
        changed = os.fstat(f.fileno())
        assert (stat.S_IMODE(changed.st_mode), changed.st_mtime) == (0o600, 2)
        with fails(errno.EXDEV):
            os.link(f.path, tmp_path / "name", follow_symlinks=True)
        assert (changed.st_nlink, os.listdir(tmp_path)) == (0, [])
        assert f.read() == b"data"


row_115 = pytest.mark.row(
    115, "link of the descriptor; repr", "shows the name; size and seals; also closed"
)


@row_115
@pytest.mark.parametrize(
    "name", ["", "label", "a/b\nc", "x" * 249, "\udcff", "é (deleted)"]
)
def test_link_of_a_descriptor(name):
    """/proc shows the name as it is, and what is adopted has it."""
    with memfd.from_bytes(b"data", name) as f:
        assert os.readlink(f.path) == f"/memfd:{name} (deleted)"
        with Memfd.from_fd(os.dup(f.fileno())) as g:
            assert g.name == f.name == name


@row_115
@pytest.mark.parametrize("name", ["", "label", "a\nb", "\udcff"])
def test_repr(name):
    """repr shows name, number, size and seals, fits one line, and works when closed."""
    f = memfd.create(name, 3 << 20)
    f.seal(Seal.SHRINK | Seal.GROW)
    assert repr(f).startswith(f"<memfd.Memfd {name!r} fd={f.fileno()} size=3145728 ")
    assert "seals=SHRINK|GROW" in repr(f)
    m = Mapping(f)
    assert "3145728 bytes" in repr(m)
    m.close()
    f.close()
    for closed in (f, m):
        assert "closed" in repr(closed)
        assert "\n" not in repr(closed)


@row_115
def test_repr_of_what_was_closed_elsewhere():
    """A number that somebody closed is an error that says so, and no crash."""
    f = memfd.create("label")
    os.close(f.fileno())
    with fails(errno.EBADF):
        repr(f)
    with fails(errno.EBADF):
        f.close()
