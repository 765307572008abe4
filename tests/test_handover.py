"""Memfds that were sent through multiprocessing: fetched, given back, kept, given up."""

import resource
import subprocess
import sys

import pytest

pytest.importorskip("numpy")


def test_example(run):
    """The docstring's example runs and answers what it says."""
    run("""
        import doctest
        from memfd import _handover
        failed, tried = doctest.testmod(_handover)
        assert tried >= 6 and not failed
    """)


def test_the_way_is_proc(play):
    """What arrives has a description of its own, close-on-exec, and needed no service."""
    play("""
        here, there = multiprocessing.Pipe()
        _ticket.redeem = no_ticket
        sent = memfd.from_bytes(b"0123456789")
        sent.seek(4)

        def receive():
            got = there.recv()
            assert got.name == sent.name and not os.get_inheritable(got.fileno())
            assert got.read() == b"0123456789"
            os._exit(7)

        pid = forked(receive)
        here.send(sent)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert sent.tell() == 4
        assert memfd.pending() == 0
    """)


def test_access_is_kept(play):
    """A memfd that was opened for reading arrives like that."""
    play("""
        here, there = multiprocessing.Pipe()
        writable = memfd.create(size=3)
        for sent in (writable, writable.reopen("r")):
            here.send(sent)
            assert there.recv().writable() == sent.writable()
    """)


def test_idle_sender_keeps_nothing(play):
    """Memory that everybody dropped is free, although the sender does nothing more."""
    play("""
        import contextlib
        here, there = multiprocessing.Pipe()
        ready, go = os.pipe()

        def send():
            array = memfd.share(np.zeros(1000))
            here.send(array)
            inode = os.fstat(array.memfd.fileno()).st_ino
            os.write(go, struct.pack("q", inode))
            del array
            signal.pause()

        pid = forked(send)
        inode, = struct.unpack("q", os.read(ready, 8))

        def is_kept():
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                    if os.stat(f"/proc/{pid}/fd/{fd}").st_ino == inode:
                        return True
            return False

        assert is_kept()
        assert there.recv().tolist() == [0] * 1000
        until(lambda: not is_kept(), "the sender keeps what was received")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    """)


@pytest.mark.parametrize("by", ["slip", "ticket"])
@pytest.mark.parametrize("what", ["raises", "sends"])
def test_a_signal_handler_in_a_first_message(play, what, by):
    """At each line of Python: later messages, of other threads too, arrive and go."""
    play(f"""
        import threading
        first, handled, last = map(memfd.from_bytes, (b"first", b"handled", b"last"))
        here, there = multiprocessing.Pipe()
        if "{by}" == "ticket":
            _loan.fetch = lambda cls, slip: None

        def handle():
            if "{what}" == "raises":
                raise KeyboardInterrupt
            here.send_bytes(ForkingPickler.dumps(handled))

        def interrupted(nth):
            def trace(frame, event, argument):
                nonlocal nth
                nth -= event == "line"
                if nth == 0:
                    sys.settrace(None)
                    handle()
                return trace

            message = None
            sys.settrace(trace)
            try:
                message = ForkingPickler.dumps(first)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            if message is not None:
                here.send_bytes(message)
            return nth <= 0

        def send_and_receive(nth):
            signal.alarm(30)
            is_interrupted = interrupted(nth)
            thread = threading.Thread(target=here.send, args=(last,))
            thread.start(), thread.join()
            got = []
            while there.poll():
                got.append(there.recv().read())
            expected = [b"first", b"last"]
            if is_interrupted and "{what}" == "raises":
                expected = [b"last"]
            elif is_interrupted:
                expected = [b"handled", *expected]
            assert got == expected, got
            # One that was interrupted may count as sent, and is never received.
            most = is_interrupted and "{what}" == "raises"
            until(lambda: len(_handover._pending) <= most, "an idle sender keeps it")
            os._exit(2 if is_interrupted else 0)

        count = 0
        while True:
            count += 1
            code = os.waitstatus_to_exitcode(
                os.waitpid(forked(lambda: send_and_receive(count)), 0)[1]
            )
            if code != 2:
                break
        assert code == 0, (code, count)
        assert count > 40, count
    """)


