"""from_fd: what a descriptor from somebody else has to be."""

import contextlib
import mmap
import os
import pickle
import resource
import socket
import struct
import sys
import tempfile
import textwrap

import pytest

import memfd
from memfd import Memfd, Seal, SealError, _foreign


def test_adopting_owns_the_descriptor(f):
    """A good memfd is adopted: name, seals, not inheritable, closed with the Memfd."""
    f.write(bytes(8192))
    f.seal()
    foreign = os.dup(f.fileno())
    os.set_inheritable(foreign, True)

    with Memfd.from_fd(foreign) as adopted:
        assert adopted.fileno() == foreign
        assert (adopted.name, adopted.size) == ("f", 8192)
        assert not os.get_inheritable(foreign)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(foreign)


def sealed(flags=memfd.MFD_ALLOW_SEALING, data=b"x" * 8192, seals=Seal.IMMUTABLE):
    fd = memfd.memfd_create("x", flags | memfd.MFD_CLOEXEC)
    os.write(fd, data)
    memfd.add_seals(fd, seals)
    return fd


def reopened(access):
    fd = sealed()
    again = os.open(f"/proc/self/fd/{fd}", access)
    os.close(fd)
    return again


def socket_fd():
    with socket.socket(socket.AF_UNIX) as sock:
        return os.dup(sock.fileno())


def pipe_fd():
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def tmpfs_fd():
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    path = f"/dev/shm/memfd-test-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(path)
    return fd


def sparse_fd():
    fd = memfd.memfd_create("x", memfd.MFD_ALLOW_SEALING)
    memfd.set_size(fd, 1 << 20)
    os.pwrite(fd, b"x", 0)
    memfd.add_seals(fd, Seal.IMMUTABLE)
    return fd


def zeros_fd(size, data=b""):
    fd = memfd.memfd_create("x", memfd.MFD_ALLOW_SEALING)
    os.write(fd, data)
    memfd.set_size(fd, size)
    memfd.add_seals(fd, Seal.IMMUTABLE)
    return fd


def forged_blocks_fd():
    fd = memfd.memfd_create("x", memfd.MFD_ALLOW_SEALING)
    memfd.set_size(fd, 1 << 20)
    os.posix_fallocate(fd, 1 << 20, 1 << 20)
    memfd.set_size(fd, 1 << 20)
    memfd.add_seals(fd, Seal.IMMUTABLE)
    return fd


def hugetlb_fd():
    flags = memfd.MFD_HUGETLB | memfd.MFD_HUGE_2MB | memfd.MFD_ALLOW_SEALING
    try:
        fd = memfd.memfd_create("x", flags)
    except OSError as error:
        pytest.skip(f"no huge pages of 2 MiB: {error}")
    memfd.set_size(fd, 2 << 20)
    memfd.add_seals(fd, Seal.IMMUTABLE)
    return fd


def executable_fd():
    flags = memfd.MFD_EXEC | memfd.MFD_ALLOW_SEALING
    try:
        fd = memfd.memfd_create("x", flags)
    except OSError as error:
        pytest.skip(f"flags {flags:#x} of Linux 6.3: {error}")
    os.write(fd, b"x" * 8192)
    memfd.add_seals(fd, Seal.EXEC)
    return fd


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(lambda: sealed(seals=0), SealError, "lacks", id="unsealed"),
        pytest.param(
            lambda: sealed(seals=Seal.WRITE), SealError, "SHRINK.GROW", id="partly"
        ),
        pytest.param(
            lambda: sealed(seals=Seal.FUTURE_WRITE | Seal.SHRINK | Seal.GROW),
            SealError,
            "lacks seals WRITE",
            id="future write only",
        ),
        pytest.param(executable_fd, SealError, "executable", id="EXEC and x bits"),
        pytest.param(
            lambda: reopened(os.O_WRONLY), ValueError, "writing", id="write-only"
        ),
        pytest.param(lambda: reopened(os.O_PATH), OSError, "Bad file", id="O_PATH"),
        pytest.param(
            lambda: os.open("/", os.O_RDONLY), ValueError, "not a", id="folder"
        ),
        pytest.param(
            lambda: os.open("/dev/zero", os.O_RDWR), ValueError, "not a", id="device"
        ),
        pytest.param(
            lambda: os.open(__file__, os.O_RDONLY), ValueError, "not a", id="disk file"
        ),
        pytest.param(pipe_fd, ValueError, "is not a memfd", id="pipe"),
        pytest.param(socket_fd, ValueError, "is not a memfd", id="socket"),
        pytest.param(lambda: os.eventfd(0), ValueError, "is not a memfd", id="eventfd"),
        pytest.param(tmpfs_fd, SealError, "lacks", id="tmpfs file"),
        pytest.param(sparse_fd, ValueError, "has holes", id="sparse"),
        pytest.param(lambda: zeros_fd(1), ValueError, "has holes", id="one hole"),
        pytest.param(
            lambda: zeros_fd(4 * mmap.PAGESIZE, b"x" * 3 * mmap.PAGESIZE),
            ValueError,
            "has holes",
            id="a hole at the end",
        ),
        pytest.param(forged_blocks_fd, ValueError, "has holes", id="forged st_blocks"),
        pytest.param(hugetlb_fd, ValueError, "a hugetlb memfd", id="hugetlb"),
    ],
)
def test_bad_descriptor_is_refused_and_stays_the_caller_s(make, error, words):
    """Each wrong kind is refused, and the descriptor is still open and as it was."""
    fd = make()
    before = os.fstat(fd), os.get_inheritable(fd)

    try:
        with pytest.raises(error, match=words):
            Memfd.from_fd(fd)

        assert (os.fstat(fd), os.get_inheritable(fd)) == before
    finally:
        os.close(fd)


