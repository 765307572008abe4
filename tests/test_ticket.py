"""Tickets: descriptors that are asked for where /proc does not do, also by strangers."""

import os

import pytest

pytest.importorskip("numpy")


def test_tickets_of_a_fork_are_its_own(play):
    """What a child sends after a fork is not what its parent sends at the same time."""
    play("""
        here, there = multiprocessing.Pipe()
        mine, other = multiprocessing.Pipe()
        _loan.fetch = lambda cls, slip: None  # only tickets are left
        here.send(memfd.from_bytes(b"before"))
        assert there.recv().read() == b"before"

        def child():
            here.send(memfd.from_bytes(b"child's"))
            until(lambda: memfd.pending() == 0, "not given back")

        pid = forked(child)
        mine.send(memfd.from_bytes(b"parent's"))
        assert there.recv().read() == b"child's"
        assert other.recv().read() == b"parent's"
        assert succeeded(pid)
    """)


def test_given_back_while_a_ticket_is_answered(play):
    """The descriptor is there until it was sent, and is closed then."""
    play("""
        sent = memfd.from_bytes(b"data")
        send_handle, inode = _handover.reduction.send_handle, os.fstat(sent.fileno()).st_ino

        def send_slowly(connection, fd, pid):
            assert _loan.give_back(slip)
            until(lambda: not _handover._pending, "not given back")
            handed_out.append(fd)
            assert os.fstat(fd).st_ino == inode
            send_handle(connection, fd, pid)

        handed_out = []
        slip, ticket, _ = _handover.give(sent)
        _handover.reduction.send_handle = send_slowly
        fd = _ticket.redeem(ticket, "")
        assert os.fstat(fd).st_ino == inode
        os.close(fd)

        def is_closed():
            try:
                return os.fstat(handed_out[0]).st_ino != inode
            except OSError:
                return True

        until(is_closed, "the descriptor is left")
        assert sent.read() == b"data"
    """)


def test_an_interrupt_while_a_ticket_is_redeemed(play):
    """At each line, of ours and of what may begin threads for us, it comes out as it is."""
    play("""
        sent = memfd.from_bytes(b"data")

        def interrupted(nth):
            def trace(frame, event, argument):
                nonlocal nth
                module = frame.f_globals["__name__"].partition(".")[0]
                nth -= event == "line" and module in ("memfd", "threading")
                if nth == 0:
                    raise KeyboardInterrupt
                return trace

            _, ticket, _ = _handover.give(sent)
            sys.settrace(trace)
            try:
                os.close(_ticket.redeem(ticket, ""))
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            return nth <= 0

        interrupted(1_000_000)  # imports what is needed
        count = 1
        while interrupted(count):
            signal.alarm(20)
            count += 1
        assert count > 30, count
    """)


def test_no_thread_to_end_waiting(play):
    """EAGAIN, as a stranger might keep us for ever."""
    play("""
        import errno
        here, there = multiprocessing.Pipe()
        _loan.fetch = lambda cls, slip: None
        here.send(memfd.from_bytes(b"data"))
        message = there.recv_bytes()
        _ticket._core.start_daemon = lambda *arguments: False
        try:
            pickle.loads(message)
        except BlockingIOError as error:
            assert error.errno == errno.EAGAIN
        else:
            raise SystemExit("no error")
    """)


def test_a_ticket_for_another_file(play):
    """What the ticket brings is refused, and closed, if it is not the file of the slip."""
    play("""
        sent, wrong = memfd.from_bytes(b"data"), memfd.from_bytes(b"wrong")
        slip, _, name = changed(sent, LOAN=10_000, ORIGINAL=10_000)
        _, ticket, _ = _handover.give(wrong)
        before = descriptors()
        try:
            _handover.take(slip, ticket, name)
        except ConnectionError as error:
            assert "another file" in str(error)
        else:
            raise SystemExit("no error")
        until(lambda: descriptors() <= before, "a descriptor is left")
    """)


def test_without_proc(play, namespace):
    """Where /proc is not mounted the ticket is the way, and the loan is given back."""
    unmount = ["sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    play(
        """
        assert not os.path.exists("/proc/self")
        here, there = multiprocessing.Pipe()

        def receive():
            assert there.recv().tolist() == [0, 1, 2]
            assert there.recv().name == "the name"

        pid = forked(receive)
        here.send(memfd.share(np.arange(3)))
        here.send(memfd.from_bytes(b"data", "the name"))
        assert succeeded(pid)
        until(lambda: memfd.pending() == 0, "not given back")
        """,
        wrapper=[*namespace("-m"), *unmount],
    )


