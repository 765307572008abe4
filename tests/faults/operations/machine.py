"""All memfds of the machine."""

import os
from types import SimpleNamespace

import memfd

from .operation import file, operation


def _right_listing(given, listing):
    assert isinstance(listing["memfds"], list)


@operation(
    "ls()",
    "ls",
    given=lambda: SimpleNamespace(f=file()),
    right=_right_listing,
    # Where /proc names nobody, there is nobody.
    documented=[("getdents64", "ProcessLookupError")],
)
def _(given):
    return memfd.ls([os.getpid()])
