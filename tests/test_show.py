"""`memfd show`: one memfd in full."""

import os
import re
import subprocess
import sys

import pytest

import memfd


def fields(out):
    """Return the lines that begin with a key."""
    found = {}
    for line in out.splitlines():
        key, value = line[:10].rstrip(), line[11:]
        if key and not key.startswith("0000"):
            found[key] = value
    return found


@pytest.mark.parametrize("how", ["path", "pid:fd", "inode", "proc/self"])
def test_ways_to_name_it(shell, how):
    """A path, a process and descriptor, or the inode that memfd ls shows."""
    with memfd.from_bytes(b"abc", "greeting") as f:
        inode = os.fstat(f.fileno()).st_ino
        target = {
            "path": f"/proc/{os.getpid()}/fd/{f.fileno()}",
            "pid:fd": f"{os.getpid()}:{f.fileno()}",
            "inode": inode,
            "proc/self": f.path,  # as the command has it
        }[how]
        inherited = [f.fileno()] if how == "proc/self" else []
        done = shell("show", target, code=0, pass_fds=inherited)
        found = fields(done.stdout)
        assert done.stderr == ""
    assert found["name"] == "greeting"
    assert found["inode"] == f"{inode} on device 0:1"
    assert (found["size"], found["memory"]) == ("3 B", "4 KiB (4096 bytes)")
    assert found["huge pages"] == "0 B"
    # EXEC is of Linux 6.3.
    assert found["seals"].removesuffix(" EXEC") == "SEAL SHRINK GROW WRITE"
    assert found["mode"] == "0644"
    assert found["owner"].endswith(f" ({os.geteuid()})")
    # It is a holder itself where it has inherited the memfd.
    assert re.search(
        rf"^.{{11}}{os.getpid()} \S+; fd \d+ rw$", done.stdout, re.MULTILINE
    )
    assert found["contents"] == "bytes"


class Bomb:
    """What unpickling it does."""

    def __reduce__(self):
        return print, ("it was unpickled",)


def test_what_it_holds(shell):
    """Of arrays dtype and shape, of an object its pieces; nothing is unpickled."""
    np = pytest.importorskip("numpy")

    def contents(f):
        out = shell("show", f"{os.getpid()}:{f.fileno()}", code=0).stdout
        assert "it was unpickled" not in out
        return out.partition("\ncontents   ")[2]

    array = memfd.share(np.zeros((2, 3), "f4"))
    assert contents(array.memfd) == ".npy array of <f4, shape (2, 3), at 128\n"
    records = memfd.share(np.zeros(3, [("a", "i4"), ("\x1b", "M8[s]")]))
    text = contents(records.memfd)
    assert text.startswith(
        ".npy array of [('a', '<i4'), ('\\\\x1b', '<M8[s]')], shape (3), at"
    )
    many = memfd.share({"x": np.arange(3), "y\n": np.zeros((2, 2), "f4")})
    first, head, x, y = contents(many.memfd).splitlines()
    assert first == "safetensors file, arrays: 2"
    assert head.split() == ["DTYPE", "SHAPE", "OFFSET", "SIZE", "NAME"]
    assert x.split()[:2] == ["I64", "[3]"]
    assert y.split()[:2] == ["F32", "[2,2]"]
    assert y.endswith("16 B  y\\n")
    obj = memfd.dump([Bomb(), np.ones(100)])
    first, buffer = contents(obj).splitlines()
    assert re.fullmatch(r"Python object: a pickle of .+, buffers: 1", first)
    assert re.fullmatch(r" +800 B at \d+", buffer)


def test_damaged_contents(shell):
    """What begins like an array and is none says so; it is one line."""
    pytest.importorskip("numpy")
    for data in (
        b"\x93NUMPY\1\0\xff\xff",
        b"\x93NUMPY\1\0\x0a\0{'de\x1b[1m'",
        # An invalid escape, about which Python warns with the line as it is.
        b"\x93NUMPY\1\0\x40\0{'descr':'\\\x1b]0;x','fortran_order':False,'shape':(2,)}"
        + b" " * 20,
    ):
        with memfd.from_bytes(data) as f:
            done = shell("show", f"{os.getpid()}:{f.fileno()}", code=0)
        assert fields(done.stdout)["contents"].startswith("damaged: ")
        assert "\x1b" not in done.stdout
        assert done.stderr == ""


