"""Memfds and arrays on their way to another process, through multiprocessing or loky.

`import memfd` imports neither: what to do with our types is told to their picklers when
the modules of these are imported, before or after; and so is what to do at the end of a
process.
"""

from __future__ import annotations

import _thread
import errno
import functools
import os
import sys

from memfd import _core, _file, _loan, _mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, NoReturn, TypeAlias

    import numpy as np

    from memfd._array import Array, Memory, PooledMemory
    from memfd._arraydict import ArrayDict
    from memfd._file import Memfd
    from memfd._types import Mode

    _Reduced: TypeAlias = str | tuple[Any, ...]

# Where picklers for other processes of this machine are: what to call with a type there.
_PICKLERS = {
    "multiprocessing.reduction": ("ForkingPickler", "register"),
    "loky.backend.reduction": ("register",),
    "joblib.externals.loky.backend.reduction": ("register",),
}

_reducers: dict[type, Callable[[Any], _Reduced]] = {}

# Held while a module of ours is loaded that was not needed before, and while somebody
# forks: a child with half a module would wait for ever for the thread that loads it, which
# stayed in the parent.  Re-entrant, as a signal handler may load something, too.
loading = _thread.RLock()

# In C, out of which no signal handler raises between two steps; while it is waited for, one
# may, and then there is nothing to release.
_after_fork = functools.partial(_core.release_if_owned, loading)
os.register_at_fork(
    before=loading.acquire, after_in_parent=_after_fork, after_in_child=_after_fork
)

# Modules that are loaded when they are needed.
_arrays: Any = None
_handover: Any = None

_lingers = False  # whether the end of this process is known to `_linger_at_end`


def register(cls: type, reduce: Callable[[Any], _Reduced]) -> None:
    """Let multiprocessing and loky pickle instances of `cls` by calling `reduce`."""
    _reducers[cls] = reduce
    for name in _PICKLERS:
        if name in sys.modules:
            _teach(sys.modules[name])


def load_arrays() -> Any:
    """Import the module of the arrays, which needs NumPy, and register its types."""
    global _arrays
    if _arrays is None:
        # What others own is loaded before: it may take locks that they hold as they fork.
        import numpy  # noqa: F401

        _arrays = _core.locked(loading, _import_arrays)
    return _arrays


def _import_arrays() -> Any:
    from memfd import _array, _arraydict

    register(_array.Array, _reduce_array)
    register(_array.Memory, _reduce_memory)
    register(_array.PooledMemory, _reduce_memory)
    register(_arraydict.ArrayDict, _reduce_arraydict)
    return _array


def load_handover() -> Any:
    global _handover
    if _handover is None:
        from multiprocessing import connection, reduction, util  # noqa: F401

        _handover = _core.locked(loading, _import_handover)
        if not _lingers:
            _linger_at_end(util)
    return _handover


def _import_handover() -> Any:
    from memfd import _handover

    return _handover


def _linger_at_end(util: Any) -> None:
    """Have this process, and those that it forks, wait at the end for their receivers."""

    def finalize(_: object = None) -> None:
        # After the threads of queues, which still send (-5).  Registered early: of what
        # such a thread adds when finalizers run already, nothing is seen.
        util.Finalize(None, _linger, exitpriority=-50)  # guard: child that ends -> pass

    global _lingers
    # Missing while the module is half imported; then the first message comes later.
    if hasattr(util, "register_after_fork"):
        _lingers = True
        finalize()
        util.register_after_fork(_Hook, finalize)  # guard: child that forgot finalizers


def _linger() -> None:
    if _handover is not None:
        _handover.linger()


def collect() -> bool:
    """Forget what was given back, if anything was ever sent; return whether it was."""
    if _handover is None:
        return False
    _handover.collect()
    return True


def given_back() -> int:
    """Return a descriptor that can be read when something was given back, or -1."""
    return -1 if _handover is None else _handover.given_back()


def _teach(module: Any) -> None:
    teach = module
    for attribute in _PICKLERS[module.__name__]:
        # Missing while the module is half imported; the hook comes later.
        teach = getattr(teach, attribute, None)
    if teach is not None:
        for cls, reduce in _reducers.items():
            teach(cls, reduce)


