"""Blocks used again: `BufferPool` hands out arrays at the speed of warm memory."""

from __future__ import annotations

import collections
import errno
import math
import os
import threading
import time
import weakref
from typing import NamedTuple

from memfd import (
    _array,
    _block,
    _core,
    _creation,
    _file,
    _fill,
    _npy,
    _proc,
    _reduction,
    _share,
    _source,
)
from memfd._array import PooledMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Self, SupportsIndex, TypeAlias, overload

    import numpy as np
    import numpy.typing as npt

    from memfd._array import Array
    from memfd._types import (
        AnyOrder,
        AnyShape,
        DTypeOf,
        DTypeT,
        Huge,
        Name,
        Order,
        ScalarT,
        Shape,
        ShapeT,
    )

    _WhenFull: TypeAlias = Literal["unpooled", "raise", "wait"]

_WHEN_FULL = ("unpooled", "raise", "wait")
_SPARE = 8  # blocks of other sizes that are kept although nobody has them
_TRIES = 8  # to make a block while somebody takes leases on whatever there is
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class PoolStats(NamedTuple):
    """What `BufferPool.stats` returns."""

    blocks: int
    bytes: int
    in_use: int
    holders: dict[int, int]


class BufferPool:
    """Memory for a stream of arrays: filled again when nobody has the last one any more.

    New memory costs more than the copy into it.  Here it is paid once: `put` and `empty`
    use a block of memory again as soon as its array was dropped in this process and no
    other process has it open or mapped.  The kernel tells that, also of a process that
    was killed; readers need not cooperate, and there is nothing to release.

    Parameters
    ----------
    max_bytes : int, optional
        Bytes of all arrays that are in use or ready to be, at most.
    max_blocks : int, optional
        How many these are at most.
    when_full : {"unpooled", "raise", "wait"}, optional
        What to do when that many are in use: hand out an array that is not in the pool,
        and whose memory is given back in the end; raise; or wait.
    timeout : float, optional
        Seconds to wait at most; for ever by default.
    name : str, bytes or os.PathLike, optional
        Label of the memfds; by default type and shape of the array they were made for.
    huge : {"auto", "always", "never"}, optional
        Which pages blocks of 1 MiB and more are made of, as for `share`.

    Raises
    ------
    ValueError
        A limit or `timeout` is negative, or `when_full` or `huge` is unknown.

    See Also
    --------
    share : for what must not change any more.

    Notes
    -----
    Readers get a read-only descriptor of a memfd sealed with ``Seal.FUTURE_WRITE``,
    ``SHRINK`` and ``GROW``: they can never write.  This process can, so the arrays are not
    immutable, and a pool is for readers who trust it.  Do not index with arrays from it:
    NumPy reads an index twice.  Readers copy before they pass on with sendfile(2),
    splice(2) or a zero-copy send, whose queues the kernel does not count as users.

    Since Linux 5.1, with /proc, for files of the effective user.  Where the kernel does not
    tell who uses a block (`reuses` is False), no memory is used again, and the limits do
    not hold.

    A forked child has no blocks.  An array that it inherited is private to it, and keeps
    the parent from using the block again until the child drops it or ends.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> pool = memfd.BufferPool(max_blocks=4)
    >>> for value in range(100):
    ...     frame = pool.put(np.full((1080, 1920), value, np.uint8))
    >>> int(frame[0, 0]), pool.stats().blocks
    (99, 2)
    """

    def __init__(
        self,
        *,
        max_bytes: SupportsIndex | None = None,
        max_blocks: SupportsIndex | None = None,
        when_full: _WhenFull = "unpooled",
        timeout: float | None = None,
        name: Name | None = None,
        huge: Huge = "auto",
    ) -> None:
        self._max_bytes = self._max_blocks = 2**63 - 1
        if max_bytes is not None:
            self._max_bytes = _core.check_size(max_bytes, "max_bytes")
        if max_blocks is not None:
            self._max_blocks = _core.check_size(max_blocks, "max_blocks")
        if when_full not in _WHEN_FULL:
            raise ValueError(
                f'when_full must be "unpooled", "raise" or "wait", got {when_full!r}'
            )
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must not be negative, got {timeout}")
        self._huge, _ = _fill.check(huge)
        self._when_full, self._timeout, self._name = when_full, timeout, name
        self._closed = False
        # Whether blocks can be made, and whether the kernel tells who has one.
        self._has_blocks, self._reuses = _probe()
        self._begin_anew()
        _pools.add(self)

    def _begin_anew(self) -> None:
        """Have no blocks, as a forked child has none, and a lock that nobody holds."""
        # Re-entrant: a signal handler or a finalizer may use the pool, too, and raise
        # anywhere.  So each change is one step, and nothing is counted that could go wrong;
        # and the lock is for `_core.locked`, not for a with.
        self._lock = threading.RLock()
        self._blocks: list[_block.Block] = []  # which are in use, only they know
        self._places: list[weakref.ref[_Place]] = []
        self._watches: list[weakref.ref[_block.Watch]] = []

    if TYPE_CHECKING:

        @overload
        def put(
            self,
            array: np.ndarray[ShapeT, DTypeT],
            *,
            dtype: None = ...,
            order: AnyOrder = ...,
        ) -> Array[ShapeT, DTypeT]: ...
        @overload
        def put(
            self,
            array: np.ndarray[ShapeT, np.dtype[Any]],
            *,
            dtype: DTypeOf[ScalarT],
            order: AnyOrder = ...,
        ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
        @overload
        def put(
            self,
            array: ScalarT,
            *,
            dtype: None = ...,
            order: AnyOrder = ...,
        ) -> Array[tuple[()], np.dtype[ScalarT]]: ...
        @overload
        def put(
            self,
            array: npt.ArrayLike,
            *,
            dtype: DTypeOf[ScalarT],
            order: AnyOrder = ...,
        ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
        @overload
        def put(
            self,
            array: npt.ArrayLike,
            *,
            dtype: npt.DTypeLike | None = ...,
            order: AnyOrder = ...,
        ) -> Array: ...

    def put(
        self,
        array: npt.ArrayLike,
        *,
        dtype: npt.DTypeLike | None = None,
        order: AnyOrder = "K",
    ) -> Array:
        """Copy an array into the pool.

        Parameters
        ----------
        array : array_like
            What `share` takes, but for a mapping.
        dtype : dtype, optional
            Convert to this type.
        order : {"K", "A", "C", "F"}, optional
            Order in memory, as for `share`.

        Returns
        -------
        Array
            Read-only.  Its memory is used again when it was dropped, with all views, in
            this process and all that it was passed to.

        Raises
        ------
        TypeError
            `share` would refuse it.
        ValueError
            `order` is unknown, the pool is closed, or `array` alone is larger than the
            pool and would wait for ever.
        BufferError
            The pool is full (``when_full="raise"``).
        TimeoutError
            It was full for `timeout` seconds (``when_full="wait"``).
        OSError
            ``EMFILE``: too many open files.  ``ENOMEM``.

        Examples
        --------
        >>> import memfd, numpy as np
        >>> memfd.BufferPool().put(np.arange(3)).tolist()
        [0, 1, 2]
        """
        if order not in ("K", "A", "C", "F"):
            raise ValueError(f'order must be "K", "A", "C" or "F", got {order!r}')
        source = _source.Source(array, dtype, order)
        header = _npy.header(source.dtype, source.shape, source.fortran)
        header = _npy.with_room(header, _block.MARK_SIZE)
        size = len(header) + source.nbytes
        frame = self._claim(size)
        if frame is None:
            name = _creation.default_name(source.dtype, source.shape)
            frame = self._claim_new(size, source.nbytes, name)
        if frame is None:
            return _share.share(
                array, dtype=dtype, order=order, name=self._name, huge=self._huge
            )
        source.put(frame, header)
        frame._show(False)
        shape, fortran = source.shape, source.fortran
        return _array.view(
            frame, source.dtype, shape, len(header), order="F" if fortran else "C"
        )

    if TYPE_CHECKING:

        @overload
        def empty(
            self,
            shape: SupportsIndex,
            dtype: None = ...,
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[tuple[int], np.dtype[np.float64]]: ...
        @overload
        def empty(
            self,
            shape: SupportsIndex,
            dtype: DTypeOf[ScalarT],
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[tuple[int], np.dtype[ScalarT]]: ...
        @overload
        def empty(
            self,
            shape: ShapeT,
            dtype: None = ...,
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[ShapeT, np.dtype[np.float64]]: ...
        @overload
        def empty(
            self,
            shape: ShapeT,
            dtype: DTypeOf[ScalarT],
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
        @overload
        def empty(
            self,
            shape: Shape,
            dtype: None = ...,
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[AnyShape, np.dtype[np.float64]]: ...
        @overload
        def empty(
            self,
            shape: Shape,
            dtype: DTypeOf[ScalarT],
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
        @overload
        def empty(
            self,
            shape: Shape,
            dtype: npt.DTypeLike | None = ...,
            order: Order = ...,
            *,
            clear: bool = ...,
        ) -> Array: ...

    def empty(
        self,
        shape: Shape,
        dtype: npt.DTypeLike | None = float,
        order: Order = "C",
        *,
        clear: bool = True,
    ) -> Array:
        """Return an array in the pool, to be filled here.

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the array.
        dtype : dtype, optional
            Type of its elements.
        order : {"C", "F"}, optional
            Order in memory.
        clear : bool, optional
            Begin with zeros.  Else with whatever is there: quicker, but whoever gets the
            array before all of it is written sees parts of an earlier one.

        Returns
        -------
        Array
            Writable here; those to whom it is passed see what is written, and can only
            read.  Its memory is used again as that of `put`.

        Raises
        ------
        TypeError, ValueError, OSError
            As `memfd.empty`.
        BufferError, TimeoutError
            As `put`.

        Examples
        --------
        >>> import memfd
        >>> a = memfd.BufferPool().empty((2, 3), int)
        >>> a[:] = 7
        >>> a.memfd.seals & memfd.Seal.FUTURE_WRITE
        <Seal.FUTURE_WRITE: 16>
        """
        dtype, shape, header, nbytes = _creation.layout(shape, dtype, order)
        header = _npy.with_room(header, _block.MARK_SIZE)
        size = len(header) + nbytes
        frame = self._claim(size)
        if frame is None:
            name = _creation.default_name(dtype, shape)
            frame = self._claim_new(size, nbytes, name)
            if frame is None and self._has_blocks:
                frame = _block.claim_new(self._new_block(size, 0, name), PooledMemory)
        if frame is None:
            return _creation.empty(shape, dtype, order, populate=True, name=self._name)
        frame._begin(header)
        if clear:
            frame._clear(len(header))  # guard: an earlier frame -> pass
        frame._show(True)
        return _array.view(frame, dtype, shape, len(header), order=order)

    @property
    def reuses(self) -> bool:
        """bool: Whether memory is used again, as the kernel tells when it may be."""
        return self._reuses

    @property
    def closed(self) -> bool:
        """bool: Whether `close` was called."""
        return self._closed

    def stats(self) -> PoolStats:
        """Look at the pool, and at who has its blocks.

        Returns
        -------
        tuple
            Named: ``blocks``, how many there are; ``bytes``, of the arrays that they were
            made for; ``in_use``, how many blocks somebody has; ``holders``, how many of
            them each process is seen to have, a dict of pids.  Not of arrays that are
            not in the pool.

        Notes
        -----
        Holders are looked for in /proc, which takes milliseconds and shows processes of
        other users to root only.

        Examples
        --------
        >>> import memfd, os
        >>> pool = memfd.BufferPool()
        >>> a = pool.empty(1000)
        >>> pool.stats() == (1, 8000, 1, {os.getpid(): 1})
        True
        """
        _reduction.collect()
        blocks, used = _core.locked(self._lock, self._look)
        holders: collections.Counter[int] = collections.Counter()
        seen = _proc.holders((block.device, block.inode) for block in used)
        for block in used:
            pids = set(seen[block.device, block.inode])
            if block.is_shown:
                pids.add(os.getpid())
            holders.update(pids)
        return PoolStats(len(blocks), _nbytes(blocks), len(used), dict(holders))

    def trim(self) -> int:
        """Give back the memory of all blocks that nobody has.

        Returns
        -------
        int
            How many bytes of arrays there was room for in them.

        Examples
        --------
        >>> import memfd
        >>> pool = memfd.BufferPool()
        >>> a = pool.empty(1000)
        >>> pool.trim()
        0
        >>> del a
        >>> pool.trim()
        8000
        """
        _reduction.collect()
        return _core.locked(self._lock, self._trim)

    def close(self) -> None:
        """Give back all memory, now or when whoever has it drops it.

        Arrays stay as they are.
        """
        self._closed = True
        _core.locked(self._lock, self._blocks.clear)
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        blocks = list(self._blocks)
        state = "closed" if self._closed else f"{len(blocks)} blocks"
        return f"<memfd.BufferPool {state}, {_file.readable(_nbytes(blocks))}>"

    def _look(self) -> tuple[list[_block.Block], list[_block.Block]]:
        """Return all blocks, and those that somebody has; with the lock."""
        blocks = list(self._blocks)
        return blocks, [block for block in blocks if not block.is_free()]

    def _trim(self) -> int:
        """Drop what nobody has, and return how many bytes that were; with the lock."""
        given_back = 0
        for block in list(self._blocks):
            is_free = block.is_free()
            if is_free or block.is_lost:
                self._drop(block)
                given_back += block.nbytes if is_free else 0
        return given_back

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the pool is closed")

    def _claim(self, size: int) -> PooledMemory | None:
        """Return the memory of a block that nobody has, for a file of `size` bytes."""
        self._check()
        return _core.locked(self._lock, _block.claim, self._blocks, size, PooledMemory)

    def _claim_new(self, size: int, nbytes: int, name: str) -> PooledMemory | None:
        """Return the memory of a new block, or of one that was waited for.

        None: the pool is full, and there shall be no waiting.
        """
        if not self._reuses:
            return None
        # What was fetched by all to whom it was sent may not be forgotten yet.
        if _reduction.collect():
            frame = self._claim(size)
            if frame is not None:
                return frame
        place = _core.locked(self._lock, self._place, nbytes)
        if place is None:
            if self._when_full == "unpooled":
                return None
            if self._when_full == "raise":
                raise BufferError(f"{self!r} is full, {nbytes} more bytes do not fit")
            if nbytes > self._max_bytes or not self._max_blocks:
                raise ValueError(
                    f"{nbytes} bytes never fit into a pool of {self._max_bytes} bytes and "
                    f"{self._max_blocks} blocks"
                )
            found = self._wait(size, nbytes)
            if isinstance(found, PooledMemory):
                return found
            place = found
        # Made without the lock, which takes long.
        block = self._new_block(size, nbytes, name)
        frame = _block.claim_new(block, PooledMemory)
        _core.locked(self._lock, self._add, block)
        del place
        self._wake()  # who waits has to watch it, too
        return frame

    def _add(self, block: _block.Block) -> None:
        if not self._closed:
            self._blocks.append(block)

    def _place(self, nbytes: int) -> _Place | None:
        """Keep a place for a new block, if need be instead of blocks that nobody has.

        With the lock, as `_drop` and `_drop_lost`.
        """
        place = _Place()
        place.nbytes = nbytes
        # A pool that is closed while somebody waits has room, and no use for it.
        self._check()
        self._drop_lost()
        places = [kept for ref in list(self._places) if (kept := ref()) is not None]
        count = len(self._blocks) + len(places) + 1
        total = _nbytes(self._blocks) + sum(kept.nbytes for kept in places) + nbytes
        free, spare = [], 0
        if nbytes <= self._max_bytes and self._max_blocks:
            free = [block for block in list(self._blocks) if block.is_free()]
            spare = len(free) - _SPARE
        # None is dropped before it is known that this helps.
        drop: list[_block.Block] = []
        for block in free:
            if (
                count <= self._max_blocks
                and total <= self._max_bytes
                and len(drop) >= spare
            ):
                break
            drop.append(block)
            count -= 1
            total -= block.nbytes
        if count > self._max_blocks or total > self._max_bytes:
            return None
        for block in drop:
            self._drop(block)
        self._places = [weakref.ref(kept) for kept in [*places, place]]
        return place

    def _drop(self, block: _block.Block) -> None:
        """Forget a block; its memory goes with the last array over it."""
        self._blocks.remove(block)
        self._wake()

    def _drop_lost(self) -> None:
        """Forget blocks that are never used again, and ask whether others may be."""
        lost = [block for block in list(self._blocks) if block.is_lost]
        for block in lost:
            self._drop(block)
        if lost:
            self._has_blocks, self._reuses = _probe()

    def _wait(self, size: int, nbytes: int) -> PooledMemory | _Place:
        """Wait for the memory of a block, or for the place of a new one."""
        timeout = math.inf if self._timeout is None else self._timeout
        deadline = time.monotonic() + timeout
        watch = _block.Watch()
        _core.locked(self._lock, self._add_watch, watch)
        while True:
            watch.add(self._blocks)
            _reduction.collect()
            frame = self._claim(size)
            found = frame or _core.locked(self._lock, self._place, nbytes)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self!r} was full for {self._timeout} seconds")
            watch.wait(left, _reduction.given_back())

    def _add_watch(self, watch: _block.Watch) -> None:
        """Let `_wake` reach a watch; with the lock."""
        alive = [ref for ref in list(self._watches) if ref() is not None]
        self._watches = [*alive, weakref.ref(watch)]

    def _wake(self) -> None:
        """Let all who wait look again."""
        for ref in list(self._watches):
            watch = ref()
            if watch is not None:
                watch.wake()

    def _new_block(self, size: int, nbytes: int, name: str) -> _block.Block:
        for _ in range(_TRIES):
            try:
                return self._made(size, nbytes, name)
            except BlockingIOError:  # somebody was quicker to take a lease
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED or not self.trim():
                    raise
        return self._made(size, nbytes, name)

    def _made(self, size: int, nbytes: int, name: str) -> _block.Block:
        label = name if self._name is None else self._name
        with _file.create(label, size) as f:
            block = _block.Block(f, nbytes, self._huge)
        block.populate()
        return block


def _nbytes(blocks: list[_block.Block]) -> int:
    return sum(block.nbytes for block in list(blocks))


class _Place:
    """A place in a pool, for a block that is being made, as long as this is alive."""

    __slots__ = ("__weakref__", "nbytes")

    nbytes: int


_pools: weakref.WeakSet[BufferPool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._begin_anew()


os.register_at_fork(after_in_child=_after_fork)


def _probe() -> tuple[bool, bool]:
    """Find out whether blocks can be made, and whether the kernel tells who has one."""
    for _ in range(_TRIES):
        try:
            with _file.create("probe", 1) as f:
                block = _block.Block(f, huge="never")
            frame = _block.claim_new(block, PooledMemory)
            frame._show(False)
            memfd = frame.memfd
            del frame
            # Held here, and then maybe by who looks at all descriptors.
            with memfd:
                if block.is_free() is not False:
                    return True, False
            return True, block.is_free() is not None
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            break
    return False, False
