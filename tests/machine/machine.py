"""The machine of Hypothesis: which steps there are, and how each is taken and compared."""

import gc
import os
import socket

import numpy as np
from child import Child
from choices import (
    BYTES,
    EXPORTS,
    MAKERS,
    MODES,
    REQUIRED,
    SEALS,
    SHAPES,
    SIZES,
    SLICES,
    WHICH,
    WHO,
    YES_OR_NO,
    chosen,
)
from formats import table_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from kernel import CAN_BE_EXECUTABLE, HAS_SMALL_PAGES, PAGE
from leftovers import UNRAISABLE, memfd_mappings, open_descriptors
from model import Model
from objects import Array, Arrays, Handle, Process, Region, View
from real import Real
from refusal import Refused
from report import difference, short

from memfd import Seal

MOST_OBJECTS = 16  # of a process
MOST_CHILDREN = 2


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
        for process in self.model.processes:
            process.touch()
        for who, (me, real) in enumerate(
            zip(self.model.processes, self.real, strict=True)
        ):
            expected = me.look()
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
