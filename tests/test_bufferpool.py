"""BufferPool: memory that is used again, and never too early."""

import gc
import io
import multiprocessing
import operator
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import memfd
from memfd import Seal, _mapping

SIZE = 10_000
HUGE = _mapping.HUGE_PAGE_SIZE


@pytest.fixture(autouse=True, scope="module")
def _multiprocessing():
    """Have open before what multiprocessing, and passing through it, keep open."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(memfd.from_bytes(b"x"))
        there.recv()


@pytest.fixture
def pool():
    with memfd.BufferPool() as pool:
        yield pool


def inode(array):
    return os.fstat(array.memfd.fileno()).st_ino


def ints(value, size=SIZE // 8):
    return np.full(size, value)


def test_memory_is_used_again(pool):
    """What was dropped is filled again, and what is held is not."""
    first = pool.put(ints(1))
    place = inode(first)
    second = pool.put(ints(2))
    assert inode(second) != place
    del first
    third = pool.put(ints(3))
    assert inode(third) == place
    assert (second == 2).all()
    assert (third == 3).all()
    assert pool.stats().blocks == 2


def view_of(array):
    return array[1:-1:2]


def bytes_of(array):
    return memoryview(array)


def buffer_of(array):
    return np.frombuffer(array, array.dtype)


def descriptor_of(array):
    return array.memfd


def mapping_of(array):
    return memfd.Mapping(array.memfd)


def attached(array):
    return memfd.attach(array)


def private(array):
    return memfd.attach(array, "c")


def pickled(array):
    here, there = multiprocessing.Pipe()
    here.send(array)
    return here, there


def sent(array):
    here, there = socket.socketpair()
    memfd.send(here, array)
    return here, there


WAYS = (
    view_of, bytes_of, buffer_of, descriptor_of, mapping_of, attached, private, pickled,
    sent,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_not_while_it_is_held(pool, way):
    """However a frame is held, its memory is not filled again; afterwards it is."""
    array = pool.put(ints(1))
    place = inode(array)
    held = way(array)
    del array
    other = pool.put(ints(2))
    assert inode(other) != place
    if way is pickled:
        assert (held[1].recv() == 1).all()
        assert memfd.pending() == 0
    if way in (pickled, sent):
        for end in held:
            end.close()
    del held
    again = pool.put(ints(3))
    assert inode(again) == place
    assert (other == 2).all()


RECORD = np.dtype([("a", "i1"), ("b", "f8")], align=True)
SOURCES = {
    "contiguous": np.arange(60.0).reshape(3, 4, 5),
    "fortran": np.asfortranarray(np.arange(60).reshape(3, 4, 5)),
    "slices": np.arange(600).reshape(3, 4, 50)[::2, :, ::-3],
    "swapped": np.arange(60).astype(">i4"),
    "zero-dimensional": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "records": np.array([(1, 2.5), (3, 4.5)], RECORD),
    "records, reversed": np.array([(1, 2.5), (3, 4.5)], RECORD)[::-1],
    "text": np.array(["one", "three"]),
    "dates": np.arange("2026-01-01", "2026-02-01", dtype="M8[D]"),
    "list": [[1, 2], [3, 4]],
    "huge": np.arange(400_000),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_what_is_put_is_what_comes_out(pool, source):
    """Values, type, shape and order are kept, also in memory that was used before."""
    expected = np.asarray(source)
    with pool.put(source).memfd as f:
        size = f.size
    for _ in range(2):
        array = pool.put(source)
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.flags.fnc == expected.flags.fnc
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, expected)
        np.testing.assert_array_equal(np.load(array.memfd.path), expected)
        np.testing.assert_array_equal(memfd.attach(array.memfd), expected)
        assert array.memfd.size == size
        del array
    assert pool.stats().blocks == 1


def test_converted(pool):
    """A type and an order can be asked for."""
    array = pool.put(np.arange(6).reshape(2, 3), dtype="f4", order="F")
    assert array.dtype == np.float32
    assert array.flags.f_contiguous
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_other_shapes_of_the_same_size(pool):
    """The header says what is there now."""
    pool.put(np.zeros((4, 6), "u1"))
    for array in (pool.put(np.ones((6, 4), "u1")), pool.empty(3, "f8")):
        # The first is still held when the second is made.
        loaded = np.load(array.memfd.path)
        assert loaded.shape == array.shape
        assert loaded.dtype == array.dtype
        del loaded
    assert pool.stats().blocks == 2


def test_no_byte_of_an_earlier_frame(pool):
    """Neither `empty` nor the padding of records shows what was there before."""
    nbytes = 100 * RECORD.itemsize
    pool.put(np.full(nbytes, 255, "u1"))
    array = pool.empty(nbytes, "u1")
    assert not array.any()
    array[:] = 255
    del array
    array = pool.empty(nbytes, "u1", clear=False)
    assert array.all()
    assert pool.stats().blocks == 1
    smaller = pool.put(np.zeros(nbytes - 1, "u1"))
    assert smaller.memfd.size < array.memfd.size


@pytest.mark.parametrize(
    "source",
    [np.zeros(200, RECORD)[::2], np.zeros(200, "G")[::2]],
    ids=["records", "long doubles"],
)
def test_no_byte_between(pool, source):
    """What lies between fields, or fills up a number, is not that of an earlier frame."""
    earlier = np.full(source.nbytes, 255, "u1").view(source.dtype)
    place = inode(pool.put(earlier))
    array = pool.put(source)
    assert inode(array) == place
    assert not array.view("u1").any()


def test_an_overlapping_source(pool):
    """A part of a frame can be put into the same pool."""
    array = pool.put(np.arange(20))
    for _ in range(5):
        array = pool.put(array[::-1])
    assert array.tolist() == list(range(20))[::-1]


@pytest.mark.skipif(not HUGE, reason="this kernel has no transparent huge pages")
def test_large_blocks_are_huge_pages():
    """A block that shall consist of huge pages does, for readers, too."""
    frame = np.ones(3 * HUGE, "u1")
    # Where many want memory at once the kernel refuses single ones (EAGAIN).
    for _ in range(20):
        with memfd.BufferPool(huge="always") as pool:
            huge = pool.put(frame).memfd.info().huge
        if huge is None:
            pytest.skip("the kernel does not tell about huge pages")
        if huge >= frame.nbytes:
            break
    assert huge >= frame.nbytes
    with memfd.BufferPool(huge="never") as pool:
        assert pool.put(frame).memfd.info().huge == 0


def test_empty_is_filled_here_and_read_there(pool):
    """Others see what is written into an `empty`, and cannot write."""
    array = pool.empty((2, 3), "i4")
    reader = memfd.attach(array.memfd)
    array[1, 2] = 7
    assert reader[1, 2] == 7
    with pytest.raises(PermissionError):
        memfd.attach(array, "r+")
    with pytest.raises(PermissionError):
        array.memfd.reopen("r+").write(b"x")
    assert array.memfd.seals & Seal.FUTURE_WRITE


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.array([object()]), "refers to Python objects"),
        (np.ma.masked_array([1], [True]), "mask"),
        ("text", "numbers"),
    ],
)
def test_what_share_refuses(pool, source, words):
    """What would be damaged is refused, and costs no block."""
    with pytest.raises(TypeError, match=words):
        pool.put(source)
    assert pool.stats().blocks == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_bytes": -1}, ValueError, "max_bytes must not be negative"),
        ({"max_blocks": -1}, ValueError, "max_blocks must not be negative"),
        ({"max_blocks": 1.5}, TypeError, "max_blocks must be an int"),
        ({"when_full": "never"}, ValueError, "when_full must be"),
        ({"timeout": -0.1}, ValueError, "timeout must not be negative"),
        ({"timeout": float("nan")}, ValueError, "timeout must not be negative"),
        ({"huge": "big"}, ValueError, "huge must be"),
    ],
)
def test_nonsense(options, error, words):
    """Arguments are checked at once."""
    with pytest.raises(error, match=words):
        memfd.BufferPool(**options)


def test_unknown_order(pool):
    """`order` is one of NumPy's."""
    with pytest.raises(ValueError, match="order must be"):
        pool.put([1], order="X")
    with pytest.raises(ValueError, match="order must be"):
        pool.empty(1, order="K")


