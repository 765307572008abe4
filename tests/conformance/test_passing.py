"""Rows 91 to 115: descriptors that travel, what is adopted, and what is shown of it."""

import array
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import socket
import stat

import numpy as np
import pytest

import memfd
from memfd import Mapping, Memfd, Seal, SealError

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
FRAME = b"\xfeMFD\x01" + bytes(7)
MOST = 253  # descriptors in one message


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


def rights(*fds):
    """Return the header that carries these descriptors."""
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes()


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


# --- messages --------------------------------------------------------------------------


@pytest.mark.row(
    91, "the message is read by plain recv(2)", "its descriptor is lost, and no leak"
)
@pytest.mark.parametrize("size", [1, 12])
def test_plain_read_loses_the_descriptor(stream, size):
    """Who does not ask for descriptors gets the bytes alone; what follows is refused."""
    here, there = stream
    before = opened()
    with memfd.from_bytes(b"data") as f:
        memfd.send(here, f)
        assert there.recv(size) == FRAME[:size]
        if size == 1:
            with pytest.raises(ValueError, match="without a descriptor"):
                memfd.recv(there)
    assert opened() == before


row_92 = pytest.mark.row(
    92, "send 1, several, 253, 254 descriptors", "ok; ours takes 1; EINVAL"
)


@row_92
@pytest.mark.parametrize("count", [1, 3, MOST])
def test_descriptors_in_a_message(pair, f, count):
    """A message has up to 253 descriptors; recv adopts one, and closes more."""
    here, there = pair
    f.write(bytes(8192))
    f.seal()
    socket.send_fds(here, [b"x"], [f.fileno()] * count)
    _, fds, flags, _ = socket.recv_fds(there, 1, MOST)
    assert (len(fds), flags & socket.MSG_CTRUNC) == (count, 0)
    assert all(os.path.sameopenfile(fd, f.fileno()) for fd in fds)
    for fd in fds:
        os.close(fd)
    before = opened()
    socket.send_fds(here, [FRAME], [f.fileno()] * count)
    if count == 1:
        with memfd.recv(there) as g:
            assert os.path.sameopenfile(g.fileno(), f.fileno())
    else:
        with pytest.raises(ValueError, match=f"{count} descriptors"):
            memfd.recv(there)
    assert opened() == before


@row_92
def test_too_many_descriptors_in_a_message(pair, f):
    """One more is refused at the sender, and nothing goes out."""
    here, there = pair
    with fails(errno.EINVAL):
        socket.send_fds(here, [b"x"], [f.fileno()] * (MOST + 1))
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        memfd.recv(there)


row_93 = pytest.mark.row(
    93, "received descriptors", "close-on-exec from the call that received them"
)


@row_93
def test_received_descriptors_are_not_inherited(pair):
    """recv and recv_array ask the kernel for close-on-exec, which is not the default."""
    here, there = pair
    a = memfd.share(np.arange(3))
    memfd.send(here, a.memfd)
    memfd.send(here, a)
    with memfd.recv(there) as f:
        assert not os.get_inheritable(f.fileno())
    b = memfd.recv_array(there)
    assert not os.get_inheritable(b.memfd.fileno())
    for flag, inheritable in ((0, True), (socket.MSG_CMSG_CLOEXEC, False)):
        socket.send_fds(here, [b"x"], [a.memfd.fileno()])
        # Not socket.recv_fds, which takes flags and passes none on (Python 3.11).
        _, ((_, _, data),), _, _ = there.recvmsg(1, socket.CMSG_LEN(4), flag)
        (fd,) = array.array("i", data)
        assert os.get_inheritable(fd) == inheritable
        os.close(fd)


@row_93
@pytest.mark.usefixtures("strace")
def test_close_on_exec_takes_no_second_call(run, tmp_path):
    """No instant is left in which a program that starts could inherit one."""
    log = tmp_path / "calls"
    run(
        """
        import socket
        import memfd
        here, there = socket.socketpair()
        memfd.send(here, memfd.from_bytes(b"data"))
        assert memfd.recv(there).read() == b"data"
        """,
        wrapper=["strace", "-o", str(log), "-e", "trace=recvmsg"],
    )
    (call,) = re.findall(r"^recvmsg\(.*", log.read_text(), re.MULTILINE)
    assert "MSG_CMSG_CLOEXEC" in call.rpartition("}")[2]


