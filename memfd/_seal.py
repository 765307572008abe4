"""Seals by name, and the error for those that are missing.

Loaded on first use: `enum` alone would take longer than the rest of ``import memfd``.
"""

from __future__ import annotations

import enum

from memfd import _core


class Seal(enum.IntFlag, boundary=enum.KEEP):
    """What nobody can do to a memfd any more (``F_SEAL_*`` of fcntl(2)).

    A seal cannot be taken off, holds for every process and every descriptor of the file,
    and is enforced by the kernel.  Bits that this version does not know are kept.

    Attributes
    ----------
    SEAL
        Add further seals.
    SHRINK
        Make the file shorter.
    GROW
        Make the file longer.
    WRITE
        Write, and map it shared and writable.
    FUTURE_WRITE
        As WRITE, but mappings that exist go on writing (since Linux 5.1).
    EXEC
        Change the executable bits (since Linux 6.3).
    IMMUTABLE
        SHRINK, GROW and WRITE: the data can never change.

    Examples
    --------
    >>> from memfd import Seal
    >>> Seal.WRITE in Seal.IMMUTABLE
    True
    >>> Seal(0x40 | Seal.GROW) & Seal.GROW
    <Seal.GROW: 4>
    """

    SEAL = _core.F_SEAL_SEAL
    SHRINK = _core.F_SEAL_SHRINK
    GROW = _core.F_SEAL_GROW
    WRITE = _core.F_SEAL_WRITE
    FUTURE_WRITE = _core.F_SEAL_FUTURE_WRITE
    EXEC = _core.F_SEAL_EXEC
    IMMUTABLE = _core.IMMUTABLE


class SealError(ValueError):
    """A memfd lacks seals that were required of it.

    Parameters
    ----------
    message : str
        What was refused.
    missing : Seal
        The required seals that are not there.
    present : Seal
        All seals that are there.
    """

    def __init__(self, message: str, missing: Seal, present: Seal) -> None:
        super().__init__(message, missing, present)
        self.missing = missing
        self.present = present

    def __str__(self) -> str:
        return str(self.args[0])


SealError.__module__ = "memfd"  # as tracebacks should name it
