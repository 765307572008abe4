"""Peers in processes of their own that send what nobody should accept."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

import memfd
from memfd import SealError

np = pytest.importorskip("numpy")

PROGRAM = pathlib.Path(__file__).with_name("hostile.py")
DEADLINE = 1.0


@contextlib.contextmanager
def peer(kind):
    """Start the peer and yield our end of its socket, when it has sent its message."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-W", "ignore", PROGRAM, kind, str(theirs.fileno())]
        child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True
        )
        theirs.close()
        with child:
            try:
                # This one never ends to send.
                said = "" if "at a time" in kind else child.stdout.readline().strip()
                if said.startswith("skipped: "):
                    pytest.skip(said.removeprefix("skipped: "))
                ours.settimeout(DEADLINE)
                yield ours
            finally:
                ours.close()
                child.kill()


FILES = {
    "directory": (ValueError, "not a memfd"),
    "FIFO": (ValueError, "not a memfd"),
    "device": (ValueError, "not a memfd"),
    "socket": (ValueError, "not a memfd"),
    "socket that lingers": (ValueError, "not a memfd"),
    "file system that waits": (ValueError, "not a memfd"),
    "O_PATH": (OSError, "Bad file descriptor"),
    "write-only": (ValueError, "writing only"),
    "tmpfs file": (SealError, "lacks seals"),
    "unsealed": (SealError, "lacks seals"),
    "partly sealed": (SealError, "lacks seals GROW"),
    "FUTURE_WRITE only": (SealError, "lacks seals WRITE"),
    "shorter than announced": (ValueError, "40 bytes|168"),
    "enormous": (ValueError, "holes"),
    "sparse": (ValueError, "holes"),
    "sparse, forged blocks": (ValueError, "holes"),
    "executable": (SealError, "is executable"),
    "objects": (ValueError, "objects"),
    "overflow": (ValueError, "not valid|bytes"),
    "no header": (ValueError, "npy"),
}
MESSAGES = {
    "no descriptor": (ValueError, "without a descriptor"),
    "two descriptors": (ValueError, "2 descriptors"),
    "200 descriptors": (ValueError, "200 descriptors"),
    "half a head, then the end": (EOFError, "closed"),
    "half a message, then the end": (EOFError, "closed"),
    "half a message": (TimeoutError, "timed out"),
    "one byte at a time": (TimeoutError, "timed out"),
    "a descriptor in the middle": (ValueError, "middle"),
    "silence": (TimeoutError, "timed out"),
}


@pytest.mark.parametrize("kind", [*FILES, *MESSAGES])
def test_what_is_refused(kind):
    """It ends in the documented exception, in time; no descriptor, no mapping is left."""
    error, words = (FILES | MESSAGES)[kind]
    with peer(kind) as sock:
        descriptors = set(os.listdir("/proc/self/fd"))
        start = time.monotonic()
        with pytest.raises(error, match=words):
            memfd.recv_array(sock)
        assert time.monotonic() - start < 10 * DEADLINE
        # What may wait when it is closed is closed by a thread.
        while set(os.listdir("/proc/self/fd")) != descriptors:
            assert time.monotonic() - start < 60
            time.sleep(0.01)


@pytest.mark.parametrize("kind", ["mode 0000", "another owner"])
def test_what_is_strange_and_safe(kind):
    """Neither the mode nor the owner of a sealed memfd matters to who was given it."""
    with peer(kind) as sock:
        a = memfd.recv_array(sock)
        assert a.tolist() == [0, 1, 2, 3]
        assert a.memfd.read()[-8:] == np.float64(3).tobytes()
        a.memfd.close()


def test_a_size_that_changes_until_the_seal():
    """It is refused while a seal is missing, and then has the size that it keeps."""
    refused = rounds = 0
    while refused <= 50 or rounds < 5:  # a busy machine may look too late
        rounds += 1
        with peer("flipped") as sock:
            _, (fd,), _, _ = socket.recv_fds(sock, 100, 1)
            f = None
            while f is None:
                try:
                    f = memfd.Memfd.from_fd(fd, dense=False)
                except SealError:
                    refused += 1
            with f:
                assert len(f.read()) == f.size
                assert f.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