# --- at the bound --------------------------------------------------------------------

BOUNDS = ({"max_blocks": 2}, {"max_bytes": 2 * SIZE})


@pytest.mark.parametrize("bound", BOUNDS)
def test_unpooled_at_the_bound(bound):
    """By default what does not fit is an array like others, whose memory goes with it."""
    with memfd.BufferPool(**bound) as pool:
        held = [pool.put(ints(value)) for value in range(4)]
        held.append(pool.empty(SIZE // 8, int))
        held[4][:] = 4
        assert [(a == value).all() for value, a in enumerate(held)] == [True] * 5
        assert pool.stats()[:3] == (2, 2 * SIZE, 2)
        assert [bool(a.memfd.seals & Seal.WRITE) for a in held] == [
            False, False, True, True, False,
        ]  # fmt: skip
        places = {inode(array) for array in held[:2]}
        held.clear()
        assert {inode(a) for a in [pool.put(ints(1)), pool.put(ints(2))]} == places


@pytest.mark.parametrize("bound", BOUNDS)
def test_raises_at_the_bound(bound):
    """A full pool that shall raise does so, and works on."""
    with memfd.BufferPool(**bound, when_full="raise") as pool:
        held = [pool.put(ints(value)) for value in range(2)]
        for fill in (lambda: pool.put(ints(2)), lambda: pool.empty(SIZE // 8)):
            with pytest.raises(BufferError, match="2 blocks.* is full"):
                fill()
        held.pop()
        assert (pool.put(ints(3)) == 3).all()


def test_blocks_of_another_size_make_room():
    """At the bound, free blocks of other sizes are given back for a new one."""
    with memfd.BufferPool(max_bytes=3 * SIZE, when_full="raise") as pool:
        held = pool.put(ints(0))
        pool.put(np.zeros(SIZE // 2, "u1"))
        pool.put(np.zeros(SIZE // 4, "u1"))
        larger = pool.put(np.zeros(2 * SIZE, "u1"))
        assert pool.stats()[:2] == (2, 3 * SIZE)
        with pytest.raises(BufferError):
            pool.put(np.zeros(10, "u1"))
        del larger
        pool.put(np.zeros(10, "u1"))
        assert (held == 0).all()


def test_too_large_for_the_pool():
    """What never fits is refused instead of waiting for ever, or is not in the pool."""
    with memfd.BufferPool(max_bytes=100, when_full="wait") as pool:
        with pytest.raises(ValueError, match="never fit"):
            pool.put(ints(1))
    with memfd.BufferPool(max_blocks=0) as pool:
        assert (pool.put(ints(1)) == 1).all()
        assert pool.stats()[:3] == (0, 0, 0)


def test_what_is_too_large_costs_nothing():
    """No free block is given back for what would not fit all the same."""
    with memfd.BufferPool(max_bytes=4 * SIZE) as pool:
        held = [pool.put(ints(n)) for n in range(2)]
        pool.put(np.zeros(SIZE, "i1")[:-1])
        for size in (3 * SIZE, 5 * SIZE):
            assert pool.put(np.ones(size, "u1")).all()
        assert pool.stats().blocks == 3
        assert (held[1] == 1).all()


def test_blocks_of_many_sizes(pool):
    """Of sizes that are not used any more only few blocks are kept."""
    for size in range(1, 200):
        pool.put(np.ones(size, "u1"))
    assert pool.stats().blocks < 20


def test_waits_for_an_array_here():
    """Who waits gets the memory of an array that another thread drops."""
    with memfd.BufferPool(max_blocks=1, when_full="wait", timeout=30) as pool:
        held = [pool.put(ints(1))]
        place = inode(held[0])
        threading.Timer(0.05, held.clear).start()
        assert inode(pool.put(ints(2))) == place


def test_waits_for_room():
    """Who waits for another size gets the room of what is dropped."""
    with memfd.BufferPool(max_bytes=SIZE, when_full="wait", timeout=30) as pool:
        held = [pool.put(ints(1))]
        threading.Timer(0.05, held.clear).start()
        assert (pool.put(np.ones(100, "u1")) == 1).all()
        assert pool.stats()[:2] == (1, 100)


def test_waits_for_a_killed_reader():
    """Who waits gets the memory that a process held when it was killed."""
    with memfd.BufferPool(max_blocks=1, when_full="wait", timeout=30) as pool:
        array = pool.put(ints(1))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)
        os.close(read)
        os.close(write)
        del array
        threading.Timer(0.05, os.kill, (child, signal.SIGKILL)).start()
        assert (pool.put(ints(2)) == 2).all()
        os.waitpid(child, 0)


def test_waits_while_another_waits_for_more():
    """Who waits for little is not kept back by who waits for more than there will be."""
    with memfd.BufferPool(max_bytes=9 * SIZE, when_full="wait", timeout=30) as pool:
        held = [pool.put(np.ones(6 * SIZE, "u1")), pool.put(np.ones(3 * SIZE, "u1"))]
        large = threading.Thread(target=pool.put, args=(np.ones(8 * SIZE, "u1"),))
        large.start()
        threading.Timer(0.05, held.pop).start()
        small = pool.put(np.ones(2 * SIZE, "u1"))
        assert (small == 1).all()
        del small
        held.clear()
        large.join()


def test_a_signal_handler_waits_in_a_wait(run):
    """A signal handler can put while the thread that it interrupts waits."""
    run(
        """
        import os, signal, threading
        import memfd, numpy as np
        pool = memfd.BufferPool(max_blocks=1, when_full="wait", timeout=30)
        held = [pool.put(np.arange(10))]
        def handler(*_):
            held.clear()
            assert pool.put(np.arange(10)).sum() == 45
        signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert pool.put(np.arange(10)).sum() == 45
        """
    )


def test_a_pool_is_closed_under_who_waits():
    """Who waits for a pool that is closed meanwhile gets the error of a closed one."""
    with memfd.BufferPool(max_blocks=1, when_full="wait", timeout=float("inf")) as pool:
        held = pool.put(ints(1))
        threading.Timer(0.05, pool.close).start()
        with pytest.raises(ValueError, match="closed"):
            pool.put(ints(2))
        assert (held == 1).all()


def test_a_pool_is_closed_between_two_looks():
    """Closing makes room in a pool, which nobody gets who looks for it just then."""
    with memfd.BufferPool(max_blocks=1, when_full="wait") as pool:
        held = pool.put(ints(1))
        place = pool._place

        def close_and_place(nbytes):
            pool.close()
            return place(nbytes)

        pool._place = close_and_place
        with pytest.raises(ValueError, match="closed"):
            pool.put(ints(2))
        assert (held == 1).all()


def test_waits_in_vain():
    """A wait that takes too long is a TimeoutError, and nothing is lost."""
    with memfd.BufferPool(max_blocks=1, when_full="wait", timeout=0.05) as pool:
        held = pool.put(ints(1))
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"full for 0\.05 seconds"):
                pool.put(ints(2))
        assert (held == 1).all()
        del held
        assert (pool.put(ints(2)) == 2).all()


def test_many_wait():
    """Of many threads that wait, each gets its turn."""
    with memfd.BufferPool(max_blocks=2, when_full="wait", timeout=60) as pool:
        wrong = []

        def work(value):
            for _ in range(50):
                array = pool.put(ints(value))
                if not (array == value).all():
                    wrong.append(value)
                del array

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert pool.stats().blocks <= 2
        assert pool.stats().in_use == 0


def test_a_wait_can_be_interrupted(run):
    """Ctrl-C ends a wait."""
    run(
        """
        import os, signal, threading
        import memfd, numpy as np
        pool = memfd.BufferPool(max_blocks=1, when_full="wait")
        held = pool.put(np.arange(10))
        try:
            # On a busy machine the signal may come before there is a wait.
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            pool.put(np.arange(10))
        except KeyboardInterrupt:
            del held
            assert pool.put(np.arange(10)).sum() == 45
        else:
            raise AssertionError("it got memory")
        """
    )


# --- who has what --------------------------------------------------------------------


def test_stats(pool):
    """Blocks and bytes are counted, and so is who holds how many of them."""
    assert pool.stats() == (0, 0, 0, {})
    first, second = pool.put(ints(1)), pool.put(np.zeros(100, "u1"))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        del first
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    stats = pool.stats()
    assert stats == (2, SIZE + 100, 2, {os.getpid(): 2, child: 1})
    assert stats.blocks == 2
    assert stats.holders[child] == 1
    del first, second
    assert pool.stats() == (2, SIZE + 100, 1, {child: 1})
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert pool.stats() == (2, SIZE + 100, 0, {})


def test_trim(pool):
    """Memory that nobody has is given back, and the rest stays."""
    held = pool.put(ints(1))
    pool.put(ints(2))
    pool.put(np.zeros(100, "u1"))
    assert pool.trim() == SIZE + 100
    assert pool.trim() == 0
    assert pool.stats()[:3] == (1, SIZE, 1)
    assert (held == 1).all()


def test_closed():
    """A closed pool takes nothing; its arrays go on, and their memory goes with them."""
    with memfd.BufferPool(name="closed") as pool:
        held = pool.put(ints(1))
        pool.put(ints(2))
        assert not pool.closed
    assert pool.closed
    assert "closed" in repr(pool)
    for fill in (lambda: pool.put(ints(3)), lambda: pool.empty(3)):
        with pytest.raises(ValueError, match="closed"):
            fill()
    assert (held == 1).all()
    assert held.memfd.name == "closed"
    pool.close()


def test_arrays_outlive_their_pool():
    """An array keeps its memory when the pool is gone."""
    pool = memfd.BufferPool()
    array, writable = pool.put(ints(1)), pool.empty(10)
    del pool
    gc.collect()
    writable[:] = 2
    assert (array == 1).all()
    assert (writable == 2).all()


def test_repr(pool):
    """A pool says how much it has."""
    pool.put(np.zeros(2048, "u1"))
    assert repr(pool) == "<memfd.BufferPool 1 blocks, 2 KiB>"


def test_names():
    """Memfds are named after the array they were made for, or as the pool says."""
    with memfd.BufferPool() as pool:
        assert pool.put(np.zeros((2, 3), "f4")).memfd.name == "float32[2,3]"
    with memfd.BufferPool(name="camera") as pool:
        assert pool.put(np.zeros((2, 3), "f4")).memfd.name == "camera"


# --- what arrays can do --------------------------------------------------------------


def test_freeze_says_what_to_do(pool):
    """A frame cannot be made immutable in place; a copy can."""
    array = pool.empty(3)
    array[:] = 5
    with pytest.raises(ValueError, match=r"BufferPool.*memfd\.share\(\)"):
        memfd.freeze(array)
    frozen = memfd.freeze(array, copy=True)
    shared = memfd.share(array)
    array[:] = 6
    assert frozen.tolist() == shared.tolist() == [5, 5, 5]
    assert shared.memfd.seals & Seal.IMMUTABLE == Seal.IMMUTABLE


def test_pickled_by_value_elsewhere(pool):
    """Outside of multiprocessing it is an ordinary array."""
    array = pool.put(ints(1))
    copy = pickle.loads(pickle.dumps(array))
    assert type(copy) is np.ndarray
    np.testing.assert_array_equal(copy, array)
    file = io.BytesIO()
    np.save(file, array)


def test_with_a_closed_descriptor(pool):
    """Closing the descriptor takes no memory away, and is no reason to use it again."""
    array = pool.put(ints(1))
    array.memfd.close()
    other = pool.put(ints(2))
    assert (array == 1).all()
    assert (other == 2).all()
    with pytest.raises(ValueError, match="closed"):
        multiprocessing.Pipe()[0].send(array)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_read_and_cannot_write(pool, method):
    """Workers get views of the same memory, for reading only; then it is used again."""
    context = multiprocessing.get_context(method)
    with context.Pool(2) as workers:
        for turn in range(5):
            written = pool.empty(SIZE // 8, int)
            written[:] = turn
            for array in (pool.put(ints(turn)), written, written[::2]):
                sums = workers.map(np.sum, [array] * 3)
                assert sums == [turn * array.size] * 3
                writeable = operator.attrgetter("flags.writeable")
                assert workers.map(writeable, [array] * 3) == [False] * 3
            del array, written
        # Two at a time, and what a worker has not yet dropped after its answer.
        assert pool.stats().blocks <= 6
        array = pool.put(ints(7))
        reopen = operator.methodcaller("reopen", "r+")
        with workers.apply(reopen, (array.memfd,)) as reopened:
            with pytest.raises(PermissionError):
                reopened.write(b"x")
        assert (array == 7).all()
    workers.join()


def test_through_a_socket(pool):
    """Who trusts the sender takes what is not immutable; nobody else does."""
    here, there = socket.socketpair()
    with here, there:
        memfd.send(here, pool.put(ints(1))[::2])
        assert (memfd.recv_array(there, require=Seal.SHRINK) == 1).all()
        memfd.send(here, pool.put(ints(2)))
        with pytest.raises(memfd.SealError, match="WRITE"):
            memfd.recv_array(there, require=Seal.IMMUTABLE)


def receive(message, connection):
    """Load a pickled message in another process, and tell what comes of it."""
    child = os.fork()
    if child == 0:
        try:
            got = ForkingPickler.loads(message)
            array = memfd.attach(got) if isinstance(got, memfd.Memfd) else got
            connection.send(array.tolist())
        except ConnectionError as error:
            connection.send(str(error))
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["array", "memfd"])
def test_a_message_that_is_read_twice(pool, kind):
    """Who reads a message once more gets an error, and never a later frame."""
    here, there = multiprocessing.Pipe()
    with here, there:
        messages = []
        for number in range(3):
            array = pool.put([number])
            sent = array if kind == "array" else array.memfd
            messages.append(ForkingPickler.dumps(sent))
            assert pool.stats().blocks == 1
            del sent
            receive(messages[-1], there)
            assert here.recv() == [number]
            assert memfd.pending() == 0
            if number < 2:
                del array
        # The last is there; its descriptors have the numbers of those before.
        for message in messages[:2]:
            receive(message, there)
            answer = here.recv()
            assert "received" in answer, answer


def test_a_child_writes_for_itself(pool):
    """What a child writes into an inherited array is sent as it is, by value."""
    here, there = multiprocessing.Pipe()
    array = pool.empty(3, int)
    with here, there:
        child = os.fork()
        if child == 0:
            array[:] = 7
            there.send(array)
            try:
                memfd.attach(array)
            except ValueError:
                os._exit(0)
            os._exit(1)
        assert here.recv().tolist() == [7, 7, 7]
        assert os.waitpid(child, 0)[1] == 0
    assert array.tolist() == [0, 0, 0]


# --- accidents -----------------------------------------------------------------------


def test_a_signal_handler_that_raises(run):
    """Wherever a signal handler raises, the pool works on and nothing is lost."""
    run(
        """
        import gc, os, signal
        import memfd, numpy as np

        class Raised(Exception):
            pass

        def handler(*_):
            raise Raised

        def memfds():
            return sum(
                os.path.islink(f"/proc/self/fd/{name}")
                and "memfd:" in os.readlink(f"/proc/self/fd/{name}")
                for name in os.listdir("/proc/self/fd")
            )

        signal.signal(signal.SIGALRM, handler)
        raised = 0
        pool = memfd.BufferPool(max_blocks=4)
        source = np.arange(100_000)
        for turn in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, turn % 300 * 1e-6 + 1e-6)
                a = pool.put(source)
                b = pool.put(source[::-1])
                a.memfd, b.memfd
                del a, b
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Raised:
                raised += 1
            a = b = None
        gc.collect()
        stats = pool.stats()
        assert raised > 100, raised
        assert stats.in_use == 0, stats
        assert 1 <= stats.blocks <= 4, stats
        assert memfds() == stats.blocks
        assert stats.bytes == stats.blocks * source.nbytes
        assert (pool.put(source) == source).all()
        pool.close()
        assert memfds() == 0 and "memfd:" not in open("/proc/self/maps").read()
        """
    )


def test_no_descriptor_is_left(run):
    """Without descriptors `put` raises EMFILE or finds memory, and works again later."""
    run(
        """
        import errno, os, resource
        import memfd, numpy as np
        pool = memfd.BufferPool()
        a = pool.put(np.arange(10))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        for failing in (lambda: pool.put(np.arange(10)), lambda: a.memfd):
            try:
                failing()
            except OSError as error:
                assert error.errno == errno.EMFILE
            else:
                raise AssertionError
        del a
        a = pool.put(np.arange(10))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        b = pool.put(np.arange(10))
        assert pool.stats()[:3] == (2, 160, 2)
        assert a.memfd.size == b.memfd.size
        """
    )


def test_threads_put_at_once(pool):
    """Each of many threads gets what it has put."""
    wrong = []

    def work(value):
        for _ in range(200):
            first, second = pool.put(ints(value)), pool.empty(value + 1, "u1")
            if not (first == value).all() or second.any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool.stats().in_use == 0


def test_after_a_fork(pool):
    """A child begins with an empty pool, also where a thread had the lock."""
    held = pool.put(ints(1))
    with pool._lock:
        child = os.fork()
        if child == 0:
            ok = pool.stats() == (0, 0, 0, {})
            ok = ok and (pool.put(ints(2)) == 2).all() and (held == 1).all()
            held = pool.put(held)
            ok = ok and pool.stats().blocks == 1 and (held == 1).all()
            os._exit(not ok)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.stats()[:3] == (1, SIZE, 1)


def test_a_child_passes_on_what_it_inherited(pool):
    """What a child has from its parent it can send, by its own descriptor."""
    here, there = socket.socketpair()
    array = pool.put(ints(1))
    child = os.fork()
    if child == 0:
        memfd.send(here, array)
        os._exit(0)
    with here, there:
        del array
        assert os.waitpid(child, 0)[1] == 0
        assert not pool.trim()
        assert (memfd.recv_array(there, require=Seal.SHRINK) == 1).all()
    assert pool.trim() == SIZE


# --- where the kernel does not tell --------------------------------------------------


def test_of_another_user(run):
    """Blocks of another user are not used again but dropped; new ones are."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    run(
        """
        import os
        import memfd, numpy as np
        pool = memfd.BufferPool()
        first = pool.put(np.arange(10))
        del first
        os.setegid(65534)
        os.seteuid(65534)
        second = pool.put(np.arange(10))
        del second
        third = pool.put(np.arange(10))
        assert third.sum() == 45
        fourth = pool.put(np.arange(10))
        assert pool.stats()[:3] == (2, 160, 2), pool.stats()
        del third
        assert pool.put(np.arange(10)).sum() == 45
        assert pool.stats()[:3] == (2, 160, 1), pool.stats()
        """
    )


WITHOUT = """
    import os, sys
    import memfd, numpy as np
    pool = memfd.BufferPool(when_full="raise")
    assert not pool.reuses
    a = pool.put(np.arange(10))
    b = pool.empty(10, int)
    b[:] = a
    assert a.tolist() == b.tolist() == list(range(10))
    assert pool.stats()[:3] == (0, 0, 0)
    sealed = memfd.Seal.WRITE, memfd.Seal.FUTURE_WRITE, memfd.Seal.SHRINK
    print(*(bool(x.memfd.seals & seal) for x in (a, b) for seal in sealed))
"""


def test_without_leases(run, strace):
    """Where the kernel grants no leases nothing is used again, and readers cannot write."""
    number = (
        1024  # F_SETLEASE: the only one of these calls that files of a folder refuse
    )
    assert number
    out = run(
        WITHOUT, wrapper=[*strace("fcntl:error=EINVAL:when=2+"), "-P", "/memfd:probe"]
    )
    assert out == "True False True False True True\n"


def test_without_proc(run, namespace):
    """Without /proc arrays are as `share` and `empty` make them."""
    hide = ["sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    out = run(WITHOUT, wrapper=[*namespace("--mount"), *hide])
    assert out == "True False True False False True\n"


@pytest.mark.parametrize("options", [(), ("--stop",), ("--fork",)])
def test_stress(options):
    """Whatever readers do, each frame is one that was sent, and all memory returns."""
    program = pathlib.Path(__file__).with_name("stress.py")
    finished = subprocess.run(
        [sys.executable, program, "4", *options], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "0 in use; left over: []" in finished.stdout