def test_known_memory_is_not_opened_again(play):
    """A receiver that still maps the same immutable memfd opens nothing, maps nothing."""
    play("""
        here, there = multiprocessing.Pipe()
        _ticket.redeem = no_ticket
        array = memfd.share(np.arange(1000))

        def receive():
            first = there.recv()
            before = descriptors()
            def fetch(cls, slip):
                raise AssertionError("opened it")
            _loan.fetch = fetch
            second = there.recv()
            assert second.tolist() == array[::2].tolist()
            assert np.shares_memory(first, second)
            assert second.memfd is first.memfd and descriptors() == before

        pid = forked(receive)
        here.send(array)
        here.send(array[::2])
        assert succeeded(pid) and memfd.pending() == 0
    """)


def test_another_file_with_the_same_numbers_is_not_taken_for_it(play):
    """Device and inode alone do not make it the memory that is mapped already."""
    play("""
        from memfd import _array, _reduction
        array = memfd.share(np.arange(4))
        slip, ticket, name = _handover.give(array.memfd)
        assert _reduction._mapped_already(slip, "r", _array) is array.base
        for change in ({"SIZE": 1}, {"MODIFIED": 1}, {"INODE": 1}, {"DEVICE": 0}):
            slip, ticket, name = changed(array.memfd, **change)
            assert _reduction._mapped_already(slip, "r", _array) is None, change
            assert not _loan.is_of(slip, array.memfd), change
            assert _loan.fetch(memfd.Memfd, slip) is None, change
        foreign = bytes(16) + slip[16:]
        assert _reduction._mapped_already(foreign, "r", _array) is None
        assert _loan.fetch(memfd.Memfd, foreign) is None
        assert not _loan.give_back(foreign)
        longer = _handover.give(array.memfd)[0] + b"x"
        assert _loan.fetch(memfd.Memfd, longer) is None
        assert _loan.fetch(memfd.Memfd, b"short") is None
    """)


@pytest.mark.parametrize("what", ["alive", "gone"])
def test_a_pid_that_is_another_process_by_now(play, what):
    """It has no such file, or is gone as well; the ticket still works."""
    play(
        """
        sent = memfd.from_bytes(b"the right one")
        pid = forked(signal.pause)
        if WHAT == "gone":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        slip, ticket, name = changed(sent, PID=pid, LOAN=500, ORIGINAL=500)
        assert _loan.fetch(memfd.Memfd, slip) is None
        assert _handover.take(slip, ticket, name).read() == b"the right one"
        until(lambda: memfd.pending() == 0, "not given back")
        """.replace("WHAT", repr(what))
    )


@pytest.mark.parametrize("what", ["fifo", "file", "directory", "device"])
def test_a_descriptor_that_is_another_file_by_now(play, what, tmp_path):
    """It is noticed without opening that file; the ticket still works."""
    play(
        """
        os.mkfifo("FOLDER/fifo")
        fd = {
            "fifo": lambda: os.open("FOLDER/fifo", os.O_RDWR),
            "file": lambda: memfd.memfd_create("the wrong one"),
            "directory": lambda: os.open("FOLDER", os.O_RDONLY),
            "device": lambda: os.open("/dev/full", os.O_RDWR),
        }[WHAT]()
        libc = ctypes.CDLL(None)
        watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened = 0x20  # IN_OPEN
        assert libc.inotify_add_watch(watch, b"/proc/self/fd/%d" % fd, opened) != -1

        sent = memfd.from_bytes(b"the right one")
        slip, ticket, name = changed(sent, LOAN=fd, ORIGINAL=fd)
        assert _loan.fetch(memfd.Memfd, slip) is None
        assert _handover.take(slip, ticket, name).read() == b"the right one"
        until(lambda: memfd.pending() == 0, "not given back")
        try:
            os.read(watch, 1000)
        except BlockingIOError:
            pass
        else:
            raise SystemExit("it was opened")
        """.replace("WHAT", repr(what)).replace("FOLDER", str(tmp_path))
    )


def test_a_descriptor_that_changes_meanwhile(play):
    """Between the look and the opening it becomes another file: that one is not taken."""
    play("""
        right, wrong = memfd.from_bytes(b"right"), memfd.from_bytes(b"wrong")
        place = os.dup(right.fileno())
        def flip():
            while True:
                os.dup2(wrong.fileno(), place)
                os.dup2(right.fileno(), place)

        pid = forked(flip)  # has a table of descriptors of its own: its own `place`
        slip, ticket, name = changed(right, PID=pid, LOAN=place, ORIGINAL=place)
        # As long as it takes until both have run side by side for a while.
        changes, before = 0, None
        while changes < 3000:
            got = _loan.fetch(memfd.Memfd, slip)
            changes += (got is None) != (before is None)
            before = got
            if got is not None:
                assert got.read() == b"right"
                got.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    """)


