"""What every target of the fuzzer is run in: hostile files, and what must not be left over.

A target is a function of bytes.  It hands them to one parser and returns when they were
refused as documented, or when what the parser says of them is true; else it raises.
"""

import contextlib
import fcntl
import gc
import os
import re
import resource
import time

import memfd

CPU_SECONDS = 10  # for one input, some thousand times what it takes
MEMORY = 64 << 10  # KiB by which one input of at most 64 KiB may raise the peak
EACH_MAPPED = 200  # inputs between two looks at what is mapped, which takes long


@contextlib.contextmanager
def hostile(content, name="hostile"):
    """Have a sealed memfd with this content, as a peer would send it."""
    with memfd.from_bytes(content, name) as f:
        yield f


def descriptors():
    """Return the open descriptors."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        # Not the one that listed the folder.
        with contextlib.suppress(OSError):
            fcntl.fcntl(number, fcntl.F_GETFD)
            found.add(number)
    return found


def mappings():
    """Return how many mappings of memfds there are."""
    with open("/proc/self/maps", "rb") as file:
        return len(re.findall(rb" /memfd:", file.read()))


class Watch:
    """Runs a target, and raises for what it leaves behind or takes too much of."""

    def __init__(self, target):
        self.target = target
        self.earlier = []  # inputs since the last look at what is mapped
        self.descriptors = None

    def _begin(self):
        """Note what is open: at the first input, as the fuzzer opens files before it."""
        # What is opened once and kept is there after the first input, and what threads
        # close is not any more after a few.
        before = None
        for _ in range(100):
            self.target(b"")
            gc.collect()
            if before == (before := descriptors()):
                break
        else:
            raise AssertionError("a descriptor is left behind by each input")
        self.descriptors, self.mappings = descriptors(), mappings()

    def __call__(self, data):
        if self.descriptors is None:
            self._begin()
        peak, start = self._peak(), time.process_time()
        self.target(data)
        seconds = time.process_time() - start
        assert seconds < CPU_SECONDS, f"it took {seconds} s"
        grown = self._peak() - peak
        assert grown < MEMORY, f"it took {grown} KiB of memory"
        # What may wait is closed by a thread.
        end = time.monotonic() + 60
        while (found := descriptors()) != self.descriptors:
            assert time.monotonic() < end, f"descriptors {found ^ self.descriptors}"
            gc.collect()  # what exceptions hold
            time.sleep(0.001)
        self.earlier.append(data)
        if len(self.earlier) == EACH_MAPPED:
            self.look()

    def look(self):
        """Raise for the input that left a mapping behind, if one did."""
        earlier, self.earlier = self.earlier, []
        if not earlier or mappings() == self.mappings:
            return
        for data in earlier:
            before = mappings()
            self.target(data)
            assert mappings() == before, f"a mapping is left behind by {data.hex()}"
        raise AssertionError(
            "a mapping is left behind, and none of these does it alone"
        )

    @staticmethod
    def _peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
