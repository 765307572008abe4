"""A position of our own, where others share that of a file."""

import contextlib
import fcntl
import io
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from memfd import Memfd


@pytest.fixture
def foreign(f):
    """A descriptor of a sealed memfd that somebody else left at offset 5."""
    f.write(b"foreign data")
    f.seek(0)
    f.truncate(12)
    f.seal()
    fd = os.dup(f.fileno())
    os.lseek(fd, 5, os.SEEK_SET)
    yield fd
    with contextlib.suppress(OSError):
        os.close(fd)


READS = pytest.mark.parametrize(
    ("read", "answer"),
    [
        (lambda a: a.read(), b"foreign data"),
        (lambda a: a.readall(), b"foreign data"),
        (lambda a: a.read(3), b"for"),
        (lambda a: a.read(3) + a.read(3) + a.read(), b"foreign data"),
        (lambda a: a.readinto(bytearray(4)), 4),
        (lambda a: (a.read(8), a.readinto(bytearray(20))), (b"foreign ", 4)),
        (lambda a: a.tell(), 0),
        (lambda a: (a.seek(1, os.SEEK_CUR), a.seek(1, os.SEEK_CUR)), (1, 2)),
        (lambda a: (a.seek(-4, os.SEEK_END), a.tell(), a.read()), (8, 8, b"data")),
        (lambda a: (a.seek(20), a.read(), a.read(1)), (20, b"", b"")),
        (lambda a: a.readline(), b"foreign data"),
        (lambda a: list(a), [b"foreign data"]),
        (lambda a: io.BufferedReader(a).peek(), b"foreign data"),
    ],
)


@READS
def test_adopted_reads_from_zero_and_shares_no_offset(foreign, f, read, answer):
    """Reading begins at 0 and moves nobody else's position."""
    f.seek(5)

    with Memfd.from_fd(foreign) as adopted:
        answered = read(adopted)
        assert answered == answer

    assert f.tell() == 5


@pytest.fixture
def leased(foreign, f):
    """The same, which nobody can open again, root neither: opening waits for a lease."""
    fd = os.open(f.path, os.O_RDONLY)
    os.close(foreign)
    f.close()
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield fd
    os.close(fd)
    signal.signal(signal.SIGIO, before)


@READS
def test_a_position_of_its_own_where_it_cannot_be_opened_again(
    leased, read, answer, has_cachestat
):
    """Whoever shares the position, and moves it, is not noticed either."""
    # Nor can it be told whether there are holes, before Linux 6.5.
    with Memfd.from_fd(os.dup(leased), dense=has_cachestat) as adopted:
        os.lseek(leased, 5, os.SEEK_SET)
        assert read(adopted) == answer

    assert os.lseek(leased, 0, os.SEEK_CUR) == 5


def test_a_position_of_its_own_stays(run):
    """Where there was no descriptor left for a moment, reading goes on where it was."""
    run("""
        import os, resource
        import memfd
        sent = memfd.from_bytes(b"0123456789")
        f = memfd.Memfd.from_fd(os.dup(sent.fileno()))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (f.fileno() + 1, hard))
        assert f.read(4) == b"0123"
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (f.read(2), f.tell()) == (b"45", 6)
    """)


def test_a_child_has_a_position_of_its_own(run):
    """Also where a thread was reading when it was forked."""
    run("""
        import os, signal
        import memfd
        from memfd import _position
        sent = memfd.from_bytes(b"0123456789")
        f = memfd.Memfd.from_fd(os.dup(sent.fileno()))
        f._foreign = "for ever"
        with _position._moving:
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                import threading
                thread = threading.Thread(target=f.read, args=(4,))
                thread.start()
                thread.join()
                os._exit(f.read(4) != b"4567")
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_bad_positions_where_it_cannot_be_opened_again(leased, has_cachestat):
    """There is nothing before the beginning, and the other kinds of seek are refused."""
    with Memfd.from_fd(os.dup(leased), dense=has_cachestat) as adopted:
        adopted.seek(3)
        with pytest.raises(OSError, match="Invalid argument"):
            adopted.seek(-4, os.SEEK_CUR)
        with pytest.raises(OSError, match="Invalid argument"):
            adopted.seek(0, os.SEEK_DATA)
        with pytest.raises(OverflowError):
            adopted.seek(2**63)
        with pytest.raises(OSError, match="Invalid argument"):
            adopted.seek(2**63 - 1, os.SEEK_CUR)
        with pytest.raises(TypeError):
            adopted.seek(1.5)
        with pytest.raises(io.UnsupportedOperation):
            adopted.write(b"x")
        assert adopted.tell() == 3


def test_adopted_without_permission_to_reopen(run):
    """Where re-opening is denied, adopting, mapping, reading and writing still work."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    run("""
        import os
        import memfd
        f, w = memfd.create("locked"), memfd.create("open")
        f.write(b"data")
        f.seal()
        for file in (f, w):
            os.fchmod(file.fileno(), 0)
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        # Before Linux 6.5 it cannot be told whether there are holes.
        adopted = memfd.Memfd.from_fd(os.dup(f.fileno()), dense=False)
        assert bytes(memfd.Mapping(adopted)) == b"data"
        assert adopted.read() == b"data"
        adopted = memfd.Memfd.from_fd(os.dup(w.fileno()), require=None)
        large = os.urandom(5 << 20)
        os.lseek(w.fileno(), 99, os.SEEK_SET)
        assert (adopted.write(b"small"), adopted.write(large)) == (5, 5 << 20)
        assert adopted.tell() == adopted.size == 5 + len(large)
        assert adopted.truncate() == adopted.size
        adopted.seek(0)
        assert adopted.read() == b"small" + large
        assert os.lseek(w.fileno(), 0, os.SEEK_CUR) == 99
    """)


def test_two_threads_begin_to_read(f):
    """Each gets a byte of its own, wherever the sender's position is."""
    f.write(b"ab")
    f.truncate()
    f.seal()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(300):
            with Memfd.from_fd(os.dup(f.fileno())) as adopted:
                start = threading.Barrier(2)

                def read(start=start, adopted=adopted):
                    start.wait()
                    return adopted.read(1)

                reads = [pool.submit(read) for _ in range(2)]
                assert sorted(done.result() for done in reads) == [b"a", b"b"]
