"""freeze: from written to immutable, without a copy, and nothing lost."""

import errno
import os
import pickle
import subprocess
import sys

import pytest

import memfd
from memfd import Mapping, Seal, _mapping

np = pytest.importorskip("numpy")


def test_freeze_makes_immutable_without_a_copy():
    """The frozen array is over the same memfd, sealed; no new memory is taken."""
    a = memfd.zeros(1 << 18)
    a[:] = np.arange(a.size)
    f = a.memfd

    frozen = memfd.freeze(a)

    assert frozen.memfd is f
    assert f.seals & 0xF == Seal.IMMUTABLE | Seal.SEAL
    assert not frozen.flags.writeable
    np.testing.assert_array_equal(frozen, np.arange(1 << 18))
    np.testing.assert_array_equal(np.load(f.path), frozen)
    with pytest.raises(ValueError, match="WRITEABLE"):
        frozen.flags.writeable = True


@pytest.mark.parametrize(
    "place", [np.s_[...], np.s_[1], np.s_[::-1, ::2], np.s_[:, 1], np.s_[1, 1, ...]]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_freezing_a_view_keeps_its_place(place, order):
    """A view is frozen as a view: shape, strides and contents stay."""
    a = memfd.empty((3, 4), order=order)
    a[:] = np.arange(12).reshape(3, 4)
    view = a[place]

    frozen = memfd.freeze(view)

    assert (frozen.shape, frozen.strides) == (view.shape, view.strides)
    np.testing.assert_array_equal(frozen, view)


def test_old_views_go_on_alone():
    """Older arrays keep their contents on pages of their own, without a memfd."""
    a = memfd.zeros(10)
    a[:] = 7
    view, other = a[2:], memfd.attach(a, "r+")

    frozen = memfd.freeze(a)

    assert not a.flags.writeable
    view[0] = 1
    other[9] = 2
    assert a.tolist() == [7, 7, 1, 7, 7, 7, 7, 7, 7, 7]
    assert other.tolist() == [7] * 9 + [2]
    assert frozen.tolist() == [7] * 10
    for old in (a, view, other):
        assert old.memfd is None
        assert type(pickle.loads(pickle.dumps(old))) is np.ndarray
        with pytest.raises(ValueError, match="no memfd"):
            memfd.freeze(old)


def test_private_mappings_are_left_alone():
    """Arrays of mode r and c stay what they are, and still have their memfd."""
    a = memfd.zeros(10)
    r, c = memfd.attach(a), memfd.attach(a, "c")
    c[0] = 5
    a[:] = 3

    frozen = memfd.freeze(a)

    assert r.tolist() == frozen.tolist() == [3] * 10
    assert c[0] == 5
    assert r.memfd is c.memfd is frozen.memfd


def test_freezing_twice_and_freezing_the_shared():
    """What is immutable already comes back as it is."""
    a = memfd.share(np.arange(3))
    assert np.shares_memory(memfd.freeze(a), a)
    frozen = memfd.freeze(memfd.zeros(3))
    assert memfd.freeze(frozen[1:]).memfd is frozen.memfd


def test_freeze_of_a_read_only_view_of_the_writable():
    """An array of mode r over writable memory can be frozen too."""
    a = memfd.zeros(4)
    r = memfd.attach(a)
    a[:] = 1

    frozen = memfd.freeze(r)

    assert frozen.memfd.seals & Seal.WRITE
    a[:] = 2
    assert frozen.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: np.arange(3), "has no memfd"),
        (lambda: [1, 2], "has no memfd"),
        (lambda: memfd.attach(memfd.zeros(3), "c"), "mode 'c'"),
        (lambda: memfd.zeros(3).copy(), "has no memfd"),
    ],
)
def test_freeze_of_what_has_no_memfd(make, words):
    """What lies in no memfd is a ValueError that says what to do; copy=True does it."""
    array = make()
    with pytest.raises(ValueError, match=words):
        memfd.freeze(array)

    np.testing.assert_array_equal(memfd.freeze(array, copy=True), array)


def test_freeze_with_a_closed_memfd():
    """Without its descriptor an array cannot be sealed."""
    a = memfd.zeros(3)
    a.memfd.close()

    with pytest.raises(ValueError, match="was closed"):
        memfd.freeze(a)

    a[0] = 1
    assert memfd.freeze(a, copy=True).tolist() == [1, 0, 0]


