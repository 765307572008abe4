"""The peers: each puts an array where another process can get it, as its documentation
does it.

The sender calls ``handle = put(array)``, sends ``ticket(handle)`` or ``message(handle)``,
and ends with ``drop(handle)``.  The receiver calls ``array, keeper = get(ticket)``, and,
when it has forgotten the array, ``leave(keeper)``.
"""

import contextlib
import glob
import importlib.metadata
import itertools
import mmap
import multiprocessing
import os
import shutil
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np

SHM = "/dev/shm"
AHEAD = 3
# Of all names in /dev/shm that a run gives; spawned workers inherit it.
PREFIX = os.environ.setdefault("COMPARE_PREFIX", f"compare-{os.getpid()}-")
numbers = itertools.count()


def new_name():
    return f"{PREFIX}{next(numbers)}"


def new_path():
    return f"{SHM}/{new_name()}"


def clean():
    """Remove what a peer that failed has left in /dev/shm."""
    for path in glob.glob(f"{SHM}/{PREFIX}*"):
        with contextlib.suppress(OSError):
            os.unlink(path)


class Peer:
    """What a peer does unless it says otherwise."""

    distribution = None  # on PyPI; None: the standard library
    in_shm = True  # takes space in /dev/shm
    # Why a process that has a ticket cannot get the array with it.
    no_ticket = None
    # Of a stream: how many frames may be on their way, and in which kind of queue.
    ahead = AHEAD
    queue = "SimpleQueue"
    buffers = None

    def film(self, source):
        """Have a camera write a frame where it is told to, and put that."""
        if self.buffers is None:
            # None is written again while it is on its way.
            buffers = [np.empty_like(source) for _ in range(self.ahead + 1)]
            self.buffers = itertools.cycle(buffers)
        buffer = next(self.buffers)
        np.copyto(buffer, source)
        return self.put(buffer)

    def send(self, handle, connection):
        """Return what is to be told to a consumer of a stream."""
        return self.message(handle)

    def receive(self, message, connection):
        """Return what was sent, and what has to be kept for it."""
        return self.get(message)

    def ticket(self, handle):
        """Return what another process needs to get the array; small, to be pickled."""
        return handle

    def message(self, handle):
        """Return what a user of this peer would send through a pipe."""
        return self.ticket(handle)

    def get(self, ticket):
        return ticket, None

    def leave(self, keeper):
        pass

    def drop(self, handle):
        pass

    def fill(self, array):
        """Put an array where another process can get it, and drop it."""
        self.drop(self.put(array))

    def stop(self):
        """Give back what was there for all arrays."""


class Memfd(Peer):
    name = "memfd"
    distribution = "memfd"
    in_shm = False
    options = {}  # noqa: RUF012

    def __init__(self):
        import memfd

        self.library = memfd
        memfd.share(np.zeros(1), **self.options)

    def put(self, array):
        return self.library.share(array, **self.options)

    def ticket(self, handle):
        return f"/proc/{os.getpid()}/fd/{handle.memfd.fileno()}"

    def message(self, handle):
        return handle

    def get(self, ticket):
        if isinstance(ticket, str):
            return self.library.attach(ticket), None
        return ticket, None


class MemfdThreads(Memfd):
    name = "memfd, 2 threads"
    options = {"threads": 2}  # noqa: RUF012


class MemfdShare(Memfd):
    """The same under the name that it has beside the pool."""

    name = "memfd.share"


class MemfdPool(Memfd):
    name = "memfd.BufferPool"

    def __init__(self):
        super().__init__()
        # What is on its way, and what is being filled.
        self.pool = self.library.BufferPool(max_blocks=self.ahead + 1, when_full="wait")

    def put(self, array):
        return self.pool.put(array)

    def film(self, source):
        array = self.pool.empty(source.shape, source.dtype, clear=False)
        np.copyto(array, source)
        return array

    def send(self, handle, connection):
        self.library.send(connection, handle)

    def receive(self, message, connection):
        shrink = self.library.Seal.SHRINK
        return self.library.recv_array(connection, require=shrink), None

    def stop(self):
        self.pool.close()


