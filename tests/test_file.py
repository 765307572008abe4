"""Memfd: the file that owns a descriptor."""

import errno
import gc
import io
import os
import pickle
import stat
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import memfd
from memfd import Memfd, Seal


def test_is_a_file_with_everything_a_file_has():
    """A Memfd is an io.FileIO: write, seek, read, truncate, context manager."""
    with memfd.create("log") as f:
        assert isinstance(f, io.FileIO)
        assert f.write(b"one\ntwo\n") == 8
        assert f.seek(0) == 0
        assert f.readlines() == [b"one\n", b"two\n"]
        assert f.tell() == 8
        assert f.truncate(3) == 3
        assert f.size == 3
        assert f.truncate() == 8
        assert f.name == "log"
    assert f.closed


def test_creation_is_careful():
    """By default: not inheritable, sealable, not executable, mode 0644, empty."""
    with memfd.create() as f:
        status = os.fstat(f.fileno())

        assert not os.get_inheritable(f.fileno())
        assert f.seals & ~Seal.EXEC == 0
        assert stat.S_IMODE(status.st_mode) == 0o644
        assert (status.st_size, status.st_nlink) == (0, 0)


def test_inheritable_and_not_sealable_and_executable():
    """Each option does what it says."""
    with memfd.create(inheritable=True) as f:
        assert os.get_inheritable(f.fileno())
    with memfd.create(sealable=False, size=10) as f:
        assert f.seals & Seal.SEAL
        with pytest.raises(PermissionError, match=r"Seal\.SEAL is set"):
            f.seal(Seal.GROW)
    with memfd.create(executable=True) as f:
        assert stat.S_IMODE(os.fstat(f.fileno()).st_mode) == 0o755
        assert f.seals == 0
        f.write(b"#!/bin/sh\necho it runs\n")
        with f.reopen() as reader:
            path = reader.path
            f.close()
            out = subprocess.run(
                [path], capture_output=True, pass_fds=[reader.fileno()]
            )
    assert out.stdout == b"it runs\n"


@pytest.mark.parametrize("hugetlb", ["2MB", 3, 4096, -1])
def test_bad_huge_page_size(hugetlb):
    """hugetlb takes sizes that exist."""
    with pytest.raises(ValueError, match=f"hugetlb must be .* got {hugetlb!r}"):
        memfd.create(hugetlb=hugetlb)


def test_hugetlb_size_must_fit():
    """A size that is no multiple of the huge page is EINVAL with a hint."""
    try:
        memfd.create(hugetlb=2 << 20).close()
    except OSError as error:
        pytest.skip(f"no huge pages of 2 MiB: {error}")
    with pytest.raises(OSError, match="no multiple of the huge page size"):
        memfd.create(size=4096, hugetlb=2 << 20)


def test_from_bytes_is_sealed_and_at_the_start():
    """from_bytes holds the data for ever; reading begins at 0."""
    with memfd.from_bytes(bytearray(b"data"), "d") as f:
        assert f.tell() == 0
        assert f.read() == b"data"
        assert f.seals & 0xF == Seal.IMMUTABLE | Seal.SEAL
        assert (f.name, f.size) == ("d", 4)


@pytest.mark.parametrize("data", [b"", bytes(1), bytes(range(256)) * 5000])
def test_from_bytes_of_any_size(data):
    """Nothing is lost or added at any size."""
    with memfd.from_bytes(data) as f:
        assert f.read() == data


@pytest.mark.parametrize("data", ["text", 7, None, [1, 2]])
def test_from_bytes_of_no_buffer(data):
    """What is no buffer is a TypeError, and no descriptor is left."""
    with pytest.raises(TypeError):
        memfd.from_bytes(data)


