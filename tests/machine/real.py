"""The steps as they are really taken, with what the package offers."""

import ctypes
import mmap
import os
import re
import traceback

import numpy as np
from formats import MARK

import memfd


def of(one, how):
    return one.fileno() if how == "fd" else one.path if how == "path" else one


class Real:
    """The steps, with what the package offers; run in any process."""

    def __init__(self, sockets):
        self.objects = {}
        self.ends = sockets

    def create(self, new, label, size, sealable, executable):
        self.objects[new] = memfd.create(
            label, size, sealable=sealable, executable=executable
        )

    def from_bytes(self, new, label, data):
        self.objects[new] = memfd.from_bytes(data, label)

    def close(self, one):
        if isinstance(one, (memfd.Array, memfd.ArrayDict)):
            one = next(iter(one.values())) if isinstance(one, memfd.ArrayDict) else one
            while not isinstance(one, memfd.Mapping):
                one = one.obj if isinstance(one, memoryview) else one.base
        one.close()

    def drop(self, number):
        del self.objects[number]

    def write(self, one, data):
        return one.write(data)

    def read(self, one, size):
        return one.read(size)

    def seek(self, one, offset, whence):
        at = one.seek(offset, whence)
        assert one.tell() == at
        return at

    def move(self, one, offset):
        os.lseek(one.fileno(), offset, os.SEEK_SET)

    def truncate(self, one, size):
        return one.truncate(size)

    def open_truncated(self, one):
        open(one.path, "wb").close()

    def reopen(self, new, one, mode):
        self.objects[new] = one.reopen(mode)

    def from_fd(self, new, one, require, max_size, dense, copy):
        fd = os.dup(one.fileno())
        try:
            self.objects[new] = memfd.Memfd.from_fd(
                fd, require=require, max_size=max_size, dense=dense, copy=copy
            )
        except BaseException:
            os.close(fd)  # it is still ours
            raise

    def seal(self, one, seals):
        return int(one.seal(seals))

    def map(self, new, one, kind, mode, offset, size):
        if kind == "mmap":
            self.objects[new] = one.mmap(mode, offset, size)
        else:
            self.objects[new] = memfd.Mapping(one, mode, offset, size)

    def export(self, new, one, kind):
        if kind == "memoryview":
            self.objects[new] = memoryview(one)
        elif kind == "frombuffer":
            self.objects[new] = np.frombuffer(one, np.uint8)
        else:
            size = len(one) or 1
            self.objects[new] = np.ndarray(size, np.uint8, one)

    def store(self, one, start, data):
        if isinstance(one, np.ndarray):
            one[start : start + len(data)] = np.frombuffer(data, np.uint8)
        else:
            with memoryview(one) as view:
                view[start : start + len(data)] = data

    def scribble(self, one, start, byte):
        if isinstance(one, memfd.Mapping):
            address = one.address + start
        elif isinstance(one, memfd.Array):
            address = one.ctypes.data
        else:
            array = np.frombuffer(one, np.uint8)
            address = array.ctypes.data + start
        ctypes.memset(address, byte, 1)

    def share(self, new, shape, data, mode):
        array = np.frombuffer(data, np.uint8).reshape(shape)
        self.objects[new] = memfd.share(array, mode=mode)

    def empty(self, new, shape):
        self.objects[new] = memfd.empty(shape, np.uint8)

    def share_again(self, new, one, mode):
        self.objects[new] = memfd.share(one, mode=mode)

    def share_dict(self, new, arrays, mode):
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in arrays.items()}
        self.objects[new] = memfd.share(arrays, mode=mode)

    def pick(self, new, one, name):
        self.objects[new] = one[name]

    def cut(self, new, one, index):
        self.objects[new] = one[index]

    def assign(self, one, byte):
        one[...] = byte

    def memfd_of(self, new, one):
        if one.memfd is not None:
            self.objects[new] = one.memfd
        return one.memfd is not None

    def attach(self, new, one, how, mode, require):
        self.objects[new] = memfd.attach(of(one, how), mode, require=require)

    def freeze(self, new, one, copy):
        self.objects[new] = memfd.freeze(one, copy=copy)

    def dump(self, new, data):
        marked = np.frombuffer(MARK + bytes([len(data)]) + data, np.uint8)
        self.objects[new] = memfd.dump({"array": marked, "text": "x"})

    def load(self, new, one, mode, require):
        self.objects[new] = memfd.load(one, mode, require=require)

    def send(self, one):
        memfd.send(self.ends[0], one)

    def recv(self, new, require, dense, copy):
        self.objects[new] = memfd.recv(
            self.ends[1], require=require, dense=dense, copy=copy
        )

    def recv_array(self, new, mode, require, dense, copy):
        self.objects[new] = memfd.recv_array(
            self.ends[1], mode, require=require, dense=dense, copy=copy
        )

    def look(self):
        return {number: self.seen(one) for number, one in self.objects.items()}

    def seen(self, one):
        if isinstance(one, memfd.Memfd):
            if one.closed:
                return "closed"
            data = os.pread(one.fileno(), 1 << 20, 0)
            return one.size, int(one.seals), one.name, data
        if isinstance(one, (memfd.Mapping, mmap.mmap)):
            if one.closed:
                return "closed"
            mode = one.mode if isinstance(one, memfd.Mapping) else None
            with memoryview(one) as view:
                return mode, bytes(view)
        if isinstance(one, memoryview):
            return bytes(one)
        if isinstance(one, memfd.ArrayDict):
            arrays = {name: array.tobytes() for name, array in one.items()}
            return one.memfd is not None, arrays
        if isinstance(one, memfd.Array):
            return one.memfd is not None, one.flags.writeable, one.shape, one.tobytes()
        if isinstance(one, dict):
            assert one["text"] == "x"
            return one["array"].flags.writeable, one["array"].tobytes()
        return one.tobytes()

    def raw(self, one):
        one = one if isinstance(one, memfd.Memfd) else one.memfd
        return os.pread(one.fileno(), 1 << 20, 0)

    def perform(self, step, arguments):
        """Take a step; an argument ("object", number) stands for one of our objects."""
        try:
            arguments = [
                self.objects[one[1]]
                if type(one) is tuple and one[:1] == ("object",)
                else one
                for one in arguments
            ]
            return "returned", getattr(self, step)(*arguments)
        except Exception as error:
            pids = re.search(r"mapped writable by ([\d, ]+)", str(error))
            pids = sorted(map(int, pids[1].split(", "))) if pids else []
            number = getattr(error, "errno", None)
            name = type(error).__name__
            return (
                "raised",
                (name, number, pids),
                "".join(traceback.format_exception(error)),
            )
