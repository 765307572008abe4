"""The programs of docs/examples, run as real processes, against each other and strangers.

The service of ``zero_trust`` exists twice, in Python and in C, and so do its clients.
"""

import contextlib
import math
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest

import memfd
from memfd import Seal

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "examples" / "zero_trust"
FRAME = b"\xfeMFD\1\0\0\0\0\0\0\0"
LANGUAGES = ("python", "c")

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no docs beside the tests")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder with the programs in C, compiled without a warning."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("zero_trust")
    for program in ("server", "client"):
        sources = [FOLDER / f"{name}.c" for name in (program, "array", "wire")]
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *flags, "-o", folder / program, *sources], check=True)
    return folder


@pytest.fixture(scope="module")
def command(request):
    """Build the command of a server or client in one of the languages."""

    def command(language, program):
        if language == "c":
            return [request.getfixturevalue("compiled") / program]
        return [sys.executable, "-P", FOLDER / f"{program}.py"]

    return command


class Server:
    """A server that runs, and what it says."""

    def __init__(self, process, path):
        self.process, self.path = process, path

    def send(self, data=b"", fds=(), *more):
        """Connect, send something and no more, and return why it was refused."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(self.path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(client, [data], fds) if data else None
                for data, fds in more:
                    socket.send_fds(client, [data], fds)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        return self.reason()

    def reason(self):
        line = self.process.stderr.readline()
        assert line.startswith("refused: "), line
        return line

    def sum(self, array):
        """Ask for sums as a client that is honest."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(self.path)
            memfd.send(client, memfd.share(array).memfd)
            return memfd.recv_array(client).tolist()

    def descriptors(self):
        """Return how many descriptors the server has between two clients."""
        self.send()  # when this is over, all that was before is over
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture(scope="module")
def start(command, tmp_path_factory):
    """Start the server of a language, once; it has to live until all tests are over."""
    folder = tmp_path_factory.mktemp("sockets")
    running = {}
    with contextlib.ExitStack() as stack:

        def start(language):
            if language not in running:
                path = str(folder / language)
                process = subprocess.Popen(
                    [*command(language, "server"), path],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd="/",
                )
                stack.callback(stop, process)
                assert process.stdout.readline() == f"listening at {path}\n"
                running[language] = Server(process, path)
            return running[language]

        yield start


@pytest.fixture(params=LANGUAGES)
def server(request, start):
    """A server in each of the languages."""
    return start(request.param)


@pytest.fixture(scope="module", autouse=True)
def _started(start):
    """Start both servers before the first test looks for what is left open."""
    start("python")
    with contextlib.suppress(pytest.skip.Exception):
        start("c")


def stop(process):
    """End a server; it must not have ended before."""
    with process:
        ended = process.poll()
        process.terminate()
    assert ended is None


