"""Many who use a pool at once and badly:  python tests/stress.py [SECONDS] [OPTIONS]

Workers receive frames, hold them, map them in other ways, fork, exec and die, all at
random; somebody else opens every descriptor of all of them all the time.  --stop stops the
owner for a second now and then; --fork lets a thread of the owner fork.

Each frame is one number in all its elements, higher than that of the one before, so who
sees two numbers, or an old one, ends with status 3, and so does the owner.  Half of the
workers are sent frames through sockets, and die; what is on its way to them the kernel
drops.  The others get them through pipes of multiprocessing, which cannot tell that nobody
reads any more, and live.
"""

import argparse
import collections
import contextlib
import mmap
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time

import numpy as np

import memfd

WRONG = 3  # exit status
SHAPES = ((1000,), (64, 1024), (3, 128, 1024))  # of int64

tally: collections.Counter[str] = collections.Counter()  # what this process has done


def check(array, number):
    """End this process unless all of `array` is `number`."""
    if not (array == number).all():
        found = np.unique(array).tolist()
        print(f"pid {os.getpid()}: {number} was sent, {found} found", file=sys.stderr)
        os._exit(WRONG)
    tally["arrays"] += 1
    tally["bytes"] += array.nbytes


def hold(array, number):
    """Yield now and then, and look at the array each time, in some way."""
    way = random.randrange(6)
    if way == 0:  # a part of it is all that is kept
        array = array[..., 1::2]
    elif way == 1:  # the descriptor is all that is kept
        file = array.memfd
        del array
        yield
        array = memfd.attach(file)
        if isinstance(array, memfd.ArrayDict):
            array = array["x"]
    elif way == 2:  # a mapping of the standard library is all that is kept
        size, offset = array.nbytes, array.memfd.size - array.nbytes
        with array.memfd as file:
            mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        del array, file
        array = np.frombuffer(mapped, np.int64, size // 8, offset)
    elif way == 3:  # a child has it, too, and for longer
        tally["forks"] += 1
        if os.fork() == 0:
            time.sleep(random.random() / 10)
            check(array, number)
            os._exit(0)
    elif way == 4:  # a child that becomes another program
        tally["forks"] += 1
        if os.fork() == 0:
            os.execv("/bin/true", ["true"])
    for _ in range(random.randrange(5)):
        yield
        check(array, number)


def work(connection, seed):
    """Receive frames, and hold some for a while, until an accident."""
    random.seed(seed)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    held, last = [], 0
    is_mortal = isinstance(connection, socket.socket)
    while True:
        if is_mortal:
            array = memfd.recv_array(connection, require=memfd.Seal.SHRINK)
        else:
            array = connection.recv()
            if array is None:
                return
        number = int(array.flat[0])
        if number <= last:
            print(f"pid {os.getpid()}: {number} after {last}", file=sys.stderr)
            os._exit(WRONG)
        last = number
        check(array, number)
        try:
            array.memfd.reopen("r+").write(b"x")
            print("a reader has written", file=sys.stderr)
            os._exit(WRONG)
        except PermissionError:
            pass
        held.append(hold(array, number))
        del array
        for holder in random.sample(held, min(len(held), 3)):
            if next(holder, held) is held:
                held.remove(holder)
        accident = random.random()
        if is_mortal and accident < 0.005:
            os.kill(os.getpid(), signal.SIGKILL)
        elif is_mortal and accident < 0.01:
            os._exit(0)


def look(pids):
    """Open whatever those processes have open, all the time."""
    while True:
        for pid in pids[:]:
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/fd"):
                    path = f"/proc/{pid}/fd/{name}"
                    with contextlib.suppress(OSError):
                        if not os.readlink(path).startswith("/memfd:"):
                            continue
                        wait = random.choice((0, os.O_NONBLOCK))
                        how = random.choice((os.O_RDONLY, os.O_RDWR))
                        os.close(os.open(path, how | wait))


def stop(pid):
    """Stop a process for a second now and then."""
    while True:
        time.sleep(random.random())
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)


def fork(shown, done):
    """Fork now and then; the child looks at the frame that is shown at this moment."""
    children = []
    while not done.wait(0.01):
        # Read together: what another thread shows next is another tuple.
        array, number = shown[0]
        children.append(os.fork())
        if children[-1] == 0:
            time.sleep(random.random() / 20)
            check(array, number)
            os._exit(0)
        del array
        if len(children) == 10:
            reap(children)
    reap(children)


def reap(children):
    """Wait for children, which have to be content."""
    while children:
        _, status = os.waitpid(children.pop(), 0)
        if status:
            os._exit(WRONG)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    manager = context.Manager()
    pids = manager.list([os.getpid()])
    pool = memfd.BufferPool(max_blocks=24)
    others = [context.Process(target=look, args=(pids,))]
    if options.stop:
        others.append(context.Process(target=stop, args=(os.getpid(),)))
    for other in others:
        other.start()

    def hire(number):
        ours, theirs = socket.socketpair() if number % 2 else context.Pipe()
        worker = context.Process(target=work, args=(theirs, number))
        worker.start()
        theirs.close()
        pids.append(worker.pid)
        return worker, ours

    workers = [hire(number) for number in range(options.workers)]
    shown, done, status = [(np.zeros(1), 0)], threading.Event(), 0
    if options.fork:
        forker = threading.Thread(target=fork, args=(shown, done))
        forker.start()
    sent = died = seen = 0
    end = time.monotonic() + options.seconds
    while status == 0 and time.monotonic() < end:
        sent += 1
        shape = SHAPES[random.randrange(len(SHAPES))]
        if random.random() < 0.5:
            array = pool.put(np.full(shape, sent))
        else:
            array = pool.empty(shape, int, clear=False)
            array[...] = sent
        seen += array.memfd.seals & memfd.Seal.WRITE == 0  # it is in the pool
        shown[0] = array, sent
        for place, (worker, connection) in enumerate(workers):
            try:
                if place % 2:
                    memfd.send(connection, array)
                else:
                    connection.send(array)
            except OSError:
                connection.close()
                worker.join()
                if worker.exitcode not in (0, -signal.SIGKILL):
                    print(f"a worker ended with {worker.exitcode}", file=sys.stderr)
                    status = WRONG
                died += 1
                pids.remove(worker.pid)
                workers[place] = hire(place)
        check(array, sent)
    shown[0] = (np.zeros(1), 0)
    done.set()
    if options.fork:
        forker.join()
    del array
    for other in others:
        other.kill()
        other.join()
    os.kill(os.getpid(), signal.SIGCONT)
    for place, (worker, connection) in enumerate(workers):
        if place % 2:
            worker.kill()
        else:
            connection.send(None)
        worker.join()
        connection.close()
        if worker.exitcode not in (0, -signal.SIGKILL):
            print(f"a worker has ended with {worker.exitcode}", file=sys.stderr)
            status = WRONG
    manager.shutdown()
    # Children of workers look for a moment longer.
    while pool.stats().in_use and time.monotonic() < end + 10:
        memfd.pending()
        time.sleep(0.05)
    stats = pool.stats()
    pool.close()
    left = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                left.append(name)
    with open("/proc/self/maps") as maps:
        left += [line for line in maps if "/memfd:" in line]
    print(
        f"{sent} frames to {options.workers} workers, {seen} of them in the pool; "
        f"{died} workers died; {stats.blocks} blocks, {stats.in_use} in use; "
        f"left over: {left[:9]}"
    )
    return status or (WRONG if stats.in_use or left else 0)


if __name__ == "__main__":
    sys.exit(main())