def test_hexdump(shell):
    """The first bytes, as hexdump -C writes them; more only when asked for."""
    data = bytes(range(256)) * 2
    with memfd.from_bytes(data) as f:
        target = f"{os.getpid()}:{f.fileno()}"
        out = shell("show", target, "--hexdump", code=0).stdout
        dump = out.partition("\n\n")[2].splitlines()
        assert len(dump) == 17
        assert dump[4] == (
            "00000040  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  "
            "|@ABCDEFGHIJKLMNO|"
        )
        assert dump[-1] == "00000100"
        out = shell("show", "--hexdump", "--count", "20", target, code=0).stdout
        dump = out.partition("\n\n")[2].splitlines()
        assert dump[1].split() == ["00000010", "10", "11", "12", "13", "|....|"]
        assert dump[2] == "00000014"
        out = shell("show", "-xc1M", target, code=0).stdout
        assert out.endswith("\n00000200\n")
        out = shell("show", "-x", "--count", "99999999T", target, code=0).stdout
        assert out.endswith("\n00000200\n")


def test_it_reads_and_maps_nothing(shell, strace, tmp_path):
    """No mapping of the memfd, and none of its pages made: a hole stays one."""
    log = tmp_path / "calls"
    with memfd.create("sparse", size=64 << 20) as f:
        wrapper = [*strace("none")[:2], "-y", "-o", log, "-e", "trace=mmap,lseek"]
        shell(
            "show", "--hexdump", f"{os.getpid()}:{f.fileno()}", wrapper=wrapper, code=0
        )
        assert f.info().resident == 0
        assert f.tell() == 0
    assert "memfd:sparse" not in log.read_text()


def test_a_writer_goes_on(shell):
    """A memfd that is open for writing only is opened again to be read, if it may be."""
    with memfd.create("log", size=4096) as f:
        fd = os.open(f.path, os.O_WRONLY)
        f.close()
        try:
            out = shell("show", f"{os.getpid()}:{fd}", code=0).stdout
        finally:
            os.close(fd)
    assert fields(out)["holders"].endswith(f"; fd {fd} w")
    assert fields(out)["contents"] == "bytes"


def test_refusals(shell, tmp_path):
    """What is no memfd, not there, or not permitted: one line, and status 1."""
    ordinary = tmp_path / "file"
    ordinary.write_text("x")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for target, message in (
        (ordinary, f"{ordinary} is no memfd that is seen"),
        (tmp_path / "none", f"no file {tmp_path / 'none'}"),
        (f"{gone.pid}:1", f"no process {gone.pid}"),
        (f"{os.getpid()}:9999", f"process {os.getpid()} has no descriptor 9999"),
        ("18446744073709551615", "inode 18446744073709551615 is no memfd that is seen"),
        ("no\nsuch", "no file no\\nsuch"),
    ):
        done = shell("show", target, code=1)
        said = re.sub(r" \(processes read: .*\)$", "", done.stderr.removesuffix("\n"))
        assert said == f"memfd show: {message}"
        assert done.stdout == ""
    done = shell("show", code=2)
    assert re.fullmatch(r"memfd show: error: .+\n", done.stderr)
    for size in ("x", "0"):
        assert shell("show", "1", "--count", size, code=2).stderr.count("\n") == 1


def test_without_numpy(run):
    """The header of a .npy file is text, which is shown where NumPy is not there."""
    out = run(
        r"""
        import os, sys
        sys.modules["numpy"] = None
        import memfd
        from memfd import __main__
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
        header = b"\x93NUMPY\1\0" + bytes([118, 0]) + header.ljust(117) + b"\n"
        f = memfd.from_bytes(header + bytes(12))
        sys.exit(__main__.main(["show", f"{os.getpid()}:{f.fileno()}"]))
        """
    )
    assert "\ncontents   .npy array {'descr': '<f4', 'fortran_order': False, " in out
