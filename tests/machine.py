"""Everything with everything, step by step, against a model:

    python tests/machine.py [--steps N] [--seed S]

Hypothesis chooses the steps: files are made, written, resized, sealed, mapped, exported,
sent, shared, frozen and closed, here and in children that were forked in between.  A small
model of the kernel's rules, docs/seals.md and docs/sharing.md in code, says beforehand what
each step returns or which exception it raises, and afterwards what every object in every
process shows.  Of each example nothing is left: no descriptor and no mapping.

Prints every step before it is taken, so that after a signal the last line says which one.
A run is repeated by its seed.  The long mode is --steps 200000; a thousand take seconds.
Left out: shrinking a memfd under the mapping of another process.  It is a SIGBUS, as the
pages say, and SHRINK is there to forbid it.
"""

import argparse
import copy
import ctypes
import errno
import gc
import io
import json
import mmap
import multiprocessing
import os
import re
import signal
import socket
import sys
import traceback
import warnings
import zlib

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import memfd
from memfd import Seal

PAGE = mmap.PAGESIZE
SEALED = Seal.IMMUTABLE | Seal.SEAL
FIXED = Seal.SHRINK | Seal.GROW
NO_WRITE = Seal.WRITE | Seal.FUTURE_WRITE
MOST_OBJECTS = 16  # of a process
MOST_CHILDREN = 2
LENGTH = 40  # steps of an example


# --- what differs between kernels, found out without the package ----------------------


def raw_memfd(flags, size):
    file = open(os.memfd_create("probe", flags | os.MFD_CLOEXEC), "r+b", buffering=0)
    file.truncate(size)
    return file


def born_with():
    """Return the seals of a memfd that cannot be executed: EXEC since Linux 6.3."""
    try:
        os.close(os.memfd_create("probe", memfd.MFD_NOEXEC_SEAL))
    except OSError:
        return Seal(0)
    return Seal.EXEC


def writes_before_end():
    """Tell whether a write past the end of what cannot grow writes the pages before."""
    with raw_memfd(os.MFD_ALLOW_SEALING, 2 * PAGE) as file:
        memfd.add_seals(file, Seal.GROW)
        try:
            wrote = file.write(b"x" * 3 * PAGE)
        except PermissionError:
            return False
        assert wrote == 2 * PAGE
        return True


def can_be_executable():
    """Tell whether vm.memfd_noexec lets files be executable."""
    try:
        os.close(os.memfd_create("probe", memfd.MFD_EXEC))
    except OSError:
        return False
    return True


def forges():
    """Tell whether EXEC of an executable file seals what is mapped writable, too."""
    with raw_memfd(os.MFD_ALLOW_SEALING | memfd.MFD_EXEC, PAGE) as file:
        with mmap.mmap(file.fileno(), PAGE):
            try:
                memfd.add_seals(file, Seal.EXEC)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True


def counts_pages():
    """Tell whether there is cachestat(2), number 451 (Linux 6.5)."""
    with raw_memfd(0, PAGE) as file:
        area, answer = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)()
        call = ctypes.CDLL(None).syscall
        return call(451, file.fileno(), area, answer, 0) == 0


def has_small_pages():
    """Tell whether a byte that is written takes one page, and not more."""
    with raw_memfd(0, 64 * PAGE) as file:
        file.write(b"x")
        return os.fstat(file.fileno()).st_blocks * 512 == PAGE


BORN = born_with()
HAS_EXEC = bool(BORN)
WRITES_BEFORE_END = writes_before_end()
CAN_BE_EXECUTABLE = can_be_executable()
FORGES = CAN_BE_EXECUTABLE and forges()
COUNTS_PAGES = counts_pages()
HAS_SMALL_PAGES = has_small_pages()


# --- the model ------------------------------------------------------------------------


class Refused(Exception):
    """What a step has to raise: the type, the errno, and the pids in the message."""

    def __init__(self, kind, number=None, pids=()):
        self.outcome = kind.__name__, number, sorted(pids)


def eperm():
    return Refused(PermissionError, errno.EPERM)


