"""Passing through Unix sockets: what arrives is what was sent, or a clear refusal."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading

import numpy as np
import pytest

import memfd
from memfd import Seal, SealError

KINDS = {
    "stream": socket.SOCK_STREAM,
    "seqpacket": socket.SOCK_SEQPACKET,
    "datagram": socket.SOCK_DGRAM,
}
FRAME = struct.Struct("<4sBBHI")


def frame(kind=0, more=b"", *, magic=b"\xfeMFD", version=1, zero=0, size=None):
    """Return what travels beside a descriptor."""
    return (
        FRAME.pack(magic, version, kind, zero, len(more) if size is None else size)
        + more
    )


def view(**changes):
    """Return what a message says of a view of ``arange(10.)``, or what it lies."""
    told = {"descr": "<f8", "shape": (5,), "strides": (16,), "offset": 128} | changes
    return repr(told).encode()


# --- what arrives --------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 5])
def test_a_memfd_arrives(pair, timeout):
    """The same file, from its beginning, close-on-exec, with an offset of its own."""
    here, there = pair
    here.settimeout(timeout)
    there.settimeout(timeout)
    with memfd.from_bytes(b"some data", "label") as f:
        f.seek(4)
        memfd.send(here, f)
        with memfd.recv(there) as g:
            assert os.path.sameopenfile(f.fileno(), g.fileno())
            assert not os.get_inheritable(g.fileno())
            assert (g.name, g.read(), f.tell()) == ("label", b"some data", 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: a[1:3],
        lambda a: a[::-2, :, 1],
        lambda a: a.T,
        lambda a: a[0, 0, 0:0],
        lambda a: a[:1, :1, :1],
        lambda a: a.view(np.uint8),
        lambda a: np.lib.stride_tricks.as_strided(a, (3, 3), (0, 8), subok=True),
    ],
)
def test_a_view_arrives(pair, make):
    """A view travels as its memfd and its place, and shares memory with the original."""
    here, there = pair
    whole = memfd.share(np.arange(24.0).reshape(2, 3, 4))
    a = make(whole)

    memfd.send(here, a)
    b = memfd.recv_array(there)
    np.testing.assert_array_equal(a, b)
    assert (b.dtype, b.shape, b.strides) == (a.dtype, a.shape, a.strides)
    assert os.path.sameopenfile(b.memfd.fileno(), whole.memfd.fileno())
    assert not b.flags.writeable
    memfd.send(here, a)
    with memfd.recv(there) as f:
        assert memfd.attach(f).shape == whole.shape


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((5,), (1 << 62,)),
        ((5,), (-1 << 62,)),
        ((3, 5), (8, 1 << 62)),
        ((9,), (1 << 61,)),
        ((2,), (1 << 62,)),
        ((3,), (-1 << 63,)),
        ((11,), (8,)),
        ((18,), (-8,)),
    ],
)
def test_an_array_that_reaches_outside_is_not_sent(stream, shape, strides):
    """Also where the address of its last element wraps around to one inside."""
    a = memfd.share(np.arange(10.0))
    outside = np.lib.stride_tricks.as_strided(a, shape, strides, subok=True)

    with pytest.raises(ValueError, match="outside"):
        memfd.send(stream[0], outside)


@pytest.mark.parametrize(
    "dtype", ["?", ">i2", "c8", "M8[us]", "S3", "U2", [("x", "f4"), ("y", "i1", 2)]]
)
def test_dtypes_arrive(stream, dtype):
    """Every dtype of a .npy file arrives as it was."""
    here, there = stream
    a = memfd.share(np.zeros(7, dtype))[1:]

    memfd.send(here, a)
    b = memfd.recv_array(there)
    assert (b.dtype, b.tobytes()) == (a.dtype, a.tobytes())


def test_messages_do_not_merge(pair):
    """Many messages are as many items, in their order."""
    here, there = pair
    arrays = [memfd.share(np.full(3, n)) for n in range(8)]

    for turn in range(4):
        for n, a in enumerate(arrays):
            memfd.send(here, a if (n + turn) % 2 else a.memfd)
        for a in arrays:
            assert memfd.recv_array(there).tolist() == a.tolist()


def test_writable_memory_is_one_memory(stream):
    """A writable array is the same memory at both ends, where the receiver trusts."""
    here, there = stream
    a = memfd.zeros(4)

    memfd.send(here, a[1:])
    b = memfd.recv_array(there, "r+", require=Seal.SHRINK, dense=False)
    b[:] = 7
    a[3] = 8
    assert (a.tolist(), b.tolist()) == ([0, 7, 7, 8], [7, 7, 8])
    memfd.send(here, a)
    with pytest.raises(SealError):
        memfd.recv_array(there)
    memfd.send(here, a)
    c = memfd.recv_array(there, copy=True)
    a[0] = 5
    assert c.tolist() == [0, 7, 7, 8]


def test_a_plain_peer(pair):
    """One byte and one descriptor, as many programs send them, are enough."""
    here, there = pair
    a = memfd.share(np.arange(3))

    for byte in (b"\0", b"x", b"\xff"):
        socket.send_fds(here, [byte], [a.memfd.fileno()])
    with memfd.recv(there) as f:
        assert f.size == a.memfd.size
    for _ in range(2):
        assert memfd.recv_array(there).tolist() == [0, 1, 2]


def test_to_another_program(stream, run):
    """A program that was started with the socket receives, checks and answers."""
    here, there = stream
    a = memfd.share(np.arange(1000.0))
    memfd.send(here, a[::3])
    out = run(
        """
        import socket, sys, memfd
        sock = socket.socket(fileno=int(sys.argv[1]))
        a = memfd.recv_array(sock)
        memfd.send(sock, memfd.share(a * 2))
        print(a.sum())
        """,
        str(there.fileno()),
        pass_fds=[there.fileno()],
    )
    assert float(out) == a[::3].sum()
    assert (memfd.recv_array(here) == a[::3] * 2).all()


# --- what is refused at the sender ----------------------------------------------------


def test_what_cannot_be_sent(stream):
    """Only memfds and arrays over one that is open are sent; nothing else goes out."""
    here, there = stream
    here.setblocking(False)
    there.setblocking(False)
    closed = memfd.share([1.0])
    closed.memfd.close()
    old = memfd.zeros(3)
    memfd.freeze(old)
    for item, error in (
        (np.arange(3), TypeError),
        (b"data", TypeError),
        (1, TypeError),
        (None, TypeError),
        ({}, TypeError),
        (memfd.share([1.0]) + 1, TypeError),
        (closed, ValueError),
        (closed.memfd, ValueError),
        (old, ValueError),
        (memfd.attach(memfd.share([1.0]).memfd, "c"), ValueError),
    ):
        with pytest.raises(error):
            memfd.send(here, item)
        with pytest.raises(BlockingIOError):
            memfd.recv(there)


def test_what_is_no_socket():
    """Descriptors pass through Unix sockets only, and not through asyncio's streams."""
    import asyncio

    f = memfd.from_bytes(b"x")
    for call in (lambda s: memfd.send(s, f), memfd.recv, memfd.recv_array):
        with socket.socket() as sock, pytest.raises(ValueError, match="Unix sockets"):
            call(sock)
        with pytest.raises(TypeError, match="must be a socket, not int"):
            call(1)
        with pytest.raises(TypeError, match="streams lose the descriptors"):
            call(object.__new__(asyncio.StreamReader))
    f.close()


