"""Threads that use one object at the same time: each call has one of its stated outcomes.

In children, so that a signal is a failure.  What each child prints counts the outcomes, so
that a race that never happens fails as well.
"""

import ast
import collections

import pytest

# What every child begins with.
RACE = """
import collections, errno, gc, itertools, os, random, sys, threading, time

import memfd

sys.setswitchinterval(1e-6)
outcomes = collections.Counter()


def together(*calls):
    "Call all at once, each in a thread; return what each returned or raised."
    answers = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(i):
        barrier.wait()
        try:
            answers[i] = calls[i]()
        except Exception as error:
            answers[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def soon(call):
    "Let the others begin; sometimes they come first, and sometimes not."
    for _ in range(random.randrange(10)):
        time.sleep(0)  # gives the lock away
    return call()


def note(name, answer, *allowed):
    "Count an outcome, which may be one of these exceptions, or those with these errno."
    if isinstance(answer, Exception):
        kinds = [one for one in allowed if isinstance(one, type)]
        numbers = [one for one in allowed if isinstance(one, int)]
        if not isinstance(answer, tuple(kinds)) and (
            getattr(answer, "errno", None) not in numbers
        ):
            raise answer
        outcomes[name, type(answer).__name__] += 1
        return False
    outcomes[name, "done"] += 1
    return True


def sure(truth):
    assert truth
    return truth


def held():
    "Return the descriptors and the mappings of memfds, once they stay as they are."
    gc.collect()
    before, now = None, belongings()
    while now != before:  # a thread that answers others may be about to close something
        time.sleep(0.02)
        before, now = now, belongings()
    return now


def belongings():
    fds = sorted(os.listdir("/proc/self/fd"))
    with open("/proc/self/maps") as file:
        maps = [line for line in file if "/memfd:" in line]
    # Without the listing's own descriptor, which is gone.
    return [fd for fd in fds if os.path.lexists(f"/proc/self/fd/{fd}")], maps


class Witness(threading.Thread):
    "Opens files all the time, into whatever number is free, and sees that none changes."

    CONTENT = b"not yours" * 10

    def __init__(self):
        super().__init__()
        self.ending = threading.Event()
        self.changed = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.ending.set()
        self.join()
        assert not self.changed, self.changed

    def run(self):
        while not self.ending.is_set():
            opened = [self.open() for _ in range(3)]
            for _ in range(20):  # the others come
                os.getppid()
            for fd, facts in opened:
                try:
                    if self.facts(fd) != facts:
                        self.changed.append((facts, self.facts(fd)))
                    os.close(fd)
                except OSError as error:
                    self.changed.append(repr(error))

    def open(self):
        fd = os.memfd_create("witness", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, self.CONTENT)
        return fd, self.facts(fd)

    def facts(self, fd):
        status = os.fstat(fd)
        content = os.pread(fd, 1000, 0)
        position = os.lseek(fd, 0, os.SEEK_CUR)
        seals = memfd.seal_bits(fd)
        return status.st_ino, status.st_size, content, position, seals


memfd.seal_bits = lambda fd: int(memfd.get_seals(fd))
memfd.get_seals(os.memfd_create("first", 0))  # loads what is loaded once
"""


@pytest.fixture
def race(run):
    """Run a program after `RACE`; return how often each call had which outcome."""

    def race(program, *arguments, **options):
        ending = "print(dict(outcomes))"
        printed = run(f"{RACE}\n{program}\n{ending}", *arguments, **options)
        return collections.Counter(ast.literal_eval(printed.splitlines()[-1]))

    return race


# --- one Memfd -----------------------------------------------------------------------