def test_freeze_under_a_stdlib_mapping():
    """A writable mmap.mmap of this process is a BufferError, and nothing has changed."""
    a = memfd.zeros(1000)
    a[:] = 4
    with a.memfd.mmap("r+"):
        with pytest.raises(BufferError, match="in this process can write"):
            memfd.freeze(a)
    a[0] = 5

    assert a.flags.writeable
    assert memfd.freeze(a).tolist() == [5] + [4] * 999


HOLDER = """
import mmap, sys
m = mmap.mmap(int(sys.argv[1]), 0)
print("mapped", flush=True)
sys.stdin.readline()
m[-8:] = b"\\7" * 8
print("written", flush=True)
sys.stdin.read()
"""


def test_freeze_while_another_process_writes():
    """EBUSY names the other process; nothing is lost, shared memory stays shared."""
    a = memfd.zeros(10_000, "u1")
    a[:] = 1
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(a.memfd.fileno())],
        pass_fds=[a.memfd.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.readline() == b"mapped\n"

        with pytest.raises(OSError, match=f"mapped writable by {child.pid}") as caught:
            memfd.freeze(a)

        assert caught.value.errno == errno.EBUSY
        assert a.flags.writeable
        assert a.memfd.seals & Seal.IMMUTABLE == Seal.SHRINK | Seal.GROW
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"written\n"
        assert a[-8:].tolist() == [7] * 8
        a[0] = 9
        assert os.pread(a.memfd.fileno(), 1, 128) == b"\x09"
        copy = memfd.freeze(a, copy=True)
        child.communicate()

    frozen = memfd.freeze(a)
    assert frozen.tolist() == copy.tolist() == [9] + [1] * 9991 + [7] * 8


@pytest.mark.parametrize("reason", ["another process", "mmap", "SEAL", "read-only"])
def test_freeze_that_could_not_be_undone(reason, other):
    """Under FUTURE_WRITE no mapping can be shared again: refused before one is private."""
    a = memfd.zeros(10)
    f = a.memfd
    mapped = writer = None
    if reason == "another process":
        program = """
            import mmap, sys
            m = mmap.mmap(int(sys.argv[1]), 0)
            print("mapped", flush=True)
            sys.stdin.read()
        """
        writer = other(program, f.fileno(), pass_fds=[f.fileno()])
        expected = pytest.raises(OSError, match=f"writable by {writer.pid}")
    elif reason == "mmap":
        mapped = f.mmap("r+")
        expected = pytest.raises(BufferError)
    else:
        expected = pytest.raises(PermissionError)
    if reason == "read-only":
        f.seal(Seal.FUTURE_WRITE)
        fd = os.open(f.path, os.O_RDONLY)
        os.dup2(fd, f.fileno(), inheritable=False)
        os.close(fd)
    else:
        f.seal(Seal.FUTURE_WRITE | (Seal.SEAL if reason == "SEAL" else 0))

    with expected:
        memfd.freeze(a)
    a[3] = 5

    assert a.memfd is f
    assert a.flags.writeable
    assert memfd.attach(f)[3] == 5
    if mapped is not None:
        mapped.close()
    if writer is not None:
        writer.communicate()
    if reason in ("another process", "mmap"):
        assert memfd.freeze(a)[3] == 5


@pytest.mark.parametrize("pages", [1, 3, 5000])
def test_what_is_written_meanwhile_is_put_back(pages):
    """Pages written between the two steps of a freeze that fails go into the file."""
    page = os.sysconf("SC_PAGE_SIZE")
    with memfd.create(size=pages * page - 100) as f, Mapping(f, "r+") as m:
        with memoryview(m) as view:

            def seal():
                view[-1] = 2
                view[len(view) // 2] = 3
                os.pwrite(f.fileno(), b"\4", 50)
                assert (os.pread(f.fileno(), 1, 0), m.mode) == (b"\1", "c")
                raise FloatingPointError

            view[0] = 1
            with pytest.raises(FloatingPointError):
                _mapping.while_private([m], f.fileno(), seal)
            view[1] = 5

        content = os.pread(f.fileno(), pages * page, 0)
        assert (content[0], content[-1], content[1]) == (1, 2, 5)
        assert content[len(content) // 2] == 3
        assert len(content) == pages * page - 100
        if pages > 1:
            # An untouched page is not put back over what others wrote meanwhile.
            assert content[50] == (4 if pages > 1 else 0)


def test_put_back_without_proc(run, strace):
    """Where pagemap cannot be read, what differs from the file is written back."""
    run(
        """
        import os
        import memfd
        from memfd import _mapping
        f = memfd.create(size=100_000)
        m = memfd.Mapping(f, "r+")
        view = memoryview(m)
        view[0] = 1
        def write():
            view[50_000] = 2
        _mapping.while_private([m], f.fileno(), write)
        assert os.pread(f.fileno(), 1, 50_000) == b"\\2"
        """,
        wrapper=[*strace("openat:error=EACCES"), "-P", "/proc/self/pagemap"],
    )


def test_failed_steps_of_freeze_lose_nothing(run, strace):
    """Whichever mmap or mremap fails, the array is as before or frozen."""
    for fault in ("mremap:error=ENOMEM:when=1", "mremap:error=ENOMEM:when=2"):
        run(
            """
            import numpy as np
            import memfd
            a = memfd.zeros(1000)
            a[:] = 3
            other = memfd.attach(a, "r+")
            try:
                memfd.freeze(a)
            except OSError:
                pass
            else:
                raise SystemExit("no error")
            assert a.flags.writeable and a.memfd is other.memfd
            a[0] = 4
            assert other[0] == 4 and a.tolist() == [4] + [3] * 999
            """,
            wrapper=strace(fault),
        )


def test_an_interrupt_at_any_step(run):
    """Wherever a signal handler raises, the array is frozen or as before."""
    run(
        """
        import errno, os, sys
        import memfd
        from memfd import Seal

        class Interrupt(BaseException):
            pass

        def profile(frame, event, argument):
            # A handler runs before or after a call; but no with block is left without
            # its end.
            global left_over
            if (
                frame.f_code.co_filename.endswith(("_share.py", "_file.py"))
                and getattr(argument, "__name__", "") != "__exit__"
            ):
                left_over -= 1
                if left_over == 0:
                    raise Interrupt

        def state(a, other, f):
            # What the array shows is what others get, or it has no memfd.
            a[0] = 5
            if a.memfd is None:
                assert (a.base.mode, f.seals & 15) == ("c", Seal.IMMUTABLE | Seal.SEAL)
                assert other[0] == 7
                return "frozen"
            assert a.memfd is f
            assert (a.base.mode, f.seals & 15) == ("r+", Seal.SHRINK | Seal.GROW)
            assert other[0] == 5
            return "as before"

        states = []
        memfd.freeze(memfd.zeros(3))
        for blocked in False, True:
            for n in range(1, 10_000):
                a = memfd.zeros(3)
                a[0] = 7
                f, other = a.memfd, memfd.attach(a)
                blocker = f.mmap("r+") if blocked else None
                left_over = n
                try:
                    sys.setprofile(profile)
                    memfd.freeze(a)
                except Interrupt:
                    pass
                except BufferError:
                    assert blocked
                    break
                finally:
                    sys.setprofile(None)
                if left_over > 0:
                    break
                a.flags.writeable = True
                states.append(state(a, other, f))
                assert not blocked or states[-1] == "as before"
            assert n > 20
        assert set(states) == {"frozen", "as before"}
        """
    )


def test_another_thread_that_forks_all_the_time(run):
    """share never fails with EBUSY; freeze succeeds or says EBUSY; nothing is lost."""
    run(
        """
        import errno, os, threading, time, warnings
        warnings.simplefilter("ignore")
        import numpy as np
        import memfd
        stop = False

        def fork():
            while not stop:
                pid = os.fork()
                if pid == 0:
                    time.sleep(0.002)
                    os._exit(0)
                os.waitpid(pid, 0)

        threads = [threading.Thread(target=fork) for _ in range(2)]
        for thread in threads:
            thread.start()
        source = np.arange(100_000)
        frozen = busy = 0
        for i in range(150):
            assert memfd.share(source).memfd.seals & memfd.Seal.WRITE
            assert memfd.from_bytes(b"x" * i).size == i
            a = memfd.zeros(5000)
            a[:] = i
            try:
                assert (memfd.freeze(a) == i).all()
                frozen += 1
            except OSError as error:
                assert error.errno == errno.EBUSY, error
                busy += 1
                assert (a == i).all() and a.flags.writeable
                a[1] = -1
                assert os.pread(a.memfd.fileno(), 8, 136) == np.float64(-1).tobytes()
        stop = True
        for thread in threads:
            thread.join()
        print(frozen, busy)
        """,
        timeout=120,
    )