def test_memory_that_can_change_is_opened_anew(play):
    """Read-only arrays over memory that is not sealed do not share one mapping."""
    play("""
        here, there = multiprocessing.Pipe()
        array = memfd.attach(memfd.zeros(4))
        here.send(array)
        got = there.recv()
        assert got.base is not array.base
        assert memfd.pending() == 0
    """)


def test_closed_ones_are_not_sent(play):
    """Nothing is kept for a memfd that was closed before."""
    play("""
        here, there = multiprocessing.Pipe()
        sent = memfd.from_bytes(b"data")
        sent.close()
        try:
            here.send(sent)
        except ValueError as error:
            assert "cannot be sent" in str(error)
        else:
            raise SystemExit("no error")
        assert memfd.pending() == 0
    """)


def test_a_pipe_that_is_another_one_by_now(play):
    """The number is written to the sender's pipe only; the ticket gives the loan back."""
    play("""
        sent = memfd.from_bytes(b"data")
        for other in (
            dict(PIPE_INODE=1), dict(PIPE_DEVICE=1), dict(PIPE=sent.fileno()),
            dict(PIPE=10_000),
        ):
            slip, ticket, name = changed(sent, **other)
            assert not _loan.give_back(slip)
            got = _handover.take(slip, ticket, name)
            assert got.read() == b"data"
            until(lambda: memfd.pending() == 0, "not given back")
    """)


def test_a_pipe_that_is_a_file(play):
    """No number is written to what is no pipe, whatever the slip says."""
    play("""
        sent, other = memfd.from_bytes(b"data"), memfd.create("other")
        other.write(b"untouched")
        status = os.fstat(other.fileno())
        place = dict(PIPE_DEVICE=status.st_dev, PIPE_INODE=status.st_ino)
        slip, ticket, name = changed(sent, PIPE=other.fileno(), **place)
        assert not _loan.give_back(slip)
        assert _loan.fetch(memfd.Memfd, slip).read() == b"data"
        assert os.pread(other.fileno(), 100, 0) == b"untouched"
    """)


def test_an_access_that_says_more(play):
    """A slip says how to open a file, and not to make it empty."""
    play("""
        sent = memfd.create("sent")
        sent.write(b"untouched")
        slip, ticket, name = changed(sent, ACCESS=os.O_RDWR | os.O_TRUNC | os.O_APPEND)
        with _loan.fetch(memfd.Memfd, slip) as got:
            assert got.read() == b"untouched"
            got.seek(0)
            got.write(b"is")
        assert os.pread(sent.fileno(), 100, 0) == b"istouched"
    """)


def test_a_message_that_is_read_twice(play):
    """It works as long as the sender has the memfd; then it is a ConnectionError."""
    play("""
        sent = memfd.from_bytes(b"data")
        message = bytes(ForkingPickler.dumps(sent))
        for _ in range(3):
            assert pickle.loads(message).read() == b"data"
            assert memfd.pending() == 0
        before = descriptors()
        sent.close()
        errors = []
        sys.excepthook = lambda *error: errors.append(error)
        try:
            pickle.loads(message)
        except ConnectionError as error:
            assert "received before" in str(error)
        else:
            raise SystemExit("no error")
        until(lambda: descriptors() < before, "a descriptor is left")
        assert not errors, "the sender reports it"
    """)


def test_broadcast_to_three(play):
    """One message to three processes that read at the same time arrives three times."""
    play("""
        array = memfd.share(np.arange(100.0))
        message = ForkingPickler.dumps(array[::3])
        pipes = [multiprocessing.Pipe() for _ in range(3)]

        def receive(there):
            got = there.recv()
            assert got.tolist() == array[::3].tolist()

        pids = [forked(lambda: receive(there)) for _, there in pipes]
        for here, _ in pipes:
            here.send_bytes(message)
        assert all([succeeded(pid) for pid in pids])
        assert memfd.pending() == 0
    """)


