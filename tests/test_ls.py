"""`memfd ls` and memfd.ls(): every memfd on the machine, once."""

import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import memfd
from memfd import _listing, _table

# A process with a memfd of its own, which is what the first argument says.
HOLD = """
    import sys, memfd
    f = memfd.create(sys.argv[1], size=8192)
    f.write(bytes(100))
    print(f.fileno(), flush=True)
    sys.stdin.read()
"""
# The seals of a new memfd: none before Linux 6.3.
BORN = [seal.name for seal in memfd.create().seals]
# Names that would break a line, a terminal or the reader's trust.
HOSTILE = {
    "two\nlines": "two\\nlines",
    "\x1b[31mred": "\\u001b[31mred",
    "\u202egpj.exe": "\\u202egpj.exe",
    "back\\slash": "back\\\\slash",
    "\udcff": "\\xff",
    "עברית": "\\u05e2\\u05d1\\u05e8\\u05d9\\u05ea",
    "a\u0301": "a\\u0301",
    "a (deleted)": "a (deleted)",
    "/memfd:x (deleted)": "/memfd:x (deleted)",
    "": "",
    "données 日本": "données 日本",
    "  spaces ": "\\x20\\x20spaces\\x20",
    "\u3164\u2800": "\\u3164\\u2800",
}


def row_of(listing, name):
    """Return the one row of that name."""
    (row,) = [row for row in listing["memfds"] if row["name"] == name]
    return row


@pytest.fixture
def as_nobody(run):
    """Run `memfd` as another user, from modules that root has loaded."""
    if os.geteuid():
        pytest.skip("only root becomes another user")

    def as_nobody(*arguments, wrapper=(), code=0):
        return run(
            """
            import contextlib, ctypes, io, os, sys
            import memfd
            from memfd import __main__
            with contextlib.redirect_stdout(io.StringIO()):
                __main__.main(["ls", "--json"])
                __main__.main(["ls", str(os.getpid())])
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: /proc/self is its own
            f = memfd.create("own of nobody", size=4096)
            sys.exit(__main__.main(sys.argv[1:]))
            """,
            *arguments,
            wrapper=wrapper,
            code=code,
        )

    return as_nobody


def test_a_row(other, shell):
    """One memfd with two descriptors and a mapping in one process, one row."""
    process = other(
        """
        import os, sys, memfd
        f = memfd.create("of another process", size=3 << 12)
        f.write(bytes(5000))
        f.seal(memfd.Seal.GROW | memfd.Seal.SHRINK)
        again = os.open(f.path, os.O_RDONLY)
        path = os.open(f.path, os.O_PATH)
        shared = memfd.Mapping(f, "r+")
        print(f.fileno(), again, path, flush=True)
        sys.stdin.read()
        """
    )
    rw, r, path = map(int, process.said.split())
    listing = json.loads(shell("ls", "--json", process.pid, code=0).stdout)
    (row,) = listing["memfds"]
    status = os.stat(f"/proc/{process.pid}/fd/{rw}")

    assert row["name"] == "of another process"
    assert row["device"] == f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    assert (row["inode"], row["size"]) == (status.st_ino, 3 << 12)
    assert (row["memory"], row["huge"], row["page_size"]) == (2 << 12, 0, 1 << 12)
    assert row["seals"] == ["SHRINK", "GROW", *BORN]
    assert (row["mode"], row["uid"]) == ("0644", os.geteuid())
    assert row["path"] in (f"/proc/{process.pid}/fd/{n}" for n in (rw, r))
    (holder,) = row["holders"]
    assert holder["pid"] == process.pid
    assert (
        holder["command"] == pathlib.Path(f"/proc/{process.pid}/comm").read_text()[:-1]
    )
    access = {one["fd"]: one["access"] for one in holder["descriptors"]}
    assert access == {rw: "rw", r: "r", path: "path"}
    (mapping,) = holder["mappings"]
    assert (mapping["size"], mapping["offset"]) == (3 << 12, 0)
    assert mapping["access"] == "rw-s"
    assert listing["totals"] == {
        "memfds": 1,
        "size": 3 << 12,
        "memory": 8192,
        "huge": 0,
    }
    assert listing["processes"]["read"] >= 2
    with open(row["path"], "rb") as file:
        assert len(file.read()) == 3 << 12


