"""Random sharing among processes that die, for long:  python tests/soak.py [SECONDS]

One process lives all the time and makes arrays, in memory of every kind.  Eight others get
them, or send some: two through sockets, who may be killed at any moment; two through pipes
of multiprocessing, killed while they hold what they got; one that sends through a pipe and
is killed at any moment; one that sends through a queue, is idle for many seconds, and comes
back; and two workers of a Pool, who are replaced now and then.  Those who receive hold the
arrays in many ways, fork, and exec (see stress.py, which does it for BufferPool).

What is not done: to kill who has not read a message of multiprocessing yet.  What was sent
that way is kept for many minutes, since nobody can tell whether it will be read.

Each array is one number in all its elements, and every byte of it is looked at.  In the end
all is as it was at the start: descriptors, mappings, processes, memfds, memory, files in
/dev/shm and in the folder for temporary files.  The start is after a first round of a few
seconds, which leaves what Python keeps for ever, such as the pipe to its fork server.
"""

import argparse
import collections
import contextlib
import gc
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from multiprocessing import util

import numpy as np
from stress import SHAPES, WRONG, check, hold, tally

import memfd

PATIENCE = 60  # seconds that may pass until something that has to come is there
MOST_GROWTH = 16 << 20  # bytes of anonymous memory, from the plateau to the end
MOST_SHMEM = 64 << 20  # bytes of the machine's shared memory, from the start to the end
COUNTED = "arrays", "bytes", "forks", "messages"
KEYS = {name: place for place, name in enumerate((*COUNTED, "idle", "idle RSS"))}
KINDS = "socket", "socket", "pipe", "pipe", "sender"  # those who are killed


# --- in the other processes -----------------------------------------------------------


def note(row):
    """Add what was done to the numbers that all processes share."""
    for name in COUNTED:
        row[KEYS[name]] += tally[name]
    tally.clear()


def received(connection):
    """Return the next array, and its number; None at the end."""
    if not isinstance(connection, socket.socket):
        return connection.recv()
    try:
        array = memfd.recv_array(connection, require=memfd.Seal.SHRINK, dense=False)
    except (EOFError, ConnectionError):
        return None
    if isinstance(array, memfd.ArrayDict):
        array = array["x"]
    return array, int(array.flat[0])


def receive(connection, row, seed):
    """Receive arrays, and hold some for a while, until an accident."""
    random.seed(seed)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    is_socket = isinstance(connection, socket.socket)
    held, last = [], 0
    while (got := received(connection)) is not None:
        array, number = got
        del got
        if number <= last:
            print(f"pid {os.getpid()}: {number} after {last}", file=sys.stderr)
            os._exit(WRONG)
        last = number
        check(array, number)
        tally["messages"] += 1
        held.append(hold(array, number))
        del array
        for holder in random.sample(held, min(len(held), 3)):
            if next(holder, held) is held:
                held.remove(holder)
        note(row)
        if not is_socket:
            connection.send_bytes(b"read")
        elif random.random() < 0.02:
            os.kill(os.getpid(), signal.SIGKILL)


def made(number, name, pool=None):
    """Return an array of one number, in memory of some kind."""
    shape = random.choice(SHAPES)
    way = random.randrange(6 if pool else 4)
    if way == 0:
        return memfd.share(np.full(shape, number), name=name)
    if way == 1:
        return memfd.share({"x": np.full(shape, number)}, name=name)["x"]
    if way == 5:
        return pool.put(np.full(shape, number))
    array = pool.empty(shape, int) if way == 4 else memfd.empty(shape, int, name=name)
    array[...] = number
    return memfd.freeze(array) if way == 2 else array


def send(connection, row, seed, name):
    """Send arrays, one for each question, until there is none any more."""
    random.seed(seed)
    number = 0
    with contextlib.suppress(EOFError):
        while connection.recv_bytes() == b"next":
            number += 1
            connection.send((made(number, name), number))
            tally["messages"] += 1
            note(row)