def test_a_reader_that_does_not_read(pair):
    """A full socket is a TimeoutError at the deadline, and loses nothing."""
    here, there = pair
    f = memfd.from_bytes(b"x")
    sent = 0
    for timeout, full in ((0.05, TimeoutError), (0, BlockingIOError)):
        here.settimeout(timeout)
        with contextlib.suppress(full):
            while True:
                memfd.send(here, f)
                sent += 1
        with pytest.raises(full):
            memfd.send(here, f)
    for _ in range(sent):
        memfd.recv(there).close()
    there.settimeout(0)
    with pytest.raises(BlockingIOError):
        memfd.recv(there)
    f.close()


# --- hostile descriptors ---------------------------------------------------------------


def _seals(f, seals):
    f.write(bytes(4096))
    f.seal(seals)
    return f


@contextlib.contextmanager
def hostile(kind):
    """Yield a descriptor that no receiver should accept."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "x")
        if kind == "directory":
            fd = os.open(folder, os.O_RDONLY)
        elif kind == "FIFO":
            os.mkfifo(path)
            fd = os.open(path, os.O_RDWR)
        elif kind == "device":
            fd = os.open("/dev/null", os.O_RDWR)
        elif kind == "socket":
            fd = socket.socket(socket.AF_UNIX).detach()
        elif kind == "O_PATH":
            fd = os.open(folder, os.O_PATH)
        elif kind == "tmpfs file":
            with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
                file.write(bytes(4096))
                file.flush()
                fd = os.dup(file.fileno())
        else:
            f = stack.enter_context(memfd.create())
            if kind == "unsealed":
                f.write(bytes(4096))
            elif kind == "partly sealed":
                _seals(f, Seal.SHRINK | Seal.GROW)
            elif kind == "FUTURE_WRITE only":
                _seals(f, Seal.SHRINK | Seal.GROW | Seal.FUTURE_WRITE)
            elif kind == "sparse":
                f.truncate(1 << 20)
                f.seal()
            elif kind == "sparse, forged":
                f.truncate(1 << 20)
                libc = __import__("ctypes").CDLL(None)
                long = __import__("ctypes").c_long
                libc.fallocate(f.fileno(), 1, long(1 << 20), long(1 << 20))
                f.seal()
            elif kind == "enormous":
                f.truncate(1 << 50)
                f.seal()
            elif kind == "write-only":
                f.write(bytes(4096))
                f.seal()
                fd = os.open(f.path, os.O_WRONLY)
            if kind != "write-only":
                fd = os.dup(f.fileno())
        try:
            yield fd
        finally:
            os.close(fd)


@pytest.mark.parametrize("kind", [
    "directory", "FIFO", "device", "socket", "O_PATH", "tmpfs file", "unsealed",
    "partly sealed", "FUTURE_WRITE only", "sparse", "sparse, forged", "enormous",
    "write-only",
])  # fmt: skip
@pytest.mark.parametrize("receive", [memfd.recv, memfd.recv_array])
def test_hostile_descriptors(stream, kind, receive):
    """Each is refused with the documented exception, and closed."""
    here, there = stream
    with hostile(kind) as fd:
        for data in (b"x", frame(), frame(1, view())):
            socket.send_fds(here, [data], [fd])
            with pytest.raises((ValueError, SealError, OSError)) as caught:
                receive(there)
            assert (
                "sealed" in kind
                or "ONLY" in kind
                or not isinstance(caught.value, EOFError)
            )
            if kind in ("unsealed", "partly sealed", "FUTURE_WRITE only"):
                assert isinstance(caught.value, SealError)
                assert caught.value.missing & Seal.WRITE


# --- hostile messages -------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"xy",
        b"\xfe",
        frame(magic=b"\xfeNFD"),
        frame(version=0),
        frame(version=2),
        frame(kind=2),
        frame(kind=255),
        frame(zero=1),
        frame(kind=0, size=5, more=b"12345"),
        frame(kind=1, size=10_001),
        frame(kind=1, size=2**32 - 1),
        frame()[:7],
        frame(kind=1, more=view())[:-1],
        frame(kind=1, more=view()) + b"more",
    ],
)
def test_messages_that_are_none(data):
    """A message that is no frame is a ValueError, and its descriptor is closed."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a = memfd.share(np.arange(10.0))
    with ends[0] as here, ends[1] as there:
        socket.send_fds(here, [data], [a.memfd.fileno()])
        with pytest.raises(ValueError, match="message"):
            memfd.recv_array(there)


