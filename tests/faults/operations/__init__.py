"""The operations of this package, each as a small program that can be done twice."""

from .operation import OPERATIONS, look, warm

# Each enters its own, in the order of the table.
# isort: off
from . import system_calls, files, adopted, memory, arrays, objects  # noqa: F401
from . import sockets, pools, processes, machine, silent  # noqa: F401

__all__ = ["OPERATIONS", "look", "warm"]
