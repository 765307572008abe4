"""Memfds in programs that nobody here wrote, started as people start them."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import memfd
from memfd import Seal

DATA = b"first line\nsecond line\n"


@pytest.fixture(autouse=True)
def _programs():
    """Skip where the programs are missing."""
    for program in (
        "cat",
        "dd",
        "echo",
        "grep",
        "ls",
        "sha256sum",
        "sh",
        "tail",
        "tar",
    ):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")


@pytest.fixture
def sealed():
    """A sealed memfd of two lines, read to its end."""
    with memfd.from_bytes(DATA, "two lines") as f:
        f.seek(0, os.SEEK_END)
        yield f


@pytest.fixture
def program():
    """A sealed, executable memfd with what a file holds, open for reading only."""
    opened = []

    def program(data):
        try:
            f = memfd.create("program", executable=True)
        except PermissionError as error:
            pytest.skip(str(error))
        with f:
            f.write(data)
            f.seal()
            opened.append(f.reopen())
        return opened[-1]

    yield program
    for f in opened:
        f.close()


def output(*command, code=0, **options):
    """Run a command and return its output."""
    done = subprocess.run(command, capture_output=True, timeout=60, **options)
    assert done.returncode == code, done.stderr
    return done.stdout


# --- a path ----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/dev/fd"])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["cat"], DATA),
        (["tail", "-c", "5"], b"line\n"),
        (["grep", "-c", "line"], b"2\n"),
        (["sha256sum"], hashlib.sha256(DATA).hexdigest().encode()),
        (["dd", "bs=1", "skip=6", "count=4"], b"line"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_program_opens_the_path(sealed, folder, command, expected):
    """A program that was given the descriptor reads the path from the beginning."""
    if not os.path.isdir(folder):
        pytest.skip(f"no {folder}")
    path = f"{folder}/{sealed.fileno()}"
    argument = f"if={path}" if command[0] == "dd" else path

    out = output(*command, argument, pass_fds=[sealed.fileno()])
    assert out.split(b" ")[0] == expected.split(b" ")[0]
    assert out.startswith(expected)
    assert sealed.tell() == len(DATA)


def test_archives():
    """Programs list an archive in a memfd, and write one into it."""
    with memfd.create("archive") as f:
        with zipfile.ZipFile(f, "w") as archive:
            archive.writestr("inside.txt", DATA)
        listing = output(
            sys.executable, "-m", "zipfile", "-l", f.path, pass_fds=[f.fileno()]
        )
        assert b"inside.txt" in listing
    with memfd.create("archive") as f:
        output("tar", "-cf", f.path, "-C", "/", "etc/passwd", pass_fds=[f.fileno()])
        with tarfile.open(fileobj=f.reopen()) as archive:
            assert archive.getnames() == ["etc/passwd"]
        listing = output("tar", "-tf", f.path, pass_fds=[f.fileno()])
        assert listing == b"etc/passwd\n"


def test_the_path_in_another_process(sealed):
    """/proc/PID/fd/N is the file as long as that process has it; nothing is passed."""
    number = sealed.fileno()
    assert output("cat", f"/proc/{os.getpid()}/fd/{number}") == DATA
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[number]) as owner:
        path = f"/proc/{owner.pid}/fd/{number}"
        sealed.close()
        assert output("cat", path) == DATA
    output("cat", path, code=1)


def test_the_path_in_another_process_is_not_for_other_users(sealed):
    """/proc/PID/fd/N does not open for another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    path = f"/proc/{os.getpid()}/fd/{sealed.fileno()}"
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}

    output("cat", path, code=1, **nobody)
    assert output("cat", sealed.path, pass_fds=[sealed.fileno()], **nobody) == DATA


# --- standard input and output ---------------------------------------------------------


def test_standard_input_shares_the_position(sealed):
    """A program reads its standard input from where we are, and moves us."""
    sealed.seek(6)

    assert output("cat", stdin=sealed) == DATA[6:]
    assert sealed.tell() == len(DATA)
    assert output("cat", stdin=sealed) == b""
    with sealed.reopen() as again:
        assert output("cat", stdin=again) == DATA
    assert output("sh", "-c", "cat /proc/self/fd/0", stdin=sealed) == DATA