@pytest.mark.parametrize(
    "data",
    [
        b"\xfe" + b"NFD" + bytes(8),
        frame(version=9),
        frame(kind=1, size=2**32 - 1),
        frame(zero=1),
    ],
)
def test_streams_that_are_none(stream, data):
    """The same on a stream, before waiting for more."""
    here, there = stream
    a = memfd.share(np.arange(10.0))
    socket.send_fds(here, [data], [a.memfd.fileno()])
    here.close()
    with pytest.raises(ValueError, match="message"):
        memfd.recv(there)


@pytest.mark.parametrize(
    "lie",
    [
        view(shape=(6,)),
        view(shape=(-1,)),
        view(shape=(2**62, 2**62)),
        view(shape=(2**63,)),
        view(shape=[5]),
        view(shape=(True,)),
        view(shape=(1,) * 100, strides=(8,) * 100),
        view(offset=-1),
        view(offset=-8),
        view(offset=160),
        view(offset=2**63),
        view(offset=2**64),
        view(offset=1.5),
        view(strides=(-64,)),
        view(shape=(2**40,), strides=(0,)),
        view(strides=(2**62,)),
        view(strides=(2**63,)),
        view(strides=(16, 16)),
        view(strides=None),
        view(descr="|O"),
        view(descr="<f9"),
        view(descr="<U0"),
        view(descr=("<f8", (2,))),
        view(descr=[("x", "|O")]),
        view(more=1),
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"(" * 5000,
        b"[" * 5000 + b"]" * 5000,
        b"-" * 9000 + b"1",
        b"__import__('os')",
    ],
)
def test_views_that_lie(stream, lie):
    """What a message says of a view is believed only where it lies in the memfd."""
    here, there = stream
    a = memfd.share(np.arange(10.0))
    socket.send_fds(here, [frame(1, lie)], [a.memfd.fileno()])
    with pytest.raises(ValueError, match="the view is not valid"):
        memfd.recv_array(there)