CLOSED = """
def close_all(*keep):
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass

def open_all(data=b""):
    fds = [os.open("FOLDER", os.O_TMPFILE | os.O_RDWR) for _ in range(30)]
    for fd in fds:
        os.pwrite(fd, data, 0)
    return fds

def are_untouched(fds, data=b""):
    return all(
        os.lseek(fd, 0, os.SEEK_CUR) == 0 and os.pread(fd, 100, 0) == data for fd in fds
    )
"""


def test_a_receiver_who_closes_all(play, tmp_path):
    """Nothing is written into a file that has the number of what was closed."""
    play(
        CLOSED.replace("FOLDER", str(tmp_path))
        + """
here, there = multiprocessing.Pipe()

def receive():
    assert there.recv().read() == b"first"
    close_all(there.fileno())
    fds = open_all()
    assert there.recv().read() == b"second"
    assert are_untouched(fds)

pid = forked(receive)
for data in (b"first", b"second"):
    here.send(memfd.from_bytes(data))
assert succeeded(pid)
assert memfd.pending() == 0
"""
    )


def test_a_sender_who_closes_all(play, tmp_path):
    """Files that have the numbers of what was closed are neither read nor closed."""
    play(
        CLOSED.replace("FOLDER", str(tmp_path))
        + """
here, there = multiprocessing.Pipe()

def send():
    here.send(memfd.from_bytes(b"lost"))
    close_all(here.fileno(), there.fileno())
    fds = open_all(bytes(64))
    assert memfd.pending() == 1 and are_untouched(fds, bytes(64))
    _handover._pending.clear()  # closes no loan
    assert succeeded(forked(lambda: are_untouched(fds, bytes(64)) or os._exit(1)))
    assert are_untouched(fds, bytes(64))
    here.send(memfd.from_bytes(b"data"))  # from another desk
    assert memfd.pending() == 1
    there.recv_bytes()
    assert there.recv().read() == b"data"
    assert memfd.pending() == 0

assert succeeded(forked(send))
"""
    )


def test_a_fork_begins_with_nothing(play):
    """The child has no messages waiting; the parent's still arrive after its end."""
    play("""
        here, there = multiprocessing.Pipe()
        here.send(memfd.from_bytes(b"parent's"))

        def child():
            assert memfd.pending() == 0
            mine, other = multiprocessing.Pipe()
            mine.send(memfd.from_bytes(b"child's"))
            assert memfd.pending() == 1
            assert other.recv().read() == b"child's"
            assert memfd.pending() == 0

        assert succeeded(forked(child))
        assert memfd.pending() == 1
        assert there.recv().read() == b"parent's"
        assert memfd.pending() == 0
    """)


def test_failed_receivers_give_back(play):
    """Who has no descriptor left gets EMFILE, and the sender keeps nothing for it."""
    play("""
        import resource
        here, there = multiprocessing.Pipe()
        # Both were used before, so that only the memfd is missing.
        here.send(memfd.from_bytes(b""))
        there.recv()
        sent = memfd.from_bytes(b"data")
        here.send(sent)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (sent.fileno(), hard))
        try:
            there.recv()
        except OSError as error:
            assert error.errno == 24, error
        else:
            raise SystemExit("no error")
        assert memfd.pending() == 0
    """)


def test_what_nobody_receives_is_given_up(play):
    """Beyond a quarter of RLIMIT_NOFILE the oldest go, but only those of ten minutes."""
    play("""
        import resource
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        messages = [ForkingPickler.dumps(memfd.from_bytes(b"%d" % i)) for i in range(150)]
        assert memfd.pending() == 150
        _handover._MAX_AGE = 0
        messages += [ForkingPickler.dumps(memfd.from_bytes(b"new"))]
        assert memfd.pending() == 1
        assert pickle.loads(messages[-1]).read() == b"new"
        try:
            pickle.loads(messages[0])
        except ConnectionError as error:
            assert "waited for too long" in str(error)
        else:
            raise SystemExit("no error")
    """)