def test_immutable_means_refused_everywhere(f):
    """After seal no write, pwrite, truncate, writable map or re-open changes a byte."""
    f.write(b"fixed")
    f.seal()

    for change in (
        lambda: f.write(b"x"),
        lambda: os.pwrite(f.fileno(), b"x", 0),
        lambda: f.truncate(0),
        lambda: f.truncate(9000),
        lambda: memfd.Mapping(f, "r+"),
        lambda: f.mmap("r+"),
        lambda: open(f.path, "wb"),
        lambda: f.reopen("r+").write(b"x"),
        lambda: os.posix_fallocate(f.fileno(), 0, 10000),
        lambda: f.seal(Seal.FUTURE_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    assert os.pread(f.fileno(), 9, 0) == b"fixed\0\0\0\0"


def test_sealing_twice_is_no_error(f):
    """seal returns the seals; those that are there already are fine."""
    assert f.seal() == f.seal() == f.seals
    assert f.seal(Seal.WRITE) == f.seals


def test_writes_all_or_raises(f, run):
    """A write that does not fit raises; what fits is written, or nothing (Linux 7.3)."""
    f.seal(Seal.GROW)
    f.seek(8190)

    with pytest.raises(PermissionError):
        f.write(b"abcd")

    assert os.pread(f.fileno(), 4, 8190) in (b"ab", b"\0\0")


def test_write_takes_any_contiguous_buffer():
    """Buffers of other types count in bytes."""
    import array

    with memfd.create() as f:
        assert f.write(array.array("d", [1.0, 2.0])) == 16
        with pytest.raises(TypeError):
            f.write("text")


def test_shrinking_under_a_mapping_is_refused(f):
    """truncate never takes memory away under a live mapping of ours."""
    with memfd.Mapping(f) as m:
        with pytest.raises(BufferError, match="from 8192 to 100 bytes: mapped 1 times"):
            f.truncate(100)
        assert f.truncate(9000) == 9000
        assert bytes(m) == bytes(8192)
    with f.mmap():
        with pytest.raises(BufferError):
            f.truncate(0)
    assert f.truncate(100) == 100


@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (1 << 63, OverflowError)]
)
def test_truncate_to_nonsense(f, size, error):
    """A size that cannot be names itself."""
    with pytest.raises(error, match=str(size)):
        f.truncate(size)


@pytest.mark.parametrize(
    "use",
    [
        lambda f: f.size,
        lambda f: f.seals,
        lambda f: f.path,
        lambda f: f.seal(),
        lambda f: f.truncate(1),
        lambda f: f.read(),
        lambda f: f.write(b"x"),
        lambda f: f.reopen(),
        lambda f: f.mmap(),
        lambda f: memfd.Mapping(f),
        lambda f: f.fileno(),
        lambda f: memfd.get_seals(f),
    ],
)
def test_closed_file_is_a_value_error(use):
    """Everything on a closed Memfd is a ValueError."""
    f = memfd.create(size=1)
    f.close()
    f.close()

    with pytest.raises(ValueError, match="closed file"):
        use(f)


def test_repr_says_everything():
    """repr shows name, descriptor, size, seals; and works when closed."""
    f = memfd.create("a\nb", size=3 << 20)
    fd = f.fileno()
    f.seal(Seal.SHRINK)

    assert repr(f).startswith(
        f"<memfd.Memfd 'a\\nb' fd={fd} size=3145728 (3 MiB) seals=SHRINK"
    )
    f.close()
    assert repr(f) == "<memfd.Memfd 'a\\nb' closed>"
    assert "closed" in repr(Memfd.__new__(Memfd))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (5 << 40, "5 TiB"),
    ],
)
def test_readable_sizes(size, text):
    """Sizes read as people write them."""
    from memfd._file import readable

    assert readable(size) == text


