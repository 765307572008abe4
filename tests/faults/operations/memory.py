"""Mappings."""

from types import SimpleNamespace

import memfd

from .operation import HUGE, file, operation


def _right_mapping(given, mapping):
    with mapping:
        assert bytes(memoryview(mapping)[:5]) == b"given"


def _mapping(mode, size, seals=0):
    @operation(
        f'Mapping(mode="{mode}"), {size} bytes',
        "Mapping",
        given=lambda: SimpleNamespace(f=file(size, seals)),
        right=_right_mapping,
    )
    def _(given):
        return memfd.Mapping(given.f, mode)


for _mode in ("r", "r+", "c"):
    for _size in (8192, 2 * HUGE + 4096):
        _mapping(_mode, _size)


def _hugetlb():
    f = memfd.create("given", HUGE, hugetlb=HUGE)
    with memfd.Mapping(f, "r+") as mapping:
        memoryview(mapping)[:5] = b"given"
    f.seal()
    return SimpleNamespace(f=f)


@operation(
    "Mapping(), hugetlb",
    "Mapping",
    given=_hugetlb,
    right=_right_mapping,
    hugetlb=True,
    # The other way takes pages of the pool, and there is only one.
    documented=[("*", "ENOMEM")],
)
def _(given):
    return memfd.Mapping(given.f)


@operation(
    "Mapping.close()",
    "Mapping.close",
    given=lambda: SimpleNamespace(mapping=memfd.Mapping(file(), "r+")),
)
def _(given):
    given.mapping.close()


@operation(
    "Memfd.mmap()",
    "Memfd.mmap",
    given=lambda: SimpleNamespace(f=file()),
    right=_right_mapping,
)
def _(given):
    return given.f.mmap("r+")


@operation(
    "map()",
    "map",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, address: memfd.unmap(address, 8192),
)
def _(given):
    return memfd.map(given.f, 8192)


class _Mapped:
    def __init__(self):
        self.address = memfd.map(file(), 8192)

    def unmap(self):
        memfd.unmap(self.address, 8192)
        self.address = None

    def __del__(self):
        if self.address is not None:
            self.unmap()


def _map_anew(given):
    if given.mapped.address is None:
        given.mapped = _Mapped()


@operation(
    "unmap()",
    "unmap",
    given=lambda: SimpleNamespace(mapped=_Mapped()),
    repeat=_map_anew,
    unmaps=True,
)
def _(given):
    given.mapped.unmap()
