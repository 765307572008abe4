"""Passing: a small memfd or array to another process that is running, and an answer."""

import collections
import contextlib
import multiprocessing
import os
import socket
import time
from multiprocessing import reduction

import numpy as np

import memfd

spawn = multiprocessing.get_context("spawn")

COUNT = 100  # of messages at once
MESSAGE = bytes(100)
ARRAYS, ALIVE = 10_000, 64  # through a Pool, and of them at a time


def answer(inbox, outbox):
    """Answer each message; the main of the other process."""
    kept = None
    while (message := inbox.get()) is not None:
        if isinstance(message, list):
            kept = message  # and goes on mapping it
        elif hasattr(message, "detach"):
            os.close(message.detach())
        outbox.put(MESSAGE)
    del kept


class Queues:
    """Another process, behind two queues."""

    def __init__(self):
        self._inbox, self._outbox = spawn.SimpleQueue(), spawn.SimpleQueue()
        self._process = spawn.Process(target=answer, args=(self._inbox, self._outbox))
        self._process.start()
        self._same = memfd.share(np.zeros(512))
        self._exchange([[self._same]])

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._inbox.put(None)
        self._process.join()

    def _exchange(self, messages):
        start = time.perf_counter()
        for message in messages:
            self._inbox.put(message)
            self._outbox.get()
        return (time.perf_counter() - start) / len(messages)

    def message(self):
        return self._exchange([MESSAGE] * COUNT)

    def new(self):
        return self._exchange([memfd.share(np.zeros(512)) for _ in range(COUNT)])

    def same(self):
        return self._exchange([self._same] * COUNT)

    def dupfd(self):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(memfd.create()) for _ in range(COUNT)]
            start = time.perf_counter()
            for file in files:
                self._inbox.put(reduction.DupFd(file.fileno()))
                self._outbox.get()
            return (time.perf_counter() - start) / COUNT


def descriptors():
    """Return how many this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them


def look(array):
    """Use an array, and return how many descriptors are open meanwhile; in a worker."""
    return array[0] + 1, descriptors()


class Pool:
    """Two workers, and many arrays that pass to them, a new one for each task."""

    def __init__(self):
        self._pool = spawn.Pool(2)
        self._pass(ALIVE)  # now all is imported
        self._start = 0
        self._start = self.left()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._pool.terminate()
        self._pool.join()

    def most(self, count=ARRAYS):
        """Return the most descriptors that this process or a worker had at a time."""
        return self._pass(count)

    def left(self):
        """Return how many more there are than at the start, when all was received."""
        while memfd.pending():
            time.sleep(0.001)
        return descriptors() - self._start

    def _pass(self, count):
        waiting, most = collections.deque(), 0
        for number in range(count + ALIVE):
            if number < count:
                array = memfd.share(np.full(512, float(number)))
                waiting.append((array, self._pool.apply_async(look, (array,))))
                del array
            if number >= ALIVE and waiting:
                array, answer = waiting.popleft()
                value, theirs = answer.get()
                if value != array[0] + 1:
                    raise RuntimeError("what was passed is not what was shared")
                most = max(most, theirs, descriptors())
                del array
        return most


class Sockets:
    """Both ends of a Unix socket in this process."""

    def __init__(self):
        self._here, self._there = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._file = memfd.from_bytes(bytes(4096))
        self._array = memfd.share(np.zeros(496))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._here.close()
        self._there.close()

    def file(self):
        memfd.send(self._here, self._file)
        memfd.recv(self._there).close()

    def descriptor(self):
        socket.send_fds(self._here, [b"x"], [self._file.fileno()])
        _, fds, _, _ = socket.recv_fds(self._there, 1, 1)
        os.close(fds[0])

    def array(self):
        memfd.send(self._here, self._array)
        memfd.recv_array(self._there)

    def load(self):
        fd = self._array.memfd.fileno()
        socket.send_fds(self._here, [b"x"], [fd])
        _, fds, _, _ = socket.recv_fds(self._there, 1, 1)
        np.load(f"/proc/self/fd/{fds[0]}", mmap_mode="r")
        os.close(fds[0])