def test_dropping_closes_silently():
    """A dropped Memfd closes its descriptor and warns nobody, also in a cycle."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = memfd.create()
        fd = f.fileno()
        del f
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        f = memfd.create()
        fd = f.fileno()
        f.me = f
        del f
        gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_exit_of_the_interpreter_is_silent(run):
    """Whatever is alive at exit, nothing is printed and nothing crashes."""
    out = run("""
        import memfd, sys
        keep = memfd.create(size=4096)
        sys.keep = memfd.Mapping(keep, "r+"), memoryview(memfd.Mapping(keep))
        cycle = [memfd.from_bytes(b"x")]
        cycle.append(cycle)
    """)
    assert out == ""


@pytest.mark.parametrize("arguments", [("name",), (3,), (), ("path", "w")])
def test_constructor_refuses(arguments):
    """Memfd() is not how one is made, and says what is."""
    with pytest.raises(TypeError, match=r"memfd\.create"):
        Memfd(*arguments)


def test_pickling_outside_of_multiprocessing(f):
    """pickle.dumps of a Memfd is a TypeError, as for any open file."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="Memfd can only be pickled"):
            pickle.dumps(f, protocol)


def test_reopen_has_its_own_offset_and_access(f):
    """reopen gives the same file with offset 0 and the mode asked for."""
    f.write(b"abc")

    with f.reopen() as reader, f.reopen("r+") as writer:
        assert reader.read(3) == b"abc"
        with pytest.raises(io.UnsupportedOperation):
            reader.write(b"x")
        writer.write(b"X")
        assert os.pread(f.fileno(), 3, 0) == b"Xbc"
        assert f.tell() == 3
        assert not os.get_inheritable(reader.fileno())
    with pytest.raises(ValueError, match="got 'w'"):
        f.reopen("w")


def test_path_in_a_child(f):
    """A child that was given the descriptor opens the same path."""
    f.write(b"for the child")
    child = subprocess.run(
        [sys.executable, "-c", f"print(open({f.path!r}).read(13))"],
        pass_fds=[f.fileno()],
        capture_output=True,
        text=True,
    )
    assert child.stdout == "for the child\n"


def test_other_users_cannot_reopen_for_writing(f, run):
    """Mode 0644: who was given a read-only descriptor cannot make it writable."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    with f.reopen() as reader:
        run(
            """
            import os, sys
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
            fd = int(sys.argv[1])
            try:
                os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            except PermissionError:
                print("refused")
            """,
            str(reader.fileno()),
            pass_fds=[reader.fileno()],
        )


def test_sealing_under_a_writable_mapping_of_another_process(f):
    """EBUSY names the process, no seal is added, and it works once that is gone."""
    program = """
import mmap, sys
m = mmap.mmap(int(sys.argv[1]), 8192)
print("mapped", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(f.fileno())],
        pass_fds=[f.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.readline() == b"mapped\n"
        # What is mapped here, but private, is not to blame.
        with f.mmap("r"), f.mmap("c"):
            with pytest.raises(OSError, match=f"writable by {child.pid}") as caught:
                f.seal()
        child.communicate()

    assert caught.value.errno == errno.EBUSY
    assert f.seals & Seal.IMMUTABLE == 0
    assert f.seal() & Seal.WRITE


def test_large_writes_in_threads_go_one_after_the_other():
    """Two writes at once end behind each other, whole, as with any file."""
    data = [bytes([number]) * (3 << 20) for number in (1, 2)]
    with memfd.create() as f, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(f.write, data)) == [3 << 20] * 2
        assert f.tell() == f.size == 6 << 20
        f.seek(0)
        assert sorted((f.read(3 << 20), f.read())) == data


def test_a_large_write_that_fails_leaves_the_position(f):
    """Where it was, as is the size; past 2**63 there is nothing to write to."""
    f.seal(Seal.GROW)
    f.seek(4096)
    with pytest.raises(PermissionError):
        f.write(bytes(4 << 20))
    assert f.tell() <= 8192
    with memfd.create() as g:
        g.seek(2**63 - 1)
        with pytest.raises(OSError, match=r"Invalid argument|File too large"):
            g.write(bytes(4 << 20))
        assert g.tell() == 2**63 - 1
