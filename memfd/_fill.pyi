from collections.abc import Iterable
from typing import Self, SupportsIndex

from typing_extensions import Buffer, disjoint_base

from memfd._types import HasFileno, HasWrite, Huge

HUGE_PAGE_SIZE: int
HUGE: tuple[Huge, Huge, Huge]

def check(huge: str, threads: SupportsIndex = 1, /) -> tuple[Huge, int]: ...
def fill(
    fd: int | HasFileno,
    data: Buffer,
    offset: SupportsIndex = 0,
    /,
    *,
    head: Buffer = b"",
    huge: Huge = "auto",
    threads: int = 1,
    alone: bool = True,
) -> None: ...
def fill_pieces(
    fd: int | HasFileno,
    pieces: Iterable[tuple[int, int, Buffer | HasWrite]],
    start: SupportsIndex,
    end: SupportsIndex,
    huge: Huge = "auto",
    threads: int = 1,
    /,
) -> None: ...

@disjoint_base
class Filler:
    def __new__(
        cls,
        fd: int | HasFileno,
        start: SupportsIndex,
        end: SupportsIndex,
        huge: Huge = "auto",
        alone: bool = True,
    ) -> Self: ...
    def write(
        self,
        data: Buffer,
        offset: SupportsIndex,
        begin: SupportsIndex = 0,
        end: SupportsIndex | None = None,
        /,
    ) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