def memfds_here():
    """Return the descriptors and the mappings of memfds in this process."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            to = os.readlink(f"/proc/self/fd/{entry}")
            if to.startswith("/memfd:"):
                found.append(f"{entry} -> {to}")
    with open("/proc/self/maps", errors="replace") as maps:
        return found + [line for line in maps if "/memfd:" in line]


def idle(queue, connection, row, seed, seconds, name):
    """Send some arrays, do nothing for long, and see that nothing is kept for them."""
    random.seed(seed)
    number = 0
    before = len(memfds_here())
    while not connection.poll(0):
        for _ in range(random.randrange(1, 40)):
            number += 1
            queue.put((made(number, name), number))
            tally["messages"] += 1
        note(row)
        end = time.monotonic() + seconds * random.uniform(0.5, 1.5)
        while time.monotonic() < end and not connection.poll(end - time.monotonic()):
            pass
        end = time.monotonic() + PATIENCE
        while len(memfds_here()) > before and time.monotonic() < end:
            time.sleep(0.05)
        if len(memfds_here()) > before:
            print(f"an idle sender keeps {memfds_here()}", file=sys.stderr)
            os._exit(WRONG)
        row[KEYS["idle"]] += 1
        row[KEYS["idle RSS"]] = anonymous()


def is_right(array, number):
    """Tell, in a worker of a Pool, whether an array is what was sent."""
    return os.getpid(), bool((array == number).all()), array.nbytes


# --- in the one that lives ------------------------------------------------------------


def anonymous():
    """Return the bytes of anonymous memory of this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise LookupError("no RssAnon")