def test_sealing_without_proc(run, tmp_path):
    """Who maps the file cannot be told then, and it is refused as ever."""
    if os.geteuid():
        pytest.skip("needs root to leave /proc")
    run(
        """
        import os, sys
        import memfd
        f = memfd.create(size=4096)
        mapped = f.mmap("r+")
        repr(f)  # imports what messages need
        os.chroot(sys.argv[1])
        try:
            f.seal()
        except BufferError as error:
            assert "1 mappings of it in this process" in str(error)
        else:
            raise SystemExit("it was sealed")
        """,
        str(tmp_path),
    )


def test_all_seals_at_once_may_be_forged(run, namespace):
    """Seal.FUTURE_WRITE and EXEC count as forged, unless this kernel proves to be mended.

    It cannot prove that where executable memfds are forbidden.
    """
    run(
        """
        import os, sys
        import memfd
        from memfd import Seal

        def accepted(seals):
            f = memfd.create("f", size=10)
            f.write(bytes(10))
            f.seal(Seal.IMMUTABLE | seals)
            assert f.seals & Seal.EXEC
            try:
                memfd.Memfd.from_fd(os.dup(f.fileno()))
            except memfd.SealError as error:
                assert "may" in str(error) or "do not hold" in str(error), error
                return False
            return True

        if not memfd.create().seals & Seal.EXEC:
            sys.exit()  # before Linux 6.3 there is nothing to forge
        with open("/proc/sys/vm/memfd_noexec", "w") as file:
            file.write("2")
        assert accepted(0)
        assert not accepted(Seal.FUTURE_WRITE)
        """,
        wrapper=namespace("-pf", "--mount-proc"),
    )


def test_a_mended_kernel_may_report_all_seals():
    """Where F_SEAL_EXEC does not lie, all seals at once are believed."""
    if _foreign._can_be_forged():
        pytest.skip("this kernel can be made to report seals that do not hold")
    Memfd.from_fd(sealed(seals=Seal.IMMUTABLE | Seal.FUTURE_WRITE)).close()
    with memfd.create(size=1) as f:
        f.write(b"x")
        f.seal(Seal.IMMUTABLE | Seal.FUTURE_WRITE)
        Memfd.from_fd(os.dup(f.fileno())).close()


