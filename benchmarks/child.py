"""A child of its own: what it does is timed, and its memory is watched meanwhile."""

import pathlib
import re
import time

from workers import spawn


class Child:
    """A process whose peak of memory is that of what it is asked for alone.

    ``make(*arguments)`` runs there, and returns a dictionary: name to what can be done.
    """

    def __init__(self, make, *arguments):
        self._pipe, theirs = spawn.Pipe()
        arguments = theirs, make, arguments
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
        """Return what it takes once, with its teardown."""
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


def serve(pipe, make, arguments):
    """Do what is asked for; the child's main."""
    ways = make(*arguments)
    pipe.send("ready")
    while True:
        try:
            way = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        ways[way]()
        pipe.send(time.perf_counter() - start)
