"""The program docs/examples/stream.py: a camera and two processes, one of them killed."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest

import memfd

PROGRAM = pathlib.Path(__file__).parents[1] / "docs" / "examples" / "stream.py"
BLOCKS = 7  # that can be in use at once
BLOCK = 3 << 21  # bytes, in huge pages

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="no docs beside the tests")


class Outcome:
    """What a run of the program printed."""

    def __init__(self, finished):
        self.finished = finished
        # Of each consumer; the one that is killed comes last.
        self.pids, self.frames, self.broken, self.codes = (
            [int(number) for number in re.findall(pattern, finished.stdout)]
            for pattern in (
                r"process (\d+)", r"(\d+) frames", r"(\d+) broken", r"code (-?\d+)"
            )
        )  # fmt: skip

    def pool(self, when, name):
        """Return one of the things that were said about the pool at some time."""
        line = re.search(rf"^{when}: .*", self.finished.stdout, re.MULTILINE)[0]
        return re.search(rf"{name}=({{.*}}|\d+)", line)[1]

    def memory(self, when):
        """Return how many bytes the memfds had then."""
        line = re.search(rf"^{when}: .*", self.finished.stdout, re.MULTILINE)[0]
        return int(re.search(r"(\d+) bytes of memfds", line)[1])


@pytest.fixture(scope="module", params=["spawn", "fork", "forkserver"])
def outcome(request):
    if not memfd.BufferPool().reuses:
        pytest.skip("the kernel does not tell who has a block")
    options = f"--seconds 1.5 --rate 100 --kill --check --start {request.param}"
    command = [sys.executable, "-P", PROGRAM, *options.split()]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd="/"
    )
    return Outcome(finished)


def test_every_frame_is_whole(outcome):
    """No byte of any frame is of another one, and nothing is said about errors."""
    assert (outcome.finished.returncode, outcome.finished.stderr) == (0, "")
    assert outcome.broken == [0, 0]


def test_the_other_consumer_goes_on(outcome):
    """Who is left gets frames after the other one was killed."""
    assert outcome.codes == [0, -signal.SIGKILL]
    (seen,) = re.findall(
        r"^seen .* then: (\d+)$", outcome.finished.stdout, re.MULTILINE
    )
    assert outcome.frames[0] > int(seen)
    assert outcome.frames[1] > 0


def test_a_killed_consumer_holds_nothing(outcome):
    """A process that was killed with a frame in its hands has no block any more."""
    killed = f"{outcome.pids[1]}: 1"
    assert killed in outcome.pool("before the kill", "holders")
    assert killed not in outcome.pool("after the kill", "holders")


def test_memory_is_bounded(outcome):
    """There are as many blocks as can be in use at once, whatever the number of frames."""
    for when in ("before the kill", "after the kill", "at the end"):
        assert 0 < int(outcome.pool(when, "blocks")) <= BLOCKS
        assert outcome.memory(when) <= BLOCKS * BLOCK


def test_memory_returns(outcome):
    """At the end nobody has a block, and a pool that was closed has no memory."""
    assert outcome.pool("at the end", "in_use") == "0"
    assert outcome.memory("closed") == 0