FILE = """
SIZE = 3 * 4096
ALL = memfd.Seal.IMMUTABLE | memfd.Seal.SEAL


def only_x(data, size=None):
    assert set(data) <= {0, ord("x")}, bytes(data)[:100]
    assert size is None or len(data) == size
    return data


def into(f):
    buffer = bytearray(100)
    return only_x(buffer[: f.readinto(buffer)])


def again(f):
    with f.reopen() as other:
        return only_x(other.read())


def mapped(f):
    with memfd.Mapping(f, size=4096) as mapping:
        return only_x(bytes(mapping), 4096)


def standard(f):
    with f.mmap(size=4096) as mapping:
        return only_x(mapping[:], 4096)


CALLS = {
    "read": lambda f: only_x(f.read(100)),
    "readall": lambda f: only_x(f.readall()),
    "readinto": into,
    "write": lambda f: sure(f.write(b"x" * 100) == 100),
    "seek": lambda f: f.seek(random.randrange(SIZE)),
    "tell": lambda f: f.tell(),
    "truncate": lambda f: sure(f.truncate(SIZE + random.randrange(100)) >= SIZE),
    "seal": lambda f: sure(f.seal(memfd.Seal.SHRINK) & memfd.Seal.SHRINK),
    "seals": lambda f: f.seals & ALL,
    "size": lambda f: sure(f.size >= SIZE),
    "info": lambda f: sure(f.info().size >= SIZE),
    "reopen": again,
    "Mapping": mapped,
    "mmap": standard,
    "repr": lambda f: sure(repr(f).startswith(("<memfd.Memfd 'it'", "<memfd.Memfd ''"))),
    # Whose name was not asked for before it was closed has none.
    "name": lambda f: sure(f.name == "it" or f.closed) or f.name,
    "path": lambda f: f.path,
}
# Besides success and that it is closed.
MAY = {
    "truncate": (PermissionError, BufferError),  # sealed, or mapped
    "mmap": (),
}


def created():
    f = memfd.create("it")
    f.write(b"x" * SIZE)
    f.seek(0)
    return f


def received():
    with created() as f:
        return memfd.Memfd.from_fd(os.dup(f.fileno()), require=None)


def received_and_stuck():
    "One that shares its position for ever, as it cannot be opened again."
    f = received()
    f._foreign = "for ever"
    return f
"""


@pytest.mark.parametrize("origin", ["created", "received", "received_and_stuck"])
def test_a_memfd_is_closed_while_others_use_it(race, origin):
    """A call succeeds as a whole, or says that the file is closed."""
    outcomes = race(
        FILE
        + """
make = globals()[sys.argv[1]]
for call in CALLS.values():
    with make() as f:
        call(f)
before = held()
with Witness():
    for round in range(80):
        f = make()
        names = random.sample(list(CALLS), 6)
        calls = [lambda name=name: CALLS[name](f) for name in names]
        *answers, one, two = together(*calls, f.close, lambda: soon(f.close))
        for name, answer in zip(names, answers):
            note(name, answer, ValueError, *MAY.get(name, ()))
        assert one is two is None and f.closed
        # Exceptions are still there, and hold no descriptor.
        calls.clear()
        del f
assert held() == before, (held(), before)
        """,
        origin,
    )
    assert outcomes.total() == 80 * 6
    done = sum(n for (_, how), n in outcomes.items() if how == "done")
    assert 0 < done < outcomes.total(), outcomes


# A call, and the system call whose number is somebody else's if it comes late.
LATE = {
    "read": "read",
    "write": "write",
    "seek": "lseek",
    "truncate": "ftruncate",
    "seal": "fcntl",
    "reopen": "openat",
    "Mapping": "mmap",
    "mmap": "mmap",
}


@pytest.mark.parametrize("name", LATE)
def test_a_late_system_call_hits_nobody_else(race, strace, name):
    """The number of a descriptor is not used again while a call of ours is on its way."""
    outcomes = race(
        FILE
        + """
name = sys.argv[1]
CALLS[name](created())
before = held()
with Witness():
    for round in range(20):
        f = created()
        answer, _ = together(lambda: CALLS[name](f), lambda: soon(f.close))
        note(name, answer, ValueError)
        del f
assert held() == before, (held(), before)
        """,
        name,
        wrapper=[*strace(f"{LATE[name]}:delay_enter=1000"), "-f"],
    )
    assert outcomes.total() == 20


def test_closing_is_not_put_off_by_an_exception(race):
    """What a call raised keeps no descriptor open, as long as it is looked at."""
    race("""
f = memfd.from_bytes(b"x")
g = memfd.Memfd.from_fd(os.dup(f.fileno()))
kept = []
for file in f, g:
    number = file.fileno()
    for call in (
        lambda: file.write(b"x"),
        lambda: file.truncate(100),
        lambda: file.seek(-1),
        lambda: file.readinto(b"read-only"),
        lambda: file.mmap("r+"),
        lambda: memfd.Mapping(file, "r+"),
        lambda: memfd.set_size(file, 9),
        lambda: memfd.attach(file),
        lambda: memfd.load(file),
        lambda: file.reopen("r+").write(b"x"),
    ):
        try:
            call()
        except Exception as error:
            kept.append(error)
    file.close()
    try:
        os.fstat(number)
    except OSError:
        continue
    raise AssertionError(kept)
assert len(kept) >= 16, kept
    """)


def test_closing_does_not_wait_for_the_thread_that_made_the_file(race):
    """That may be in a system call; without a GIL, what it made belongs to it."""
    race("""
begun = threading.Event()
here, there = os.pipe()
made = []

def make():
    made.append(memfd.from_bytes(b"x"))
    begun.set()
    os.read(here, 1)

thread = threading.Thread(target=make, daemon=True)
thread.start()
begun.wait()
[f] = made
number = f.fileno()
f.close()
try:
    os.fstat(number)
except OSError as error:
    assert error.errno == errno.EBADF
else:
    raise AssertionError("it is open")
os.write(there, b"x")
thread.join()
    """)


