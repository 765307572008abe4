"""Passing: a small memfd or array to another process that is running, and an answer."""

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


class Sockets:
    """Both ends of a Unix socket in this process."""

    def __init__(self):
        self._here, self._there = socket.socketpair(type=socket.SOCK_SEQPACKET)
        # Not zeros: a page that begins with one could be a hole and is looked at twice.
        self._file = memfd.from_bytes(b"\xfe" * 4096)
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