class MemfdPoolTwo(MemfdPool):
    """The same where a frame is to be there soon, rather than many of them."""

    name = "memfd.BufferPool, 2 ahead"
    ahead = 2


class SharedMemoryBlock(Peer):
    name = "SharedMemory"

    def put(self, array):
        block = SharedMemory(create=True, size=array.nbytes)
        np.ndarray(array.shape, array.dtype, buffer=block.buf)[:] = array
        return block, array.shape, array.dtype

    def film(self, source):
        return self.put(source)  # into the block, which the camera can be told, too

    def ticket(self, handle):
        block, shape, dtype = handle
        return block.name, shape, dtype

    def get(self, ticket):
        name, shape, dtype = ticket
        block = SharedMemory(name)
        return np.ndarray(shape, dtype, buffer=block.buf), block

    def leave(self, keeper):
        keeper.close()

    def drop(self, handle):
        handle[0].close()
        handle[0].unlink()


class MappedMemfd(Peer):
    name = "mmap on memfd_create"
    in_shm = False

    def put(self, array):
        fd = os.memfd_create("array")
        os.ftruncate(fd, array.nbytes)
        mapped = mmap.mmap(fd, array.nbytes)
        np.frombuffer(mapped, array.dtype).reshape(array.shape)[:] = array
        return fd, mapped, array.shape, array.dtype

    def ticket(self, handle):
        fd, _, shape, dtype = handle
        return f"/proc/{os.getpid()}/fd/{fd}", shape, dtype

    def get(self, ticket):
        path, shape, dtype = ticket
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, dtype).reshape(shape), mapped

    def leave(self, keeper):
        keeper.close()

    def drop(self, handle):
        fd, mapped, *_ = handle
        mapped.close()
        os.close(fd)


class PosixIPC(Peer):
    name = "posix_ipc"
    distribution = "posix_ipc"

    def __init__(self):
        import posix_ipc

        self.library = posix_ipc

    def put(self, array):
        name = f"/{new_name()}"
        memory = self.library.SharedMemory(name, self.library.O_CREX, size=array.nbytes)
        mapped = mmap.mmap(memory.fd, memory.size)
        memory.close_fd()
        np.frombuffer(mapped, array.dtype).reshape(array.shape)[:] = array
        return memory, mapped, array.shape, array.dtype

    def ticket(self, handle):
        memory, _, shape, dtype = handle
        return memory.name, shape, dtype

    def get(self, ticket):
        name, shape, dtype = ticket
        memory = self.library.SharedMemory(name)
        mapped = mmap.mmap(memory.fd, memory.size)
        memory.close_fd()
        return np.frombuffer(mapped, dtype).reshape(shape), mapped

    def leave(self, keeper):
        keeper.close()

    def drop(self, handle):
        memory, mapped, *_ = handle
        mapped.close()
        memory.unlink()


class SharedArrays(Peer):
    name = "SharedArray"
    distribution = "SharedArray"

    def __init__(self):
        import SharedArray

        self.library = SharedArray

    def put(self, array):
        name = f"shm://{new_name()}"
        self.library.create(name, array.shape, array.dtype)[:] = array
        return name

    def get(self, ticket):
        return self.library.attach(ticket), None

    def drop(self, handle):
        self.library.delete(handle)


class NumpyMemmap(Peer):
    name = "numpy.memmap"
    distribution = "numpy"

    def put(self, array):
        path = new_path()
        mapped = np.memmap(path, array.dtype, mode="w+", shape=array.shape)
        mapped[:] = array
        mapped.flush()
        return path, array.dtype, array.shape

    def get(self, ticket):
        path, dtype, shape = ticket
        return np.memmap(path, dtype, mode="r", shape=shape), None

    def drop(self, handle):
        os.unlink(handle[0])


class Joblib(Peer):
    name = "joblib"
    distribution = "joblib"

    def __init__(self):
        import joblib

        self.library = joblib

    def put(self, array):
        path = new_path()
        self.library.dump(array, path)
        return path

    def get(self, ticket):
        return self.library.load(ticket, mmap_mode="r"), None

    def drop(self, handle):
        os.unlink(handle)