def test_the_bound_where_descriptors_are_many(play):
    """Beyond 1024 the oldest go, however many descriptors there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard // 4 <= 1024:
        pytest.skip(f"RLIMIT_NOFILE is {hard}")
    play("""
        import resource
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        sent = memfd.from_bytes(b"data")
        messages = [ForkingPickler.dumps(sent) for _ in range(1025)]
        assert memfd.pending() == 1025
        _handover._MAX_AGE = 0
        messages.append(ForkingPickler.dumps(sent))
        assert memfd.pending() == 1, memfd.pending()
    """)


def test_no_descriptor_left_to_send(play):
    """EMFILE says how many messages wait; with old ones given up sending works again."""
    play("""
        import resource
        sent = [memfd.from_bytes(b"x") for _ in range(100)]
        messages = [ForkingPickler.dumps(sent[0])]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 50, hard))
        try:
            while True:
                messages.append(ForkingPickler.dumps(sent[len(messages)]))
        except OSError as error:
            assert error.errno == 24 and f"{len(messages)} messages" in str(error), error
        _handover._MAX_AGE = 0
        ForkingPickler.dumps(sent[-1])
        assert memfd.pending() == 1
    """)


@pytest.mark.parametrize("limit", [0, 3])
def test_a_limit_below_every_number_that_is_tried(play, limit):
    """It is EMFILE, too, where the kernel calls the number invalid."""
    play(f"""
        import resource
        pickle.loads(ForkingPickler.dumps(memfd.from_bytes(b"x"))).close()
        sent = memfd.from_bytes(b"data")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, hard))
        try:
            ForkingPickler.dumps(sent)
        except OSError as error:
            assert error.errno == 24 and "0 messages wait" in str(error), error
        else:
            raise SystemExit("no error")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert pickle.loads(ForkingPickler.dumps(sent)).read() == b"data"
    """)


def test_a_result_of_a_child_that_ends_arrives(play):
    """A child of multiprocessing waits at its end until what it sent was read."""
    play("""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()

        def send():
            there.send(memfd.share(np.arange(5)))
            there.send("last")

        process = context.Process(target=send)
        process.start()
        got = [here.recv_bytes() for _ in range(2)]  # all is sent, the child ends
        process.join(0.3)
        assert process.is_alive(), "it did not wait"
        assert pickle.loads(got[0]).tolist() == [0, 1, 2, 3, 4]
        process.join(10)
        assert process.exitcode == 0
    """)


AT_THE_END = """
import multiprocessing, pickle, sys, threading
from multiprocessing import util
import memfd
import numpy as np

ARRAY = memfd.share(np.arange(5))

class Late:
    def __init__(self, event):
        self.event = event

    def __reduce__(self):
        self.event.wait()
        return tuple, ([ARRAY],)

def after(priority):
    event = threading.Event()
    util.Finalize(None, event.set, exitpriority=priority)
    return event

def put(queue):
    queue.put(Late(after(-1)))  # while the process waits for the thread of the queue

def start(queue):
    late = after(-60)  # Python 3.13 waits for threads first
    def put():
        if sys.version_info < (3, 13):
            late.wait()
        for i in range(2):
            queue._writer.send((ARRAY,))
    threading.Thread(target=put).start()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=globals()[sys.argv[2]], args=(queue,), daemon=True)
    process.start()
    for message in range(1 + (sys.argv[2] == "start")):
        data = queue._reader.recv_bytes()
        process.join(0.5)
        assert process.is_alive(), "it did not wait"
        assert pickle.loads(data)[0].tolist() == [0, 1, 2, 3, 4]
    process.join(30)
    assert process.exitcode == 0, process.exitcode
