"""Rows 91 to 98: messages of Unix sockets, and the descriptors in them."""

import array
import errno
import os
import re
import socket

import numpy as np
import pytest

import memfd

FRAME = b"\xfeMFD\x01" + bytes(7)
MOST = 253  # descriptors in one message


def fails(error):
    """Expect an OSError with this number."""
    return pytest.raises(OSError, match=rf"^\[Errno {error}\] ")


def rights(*fds):
    """Return the header that carries these descriptors."""
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes()


def opened():
    return set(os.listdir("/proc/self/fd"))


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