class Arrow(Peer):
    name = "pyarrow"
    distribution = "pyarrow"

    def __init__(self):
        import pyarrow

        self.library = pyarrow

    def put(self, array):
        path = new_path()
        with self.library.OSFile(path, "wb") as sink:
            self.library.ipc.write_tensor(self.library.Tensor.from_numpy(array), sink)
        return path

    def get(self, ticket):
        with self.library.memory_map(ticket) as source:
            return self.library.ipc.read_tensor(source).to_numpy(), None

    def drop(self, handle):
        os.unlink(handle)


class Torch(Peer):
    name = "torch"
    distribution = "torch"

    def __init__(self):
        import torch.multiprocessing  # registers tensors with multiprocessing's pickler

        self.library = torch

    def put(self, array):
        return self.library.from_numpy(array).share_memory_()

    def get(self, ticket):
        return ticket.numpy(), ticket


class PyShmem(Peer):
    """One stream, which holds one frame: the next is written when all have seen it.

    Its readers get a view while they have its lock, which is quicker than a copy.
    """

    name = "pyshmem"
    distribution = "pyshmem"
    ahead = 1

    def __init__(self):
        import pyshmem

        self.library = pyshmem
        self.streams = {}
        self.numbers = itertools.cycle(range(self.ahead))

    def put(self, array):
        name = f"{PREFIX}{os.getpid()}-{next(self.numbers)}"
        if name not in self.streams:
            self.streams[name] = self.library.create(
                name, shape=array.shape, dtype=array.dtype
            )
        self.streams[name].write(array)
        return name

    def get(self, ticket):
        if ticket not in self.streams:
            self.streams[ticket] = self.library.open(ticket)
        stream = self.streams[ticket]
        stream.acquire()
        return stream.read(safe=False), stream

    def leave(self, keeper):
        keeper.release()

    def stop(self):
        for stream in self.streams.values():
            stream.unlink()


class PyShmemRing(PyShmem):
    """A stream for each frame on its way, which its documentation does not speak of."""

    name = "pyshmem, a ring"
    ahead = AHEAD


class Ray(Peer):
    name = "Ray"
    distribution = "ray"
    store = 1536 << 20

    def __init__(self):
        os.environ |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        import ray

        self.library = ray
        self.folder = self.error = None

    def start(self):
        """Start Ray in the sender."""
        if self.error is not None:
            raise self.error
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="compare-ray-")
            try:
                self.library.init(
                    num_cpus=os.cpu_count(),
                    object_store_memory=self.store,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    _temp_dir=self.folder,
                )
            except Exception as error:
                self.error = error
                raise
            time.sleep(5)  # its processes go on starting

    def stop(self):
        if self.folder is not None:
            self.library.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def put(self, array):
        return self.library.put(array)

    def ticket(self, handle):
        return [handle]  # in a list, or Ray hands over the array in its place

    def get(self, ticket):
        return self.library.get(ticket[0]), None


class Pickle(Peer):
    name = "pickle"
    in_shm = False
    queue = "Queue"  # whose threads write to all consumers at once
    own = multiprocessing.Queue()
    no_ticket = "the array itself goes through the pipe: see the workers"

    def put(self, array):
        return array

    def fill(self, array):
        # Both ends are here: there is no copy that could be had without a receiver.
        self.own.put(array)
        self.own.get()


PEERS = (
    Memfd,
    MemfdThreads,
    SharedMemoryBlock,
    MappedMemfd,
    PosixIPC,
    SharedArrays,
    NumpyMemmap,
    Joblib,
    Arrow,
    Torch,
    Ray,
    Pickle,
)

# Those that a stream of frames is sent with.
STREAMS = (
    MemfdPool,
    MemfdPoolTwo,
    MemfdShare,
    SharedMemoryBlock,
    PyShmem,
    PyShmemRing,
    Ray,
    Pickle,
)


def version(distribution):
    """Return the version of a distribution that is installed, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None