"""


@pytest.mark.parametrize("how", ["put", "start"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_a_thread_sends_at_the_end_arrives(method, how, tmp_path):
    """Also the first message of a process, while or after it runs its finalizers."""
    program = tmp_path / "program.py"
    program.write_text(AT_THE_END)
    subprocess.run([sys.executable, program, method, how], check=True, timeout=60)


def test_a_child_does_not_wait_for_ever(play):
    """A message that nobody reads holds up the end of a child for a bounded time."""
    play("""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        _handover._LINGER = 0.1
        process = context.Process(
            target=lambda: there.send(memfd.from_bytes(b"data")), daemon=True
        )
        process.start()
        process.join(10)
        assert process.exitcode == 0
        # The main process waits for nobody.
        here.send(memfd.from_bytes(b"data"))
        _handover._LINGER = 60
    """)


def test_a_child_whose_pipe_was_closed_ends(play):
    """Nobody can give anything back then, and it waits for nobody."""
    play("""
        def send(connection):
            connection.send(memfd.from_bytes(b"data"))
            os.close(_handover._desk.fileno())

        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=send, args=(there,))
        process.start()
        process.join(8)
        assert process.exitcode == 0, process.exitcode
    """)


def test_ten_thousand_arrays_through_a_pool(play):
    """64 alive at a time: few descriptors, none left, also when a worker is killed."""
    play(
        """
        import collections

        def work(array):
            if array[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return float(array[0]), descriptors()

        def everything_was_given_back():
            until(lambda: memfd.pending() == 0, "not given back")

        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            pool.map(work, [memfd.share(np.zeros(8))] * 2)  # what is made once
            everything_was_given_back()
            start, most = descriptors(), 0
            for round in range(2):
                waiting = collections.deque()
                for i in range(5000):
                    array = memfd.share(np.full(8, float(i)))
                    waiting.append((i, pool.apply_async(work, (array,))))
                    del array
                    if len(waiting) == 64:
                        number, answer = waiting.popleft()
                        value, theirs = answer.get(60)
                        assert value == number
                        most = max(most, theirs)
                        if i % 64 == 0:
                            most = max(most, descriptors())
                while waiting:
                    number, answer = waiting.popleft()
                    assert answer.get(60)[0] == number
                everything_was_given_back()
                # The thread that collects may just be dropping the last of them.
                until(lambda: descriptors() <= start, "descriptors are left")
                if round == 0:
                    before = {process.pid for process in pool._pool}
                    pool.apply_async(work, (memfd.share(np.full(8, -1.0)),))
                    until(
                        lambda: len({p.pid for p in pool._pool} - before) == 1, "no heir"
                    )
        assert most < 200, most
        """,
        timeout=120,
    )


POOL = """
context = multiprocessing.get_context("fork")

def make(kind):
    array = memfd.share(np.arange(10))
    return {
        "Array": lambda: array, "view": lambda: array[3:], "Memfd": lambda: array.memfd,
        "ArrayDict": lambda: memfd.share({"x": array}),
    }[kind]()

KINDS = "Array", "view", "Memfd", "ArrayDict"

def raises(kind, number, use, *arguments):
    try:
        use(*arguments)
    except kind as error:
        assert getattr(error, "errno", None) == number, error
    else:
        raise SystemExit("no error")

def allow(count):
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
"""


def test_a_pool_outlives_a_worker_whose_result_is_lost(play):
    """Only who uses what a killed worker took along gets the error; the Pool goes on."""
    play(
        POOL
        + """
import operator, threading
killed = threading.Event()

class Late:
    def __reduce__(self):
        return killed.wait, ()

def wait():
    killed.wait()

class Slow:
    def __reduce__(self):
        return wait, ()

def work(what):
    if what == "end":
        os.kill(os.getpid(), signal.SIGKILL)
    return make(what) if what in KINDS else Slow()

with context.Pool(1) as pool:
    worker = pool._pool[0]
    pool.apply_async(work, ("slow",))  # nothing is received before `killed` is set
    results = [pool.apply_async(work, (kind,)) for kind in KINDS]
    pool.apply_async(work, ("end",))
    multiprocessing.connection.wait([worker.sentinel])
    killed.set()
    for result in results:
        lost = result.get()
        for use in (
            len, list, bool, float, np.asarray, np.sum, np.sin, pickle.dumps,
            operator.methodcaller("read"), operator.attrgetter("shape"),
            operator.itemgetter(0), lambda x: x + 1, lambda x: 1 - x, lambda x: x == 1,
            lambda x: np.ones(10) * x, lambda x: x.__setitem__(0, 1), np.atleast_1d,
            lambda x: setattr(x, "shape", 3), lambda x: x.__enter__(),
        ):
            raises(ConnectionError, None, use, lost)
        assert "not received: ConnectionError" in repr(lost) == f"{lost}"
        assert {lost: 1}[lost] == 1 and not isinstance(lost, memfd.Memfd)
    assert pool.apply(abs, (-2,)) == 2
"""
    )


def test_a_pool_outlives_a_lack_of_descriptors(play):
    """Whoever has none left for what arrives: only that result, or that task, fails."""
    play(
        POOL
        + """
def use(x):
    return getattr(x, "memfd", x).size

def receive():
    allow(3)
    raises(OSError, 24, there.recv)

here, there = multiprocessing.Pipe()
with context.Pool(1) as pool:
    for kind in KINDS:  # what is opened once
        pool.apply(make, (kind,))
        pool.apply(use, (make(kind),))
    # A worker that cannot load what prints a traceback dies; Python 3.15 does so late.
    raises(TypeError, None, pool.apply, abs, ("x",))
    until(lambda: memfd.pending() == 0, "not given back")
    for kind in KINDS:
        allow(3)
        result = pool.apply(make, (kind,))
        raises(OSError, 24, lambda: result.shape)
        allow(1000)
        pool.apply(allow, (3,))
        raises(OSError, 24, pool.apply, use, (make(kind),))
        pool.apply(allow, (1000,))
        assert pool.apply(abs, (-2,)) == 2
    # What a function in a worker receives itself raises at once.
    here.send(make("Memfd"))
    pool.apply(receive)
"""
    )


def test_threads_send_at_once(play):
    """Messages of several threads arrive, and nothing is kept."""
    play("""
        import threading
        here, there = multiprocessing.Pipe()
        count = 200

        def receive():
            total = sum(float(there.recv()[0]) for _ in range(4 * count))
            assert total == 4 * sum(range(count)), total

        pid = forked(receive)
        lock = threading.Lock()
        def send():
            for i in range(count):
                message = ForkingPickler.dumps(memfd.share(np.full(3, float(i))))
                with lock:
                    here.send_bytes(message)
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert succeeded(pid)
        until(lambda: memfd.pending() == 0, "not given back")
    """)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_one_memfd_several_times_in_the_arguments(method, tmp_path):
    """Each of them owns a descriptor of its own in the process that is started."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, sys
import memfd
import numpy as np

def work(array, file, again, more):
    numbers = {array.memfd.fileno(), file.fileno(), again.memfd.fileno(), more.fileno()}
    assert len(numbers) >= 3 and file is more, numbers
    file.close()
    assert array.memfd.read() and again.memfd.read() and array[2] == again[2] == 2

if __name__ == "__main__":
    array = memfd.share(np.arange(3))
    again, file = memfd.attach(array.memfd, "c"), array.memfd
    again = memfd.attach(file.reopen(), "r")
    process = multiprocessing.get_context(sys.argv[1]).Process(
        target=work, args=(array, file, again, file)
    )
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    )
    subprocess.run([sys.executable, program, method], check=True, timeout=60)


