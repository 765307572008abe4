"""What Hypothesis chooses from."""

import zlib

from hypothesis import strategies as st
from kernel import PAGE
from model import SEALED

from memfd import Seal


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
