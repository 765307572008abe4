"""Memfds and arrays on their way to another process through multiprocessing.

`import memfd` imports no multiprocessing: what to do with our types is told to its
pickler when ``multiprocessing.reduction`` is imported, before or after.
"""

from __future__ import annotations

import os
import sys

from memfd import _core, _file, _mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, TypeAlias

    import numpy as np

    from memfd._array import Array, Memory
    from memfd._file import Memfd
    from memfd._types import Mode

    _Reduced: TypeAlias = str | tuple[Any, ...]

_REDUCTION = "multiprocessing.reduction"

_reducers: dict[type, Callable[[Any], _Reduced]] = {}


def register(cls: type, reduce: Callable[[Any], _Reduced]) -> None:
    """Let multiprocessing pickle instances of `cls` by calling `reduce`."""
    _reducers[cls] = reduce
    if _REDUCTION in sys.modules:
        _teach(sys.modules[_REDUCTION])


def load_arrays() -> ModuleType:
    """Import the module of the arrays, which needs NumPy, and register its type."""
    from memfd import _array

    if _array.Array not in _reducers:
        register(_array.Array, _reduce_array)
    return _array


def _teach(reduction: ModuleType) -> None:
    # Missing while multiprocessing.reduction is half imported; the hook comes later.
    pickler = getattr(reduction, "ForkingPickler", None)
    if pickler is not None:
        for cls, reduce in _reducers.items():
            pickler.register(cls, reduce)


class _Hook:
    """Finds multiprocessing.reduction once, and teaches it when it is there."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != _REDUCTION:
            return None
        sys.meta_path.remove(_Hook)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # no Loader
        return spec


class _Loader:
    """Loads as `loader` does, then teaches; afterwards it is out of the way."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _teach(module)


def _reduce_memfd(memfd: Memfd) -> _Reduced:
    if memfd.closed:
        raise ValueError(f"{memfd!r} cannot be sent to another process")
    from multiprocessing.reduction import DupFd

    return _rebuild_memfd, (DupFd(memfd.fileno()), memfd.name)


def _rebuild_memfd(handle: Any, name: str) -> Memfd:
    try:
        fd = handle.detach()
    except (ConnectionError, FileNotFoundError, EOFError) as error:
        raise ConnectionError(
            f"memfd {name!r} cannot be received: the process that sent it is gone, or "
            "this message was received before; a sender has to live until its message "
            "is read"
        ) from error
    try:
        return _file.adopt(fd)
    except BaseException:
        os.close(fd)
        raise


def _reduce_array(array: Array) -> _Reduced:
    arrays = load_arrays()
    memory = arrays.memory_of(array)
    if memory is None or memory.memfd is None or memory.mode == "c":
        # What it shows is nowhere else: a copy, or private pages.
        return array.__reduce_ex__(4)
    if memory.memfd.closed:
        raise ValueError(
            f"an array cannot be sent to another process: its {memory.memfd!r}; send "
            "a copy, or do not close it"
        )
    offset = arrays.place(array, memory)
    if offset is None:
        return array.__reduce_ex__(4)
    return _rebuild_array, (
        memory.memfd,
        memory.mode,
        array.dtype,
        array.shape,
        array.strides,
        offset,
        array.flags.writeable,
    )


def _rebuild_array(
    memfd: Memfd,
    mode: Mode,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
    writeable: bool,
) -> Array:
    arrays = load_arrays()
    memory = _mapped_already(memfd, mode, arrays) or arrays.map_memory(memfd, mode)
    array: Array = arrays.view(memory, dtype, shape, offset, strides)
    if not writeable:
        array.flags.writeable = False
    return array


def _mapped_already(memfd: Memfd, mode: Mode, arrays: ModuleType) -> Memory | None:
    """Return the Memory of the same file, if another one would show the same."""
    if mode == "r" and _core.seal_bits(memfd) & _core.IMMUTABLE != _core.IMMUTABLE:
        return None
    kind: type[Memory] = arrays.Memory
    status = os.fstat(memfd.fileno())
    for memory in _mapping.live(status.st_dev, status.st_ino):
        if (
            type(memory) is kind
            and memory.mode == mode
            and memory.memfd is not None
            and not memory.memfd.closed
        ):
            return memory
    return None


register(_file.Memfd, _reduce_memfd)
if _REDUCTION not in sys.modules:
    sys.meta_path.insert(0, _Hook)