class File:
    def __init__(self, data=b"", seals=0, label="", *, executable=False):
        self.data, self.seals, self.label = bytearray(data), int(seals), label
        self.executable = executable
        self.kind, self.head = None, b""  # "npy", "safetensors" or "object", and how
        self.there = set()  # the pages that are no holes
        self.touch(0, len(data))

    def touch(self, start, size):
        if size:
            self.there |= set(range(start // PAGE, (start + size - 1) // PAGE + 1))

    def put(self, start, data):
        if len(self.data) < start + len(data):
            self.data.extend(bytes(start + len(data) - len(self.data)))
        self.data[start : start + len(data)] = data
        self.touch(start, len(data))
        if data and start < len(self.head):
            assert self.data[: len(self.head)] != self.head
            self.kind = None

    def resize(self, size):
        if size < len(self.data):
            del self.data[size:]
            self.there = {page for page in self.there if page * PAGE < size}
        self.data.extend(bytes(size - len(self.data)))

    def has_holes(self):
        return len(self.there) < -(-len(self.data) // PAGE)


class Description:
    """What open(2) makes: shared by all who inherited or received it."""

    def __init__(self, file, writable=True):
        self.file, self.writable, self.position = file, writable, 0


class Handle:
    """A Memfd."""

    def __init__(self, description, foreign=False):
        self.description, self.foreign, self.closed = description, foreign, False

    @property
    def file(self):
        return self.description.file

    def check(self):
        if self.closed:
            raise Refused(ValueError)

    def own(self):
        """Have a position of its own, as at the first read."""
        self.check()
        if self.foreign:
            self.description = Description(self.file, self.description.writable)
            self.foreign = False
        return self.description


class Region:
    """A Mapping, a mmap.mmap, what an Array lies in, or what a dumped object lies in."""

    def __init__(self, kind, file, mode, offset, size, handle=None):
        self.kind, self.file, self.mode = kind, file, mode
        self.offset, self.size, self.handle = offset, size, handle
        self.closed = False
        self.pages = {}  # private ones

    def contents(self):
        found = self.file.data[self.offset : self.offset + self.size]
        if self.closed:
            found = bytearray(self.size)
        for page, own in self.pages.items():
            found[page * PAGE : page * PAGE + len(own)] = own
        return found

    def store(self, places, data):
        """Store bytes as the processor does, whatever the flags say."""
        if self.mode == "r+" and not self.closed:
            for place, byte in zip(places, data, strict=True):
                self.file.put(self.offset + place, bytes([byte]))
            return
        was = self.contents()
        for place, byte in zip(places, data, strict=True):
            page = place // PAGE
            if page not in self.pages:
                self.pages[page] = was[page * PAGE : (page + 1) * PAGE]
            self.pages[page][place % PAGE] = byte

    def close(self):
        self.closed, self.pages = True, {}


class View:
    """A memoryview or an array over a region; of the kind "ndarray", no export."""

    def __init__(self, region, kind):
        self.region, self.kind = region, kind
        self.places = range(region.size)


class Array:
    def __init__(self, region, places, writeable=None):
        self.region, self.places = region, places
        self.writeable = region.mode != "r" if writeable is None else writeable


class Arrays:
    """An ArrayDict."""

    def __init__(self, region, table):
        self.region, self.table = region, table


class Loaded:
    """The array in a dumped object."""

    def __init__(self, region, places):
        self.region, self.places = region, places


class Process:
    """A process of the model, and the objects by number."""

    def __init__(self, pid, objects):
        self.pid, self.objects = pid, objects

    def forked(self, pid):
        """Return the child: descriptions are shared, memory that is private is copied."""
        shared = {}
        for one in self.everything():
            for kept in (
                (one.description, one.file) if isinstance(one, Handle) else (one.file,)
            ):
                shared[id(kept)] = kept
        return Process(pid, copy.deepcopy(self.objects, shared))

    def everything(self):
        """Return the handles and the regions that something refers to."""
        found = []
        for one in self.objects.values():
            region = one if isinstance(one, Region) else getattr(one, "region", None)
            found += [one if region is None else region]
            if region is not None and region.handle is not None:
                found.append(region.handle)
        return {id(one): one for one in found}.values()

    def regions(self, file):
        """Return the open mappings of a file."""
        return [
            one
            for one in self.everything()
            if isinstance(one, Region) and one.file is file and not one.closed
        ]

    def exports(self, region):
        return any(
            isinstance(one, View) and one.region is region and one.kind != "ndarray"
            for one in self.objects.values()
        )


def places_of(shape, start):
    count = int(np.prod(shape))
    return np.arange(start, start + count).reshape(shape)


def npy_header(shape):
    """Return what numpy.save writes before the data of bytes."""
    head = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()


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

    def look(self, me):
        return {number: self.seen(one) for number, one in me.objects.items()}

    def seen(self, one):
        if isinstance(one, Handle):
            if one.closed:
                return "closed"
            file = one.file
            return len(file.data), file.seals, file.label, bytes(file.data)
        region = one if isinstance(one, Region) else one.region
        if isinstance(one, Region):
            if one.closed:
                return "closed"
            mode = one.mode if one.kind == "Mapping" else None
            return mode, bytes(region.contents())
        shown = np.asarray(region.contents())
        if isinstance(one, View):
            return bytes(shown)
        has_memfd = region.handle is not None
        if isinstance(one, Arrays):
            arrays = {name: shown[at].tobytes() for name, at in one.table.items()}
            return has_memfd, arrays
        if isinstance(one, Loaded):
            return region.mode == "c", shown[one.places].tobytes()
        return has_memfd, one.writeable, one.places.shape, shown[one.places].tobytes()

    def touch(self):
        """Note the pages that came into being when they were looked at."""
        for process in self.processes:
            for one in process.objects.values():
                if isinstance(one, (Region, View)):
                    region = one if isinstance(one, Region) else one.region
                    if not region.closed:
                        region.file.touch(region.offset, region.size)
                elif not isinstance(one, Handle):
                    table = one.table if isinstance(one, Arrays) else {"": one.places}
                    for places in table.values():
                        for page in set((places.ravel() // PAGE).tolist()):
                            one.region.file.touch(page * PAGE, 1)


def table_of(data):
    """Return the places of the arrays in a safetensors file, all of bytes."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(bytes(data[8 : 8 + length]))
    table = {}
    for name, entry in entries.items():
        assert entry["dtype"] == "U8"
        begin, end = entry["data_offsets"]
        places = places_of(entry["shape"], 8 + length + begin)
        assert places.size == end - begin
        assert end + 8 + length <= len(data)
        table[name] = places
    return table


# --- what is done ---------------------------------------------------------------------

MARK = b"the array begins here"  # in a dumped object; the byte after it says its length


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


class Child:
    """A forked process, which takes steps when it is told to."""

    def __init__(self, real, others):
        self.pipe, pipe = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.pipe.close()
                for other in others:
                    other.pipe.close()
                while (told := pipe.recv()) is not None:
                    pipe.send(real.perform(*told))
                status = 1 if UNRAISABLE else 0
            finally:
                os._exit(status)
        pipe.close()

    def perform(self, step, arguments):
        try:
            self.pipe.send((step, arguments))
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            _, status = os.waitpid(self.pid, 0)
            self.pid = 0
            raise AssertionError(f"a child died at {step}: status {status}") from None

    def end(self):
        """Let it end by itself, which has to be without a complaint."""
        self.pipe.send(None)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.pipe.close()
        assert status == 0, f"a child ended with {status}"

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self.pipe.close()


# --- the steps that are chosen --------------------------------------------------------

UNRAISABLE = []  # what was raised where nobody catches it, such as a ResourceWarning


def chosen(options):
    """Return a strategy that likes no option more than others, as Hypothesis likes ends."""
    options = list(options)
    return st.integers(0, 2**64 - 1).map(
        lambda n: options[zlib.crc32(n.to_bytes(8, "little")) % len(options)]
    )


SIZES = chosen([0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE - 5])
WHO, WHICH = chosen(range(6)), chosen(range(64))
BYTES = chosen(range(1, 128))
YES_OR_NO = chosen([False, True])
MODES = chosen(["r", "r+", "c"])
SEALS = st.one_of(
    chosen(
        [SEALED, Seal.IMMUTABLE, Seal.WRITE, Seal.FUTURE_WRITE, Seal.EXEC, Seal.SHRINK]
    ).map(int),
    chosen(range(0x40)),
    chosen([0, 0x40]),
)
REQUIRED = chosen([None, Seal(0), Seal.SHRINK, Seal.IMMUTABLE, Seal.WRITE, SEALED])
EXPORTS = chosen(["memoryview", "frombuffer", "ndarray"])
MAKERS = [
    "create",
    "create",
    "empty",
    "empty",
    "share",
    "share_dict",
    "from_bytes",
    "dump",
]
SHAPES = chosen([(0,), (1,), (7,), (PAGE,), (PAGE + 100,), (3, 5), (2, 3000)])
SLICES = st.builds(
    slice,
    chosen([None, *range(-9, 10)]),
    chosen([None, *range(-9, 10)]),
    chosen([None, 1, 2, -1, 3]),
)


class Machine(RuleBasedStateMachine):
    steps = 0
    examples = 0

    def __init__(self):
        super().__init__()
        type(self).examples += 1
        print(f"--- example {self.examples}", flush=True)
        self.failed = False
        UNRAISABLE.clear()
        self.before = open_descriptors(), memfd_mappings()
        self.ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in self.ends:
            end.settimeout(60)
        self.model = Model()
        self.model.processes.append(Process(os.getpid(), {}))
        self.real = [Real(self.ends)]
        self.last = 0
        # What is in a cycle is not given back: the model says when memory goes.
        gc.collect()
        gc.disable()

    def teardown(self):
        try:
            for child in self.real[1:]:
                if not self.failed:
                    child.end()
        finally:
            for child in self.real[1:]:
                child.kill()
            for end in self.ends:
                end.close()
            self.real[0].objects.clear()
            gc.enable()
            gc.collect()
        left = open_descriptors(), memfd_mappings()
        if not self.failed and left != self.before:
            self.fail(f"left over: {left}, at the start: {self.before}")

    # How a step is taken.

    def process(self, who):
        """Return the number of a process; mostly there is one."""
        return who % len(self.model.processes)

    def number(self, who, kinds, which):
        """Return the number of an object of this kind, or None."""
        objects = self.model.processes[who].objects
        numbers = [number for number, one in objects.items() if isinstance(one, kinds)]
        return numbers[which % len(numbers)] if numbers else None

    def object(self, who, number):
        return self.model.processes[who].objects[number]

    def new(self, who):
        """Return the number for a new object, for which there is room then."""
        objects = self.model.processes[who].objects
        if len(objects) >= MOST_OBJECTS:
            self.take(who, "drop", next(iter(objects)))
        self.last += 1
        return self.last

    def take(self, who, step, *arguments):
        """Take a step, here or in a child, and compare what comes with the model."""
        type(self).steps += 1
        me, real = self.model.processes[who], self.real[who]
        told = ", ".join(map(short, arguments))
        print(f"{self.steps}: process {who}: {step}({told})", end=" ", flush=True)
        given = [
            me.objects[one[1]] if type(one) is tuple and one[:1] == ("object",) else one
            for one in arguments
        ]
        try:
            expected = "returned", getattr(self.model, step)(me, *given)
        except Refused as refused:
            expected = "raised", refused.outcome
        found = real.perform(step, arguments)
        print(*map(short, found[:2]), flush=True)
        self.check(found[:2] == expected, f"expected {expected}, found", *found)
        if expected[0] == "returned" and step in ("share_dict", "dump"):
            self.learn(who, *arguments)
        self.look()

    def check(self, is_right, *what):
        if not is_right or UNRAISABLE:
            self.failed = True
            self.fail(" ".join(map(str, [*what, *UNRAISABLE])))

    def fail(self, why):
        print(f"\nFAILED after {self.steps} steps: {why}", flush=True)
        raise AssertionError(why)

    def learn(self, who, new, given, *_):
        """See what was written in a format of the package: the model takes it as it is."""
        one = self.object(who, new)
        _, raw = self.real[who].perform("raw", [("object", new)])
        one_file = one.file if isinstance(one, Handle) else one.region.file
        one_file.data[:] = raw
        one_file.touch(0, len(raw))
        one_file.head = raw[:64]
        if isinstance(one, Arrays):
            one.region.size = len(raw)
            one.table = table_of(raw)
            one_file.head = raw[: min(int(at.min()) for at in one.table.values())]
            for name, data in given.items():
                at = one.table[name]
                self.check(raw[at[0] : at[0] + len(data)] == data, name, "is not", data)

    def look(self):
        """Compare what every object in every process shows with the model."""
        self.model.touch()
        for who, (me, real) in enumerate(
            zip(self.model.processes, self.real, strict=True)
        ):
            expected = self.model.look(me)
            status, found, *why = real.perform("look", [])
            self.check(status == "returned", "process", who, "looks:", found, *why)
            for number in expected.keys() | found.keys():
                seen = expected.get(number), found.get(number)
                if seen[0] != seen[1]:
                    why = difference(*seen)
                    self.check(False, f"process {who}, object {number}: {why}")

    # Files.

    @initialize(size=SIZES, shape=SHAPES, mode=MODES, kind=EXPORTS)
    def begin(self, size, shape, mode, kind):
        """Have one of each: what is rare by chance would be tried seldom."""
        self.take(0, "create", self.new(0), "first", size, True, False)
        self.take(0, "empty", self.new(0), shape)
        self.take(0, "memfd_of", self.new(0), ("object", 2))
        self.take(0, "map", self.new(0), ("object", 1), "Mapping", mode, 0, None)
        if size:
            self.take(0, "export", self.new(0), ("object", 4), kind)

    @rule(
        who=WHO, kind=chosen(MAKERS), size=SIZES, shape=SHAPES, byte=BYTES,
        mode=MODES, sealable=chosen([True, True, True, False]),
        executable=chosen([False, False, CAN_BE_EXECUTABLE]),
    )  # fmt: skip
    def make(self, who, kind, size, shape, byte, mode, sealable, executable):
        who = self.process(who)
        new, mode = self.new(who), "r" if mode == "r" else "r+"
        data = bytes((byte + i) % 251 for i in range(int(np.prod(shape))))
        arguments = {
            "create": ("file", size, sealable, executable),
            "from_bytes": ("bytes", bytes([byte]) * size),
            "share": (shape, data, mode),
            "empty": (shape,),
            "share_dict": ({"x0": data or b"0", "x1": bytes([byte])}, mode),
            "dump": (bytes([byte]) * (byte % 8),),
        }
        self.take(who, kind, new, *arguments[kind])

    @rule(who=WHO, which=WHICH, kinds=chosen([Handle, Region, Region, Array]))
    def close(self, who, which, kinds):
        self.on(who, kinds, which, "close")

    def on(self, who, kinds, which, step, *arguments, new=False):
        """Take a step with an object of some kind, if there is one."""
        who = self.process(who)
        first = [self.new(who)] if new else []
        number = self.number(who, kinds, which)
        if number is not None:
            self.take(who, step, *first, ("object", number), *arguments)

    @rule(who=WHO, which=WHICH)
    def drop(self, who, which):
        who = self.process(who)
        number = self.number(who, object, which)
        if number is not None:
            self.take(who, "drop", number)

    @rule(who=WHO, which=WHICH, start=st.none() | SIZES, size=SIZES, byte=BYTES)
    def write(self, who, which, start, size, byte):
        """Write where the position is, or go there first; never half a header."""
        who = self.process(who)
        number = self.number(who, Handle, which)
        if number is None:
            return
        handle = self.object(who, number)
        at = handle.description.position if start is None else start
        data = bytes([byte]) * size
        if handle.file.head and (start is None or at < len(handle.file.head)):
            start, data = 0, bytes([0, *data[1:]])
        if start is not None:
            self.take(who, "seek", ("object", number), start, os.SEEK_SET)
        self.take(who, "write", ("object", number), data)

    @rule(
        who=WHO, which=WHICH, step=chosen(["read", "seek", "move"]),
        size=chosen([-1, 0, 1, 100, PAGE]), whence=chosen(range(3)),
    )  # fmt: skip
    def position(self, who, which, step, size, whence):
        """Read or seek, or move a description that others may share."""
        arguments = {"read": [size], "seek": [size, whence], "move": [abs(size)]}
        self.on(who, Handle, which, step, *arguments[step])

    def is_mapped(self, file, by_others_than=None):
        return any(
            process.regions(file)
            for process in self.model.processes
            if process is not by_others_than
        )

    @rule(who=WHO, which=WHICH, size=st.none() | SIZES | chosen([-1, "open"]))
    def truncate(self, who, which, size):
        who = self.process(who)
        number = self.number(who, Handle, which)
        if number is None:
            return
        file = self.object(who, number).file
        if size == "open":
            if file.seals & Seal.SHRINK or not self.is_mapped(file):
                self.take(who, "open_truncated", ("object", number))
            return
        if self.is_mapped(file, by_others_than=self.model.processes[who]):
            size = len(file.data) if size is None else max(size, len(file.data))
        self.take(who, "truncate", ("object", number), size)

    @rule(who=WHO, which=WHICH, mode=chosen(["r", "r+"]))
    def reopen(self, who, which, mode):
        self.on(who, Handle, which, "reopen", mode, new=True)

    @rule(
        who=WHO, which=WHICH, require=REQUIRED, dense=YES_OR_NO, copy=YES_OR_NO,
        max_size=chosen([None, None, None, 0, PAGE]),
    )  # fmt: skip
    def from_fd(self, who, which, require, dense, copy, max_size):
        dense = dense and HAS_SMALL_PAGES
        arguments = require, max_size, dense, copy
        self.on(who, Handle, which, "from_fd", *arguments, new=True)
        self.read_new(who)

    def read_new(self, who):
        """Read from what just came, wherever the sender's position is."""
        who = self.process(who)
        if isinstance(self.model.processes[who].objects.get(self.last), Handle):
            self.take(who, "read", ("object", self.last), 1)

    @rule(who=WHO, which=WHICH, seals=SEALS)
    def seal(self, who, which, seals):
        self.on(who, Handle, which, "seal", seals)

    # Memory.

    @rule(
        who=WHO, which=WHICH, kind=chosen(["Mapping", "Mapping", "mmap"]),
        mode=MODES, offset=chosen([0] * 8 + [PAGE, 1, 2 * PAGE]),
        size=chosen([None] * 6 + [0, 1, 100, PAGE, PAGE + 1]),
    )  # fmt: skip
    def map(self, who, which, kind, mode, offset, size):
        self.on(who, Handle, which, "map", kind, mode, offset, size, new=True)

    @rule(
        who=WHO, which=WHICH,
        kind=EXPORTS,
    )  # fmt: skip
    def export(self, who, which, kind):
        who = self.process(who)
        new = self.new(who)
        number = self.number(who, Region, which)
        if number is None:
            return
        # Without an export the standard library's memory can go under an array.
        if self.object(who, number).kind == "mmap" and kind == "ndarray":
            kind = "memoryview"
        self.take(who, "export", new, ("object", number), kind)

    @rule(who=WHO, which=WHICH, start=chosen(range(300)), size=SIZES, byte=BYTES)
    def store(self, who, which, start, size, byte):
        """Store through a mapping, or a view of one; never half a header."""
        who = self.process(who)
        number = self.number(who, (Region, View), which)
        if number is None:
            return
        one = self.object(who, number)
        region = one if isinstance(one, Region) else one.region
        start, size = min(start, region.size - 1), max(size, 1)
        data = bytes([byte]) * min(size, region.size - start)
        if region.offset + start < len(region.file.head):
            start, data = 0, bytes([0, *data[1:]])
        self.take(who, "store", ("object", number), start, data)

    @rule(who=WHO, which=WHICH, start=chosen(range(PAGE)), byte=BYTES)
    def scribble(self, who, which, start, byte):
        """Write into read-only memory in spite of all flags: a private page, no signal."""
        who = self.process(who)
        number = self.number(who, (Region, Array), which)
        if number is None:
            return
        one = self.object(who, number)
        region = one if isinstance(one, Region) else one.region
        is_closed = region.closed or (isinstance(one, Array) and not one.places.size)
        if region.mode == "r" and region.kind != "mmap" and not is_closed:
            start = min(start, region.size - 1)
            self.take(who, "scribble", ("object", number), start, byte)

    # Arrays.

    @rule(
        who=WHO, which=WHICH, step=chosen(["cut", "memfd_of", "share_again"]),
        index=SLICES, mode=MODES,
    )  # fmt: skip
    def derive(self, who, which, step, index, mode):
        who = self.process(who)
        new = self.new(who)
        number = self.number(who, (Array, Arrays), which)
        if number is None:
            return
        arguments = []
        if step == "share_again":
            arguments = ["r" if mode == "r" else "r+"]
        elif step == "cut":
            is_array = isinstance(self.object(who, number), Array)
            step = "cut" if is_array else "pick"
            arguments = [index if is_array else "x0"]
        self.take(who, step, new, ("object", number), *arguments)

    @rule(who=WHO, which=WHICH, byte=BYTES)
    def assign(self, who, which, byte):
        self.on(who, Array, which, "assign", byte)

    @rule(
        who=WHO, which=WHICH, kinds=chosen([Handle, (Array, Arrays)]),
        how=chosen(["itself", "fd", "path", "load"]), mode=MODES,
        require=chosen([Seal.SHRINK, Seal.SHRINK, None, Seal.IMMUTABLE]),
    )  # fmt: skip
    def attach(self, who, which, kinds, how, mode, require):
        if kinds is not Handle:
            how = "itself"
        elif how == "load":
            mode = "c" if mode == "c" else "r"
            self.on(who, Handle, which, "load", mode, require, new=True)
            return
        self.on(who, kinds, which, "attach", how, mode, require, new=True)

    @rule(who=WHO, which=WHICH, copy=chosen([False, False, False, True]))
    def freeze(self, who, which, copy):
        self.on(who, (Array, Arrays), which, "freeze", copy, new=True)

    # Sockets.

    @precondition(lambda self: len(self.model.sent) < 3)
    @rule(
        who=WHO, which=WHICH, kinds=chosen([Handle, (Array, Arrays)]),
        offset=chosen([None, 1, 100]),
    )  # fmt: skip
    def send(self, who, which, kinds, offset):
        if kinds is Handle and offset is not None:
            self.on(who, kinds, which, "move", offset)
        self.on(who, kinds, which, "send")

    @precondition(lambda self: self.model.sent)
    @rule(
        who=WHO, mode=st.none() | MODES, require=REQUIRED, dense=YES_OR_NO,
        copy=YES_OR_NO,
    )  # fmt: skip
    def recv(self, who, mode, require, dense, copy):
        who = self.process(who)
        arguments = require, dense and HAS_SMALL_PAGES, copy
        if mode is None:
            self.take(who, "recv", self.new(who), *arguments)
            self.read_new(who)
        else:
            self.take(who, "recv_array", self.new(who), mode, *arguments)

    # Processes.

    @precondition(lambda self: len(self.real) <= MOST_CHILDREN)
    @rule()
    def fork(self):
        self.note("fork")
        child = Child(self.real[0], self.real[1:])
        self.real.append(child)
        self.model.processes.append(self.model.processes[0].forked(child.pid))
        self.look()

    def note(self, step):
        type(self).steps += 1
        print(f"{self.steps}: {step}", flush=True)

    @precondition(lambda self: len(self.real) > 1)
    @rule(which=WHICH, is_killed=YES_OR_NO)
    def end(self, which, is_killed):
        """Let a child end, or kill it: what it had mapped is not in the way any more."""
        who = which % (len(self.real) - 1) + 1
        self.note(f"process {who}: {'killed' if is_killed else 'ends'}")
        child = self.real.pop(who)
        self.model.processes.pop(who)
        child.kill() if is_killed else child.end()
        self.look()


def short(x):
    """Return an argument or a result, as short as it can be understood."""
    if isinstance(x, bytes) and len(x) > 8:
        return f"{x[:3]!r}...{len(x)}"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {short(x[key])}" for key in x) + "}"
    if isinstance(x, tuple) and x[:1] == ("object",):
        return f"#{x[1]}"
    return repr(x)


def difference(expected, found):
    """Say where two looks at an object differ."""
    pairs = expected, found
    if all(isinstance(one, tuple) for one in pairs) and len(expected) == len(found):
        for one, other in zip(expected, found, strict=True):
            if one != other:
                return difference(one, other)
    if all(isinstance(one, bytes) for one in pairs) and len(expected) == len(found):
        at = next(
            i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b
        )
        return (
            f"byte {at} of {len(expected)}: expected {expected[at]}, found {found[at]}"
        )
    return f"expected {short(expected)}, found {short(found)}"


def open_descriptors():
    """Return what each open descriptor of this process refers to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that lists
            continue
    return found


def memfd_mappings():
    """Return the lines of /proc/self/maps that map a memfd."""
    with open("/proc/self/maps", errors="replace") as maps:
        return sorted(line for line in maps if "/memfd:" in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--shrink", action="store_true", help="search for fewer steps")
    options = parser.parse_args()
    warnings.simplefilter("error")
    sys.unraisablehook = lambda what: UNRAISABLE.append(repr(what.exc_value))
    seed = options.seed
    while Machine.steps < options.steps:
        print(f"seed {seed}", flush=True)
        settings = hypothesis.settings(
            max_examples=min(50, (options.steps - Machine.steps) // LENGTH + 1),
            stateful_step_count=LENGTH,
            database=None,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[hypothesis.Phase.generate]
            + [hypothesis.Phase.shrink] * options.shrink,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=settings)
        seed += 1
    print(f"{Machine.steps} steps in {Machine.examples} examples", flush=True)


if __name__ == "__main__":
    main()
