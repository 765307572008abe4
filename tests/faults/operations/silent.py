"""Names that make no system call."""

from types import SimpleNamespace

import memfd

from .arrays import MANY
from .operation import file, operation

# Public names that make none, and how each is used.
NO_CALLS = {
    "Array": lambda given: memfd.Array,
    "Memfd": lambda given: memfd.Memfd,
    "Seal": lambda given: memfd.Seal.WRITE | memfd.Seal.GROW,
    "SealError": lambda given: memfd.SealError("text", memfd.Seal(1), memfd.Seal(0)),
    "__version__": lambda given: memfd.__version__,
    "get_include": lambda given: memfd.get_include(),
    "Memfd.closed": lambda given: given.f.closed,
    "Memfd.closefd": lambda given: given.f.closefd,
    "Memfd.fileno": lambda given: given.f.fileno(),
    "Memfd.flush": lambda given: given.f.flush(),
    "Memfd.isatty": lambda given: given.f.isatty(),  # ioctl(2), which is not ours
    "Memfd.mode": lambda given: given.f.mode,
    "Memfd.path": lambda given: given.f.path,
    "Memfd.readable": lambda given: given.f.readable(),
    "Memfd.writable": lambda given: given.f.writable(),
    "Mapping.address": lambda given: given.mapping.address,
    "Mapping.closed": lambda given: given.mapping.closed,
    "Mapping.mode": lambda given: given.mapping.mode,
    "Mapping.offset": lambda given: given.mapping.offset,
    "Mapping.size": lambda given: given.mapping.size,
    "ArrayDict.get": lambda given: given.arrays.get("x"),
    "ArrayDict.items": lambda given: list(given.arrays.items()),
    "ArrayDict.keys": lambda given: list(given.arrays.keys()),
    "ArrayDict.memfd": lambda given: given.arrays.memfd,
    "ArrayDict.metadata": lambda given: given.arrays.metadata,
    "ArrayDict.nbytes": lambda given: given.arrays.nbytes,
    "ArrayDict.values": lambda given: list(given.arrays.values()),
    "BufferPool.closed": lambda given: given.pool.closed,
    "BufferPool.reuses": lambda given: given.pool.reuses,
}


@operation(
    "names that make no system call",
    *NO_CALLS,
    given=lambda: SimpleNamespace(
        f=file(),
        mapping=memfd.Mapping(file()),
        arrays=memfd.share(MANY),
        pool=memfd.BufferPool(),
    ),
)
def _(given):
    for use in NO_CALLS.values():
        use(given)
