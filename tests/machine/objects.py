"""The objects that a process has, as the model knows them."""

import copy

import numpy as np
from kernel import PAGE
from refusal import Refused


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

    # What all of them show.

    def look(self):
        return {number: self.seen(one) for number, one in self.objects.items()}

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
        for one in self.objects.values():
            if isinstance(one, (Region, View)):
                region = one if isinstance(one, Region) else one.region
                if not region.closed:
                    region.file.touch(region.offset, region.size)
            elif not isinstance(one, Handle):
                table = one.table if isinstance(one, Arrays) else {"": one.places}
                for places in table.values():
                    for page in set((places.ravel() // PAGE).tolist()):
                        one.region.file.touch(page * PAGE, 1)
