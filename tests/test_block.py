"""Blocks: whether the kernel tells who has one, and what readers and children can do."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time

import pytest

import memfd
from memfd import Seal, _block

PAGE = mmap.PAGESIZE


def new_block(size=PAGE, huge="auto"):
    with memfd.create("block", size) as f:
        return _block.Block(f, huge=huge)


def shown(block, content=b"", writable=False):
    """Return the frame of a new block that shows `content`."""
    frame = _block.claim_new(block, _block.Frame)
    frame._write(content, 0)
    frame._show(writable)
    return frame


def path_of(frame):
    return frame._path()


def opened(path):
    fd = os.open(path, os.O_RDONLY)
    yield
    os.close(fd)


def opened_for_writing(path):
    fd = os.open(path, os.O_RDWR)
    yield
    os.close(fd)


def mapped(path):
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    yield
    mapping.close()


def on_its_way(path):
    here, there = socket.socketpair()
    fd = os.open(path, os.O_RDONLY)
    socket.send_fds(here, [b"x"], [fd])
    os.close(fd)
    yield
    here.close()
    there.close()


def held_by_a_child(path):
    with open(path, "rb") as file:
        child = subprocess.Popen(["sleep", "100"], stdin=file)
    yield
    child.kill()
    child.wait()


@pytest.mark.parametrize(
    "holding", [opened, opened_for_writing, mapped, on_its_way, held_by_a_child]
)
def test_whoever_has_it_is_seen(holding):
    """A block is free before and after, and not while somebody has it in some way."""
    block = new_block()
    frame = shown(block)
    holder = holding(path_of(frame))
    next(holder)
    del frame
    assert not block.is_free()
    assert _block.claim([block], block.size, _block.Frame) is None
    next(holder, None)
    assert block.is_free()


def test_an_array_here_is_a_user():
    """A block with a frame is not free, whatever the kernel says."""
    block = new_block()
    frame = shown(block)
    assert not block.is_free()
    with pytest.raises(ValueError, match="in use"):
        _block.claim_new(block, _block.Frame)
    del frame
    assert block.is_free()


def test_readers_cannot_write():
    """Whoever has the file can neither write, nor map it to write, nor resize it."""
    block = new_block()
    frame = shown(block)
    fd = os.open(path_of(frame), os.O_RDWR)
    assert memfd.get_seals(fd) & (Seal.FUTURE_WRITE | Seal.SHRINK | Seal.GROW) == (
        Seal.FUTURE_WRITE | Seal.SHRINK | Seal.GROW
    )
    for attempt in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.truncate(fd, 0),
        lambda: os.truncate(fd, 2 * PAGE),
        lambda: mmap.mmap(fd, PAGE),
    ):
        with pytest.raises(PermissionError):
            attempt()
    os.close(fd)


def test_the_last_used_comes_last():
    """Of several free blocks, the one is claimed that was used the longest time ago."""
    blocks = [new_block() for _ in range(3)]
    order = list(blocks)
    for turn in range(6):
        frame = _block.claim(blocks, blocks[0].size, _block.Frame)
        assert blocks[-1] is order[turn % 3]
        del frame


def test_frames_are_written_before_they_are_shown():
    """A frame takes bytes up to its end, and none once it is shown."""
    block = new_block()
    frame = _block.claim_new(block, _block.Frame)
    frame._write(b"abc", PAGE - 3)
    for data, offset in ((b"abcd", PAGE - 3), (b"", PAGE + 1)):
        with pytest.raises(ValueError, match="cannot write"):
            frame._write(data, offset)
    frame._show(False)
    with pytest.raises(ValueError, match="cannot write"):
        frame._write(b"x", 0)
    view = memoryview(frame)
    assert view.readonly
    assert bytes(view[-4:]) == b"\0abc"


def test_cleared_from_an_offset():
    """Bytes of an earlier frame are gone from where it is cleared on."""
    block = new_block()
    shown(block, b"x" * PAGE)
    frame = _block.claim([block], block.size, _block.Frame)
    frame._clear(100)
    frame._show(False)
    assert bytes(frame)[_block.MARK_SIZE :] == b"x" * 52 + bytes(PAGE - 100)


def test_opened_by_others_all_the_time(run):
    """Somebody who opens the file while it is asked about neither kills nor waits."""
    run(
        """
        import os, subprocess, sys
        import memfd
        from memfd import _block
        with memfd.create(size=4096) as f:
            block = _block.Block(f)
        frame = _block.claim_new(block, _block.Frame)
        path = frame._path().replace("self", str(os.getpid()))
        del frame
        opening = (
            "import os, sys; print(flush=True)\\n"
            "while True: os.close(os.open(sys.argv[1], os.O_RDONLY))"
        )
        others = [
            subprocess.Popen([sys.executable, "-c", opening, path], stdout=-1)
            for _ in range(2)
        ]
        for other in others:
            other.stdout.readline()
        answers, count = set(), 0
        while count < 300_000 or len(answers) < 2:
            answers.add(block.is_free())
            count += 1
        for other in others:
            assert other.poll() is None, "it could not open the file any more"
            other.kill()
            other.wait()
        assert block.is_free()
        """
    )


def test_opened_in_the_middle_of_a_question(run, strace):
    """Who opens the file while a lease is held has the kernel send a harmless signal."""
    run(
        """
        import os, subprocess, sys
        import memfd
        from memfd import _block
        with memfd.create(size=4096) as f:
            block = _block.Block(f)
        frame = _block.claim_new(block, _block.Frame)
        path = frame._path().replace("self", str(os.getpid()))
        del frame
        opening = (
            "import os, sys, time; print(flush=True)\\n"
            "while True: os.close(os.open(sys.argv[1], os.O_RDONLY)); time.sleep(0.001)"
        )
        other = subprocess.Popen([sys.executable, "-c", opening, path], stdout=-1)
        other.stdout.readline()
        answers = [block.is_free() for _ in range(20)]
        assert other.poll() is None
        other.kill()
        other.wait()
        assert True in answers
        """,
        # Each lease is held for so long that the other one comes in between.
        wrapper=strace("fcntl:delay_exit=20000"),
    )


def test_a_child_has_its_own(run):
    """A child has what an array shows, at its address, privately, and is a reader."""
    run(
        """
        import os
        import memfd
        from memfd import _block

        def memfds():
            return [
                name for name in os.listdir("/proc/self/fd")
                if os.path.islink("/proc/self/fd/" + name)
                and "memfd:" in os.readlink("/proc/self/fd/" + name)
            ]

        def frame(content, writable):
            with memfd.create(size=3 << 20) as f:
                block = _block.Block(f)
            frame = _block.claim_new(block, _block.Frame)
            frame._write(content, 0)
            frame._show(writable)
            return block, frame

        first, a = frame(b"first", True)
        second, b = frame(b"second", False)
        third, _ = frame(b"third", False)
        del _
        here, there = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            assert bytes(memoryview(a)[:5]) == b"first"
            assert bytes(memoryview(b)[:6]) == b"second"
            memoryview(a)[:5] = b"child"   # on a page of its own
            assert bytes(memoryview(a)[:5]) == b"child"
            assert not first.is_free() and not third.is_free()
            assert first.is_lost and third.is_lost
            assert _block.claim([third], third.size, _block.Frame) is None
            for name in memfds():
                info = open("/proc/self/fdinfo/" + name).read()
                assert int(info.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == 0
            os.write(there[1], b"x")
            os.read(here[0], 1)
            del a, b
            assert not memfds(), memfds()
            assert "memfd:" not in open("/proc/self/maps").read()
            os.write(there[1], b"x")
            os.read(here[0], 1)
            os._exit(0)
        os.close(there[1])
        assert os.read(there[0], 1), "the child has failed"
        assert bytes(memoryview(a)[:5]) == b"first"
        assert third.is_free()
        del a, b
        assert not first.is_free() and not second.is_free()
        os.write(here[1], b"x")
        assert os.read(there[0], 1), "the child has failed"
        assert first.is_free() and second.is_free()
        os.write(here[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        """
    )


def test_a_fork_that_python_does_not_know(run):
    """A child that was forked in C reads what arrays showed."""
    run(
        """
        import ctypes, os
        import memfd, numpy as np
        pool = memfd.BufferPool()
        a = pool.put(np.arange(1000))
        fork = ctypes.PyDLL(None).fork
        child = fork()
        if child == 0:
            ok = a.sum() == 499500 and pool.put(np.ones(1000)).sum() == 1000
            os._exit(not ok)
        del a
        assert os.waitpid(child, 0)[1] == 0
        assert pool.stats()[:3] == (1, 8000, 0)
        """
    )


def test_no_descriptor_is_left_for_a_child(run):
    """Without a descriptor for it, a child has it privately, and it is not used again."""
    run(
        """
        import os, resource
        import memfd
        from memfd import _block
        with memfd.create(size=4096) as f:
            block = _block.Block(f)
        frame = _block.claim_new(block, _block.Frame)
        frame._write(b"data", 0)
        frame._show(True)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        child = os.fork()
        if child == 0:
            ok = bytes(memoryview(frame)[:4]) == b"data"
            memoryview(frame)[:4] = b"none"
            os._exit(not ok)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert os.waitpid(child, 0)[1] == 0
        assert bytes(memoryview(frame)[:4]) == b"data"
        del frame
        assert block.is_lost and not block.is_free()
        """
    )


def test_a_fork_while_it_is_filled(run):
    """A child that was forked by a signal handler cannot go on with what was filled."""
    run(
        """
        import os, signal
        import memfd
        from memfd import _block
        with memfd.create(size=257 << 20) as f:
            block = _block.Block(f, huge="never")
        frame = _block.claim_new(block, _block.Frame)
        parent = os.getpid()
        children = []
        signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            frame._write(bytes(257 << 20), 0)
        except ValueError as error:
            assert "forked" in str(error) and os.getpid() != parent
            os._exit(7)
        assert os.getpid() == parent
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
        """
    )


def test_forks_of_another_thread(run):
    """Blocks are made, shown and dropped while a thread forks; nobody is stuck or dies."""
    run(
        """
        import os, threading
        import memfd
        from memfd import _block
        done = threading.Event()
        def fork():
            while not done.is_set():
                child = os.fork()
                if child == 0:
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        thread = threading.Thread(target=fork)
        thread.start()
        blocks = []
        for turn in range(2000):
            if turn % 50 == 0:
                with memfd.create(size=4096) as f:
                    blocks = [_block.Block(f)]
            frame = _block.claim(blocks, blocks[0].size, _block.Frame)
            if frame is not None:
                frame._write(b"x", 0)
                frame._show(False)
        done.set()
        thread.join()
        """
    )


def woken(blocks, act, seconds=30):
    """Fail unless a Watch of the blocks ends after ``act()``, in another thread."""
    watch = _block.Watch()
    watch.add(blocks)
    while not any(block.is_free() for block in blocks):
        started = time.monotonic()
        watch.wait(seconds)
        if act is not None:
            threading.Timer(0.01, act).start()
            act = None
        seconds -= time.monotonic() - started
        assert seconds > 0, "nobody woke it"


def test_woken_when_an_array_is_dropped():
    """Who waits is woken when the array here is dropped."""
    block = new_block()
    frames = [shown(block)]
    woken([block], frames.clear)
    assert block.is_free()


def test_woken_when_a_reader_is_killed():
    """Who waits is woken when the process that maps the block is killed."""
    block = new_block()
    frame = shown(block)
    program = (
        "import mmap, sys; m = mmap.mmap(0, 0, mmap.MAP_PRIVATE, mmap.PROT_READ);"
        "sys.stdin.close(); print(flush=True); import time; time.sleep(100)"
    )
    with open(path_of(frame), "rb") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=file, stdout=subprocess.PIPE
        )
    child.stdout.readline()
    del frame
    woken([block], lambda: os.kill(child.pid, signal.SIGKILL))
    child.wait()
    child.stdout.close()
    assert block.is_free()


def test_waits_no_longer_than_told():
    """A wait ends in time although nothing has happened."""
    block = new_block()
    frame = shown(block)
    watch = _block.Watch()
    watch.add([block])
    started = time.monotonic()
    for _ in range(5):
        watch.wait(0.02)
    assert time.monotonic() - started < 5
    del frame


def test_without_inotify(run, strace):
    """Where no inotify instance is left, who waits looks now and then."""
    run(
        """
        import threading
        import memfd
        from memfd import _block
        with memfd.create(size=4096) as f:
            block = _block.Block(f)
        frames = [_block.claim_new(block, _block.Frame)]
        threading.Timer(0.05, frames.clear).start()
        watch = _block.Watch()
        watch.add([block])
        while not block.is_free():
            watch.wait(30)
        """,
        wrapper=strace("inotify_init1:error=EMFILE"),
    )


FAILING = """
    import errno, os, resource, sys
    import memfd
    from memfd import _block

    def fail(error, size=4096, **how):
        f = memfd.create(size=size, **how)
        before = sorted(os.listdir("/proc/self/fd"))
        try:
            _block.Block(f)
        except OSError as caught:
            assert caught.errno == error, caught
        else:
            raise AssertionError("it was made")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)
            resource.setrlimit(resource.RLIMIT_AS, memory)
        assert before == sorted(os.listdir("/proc/self/fd"))
        assert "memfd:" not in open("/proc/self/maps").read()

    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = resource.getrlimit(resource.RLIMIT_AS)
"""


def test_a_block_that_cannot_be_made(run):
    """Whatever fails is an OSError with its errno, and leaves nothing behind."""
    run(
        FAILING
        + """
    fail(errno.EPERM, sealable=False)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), memory[1]))
    fail(errno.ENOMEM, 1 << 30)
    f = memfd.create(size=4096)
    before = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, files[1]))
    try:
        _block.Block(f)
    except OSError as caught:
        assert caught.errno == errno.EMFILE, caught
    else:
        raise AssertionError("it was made")
    """
    )


def test_a_mapping_that_children_would_get(run, strace):
    """Where a mapping cannot be kept from children there is no block."""
    run(FAILING + "\n    fail(errno.EINVAL)", wrapper=strace("madvise:error=EINVAL"))


def test_a_fork_under_which_the_gil_goes(run, tmp_path):
    """Another library that lets the GIL go while it prepares a fork stops nobody."""
    source = tmp_path / "library.c"
    source.write_text(
        """
        #include <Python.h>
        #include <pthread.h>
        #include <unistd.h>
        static void prepare(void)
        {
            if (PyGILState_Check()) {
                PyThreadState *state = PyEval_SaveThread();
                usleep(2000);
                PyEval_RestoreThread(state);
            }
        }
        void begin(void) { pthread_atfork(prepare, NULL, NULL); }
        """
    )
    library = tmp_path / "library.so"
    include = sysconfig.get_path("include")
    command = ["cc", "-shared", "-fPIC", f"-I{include}", "-o", library, source]
    subprocess.run(command, check=True)
    run(
        f"""
        import ctypes, os, threading
        ctypes.PyDLL({str(library)!r}).begin()
        import memfd
        from memfd import _block
        done = threading.Event()

        def use():
            while not done.is_set():
                with memfd.create(size=4096) as f:
                    block = _block.Block(f)
                for _ in range(20):
                    frame = _block.claim([block], block.size, _block.Frame)
                    if frame is not None:
                        frame._show(False)

        with memfd.create(size=4096) as f:
            block = _block.Block(f)
        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        for thread in threads:
            thread.join()
        """,
        timeout=120,
    )


def test_half_made_objects_close_nothing():
    """A block that is refused at once gives back nothing that it does not have."""
    for arguments in ((), (None,), ("x",), (-1,)):
        with pytest.raises((TypeError, ValueError, OSError)):
            _block.Block(*arguments)
    os.fstat(0)