def test_it_is_what_the_function_returns(other, shell):
    """The command prints what memfd.ls() returns, key by key."""
    process = other(HOLD, "one")
    printed = json.loads(shell("ls", "--json", process.pid, code=0).stdout)
    returned = memfd.ls([process.pid])
    for key in ("memfds", "totals"):
        assert printed[key] == returned[key]
    assert set(returned) == set(printed) == set(_listing.Listing.__annotations__)
    (row,) = returned["memfds"]
    assert set(row) == set(_listing.Row.__annotations__)


def test_all_who_have_it(other, f):
    """A memfd in two processes is one row with two holders, also if one is asked for."""
    f.write(b"x")
    process = other(
        "import sys; print(1, flush=True); sys.stdin.read()", pass_fds=[f.fileno()]
    )
    for pids in (None, [process.pid], [os.getpid()], [process.pid, os.getpid()]):
        (row,) = [
            row
            for row in memfd.ls(pids)["memfds"]
            if row["inode"] == os.fstat(f.fileno()).st_ino
        ]
        assert [holder["pid"] for holder in row["holders"]] == sorted(
            [process.pid, os.getpid()]
        )


def test_mapped_and_closed(other):
    """A memfd of which nobody has a descriptor any more is found in the mappings."""
    process = other(
        r"""
        import sys, memfd
        for number in range(2):
            f = memfd.create(f"closed\n{number}", size=1 << 20)
            f.write(bytes(4096))
            keep = memfd.Mapping(f, "r+"), globals().get("keep")
            f.close()
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    rows = sorted(memfd.ls([process.pid])["memfds"], key=lambda row: row["name"])
    assert [row["name"] for row in rows] == ["closed\n0", "closed\n1"]
    for row in rows:
        ((holder,),) = [row["holders"]]
        assert holder["descriptors"] == []
        assert [one["access"] for one in holder["mappings"]] == ["rw-s"]
        if row["path"] is None:  # it takes a privilege to follow a mapping
            assert row["size"] is row["memory"] is row["uid"] is row["seals"] is None
        else:
            assert row["path"].startswith(f"/proc/{process.pid}/map_files/")
            assert (row["size"], row["memory"]) == (1 << 20, 4096)
            assert row["seals"] == BORN


@pytest.mark.usefixtures("huge_page")
def test_hugetlb(other):
    """All of a hugetlb memfd is in huge pages, of which it says the size."""
    process = other(
        """
        import sys, memfd
        f = memfd.create("from the pool", hugetlb=2 << 20, size=2 << 20)
        mapped = memfd.Mapping(f, "r+")
        memoryview(mapped)[0] = 1
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    (row,) = memfd.ls([process.pid])["memfds"]
    assert row["name"] == "from the pool"
    assert row["size"] == row["memory"] == row["huge"] == row["page_size"] == 2 << 20


def test_huge_pages(other):
    """What one process maps in huge pages counts; where nobody does, that is not known."""
    np = pytest.importorskip("numpy")
    array = memfd.share(np.ones(1 << 20), huge="always", name="in huge pages")
    if not array.memfd.info().huge:
        pytest.skip("no huge pages to be had here")
    array.sum()  # mapped page by page, or page by huge page, as it is touched
    row = row_of(memfd.ls([os.getpid()]), "in huge pages")
    assert 2 << 20 <= row["huge"] <= row["memory"]
    f = array.memfd.reopen("r")
    del array
    assert row_of(memfd.ls([os.getpid()]), "in huge pages")["huge"] is None
    f.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(shell, name):
    """The name is exact as data, and harmless on a terminal."""
    with memfd.create(name) as f:
        inode = os.fstat(f.fileno()).st_ino
        listing = json.loads(shell("ls", "--json", os.getpid(), code=0).stdout)
        (row,) = [row for row in listing["memfds"] if row["inode"] == inode]
        assert row["name"] == name
        out = shell("ls", os.getpid(), code=0).stdout
        (line,) = [line for line in out.split("\n") if line.split()[:1] == [str(inode)]]
        assert line.endswith(f"/fd/{f.fileno()}  {HOSTILE[name]}".rstrip())
    assert _table.escaped(name) == HOSTILE[name]


def test_commands_that_look_like_columns(other, shell):
    """What could be taken for several words stands in quotation marks."""
    process = other(
        """
        import ctypes, sys, memfd
        ctypes.CDLL(None).prctl(15, b"x, 1 systemd  f")
        f = memfd.create("f")
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    for options in ([], ["--long"]):
        out = shell("ls", *options, process.pid, code=0).stdout
        assert f'{process.pid} "x, 1 systemd  f"' in out


def test_hostile_commands(other, shell):
    """What a process calls itself is escaped, too."""
    process = other(
        """
        import ctypes, sys, memfd
        ctypes.CDLL(None).prctl(15, b"\\x1b[2J\\nroot")  # PR_SET_NAME
        f = memfd.create("f")
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    out = shell("ls", process.pid, code=0).stdout
    assert f'{process.pid} "\\u001b[2J\\nroot"' in out
    assert "\x1b" not in out


def test_a_name_that_looks_like_a_line(other):
    """A carriage return in a name begins no new line of what maps says."""
    process = other(
        """
        import sys, memfd
        name = "x\\r1000-2000 rw-s 00000000 00:01 4711 /memfd:forged (deleted)"
        f = memfd.create(name, size=4096)
        mapped = memfd.Mapping(f, "r+")
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    (row,) = memfd.ls([process.pid])["memfds"]
    assert row["name"].startswith("x\r1000-2000 ")
    assert len(row["holders"][0]["mappings"]) == 1


def test_names_in_ascii(shell):
    """A terminal that knows no letters beyond ASCII gets escapes, and no error."""
    with memfd.create("données"):
        env = os.environ | {"PYTHONIOENCODING": "ascii"}
        out = shell("ls", os.getpid(), env=env, code=0).stdout
    assert "donn\\u00e9es\n" in out


def test_a_file_that_looks_like_one(tmp_path, shell, namespace):
    """A file with a path is none, whatever the path is."""
    wrapper = namespace("-m", "--propagation", "private")
    program = """
        mount -t tmpfs none "$0" && cd "$0" && exec 9<>memfd:x && rm memfd:x || exit 9
        mkdir old && mount --bind . . && exec "$@"
    """
    done = shell(
        "ls", "--json", wrapper=[*wrapper, "sh", "-c", program, tmp_path], code=0
    )
    for row in json.loads(done.stdout)["memfds"]:
        assert row["name"] != "x"


def test_a_file_of_another_namespace(shell, namespace):
    """Nor is one a memfd whose file system nobody here has mounted."""
    script = """
        mount -t tmpfs none /mnt && cd /mnt || exit
        exec 8<>"/mnt/memfd:lit (deleted)" 9<>/mnt/memfd:fake
        rm memfd:fake && cd / && umount -l /mnt || exit
        echo ready
        cat
    """
    process = subprocess.Popen(
        [*namespace("-m"), "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        out = shell("ls", "--json", process.pid, code=0).stdout
        assert json.loads(out)["memfds"] == []
    finally:
        process.communicate()


def test_a_process_whose_first_thread_has_ended(other):
    """What its other threads have is found through one of them."""
    process = other(
        """
        import ctypes, sys, threading, memfd
        f = memfd.create("of a thread", size=4096)
        def wait():
            print(1, flush=True)
            sys.stdin.read()
        threading.Thread(target=wait).start()
        ctypes.CDLL(None).syscall(60 if sys.maxsize > 1 << 32 else 1, 0)
        """
    )
    if not pathlib.Path(f"/proc/{process.pid}/status").read_text().count("Z (zombie)"):
        time.sleep(0.2)
    row = row_of(memfd.ls([process.pid]), "of a thread")
    assert row["size"] == 4096
    assert row["seals"] == BORN


def test_a_split_mapping(run):
    """Huge pages are counted in all parts of a mapping, each once."""
    out = run(
        """
        import ctypes, os, memfd
        f = memfd.from_bytes(bytes(8 << 20), "split", huge="always")
        wanted = f.info().huge
        mappings = [memfd.Mapping(f), memfd.Mapping(f)]
        for mapping in mappings:
            sum(memoryview(mapping)[::4096])
        libc = ctypes.CDLL(None, use_errno=True)
        for offset in range(0, 8 << 20, 4 << 20):
            address = ctypes.c_void_p(mappings[0].address + offset)
            assert libc.mprotect(address, ctypes.c_size_t(2 << 20), 1) == 0
        (row,) = memfd.ls([os.getpid()], name="split")["memfds"]
        print(wanted or 0, row["huge"])  # None before Linux 5.14
        """
    )
    wanted, found = map(int, out.split())
    if not wanted:
        pytest.skip("no huge pages to be had here")
    assert found == wanted


def test_what_is_missing_is_said(run, shell, namespace):
    """Without descriptors, or without /proc, there is an error and no empty list."""
    run(
        """
        import errno, os, memfd
        memfd.ls()
        fds = []
        try:
            while True:
                fds.append(os.dup(0))
        except OSError:
            pass
        for free in range(3):
            try:
                memfd.ls()
            except OSError as error:
                assert error.errno == errno.EMFILE
            else:
                assert free
            os.close(fds.pop())
        """,
        wrapper=["prlimit", "--nofile=64"],
    )
    script = 'mount -t tmpfs none /proc && exec "$@"'
    wrapper = [*namespace("-m"), "sh", "-c", script, "sh"]
    done = shell("ls", wrapper=wrapper, code=1)
    assert re.fullmatch(r"memfd ls: .*\n", done.stderr)
    assert done.stdout == ""


def test_order_and_filters(other, shell):
    """--sort, --reverse, --name and --user, alone and together."""
    process = other(
        """
        import sys, memfd
        files = []
        for number, size in enumerate((2, 3, 1)):
            f = memfd.create(f"frame {number}", size=4096 * size)
            f.write(bytes(4096 * (number + 1) if number < 2 else 1))
            files.append(f)
        files.append(memfd.create("else"))
        print(1, flush=True)
        sys.stdin.read()
        """
    )

    def names(*options):
        out = shell("ls", "--json", process.pid, *options, code=0).stdout
        return [row["name"][-1] for row in json.loads(out)["memfds"]]

    assert names("--name", "frame*") == ["1", "0", "2"]
    assert names("--name", "frame ?", "--sort", "size") == ["1", "0", "2"]
    assert names("--sort", "name") == ["e", "0", "1", "2"]
    assert names("--sort", "name", "--reverse") == ["2", "1", "0", "e"]
    assert names("--name", "frame") == []
    assert len(names("--user", os.geteuid())) == 4
    assert names("--user", "65533") == []
    for sort in ("huge", "holders", "user", "inode"):
        assert len(names("--sort", sort)) == 4
    done = shell("ls", "--user", "no such user", code=1)
    assert done.stderr == "memfd ls: no user 'no such user'\n"


def test_the_table(other, shell):
    """Aligned, the name last, then the sums; --long says more, --bytes exactly."""
    process = other(HOLD, "one")
    out = shell("ls", process.pid, code=0).stdout
    head, row, totals, *_ = out.splitlines()
    assert head.split() == [
        "INODE", "SIZE", "MEMORY", "HUGE", "SEALS", "USER", "HOLDERS", "PATH", "NAME",
    ]  # fmt: skip
    assert row.index("one") == head.index("NAME")
    assert re.search(r" 8 KiB +4 KiB +0 B +----[x-]- ", row)
    assert totals == "memfds: 1, memory: 4 KiB, in huge pages: 0 B"
    assert "\x1b" not in out
    out = shell("ls", "-l", "-b", process.pid, code=0).stdout
    assert re.search(r" 8192 +4096 +0 +----[x-]- ", out)
    assert f"    seals: {' '.join(BORN) or 'none'}\n" in out
    assert re.search(rf"\n    {process.pid} python\S*; fd {process.said} rw\n", out)
    assert shell("ls", "--name", "no such name", code=0).stdout.startswith("INODE")


def on_terminal(columns, *arguments, **environment):
    """Return what `memfd` prints on a terminal of that width."""
    end, theirs = pty.openpty()
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = os.environ | {"TERM": "xterm"} | environment
    for name in ("COLUMNS", "NO_COLOR"):
        env.pop(name, None) if name not in environment else None
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "memfd", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        cwd="/",
    )
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(end, 4096):
            found += piece
    except OSError:  # EIO: the other end is closed
        pass
    os.close(end)
    assert process.wait() == 0
    return found.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 300])
def test_terminals(other, columns):
    """No line is wider than the terminal; columns go and names are cut until it fits."""
    process = other(
        HOLD, "a name that is longer than many terminals are wide 日本 " * 3
    )
    out = on_terminal(columns, "ls", process.pid)
    assert out.startswith("\x1b[1m")  # heads are bold
    out = re.sub(r"\x1b\[\d*m", "", out)
    head, row, *_ = out.splitlines()
    for line in (head, row):
        assert sum(_table._cells(character) for character in line) <= columns
    assert "NAME" in head
    assert "MEMORY" in head
    assert ("PATH" in head) == (columns >= 120)
    assert row.endswith("…") == (columns < 300)
    long = re.sub(r"\x1b\[\d*m", "", on_terminal(columns, "ls", "--long", process.pid))
    for line in long.splitlines()[2:-2]:
        assert len(line) <= columns


def test_no_colour(other):
    """NO_COLOR and dumb terminals are respected."""
    process = other(HOLD, "one")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal(80, "ls", process.pid, **environment)


def test_watch(other, shell):
    """--watch lists again and again until Ctrl-C, which is no error message."""
    process = other(HOLD, "one")
    script = [sys.executable, "-P", "-m", "memfd", "ls", "--watch", "--interval", "0.1"]
    for options in ([], ["--json"]):
        watching = subprocess.Popen(
            [*script, *options, str(process.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        seen = [watching.stdout.readline() for _ in range(8)]
        if options:  # a line for each time
            assert [json.loads(line)["totals"]["memfds"] for line in seen] == [1] * 8
        else:
            assert sum(line.startswith("memfds: 1,") for line in seen) >= 2 - (
                "not readable" in "".join(seen)
            )
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate()
        assert (watching.returncode, errors) == (130, "")
    for seconds in ("0", "x", "1e9"):
        assert shell("ls", "--interval", seconds, code=2).stderr.count("\n") == 1


def test_of_another_user(as_nobody, other):
    """Who may not read a process sees its own, and how many it could not read."""
    process = other(HOLD, "of root")
    listing = json.loads(as_nobody("ls", "--json"))
    names = [row["name"] for row in listing["memfds"]]
    assert "own of nobody" in names
    assert "of root" not in names
    assert listing["processes"]["unreadable"] >= 1
    row = row_of(listing, "own of nobody")
    assert (row["uid"], row["seals"]) == (65534, BORN)
    out = as_nobody("ls")
    assert re.search(r"^processes read: \d+, not readable: \d+ \(root", out, re.M)
    as_nobody("ls", str(process.pid), code=1)


def test_hidden_processes(as_nobody, namespace):
    """Where /proc hides the processes of others, it says so."""
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    wrapper = [*namespace("-m"), "sh", "-c", mount, "sh"]
    out = as_nobody("ls", wrapper=wrapper)
    assert "own of nobody" in out
    assert out.endswith("/proc hides processes of other users here (hidepid)\n")
    assert json.loads(as_nobody("ls", "--json", wrapper=wrapper))["processes"]["hidden"]
    assert not memfd.ls()["processes"]["hidden"]


def test_closed_processes(as_nobody, namespace):
    """With hidepid=1 the processes of others are seen, and counted as not readable."""
    mount = 'mount -t proc -o hidepid=1 proc /proc && exec "$@"'
    wrapper = [*namespace("-m"), "sh", "-c", mount, "sh"]
    listing = json.loads(as_nobody("ls", "--json", wrapper=wrapper))
    assert listing["processes"]["unreadable"] >= 1


def test_processes_that_vanish(shell):
    """A process that ends while it is read is no error."""
    program = """
        import os, memfd
        parent = os.getppid()
        print("at work", flush=True)
        while os.getppid() == parent:
            pid = os.fork()
            if not pid:
                files = [memfd.create("soon gone", size=4096) for _ in range(20)]
                mapped = [memfd.Mapping(f) for f in files]
                os._exit(0)
            os.waitpid(pid, 0)
    """
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd="/",
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for peer in peers:
            assert peer.stdout.readline() == b"at work\n"
        # On a busy machine few of them live while their turn comes.
        deadline = time.monotonic() + 60
        found = 0
        while found <= 100 and time.monotonic() < deadline:
            found += len(memfd.ls(name="soon gone")["memfds"])
        assert found
        for _ in range(5):
            assert shell("ls", "--long", code=0).stderr == ""
    finally:
        for peer in peers:
            peer.kill()
            peer.communicate()


@pytest.mark.parametrize("denied", [False, True, "no list of leases"])
def test_leases_are_not_broken(shell, strace, namespace, denied):
    """Whoever is told when its file is opened is not told, and goes on undisturbed."""
    signals = []
    before = signal.signal(signal.SIGIO, lambda *_: signals.append(1))
    with memfd.create("leased", size=4096) as f, f.reopen("r+") as own:
        f.close()
        try:
            fcntl.fcntl(own, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            wrapper = strace("pidfd_getfd:error=EPERM") if denied else ()
            if denied == "no list of leases":
                mount = 'mount -t proc -o subset=pid proc /proc && exec "$@"'
                wrapper = [*namespace("-m"), "sh", "-c", mount, "sh", *wrapper]
            for verb in (
                ("ls", "--json", os.getpid()),
                ("show", f"{os.getpid()}:{own.fileno()}"),
            ):
                done = shell(*verb, wrapper=wrapper, code=0)
                if verb[0] == "ls":
                    row = row_of(json.loads(done.stdout), "leased")
                    assert row["seals"] == (None if denied else BORN)
                else:
                    assert ("may not be read" in done.stdout) == bool(denied)
            time.sleep(0.05)
            assert signals == []
            assert fcntl.fcntl(own, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        finally:
            signal.signal(signal.SIGIO, before)


def test_without_pidfd_getfd(other, shell, strace):
    """Before Linux 5.6, and where tracing is forbidden, seals are learnt by opening."""
    process = other(HOLD, "one")
    for error in ("ENOSYS", "EPERM"):
        wrapper = strace(f"pidfd_getfd:error={error}")
        done = shell("ls", "--json", process.pid, wrapper=wrapper, code=0)
        assert row_of(json.loads(done.stdout), "one")["seals"] == BORN


def test_a_pool_is_not_disturbed(run):
    """While memfds are listed all the time, a pool never has to go beyond three blocks."""
    pytest.importorskip("numpy")
    out = run(
        """
        import subprocess, sys, numpy as np, memfd
        code = "import memfd\\nprint(flush=True)\\nwhile True: memfd.ls()"
        lister = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        lister.stdout.readline()
        frame = np.arange(50_000)
        with memfd.BufferPool(max_blocks=8, when_full="wait", timeout=20) as pool:
            for number in range(3000):
                frame[0] = number
                array = pool.put(frame)
                assert array[0] == number and (array[1:] == frame[1:]).all()
                del array
            print(pool.stats().blocks)
        lister.kill()
        lister.communicate()
        """
    )
    assert 1 <= int(out) <= 3


def test_many(run):
    """10,000 memfds in 100 processes, each of which is one row."""
    out = run(
        """
        import collections, os, signal, memfd
        me = os.getpid()
        here, there = os.pipe()
        pids = []
        for number in range(100):
            pid = os.fork()
            if not pid:
                files = [memfd.create(f"many {me} {number}") for _ in range(100)]
                os.write(there, b"x")
                signal.pause()
            pids.append(pid)
        try:
            got = 0
            while got < len(pids):
                got += len(os.read(here, 1000))
            rows = memfd.ls(name=f"many {me} *")["memfds"]
            print(len(rows), len({row["inode"] for row in rows}))
            print(set(collections.Counter(row["name"] for row in rows).values()))
            print({tuple(row["seals"]) for row in rows})
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        """
    )
    assert out == f"10000 10000\n{{100}}\n{ {tuple(BORN)} }\n"


def test_its_memory_is_what_the_machine_lost(run):
    """1 GiB that is shared: the totals grow as Shmem in /proc/meminfo does."""
    pytest.importorskip("numpy")
    out = run(
        """
        import fcntl, os, re, numpy as np, memfd

        def shmem():
            meminfo.seek(0)
            return int(re.search(r"^Shmem: +([0-9]+)", meminfo.read(), re.M)[1]) << 10

        def listed():
            return memfd.ls([os.getpid()])["totals"]["memory"]

        data = np.ones(1 << 27)
        with open("/proc/meminfo") as meminfo:
            # Another run of this test, on the same machine, waits.
            fcntl.flock(meminfo, fcntl.LOCK_EX)
            for _ in range(20):  # until nobody else has made or dropped as much
                before = shmem(), listed()
                array = memfd.share(data)
                grown, told = shmem() - before[0], listed() - before[1]
                assert array.memfd.size <= told <= array.memfd.size + (4 << 20)
                if abs(grown - told) < 64 << 20:
                    print("the same")
                    break
                del array
            else:
                print(grown, told)
        """
    )
    assert out == "the same\n"


def test_refusals(shell):
    """Bad input: one line on standard error, and the status that goes with it."""
    done = shell("ls", "4194304", code=1)  # no kernel gives such a pid
    assert done.stderr == "memfd ls: no process 4194304\n"
    with pytest.raises(ProcessLookupError, match="no process 4194304"):
        memfd.ls([4194304])
    for arguments in (["x"], ["0"], ["-1"], ["--sort", "colour"], ["--nonsense"]):
        done = shell("ls", *arguments, code=2)
        assert re.fullmatch(r"memfd ls: error: .+\n", done.stderr), done.stderr
        assert done.stdout == ""


def test_closed_and_full_output(shell):
    """Output that nobody reads, or that cannot be written, is no traceback."""
    script = 'exec "$@" >&-'
    done = shell("ls", wrapper=["sh", "-c", script, "sh"], code=1)
    assert done.stderr == "memfd ls: standard output is closed\n"
    done = shell("ls", wrapper=["sh", "-c", 'exec "$@" >/dev/full', "sh"], code=1)
    assert done.stderr == "memfd ls: No space left on device\n"
    full = ["sh", "-c", 'exec "$@" >/dev/full', "sh"]
    for arguments in (["ls", "--json"], ["--help"], ["run", "--help"], ["--version"]):
        done = shell(*arguments, wrapper=full, code=1)
        assert re.fullmatch(r"memfd( ls)?: No space left on device\n", done.stderr)
    pipe = '"$@" | true; exit ${PIPESTATUS[0]}'
    done = shell("ls", "-wi", "0.1", wrapper=["bash", "-c", pipe, "sh"], code=1)
    assert done.stderr == ""
