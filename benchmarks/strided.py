"""A child that shares an array that is not contiguous, and is watched meanwhile."""

import pathlib
import re
import time

import numpy as np
from workers import spawn

import memfd

WAYS = "share(view)", "share(ascontiguousarray(view))"


class Child:
    """A process of its own: its peak of memory is that of these copies alone."""

    def __init__(self, shape):
        self._pipe, theirs = spawn.Pipe()
        arguments = theirs, shape
        self._process = spawn.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()

    def time(self, way):
        """Return what one copy takes, with its teardown."""
        self._pipe.send(way)
        return self._pipe.recv()

    def growth(self, way):
        """Return by how much private memory grew meanwhile, looked at every millisecond.

        VmHWM, the peak that the kernel keeps, also counts the pages of the memfd.
        """
        before = peak = self._private()
        self._pipe.send(way)
        while not self._pipe.poll(0.001):
            peak = max(peak, self._private())
        self._pipe.recv()
        return peak - before

    def _private(self):
        text = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"^RssAnon:\s+(\d+)", text, re.MULTILINE)[1]) << 10


def serve(pipe, shape):
    """Copy as asked for; the child's main."""
    view = np.random.default_rng(0).random(shape)[::2, :, ::-1]
    pipe.send("ready")
    copies = {
        WAYS[0]: lambda: memfd.share(view),
        WAYS[1]: lambda: memfd.share(np.ascontiguousarray(view)),
    }
    while True:
        try:
            way = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        copies[way]()
        pipe.send(time.perf_counter() - start)