def shmem():
    """Return the bytes of shared memory of this machine."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) << 10
    raise LookupError("no Shmem")


class Worker:
    """A process that is started again when it was killed."""

    def __init__(self, context, kind, place, rows, name):
        self.context, self.kind, self.place = context, kind, place
        self.rows, self.name, self.life, self.process = rows, name, 0, None
        self.start()

    def start(self):
        self.life += 1
        seed = self.place * 1000 + self.life
        arguments = self.rows[self.place], seed
        if self.kind == "socket":
            way = socket.SOCK_STREAM if self.place % 2 else socket.SOCK_SEQPACKET
            self.connection, theirs = socket.socketpair(socket.AF_UNIX, way)
            self.connection.settimeout(PATIENCE)
        else:
            self.connection, theirs = self.context.Pipe()
        target = receive
        if self.kind == "sender":
            target, arguments = send, (*arguments, self.name)
        self.process = self.context.Process(target=target, args=(theirs, *arguments))
        self.process.start()
        theirs.close()
        self.received = 0

    def exchange(self, array, number):
        """Give it the array, or get one from it; an OSError or EOFError says it is dead."""
        if self.kind == "socket":
            memfd.send(self.connection, array)
        elif self.kind == "pipe":
            self.connection.send((array, number))
            self.answer()
            self.connection.recv_bytes()
        else:
            self.connection.send_bytes(b"next")
            if random.random() < 0.1:  # at some moment while it makes and sends one
                time.sleep(random.random() / 100)
                self.kill()
            self.answer()
            array, number = self.connection.recv()
            self.received += 1
            if number != self.received:
                raise AssertionError(f"{number} came as number {self.received}")
            check(array, number)

    def answer(self):
        if not self.connection.poll(PATIENCE):
            raise AssertionError(f"the {self.kind} worker does not answer")

    def kill(self):
        if self.process.is_alive():
            self.process.kill()
            tally["kills"] += 1

    def replace(self):
        self.end()
        self.start()

    def end(self, *, killed=True):
        """Wait until it has ended, and say whether that was as it should be."""
        with contextlib.suppress(OSError):
            if not killed and self.kind == "pipe":
                self.connection.send(None)
        self.connection.close()
        self.process.join(PATIENCE)
        code = self.process.exitcode
        self.process.close()
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"a {self.kind} worker has ended with {code}")
        tally["deaths"] += code == -signal.SIGKILL


def share(seconds, idle_seconds, name):
    """Share for so long, and return how much anonymous memory there was.

    Of this process on the plateau, at most and at the end; then of the idle sender on the
    plateau and at the end.
    """
    context = multiprocessing.get_context("forkserver")
    rows = memfd.zeros((len(KINDS) + 1, len(KEYS)), np.int64, name=name)
    pool = memfd.BufferPool(max_blocks=24, name=name)
    workers = [
        Worker(context, kind, place, rows, name) for place, kind in enumerate(KINDS)
    ]
    queue = context.Queue()
    stopping, theirs = context.Pipe()
    idler = context.Process(
        target=idle, args=(queue, theirs, rows[-1], 7, idle_seconds, name)
    )
    idler.start()
    theirs.close()
    tasks, results = context.Pool(2, maxtasksperchild=25), []
    begin = time.monotonic()
    plateau, peak, number, from_idle = None, 0, 0, 0
    while time.monotonic() < begin + seconds or plateau is None:
        number += 1
        array = made(number, name, pool)
        worker = random.choice(workers)
        try:
            worker.exchange(array, number)
            tally["messages"] += worker.kind != "sender"
            if random.random() < 0.05:
                worker.kill()
                # Nothing may be sent to it that it does not read any more.
                if worker.kind == "pipe":
                    worker.replace()
        except (OSError, EOFError):  # it was killed
            worker.replace()
        if random.random() < 0.1:
            results.append(tasks.apply_async(is_right, (array, number)))
            tally["messages"] += 1
        while len(results) > 4:
            finish(results.pop(0))
        while not queue.empty():
            theirs, told = queue.get(timeout=PATIENCE)
            from_idle += 1
            if told != from_idle:
                raise AssertionError(f"{told} came as number {from_idle}")
            check(theirs, told)
        check(array, number)
        if number % 100 == 0:
            peak = max(peak, anonymous())
            if plateau is None and time.monotonic() > begin + seconds / 5:
                gc.collect()
                plateau = anonymous()
                idle_plateau = int(rows[-1, KEYS["idle RSS"]])
    gc.collect()
    end = anonymous()
    while results:
        finish(results.pop(0))
    stopping.send_bytes(b"end")
    stopping.close()
    while idler.is_alive() or not queue.empty():
        with contextlib.suppress(Exception):
            theirs, told = queue.get(timeout=0.1)
            check(theirs, told)
    idler.join(PATIENCE)
    if idler.exitcode:
        raise AssertionError(f"the idle sender has ended with {idler.exitcode}")
    idler.close()
    queue.close()
    queue.join_thread()
    for worker in workers:
        worker.end(killed=False)
    tasks.close()
    tasks.join()
    array = theirs = None
    wait_for(lambda: memfd.pending() == 0, lambda: f"{memfd.pending()} messages")
    wait_for(lambda: pool.stats().in_use == 0, lambda: f"in use: {pool.stats()}")
    pool.close()
    for key in (*COUNTED, "idle"):
        tally[key] += int(rows[:, KEYS[key]].sum())
    return plateau, peak, end, idle_plateau, int(rows[-1, KEYS["idle RSS"]])


def finish(result):
    """Look at what a worker of a Pool has to say."""
    pid, right, size = result.get(PATIENCE)
    if not right:
        raise AssertionError(f"pid {pid}: wrong bytes")
    tally["arrays"] += 1
    tally["bytes"] += size


def wait_for(is_so, what):
    """Wait until something is so, which does not take long."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"left over: {what()}")
        gc.collect()  # a thread may have had it when that was done last
        memfd.pending()  # releases what was given back
        time.sleep(0.05)


def settled(look):
    """Return what `look` does once it has stayed the same for a second.

    Threads of a Pool, a queue and the package drop what they had when they end.
    """
    now, since = look(), time.monotonic()
    while time.monotonic() < since + 1:
        gc.collect()
        memfd.pending()
        time.sleep(0.05)
        before, now = now, look()
        if now != before:
            since = time.monotonic()
    return now


