"""What a memfd holds: read, never mapped, and nothing in it is run."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from memfd import _core, _file, _objects, _safetensors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, SupportsIndex

    import numpy.typing as npt

    from memfd._arraydict import ArrayDict
    from memfd._file import Memfd
    from memfd._types import Name


class Part(NamedTuple):
    """One array, or one piece of an object; sizes and offsets are in bytes."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    offset: int
    size: int


class Description(NamedTuple):
    """What `describe` returns."""

    kind: Literal["array", "arrays", "object", "bytes"]
    size: int
    parts: list[Part]


def describe(
    x: Memfd | SupportsIndex | Name | npt.NDArray[Any] | ArrayDict, /
) -> Description:
    """Tell what a memfd holds, without running anything in it.

    Parameters
    ----------
    x : Memfd, int, path, Array or ArrayDict
        A memfd; an int is a descriptor, which stays yours; of an Array, the memfd behind
        it.

    Returns
    -------
    tuple
        Named.  ``kind``: "array" for a .npy file, "arrays" for a safetensors file,
        "object" for what `dump` made, "bytes" for everything else.  ``size`` of the
        memfd, in bytes.  ``parts``: of each array its ``name``, ``dtype``, ``shape``,
        ``offset`` and ``size``; of an object its "pickle" and each "buffer".

    Raises
    ------
    ValueError
        No memfd, or one that begins like one of these and is damaged.

    Notes
    -----
    The memfd is read with pread(2) and not mapped, so it need not be sealed; nothing is
    unpickled.  What it says was true when it was read.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> memfd.describe(memfd.share(np.zeros((2, 3), "f4"))).parts
    [Part(name='', dtype='<f4', shape=(2, 3), offset=128, size=24)]
    >>> d = memfd.share({"x": np.arange(3)})
    >>> memfd.describe(d.memfd)
    Description(kind='arrays', size=88, parts=[Part(name='x', dtype='I64', ...)])
    >>> [part.name for part in memfd.describe(memfd.dump(np.arange(3))).parts]
    ['pickle', 'buffer']
    """
    given: Any = x
    if hasattr(type(given), "memfd"):
        given = given.memfd
    if given is None:
        raise ValueError("an array without a memfd of its own cannot be described")
    memfd = _file.opened(given, "r", None, None, False)
    try:
        return _core.keeping(_described, memfd)
    finally:
        if memfd is not given:
            memfd.close()


def _described(memfd: Memfd) -> Description:
    return described(memfd.fileno(), memfd.size)


def described(fd: int, size: int) -> Description:
    """Return what a memfd of `size` bytes holds, given a descriptor of it."""
    begin = os.pread(fd, 16, 0)
    if _objects.looks_like(begin):
        pickled, buffers = _objects.read_layout(fd, size)
        parts = [Part("pickle", None, None, *pickled)]
        parts += [Part("buffer", None, None, *place) for place in buffers]
        return Description("object", size, parts)
    # As `_npy` has it, which needs NumPy.
    if begin[:6] == b"\x93NUMPY":
        from memfd import _npy

        dtype, shape, _, offset = _npy.read_header(fd, size)
        text = dtype.str if dtype.names is None else str(dtype)
        place = offset, math.prod(shape) * dtype.itemsize
        return Description("array", size, [Part("", text, shape, *place)])
    if _safetensors.looks_like(begin):
        entries, _, start = _safetensors.read_header(fd, size)
        parts = []
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            place = start + first, last - first
            parts.append(Part(name, entry["dtype"], shape, *place))
        return Description("arrays", size, parts)
    return Description("bytes", size, [])
