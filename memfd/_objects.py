"""Objects: any that can be pickled, in one sealed memfd, their buffers as they are.

The layout, in docs/objects.md: a head; the pickle; buffers; a table of where they are.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
from typing import NamedTuple

from memfd import _core, _file, _fill, _mapping
from memfd._seal import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, SupportsIndex

    import numpy.typing as npt

    from memfd._file import Memfd
    from memfd._types import Huge, Mode, Name

# Magic, version, size of the pickle, offset of the table, number of buffers.  The first
# byte is no text, and the two after it show what a transfer in text mode does.
_HEAD = struct.Struct("<8sQQQQ")
_MAGIC = b"\x93\r\nMFDOB"
_VERSION = 1
_PLACE = struct.Struct("<QQ")  # offset and size of a buffer
_START = 64  # where the pickle begins
_ALIGNMENT = 64
# Buffers from so many huge pages on begin with one; zeros before it are little then.
_LARGE = 16
_MAX_BUFFERS = 1 << 20
_ZEROS = memoryview(bytes(max(_mapping.HUGE_PAGE_SIZE, _ALIGNMENT)))


class Layout(NamedTuple):
    """Where in a file of this kind things are, as (offset, size) in bytes."""

    pickle: tuple[int, int]
    buffers: list[tuple[int, int]]


def dump(
    obj: object,
    /,
    *,
    name: Name | None = None,
    pickler: Callable[..., Any] | None = None,
    huge: Huge = "auto",
    threads: SupportsIndex = 1,
) -> Memfd:
    """Pickle an object into a sealed memfd, its large buffers as they are.

    For processes that trust each other: unpickling runs code of the sender's choice.

    Parameters
    ----------
    obj : object
        Whatever pickle takes.  The memory of NumPy arrays, of the columns of data frames
        (but for objects and, in pandas before 3, text) and of Arrow tables is copied once,
        into the memfd; everything else becomes part of a pickle in the same memfd.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default the type of the object.
    pickler : callable, optional
        Instead of `pickle.Pickler`, such as ``cloudpickle.Pickler``: called with a file,
        ``protocol`` and ``buffer_callback``.
    huge : {"auto", "always", "never"}, optional
        Copy into huge pages: where they are quicker; wherever they can be had; or not.
    threads : int, optional
        Threads that copy, each at least 16 MiB.

    Returns
    -------
    Memfd
        With ``Seal.IMMUTABLE`` and ``Seal.SEAL``.  `load` opens it, here or in a process
        that it was sent to.

    Raises
    ------
    pickle.PicklingError, TypeError, AttributeError
        As `pickle.dumps`: something in the object cannot be pickled.
    ValueError
        `huge` is unknown, or `threads` is below 1.
    OSError
        As for `create`; ``EFBIG``: beyond RLIMIT_FSIZE.

    See Also
    --------
    share : arrays, for processes that need not trust each other.

    Notes
    -----
    Protocol 5 of pickle (:pep:`574`).  Nothing may change the object meanwhile.  ``bytes``
    and ``bytearray`` are part of the pickle; so are arrays of objects and subclasses of
    ``numpy.ndarray`` other than ``numpy.memmap``.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> f = memfd.dump({"weights": np.ones(1000), "epoch": 3})
    >>> float(memfd.load(f)["weights"].sum())
    1000.0
    """
    huge, threads = _fill.check(huge, threads)
    if name is None:
        name = type(obj).__name__.encode()[: _core.NAME_MAX].decode(errors="ignore")

    def fill(f: Memfd, huge: Huge) -> None:
        f.write(bytes(_START))
        buffers = _pickled(f, obj, pickler)
        start = end = f.tell()
        pieces: list[tuple[int, int, Any]] = []
        places = []
        for buffer, size in buffers:
            place = _aligned(end, size)
            if place > end:
                pieces.append((end, place - end, _ZEROS[: place - end]))
            pieces.append((place, size, buffer))
            places.append((place, size))
            end = place + size
        table = b"".join(_PLACE.pack(*place) for place in places)
        pieces.append((end, len(table), table))
        _fill.fill_pieces(f, pieces, start, end + len(table), huge, threads)
        head = _HEAD.pack(_MAGIC, _VERSION, start - _START, end, len(places))
        os.pwrite(f.fileno(), head, 0)
        f.seek(0)

    return _file.filled(name, fill, huge)


def load(
    x: Memfd | SupportsIndex | Name,
    mode: Literal["r", "c"] = "r",
    *,
    require: Seal | None = Seal.SHRINK,
    max_size: SupportsIndex | None = None,
    dense: bool = False,
) -> Any:
    """Unpickle the object in a memfd, without copying its buffers.

    .. warning::
        Unpickling runs whatever code the sender chose.  From processes that you do not
        trust take arrays, with `recv_array` or `attach`.

    Parameters
    ----------
    x : Memfd, int or path
        A memfd that `dump` made.  An int is a descriptor, which is duplicated and stays
        yours; a path is opened.
    mode : {"r", "c"}, optional
        Arrays that are read-only; or writable and private, copy-on-write.
    require : Seal or None, optional
        Seals that must be there, as for `attach`.
    max_size, dense : optional
        For an int or a path, as for `Memfd.from_fd`.

    Returns
    -------
    object
        Its arrays, columns and Arrow buffers are views of one mapping, which lives as
        long as the last of them; the memfd may be closed.  They are ordinary arrays:
        hand on the memfd, and not them.

    Raises
    ------
    SealError
        Seals in `require` are missing.
    ValueError
        `mode` is neither; no memfd, or nothing that `dump` made: cut off, of a later
        version, or with buffers outside of it.
    Exception
        Whatever unpickling raises, such as ``ModuleNotFoundError``.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> f = memfd.dump([np.arange(3), "text"])
    >>> memfd.load(f)
    [array([0, 1, 2]), 'text']
    >>> mine = memfd.load(f, "c")
    >>> mine[0][:] = 7
    """
    if mode not in ("r", "c"):
        raise ValueError(f'mode must be "r" or "c", got {mode!r}')
    memfd = _file.opened(x, mode, require, max_size, dense)
    try:
        (stream, buffers), memory = _core.keeping(_mapped, memfd, mode)
    finally:
        if memfd is not x:
            memfd.close()
    return pickle.loads(
        memory[stream[0] : stream[0] + stream[1]],
        buffers=(memory[start : start + size] for start, size in buffers),
    )


def _mapped(memfd: Memfd, mode: Mode) -> tuple[Layout, memoryview]:
    layout = read_layout(memfd.fileno(), memfd.size)
    return layout, memoryview(_mapping.Mapping(memfd, mode))


def looks_like(begin: bytes) -> bool:
    """Tell whether a file that begins like this can be one of these."""
    return begin[: len(_MAGIC)] == _MAGIC


def read_layout(fd: int, size: int) -> Layout:
    """Return where things are in a file of `size` bytes; nothing is unpickled.

    Raises
    ------
    ValueError
        This is no dumped object, or it is damaged.
    """
    head = os.pread(fd, _START, 0)
    if not looks_like(head):  # guard: no object
        raise ValueError("this memfd does not hold an object that memfd.dump() made")
    if len(head) < _START:  # guard: short object
        raise ValueError(f"a dumped object of {size} bytes is cut off")
    _, version, pickled, end, count = _HEAD.unpack_from(head)
    if version != _VERSION:  # guard: version of an object
        raise ValueError(f"a dumped object has version {version}, which is unknown")
    if count > _MAX_BUFFERS:  # guard: number of buffers
        raise ValueError(f"a dumped object has {count} buffers, too many")
    if end + count * _PLACE.size != size:  # guard: size of an object
        raise ValueError(
            f"a dumped object has {size} bytes, and should have "
            f"{end + count * _PLACE.size}: it is cut off or damaged"
        )
    table = os.pread(fd, count * _PLACE.size, end)
    if len(table) < count * _PLACE.size:  # guard: table that was cut off
        raise ValueError("a dumped object was cut off while it was read")
    buffers: list[tuple[int, int]] = list(_PLACE.iter_unpack(table))
    before = _START + pickled
    for start, length in buffers:
        if start < before or start % _ALIGNMENT:  # guard: start of a buffer
            raise ValueError(f"a dumped object has a buffer at {start}: it is damaged")
        before = start + length
    if before > end:  # guard: end of the buffers
        raise ValueError(f"a dumped object reaches to byte {before} of {end}")
    return Layout((_START, pickled), buffers)


def _aligned(end: int, size: int) -> int:
    """Return the first place after `end` where a buffer of `size` bytes can begin."""
    large = _LARGE * _mapping.HUGE_PAGE_SIZE
    unit = _mapping.HUGE_PAGE_SIZE if 0 < large <= size else _ALIGNMENT
    return -(-end // unit) * unit


def _pickled(
    f: Memfd, obj: object, pickler: Callable[..., Any] | None
) -> list[tuple[Any, int]]:
    """Pickle into `f`, where it stands, and return the buffers, each with its size."""
    buffers: list[tuple[Any, int]] = []
    sources: dict[int, Any] = {}

    def keep(buffer: pickle.PickleBuffer) -> None:
        found = sources.get(id(buffer))
        content = buffer.raw() if found is None else found[1]
        buffers.append((content, content.nbytes))

    def reduce(array: npt.NDArray[Any]) -> Any:
        dtype, flags = array.dtype, array.flags
        plain = dtype.isbuiltin == 1 and flags.forc and flags.writeable
        if plain or dtype.hasobject or dtype.itemsize == 0:
            return array.__reduce_ex__(5)
        # Left alone, what has gaps, and what no buffer can have (dates, swapped long
        # doubles), become bytes of the pickle, and what is read-only here would be so in
        # mode "c".  So something empty stands for them, and is kept, so that its id stays
        # its own.
        import numpy as np

        from memfd import _source

        source = _source.Source(array, None, "K")
        marker = pickle.PickleBuffer(bytearray())
        sources[id(marker)] = marker, source
        frombuffer: Any = np.empty(0).__reduce_ex__(5)[0]
        order = "F" if source.fortran else "C"
        return frombuffer, (marker, dtype, array.shape, order)

    make = pickle.Pickler if pickler is None else pickler
    one = make(f, protocol=5, buffer_callback=keep)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        table: dict[type, Callable[[Any], Any]] = {numpy.ndarray: reduce}
        # Whose memory it was does not come back: what does is an ordinary array.
        kinds = [numpy.memmap]
        arrays = sys.modules.get("memfd._array")
        if arrays is not None:
            kinds.append(arrays.Array)
        for kind in kinds:
            table[kind] = lambda array: reduce(array.view(numpy.ndarray))
        # What the pickler knows itself comes first.
        table.update(getattr(one, "dispatch_table", copyreg.dispatch_table))
        _set_dispatch_table(one, table)
    one.dump(obj)
    if len(buffers) > _MAX_BUFFERS:
        raise ValueError(
            f"an object with {len(buffers)} buffers, more than {_MAX_BUFFERS}: put "
            "small arrays together"
        )
    return buffers


def _set_dispatch_table(pickler: Any, table: dict[type, Callable[[Any], Any]]) -> None:
    # Of a subclass with a table of its own, only this reaches what is written in C.
    slot = getattr(pickle.Pickler, "dispatch_table", None)
    if slot is not None and isinstance(pickler, pickle.Pickler):
        slot.__set__(pickler, table)
    else:
        pickler.dispatch_table = table
