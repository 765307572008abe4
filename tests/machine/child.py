"""A process that was forked, in which steps are taken."""

import multiprocessing
import os
import signal

from leftovers import UNRAISABLE


class Child:
    """A forked process, which takes steps when it is told to."""

    def __init__(self, real, others):
        self.pipe, pipe = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.pipe.close()
                for other in others:
                    other.pipe.close()
                while (told := pipe.recv()) is not None:
                    pipe.send(real.perform(*told))
                status = 1 if UNRAISABLE else 0
            finally:
                os._exit(status)
        pipe.close()

    def perform(self, step, arguments):
        try:
            self.pipe.send((step, arguments))
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            _, status = os.waitpid(self.pid, 0)
            self.pid = 0
            raise AssertionError(f"a child died at {step}: status {status}") from None

    def end(self):
        """Let it end by itself, which has to be without a complaint."""
        self.pipe.send(None)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.pipe.close()
        assert status == 0, f"a child ended with {status}"

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self.pipe.close()