def test_the_executable_bits_can_be_taken_off_a_sealed_file():
    """An access control list does what F_SEAL_EXEC keeps chmod from doing."""
    fd = executable_fd()
    entries = [(1, 6), (4, 4), (0x20, 4)]  # user, group, others
    anybody = 0xFFFFFFFF
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", kind, bits, anybody) for kind, bits in entries
    )
    try:
        with pytest.raises(PermissionError):
            os.fchmod(fd, 0o644)
        try:
            os.setxattr(fd, "system.posix_acl_access", acl)
        except OSError as error:
            pytest.skip(f"no access control lists here: {error}")
        assert os.fstat(fd).st_mode & 0o777 == 0o644
        assert Seal.IMMUTABLE | Seal.FUTURE_WRITE in memfd.get_seals(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("fd", ["3", 3.0, None])
def test_adopting_something_else(fd):
    """from_fd takes an int."""
    with pytest.raises(TypeError, match="fd must be an int"):
        Memfd.from_fd(fd)


def test_seal_error_says_what_is_missing():
    """SealError carries what is missing and what is there."""
    fd = sealed(seals=Seal.SHRINK)
    try:
        with pytest.raises(
            SealError, match=rf"fd {fd} lacks seals GROW\|WRITE"
        ) as caught:
            Memfd.from_fd(fd)
        assert caught.value.missing == Seal.GROW | Seal.WRITE
        assert caught.value.present & Seal.SHRINK
        assert str(caught.value).endswith(("(it has SHRINK)", "(it has SHRINK|EXEC)"))
        copied = pickle.loads(pickle.dumps(caught.value))
        assert (str(copied), copied.missing) == (
            str(caught.value),
            caught.value.missing,
        )
    finally:
        os.close(fd)


def test_trusting_takes_what_is_there(has_cachestat):
    """require=None adopts an unsealed memfd; one seal can be required too."""
    with Memfd.from_fd(sealed(seals=0), require=None) as f:
        assert f.write(b"y") == 1
    fd = sealed(seals=Seal.SHRINK)
    # Before Linux 6.5 it cannot be told whether there are holes.
    with Memfd.from_fd(fd, require=Seal.SHRINK, dense=has_cachestat) as f:
        assert f.size == 8192


def test_trust_does_not_reach_files_with_a_name():
    """A file of an ordinary tmpfs answers F_GET_SEALS, and still is no memfd."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        for require in (None, Seal.SEAL):
            with pytest.raises(ValueError, match="a file with a name, not a memfd"):
                Memfd.from_fd(file.fileno(), require=require)


def test_size_is_bounded():
    """max_size refuses what is larger; sparse files have a bound of their own."""
    fd = sealed()
    with pytest.raises(ValueError, match="8192 bytes, more than max_size=8191"):
        Memfd.from_fd(fd, max_size=8191)
    Memfd.from_fd(fd, max_size=8192).close()
    Memfd.from_fd(sparse_fd(), dense=False).close()
    fd = memfd.memfd_create("x", memfd.MFD_ALLOW_SEALING)
    memfd.set_size(fd, 1 << 50)
    memfd.add_seals(fd, Seal.IMMUTABLE)
    with pytest.raises(ValueError, match=f"{1 << 50} bytes, more than max_size"):
        Memfd.from_fd(fd, dense=False)
    os.close(fd)


def test_looking_for_holes_moves_no_position():
    """The position that sender and receiver share is put back."""
    fd = sealed()
    other = os.dup(fd)
    os.lseek(other, 77, os.SEEK_SET)

    Memfd.from_fd(fd).close()

    assert os.lseek(other, 0, os.SEEK_CUR) == 77
    os.close(other)


# A file of another user that can only be read, of which the kernel does not count pages.
STRANGER = """
    import os, sys
    import memfd
    from memfd import Seal, _core
    if os.geteuid():
        print("needs root to become another user")
        sys.exit()

    def stranger(f, seals=Seal.IMMUTABLE):
        f.seal(seals)
        return os.open(f.path, os.O_RDONLY)

    def become():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


@pytest.fixture
def stranger(run):
    """Run a program that begins with STRANGER."""

    def stranger(program):
        said = run(textwrap.dedent(STRANGER) + textwrap.dedent(program))
        if said:
            pytest.skip(said.strip())

    return stranger


def test_looking_for_holes_moves_no_position_meanwhile(stranger):
    """Who looks at the shared position all the time sees the same one all the time."""
    stranger("""
        fd = stranger(memfd.from_bytes(bytes(8192)), 0)
        become()
        os.lseek(fd, 77, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            os._exit({os.lseek(fd, 0, os.SEEK_CUR) for _ in range(500_000)} != {77})
        ended = 0
        while not ended:
            assert _core.has_holes(fd, 8192, True) is False
            ended, code = os.waitpid(pid, os.WNOHANG)
        assert code == 0, "the position moved"
    """)


def test_holes_of_a_file_that_can_only_be_read(stranger):
    """They are found in a description of our own."""
    stranger("""
        dense, sparse = memfd.create(), memfd.create(size=8192)
        dense.write(bytes(8192))
        fds = [stranger(dense), stranger(sparse)]
        become()
        assert [_core.has_holes(fd, 8192, True) for fd in fds] == [False, True]
        memfd.Memfd.from_fd(fds[0]).close()
        try:
            memfd.Memfd.from_fd(fds[1])
        except ValueError as error:
            assert "has holes" in str(error), error
        else:
            raise SystemExit("a sparse file was accepted")
    """)


@pytest.mark.parametrize("how", ["closed", "unsealed"])
def test_what_may_have_holes(stranger, how):
    """What cannot be opened again, or still be written, is refused, but as a copy."""
    stranger(f"""
        f = memfd.create()
        f.write(bytes(8192))
        if {how == "closed"}:
            fd = stranger(f)
            os.fchmod(fd, 0)
        else:
            fd = stranger(f, Seal.SHRINK)
        probe = stranger(memfd.from_bytes(bytes(8192)), 0)
        os.fchmod(probe, 0)
        become()
        if _core.has_holes(probe, 8192, True) is not None:
            print("this kernel counts the pages of all files")
            sys.exit()
        require = Seal.IMMUTABLE if {how == "closed"} else Seal.SHRINK
        try:
            memfd.Memfd.from_fd(fd, require=require)
        except ValueError as error:
            assert "may have holes" in str(error), error
        else:
            raise SystemExit("it was accepted")
        memfd.Memfd.from_fd(os.dup(fd), require=require, dense=False).close()
        if {how != "closed"}:
            assert memfd.Memfd.from_fd(os.dup(fd), copy=True).read() == bytes(8192)
    """)


def test_holes_of_what_is_written_meanwhile(f, has_cachestat):
    """Who writes to a file of SHRINK alone is not waited for, and copies are dense, too."""
    f.write(bytes(8192))
    f.seal(Seal.SHRINK)
    fd = os.dup(f.fileno())
    try:
        Memfd.from_fd(fd, require=Seal.SHRINK).close()
    except ValueError as error:
        os.close(fd)
        if has_cachestat:
            raise
        pytest.skip(f"no cachestat before Linux 6.5: {error}")
    for data in (b"x" * 4096, b""):
        sparse = sealed(seals=Seal.SHRINK, data=data)
        memfd.set_size(sparse, 8192)
        for options in ({"require": Seal.SHRINK}, {"copy": True}):
            with pytest.raises(ValueError, match="has holes"):
                Memfd.from_fd(sparse, **options)
        with Memfd.from_fd(sparse, copy=True, dense=False) as copy:
            assert copy.read() == data.ljust(8192, b"\0")


def test_an_empty_file_has_no_holes():
    """There is no page that could be missing."""
    Memfd.from_fd(sealed(data=b"")).close()


@pytest.mark.parametrize("data", [b"data", bytes(4), b"data" * 5000])
def test_a_sender_that_keeps_the_position_busy(run, data):
    """Who reads into memory that never comes holds the lock of the shared position."""
    said = run(f"""
        data = {data}
        import ctypes, fcntl, mmap, os, select, signal, struct, sys, threading
        import memfd

        call = {{"x86_64": 323, "aarch64": 282}}.get(os.uname().machine, -1)
        libc = ctypes.CDLL(None, use_errno=True)
        faults = libc.syscall(call, os.O_CLOEXEC)
        if faults == -1:
            print("userfaultfd:", os.strerror(ctypes.get_errno()))
            sys.exit()
        api, register, missing = 0xC018AA3F, 0xC020AA00, 1
        fcntl.ioctl(faults, api, struct.pack("QQQ", 0xAA, 0, 0))
        memory = mmap.mmap(-1, 4096)
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        region = struct.pack("QQQQ", place, 4096, missing, 0)
        fcntl.ioctl(faults, register, region)

        f = memfd.from_bytes(data)
        reader = threading.Thread(target=os.readv, args=(f.fileno(), [memory]))
        reader.start()
        select.select([faults], [], [])

        signal.alarm(10)  # ends even what no handler can interrupt
        memfd.Memfd.from_fd(os.dup(f.fileno())).close()
        signal.alarm(0)
        os.close(faults)
        reader.join()
    """)
    if said:
        pytest.skip(said.strip())


def test_copy_takes_what_is_not_sealed():
    """copy=True gives a sealed copy that the sender cannot change any more."""
    fd = sealed(seals=0, data=b"first" + bytes(3 << 20))
    sender = os.dup(fd)

    with Memfd.from_fd(fd, copy=True) as f:
        os.pwrite(sender, b"later", 0)
        memfd.set_size(sender, 0)

        assert f.read() == b"first" + bytes(3 << 20)
        assert f.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    os.close(sender)


def test_copy_is_bounded_too():
    """A huge unsealed memfd is not copied without bounds, and stays the caller's."""
    fd = memfd.memfd_create("x", memfd.MFD_ALLOW_SEALING)
    memfd.set_size(fd, 1 << 50)
    # Whatever goes wrong, the copy takes no memory.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(ValueError, match="more than max_size"):
            Memfd.from_fd(fd, copy=True, dense=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(fd)


def test_hugetlb_is_taken_where_it_is_asked_for():
    """hugetlb=True adopts pages of the pool."""
    with Memfd.from_fd(hugetlb_fd(), hugetlb=True) as f:
        assert f.size == 2 << 20


@pytest.mark.usefixtures("huge_page")
def test_hugetlb_with_contents():
    """What is in pages of the pool arrives as it was, and with all that info() tells."""
    with memfd.create("huge", 2 << 20, hugetlb=2 << 20) as sent:
        with memfd.Mapping(sent, "r+") as m:
            memoryview(m)[:5] = b"pages"
        sent.seal()
        with Memfd.from_fd(os.dup(sent.fileno()), hugetlb=True) as f:
            assert f.read(6) == b"pages\0"
            assert f.info() == (2 << 20, 2 << 20, 2 << 20)


@contextlib.contextmanager
def meanwhile(act, step):
    """Let a sender `act` between two steps of the receiver, calls and returns."""
    steps = 0

    def count(frame, event, argument):
        nonlocal steps
        steps += 1
        if steps == step:
            act()
        assert steps < 5000, "it never ends"

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_sender_that_grows_and_seals_between_two_checks():
    """Whenever it does so, what is larger than max_size is not adopted."""
    acted, step = True, 0
    while acted:
        acted, step = False, step + 1
        fd, left = sealed(seals=0, data=b"x"), step

        def trace(frame, event, argument, fd=fd):
            nonlocal acted, left
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0 and not acted:
                acted = True
                os.pwrite(fd, bytes(8192), 0)
                memfd.add_seals(fd, Seal.IMMUTABLE)
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at that beforehand
        sys.settrace(trace)
        try:
            with contextlib.suppress(ValueError, SealError):
                Memfd.from_fd(fd, max_size=1)
                acted = "adopted"
        finally:
            sys.settrace(before)
        assert acted != "adopted", step
        os.close(fd)
    assert step > 50


@pytest.mark.parametrize("later", [0, 900_000])
def test_a_sender_that_changes_the_size_of_what_is_copied(later, has_cachestat):
    """Whenever it does so, the copy has the size that was checked, or is refused."""
    size, outcomes = 600_000, set()
    for step in range(1, 200):
        fd = sealed(seals=0, data=bytes(size))
        sender = os.dup(fd)
        try:
            with meanwhile(lambda to=sender: memfd.set_size(to, later), step):
                f = Memfd.from_fd(fd, max_size=size, copy=True)
        except ValueError as error:
            outcomes.add(str(error).split()[2])
            os.close(fd)
        else:
            outcomes.add(f.size)
            f.close()
        os.close(sender)

    # What shrank has holes, as long as its size is not known.
    has = {"has"} if later or has_cachestat else set()
    assert outcomes == {size, *has, *({0, "shrank"} if later == 0 else ())}


def test_sealed_needs_no_copy():
    """copy=True adopts what is sealed as it is."""
    fd = sealed()
    with Memfd.from_fd(fd, copy=True) as f:
        assert f.fileno() == fd


@pytest.mark.parametrize(
    "opens",
    [
        "memfd.create('f', 4096)",
        "f.reopen()",
        "memfd.attach(f)",
        "memfd.attach(f.fileno())",
        "memfd.attach(f.path)",
        # As if it had just been received.
        "setattr(f, '_foreign', True) or f.read(1)",
    ],
)
def test_a_signal_handler_that_raises_leaves_no_descriptor(run, opens):
    """However soon an exception comes, what was opened is closed, and only once."""
    run(
        """
        import os, signal, sys
        import memfd

        f = memfd.share([1.0]).memfd
        twice = []
        sys.unraisablehook = lambda lost: twice.append(lost.exc_type is not Stop)

        class Stop(Exception):
            pass

        def stop(*_):
            raise Stop

        signal.signal(signal.SIGALRM, stop)
        before = len(os.listdir("/proc/self/fd"))
        stopped = 0
        while stopped < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                for _ in range(1000):  # an exception in close() at its end is lost
                    OPENS
            except Stop:
                stopped += 1
        assert len(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
        assert not any(twice), "a descriptor was closed twice"
        """.replace("OPENS", opens)
    )
