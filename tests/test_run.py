"""`memfd run`: a command gets files that exist in memory only."""

import hashlib
import io
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile

import pytest

from memfd import _run

# What a command says of the file that it gets.
LOOK = """
import fcntl, os, sys
path, = sys.argv[1:]
with open(path, "rb") as file:
    status = os.fstat(file.fileno())
    print(oct(status.st_mode), fcntl.fcntl(file, 1034), file.read()[:50])
print(os.readlink(path))
"""


def archive():
    """Return the bytes of a zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("one.txt", "in an archive\n")
    return data.getvalue()


def test_standard_input(shell):
    """A sealed file of mode 0600 that nobody can execute, named, under a path."""
    done = shell("run", "--", sys.executable, "-c", LOOK, "{}", input="a pipe", code=0)
    first, link = done.stdout.splitlines()
    # Seals: further ones, shrink, grow, write, and the executable bits (Linux 6.3).
    assert first in (f"0o100600 {0x2F} b'a pipe'", f"0o100600 {0x0F} b'a pipe'")
    assert link == "/memfd:stdin (deleted)"
    assert done.stderr == ""


def test_an_input_and_a_name(shell, tmp_path):
    """A file is read from its start, and --name is what memfd ls shows of it."""
    (tmp_path / "letter.txt").write_text("a file")
    command = "--", sys.executable, "-c", LOOK, "{}"
    out = shell("run", "--input", "letter.txt", *command, code=0).stdout
    assert "b'a file'\n/memfd:letter.txt (deleted)\n" in out
    out = shell(
        "run", "--name", "a name", "--input", "-", *command, input="x", code=0
    ).stdout
    assert "b'x'\n/memfd:a name (deleted)\n" in out


def test_standard_input_is_left_alone(shell, tmp_path):
    """With --input FILE the command has the standard input for itself."""
    (tmp_path / "a").write_text("file ")
    done = shell("run", "--input", "a", "--", "cat", "{}", "-", input="pipe", code=0)
    assert done.stdout == "file pipe"


def test_several_inputs(shell, tmp_path):
    """{0}, {1} and so on, in the order of the options, of all kinds, anywhere."""
    (tmp_path / "a").write_text("first ")
    done = shell(
        "run", "--input", "a", "--env", "V", "--input", "-", "--",
        "sh", "-c", "cat {2} {0} {1} {0}; echo x{{}}{{1}}", input="third ",
        env=os.environ | {"V": "second "}, code=0,
    )  # fmt: skip
    assert done.stdout == "third first second first x{}{1}\n"


def test_a_variable(shell):
    """The command has the value as a file, and not in its environment."""
    env = os.environb | {b"KEY": b"one\xff\nline"}
    done = shell(
        "run", "--env", "KEY", "--", "sh", "-c", "cat {}; env", env=env, code=0
    )
    assert done.stdout.startswith("one\udcff\nline")
    assert "KEY=" not in done.stdout
    done = shell("run", "--env", "NOT_SET", "--", "cat", "{}", code=125)
    assert done.stderr == "memfd run: there is no environment variable NOT_SET\n"


def test_the_pid_is_its_own(shell):
    """The process becomes the command, so the path is its own, and that of children."""
    done = shell("run", "--", "sh", "-c", "echo $$ {}; sh -c 'cat {}; echo'", input="x")
    pid, path, content = done.stdout.split()
    assert path.startswith(f"/proc/{pid}/fd/")
    assert int(path.rpartition("/")[2]) >= 100
    assert content == "x"


def test_a_script_that_uses_descriptors_itself(shell):
    """Those that scripts use are not the one with the file."""
    uses = "; ".join(f"exec {number}</dev/null" for number in range(3, 10))
    done = shell("run", "--", "sh", "-c", f"{uses}; cat {{}}", input="still there")
    assert done.stdout == "still there"


def test_the_status_is_that_of_the_command(shell):
    """Exit status, signals, and what is ignored are the command's own."""
    assert shell("run", "--", "sh", "-c", "exit 7").returncode == 7
    assert shell("run", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    out = shell("run", "--", "grep", "SigIgn", "/proc/self/status", code=0).stdout
    ignored = int(out.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_arguments_are_the_commands(shell):
    """Options after the command are its own, with and without --."""
    for dashes in ([], ["--"]):
        done = shell(
            "run", *dashes, "printf", "%s|", "--name", "--", "-h", "{}x", code=0
        )
        assert re.fullmatch(r"--name\|--\|-h\|/proc/\d+/fd/\d+x\|", done.stdout)


def test_writable(shell):
    """--writable gives an unsealed file, which the command can write and lengthen."""
    script = "echo more | tee -a {} >/dev/null; cat {}"
    done = shell("run", "--writable", "--", "sh", "-c", script, input="a\n", code=0)
    assert done.stdout == "a\nmore\n"
    done = shell("run", "--", "sh", "-c", script, input="a\n")
    assert done.stdout == "a\n"
    assert "not permitted" in done.stderr


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 3])
def test_all_of_it(shell, size, tmp_path):
    """Whatever the length, every byte arrives, from a file and from a pipe."""
    data = os.urandom(size)
    (tmp_path / "data").write_bytes(data)
    wanted = hashlib.sha256(data).hexdigest()
    for options in (["--input", "data"], []):
        with open(tmp_path / "data", "rb") as file:
            read = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        done = shell(
            "run", *options, "--", "sha256sum", "{}", stdin=read.stdout, code=0
        )
        read.stdout.close()
        read.wait()
        assert done.stdout.split()[0] == wanted