row_94 = pytest.mark.row(
    94, "more descriptors than room for them", "MSG_CTRUNC, the surplus is closed"
)


@row_94
@pytest.mark.parametrize(
    ("room", "taken"), [(socket.CMSG_LEN(4), 1), (socket.CMSG_LEN(8), 2)]
)
def test_surplus_descriptors(pair, room, taken):
    """What does not fit is closed by the kernel, and the flag says so."""
    here, there = pair
    read, write = os.pipe()
    socket.send_fds(here, [b"x"], [write] * 3)
    before = opened()
    _, control, flags, _ = there.recvmsg(1, room)
    assert len(opened() - before) == taken
    assert flags & socket.MSG_CTRUNC
    received = array.array("i", control[0][2])
    assert len(received) == taken
    for fd in (*received, write):
        os.close(fd)
    assert os.read(read, 1) == b""
    os.close(read)


@row_94
def test_recv_has_room_for_all(pair):
    """recv leaves none to the kernel: all that can come are counted, and closed."""
    here, there = pair
    read, write = os.pipe()
    socket.send_fds(here, [FRAME], [write] * MOST)
    os.close(write)
    with pytest.raises(ValueError, match=f"{MOST} descriptors"):
        memfd.recv(there)
    assert os.read(read, 1) == b""
    os.close(read)


row_95 = pytest.mark.row(
    95,
    "a peer sends no descriptor, part of a number, two headers",
    "ValueError, all that came are closed",
)