def ask(command, path, *shape):
    """Run a client and return the sums that it prints."""
    finished = subprocess.run(
        [*command, path, *map(str, shape)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return [float(line) for line in finished.stdout.splitlines()]


def text(array, descr="<f8", shape=None, order="False"):
    """Return a .npy file of an array, or one that lies about it."""
    shape = array.shape if shape is None else shape
    told = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
    head = b"\x93NUMPY\1\0" + struct.pack("<H", 118) + told.encode().ljust(117) + b"\n"
    return head + array.tobytes()


def sealed(data, **changes):
    """Return a sealed memfd of some bytes, or of four numbers with a header that lies."""
    return memfd.from_bytes(text(np.zeros(4), **changes) if changes else data)


def unsealed():
    f = memfd.create()
    f.write(text(np.zeros(4)))
    return f


def write_only():
    f = sealed(text(np.zeros(4)))
    fd = os.open(f.path, os.O_WRONLY)
    f.close()
    return open(fd, "wb", buffering=0)


def sparse():
    f = memfd.create(size=1 << 20)
    f.write(text(np.zeros(4)))
    f.seal()
    return f


def executable():
    """Return a file whose seals some kernels report although it can be written."""
    try:
        f = memfd.create(executable=True)
    except PermissionError as error:
        pytest.skip(str(error))
    f.write(text(np.zeros(4)))
    try:
        f.seal(Seal.EXEC | Seal.IMMUTABLE)
    except OSError as error:
        f.close()
        pytest.skip(f"no Seal.EXEC: {error}")
    return f


def hugetlb():
    try:
        f = memfd.create(size=2 << 20, hugetlb=2 << 20)
    except OSError as error:
        pytest.skip(f"no hugetlb memfd: {error}")
    f.seal()
    return f


FILES = {
    "unsealed": (unsealed, "lacks seals"),
    "write-only": (write_only, "reading|writing only"),
    "sparse": (sparse, "has holes"),
    "executable": (executable, "executable"),
    "hugetlb": (hugetlb, "hugetlb"),
    "on disk": (lambda: FOLDER.joinpath("wire.c").open("rb"), "memfd"),
    "a device": (lambda: open("/dev/zero", "rb"), "memfd"),
    "too large": (lambda: sealed(bytes((1 << 26) + 1)), "large|more than"),
    "empty": (lambda: sealed(b""), "empty|npy"),
    "not .npy": (lambda: sealed(b"x" * 4096), "npy"),
    "cut header": (lambda: sealed(text(np.zeros(4))[:100]), "header"),
    "long header": (
        lambda: sealed(b"\x93NUMPY\1\0\xff\xff" + bytes(1 << 16)),
        "header",
    ),
    "float32": (lambda: sealed(b"", descr="<f4"), "float"),
    "objects": (lambda: sealed(b"", descr="|O"), "float64|objects"),
    "Fortran order": (
        lambda: sealed(b"", shape=(2, 2), order="True"),
        "C order|strides",
    ),
    "no dimension": (lambda: sealed(b"", shape=()), "dimension"),
    "three dimensions": (lambda: sealed(b"", shape=(1, 2, 2)), "shape|dimension"),
    "promises more": (lambda: sealed(b"", shape=(5,)), "promises"),
    "overflows": (lambda: sealed(b"", shape=(2**31, 2**33)), "shape|header"),
    "wraps to 4": (lambda: sealed(b"", shape=(2**64 + 4,)), "shape|header"),
    "negative": (lambda: sealed(b"", shape=(-1, -4)), "shape|dimensions"),
    "no rows, many columns": (lambda: sealed(b"", shape=(0, 2**40)), "shape"),
    "a null byte": (
        lambda: sealed(text(np.zeros(4)).replace(b"(4,), }", b"(4,), }\0")),
        "header",
    ),
}


# --- what works ------------------------------------------------------------------------


@pytest.mark.parametrize("client", LANGUAGES)
def test_every_client_and_every_server(server, command, client):
    """Both clients get the right sums from both servers."""
    for shape in ((5,), (1, 7), (3, 4), (1080, 1920)):
        array = np.arange(float(math.prod(shape))).reshape(shape)
        expected = array.sum(axis=0).ravel().tolist()
        assert ask(command(client, "client"), server.path, *shape) == expected


def test_the_page_shows_the_programs():
    """docs/sockets.md shows the programs in Python as they are."""
    page = (ROOT / "docs" / "sockets.md").read_text()
    for program in ("server.py", "client.py"):
        assert f"```python\n{(FOLDER / program).read_text()}```\n" in page


# --- what a server refuses -------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_server_refuses_a_file(server, name):
    """A hostile file is refused with a reason; the next client is served; nothing leaks."""
    make, words = FILES[name]
    before = server.descriptors()

    with make() as f:
        position = os.lseek(f.fileno(), 0, os.SEEK_CUR)
        assert re.search(words, server.send(FRAME, [f.fileno()]))
        assert os.lseek(f.fileno(), 0, os.SEEK_CUR) == position
    assert server.descriptors() == before
    assert server.sum([[1.0, 2.0], [3.0, 5.0]]) == [4, 7]


def test_a_server_refuses_a_message(server):
    """Whatever else comes is refused, and leaves no descriptor behind."""
    before = server.descriptors()

    with sealed(text(np.zeros(4))) as f:
        fd = f.fileno()
        assert "descriptor" in server.send(FRAME)
        assert "descriptor" in server.send(FRAME, [fd, fd])
        assert "descriptor" in server.send(FRAME, [fd] * 200)
        assert "middle" in server.send(FRAME[:6], [fd], (FRAME[6:], [fd]))
        for half in (1, 6, 11):
            server.send(FRAME[:half], [fd])
        for wrong in (b"\xfeMFE", b"\xfeMFD\2", b"\xfeMFD\1\7", b"\xfeMFD\1\0\1"):
            server.send(wrong.ljust(12, b"\0"), [fd])
        for size in (1, 1 << 31):
            server.send(FRAME[:8] + struct.pack("<I", size), [fd])
    assert server.descriptors() == before
    assert server.sum([1.0, 2.0]) == 3


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((4, 1 << 40), (8, 0)), ((1 << 40,), (0,)), ((0, 1 << 40), (0, 0))],
)
def test_a_server_refuses_a_view_larger_than_its_file(server, shape, strides):
    """A view that repeats its bytes costs the server nothing."""
    view = {"descr": "<f8", "shape": shape, "strides": strides, "offset": 128}
    more = repr(view).encode()
    head = struct.pack("<4sBBHI", b"\xfeMFD", 1, 1, 0, len(more))
    with sealed(text(np.zeros(4))) as f:
        assert re.search(
            "repeats|strides|no frame of a file", server.send(head + more, [f.fileno()])
        )
    assert server.sum([1.0, 2.0]) == 3


def test_a_server_does_not_wait_for_ever(start):
    """A client that sends half a message and stays is refused at the deadline."""
    servers = [start(language) for language in LANGUAGES]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in servers]
        with sealed(text(np.zeros(4))) as f:
            for client, server in zip(clients, servers, strict=True):
                client.connect(server.path)
                socket.send_fds(client, [FRAME[:5]], [f.fileno()])
        for client, server in zip(clients, servers, strict=True):
            client.settimeout(60)
            assert client.recv(1) == b""
            assert re.search("timed out|half a message", server.reason())
            assert server.sum([1.0, 2.0]) == 3


# --- what a client refuses -------------------------------------------------------------


@pytest.mark.parametrize("client", LANGUAGES)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: None, id="nothing"),
        pytest.param(unsealed, id="unsealed"),
        pytest.param(sparse, id="sparse"),
        pytest.param(lambda: sealed(b"", shape=(5,)), id="promises more"),
        pytest.param(lambda: sealed(b"", shape=(3,)), id="another shape"),
        pytest.param(lambda: sealed(b"", descr="<i8"), id="another type"),
    ],
)
def test_a_client_refuses_an_answer(command, tmp_path, client, make):
    """A client checks a server's answer as the server checks its question."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(30)
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [*command(client, "client"), path, "3", "4"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        with process:
            server, _ = listener.accept()
            with server:
                server.settimeout(30)
                asked = memfd.recv_array(server)
                with make() or contextlib.nullcontext() as answer:
                    if answer is not None:
                        memfd.send(server, answer)
            out, err = process.communicate(timeout=30)
    assert asked.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert (process.returncode, out) == (1, "")
    assert err.startswith("refused: ")