# Modules of others, and what to do when they are there.
_AWAITED: dict[str, Callable[[Any], None]] = {
    "multiprocessing.util": _linger_at_end,
    **dict.fromkeys(_PICKLERS, _teach),
}


class _Hook:
    """Finds the modules that are awaited."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name not in _AWAITED:
            return None
        for finder in sys.meta_path:
            if finder is not _Hook and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                    return spec
        return None


class _Loader:
    """Loads as `loader` does, then does ours; afterwards it is out of the way."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _AWAITED[module.__name__](module)


def _reduce_memfd(memfd: Memfd) -> _Reduced:
    if memfd._mark is not None:
        return _rebuild_frame, (memfd._mark, *load_handover().give(memfd))
    return _rebuild_memfd, load_handover().give(memfd)


def _rebuild_memfd(slip: bytes | None, ticket: Any, name: str) -> Memfd | _Lost:
    try:
        taken: Memfd = load_handover().take(slip, ticket, name)
    except Exception as error:
        return _lost(error, name)
    return taken


def _rebuild_frame(
    mark: tuple[int, bytes], slip: bytes | None, ticket: Any, name: str
) -> Memfd | _Lost:
    try:
        return _frame(mark, load_handover().take(slip, ticket, name))
    except Exception as error:
        return _lost(error, name)


def _frame(mark: tuple[int, bytes], memfd: Memfd) -> Memfd:
    """Return the memfd of a pool if it holds what was sent, which it does from now on."""
    offset, expected = mark
    found = os.pread(memfd.fileno(), len(expected), offset)
    if found != expected:  # guard: late message
        memfd.close()
        raise ConnectionError(
            f"memfd {memfd.name!r} cannot be received: this message was received before, "
            "or waited for too long, and a BufferPool has used the memory again"
        )
    memfd._mark = mark
    return memfd


def _reduce_memory(memory: Memory | PooledMemory) -> _Reduced:
    memfd = memory.memfd
    message = load_handover().give(memfd)
    if memfd is not None and memfd._mark is not None:
        return _rebuild_pooled, (memfd._mark, *message)
    return _rebuild_memory, (memory.mode, *message)


def _rebuild_pooled(
    mark: tuple[int, bytes], slip: bytes | None, ticket: Any, name: str
) -> Memory | _Lost:
    try:
        memfd = _frame(mark, load_handover().take(slip, ticket, name))
        return _mapped(memfd, "r", load_arrays())
    except Exception as error:
        return _lost(error, name)


def _rebuild_memory(
    mode: Mode, slip: bytes | None, ticket: Any, name: str
) -> Memory | _Lost:
    try:
        handover, arrays = load_handover(), load_arrays()
        memory = None if slip is None else _mapped_already(slip, mode, arrays)
        if memory is None or slip is None:
            memory = _mapped(handover.take(slip, ticket, name), mode, arrays)
        else:
            handover.give_back(slip, ticket)  # guard: given back unopened -> pass
    except Exception as error:
        return _lost(error, name)
    return memory


def _mapped(memfd: Memfd, mode: Mode, arrays: Any) -> Memory:
    try:
        memory: Memory = arrays.map_memory(memfd, mode)
    except PermissionError as error:
        if mode != "r+" or error.errno != errno.EPERM:
            raise
        # Frozen since it was sent: now it is what `freeze` returned.
        memory = arrays.map_memory(memfd, "r")
    return memory


def _mapped_already(slip: bytes, mode: Mode, arrays: Any) -> Memory | None:
    """Return the Memory of the same file, if another one would show the same."""
    file = _loan.file_of(slip)
    if file is None:
        return None
    device, inode, is_immutable = file
    if mode == "r" and not is_immutable:  # guard: mapped but not immutable
        return None
    kind: type[Memory] = arrays.Memory
    for memory in _mapping.live(device, inode):
        if type(memory) is not kind or memory.mode != mode:
            continue
        # Another thread may be about to set it, or close it.
        memfd = getattr(memory, "memfd", None)
        try:
            if memfd is not None and _loan.is_of(slip, memfd):
                return memory
        except ValueError:
            continue
    return None


