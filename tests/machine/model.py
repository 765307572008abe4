"""The model: the rules of the kernel, and those of the package, in code."""

import copy
import errno
import io

import numpy as np
from formats import MARK, npy_header, places_of, table_of
from kernel import BORN, COUNTS_PAGES, FORGES, HAS_EXEC, PAGE, WRITES_BEFORE_END
from objects import Array, Arrays, Description, File, Handle, Loaded, Region, View
from refusal import Refused, eperm

import memfd
from memfd import Seal

SEALED = Seal.IMMUTABLE | Seal.SEAL
FIXED = Seal.SHRINK | Seal.GROW
NO_WRITE = Seal.WRITE | Seal.FUTURE_WRITE


class Model:
    """What each step returns, or refuses, and what is different afterwards.

    The names are those of `Real`, and so are the arguments, but for objects.
    """

    def __init__(self):
        self.processes = []
        self.sent = []  # and not received yet

    # Files.

    def create(self, me, new, label, size, sealable, executable):
        seals = 0 if executable and HAS_EXEC else BORN
        file = File(b"", seals if sealable else seals | Seal.SEAL, label)
        file.executable = executable
        file.resize(size)
        me.objects[new] = Handle(Description(file))

    def from_bytes(self, me, new, label, data):
        file = File(data, BORN | SEALED, label)
        me.objects[new] = Handle(Description(file))

    def close(self, me, one):
        if isinstance(one, Handle):
            one.closed = True
        elif isinstance(one, Region):
            if one.closed:
                return
            if me.exports(one):
                raise Refused(BufferError)
            one.close()
        else:  # the memory of an Array
            raise Refused(BufferError)

    def drop(self, me, number):
        del me.objects[number]

    def write(self, me, handle, data):
        description, file = handle.own(), handle.file
        if not description.writable:
            raise Refused(io.UnsupportedOperation)
        start, end = description.position, description.position + len(data)
        if data and file.seals & NO_WRITE:
            raise eperm()
        if data and end > len(file.data) and file.seals & Seal.GROW:
            fits = len(file.data) // PAGE * PAGE - start if WRITES_BEFORE_END else 0
            if fits > 0:
                file.put(start, data[:fits])
                description.position += fits
            raise eperm()
        if data:
            file.put(start, data)
        description.position = end
        return len(data)

    def read(self, me, handle, size):
        description = handle.own()
        start = description.position
        found = bytes(handle.file.data[start:])
        found = found if size < 0 else found[:size]
        description.position += len(found)
        return found

    def seek(self, me, handle, offset, whence):
        description = handle.own()
        base = (0, description.position, len(handle.file.data))[whence]
        if base + offset < 0:
            raise Refused(OSError, errno.EINVAL)
        description.position = base + offset
        return description.position

    def move(self, me, handle, offset):
        handle.check()
        handle.description.position = offset

    def truncate(self, me, handle, size):
        if size is None:
            size = handle.own().position
        handle.check()
        if size < 0:
            raise Refused(ValueError)
        file = handle.file
        shrinks, grows = size < len(file.data), size > len(file.data)
        if shrinks and not file.seals & Seal.SHRINK and me.regions(file):
            raise Refused(BufferError)
        if not handle.description.writable:
            raise Refused(OSError, errno.EINVAL)
        if (shrinks and file.seals & Seal.SHRINK) or (grows and file.seals & Seal.GROW):
            raise eperm()
        file.resize(size)
        return size

    def open_truncated(self, me, handle):
        handle.check()
        if handle.file.data and handle.file.seals & Seal.SHRINK:
            raise eperm()
        handle.file.resize(0)

    def reopen(self, me, new, handle, mode):
        handle.check()
        me.objects[new] = Handle(Description(handle.file, mode == "r+"))

    def from_fd(self, me, new, handle, require, max_size, dense, copy):
        handle.check()
        me.objects[new] = self.gate(handle.description, require, max_size, dense, copy)

    def gate(self, description, require, max_size=None, dense=False, copy=False):
        """Return what a descriptor from elsewhere becomes."""
        file, must_copy = description.file, False
        if require is not None:
            missing = require & ~file.seals
            forged = (
                require
                and file.seals & Seal.EXEC
                and (
                    file.executable
                    or (
                        FORGES
                        and file.seals & require & Seal.WRITE
                        and file.seals & Seal.FUTURE_WRITE
                    )
                )
            )
            must_copy = bool(missing or forged)
            if must_copy and not copy:
                raise Refused(memfd.SealError)
            holes = file.has_holes()
            if not COUNTS_PAGES and not file.seals & Seal.WRITE and file.data:
                holes = not must_copy
            if holes and dense:
                raise Refused(ValueError)
        if max_size is not None and len(file.data) > max_size:
            raise Refused(ValueError)
        if not must_copy:
            return Handle(description, foreign=True)
        copied = File(file.data, BORN | SEALED, file.label)
        copied.kind, copied.head = file.kind, file.head
        return Handle(Description(copied))

    # Seals.

    def seal(self, me, handle, seals):
        handle.check()
        self.add_seals(me, handle, seals)
        return handle.file.seals

    def add_seals(self, me, handle, seals, leaving=()):
        """Add seals while the regions in `leaving` are not shared."""
        file = handle.file
        if file.seals & seals == seals:
            return
        if not handle.description.writable:
            raise eperm()
        if seals & ~0x3F or (seals & Seal.EXEC and not HAS_EXEC):
            raise Refused(OSError, errno.EINVAL)
        if file.seals & Seal.SEAL:
            raise eperm()
        asked = seals
        if seals & Seal.EXEC and file.executable:
            seals |= Seal.IMMUTABLE | Seal.FUTURE_WRITE
        checked = asked if FORGES else seals
        if checked & Seal.WRITE and not file.seals & Seal.WRITE:
            writers = [
                process
                for process in self.processes
                for region in process.regions(file)
                if region.mode == "r+" and region not in leaving
            ]
            if me in writers:
                raise Refused(BufferError)
            if writers:
                pids = {process.pid for process in writers}
                raise Refused(OSError, errno.EBUSY, pids)
        file.seals |= seals

    # Memory.

    def map(self, me, new, handle, kind, mode, offset, size):
        handle.check()
        end = len(handle.file.data)
        if offset % PAGE or not 0 <= offset < end:
            raise Refused(ValueError)
        size = end - offset if size is None else size
        if not 0 < size <= end - offset:
            raise Refused(ValueError)
        me.objects[new] = self.mapped(kind, handle, mode, offset, size)

    def mapped(self, kind, handle, mode, offset, size):
        if mode == "r+" and not handle.description.writable:
            raise Refused(PermissionError, errno.EACCES)
        if mode == "r+" and handle.file.seals & NO_WRITE:
            raise eperm()
        return Region(kind, handle.file, mode, offset, size)

    def memory(self, handle, mode):
        """Return what an Array lies in: all of a memfd."""
        region = self.mapped("Memory", handle, mode, 0, len(handle.file.data))
        region.handle = handle
        return region

    def export(self, me, new, region, kind):
        if region.closed:
            raise Refused(ValueError)
        me.objects[new] = View(region, kind)

    def store(self, me, one, start, data):
        region = one if isinstance(one, Region) else one.region
        if isinstance(one, Region) and region.closed:
            raise Refused(ValueError)
        if self.is_readonly(one):
            # Of an array, and of a memoryview or what is about to be one.
            numpy = isinstance(one, View) and one.kind != "memoryview"
            raise Refused(ValueError if numpy else TypeError)
        region.store(range(start, start + len(data)), data)

    def is_readonly(self, one):
        """Tell what was so when the view was made: later it may be private."""
        region = one if isinstance(one, Region) else one.region
        return region.mode == "r"

    def scribble(self, me, one, start, byte):
        region = one if isinstance(one, Region) else one.region
        place = start
        if not isinstance(one, (Region, View)):
            place = int(one.places.flat[0])
        region.store([place], [byte])

    # Arrays.

    def share(self, me, new, shape, data, mode):
        head = npy_header(shape)
        file = File(head + data, BORN | (SEALED if mode == "r" else FIXED))
        file.label = f"uint8[{','.join(map(str, shape))}]"
        file.kind, file.head = "npy", head
        region = self.memory(Handle(Description(file)), mode)
        me.objects[new] = Array(region, places_of(shape, len(head)))

    def empty(self, me, new, shape):
        self.share(me, new, shape, bytes(int(np.prod(shape))), "r+")
        file = me.objects[new].region.file
        file.there = set()
        file.touch(0, len(file.head))

    def share_again(self, me, new, one, mode):
        region = one.region
        if mode == "r" and region.mode == "r" and region.handle is not None:
            sealed = region.file.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
            if sealed and not region.handle.closed:
                me.objects[new] = copy.copy(one)
                return
        self.copied(me, new, one, mode)

    def copied(self, me, new, one, mode):
        contents = one.region.contents()
        if isinstance(one, Array):
            data = bytes(np.asarray(contents)[one.places])
            self.share(me, new, one.places.shape, data, mode)
            return
        head = one.region.file.head
        if contents[: len(head)] != head:
            raise Refused(ValueError)
        file = File(contents, BORN | (SEALED if mode == "r" else FIXED))
        file.label, file.kind, file.head = (
            f"{len(one.table)} arrays",
            "safetensors",
            head,
        )
        region = self.memory(Handle(Description(file)), mode)
        me.objects[new] = Arrays(region, one.table)

    def share_dict(self, me, new, arrays, mode):
        file = File(b"", BORN | (SEALED if mode == "r" else FIXED))
        file.label, file.kind = f"{len(arrays)} arrays", "safetensors"
        me.objects[new] = Arrays(self.memory(Handle(Description(file)), mode), arrays)

    def pick(self, me, new, arrays, name):
        me.objects[new] = Array(arrays.region, arrays.table[name])

    def cut(self, me, new, array, index):
        me.objects[new] = Array(array.region, array.places[index], array.writeable)

    def assign(self, me, array, byte):
        if not array.writeable:
            raise Refused(ValueError)
        places = array.places.ravel().tolist()
        array.region.store(places, [byte] * len(places))

    def memfd_of(self, me, new, one):
        if one.region.handle is not None:
            me.objects[new] = one.region.handle
        return one.region.handle is not None

    def handle_of(self, one):
        """Return the handle whose memfd shows what an array does."""
        region = one.region
        if region.handle is None or region.mode == "c" or region.handle.closed:
            raise Refused(ValueError)
        return region.handle

    def whole(self, handle, mode):
        """Return what is in a memfd."""
        file = handle.file
        if file.kind == "npy":
            shape = np.lib.format.read_array_header_1_0(io.BytesIO(file.head[8:]))[0]
            places = places_of(shape, len(file.head))
            return Array(self.memory(handle, mode), places)
        if file.kind == "safetensors":
            return Arrays(self.memory(handle, mode), table_of(file.data))
        raise Refused(ValueError)

    def attach(self, me, new, one, how, mode, require):
        if isinstance(one, Handle):
            one.check()
            if how == "fd":
                one = self.gate(one.description, require)
            elif how == "path":
                one = self.gate(Description(one.file, mode == "r+"), require)
            else:
                self.gate(one.description, require)
            me.objects[new] = self.whole(one, mode)
            return
        handle = self.handle_of(one)
        self.gate(handle.description, require)
        region = self.memory(handle, mode)
        if isinstance(one, Arrays):
            me.objects[new] = Arrays(region, one.table)
        else:
            me.objects[new] = Array(region, one.places)

    def freeze(self, me, new, one, copy):
        if copy:
            self.copied(me, new, one, "r")
            return
        handle, region = self.handle_of(one), one.region
        fresh = self.memory(handle, "r")
        if handle.file.seals & Seal.IMMUTABLE != Seal.IMMUTABLE:
            leaving = [
                other
                for other in me.regions(handle.file)
                if other.mode == "r+" and other.kind != "mmap"
            ]
            self.add_seals(me, handle, SEALED, leaving)
            for other in leaving:
                other.mode, other.handle = "c", None
        elif region.mode == "r":
            fresh = region
        if isinstance(one, Arrays):
            me.objects[new] = Arrays(fresh, one.table)
        else:
            me.objects[new] = Array(fresh, one.places)
            one.writeable = False

    # Objects.

    def dump(self, me, new, data):
        file = File(b"", BORN | SEALED, "dict")
        file.kind = "object"
        me.objects[new] = Handle(Description(file))

    def load(self, me, new, handle, mode, require):
        handle.check()
        self.gate(handle.description, require)
        if handle.file.kind != "object":
            raise Refused(ValueError)
        data = handle.file.data
        region = Region("object", handle.file, mode, 0, len(data))
        start = data.index(MARK)
        length = data[start + len(MARK)]
        places = places_of((len(MARK) + 1 + length,), start)
        me.objects[new] = Loaded(region, places)

    # Sockets.

    def send(self, me, one):
        if isinstance(one, Handle):
            one.check()
            self.sent.append((one.description, None))
        else:
            handle = self.handle_of(one)
            places = one.places if isinstance(one, Array) else None
            self.sent.append((handle.description, places))

    def recv(self, me, new, require, dense, copy):
        description, _ = self.sent.pop(0)
        me.objects[new] = self.gate(description, require, None, dense, copy)

    def recv_array(self, me, new, mode, require, dense, copy):
        description, places = self.sent.pop(0)
        handle = self.gate(description, require, None, dense, copy)
        if places is None:
            me.objects[new] = self.whole(handle, mode)
        else:
            me.objects[new] = Array(self.memory(handle, mode), places)

    # What all objects of a process show.
