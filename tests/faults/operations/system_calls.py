"""The system call, and what goes with it, as it is."""

import os
from types import SimpleNamespace

import memfd

from .operation import SEALED, equal, file, operation


def _right_descriptor(given, fd):
    assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:raw (deleted)"
    assert not os.get_inheritable(fd)
    os.close(fd)


@operation("memfd_create()", "memfd_create", right=_right_descriptor)
def _(given):
    return memfd.memfd_create("raw")


def sealed_right(given, seals):
    assert seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE


@operation(
    "add_seals()",
    "add_seals",
    given=lambda: SimpleNamespace(f=file()),
    right=sealed_right,
)
def _(given):
    return memfd.add_seals(given.f, memfd.Seal.IMMUTABLE)


@operation(
    "get_seals()",
    "get_seals",
    given=lambda: SimpleNamespace(f=file(seals=SEALED)),
    right=sealed_right,
)
def _(given):
    return memfd.get_seals(given.f)


@operation("set_size()", "set_size", given=lambda: SimpleNamespace(f=file()))
def _(given):
    memfd.set_size(given.f, 12288)


@operation(
    "get_size()",
    "get_size",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: equal(size, 8192),
)
def _(given):
    return memfd.get_size(given.f)