def test_a_received_dtype_is_nobody_elses(stream):
    """Who renames the fields of a received view changes no other array."""
    here, there = stream
    a = memfd.share(np.zeros(3, [("x", "f4"), ("y", "i2")]))

    for _ in range(2):
        memfd.send(here, a[1:])
        b = memfd.recv_array(there)
        assert b.dtype.names == ("x", "y")
        b.dtype.names = ("a", "b")


def test_a_file_that_is_no_array(stream):
    """A memfd without a .npy header is a ValueError for recv_array."""
    here, there = stream
    with memfd.from_bytes(bytes(4096)) as f:
        memfd.send(here, f)
        with pytest.raises(ValueError, match="npy"):
            memfd.recv_array(there)


def test_no_descriptor(pair):
    """A message without a descriptor is a ValueError."""
    here, there = pair
    for data in (b"x", frame(), frame(1, view())):
        here.send(data)
        with pytest.raises(ValueError, match="without a descriptor"):
            memfd.recv(there)


def test_an_empty_packet_is_not_the_end():
    """It is a message without a descriptor, and what comes after it arrives."""
    here, there = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with here, there, memfd.from_bytes(b"next") as f:
        here.send(b"")
        memfd.send(here, f)
        with pytest.raises(ValueError, match="without a descriptor"):
            memfd.recv(there)
        with memfd.recv(there) as g:
            assert g.read() == b"next"
        here.close()
        with pytest.raises(EOFError):
            memfd.recv(there)


@pytest.mark.parametrize(
    ("checks", "error"),
    [
        ({"max_size": -1}, ValueError),
        ({"max_size": "1"}, TypeError),
        ({"max_size": 2**64}, OverflowError),
        ({"require": -1}, OverflowError),
        ({"require": 3.0}, TypeError),
    ],
)
@pytest.mark.parametrize("receive", [memfd.recv, memfd.recv_array])
def test_bad_arguments_lose_no_message(stream, receive, checks, error):
    """They are noticed before the message is taken out of the socket."""
    here, there = stream
    a = memfd.share(np.arange(3))
    memfd.send(here, a)
    with pytest.raises(error, match=f"{next(iter(checks))} must"):
        receive(there, **checks)
    with memfd.recv(there) as f:
        assert os.path.sameopenfile(f.fileno(), a.memfd.fileno())


@pytest.mark.parametrize("count", [2, 3, 253])
def test_too_many_descriptors(pair, count):
    """More than one descriptor is a ValueError, and all are closed."""
    here, there = pair
    with memfd.from_bytes(b"x") as f:
        socket.send_fds(here, [frame()], [f.fileno()] * count)
        with pytest.raises(ValueError, match=f"{count} descriptors"):
            memfd.recv(there)


@pytest.mark.parametrize("option", ["SO_PASSCRED", "SO_PASSPIDFD"])
def test_what_a_socket_adds_is_no_descriptor(pair, option):
    """Credentials are not taken for descriptors; a pidfd, which is one, is closed."""
    here, there = pair
    number = {"SO_PASSCRED": socket.SO_PASSCRED, "SO_PASSPIDFD": 76}[option]
    try:
        there.setsockopt(socket.SOL_SOCKET, number, 1)
    except OSError as error:
        pytest.skip(f"no {option} here: {error}")
    with memfd.from_bytes(b"x") as f:
        memfd.send(here, f)
        memfd.recv(there).close()
        # There is room for it beside as many descriptors as the kernel passes.
        socket.send_fds(here, [frame()], [f.fileno()] * 253)
        with pytest.raises(ValueError, match="253 descriptors"):
            memfd.recv(there)


