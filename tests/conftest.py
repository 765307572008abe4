"""What every test gets: a memfd, the leak check, and children that must not crash."""

import ctypes
import errno
import fcntl
import gc
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time

import pytest

import memfd

# What a shell starts in the background ignores Ctrl-C, and so would all children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The kinds of Unix socket that items are sent through.
KINDS = {
    "stream": socket.SOCK_STREAM,
    "seqpacket": socket.SOCK_SEQPACKET,
    "datagram": socket.SOCK_DGRAM,
}


# How many times as long as usual programs may take: more on an emulated processor.
PATIENCE = int(os.environ.get("MEMFD_TEST_PATIENCE", "1"))


def pytest_addoption(parser):
    parser.addoption(
        "--table",
        metavar="FILE",
        help="write the table of tests/conformance or tests/faults there",
    )
    parser.addoption(
        "--results",
        metavar="FILE",
        help="write what the table of tests/conformance is made of there, as JSON",
    )
    parser.addoption(
        "--faults",
        choices=["some", "all"],
        default=os.environ.get("MEMFD_FAULTS", "some"),
        help="which positions, errors and ways tests/faults tries (also MEMFD_FAULTS)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # Each folder with a table adds a function, which returns its page, or None.
    config.memfd_tables = []


def pytest_sessionfinish(session):
    path = session.config.getoption("--table")
    if path is None:
        return
    pages = [page for make in session.config.memfd_tables if (page := make())]
    if len(pages) != 1:
        pytest.exit(
            f"--table: {len(pages)} tables, name one folder",
            pytest.ExitCode.USAGE_ERROR,
        )
    with open(path, "w") as file:
        file.write(pages[0])


def open_descriptors():
    """Return what each open descriptor of this process refers to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found


def memfd_mappings():
    """Return the lines of /proc/self/maps that map a memfd."""
    with open("/proc/self/maps", errors="replace") as file:
        return sorted(line for line in file if re.search(r"\s/memfd:", line))


@pytest.fixture(autouse=True)
def _no_leaks():
    """Fail a test after which a descriptor or a mapping is left over."""
    descriptors, mappings = open_descriptors(), memfd_mappings()
    yield
    # Frames that pytest keeps of an expected exception die with the cycle they form.
    gc.collect()
    # What was given back is released soon by a thread, and at once by who asks, unless the
    # thread is just doing it.  What may wait when it is closed is closed by another one,
    # which takes long where the machine is busy.
    end = time.monotonic() + 5
    while True:
        if "memfd._handover" in sys.modules:
            memfd.pending()
        leaked = {n: to for n, to in open_descriptors().items() if n not in descriptors}
        mapped = [line for line in memfd_mappings() if line not in mappings]
        if not (leaked or mapped) or time.monotonic() >= end:
            break
        time.sleep(0.01)
    if leaked or mapped:
        pytest.fail(f"leaked descriptors {leaked} and mappings {mapped}")


@pytest.fixture
def f():
    """A sealable memfd of 8192 zero bytes."""
    with memfd.create("f", size=8192) as file:
        yield file


@pytest.fixture
def huge_page():
    """Have a page of 2 MiB more in the hugetlb pool than there was before."""
    pool = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not pool.exists():
        pytest.skip("no huge pages of 2 MiB")
    # The setting is that of the machine, where several suites may run.
    with open(pathlib.Path(tempfile.gettempdir(), "memfd-tests-pool"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = (pool / "nr_hugepages").read_text()
        try:
            (pool / "nr_hugepages").write_text(str(int(before) + 1))
        except OSError as error:
            if (pool / "free_hugepages").read_text() == "0\n":
                pytest.skip(f"the pool is empty and cannot be filled: {error}")
        try:
            yield
        finally:
            if (pool / "nr_hugepages").read_text() != before:
                (pool / "nr_hugepages").write_text(before)


@pytest.fixture(scope="session")
def has_cachestat():
    """Whether holes can be looked for without another descriptor (Linux 6.5)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(451, -1, None, None, 0)
    return ctypes.get_errno() != errno.ENOSYS


@pytest.fixture
def run():
    """Run a program in a child; it must end without a signal."""

    def run(program, *arguments, code=0, wrapper=(), timeout=120, **options):
        finished = subprocess.run(
            [*wrapper, sys.executable, "-c", textwrap.dedent(program), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout * PATIENCE,
            cwd="/",
            **options,
        )
        if finished.returncode < 0:
            died = signal.Signals(-finished.returncode).name
            pytest.fail(f"killed by {died}\n{finished.stdout}{finished.stderr}")
        assert finished.returncode == code, finished.stdout + finished.stderr
        return finished.stdout

    return run


# What programs about memfds that go through multiprocessing begin with.  `slip` tells where
# a sender has something; its numbers can be changed, as if another process or file had got
# them since.
HANDOVER = """
import ctypes, multiprocessing, os, pickle, signal, struct, sys, time
import numpy as np
import memfd
from memfd import _handover, _loan, _ticket
from multiprocessing.reduction import ForkingPickler

FIELDS = "16sQQQQQqqiiiiii"
NAMES = "NUMBER PIPE_DEVICE PIPE_INODE DEVICE INODE SIZE MODIFIED PID PIPE LOAN ORIGINAL"
NAMES += " ACCESS IMMUTABLE"
globals().update({name: i for i, name in enumerate(NAMES.split(), 1)})

def descriptors(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd")) - (pid == "self")

def until(condition, what):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)

def changed(memfd, **fields):
    slip, ticket, name = _handover.give(memfd)
    numbers = list(struct.unpack(FIELDS, slip))
    for field, number in fields.items():
        numbers[globals()[field]] = number
    return struct.pack(FIELDS, *numbers), ticket, name

def no_ticket(*arguments):
    raise AssertionError("asked for a ticket")

def forked(function):
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # when this process ends
        try:
            function()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(1)
    return pid

def succeeded(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.fixture
def play(run):
    """Run a program after HANDOVER."""

    def play(program, **options):
        return run(HANDOVER + textwrap.dedent(program), **options)

    return play


@pytest.fixture
def patience():
    """How many times as long as usual this machine takes."""
    return PATIENCE


@pytest.fixture
def strace():
    """Build the command that makes a system call of a child fail."""
    probe = subprocess.run(
        ["sh", "-c", "strace -o /dev/null true"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"strace cannot trace here: {probe.stderr.strip()}")

    def strace(*faults):
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        injections = [f"--inject={fault}" for fault in faults]
        return ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", *injections]

    return strace


@pytest.fixture
def namespace():
    """Build the command that runs a child in namespaces of its own."""

    def namespace(*flags):
        probe = subprocess.run(
            ["sh", "-c", 'unshare "$@" true', "sh", *flags],
            capture_output=True,
            text=True,
        )
        if probe.returncode:
            pytest.skip(f"no namespaces here: {probe.stderr.strip()}")
        return ["unshare", *flags]

    return namespace


@pytest.fixture
def shell(tmp_path):
    """Run the installed `memfd` with some arguments, away from the repository."""
    script = pathlib.Path(sysconfig.get_path("scripts"), "memfd")
    # A copy of the tree that is on the path, and not installed.
    command = os.environ.get("MEMFD_TEST_COMMAND", str(script)).split()
    assert os.path.exists(command[0]), f"{command[0]} is not installed"

    def shell(*arguments, wrapper=(), timeout=120, code=None, **options):
        options = {"stdin": subprocess.DEVNULL, "env": os.environ} | options
        # What is printed is to fail where it does for users.
        unbuffered = b"PYTHONUNBUFFERED", "PYTHONUNBUFFERED"
        options["env"] = {
            name: value
            for name, value in options["env"].items()
            if name not in unbuffered
        }
        if "input" in options:
            del options["stdin"]
        finished = subprocess.run(
            [*wrapper, *command, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout * PATIENCE,
            cwd=tmp_path,
            **options,
        )
        assert "Traceback" not in finished.stderr
        if code is not None:
            assert finished.returncode == code, finished.stderr
        return finished

    return shell


@pytest.fixture
def other():
    """Start programs in other processes, which say a line and wait to be ended."""
    started = []

    def other(program, *arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            **options,
        )
        started.append(process)
        process.said = process.stdout.readline().strip()
        assert process.said, "the program ended"
        return process

    yield other
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def installed():
    """Have a program of the system; where CI=true it has to be there."""

    def installed(program):
        found = shutil.which(program)
        if found is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{program} is not installed")
            pytest.skip(f"{program} is not installed")
        return found

    return installed


@pytest.fixture(params=KINDS)
def pair(request):
    """Two connected Unix sockets of each kind, with a deadline of ten seconds."""
    ends = socket.socketpair(socket.AF_UNIX, KINDS[request.param])
    with ends[0], ends[1]:
        for end in ends:
            end.settimeout(10)
        yield ends


@pytest.fixture
def stream():
    """Two connected stream sockets, with a deadline of ten seconds."""
    ends = socket.socketpair()
    with ends[0], ends[1]:
        for end in ends:
            end.settimeout(10)
        yield ends