def _reduce_array(array: Array) -> _Reduced:
    arrays = load_arrays()
    memory = arrays.memory_of(array)
    if memory is None or memory.memfd is None or memory.mode == "c":
        # What it shows is nowhere else: a copy, or private pages.
        return array.__reduce_ex__(4)
    _check_open(memory)
    offset = memory._place(array)
    if offset < 0:
        return array.__reduce_ex__(4)
    dtype = array.dtype
    return _rebuild_array, (
        memory,
        # Their names say all, and are quicker to pickle.
        dtype.str if dtype.kind in "biufc" and dtype.metadata is None else dtype,
        array.shape,
        array.strides,
        offset,
        array.flags.writeable,
    )


def _rebuild_array(
    memory: Memory | _Lost,
    dtype: np.dtype[Any] | str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
    writeable: bool,
) -> Array | _Lost:
    if isinstance(memory, _Lost):
        return memory
    array: Array = load_arrays().view(memory, dtype, shape, offset, strides)
    if not writeable:
        array.flags.writeable = False
    return array


def _check_open(memory: Memory | PooledMemory) -> None:
    if memory.memfd is not None and memory.memfd.closed:
        raise ValueError(
            f"an array cannot be sent to another process: its {memory.memfd!r}; send "
            "a copy, or do not close it"
        )


def _reduce_arraydict(arrays: ArrayDict) -> _Reduced:
    from memfd import _arraydict

    memory = _arraydict.memory_of(arrays)
    if memory.memfd is None or memory.mode == "c":
        return arrays.__reduce__()
    _check_open(memory)
    return _rebuild_arraydict, (memory,)


def _rebuild_arraydict(memory: Memory | _Lost) -> ArrayDict | _Lost:
    from memfd import _arraydict

    if isinstance(memory, _Lost):
        return memory
    return _arraydict.over(memory)


def _lost(error: Exception, name: str) -> _Lost:
    """Raise the error again, or return what does so later where a Pool receives this."""
    module, frame = "", sys._getframe()
    while frame.f_back is not None:
        callee, frame = module, frame.f_back
        module = frame.f_globals.get("__name__", "")
        # A function that runs in a worker and receives something itself is no Pool.
        if module == "multiprocessing.pool":
            if callee in ("multiprocessing.connection", "multiprocessing.queues"):
                return _Lost(error, name)
            break
    raise


class _Lost:
    """Stands in a task or a result of a Pool for what could not be received.

    A Pool that cannot unpickle one of them ends without a word, and all who wait for
    results wait for ever.  Here only who uses this one gets the error.
    """

    __slots__ = ("__weakref__", "_error", "_name")

    _error: Exception
    _name: str

    def __init__(self, error: Exception, name: str) -> None:
        object.__setattr__(self, "_error", error.with_traceback(None))
        object.__setattr__(self, "_name", name)

    def __repr__(self) -> str:
        return f"<memfd {self._name!r}, not received: {self._error!r}>"

    def _fail(self, *arguments: object) -> NoReturn:
        raise self._error.with_traceback(None)

    __getattr__ = __setattr__ = __delattr__ = _fail


# All that an Array or a Memfd can do, and that it takes to send or copy one.
_OPERATIONS = (
    "abs add and array array_function array_ufunc bool buffer bytes call complex contains "
    "copy deepcopy delitem divmod enter eq exit float floordiv ge getitem gt index int "
    "invert iter le len lshift lt matmul mod mul ne neg next or pos pow radd rand rdivmod "
    "reduce_ex rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift rsub "
    "rtruediv rxor setitem sub truediv xor"
)
for _name in _OPERATIONS.split():
    setattr(_Lost, f"__{_name}__", _Lost._fail)

register(_file.Memfd, _reduce_memfd)
sys.meta_path.insert(0, _Hook)
if "multiprocessing.util" in sys.modules and not _lingers:
    _linger_at_end(sys.modules["multiprocessing.util"])
