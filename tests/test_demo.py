"""The command `memfd demo`, run as people run it."""

import os
import re
import signal
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from memfd import _demo

COMMAND = [sys.executable, "-m", "memfd"]


@pytest.fixture
def command(tmp_path):
    """Run `memfd` with some arguments, away from the repository."""

    def command(*arguments, wrapper=()):
        # All processes inherit the pipe: this returns when the last one has ended.
        return subprocess.run(
            [*wrapper, *COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )

    return command


@pytest.fixture
def small_shm():
    """Build the command that runs another one with a /dev/shm of 64 MiB of its own.

    It lists on stderr what the other one has left there.
    """
    script = """
        mount -t tmpfs -o size=64m tmpfs /dev/shm || exit
        "$@"
        code=$?
        ls -A /dev/shm >&2
        exit $code
    """
    wrapper = ["unshare", "-m", "sh", "-c", script, "sh"]
    try:
        probe = subprocess.run([*wrapper, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no mount namespaces here: {error}")
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.strip()}")
    return wrapper


def cost(equal=2):
    """Return what a way may have taken, with some of two checksums equal."""
    return _demo.Cost(0.25, 0.75, 1 << 20, equal, 2)


def test_demo_prints_an_aligned_table(command):
    """Without a file it makes an array; all processes share its memory, or copy it."""
    done = command("demo", "--size", "32M", "--workers", "2")

    assert (done.returncode, done.stderr) == (0, "")
    first, _, heads, *rows, _, last = done.stdout.splitlines()
    assert first.startswith("32 MiB, float64[4194304], workers: 2 (spawn), cores: ")
    assert heads.split() == ["memfd", "pickle", "shared_memory"]
    assert [re.split(" {2,}", row)[0] for row in rows] == list(_demo._LABELS)
    assert {len(row) for row in rows} == {len(heads)}
    assert len(heads) <= 80
    assert re.search(r"checksums equal( +2 of 2){3}$", done.stdout, re.M)
    memory = re.findall(r"([\d.]+) MiB", rows[-2])
    ours, pickled, _ = map(float, memory)
    assert 32 <= ours < 48
    assert pickled >= 96
    # Without a GIL the interpreter keeps what it freed: 480 MiB.
    assert pickled < 112 or sysconfig.get_config_var("Py_GIL_DISABLED")
    assert re.fullmatch(
        r"memfd is [\d.]+ times (fast|slow)er than pickle "
        r"and takes [\d.]+ times (less|more) memory",
        last,
    )


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.asfortranarray(np.arange(6.0).reshape(2, 3)), id="fortran"),
        pytest.param(
            np.ones(5, np.dtype([("a", "i1"), ("b", ">f8")], align=True)),
            id="structured",
        ),
        pytest.param(np.arange(5, dtype=np.dtype("i4").newbyteorder()), id="swapped"),
        pytest.param(np.empty((0, 3), "M8[D]"), id="empty"),
    ],
)
def test_demo_shares_a_file(command, tmp_path, array):
    """Every kind of array that .npy has arrives with the right checksum."""
    np.save(tmp_path / "x.npy", array)

    done = command("demo", "x.npy", "--workers", "1")

    assert (done.returncode, done.stderr) == (0, "")
    shape = ",".join(map(str, array.shape))
    assert f", {array.dtype.name}[{shape}], workers: 1" in done.stdout
    assert re.search(r"checksums equal( +1 of 1){3}$", done.stdout, re.M)


def objects(path):
    """Save an array of Python objects."""
    np.save(path, np.array([{}, None]), allow_pickle=True)


