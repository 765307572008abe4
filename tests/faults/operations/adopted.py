"""Descriptors that come from elsewhere."""

import os
from types import SimpleNamespace

import memfd

from .operation import operation


def _right_adopted(given, f):
    with f:
        assert f.read(4) == b"\0\1\2\3"
        assert f.name in ("sent", "")  # /proc may hide it
        assert not os.get_inheritable(f.fileno())


class _Fd:
    """A descriptor that is still the caller's until it is adopted."""

    def __init__(self, fd):
        self.fd = fd

    def __del__(self):
        if self.fd is not None:
            os.close(self.fd)


def _came_unowned(make):
    def given():
        f = make()
        return SimpleNamespace(f=f, own=_Fd(os.dup(f.fileno())))

    return given


def _adopt(given, **how):
    f = memfd.Memfd.from_fd(given.own.fd, **how)
    given.own.fd = None
    return f


def sent():
    return memfd.from_bytes(bytes(range(256)) * 16, "sent")


# It cannot be told whether it has holes.
MAYBE_HOLES = [("openat", "ValueError"), ("lseek", "ValueError")]


@operation(
    "Memfd.from_fd()",
    "Memfd.from_fd",
    given=_came_unowned(sent),
    right=_right_adopted,
    documented=[*MAYBE_HOLES, ("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given)


@operation(
    "Memfd.from_fd(require=None)",
    "Memfd.from_fd",
    given=_came_unowned(sent),
    right=_right_adopted,
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given, require=None)


def unsealed():
    f = memfd.create("sent")
    f.write(bytes(range(256)) * 16)
    return f


@operation(
    "Memfd.from_fd(copy=True)",
    "Memfd.from_fd",
    given=_came_unowned(unsealed),
    right=_right_adopted,
    documented=[*MAYBE_HOLES, ("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given, copy=True, dense=False)