def test_standard_output_shares_the_position(sealed):
    """What programs write one after the other stands one after the other."""
    with memfd.create("output") as f:
        for command in (["echo", "one"], ["cat", sealed.path], ["echo", "two"]):
            subprocess.run(command, stdout=f, pass_fds=[sealed.fileno()], check=True)
        assert f.tell() == f.size
        f.seek(0)
        assert f.read() == b"one\n" + DATA + b"two\n"


# --- seals -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["conv=notrunc"], ["seek=1", "bs=100"]])
def test_a_program_cannot_write_into_a_sealed_file(sealed, options):
    """Neither writing, nor truncating, nor appending: EPERM, and nothing has changed."""
    done = subprocess.run(
        ["dd", f"of={sealed.path}", *options],
        input=b"overwritten",
        capture_output=True,
        pass_fds=[sealed.fileno()],
        env=os.environ | {"LC_ALL": "C"},
    )
    assert done.returncode == 1
    assert b"Operation not permitted" in done.stderr
    assert os.pread(sealed.fileno(), 100, 0) == DATA


def test_a_program_cannot_write_its_sealed_output(sealed):
    """A sealed file as standard output answers with EPERM as well."""
    sealed.seek(0)
    done = subprocess.run(["cat"], input=b"x", stdout=sealed, stderr=subprocess.DEVNULL)
    assert done.returncode != 0
    assert os.pread(sealed.fileno(), 100, 0) == DATA


def test_a_program_writes_into_a_file_of_fixed_size():
    """Sealed only in its size, a file takes what fits and nothing more."""
    with memfd.create("frame", size=4) as f:
        f.seal(Seal.SHRINK | Seal.GROW)
        write = ["dd", f"of={f.path}", "conv=notrunc", "bs=1"]
        output(*write, input=b"ABCD", pass_fds=[f.fileno()])
        output(*write, input=b"abcdE", pass_fds=[f.fileno()], code=1)
        assert f.read() == b"abcd"


# --- what is inherited -----------------------------------------------------------------


def test_nothing_is_inherited_by_default():
    """Without asking, no program has the descriptor, also where all others stay open."""
    with (
        memfd.create("not asked for") as f,
        memfd.create("asked for", inheritable=True) as g,
        f.reopen(),
    ):
        listing = output("ls", "-l", "/proc/self/fd", close_fds=False)
        assert listing.count(b"memfd:") == 1
        assert b"/memfd:asked for" in listing
        assert b"memfd:" not in output("ls", "-l", "/proc/self/fd")
        g.write(DATA)
        assert output("cat", g.path, close_fds=False) == DATA
        output("cat", f.path, close_fds=False, code=1)


def test_posix_spawn(sealed):
    """os.posix_spawn hands over what is inheritable, and can hand over the rest."""
    with memfd.create("output", inheritable=True) as out:
        script = f"cat <&9 >{out.path}"
        with sealed.reopen() as source:
            move = [(os.POSIX_SPAWN_DUP2, source.fileno(), 9)]
            pid = os.posix_spawn(
                "/bin/sh", ["sh", "-c", script], os.environ, file_actions=move
            )
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert out.read() == DATA


# --- programs that are memfds ----------------------------------------------------------


def echo():
    with open(shutil.which("echo"), "rb") as file:
        return file.read()


def test_a_program_in_a_memfd_runs(program):
    """A copy of echo runs from a sealed memfd, by its path."""
    f = program(echo())

    out = output("echo", "it runs", executable=f.path, pass_fds=[f.fileno()])
    assert out == b"it runs\n"
    assert f.seals & Seal.IMMUTABLE == Seal.IMMUTABLE


def test_a_program_runs_that_it_does_not_inherit(program):
    """A binary needs its descriptor only until it begins; a script is opened later."""
    path = program(b"#!/bin/sh\necho it runs\n").path
    binary = program(echo()).path

    out = output("echo", "it runs", executable=binary, close_fds=False)
    assert out == b"it runs\n"
    done = subprocess.run([path], close_fds=False, capture_output=True)
    assert done.returncode != 0
    number = int(path.rpartition("/")[2])
    assert output(path, pass_fds=[number]) == b"it runs\n"


def test_what_cannot_be_executed(sealed):
    """An ordinary memfd does not run, and its mode stays sealed."""
    with pytest.raises(PermissionError) as caught:
        output("x", executable=sealed.path, pass_fds=[sealed.fileno()])
    assert caught.value.errno == errno.EACCES
    if sealed.seals & Seal.EXEC:
        with pytest.raises(PermissionError):
            os.fchmod(sealed.fileno(), 0o755)