# --- mappings and arrays -------------------------------------------------------------


def test_a_mapping_is_closed_while_others_export_it(race):
    """A buffer has all its bytes for as long as it is there, or there is none."""
    outcomes = race("""
CONTENT = b"x" * 8192
f = memfd.from_bytes(CONTENT)


def export(mapping):
    with memoryview(mapping) as view:
        assert view[0] == view[8191] == ord("x") and bytes(view) == CONTENT


before = held()
for round in range(80):
    mapping = memfd.Mapping(f)
    calls = [lambda: export(mapping)] * 5 + [lambda: soon(mapping.close)] * 3
    answers = together(*calls)
    for answer in answers[:5]:
        note("export", answer, ValueError)
    for answer in answers[5:]:
        note("close", answer, BufferError)
    if not mapping.closed:
        mapping.close()
    assert mapping.size == 0
assert held() == before, (held(), before)
    """)
    assert outcomes["export", "done"]
    assert outcomes["close", "done"]
    assert outcomes.total() == 80 * 8


ARRAYS = """
import numpy as np


def sealed(a):
    assert a.memfd.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
    return right(a)


def right(a):
    assert a.shape == (1000,) and (a == 7).all(), a
    return a


CALLS = {
    "freeze": lambda a: sealed(memfd.freeze(a)),
    "attach": lambda a: right(memfd.attach(a)),
    "copy": lambda a: right(memfd.attach(a, "c")),
    "share": lambda a: sealed(memfd.share(a)),
    "slice": lambda a: sure(a[::3].sum() == 7 * 334),
    "view": lambda a: right(a.view(memfd.Array)),
    "memfd": lambda a: getattr(a.memfd, "name", None),  # or frozen before
    "sum": lambda a: sure(a.sum() == 7000),
}
"""


@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_an_array_is_shared_attached_and_frozen(race, mode, closing):
    """Numbers are never wrong, and what is frozen twice has no memfd the second time."""
    pytest.importorskip("numpy")
    outcomes = race(
        ARRAYS
        + """
mode, closing = sys.argv[1], sys.argv[2] == "True"
before = held()
for round in range(40):
    a = memfd.share(np.full(1000, 7), mode=mode)
    names = random.choices(list(CALLS), k=7)
    calls = [lambda name=name: CALLS[name](a) for name in names]
    f = a.memfd
    if closing:
        names.append("close")
        calls.append(lambda: soon(f.close))
    for name, answer in zip(names, together(*calls)):
        note(name, answer, ValueError)  # it was closed, or frozen before
    right(a)
    del a, f, calls, answer
assert held() == before, (held(), before)
        """,
        mode,
        str(closing),
    )
    # These need no descriptor.
    for name in "slice", "sum", "view", "share":
        assert not outcomes[name, "ValueError"] or (closing and name == "share")
    if mode == "r" and not closing:
        assert {how for _, how in outcomes} == {"done"}


def test_arrays_in_one_memfd(race):
    """An ArrayDict is read in threads while its memfd is sealed, attached and closed."""
    pytest.importorskip("numpy")
    outcomes = race("""
import numpy as np


def right(d):
    assert list(d) == ["x", "y"] and len(d) == 2
    assert (d["x"] == 1).all() and (d["y"] == 2).all()
    return d


def again(d):
    f = d.memfd  # asked once: freeze() takes it away
    return d if f is None else right(memfd.attach(f))


def close(d):
    f = d.memfd
    return f is None or f.close()


CALLS = {
    "read": right,
    "attach": lambda d: right(memfd.attach(d)),
    "share": lambda d: right(memfd.share(d)),
    "freeze": lambda d: right(memfd.freeze(d)),
    "again": again,
    "close": close,
}
before = held()
for round in range(40):
    d = memfd.share({"x": np.full(500, 1), "y": np.full((3, 700), 2.0)}, mode="r+")
    names = [*CALLS, "read", "again"]
    calls = [lambda name=name: CALLS[name](d) for name in names]
    for name, answer in zip(names, together(*calls)):
        note(name, answer, ValueError)
    del answer, calls
    right(d)
    del d
assert held() == before, (held(), before)
    """)
    assert not outcomes["read", "ValueError"]
    assert outcomes.total() == 40 * 8


