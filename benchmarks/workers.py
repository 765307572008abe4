"""Workers: processes that run before anything is measured, and look at arrays."""

import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
from peers import PEERS, Ray

PATIENCE = 120  # seconds that a worker may take to answer
spawn = multiprocessing.get_context("spawn")


def touch(array):
    """Look at one byte of every page."""
    return array.view(np.uint8).ravel()[::4096].max()


def read(array):
    """Look at every byte."""
    return array.reshape(-1).view(np.uint64).max()


LOOKS = {"touch": touch, "read": read}


def visit(peer, tickets, look, between=lambda: None):
    """Get an array, look at it, do what is to be done while it is here, and drop it."""
    array, keeper = peer.get(tickets.pop())  # which may be the array itself
    LOOKS[look](array)
    between()
    del array
    peer.leave(keeper)


class Team:
    """Processes with a pipe each."""

    def __init__(self, size):
        self.size = size
        self._members = []

    def pids(self):
        self._start()
        return [process.pid for process, _ in self._members]

    def time(self, peer, handle, look):
        """Return what it takes one worker from having the ticket until it is dropped."""
        return self._begin(1, "time", peer, peer.ticket(handle), look)[0]

    def share(self, peer, array, look, count):
        """Return what it takes until `count` workers have looked and the sender forgot."""
        self._prepare(count, "share", peer, look)
        start = time.perf_counter()
        handle = peer.put(array)
        self._send(count, peer.message(handle))
        self._receive(count)
        peer.drop(handle)
        del handle
        seconds = time.perf_counter() - start
        self._receive(count)  # they dropped it too
        return seconds

    @contextlib.contextmanager
    def holding(self, peer, handle, count):
        """All hold the array and have touched every page of it."""
        self._begin(count, "hold", peer, peer.message(handle), "touch")
        yield
        self._send(count, None)
        self._receive(count)

    def _start(self):
        while len(self._members) < self.size:
            pipe, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, pipe))

    def _prepare(self, count, *command):
        self._start()
        command, peer, look = command
        self._send(count, (command, peer.name, look))
        self._receive(count)

    def _begin(self, count, command, peer, message, look):
        self._prepare(count, command, peer, look)
        self._send(count, message)
        return self._receive(count)

    def _send(self, count, message):
        for process, pipe in self._members[:count]:
            with telling_death(process):
                pipe.send(message)

    def _receive(self, count):
        answers = []
        for process, pipe in self._members[:count]:
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"a worker did not answer for {PATIENCE} s")
            with telling_death(process):
                answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"in a worker: {answer}")
        return answers

    def close(self):
        """End all; what comes next starts new ones."""
        for _, pipe in self._members:
            pipe.close()
        for process, _ in self._members:
            process.terminate()
            process.join(5)
            process.kill()
            process.join()
        self._members.clear()


@contextlib.contextmanager
def telling_death(process):
    """Say how a worker died instead of that its pipe is broken."""
    try:
        yield
    except (EOFError, ConnectionError):
        process.join(5)
        code = process.exitcode
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        raise RuntimeError(f"a worker died: {how}") from None


def serve(pipe):
    """Do what a Team asks for, until its end of the pipe is closed; a worker's main."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    made = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            try:
                command, name, look = pipe.recv()
                if name not in made:
                    made[name] = next(peer for peer in PEERS if peer.name == name)()
                pipe.send(None)  # what follows is measured
                message = [pipe.recv_bytes()]
                start = time.perf_counter()

                def between(command=command):
                    if command != "time":
                        pipe.send(None)
                    if command == "hold":
                        pipe.recv()

                # Popped, not to be held beside the array that it may contain.
                ticket = [ForkingPickler.loads(message.pop())]
                visit(made[name], ticket, look, between)
                pipe.send(time.perf_counter() - start)
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


class RayTeam:
    """The same as actors of Ray."""

    def __init__(self, size, peer):
        self.size = size
        self._library = peer.library
        self._members = []

    def pids(self):
        return self._ask(self.size, "pid")

    def time(self, peer, handle, look):
        return self._ask(1, "time", peer.ticket(handle), look)[0]

    def share(self, peer, array, look, count):
        self._start()
        start = time.perf_counter()
        handle = peer.put(array)
        self._ask(count, "time", peer.message(handle), look)
        del handle
        return time.perf_counter() - start

    @contextlib.contextmanager
    def holding(self, peer, handle, count):
        self._ask(count, "hold", peer.message(handle), "touch")
        yield
        self._ask(count, "forget")

    def _start(self):
        actor = self._library.remote(num_cpus=0)(Actor)
        while len(self._members) < self.size:
            self._members.append(actor.remote())

    def _ask(self, count, method, *arguments):
        self._start()
        asked = [getattr(a, method).remote(*arguments) for a in self._members[:count]]
        return self._library.get(asked, timeout=PATIENCE)

    def close(self):
        self._members.clear()


class Actor:
    def __init__(self):
        self.peer = Ray()

    def pid(self):
        return os.getpid()

    def time(self, ticket, look):
        start = time.perf_counter()
        visit(self.peer, [ticket], look)
        return time.perf_counter() - start

    def hold(self, ticket, look):
        self.held, _ = self.peer.get(ticket)
        LOOKS[look](self.held)

    def forget(self):
        del self.held