def truncated(path):
    """Save an array and cut its end off."""
    np.save(path, np.zeros(100))
    os.truncate(path, 900)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: None, "No such file or directory", id="missing"),
        pytest.param(os.mkdir, "not a regular file", id="directory"),
        pytest.param(os.mkfifo, "not a regular file", id="fifo"),
        pytest.param(lambda path: path.touch(), "not a .npy file", id="nothing"),
        pytest.param(
            lambda path: path.write_text("1, 2\n"), "not a .npy file", id="text"
        ),
        pytest.param(
            lambda path: path.write_bytes(np.lib.format.magic(1, 0) + b"\xff\0{"),
            "EOF: reading array header, expected 255 bytes got 1",
            id="header",
        ),
        pytest.param(objects, "dtype object refers to Python objects", id="objects"),
        pytest.param(truncated, "promises shape (100,) of float64", id="truncated"),
    ],
)
def test_demo_refuses_what_is_no_array(command, tmp_path, make, reason):
    """A file of no use ends it with one line that says why, and exit code 2."""
    make(tmp_path / "x.npy")

    done = command("demo", "x.npy")

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"memfd demo: x\.npy: .*{re.escape(reason)}.*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "much"],
        ["--size", "0"],
        ["--size", "1.5.G"],
        ["--workers", "0"],
        ["--workers", "some"],
        ["x.npy", "--size", "1M"],
    ],
    ids=" ".join,
)
def test_demo_refuses_bad_arguments(command, arguments):
    """An argument that means nothing is an error of usage, exit code 2."""
    done = command("demo", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"memfd demo: error: argument {'--size' if 'x.npy' in arguments else ''}"
        in (done.stderr)
    )


def test_demo_tells_how_a_peer_died(command, small_shm):
    """A small /dev/shm kills shared_memory alone, and the table says so; exit code 0."""
    done = command("demo", "--size", "80M", "--workers", "1", wrapper=small_shm)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^shared_memory +killed by SIGBUS: /dev/shm is 64 MiB$", done.stdout, re.M
    )
    assert re.search(r"checksums equal +1 of 1 +1 of 1 +-$", done.stdout, re.M)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_demo_fails_where_memfd_fails(command):
    """Where there is no memory for the array, the exit code is 1, and stderr says why."""
    done = command("demo", "--size", "1000TiB", "--workers", "1")  # no address space

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "Unable to allocate" in done.stderr.splitlines()[-1]
    assert re.search(r"^shared_memory +.*MemoryError: ", done.stdout, re.M)
    assert "times" not in done.stdout


def test_demo_leaves_nothing_behind_when_interrupted(tmp_path):
    """Ctrl-C ends all processes without a word, exit code 130, and removes their files."""
    child = subprocess.Popen(
        [*COMMAND, "demo", "--size", "8M", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # Whoever started the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with child:
        child.stdout.readline()

        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)

    assert (child.returncode, errors) == (130, b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", _demo.WAYS)
def test_exit_code_of_a_wrong_checksum(way):
    """A worker that saw other data makes the exit code 1, whichever way it got them."""
    costs = dict.fromkeys(_demo.WAYS, cost())

    wrong = {**costs, way: cost(equal=1)}

    assert _demo.exit_code(costs) == 0
    assert _demo.exit_code(wrong) == 1
    assert "1 of 2" in _demo.table(wrong)


def test_exit_code_of_a_failed_way():
    """It is 1 where the memfd way failed; a peer that failed is a row of the table."""
    costs = dict.fromkeys(_demo.WAYS, cost())

    ours = {**costs, "memfd": "OSError: no more " + "memory " * 10}
    theirs = {**costs, "pickle": "killed by SIGKILL"}

    assert (_demo.exit_code(ours), _demo.exit_code(theirs)) == (1, 0)
    *_, ours = _demo.table(ours).splitlines()
    assert ours.startswith("memfd                    OSError: no more memory")
    assert len(ours) == 80
    *_, theirs = _demo.table(theirs).splitlines()
    assert theirs == "pickle                   killed by SIGKILL"


def test_checksum_depends_on_what_the_elements_are():
    """Other elements give another checksum, another byte order the same."""
    array = np.arange(6, dtype="<i4").reshape(2, 3)

    expected = _demo.checksum(array)

    assert _demo.checksum(array.astype(">i4")) == expected
    assert _demo.checksum(array + 1) != expected


def test_demo_without_numpy_names_the_extra(tmp_path):
    """Where NumPy cannot be imported one line says what to install; exit code 2."""
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "from memfd.__main__ import main; sys.exit(main(['demo']))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("memfd demo: NumPy is missing: pip install 'memfd[numpy]'\n")


def test_command_prints_its_version(command):
    """`memfd --version` prints name and version."""
    done = command("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"memfd \d+\.\d+\.\d+\S*\n", done.stdout)