def test_waiting_lets_other_threads_run(run):
    """A thread that waits for a message without a deadline stops no other thread."""
    run(
        """
        import queue, socket, threading
        import memfd
        here, there = socket.socketpair()
        got = queue.SimpleQueue()

        def receive():
            for _ in range(20):
                got.put(memfd.recv(there).read())

        f = memfd.from_bytes(b"x")
        threading.Thread(target=receive).start()
        for _ in range(20):
            memfd.send(here, f)
            assert got.get() == b"x"
        """
    )


def test_more_than_a_receiver_takes():
    """A message longer than any of ours is a ValueError, not cut to one that is."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a = memfd.share(np.arange(10.0))
    with ends[0] as here, ends[1] as there:
        longest = frame(1, view().ljust(10_000))
        socket.send_fds(here, [longest], [a.memfd.fileno()])
        assert memfd.recv_array(there).tolist() == [0, 2, 4, 6, 8]
        socket.send_fds(here, [longest + b"x"], [a.memfd.fileno()])
        with pytest.raises(ValueError, match="more than 10012 bytes"):
            memfd.recv_array(there)


def test_a_descriptor_in_the_middle(stream):
    """A second descriptor in the rest of a message is refused, and closed."""
    here, there = stream
    with memfd.from_bytes(b"x") as f:
        data = frame(1, view())
        socket.send_fds(here, [data[:20]], [f.fileno()])
        socket.send_fds(here, [data[20:]], [f.fileno()])
        with pytest.raises(ValueError, match="in the middle"):
            memfd.recv(there)


def test_no_room_for_descriptors(stream):
    """Where this process can open no more, it is EMFILE, and none is lost track of."""
    here, there = stream
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with memfd.from_bytes(b"x") as f:
        socket.send_fds(here, [frame()], [f.fileno()] * 5)
        lowest = [os.dup(f.fileno()) for _ in range(3)]
        for fd in lowest:
            os.close(fd)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest[-1] + 1, limits[1]))
            with pytest.raises(OSError, match="did not fit") as caught:
                memfd.recv(there)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("part", [1, 3, 12, 20])
def test_half_a_message(stream, part):
    """Half a message is a TimeoutError at the deadline, or EOFError at the end."""
    here, there = stream
    data = frame(1, view())
    with memfd.from_bytes(b"x") as f:
        there.settimeout(0.05)
        socket.send_fds(here, [data[:part]], [f.fileno()])
        with pytest.raises(TimeoutError):
            memfd.recv(there)
    with memfd.from_bytes(b"x") as f:
        ends = socket.socketpair()
        with ends[0], ends[1]:
            socket.send_fds(ends[0], [data[:part]], [f.fileno()])
            ends[0].close()
            with pytest.raises(EOFError):
                memfd.recv(ends[1])


def test_one_byte_at_a_time(stream):
    """A message that comes byte by byte is received, within one deadline."""
    here, there = stream
    a = memfd.share(np.arange(10.0))
    data = frame(1, view())

    def dribble():
        socket.send_fds(here, [data[:1]], [a.memfd.fileno()])
        for n in range(1, len(data)):
            here.send(data[n : n + 1])

    thread = threading.Thread(target=dribble)
    thread.start()
    assert memfd.recv_array(there).tolist() == [0, 2, 4, 6, 8]
    thread.join()

    # A peer that never ends does not stretch the deadline.
    there.settimeout(0.3)
    stop = threading.Event()

    def forever():
        socket.send_fds(here, [b"\xfe"], [a.memfd.fileno()])
        while not stop.wait(0.02):
            with contextlib.suppress(OSError):
                here.send(data[1:2])
                data_left = len(data)
                if not data_left:
                    break

    thread = threading.Thread(target=forever)
    thread.start()
    with pytest.raises((TimeoutError, ValueError)):
        memfd.recv(there)
    stop.set()
    thread.join()


def test_the_end():
    """A socket that was closed at the other end is an EOFError."""
    for kind in ("stream", "seqpacket"):
        here, there = socket.socketpair(socket.AF_UNIX, KINDS[kind])
        here.close()
        with there, pytest.raises(EOFError):
            memfd.recv(there)


def test_silence(pair):
    """Nothing is a TimeoutError at the deadline, or a BlockingIOError at once."""
    _, there = pair
    there.settimeout(0.05)
    with pytest.raises(TimeoutError):
        memfd.recv(there)
    there.settimeout(0)
    with pytest.raises(BlockingIOError):
        memfd.recv(there)


def test_the_other_side_is_gone(pair):
    """Sending to a closed socket is an OSError, not a signal."""
    here, there = pair
    there.close()
    with (
        memfd.from_bytes(b"x") as f,
        pytest.raises(OSError, match="Broken|refused|reset") as caught,
    ):
        memfd.send(here, f)
    assert caught.value.errno in (errno.EPIPE, errno.ECONNREFUSED, errno.ECONNRESET)


def test_a_signal_handler_that_raises(run):
    """However an exception comes in between, no descriptor is left."""
    run(
        """
        import os, signal, socket
        import numpy as np, memfd

        class Stop(Exception):
            pass

        def stop(*_):
            raise Stop

        signal.signal(signal.SIGALRM, stop)
        a = memfd.share(np.arange(10.0))
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Loads what is needed: a compiled module cannot be imported twice, so an import
        # that a handler interrupts is lost.
        memfd.send(here, a)
        memfd.recv_array(there)
        before = len(os.listdir("/proc/self/fd"))
        stopped = 0
        while stopped < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0004)
                for _ in range(1000):
                    memfd.send(here, a[::2])
                    b = memfd.recv_array(there)
                    del b
            except Stop:
                stopped += 1
                there.setblocking(False)
                try:
                    while True:
                        memfd.recv(there).close()
                except BlockingIOError:
                    there.setblocking(True)
        assert len(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
        """
    )


# --- another language --------------------------------------------------------------------

PEER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Receives a frame with a memfd of doubles in a .npy file, checks its seals, and sends a
 * memfd with their number as text. */
int main(int argc, char **argv)
{
    int sock = atoi(argv[1]), fd, seals;
    char data[64], text[64];
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec piece = {data, sizeof data};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (argc != 2 || got != 12 || memcmp(data, "\xfeMFD\1\0\0\0\0\0\0\0", 12) || !header)
        return 1;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    if ((fcntl(fd, F_GET_SEALS) & seals) != seals)
        return 2;
    int size = snprintf(text, sizeof text, "%ld bytes", (long)lseek(fd, 0, SEEK_END));
    fd = memfd_create("answer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (write(fd, text, size) != size || fcntl(fd, F_ADD_SEALS, seals))
        return 3;
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    piece.iov_len = 12;
    return sendmsg(sock, &message, 0) == 12 ? 0 : 4;
}
"""


def test_a_program_in_c(tmp_path):
    """The wire is what docs/sockets.md says: a C program reads and writes it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "peer.c"
    source.write_text(PEER)
    subprocess.run([compiler, "-o", tmp_path / "peer", source], check=True)
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ends[0] as here, ends[1] as there, memfd.from_bytes(bytes(12345)) as f:
        peer = subprocess.Popen(
            [tmp_path / "peer", str(there.fileno())], pass_fds=[there.fileno()]
        )
        here.settimeout(10)
        memfd.send(here, f)
        with memfd.recv(here) as answer:
            assert answer.read() == b"12345 bytes"
        assert peer.wait(10) == 0


def test_children_do_not_inherit(stream):
    """A program started right after has none of the descriptors that came."""
    here, there = stream
    with memfd.from_bytes(b"x") as f:
        memfd.send(here, f)
        with memfd.recv(there) as g:
            out = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(
                    f"""
                    import os
                    print(os.path.exists("/proc/self/fd/{g.fileno()}"))
                    """
                )],
                capture_output=True, text=True, check=True, close_fds=False,
            ).stdout  # fmt: skip
    assert out == "False\n"
    assert signal.SIGALRM


def test_a_view_that_repeats_without_end_is_not_sent(pair):
    """What every receiver would refuse is refused here; a few repetitions travel."""
    a = memfd.share(np.arange(4.0))
    with pytest.raises(ValueError, match="repeats its 160 bytes"):
        memfd.send(pair[0], np.broadcast_to(a, (2**30, 4), subok=True))
    memfd.send(pair[0], np.broadcast_to(a, (3, 4), subok=True))
    assert memfd.recv_array(pair[1]).tolist() == [a.tolist()] * 3
