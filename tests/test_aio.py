"""Passing through Unix sockets under asyncio: as without, and others go on meanwhile."""

import asyncio
import contextlib
import errno
import os
import selectors
import socket
import struct

import numpy as np
import pytest

import memfd
import memfd.aio
from memfd import SealError

KINDS = {
    "stream": socket.SOCK_STREAM,
    "seqpacket": socket.SOCK_SEQPACKET,
    "datagram": socket.SOCK_DGRAM,
}
FRAME = struct.Struct("<4sBBHI")
FILE = FRAME.pack(b"\xfeMFD", 1, 0, 0, 0)


@contextlib.contextmanager
def connected(kind):
    """Yield two connected Unix sockets that do not block."""
    here, there = socket.socketpair(socket.AF_UNIX, kind)
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        yield here, there


@pytest.fixture(params=KINDS)
def pair(request):
    """Two connected sockets of each kind."""
    with connected(KINDS[request.param]) as ends:
        yield ends


@pytest.fixture(params=["seqpacket", "datagram"])
def packets(request):
    """Two connected sockets of each kind that keeps messages whole."""
    with connected(KINDS[request.param]) as ends:
        yield ends


@pytest.fixture
def stream():
    """Two connected stream sockets."""
    with connected(socket.SOCK_STREAM) as ends:
        yield ends


def descriptors():
    """Return how many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))


def go(main):
    """Run a coroutine function; it leaves no descriptor, and none that the loop watches.

    It gets a function that says how many descriptors the loop watches for it.
    """
    selector = selectors.DefaultSelector()
    with asyncio.Runner(
        debug=True, loop_factory=lambda: asyncio.SelectorEventLoop(selector)
    ) as runner:
        runner.get_loop()
        own, before = len(selector.get_map()), descriptors()

        def watched():
            return len(selector.get_map()) - own

        async def limited():
            async with asyncio.timeout(30):
                await main(watched)

        runner.run(limited())
        assert watched() == 0
        assert descriptors() <= before  # some close a socket


async def until(condition):
    """Let the others go on until something is so."""
    while not condition():
        await asyncio.sleep(0)


def unread(sock):
    """Return whether bytes have come that nobody has read."""
    with contextlib.suppress(BlockingIOError):
        return bool(sock.recv(1, socket.MSG_PEEK))


def fill(sock, item):
    """Send until there is no more room; return how many went out."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            memfd.send(sock, item)
            sent += 1
    return sent


# --- what arrives --------------------------------------------------------------------


def test_items_arrive(pair):
    """A memfd and an array arrive as they are: the same file, the same memory."""
    here, there = pair
    a = memfd.share(np.arange(24.0).reshape(2, 3, 4))

    async def main(_):
        with memfd.from_bytes(b"some data", "label") as f:
            await memfd.aio.send(here, f)
            with await memfd.aio.recv(there) as g:
                assert os.path.sameopenfile(f.fileno(), g.fileno())
                assert (g.name, g.read()) == ("label", b"some data")
        await memfd.aio.send(here, a[:, ::-1, 1])
        b = await memfd.aio.recv_array(there)
        np.testing.assert_array_equal(a[:, ::-1, 1], b)
        assert os.path.sameopenfile(b.memfd.fileno(), a.memfd.fileno())

    go(main)


def test_the_checks_are_handed_on(stream):
    """The arguments mean what they mean without asyncio."""
    here, there = stream

    async def main(_):
        a = memfd.zeros(4)
        await memfd.aio.send(here, a)
        b = await memfd.aio.recv_array(there, "r+", require=None, dense=False)
        b[:] = 7
        assert a.tolist() == [7, 7, 7, 7]
        await memfd.aio.send(here, a)
        c = await memfd.aio.recv_array(there, copy=True)
        a[0] = 5
        assert c.tolist() == [7, 7, 7, 7]
        with memfd.create(size=1 << 20) as f:
            f.seal()
            await memfd.aio.send(here, f)
            with pytest.raises(ValueError, match="holes|sparse"):
                await memfd.aio.recv(there)
            await memfd.aio.send(here, f)
            with await memfd.aio.recv(there, dense=False) as g:
                assert g.size == 1 << 20
            await memfd.aio.send(here, f)
            with pytest.raises(ValueError, match="max_size"):
                await memfd.aio.recv(there, dense=False, max_size=4096)

    go(main)


def test_both_calls_speak_the_same(pair):
    """What is sent with asyncio is received without, and the other way round."""
    here, there = pair
    a = memfd.share(np.arange(5))

    async def main(_):
        await memfd.aio.send(here, a)
        assert memfd.recv_array(there).tolist() == a.tolist()
        memfd.send(here, a)
        assert (await memfd.aio.recv_array(there)).tolist() == a.tolist()

    go(main)


