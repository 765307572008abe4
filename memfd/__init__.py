"""Anonymous memory that any process can be handed, and that the kernel seals.

Every public name is here, and nothing else, but for the coroutines in memfd.aio.  The
names of arrays need NumPy and load it on first use.
"""

from __future__ import annotations

import os as _os

from memfd import _core, _reduction
from memfd._core import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MFD_HUGE_1GB,
    MFD_HUGE_1MB,
    MFD_HUGE_2GB,
    MFD_HUGE_2MB,
    MFD_HUGE_8MB,
    MFD_HUGE_16GB,
    MFD_HUGE_16MB,
    MFD_HUGE_32MB,
    MFD_HUGE_64KB,
    MFD_HUGE_256MB,
    MFD_HUGE_512KB,
    MFD_HUGE_512MB,
    MFD_HUGE_MASK,
    MFD_HUGE_SHIFT,
    MFD_HUGETLB,
    MFD_NOEXEC_SEAL,
    __version__,
    add_seals,
    get_seals,
    get_size,
    memfd_create,
    set_size,
)
from memfd._file import Memfd, create, from_bytes
from memfd._mapping import Mapping, unmap
from memfd._mapping import map as map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memfd import aio as aio
    from memfd._array import Array
    from memfd._arraydict import ArrayDict
    from memfd._bufferpool import BufferPool
    from memfd._creation import empty, empty_like, full, full_like, zeros, zeros_like
    from memfd._describe import describe
    from memfd._handover import pending
    from memfd._listing import ls
    from memfd._objects import dump, load
    from memfd._seal import Seal, SealError
    from memfd._share import attach, freeze, share
    from memfd._socket import recv, recv_array, send

# Loaded on first use: what they need would make ``import memfd`` slow.
_HOMES = {
    "Seal": "_seal",
    "SealError": "_seal",
    "describe": "_describe",
    "dump": "_objects",
    "ls": "_listing",
    "load": "_objects",
    "pending": "_handover",
    "recv": "_socket",
    "recv_array": "_socket",
    "send": "_socket",
}
_NUMPY_HOMES = {
    "Array": "_array",
    "ArrayDict": "_arraydict",
    "BufferPool": "_bufferpool",
    "attach": "_share",
    "empty": "_creation",
    "empty_like": "_creation",
    "freeze": "_share",
    "full": "_creation",
    "full_like": "_creation",
    "share": "_share",
    "zeros": "_creation",
    "zeros_like": "_creation",
}

# `map` is left out: a star import should not take the built-in function away; and `aio`,
# which loads asyncio.
__all__ = [
    "F_ADD_SEALS",
    "F_GET_SEALS",
    "F_SEAL_EXEC",
    "F_SEAL_FUTURE_WRITE",
    "F_SEAL_GROW",
    "F_SEAL_SEAL",
    "F_SEAL_SHRINK",
    "F_SEAL_WRITE",
    "MFD_ALLOW_SEALING",
    "MFD_CLOEXEC",
    "MFD_EXEC",
    "MFD_HUGETLB",
    "MFD_HUGE_1GB",
    "MFD_HUGE_1MB",
    "MFD_HUGE_2GB",
    "MFD_HUGE_2MB",
    "MFD_HUGE_8MB",
    "MFD_HUGE_16GB",
    "MFD_HUGE_16MB",
    "MFD_HUGE_32MB",
    "MFD_HUGE_64KB",
    "MFD_HUGE_256MB",
    "MFD_HUGE_512KB",
    "MFD_HUGE_512MB",
    "MFD_HUGE_MASK",
    "MFD_HUGE_SHIFT",
    "MFD_NOEXEC_SEAL",
    "Array",
    "ArrayDict",
    "BufferPool",
    "Mapping",
    "Memfd",
    "Seal",
    "SealError",
    "__version__",
    "add_seals",
    "attach",
    "create",
    "describe",
    "dump",
    "empty",
    "empty_like",
    "freeze",
    "from_bytes",
    "full",
    "full_like",
    "get_include",
    "get_seals",
    "get_size",
    "load",
    "ls",
    "memfd_create",
    "pending",
    "recv",
    "recv_array",
    "send",
    "set_size",
    "share",
    "unmap",
    "zeros",
    "zeros_like",
]


def get_include() -> str:
    """Return the folder to give to ``cython -I`` for ``cimport memfd``.

    Only needed with an editable install of this package; otherwise Cython finds its
    ``.pxd`` files by itself.

    Returns
    -------
    str
        The folder that contains the package.

    Examples
    --------
    >>> import memfd, os
    >>> os.path.exists(os.path.join(memfd.get_include(), "memfd", "__init__.pxd"))
    True
    """
    return _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))


if not TYPE_CHECKING:  # else every misspelt name would pass

    def __getattr__(name: str) -> object:
        from importlib import import_module

        # What others own first: see _reduction.loading.
        if name == "aio":
            home = "aio"
            import asyncio  # noqa: F401
        elif name in _NUMPY_HOMES:
            home = _NUMPY_HOMES[name]
            _need_numpy(name)
        elif name in _HOMES:
            home = _HOMES[name]
            if home == "_handover":
                _reduction.load_handover()
        else:
            raise AttributeError(f"module 'memfd' has no attribute {name!r}")
        module = _core.locked(_reduction.loading, import_module, f"memfd.{home}")
        found = globals()[name] = module if name == "aio" else getattr(module, name)
        return found

    def _need_numpy(name: str) -> None:
        try:
            _reduction.load_arrays()
        except ModuleNotFoundError as error:
            if error.name != "numpy":
                raise
            raise ImportError(
                f"memfd.{name} needs NumPy: pip install 'memfd[numpy]'",
                name="numpy",
            ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_NUMPY_HOMES, "aio"})