def here():
    """Return what its descriptors are, and the memfds that this process maps, counted."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            to = os.readlink(f"/proc/self/fd/{entry}")
            # Python opens one of its own pipes anew.
            found[entry] = to.partition(":[")[0]
    mapped = (line for line in memfds_here() if "->" not in line)
    return collections.Counter([*found.values(), *mapped])


def processes(mark):
    """Return the processes that were started from here, and what they run."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes()
    return found


def files(folder, is_shared):
    """Return what is in the folder, and in /dev/shm of what may have been made here."""
    shm = pathlib.Path("/dev/shm")
    # Where others share as well, some of it is theirs, and comes and goes.
    there = shm.is_dir() and not is_shared
    names = [path.name for path in shm.iterdir()] if there else []
    beginnings = "sem.mp", "psm_", "pym", "memfd", "soak"
    names = [name for name in names if name.startswith(beginnings)]
    return sorted([*names, *map(str, pathlib.Path(folder).rglob("*"))])


def soak(seconds, is_shared, mark, folder):
    """Share for a moment, then for long, and compare what is left with what was."""
    share(2, 0.1, mark)
    tally.clear()
    begin_here, begin = settled(here), time.monotonic()
    begin_processes, begin_files = processes(mark), files(folder, is_shared)
    begin_shmem, begin_memfds = shmem(), len(memfd.ls()["memfds"])

    idle_seconds = min(15, seconds / 10)
    plateau, peak, end, idle_plateau, idle_end = share(seconds, idle_seconds, mark)
    gc.collect()

    print(
        f"{time.monotonic() - begin:.0f} s: "
        f"{tally['messages']} messages, {tally['arrays']} arrays looked at, "
        f"{tally['bytes']} bytes, {tally['kills']} kills sent, "
        f"{tally['deaths']} workers killed, {tally['forks']} forks by workers, "
        f"the idle sender came back {tally['idle']} times; 0 wrong bytes"
    )
    print(
        f"anonymous memory: {plateau >> 10} KiB on the plateau, {peak >> 10} at most, "
        f"{end >> 10} in the end; of the idle sender {idle_plateau >> 10} and "
        f"{idle_end >> 10}"
    )
    wait_for(
        lambda: processes(mark).keys() == begin_processes.keys(),
        lambda: f"{processes(mark)}, at the start {begin_processes}",
    )
    wait_for(
        lambda: here() <= begin_here,
        lambda: f"{here() - begin_here}, more than at the start: {begin_here}",
    )
    wait_for(
        lambda: not memfd.ls(name=f"{mark}*")["memfds"],
        lambda: memfd.ls(name=f"{mark}*"),
    )
    wait_for(
        lambda: files(folder, is_shared) == begin_files,
        lambda: f"{files(folder, is_shared)}, at the start {begin_files}",
    )
    if not is_shared:
        wait_for(
            lambda: shmem() - begin_shmem <= MOST_SHMEM,
            lambda: f"{shmem()} bytes of Shmem, {begin_shmem} at the start",
        )
    print(
        f"Shmem: {begin_shmem >> 10} KiB at the start, {shmem() >> 10} in the end; "
        f"memfds of the machine: {begin_memfds} and {len(memfd.ls()['memfds'])}, none "
        f"of ours; {begin_here.total()} descriptors and mappings "
        "of memfds here, as at the start"
    )
    grown = end - plateau, idle_end - idle_plateau * bool(idle_plateau)
    if end - plateau > MOST_GROWTH or (
        idle_plateau and idle_end - idle_plateau > MOST_GROWTH
    ):
        raise AssertionError(f"anonymous memory has grown by {grown} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument(
        "--shared",
        action="store_true",
        help="others use the memory of this machine: only print how much there is",
    )
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}", flush=True)
    mark = os.environ["MEMFD_SOAK"] = f"soak-{os.getpid()}"
    folder = os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp()
    # After multiprocessing, which empties it last of all, at -100.
    util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)
    try:
        soak(options.seconds, options.shared, mark, folder)
    except BaseException:
        # At once: who waits for processes that wait for this one waits for ever.
        traceback.print_exc()
        for pid in processes(mark).keys() - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