def test_many_messages_both_ways(pair):
    """Two that send and receive at once get everything, in its order."""
    arrays = [memfd.share(np.full(3, n)) for n in range(20)]

    async def main(_):
        async def talk(sock):
            for turn in range(10):
                for n, a in enumerate(arrays):
                    await memfd.aio.send(sock, a[1:] if (n + turn) % 2 else a)

        async def listen(sock):
            for turn in range(10):
                for n, a in enumerate(arrays):
                    b = await memfd.aio.recv_array(sock)
                    assert b.tolist() == a[(n + turn) % 2 :].tolist()

        async with asyncio.TaskGroup() as group:
            for sock in pair:
                group.create_task(talk(sock))
                group.create_task(listen(sock))

    go(main)


def test_to_another_process(stream, run):
    """A program that was started with the socket receives, and answers, by asyncio too."""
    here, there = stream
    a = memfd.share(np.arange(1000.0))
    program = """
        import asyncio, socket, sys
        import memfd

        async def main():
            with socket.socket(fileno=int(sys.argv[1])) as sock:
                sock.setblocking(False)
                async with asyncio.timeout(30):
                    a = await memfd.aio.recv_array(sock)
                    await memfd.aio.send(sock, memfd.share(a * 2))

        asyncio.run(main())
    """

    async def main(_):
        fd = there.fileno()
        child = asyncio.create_task(
            asyncio.to_thread(run, program, str(fd), pass_fds=[fd])
        )
        answer = asyncio.create_task(memfd.aio.recv_array(here))
        await memfd.aio.send(here, a[::3])
        assert (await answer == a[::3] * 2).all()
        await child

    go(main)


# --- waiting -------------------------------------------------------------------------


def test_the_receiver_waits(pair):
    """Who waits for a message gets the one that comes, and others go on meanwhile."""
    here, there = pair

    async def main(watched):
        waiting = asyncio.create_task(memfd.aio.recv(there))
        await until(lambda: watched() == 1)
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
        with await waiting as g:
            assert g.read() == b"x"

    go(main)


def test_the_sender_waits(pair):
    """Who finds the socket full goes on when there is room, and nothing is lost."""
    here, there = pair

    async def main(watched):
        with memfd.from_bytes(b"x") as f, memfd.from_bytes(b"the last") as last:
            sent = fill(here, f)
            waiting = asyncio.create_task(memfd.aio.send(here, last))
            await until(lambda: watched() == 1)
            for _ in range(sent):
                with await memfd.aio.recv(there) as g:
                    assert g.read() == b"x"
            await waiting
            with await memfd.aio.recv(there) as g:
                assert g.read() == b"the last"

    go(main)


def test_messages_in_pieces(stream):
    """A message that comes byte by byte is received as one."""
    here, there = stream
    a = memfd.share(np.arange(10.0))
    text = repr({"descr": "<f8", "shape": (5,), "strides": (16,), "offset": 128})
    data = FRAME.pack(b"\xfeMFD", 1, 1, 0, len(text)) + text.encode()

    async def main(_):
        waiting = asyncio.create_task(memfd.aio.recv_array(there))
        socket.send_fds(here, [data[:1]], [a.memfd.fileno()])
        for n in range(1, len(data)):
            await until(lambda: not unread(there))
            here.send(data[n : n + 1])
        assert (await waiting).tolist() == [0, 2, 4, 6, 8]

    go(main)


def test_messages_that_go_in_pieces(stream):
    """A frame that a small socket buffer cuts is received as one."""
    here, there = stream
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    a = memfd.share(np.zeros(3, [(f"field{n}", "f4") for n in range(300)]))

    async def main(_):
        for _ in range(5):
            sending = asyncio.create_task(memfd.aio.send(here, a[1:]))
            b = await memfd.aio.recv_array(there)
            await sending
            assert (b.dtype, b.shape) == (a.dtype, (2,))

    go(main)


def test_two_wait_on_one_socket(packets):
    """Each of several who wait on one socket gets one message, whole."""
    here, there = packets

    async def main(watched):
        waiting = [asyncio.create_task(memfd.aio.recv(there)) for _ in range(2)]
        await until(lambda: watched() == 2)
        for data in (b"1", b"2"):
            with memfd.from_bytes(data) as f:
                await memfd.aio.send(here, f)
        found = set()
        for task in waiting:
            with await task as g:
                found.add(g.read())
        assert found == {b"1", b"2"}

    go(main)


def test_both_directions_of_one_socket(pair):
    """One can wait for room and another for a message, on the same socket."""
    here, there = pair

    async def main(watched):
        with memfd.from_bytes(b"x") as f:
            sent = fill(here, f)
            sending = asyncio.create_task(memfd.aio.send(here, f))
            receiving = asyncio.create_task(memfd.aio.recv(here))
            await until(lambda: watched() == 2)
            await memfd.aio.send(there, f)
            (await receiving).close()
            assert not sending.done()
            for _ in range(sent):
                (await memfd.aio.recv(there)).close()
            await sending
            (await memfd.aio.recv(there)).close()

    go(main)