@pytest.mark.parametrize("inner", ["receiver", "sender"])
def test_across_pid_namespaces(play, namespace, inner):
    """A pid of another namespace names a stranger, or nobody; the ticket is the way."""
    namespace("-p", "-f", "-m")
    play(
        """
        libc = ctypes.CDLL(None, use_errno=True)
        here, there = multiprocessing.Pipe()

        def enter():
            assert libc.unshare(0x20020000) == 0, ctypes.get_errno()  # NEWPID, NEWNS
            def inner():
                assert os.getpid() == 1
                assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # private
                assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
                (receive if INNER == "receiver" else send)()
            assert succeeded(forked(inner))

        def receive():
            assert there.recv().tolist() == [0, 1, 2]

        def send():
            here.send(memfd.share(np.arange(3)))
            until(lambda: memfd.pending() == 0, "not given back")

        pid = forked(enter)
        (send if INNER == "receiver" else receive)()
        assert succeeded(pid)
        """.replace("INNER", repr(inner))
    )


def test_a_sender_that_is_not_dumpable(play):
    """Another process of the same user may not look into it; the ticket is the way."""
    play("""
        # Loaded now: "nobody" may not be able to read them.
        import hmac, tempfile, traceback, multiprocessing.connection
        memfd.share(np.arange(1))
        libc = ctypes.CDLL(None, use_errno=True)
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)  # root may look into all
        os.environ["TMPDIR"] = "/tmp"
        here, there = multiprocessing.Pipe()

        def receive():
            libc.prctl(4, 1)
            slips = []
            def fetch(cls, slip, fetch=_loan.fetch):
                slips.append(fetch(cls, slip))
                return slips[-1]
            _loan.fetch = fetch
            assert there.recv().tolist() == [0, 1, 2]
            assert slips == [None]

        pid = forked(receive)
        libc.prctl(4, 0)  # PR_SET_DUMPABLE
        here.send(memfd.share(np.arange(3)))
        assert succeeded(pid)
        until(lambda: memfd.pending() == 0, "not given back")
    """)


def test_another_user(play):
    """A process that became another user receives and sends; the ticket is the way."""
    if os.getuid() != 0:
        pytest.skip("only root becomes another user")
    play("""
        # Loaded now: "nobody" may not be able to read them.
        import hmac, tempfile, traceback, multiprocessing.connection
        here, there = multiprocessing.Pipe()

        def work():
            os.setgid(65534)
            os.setuid(65534)
            there.send(there.recv() + 1)
            until(lambda: memfd.pending() == 0, "not given back")

        array = memfd.share(np.arange(3))
        pid = forked(work)
        here.send(array)
        there.close()
        assert here.recv().tolist() == [1, 2, 3]
        assert succeeded(pid)
        until(lambda: memfd.pending() == 0, "not given back")
    """)


def test_no_descriptor_left_for_a_ticket(play):
    """However far redeeming it gets, the receiver is told that it has no descriptor."""
    play("""
        import hmac, resource
        here, there = multiprocessing.Pipe()
        _loan.fetch = lambda cls, slip: None

        def receive():
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            first = os.dup(0)
            os.close(first)
            assert first == descriptors()  # there are no gaps
            errors = []
            for left in range(6):
                resource.setrlimit(resource.RLIMIT_NOFILE, (first + left, hard))
                try:
                    got = there.recv()
                except OSError as error:
                    errors.append(error.errno)
                else:
                    assert got.read() == b"data"
                    got.close()
            assert set(errors) == {24} and 2 < len(errors) < 6, errors

        pid = forked(receive)
        for _ in range(6):
            here.send(memfd.from_bytes(b"data"))
        assert succeeded(pid)
    """)


def test_another_authkey(play):
    """Who does not know the key of the sender gets a ConnectionError."""
    play("""
        here, there = multiprocessing.Pipe()
        _loan.fetch = lambda cls, slip: None
        here.send(memfd.from_bytes(b"data"))
        multiprocessing.current_process().authkey = b"another"
        try:
            there.recv()
        except ConnectionError as error:
            assert isinstance(error.__cause__, multiprocessing.AuthenticationError)
        else:
            raise SystemExit("no error")
    """)


def test_a_stranger_in_between(play):
    """At the address of a sender that is gone nobody can speak for another sender."""
    play("""
        import multiprocessing.connection, socket, threading

        def pass_on(source, target):
            while data := source.recv(1000):
                target.send(data)
            target.shutdown(socket.SHUT_WR)

        sent = memfd.from_bytes(b"data")
        slip, (address, number), name = changed(sent, LOAN=10_000, ORIGINAL=10_000)
        stranger, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        stranger.bind("\\0memfd-" + os.urandom(16).hex())
        stranger.listen()

        def stand_between():
            one, _ = stranger.accept()
            other.connect(address)
            threading.Thread(target=pass_on, args=(one, other)).start()
            pass_on(other, one)

        threading.Thread(target=stand_between).start()
        try:
            _handover.take(slip, (stranger.getsockname(), number), name)
        except ConnectionError as error:
            assert isinstance(error.__cause__, multiprocessing.AuthenticationError)
        else:
            raise SystemExit("no error")
        assert number in _ticket.sharer._cache
    """)