@row_95
@pytest.mark.parametrize("receive", [memfd.recv, memfd.recv_array])
@pytest.mark.parametrize(
    ("ancillary", "words"),
    [
        ([], "without a descriptor"),
        ([(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")], "without a descriptor"),
        ([(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0\0")], "without a descriptor"),
    ],
    ids=["no header", "empty header", "half a number"],
)
def test_message_without_a_descriptor(pair, receive, ancillary, words):
    """A header without a whole number carries nothing."""
    here, there = pair
    before = opened()
    here.sendmsg([FRAME], ancillary)
    with pytest.raises(ValueError, match=words):
        receive(there)
    assert opened() == before


@row_95
@pytest.mark.parametrize("receive", [memfd.recv, memfd.recv_array])
def test_message_with_two_headers(pair, receive):
    """Two headers are two descriptors, and half a number after a whole one is none."""
    here, there = pair
    a = memfd.share(np.arange(3))
    number = a.memfd.fileno()
    before = opened()
    here.sendmsg([FRAME], [rights(number), rights(number)])
    with pytest.raises(ValueError, match="2 descriptors"):
        receive(there)
    level, kind, data = rights(number)
    here.sendmsg([FRAME], [(level, kind, data + b"\0\0")])
    with memfd.recv(there) as g:
        assert os.path.sameopenfile(number, g.fileno())
    assert opened() == before


row_96 = pytest.mark.row(
    96, "no descriptor is free at the receiver", "MSG_CTRUNC; ours EMFILE, no leak"
)
FULL = """
    import array, errno, os, resource, socket
    import memfd
    memfd.send, memfd.recv  # loaded while there is room
    here, there = socket.socketpair()
    f = memfd.from_bytes(b"data")
    used = max(map(int, os.listdir("/proc/self/fd")))
    spare = [os.dup(0)]
    while spare[-1] <= used:
        spare.append(os.dup(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare[-1] + 1, hard))
"""


@row_96
def test_full_table_at_recv(run):
    """recv says which limit it was, and works again when there is room."""
    run(
        FULL
        + """
    memfd.send(here, f)
    try:
        memfd.recv(there)
    except OSError as error:
        assert error.errno == errno.EMFILE, error
    else:
        raise SystemExit("no error")
    # The second one looks for holes before Linux 6.5.
    os.close(spare.pop())
    os.close(spare.pop())
    memfd.send(here, f)
    assert memfd.recv(there).read() == b"data"
    os.fstat(os.dup(0))
    """
    )


@row_96
def test_one_descriptor_at_recv_before_linux_6_5(run):
    """Where looking for holes takes another descriptor, that is what is missing."""
    run(
        """
    import ctypes, errno, struct
    # A filter of system calls that answers ENOSYS to cachestat, as an old kernel does.
    filter = struct.pack(
        "=HBBIHBBIHBBIHBBI",
        0x20, 0, 0, 0,  0x15, 0, 1, 451,  0x06, 0, 0, 0x50000 | errno.ENOSYS,
        0x06, 0, 0, 0x7FFF0000,
    )
    held = ctypes.create_string_buffer(filter)
    program = struct.pack("HP", 4, ctypes.addressof(held))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert prctl(22, 2, ctypes.c_char_p(program)) == 0, ctypes.get_errno()
    """
        + FULL
        + """
    os.close(spare.pop())
    memfd.send(here, f)
    try:
        memfd.recv(there)
    except OSError as error:
        assert error.errno == errno.EMFILE and "holes" in str(error), error
    else:
        raise SystemExit("no error")
    os.close(spare.pop())
    memfd.send(here, f)
    assert memfd.recv(there).read() == b"data"
    os.fstat(os.dup(0))
    """
    )


@row_96
def test_full_table_at_recvmsg(run):
    """The kernel gives as many as have room, closes the others, and sets the flag."""
    run(
        FULL
        + """
    os.close(spare.pop())
    socket.send_fds(here, [b"x"], [f.fileno()] * 3)
    _, control, flags, _ = there.recvmsg(1, 4096)
    assert flags & socket.MSG_CTRUNC
    assert len(array.array("i", control[0][2])) == 1
    """
    )


@pytest.mark.row(
    97, "the sender is killed while the descriptor is on its way", "arrives, readable"
)
def test_sender_is_killed(pair, other):
    """What was sent is the receiver's, whatever becomes of the sender."""
    here, there = pair
    with here:
        process = other(
            """
            import socket, sys
            import memfd, numpy as np
            sock = socket.socket(fileno=int(sys.argv[1]))
            memfd.send(sock, memfd.from_bytes(b"last words"))
            memfd.send(sock, memfd.share(np.arange(5))[1:])
            print("sent", flush=True)
            sys.stdin.read()
            """,
            here.fileno(),
            pass_fds=[here.fileno()],
        )
    process.kill()
    process.wait()
    with memfd.recv(there) as f:
        assert f.read() == b"last words"
    assert memfd.recv_array(there).tolist() == [1, 2, 3, 4]


row_98 = pytest.mark.row(
    98, "messages back to back on a stream", "each with its own descriptor"
)


@row_98
def test_read_ends_before_the_next_descriptor(stream):
    """recvmsg(2) on a stream never takes bytes of two descriptors at once."""
    here, there = stream
    with memfd.from_bytes(b"a") as one, memfd.from_bytes(b"b") as two:
        for f in (one, two):
            socket.send_fds(here, [b"first", b"second"], [f.fileno()])
        for f in (one, two):
            data, (fd,), flags, _ = socket.recv_fds(there, 1000, 10)
            assert (data, flags & socket.MSG_CTRUNC) == (b"firstsecond", 0)
            assert os.path.sameopenfile(fd, f.fileno())
            os.close(fd)


@row_98
def test_messages_back_to_back(pair):
    """Memfds, arrays and views come out as they went in, and in order."""
    here, there = pair
    whole = memfd.share(np.arange(100))
    for n in range(8):
        memfd.send(here, memfd.from_bytes(bytes([n])))
        memfd.send(here, whole[n:])
        socket.send_fds(here, [b"x"], [whole.memfd.fileno()])
        if n % 2:
            for m in (n - 1, n):
                with memfd.recv(there) as f:
                    assert f.read() == bytes([m])
                assert memfd.recv_array(there)[0] == m
                assert memfd.recv_array(there).size == 100


# --- what is adopted -------------------------------------------------------------------

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


# --- other ways to another process's descriptor ----------------------------------------

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
    before = opened()
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
    assert opened() == before


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
    f.seal(SHRINK | GROW)
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