def test_a_pool_is_used_and_closed_while_the_process_forks(race):
    """Each array holds what was put into it, in the child as well; closing ends all."""
    pytest.importorskip("numpy")
    outcomes = race("""
import warnings

import numpy as np

warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: what is tested


def put(pool, number):
    for i in range(20):
        a = pool.put(np.full(3000, number * 100 + i))
        b = a[::7]
        assert (b == number * 100 + i).all() and (a == b[0]).all()


def empty(pool, number):
    for i in range(20):
        a = pool.empty(3000, int)
        assert not a.any()
        a[:] = number * 100 + i
        assert (a == number * 100 + i).all()


def look(pool):
    for _ in range(3):
        assert pool.stats().blocks >= 0 and pool.trim() >= 0


def fork(shown):
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            # Only what this thread has: another one may hold any lock of Python's.
            os._exit(0 if (shown == 5).all() else 1)
        assert os.waitpid(pid, 0)[1] == 0


memfd.BufferPool().put([1])
before = held()
for round in range(12):
    pool = memfd.BufferPool(max_blocks=8)
    shown = pool.put(np.full(3000, 5))
    calls = [lambda n=n: put(pool, n) for n in range(3)]
    calls += [lambda n=n: empty(pool, n) for n in range(2)]
    calls += [lambda: look(pool), lambda: fork(shown)]
    closing = round % 2
    if closing:
        calls.append(lambda: soon(pool.close))
    answers = together(*calls)
    for answer in answers[:5]:
        note("use", answer, *[ValueError] * closing)
    for answer in answers[5:]:
        note("look, fork, close", answer)
    assert (shown == 5).all()
    del shown, pool, calls, answers, answer
assert held() == before, (held(), before)
    """)
    assert outcomes["use", "done"] >= 6 * 5
    assert outcomes["use", "ValueError"]


# --- sockets and pickles -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"])
def test_many_send_to_and_receive_from_one_socket(race, kind):
    """Each message comes once and whole, in whatever thread."""
    race(
        """
import socket

here, there = socket.socketpair(socket.AF_UNIX, getattr(socket, sys.argv[1]))
for end in here, there:
    end.settimeout(60)
EACH = 25


def send(number):
    for i in range(EACH):
        with memfd.from_bytes(b"%d" % (number * EACH + i)) as f:
            memfd.send(here, f)


def receive():
    found = []
    for _ in range(EACH):
        with memfd.recv(there) as f:
            found.append(int(f.read()))
    return found


with memfd.from_bytes(b"first") as f:
    memfd.send(here, f)
    memfd.recv(there).close()
before = held()
with Witness():
    answers = together(*[lambda n=n: send(n) for n in range(4)], *[receive] * 4)
for answer in answers:
    note("all", answer)
assert sorted(itertools.chain(*answers[4:])) == list(range(4 * EACH)), answers
assert held() == before, (held(), before)
        """,
        kind,
    )


def test_what_is_sent_is_closed_meanwhile(race):
    """The receiver gets the file that was meant, or nothing was sent."""
    outcomes = race("""
import socket

here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
there.setblocking(False)
before = held()
with Witness():
    for round in range(80):
        f = memfd.from_bytes(b"x" * round, f"frame {round}")
        calls = [lambda: memfd.send(here, f)] * 4 + [lambda: soon(f.close)]
        for answer in together(*calls)[:4]:
            if note("send", answer, ValueError):
                with memfd.recv(there) as got:
                    assert got.read() == b"x" * round
                    assert got.name == f"frame {round}"
        try:
            memfd.recv(there)
        except BlockingIOError:
            pass
        del f, calls
assert held() == before, (held(), before)
    """)
    assert outcomes["send", "done"]
    assert outcomes.total() == 80 * 4


def test_pickles_are_made_and_read_in_threads(race):
    """Files and arrays travel from and to any thread; what waits is counted right."""
    pytest.importorskip("numpy")
    outcomes = race("""
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np

a = memfd.share(np.arange(1000))
pickle.loads(ForkingPickler.dumps(a))
memfd.pending()
before = held()


def travel(f, number):
    for i in range(10):
        g, b = pickle.loads(ForkingPickler.dumps((f, a[number:])))
        with g:
            assert g.read() == b"data" and g.name == "it"
        assert b[0] == number and b.memfd.size == a.memfd.size
    return True


with Witness():
    for round in range(10):
        f = memfd.from_bytes(b"data", "it")
        calls = [lambda n=n: travel(f, n) for n in range(7)]
        if round % 2:
            calls.append(lambda: soon(f.close))
        for answer in together(*calls):
            note("travel", answer, *[ValueError] * (round % 2))
        del f, calls, answer
# What was not fetched, since the file next to it was closed, waits.
left = memfd.pending()
assert left <= 7 * 5, left
if not left:
    assert held() == before, (held(), before)
outcomes["left"] = left
    """)
    assert outcomes["travel", "done"] >= 5 * 7