ARGUMENTS = """
import multiprocessing, os, sys, time
import memfd
import numpy as np

class Shared:
    def __init__(self, array):
        self.array = array

    def __getstate__(self):
        return {"array": memfd.share(self.array)}

def look(arrays, count):
    assert [shared.array.tolist() for shared in arrays] == [[i] for i in range(count)]

def descriptors():
    return len(os.listdir("/proc/self/fd"))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    count = int(sys.argv[2])
    arrays = [Shared(np.array([i])) for i in range(count)]
    memfd.share(np.zeros(1))  # this pickler knows only the types that are loaded by now
    before = descriptors()
    process = context.Process(target=look, args=(arrays, count))
    process.start()
    process.join()
    assert process.exitcode == 0 and memfd.pending() == 0
    # Left are streams of the process, the server, the tracker, the desk, and the sharer;
    # a thread may just be dropping the last of the others.
    end = time.monotonic() + 20
    while descriptors() >= before + 10:
        assert time.monotonic() < end, "descriptors are left"
        time.sleep(0.005)
"""


@pytest.mark.parametrize("count", [3, 300])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_memfds_that_are_made_for_the_arguments(method, count, tmp_path):
    """They are kept until the process has started, and there may be many."""
    program = tmp_path / "program.py"
    program.write_text(ARGUMENTS)
    subprocess.run(
        [sys.executable, program, method, str(count)], check=True, timeout=60
    )


def test_a_child_that_cannot_watch_its_parent(play):
    """A worker of loky is not told how to; it waits for its readers, too."""
    play("""
        class Parent:
            sentinel = None
        here, there = multiprocessing.Pipe()
        multiprocessing.process.parent_process = Parent
        _handover._LINGER = 0.3
        here.send(memfd.from_bytes(b"data"))
        start = time.monotonic()
        _handover.linger()
        assert time.monotonic() - start > 0.2
        there.recv()
        _handover._LINGER = 60
        _handover.linger()
    """)
