"""Arrays and memfds on their way to other processes through multiprocessing."""

import functools
import json
import pathlib
import subprocess
import sys

import pytest

import memfd

np = pytest.importorskip("numpy")

TRANSPORT = pathlib.Path(__file__).with_name("transport.py")


@functools.cache
def outcomes(start_method, first, way):
    """Run the program once for all channels and kinds."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(TRANSPORT), start_method, first, way],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("way", ["proc", "ticket"])
@pytest.mark.parametrize("first", ["memfd", "multiprocessing"])
@pytest.mark.parametrize("kind", ["array", "view", "r+ array", "ArrayDict", "Memfd"])
@pytest.mark.parametrize(
    "channel",
    ["Process argument", "Queue", "SimpleQueue", "Pipe", "Pool", "ProcessPoolExecutor"],
)
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_everything_travels_everywhere(start_method, channel, kind, first, way):
    """As a descriptor, both ways, whatever was imported first; no second mapping."""
    assert outcomes(start_method, first, way)[f"{channel} {kind}"] == "ok"


def test_import_order_and_arrays_made_before(run):
    """multiprocessing may be imported after the array was made."""
    run("""
        import sys
        import memfd
        import numpy as np
        assert "multiprocessing" not in sys.modules
        a = memfd.share(np.arange(3))
        from multiprocessing import Pipe
        here, there = Pipe()
        here.send((a, a.memfd))
        b, f = there.recv()
        assert np.shares_memory(a, b)
        assert f.fileno() != a.memfd.fileno()
        import multiprocessing.reduction as reduction
        assert "memfd" not in type(reduction.__loader__).__module__
        assert reduction.__spec__.loader is reduction.__loader__
    """)


def test_one_descriptor_a_message(run):
    """However many views of a memfd a message holds, one descriptor travels."""
    run("""
        import os
        import memfd
        import numpy as np
        from multiprocessing import Pipe
        a, w = memfd.share(np.arange(1000)), memfd.zeros(5)
        here, there = Pipe()
        before = len(os.listdir("/proc/self/fd"))
        here.send([a[i:] for i in range(50)] + [w[i:] for i in range(5)] + [w.memfd])
        pending = len(os.listdir("/proc/self/fd")) - before
        # Two duplicates, and the socket of the resource sharer.
        assert pending <= 2 + 3, pending
        got = there.recv()
        assert [x.size for x in got[:55]] == [*range(1000, 950, -1), 5, 4, 3, 2, 1]
        assert len({id(x.memfd) for x in got[:50]}) == 1
    """)


def test_what_is_handed_over_is_what_the_array_shows(run):
    """Copies, mode c, old arrays after freeze, strided views: the contents arrive."""
    run("""
        import memfd, numpy as np
        from multiprocessing import Pipe
        from numpy.lib.stride_tricks import as_strided

        here, there = Pipe()
        def sent(x):
            here.send(x)
            return there.recv()

        a = memfd.share(np.arange(24.0).reshape(4, 6))
        c = memfd.attach(a, "c")
        c[0, 0] = 99
        w = memfd.zeros(6)
        w[:] = 3
        old, old_view = w, w[:]
        frozen = memfd.freeze(w)
        fixed = memfd.zeros(3)[1:]
        fixed.flags.writeable = False
        for x, by_value in [
            (a, False), (a[::-1, ::-2], False), (a.T, False), (a[1, 2, ...], False),
            (a[:0], False), (as_strided(a, (3, 2), (16, 8), subok=True), False),
            (as_strided(a[1:], (2, 3), (-8, -8), subok=True), False),
            (np.broadcast_to(a[0], (3, 6), subok=True), False),
            (a.view("u1"), False), (a.view("M8[ns]"), False), (frozen, False),
            (fixed, False),
            (c, True), (c[::2], True), (old, True), (old_view, True), (a.copy(), True),
            (a[[0, 1]], True), (a + 1, True), (np.asarray(a), True),
        ]:
            y = sent(x)
            assert (y.dtype, y.shape) == (x.dtype, x.shape)
            np.testing.assert_array_equal(x, y)
            assert (getattr(y, "memfd", None) is None) == by_value, x
            if not by_value:
                assert y.flags.writeable == x.flags.writeable
        y = sent(frozen[1:])
        old_view[:] = 8
        assert y.tolist() == [3] * 5
    """)


def test_frozen_while_it_travels(run):
    """A writable array that its sender freezes meanwhile arrives read-only."""
    run("""
        import memfd, numpy as np
        from multiprocessing import Pipe
        here, there = Pipe()
        w = memfd.zeros(4)
        w[:] = 3
        here.send((w, w[1:]))
        frozen = memfd.freeze(w)
        array, view = there.recv()
        assert array.tolist() == [3] * 4 and view.tolist() == [3] * 3
        assert not array.flags.writeable and not view.flags.writeable
        assert array.memfd.seals == frozen.memfd.seals
    """)


def test_closed_is_a_value_error_never_a_copy(run):
    """An array or Memfd whose descriptor was closed cannot be sent, and says so."""
    run("""
        import memfd, numpy as np
        from multiprocessing import Pipe
        here, there = Pipe()
        a = memfd.share(np.arange(3))
        f = a.memfd
        f.close()
        for x in (a, a[1:], f):
            try:
                here.send(x)
            except ValueError as error:
                assert "closed" in str(error), error
            else:
                raise SystemExit("no error")
        assert not there.poll()
    """)


def test_sender_that_is_gone(run):
    """A message whose sender has ended is a ConnectionError that says so."""
    run("""
        import multiprocessing, os
        import memfd, numpy as np

        def send(connection, how):
            from memfd import _handover
            _handover._LINGER = 0.1
            connection.send(memfd.share(np.arange(3), name="lost"))
            if how == "killed":
                os.kill(os.getpid(), 9)

        context = multiprocessing.get_context("fork")
        for how in ("killed", "returned"):
            here, there = context.Pipe()
            before = len(os.listdir("/proc/self/fd"))
            process = context.Process(target=send, args=(there, how))
            process.start()
            process.join()
            try:
                here.recv()
            except ConnectionError as error:
                assert "memfd 'float64" in str(error) or "memfd 'lost'" in str(error)
                assert "is gone" in str(error), error
            else:
                raise SystemExit("no error")
            process.close()
            assert len(os.listdir("/proc/self/fd")) <= before
    """)


def test_a_second_mapping_of_the_writable_is_shared(run):
    """Writable arrays that come back are the same memory, seals or not."""
    run("""
        import memfd, numpy as np
        from multiprocessing import Pipe
        here, there = Pipe()
        w = memfd.zeros(4)
        r = memfd.attach(w)
        for x in (w, r):
            here.send(x)
            y = there.recv()
            w[0] += 1
            assert y[0] == w[0] and y.flags.writeable == x.flags.writeable
    """)


def test_import_is_small(run):
    """import memfd brings neither NumPy, multiprocessing, asyncio, socket nor metadata."""
    run("""
        import sys
        before = set(sys.modules)  # an editable install loads some at start
        import memfd
        new = set(sys.modules) - before
        heavy = {"numpy", "multiprocessing", "asyncio", "socket", "typing"}
        heavy.add("importlib.metadata")
        assert not heavy & new, heavy & new
        assert memfd.from_bytes(b"x").read() == b"x"
        assert "numpy" not in sys.modules
    """)


def test_hook_leaves_other_imports_alone():
    """The import hook answers for one module only."""
    from memfd import _reduction

    assert _reduction._Hook.find_spec("multiprocessing") is None
    assert memfd.Memfd in _reduction._reducers


@pytest.mark.parametrize("name", ["pending", "share"])
def test_a_fork_waits_for_imports(run, name):
    """A child that is forked while a thread loads a module of ours can load it, too."""
    run(f"""
        import os, signal, sys, threading
        import memfd
        begun, go_on = threading.Event(), threading.Event()

        class Slow:
            @staticmethod
            def find_spec(module, path=None, target=None):
                if module in ("memfd._handover", "memfd._share"):
                    begun.set()
                    go_on.wait()

        sys.meta_path.insert(0, Slow)
        os.register_at_fork(before=go_on.set)
        thread = threading.Thread(target=lambda: memfd.{name})
        thread.start()
        begun.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            memfd.{name}
            os._exit(0)
        thread.join()
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_a_handler_that_raises_while_forking_leaves_imports_free(run):
    """Wherever a handler raises in what a fork has us do, others can load modules."""
    run("""
        import os, sys
        import memfd
        from memfd import _reduction

        def profile(frame, event, argument):
            # A handler runs before or after a call.
            global left_over
            left_over -= frame.f_code.co_filename == _reduction.__file__
            if left_over == 0:
                raise KeyboardInterrupt

        sys.unraisablehook = lambda _: None  # where it is raised in a hook
        for n in range(1, 20):
            left_over = n
            sys.setprofile(profile)
            pid = os.fork()
            sys.setprofile(None)
            if pid == 0:
                os._exit(_reduction.loading._is_owned())
            assert not _reduction.loading._is_owned(), n
            assert os.waitpid(pid, 0)[1] == 0, n
    """)