def test_a_stranger_who_says_what_he_likes(play):
    """At the address of a sender that is gone, that is a ConnectionError, too."""
    play("""
        import socket, threading

        sent = memfd.from_bytes(b"data")
        slip, (_, number), name = changed(sent, LOAN=10_000, ORIGINAL=10_000)
        sizes = struct.pack("!i", 16), struct.pack("!i", 300), struct.pack("!i", -2)
        welcome = b"\\0\\0\\0\\x1f#CHALLENGE#" + bytes(20) + b"\\0\\0\\0\\x09#WELCOME#"
        for said in (b"", b"x", *(size + bytes(300) for size in sizes), welcome):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.bind("\\0memfd-" + os.urandom(16).hex())
                stranger.listen()

                def speak():
                    with stranger.accept()[0] as one:
                        one.sendall(said)
                        one.shutdown(socket.SHUT_WR)
                        ended.wait(60)

                ended = threading.Event()
                thread = threading.Thread(target=speak)
                thread.start()
                try:
                    _handover.take(slip, (stranger.getsockname(), number), name)
                except ConnectionError as error:
                    assert "cannot be received" in str(error)
                else:
                    raise SystemExit("no error")
                finally:
                    ended.set()
                thread.join()
    """)


def test_many_come_with_tickets(play):
    """More than can wait at the address of a sender: the last ones come in later."""
    play("""
        import contextlib, socket, threading
        answer, may_answer = _ticket.Sharer.answer, threading.Event()

        def answer_later(sharer):
            may_answer.wait()
            answer(sharer)

        _ticket.Sharer.answer = answer_later
        _loan.fetch = lambda cls, slip: None
        here, there = multiprocessing.Pipe()
        here.send(memfd.from_bytes(b"data"))
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(BlockingIOError):
                for _ in range(1000):
                    one = stack.enter_context(socket.socket(socket.AF_UNIX))
                    one.setblocking(False)
                    one.connect(_ticket.sharer._place[1])
                raise SystemExit("all have a place")
            leaving = threading.Thread(target=lambda: (time.sleep(0.3), stack.close()))
            leaving.start()
            threading.Thread(target=lambda: (leaving.join(), may_answer.set())).start()
            assert there.recv().read() == b"data"
    """)


@pytest.mark.parametrize("accepts", [True, False])
def test_a_silent_stranger(play, accepts):
    """At the address of a sender that is gone, that is a ConnectionError after a while."""
    play(f"""
        import contextlib, socket
        _ticket._ANSWER = 0.5
        sent = memfd.from_bytes(b"data")
        slip, (_, number), name = changed(sent, LOAN=10_000, ORIGINAL=10_000)
        with socket.socket(socket.AF_UNIX) as stranger, contextlib.ExitStack() as stack:
            stranger.bind("\\0memfd-" + os.urandom(16).hex())
            stranger.listen(16 if {accepts} else 0)
            if not {accepts}:  # until there is no place to wait in
                for _ in range(8):
                    one = stack.enter_context(socket.socket(socket.AF_UNIX))
                    one.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        one.connect(stranger.getsockname())
            try:
                _handover.take(slip, (stranger.getsockname(), number), name)
            except ConnectionError as error:
                assert "cannot be received" in str(error)
            else:
                raise SystemExit("no error")
    """)


def test_a_stranger_who_says_nothing(play):
    """It keeps others from their memfds for a bounded time only."""
    play("""
        import signal, socket, threading
        _ticket._PATIENCE = 1
        here, there = multiprocessing.Pipe()
        _loan.fetch = lambda cls, slip: None
        here.send(memfd.from_bytes(b"data"))
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(_ticket.sharer._place[1])
            assert there.recv().read() == b"data"

        here.send(memfd.from_bytes(b"more"))
        signal.alarm(20)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(_ticket.sharer._place[1])
            gone = threading.Event()

            def drip():
                try:
                    while not gone.wait(0.2):
                        stranger.send(bytes(1))
                except OSError:
                    pass

            thread = threading.Thread(target=drip)
            thread.start()
            assert there.recv().read() == b"more"
            gone.set()
            thread.join()
    """)


def test_no_folder_is_left(play, tmp_path):
    """A sender that is killed leaves nothing where temporary files are."""
    play(
        """
        here, there = multiprocessing.Pipe()

        def send():
            here.send(memfd.from_bytes(b"data"))
            signal.pause()

        pid = forked(send)
        _loan.fetch = lambda cls, slip: None
        assert there.recv().read() == b"data"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert os.listdir(os.environ["TMPDIR"]) == []
        """,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