def test_others_may_watch_the_socket(pair):
    """A callback that somebody else has for the socket is called, and stays."""
    here, there = pair

    async def main(watched):
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(there, seen.set)
        waiting = asyncio.create_task(memfd.aio.recv(there))
        await until(lambda: watched() == 2)
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
        (await waiting).close()
        await seen.wait()
        assert loop.remove_reader(there)

    go(main)


# --- who stops waiting ---------------------------------------------------------------


def test_a_timeout(pair):
    """After asyncio.timeout nothing is left over, and the next message arrives."""
    here, there = pair

    async def main(watched):
        before = descriptors()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await memfd.aio.recv(there)
        # The exception, which keeps the frames, is still there.
        assert caught
        assert (watched(), descriptors()) == (0, before)
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
        with await memfd.aio.recv(there) as g:
            assert g.read() == b"x"

    go(main)


def test_a_timeout_of_the_sender(pair):
    """Who gives up on a full socket has sent nothing."""
    here, there = pair

    async def main(watched):
        with memfd.from_bytes(b"x") as f:
            sent = fill(here, f)
            before = descriptors()
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await memfd.aio.send(here, f)
            assert caught
            assert (watched(), descriptors()) == (0, before)
        for _ in range(sent):
            (await memfd.aio.recv(there)).close()
        with pytest.raises(BlockingIOError):
            memfd.recv(there)

    go(main)


@pytest.mark.parametrize("part", [1, 3, 11])
def test_cancelled_in_half_a_message(stream, part):
    """The descriptor of half a message is closed when its receiver is cancelled."""
    here, there = stream

    async def main(watched):
        before = descriptors()
        waiting = asyncio.create_task(memfd.aio.recv(there))
        with memfd.from_bytes(b"x") as f:
            socket.send_fds(here, [FILE[:part]], [f.fileno()])
        # It has arrived, and is waited with for the rest: two, with the duplicate.
        await until(lambda: (watched(), descriptors()) == (1, before + 2))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        assert caught
        assert (watched(), descriptors()) == (0, before)

    go(main)


def test_cancelled_when_it_is_there(packets):
    """A message that comes together with the cancellation stays for the next."""
    here, there = packets

    async def main(watched):
        waiting = asyncio.create_task(memfd.aio.recv(there))
        await until(lambda: watched() == 1)
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with await memfd.aio.recv(there) as g:
            assert g.read() == b"x"

    go(main)


def test_cancelled_before_it_begins(pair):
    """A task that is cancelled before its first step does nothing."""
    here, there = pair

    async def main(_):
        with memfd.from_bytes(b"x") as f:
            for call in (memfd.aio.send(here, f), memfd.aio.recv(there)):
                task = asyncio.create_task(call)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        with pytest.raises(BlockingIOError):
            memfd.recv(there)

    go(main)


def test_closed_while_it_waits(pair):
    """What is closed before there is room is not sent, nor what has got its number."""
    here, there = pair

    async def main(watched):
        with memfd.from_bytes(b"x") as f, memfd.from_bytes(b"secret") as secret:
            sent = fill(here, f)
            g = memfd.from_bytes(b"y")
            waiting = asyncio.create_task(memfd.aio.send(here, g))
            await until(lambda: watched() == 1)
            number = g.fileno()
            g.close()
            os.dup2(secret.fileno(), number)
            for _ in range(sent):
                (await memfd.aio.recv(there)).close()
            with pytest.raises(ValueError, match="closed"):
                await waiting
            os.close(number)
        with pytest.raises(BlockingIOError):
            memfd.recv(there)

    go(main)


def test_the_socket_is_closed_while_it_waits(pair):
    """Who waits on a socket that is closed here gets EBADF at the next event."""
    here, there = pair

    async def main(watched):
        waiting = asyncio.create_task(memfd.aio.recv(there))
        await until(lambda: watched() == 1)
        there.close()
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
        with pytest.raises(OSError, match="descriptor") as caught:
            await waiting
        assert caught.value.errno == errno.EBADF

    go(main)


# --- what is refused -----------------------------------------------------------------


def test_hostile_messages(pair):
    """Each is refused as without asyncio, and everything that came is closed."""
    here, there = pair

    async def main(watched):
        with memfd.create(size=4096) as f, memfd.from_bytes(b"x") as sealed:
            for fds, error, match in (
                ([f], SealError, "lacks seals"),
                ([sealed, sealed], ValueError, "2 descriptors"),
                ([], ValueError, "without a descriptor"),
            ):
                for call in (memfd.aio.recv, memfd.aio.recv_array):
                    waiting = asyncio.create_task(call(there))
                    await until(lambda: watched() == 1)
                    before = descriptors() - 1  # the duplicate
                    socket.send_fds(here, [b"x"], [file.fileno() for file in fds])
                    with pytest.raises(error, match=match) as caught:
                        await waiting
                    assert caught
                    assert descriptors() == before
            await memfd.aio.send(here, sealed)
            with pytest.raises(ValueError, match="npy"):
                await memfd.aio.recv_array(there)

    go(main)