def test_standard_input_that_does_not_wait(shell):
    """A pipe that somebody made non-blocking is waited for all the same."""
    script = (
        "import os, sys; os.set_blocking(0, False); os.execv(sys.argv[1], sys.argv[1:])"
    )
    wrapper = ["sh", "-c", '(sleep 0.5; echo late) | "$@"', "sh"]
    wrapper += [sys.executable, "-c", script]
    assert shell("run", "--", "cat", "{}", wrapper=wrapper, code=0).stdout == "late\n"


def test_unzip(shell, installed):
    """unzip needs to seek, which a pipe cannot."""
    data = archive().decode("latin1")
    for command in (
        [installed("unzip"), "-p"],
        [sys.executable, "-m", "zipfile", "-l"],
    ):
        out = shell(
            "run", "--", *command, "{}", input=data, encoding="latin1", code=0
        ).stdout
        assert ("in an archive" in out) or ("one.txt" in out)


def test_keys(shell, installed, tmp_path):
    """openssl and ssh-keygen read a private key that is never on a disk."""
    openssl = installed("openssl")
    key = subprocess.run(
        [openssl, "genpkey", "-algorithm", "RSA"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    wanted = subprocess.run(
        [openssl, "pkey", "-pubout"],
        input=key,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    env = os.environ | {"KEY": key}
    done = shell(
        "run", "--secret", "--env", "KEY", "--", openssl, "pkey", "-in", "{}", "-pubout",
        env=env, code=0,
    )  # fmt: skip
    assert done.stdout == wanted
    keygen = installed("ssh-keygen")
    subprocess.run(
        [keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True
    )
    private = (tmp_path / "id").read_text()
    (tmp_path / "id").unlink()
    # It refuses keys that others may read: the file has mode 0600.
    done = shell(
        "run", "--secret", "--", keygen, "-y", "-f", "{}", input=private, code=0
    )
    public = (tmp_path / "id.pub").read_text()
    assert done.stdout.split()[:2] == public.split()[:2]


def test_a_database(shell, installed, tmp_path):
    """sqlite3 reads it; by its own way of opening, it follows the link to a name."""
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("create table t (x)")
        connection.execute("insert into t values (42)")
    connection.close()
    command = "run", "--input", "db", "--", installed("sqlite3")
    done = shell(*command, "-deserialize", "{}", "select x from t", code=0)
    assert done.stdout == "42\n"
    # It resolves links, and the text of this one is no path: nothing that we can change.
    done = shell(*command, "file:{}?mode=ro&immutable=1", "select x from t")
    assert done.returncode
    assert "unable to open database" in done.stderr


def test_the_command_cannot_be_executed(shell, tmp_path):
    """127 where it is not found and 126 where it is not executable, before any reading."""
    waits, end = os.pipe()  # an input that never comes
    (tmp_path / "data").write_text("x")
    (tmp_path / "lost").write_text("#!/no/such/interpreter\n")
    (tmp_path / "lost").chmod(0o755)
    for command, code, message in (
        ("no-such-command", 127, "no-such-command: command not found"),
        ("./none", 127, "./none: command not found"),
        ("./data", 126, "./data: Permission denied"),
        (str(tmp_path), 126, f"{tmp_path}: Permission denied"),
        ("./data/x", 126, "./data/x: Not a directory"),
        ("data", 126, "data: Permission denied"),
        ("two\nlines", 127, "two\\nlines: command not found"),
    ):
        for place in (["{}"], []):
            env = os.environ | {"PATH": f"/none:{tmp_path}:{os.environ['PATH']}"}
            done = shell("run", "--", command, *place, stdin=waits, env=env, code=code)
            assert done.stderr == f"memfd run: {message}\n"
    os.close(waits)
    os.close(end)
    done = shell("run", "--", "./lost", "{}", code=127)
    assert done.stderr == "memfd run: ./lost: its interpreter is missing\n"
    # Nobody can execute what it gives.
    done = shell("run", "--", "{}", input="#!/bin/sh\n", code=126)
    assert re.fullmatch(
        r"memfd run: /proc/\d+/fd/\d+: Permission denied\n", done.stderr
    )


def test_a_script_without_a_first_line(shell, tmp_path):
    """It is given to sh, as shells and execvp(3) do."""
    (tmp_path / "script").write_text("cat $1\n")
    (tmp_path / "script").chmod(0o755)
    done = shell("run", "--", "./script", "{}", input="by sh", code=0)
    assert done.stdout == "by sh"


def test_refusals(shell, tmp_path):
    """Bad input: one line on standard error, and 125, as of env(1)."""
    for arguments, message in (
        ([], "no command; for example: memfd run -- unzip -l {}"),
        (["--input", "none", "--", "cat", "{}"], "none: No such file or directory"),
        (["--input", ".", "--", "cat", "{}"], ".: Is a directory"),
        (["--", "cat", "{1}"], "there is no input for {1}: 0 is the first"),
        (
            ["--input", "a", "--input", "b", "cat", "{}"],
            "{} could be any of several inputs: write {0}, {1} and so on",
        ),
        (
            ["--input", "-", "--input", "-", "cat", "{0}"],
            "standard input can be read only once",
        ),
        (["--name", "x" * 250, "--", "cat", "{}"], None),
        (["--nonsense", "--", "cat", "{}"], None),
    ):
        done = shell("run", *arguments, code=125)
        assert done.stderr.count("\n") == 1
        if message is not None:
            assert done.stderr == f"memfd run: {message}\n"
        assert done.stdout == ""


def test_closed_descriptors(shell):
    """Without a standard input there is nothing to read; the others need not be there."""
    done = shell(
        "run", "cat", "{}", wrapper=["sh", "-c", 'exec "$@" <&-', "sh"], code=125
    )
    assert done.stderr == "memfd run: standard input is closed\n"
    script = 'echo x | (exec "$@" >&- 2>&-)'
    shell("run", "grep", "-q", "x", "{}", wrapper=["sh", "-c", script, "sh"], code=0)
    mute = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    assert shell("run", "no-such-command", wrapper=mute, code=127).stdout == ""
    assert shell("ls", "4194304", wrapper=mute, code=1).stdout == ""
    env = os.environ | {"V": "value"}
    done = shell(
        "run", "--env", "V", "cat", "{}", wrapper=["sh", "-c", 'exec "$@" <&-', "sh"],
        env=env, code=0,
    )  # fmt: skip
    assert done.stdout == "value"


def test_input_beyond_the_limits(shell, run, tmp_path):
    """RLIMIT_FSIZE, RLIMIT_AS, and more than there is memory: one line, and no signal."""
    (tmp_path / "data").write_bytes(bytes(8 << 20))
    command = "run", "--input", "data", "--", "cat", "{}"
    for limit in (4 << 20, (4 << 20) + 4321):
        for secret in ([], ["--secret"]):
            done = shell(
                command[0], *secret, *command[1:],
                wrapper=["prlimit", f"--fsize={limit}"], code=125,
            )  # fmt: skip
            assert done.stderr == "memfd run: data: File too large\n"
    program = """
        import sys
        from memfd import __main__, _limits
        _limits.memory_left = lambda: 4 << 20
        sys.exit(__main__.main(["run", *sys.argv[1:]]))
    """
    import textwrap

    for options in (["--input", tmp_path / "data"], []):
        with open(tmp_path / "data", "rb") as file:
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), *options, "cat", "{}"],
                stdin=file,
                capture_output=True,
                text=True,
                cwd="/",
            )
        assert done.returncode == 125
        assert re.fullmatch(
            r"memfd run: .+: it is larger than 3.6 MiB, which is what may be taken of "
            r"memory\n",
            done.stderr,
        )


@pytest.fixture
def small_group():
    """Build the command that runs another one with 64 MiB of memory, in a cgroup."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = pathlib.Path(root, f"memfd-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError as error:
            reason = f"{error}"
            continue
        try:
            (group / limit).write_text(str(64 << 20))
        except OSError as error:
            reason = f"{error}"
            group.rmdir()
            continue
        break
    else:
        pytest.skip(f"no cgroup with a limit of memory here: {reason}")
    yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    for _ in range(200):  # a process leaves it a moment after it has ended
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            break


@pytest.mark.parametrize("name", [b"a\xe2\x80\xa8b", b"a\rb", b"\xff"])
def test_a_cgroup_of_any_name(run, name):
    """Neither the limits nor what is left are lost on it."""
    roots = "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"
    for root in roots:
        group = os.fsencode(f"{root}/memfd-test-{os.getpid()}-") + name
        try:
            os.mkdir(group)
        except OSError as error:
            reason = f"{error}"
            continue
        # It may be an ordinary folder.
        if os.path.exists(group + b"/cgroup.procs"):
            break
        os.rmdir(group)
        reason = f"{root} is no cgroup"
    else:
        pytest.skip(f"no cgroup here: {reason}")
    program = """
        import os, sys
        with open(os.fsencode(sys.argv[1]) + b"/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        from memfd import _limits
        assert os.fsencode(sys.argv[1]).rpartition(b"/")[2] in open(
            "/proc/self/cgroup", "rb").read()
        print(_limits.memory(), _limits.memory_left())
    """
    try:
        assert all(int(number) > 0 for number in run(program, group).split())
    finally:
        end = time.monotonic() + 60
        while True:
            try:
                os.rmdir(group)
                break
            except OSError:  # a process leaves it a moment after it has ended
                assert time.monotonic() < end
                time.sleep(0.01)


def test_a_limit_of_the_container(shell, small_group, tmp_path):
    """What does not fit into the cgroup is refused, where else somebody would be killed."""
    (tmp_path / "data").write_bytes(bytes(100 << 20))
    for options in (["--input", "data"], []):
        with open(tmp_path / "data", "rb") as file:
            read = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        done = shell(
            "run",
            *options,
            "cat",
            "{}",
            wrapper=small_group,
            stdin=read.stdout,
            code=125,
        )
        read.stdout.close()
        read.wait()
        assert ": it is larger than " in done.stderr
    (tmp_path / "data").write_bytes(bytes(8 << 20))
    done = shell(
        "run", "--input", "data", "wc", "-c", "{}", wrapper=small_group, code=0
    )
    assert done.stdout.split()[0] == str(8 << 20)


def test_what_is_left_of_memory():
    """At least what the machine has available, at most all of it and swap space."""
    from memfd import _limits

    text = pathlib.Path("/proc/meminfo").read_text()
    total, swap = (
        int(re.search(rf"^{name}: +(\d+)", text, re.M)[1]) << 10
        for name in ("MemTotal", "SwapTotal")
    )
    assert 0 < _limits.memory_left() <= total + swap
    assert 0 < _limits.memory() <= total


def test_interrupted():
    """Ctrl-C while the input is read ends it, as shells show it, with nothing said."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "memfd", "run", "--", "cat", "{}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    process.stdin.write(bytes(2 << 20))  # as much as fits: it is being read
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert (process.returncode, process.stderr.read()) == (130, b"")
    process.stdin.close()
    process.stderr.close()


def test_secrets_are_in_no_core(shell):
    """No core at all, and if the command asks for one, without what it maps of files."""
    script = "ulimit -c; ulimit -Hc; cat /proc/self/coredump_filter"
    before = shell("run", "--", "sh", "-c", script, code=0).stdout.split()
    after = shell("run", "--secret", "--", "sh", "-c", script, code=0).stdout.split()
    # In blocks: a limit of one byte, at which the kernel starts no collector either.
    assert after[:2] == ["0", "0"]
    assert int(after[2], 16) == int(before[2], 16) & ~_run._MAPPED
    assert int(before[2], 16) & _run._MAPPED


# Reads its input as `memfd run` does, and says how often it is then in its memory.
SEARCH = r"""
import argparse, mmap, os, re, sys, types
from memfd import _run
kind, source, secret = sys.argv[1:]
options = argparse.Namespace(secret=secret == "secret", name=None, writable=False)


class Kept(mmap.mmap):
    # A buffer that is still there when it is not needed any more.

    def __init__(self, *_):
        kept.append(self)


kept = []
_run.mmap = types.SimpleNamespace(mmap=Kept, MADV_DONTDUMP=mmap.MADV_DONTDUMP)
f = _run._filled(kind, source, "x", options)
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if " rw" in line and "memfd:" not in line:
            memory.seek(start)
            found += len(re.findall(rb"(?:[A-Z]\d){16}", memory.read(end - start)))
assert re.fullmatch(rb"(?:[A-Z]\d){16}", f.read())
print(found)
"""


@pytest.mark.parametrize("secret", ["secret", "open"])
def test_secrets_are_overwritten(secret):
    """What standard input gave is nowhere else in memory; without --secret it is."""
    token = "".join(f"{chr(65 + byte % 26)}{byte % 10}" for byte in os.urandom(16))
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, "input", "-", secret],
        input=token,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert (int(done.stdout) == 0) == (secret == "secret")


def test_secrets_leave_the_environment(run):
    """/proc/PID/environ does not show a value that was taken, nor less of the others."""
    out = run(
        """
        import argparse, os
        from memfd import _run
        options = argparse.Namespace(secret=True, name=None, writable=False)
        f = _run._filled("env", "SECRET", "SECRET", options)
        assert f.read() == b"a value"
        text = open("/proc/self/environ", "rb").read()
        print(text.count(b"a value"), b"SECRET=*******\\0" in text, b"OTHER=kept" in text)
        print("SECRET" in os.environ, "OTHER" in os.environ)
        """,
        env=os.environ | {"SECRET": "a value", "OTHER": "kept", "A_SECRET": "x"},
    )
    assert out == "0 True True\nFalse True\n"


def test_a_command_that_closes_what_it_inherits(shell):
    """A shell that stays keeps the file for such a command, as docs/shell.md says."""
    closes = "import os, sys; os.closerange(3, 200); os.execvp('cat', sys.argv)"
    done = shell("run", "--", sys.executable, "-c", closes, "{}", input="kept")
    assert done.returncode
    script = f'{sys.executable} -c "{closes}" {{}}; exit'
    done = shell("run", "--", "sh", "-c", script, input="kept", code=0)
    assert done.stdout == "kept"


def test_places():
    """Braces are places only as {} and {N}; doubled, they stand for themselves."""
    paths = ["/a", "/b"]
    for text, wanted in {
        "{0}": "/a",
        "x{1}y{0}": "x/by/a",
        "{}": "/a",
        "{{}}": "{}",
        "{{1}}": "{1}",
        "{ }": "{ }",
        "{a}": "{a}",
        "${HOME}": "${HOME}",
        "{": "{",
    }.items():
        assert _run.placed(text, paths) == wanted


def test_few_descriptors(shell):
    """Where the limit is low, the file has a lower number."""
    done = shell("run", "readlink", "{}", wrapper=["prlimit", "--nofile=64"], code=0)
    assert done.stdout == "/memfd:stdin (deleted)\n"
    done = shell(
        "run", "--input", "/dev/null", "--input", "/dev/null", "echo", "{0}", "{1}",
        wrapper=["prlimit", "--nofile=101"], code=0,
    )  # fmt: skip
    assert re.fullmatch(r"/proc/\d+/fd/100 /proc/\d+/fd/\d\d\n", done.stdout)


def test_the_rest_of_a_file(shell, tmp_path):
    """What was read of it before does not count, and is not read again."""
    with open(tmp_path / "sparse", "w+b") as file:
        file.truncate(1 << 43)
        file.seek(-100, os.SEEK_END)
        os.lseek(file.fileno(), -100, os.SEEK_END)
        done = shell("run", "wc", "-c", "{}", stdin=file, code=0)
    assert done.stdout.split()[0] == "100"


def test_the_environment_is_the_callers(shell):
    """What Python adds where the locale is C does not reach the command."""
    kept = {"PATH", "PYTHONPATH"} & set(os.environ)
    env = {name: os.environ[name] for name in kept} | {"LANG": "C"}
    for more in ({}, {"LC_CTYPE": "C.UTF-8"}):
        done = shell("run", "--", "env", env=env | more, code=0)
        names = {line.partition("=")[0] for line in done.stdout.splitlines()}
        assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {*env, *more}


def test_another_pid_namespace(shell, namespace):
    """The path is the one in /proc, whatever the process calls itself; or there is none."""
    for flags in (["-p", "-f"], ["-p", "-f", "--mount-proc"]):
        done = shell("run", "cat", "{}", input="x", wrapper=namespace(*flags), code=0)
        assert done.stdout == "x"
    script = 'mount -t tmpfs none /proc && exec "$@"'
    wrapper = [*namespace("-m"), "sh", "-c", script, "sh"]
    done = shell("run", "--", "cat", "{}", wrapper=wrapper, code=125)
    assert done.stderr == (
        "memfd run: /proc is not there, or not that of this process\n"
    )


def test_the_installed_script_is_what_runs(shell):
    """--version is that of the package."""
    import memfd

    assert shell("--version", code=0).stdout == f"memfd {memfd.__version__}\n"
    for verb in ("ls", "show", "run", "demo"):
        out = shell(verb, "--help", code=0).stdout
        assert f"\nexamples:\n  memfd {verb}" in out or "| memfd run" in out


def test_nothing_is_left_open(shell):
    """The command gets its standard files and the memfds, and nothing else."""
    script = (
        "import os; print([int(n) for n in os.listdir('/proc/self/fd') if int(n) > 3])"
    )
    done = shell("run", "--", sys.executable, "-c", script, input="x", code=0)
    assert done.stdout == "[100]\n"