def test_the_end(pair):
    """Who waits when the other side closes gets EOFError; who sends, an OSError."""
    here, there = pair

    async def main(watched):
        if here.type != socket.SOCK_DGRAM:
            waiting = asyncio.create_task(memfd.aio.recv(there))
            await until(lambda: watched() == 1)
            here.close()
            with pytest.raises(EOFError):
                await waiting
        here.close()
        with memfd.from_bytes(b"x") as f, pytest.raises(OSError, match="Br|ref|res"):
            await memfd.aio.send(there, f)

    go(main)


def test_the_end_in_half_a_message(stream):
    """A stream that ends within a message is an EOFError, and what came is closed."""
    here, there = stream

    async def main(watched):
        before = descriptors()
        waiting = asyncio.create_task(memfd.aio.recv(there))
        with memfd.from_bytes(b"x") as f:
            socket.send_fds(here, [FILE[:5]], [f.fileno()])
        await until(lambda: (watched(), descriptors()) == (1, before + 2))
        here.close()
        with pytest.raises(EOFError) as caught:
            await waiting
        assert caught
        assert descriptors() == before - 1

    go(main)


def test_streams_are_refused(stream):
    """What reads by itself is refused before anything is read, with or without asyncio."""
    here, there = stream

    async def main(_):
        reader, writer = await asyncio.open_connection(sock=there.dup())
        # What comes is still there for a socket of our own.
        writer.transport.pause_reading()
        with memfd.from_bytes(b"x") as f:
            await memfd.aio.send(here, f)
            for sock in (
                reader,
                writer,
                writer.transport,
                writer.get_extra_info("socket"),
            ):
                for call in (memfd.recv, memfd.recv_array):
                    with pytest.raises(TypeError, match="streams lose the descriptors"):
                        call(sock)
                for call in (memfd.aio.recv, memfd.aio.recv_array):
                    with pytest.raises(TypeError, match="streams lose the descriptors"):
                        await call(sock)
                with pytest.raises(TypeError, match="streams lose the descriptors"):
                    await memfd.aio.send(sock, f)
                with pytest.raises(TypeError, match="streams lose the descriptors"):
                    memfd.send(sock, f)
        (await memfd.aio.recv(there)).close()
        writer.close()
        await writer.wait_closed()

    go(main)


def test_other_arguments(stream):
    """Sockets that block, those of other families, and wrong items are refused."""
    here, there = stream

    async def main(_):
        with memfd.from_bytes(b"x") as f, socket.socket() as tcp:
            for call in (memfd.aio.recv, memfd.aio.recv_array):
                for timeout in (None, 5):
                    there.settimeout(timeout)
                    with pytest.raises(ValueError, match=r"sock\.setblocking\(False\)"):
                        await call(there)
                with pytest.raises(ValueError, match="Unix sockets"):
                    await call(tcp)
                with pytest.raises(TypeError, match="must be a socket, not int"):
                    await call(1)
            there.setblocking(False)
            with pytest.raises(ValueError, match="mode"):
                await memfd.aio.recv_array(there, "w")
            with pytest.raises(TypeError, match=r"memfd\.share"):
                await memfd.aio.send(here, np.arange(3))
            here.setblocking(True)
            with pytest.raises(ValueError, match=r"sock\.setblocking\(False\)"):
                await memfd.aio.send(here, f)
        with pytest.raises(BlockingIOError):
            memfd.recv(there)

    go(main)


# --- the module ----------------------------------------------------------------------


def test_asyncio_is_loaded_late(run):
    """import memfd and its socket calls load no asyncio; memfd.aio is there by itself."""
    run("""
        import sys
        import memfd
        memfd.recv
        assert "aio" in dir(memfd) and "aio" not in memfd.__all__
        assert "asyncio" not in sys.modules
        memfd.aio.recv
        assert "asyncio" in sys.modules and "numpy" not in sys.modules
    """)
    run("from memfd import aio; aio.send")


def test_signatures_are_those_without_asyncio():
    """The coroutines take what the functions take, in the same order."""
    import inspect

    assert sorted(memfd.aio.__all__) == ["recv", "recv_array", "send"]
    for name in memfd.aio.__all__:
        call = getattr(memfd.aio, name)
        assert inspect.iscoroutinefunction(call)
        assert inspect.signature(call) == inspect.signature(getattr(memfd, name))
