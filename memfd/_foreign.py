"""What a descriptor from somebody else has to be before its memory is touched."""

from __future__ import annotations

import errno
import os

from memfd import _core, _limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memfd._file import Memfd
    from memfd._seal import SealError

_EXECUTABLE = 0o111

_forges: bool | None = None  # what `_can_be_forged` has found out


def check(
    fd: int,
    require: int | None,
    max_size: int | None,
    dense: bool,
    copy: bool,
    hugetlb: bool,
) -> tuple[int, bool, bool]:
    """Check a descriptor as `Memfd.from_fd` documents it, and change nothing.

    Return its size, whether it is open for writing, too, and whether it has to be copied
    for want of seals.
    """
    # What follows this says what is wrong, and is as slow as it likes.
    usual = _core.glance(fd, require, max_size)
    if usual is not None:
        return usual
    try:
        seals = _core.seal_bits(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # guard: no memfd -> seals = 0
        raise ValueError(f"fd {fd} is not a memfd") from None
    # After the seals: a size seen before could still change.
    # guard: order -> facts, seals = _core.look_at(fd), _core.seal_bits(fd)
    facts = _core.look_at(fd)
    access, mode, links, size, is_hugetlb = facts
    if access not in (os.O_RDONLY, os.O_RDWR):  # guard: write-only
        raise ValueError(f"fd {fd} is not open for reading, maybe for writing only")
    if links:  # guard: named file
        raise ValueError(f"fd {fd} is a file with a name, not a memfd")
    if is_hugetlb and not hugetlb:  # guard: hugetlb
        raise ValueError(f"fd {fd} is a hugetlb memfd; hugetlb=True accepts it")
    refused = None
    if require is not None:
        refused = _unsealed(fd, seals, require, mode)
        if refused is not None and not copy:  # guard: unsealed
            # Kept here, it would be in a cycle with its traceback, and so would the
            # memory of whoever calls.
            try:
                raise refused
            finally:
                del refused
    has_holes: bool | None = False
    # Pages of the pool are reserved when they are mapped.
    if require is not None and not is_hugetlb:
        has_holes = _core.has_holes(fd, size, bool(seals & _core.F_SEAL_WRITE))
    if has_holes and dense:  # guard: holes
        raise ValueError(
            f"fd {fd} has holes, and reading them would take memory; dense=False "
            "accepts it up to max_size"
        )
    # A copy has as much memory as max_size lets it have, whatever it is a copy of.
    if has_holes is None and dense and refused is None:  # guard: maybe holes
        raise ValueError(
            f"fd {fd} may have holes, which cannot be told here: it is not sealed against "
            "writing, or cannot be opened again; dense=False accepts it up to max_size"
        )
    takes_memory = has_holes is not False or refused is not None
    if max_size is None and takes_memory:  # guard: limit of memory
        max_size = _limits.memory() // 2
    if max_size is not None and size > max_size:  # guard: max_size
        raise ValueError(f"fd {fd} has {size} bytes, more than max_size={max_size}")
    return size, access == os.O_RDWR, refused is not None


def check_seals(f: Memfd, require: int | None) -> None:
    """Raise SealError unless a Memfd, adopted before, has all seals of `require`."""
    if require is not None:
        fd = f.fileno()
        refused = _unsealed(fd, _core.seal_bits(fd), require, os.fstat(fd).st_mode)
        if refused is not None:  # guard: unsealed, adopted before
            try:
                raise refused
            finally:
                del refused


def describe(seals: int) -> str:
    """Return the names of seals, for messages."""
    return "|".join(seal_names(seals)) or "none"


def seal_names(seals: int) -> list[str]:
    """Return the name of each seal, and one number for those that have none here."""
    from memfd._seal import Seal

    names = [str(seal.name) for seal in Seal(seals)]
    unknown = seals & ~sum(Seal)
    return [*names, hex(unknown)] if unknown else names


def label(fd: int) -> str:
    """Return the name that a memfd was created with, or "" where /proc hides it."""
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    return link.removeprefix("/memfd:").removesuffix(" (deleted)")


def _unsealed(fd: int, seals: int, require: int, mode: int) -> SealError | None:
    """Return the SealError that these seals deserve, or None."""
    missing = require & ~seals  # guard: missing seals -> missing = 0
    forged = False
    if require and seals & _core.F_SEAL_EXEC:  # guard: forged seals
        forged = bool(mode & _EXECUTABLE)
        # All were forged at once.  The executable bits may be gone since: F_SEAL_EXEC
        # keeps chmod(2) from taking them off, and an access control list does so.
        if seals & _core.F_SEAL_FUTURE_WRITE and require & _core.F_SEAL_WRITE:
            # guard: forged seals, no x bits -> pass
            forged = forged or _can_be_forged()
    if not missing and not forged:
        return None
    from memfd._seal import Seal, SealError

    if missing:
        return SealError(
            f"fd {fd} lacks seals {describe(missing)} (it has {describe(seals)})",
            Seal(missing),
            Seal(seals),
        )
    return SealError(
        f"fd {fd} is executable, or may have been, and has {describe(seals)}: with "
        "Seal.EXEC on an executable file some kernels report seals that do not hold",
        Seal(require),
        Seal(seals),
    )


def _can_be_forged() -> bool:
    """Tell whether this kernel may report F_SEAL_WRITE of a file that is mapped writable.

    F_SEAL_EXEC of an executable file sets F_SEAL_WRITE, too, and is refused on such a
    file, but for the kernels from 6.3 on until this was mended.
    """
    global _forges
    if _forges is not None:
        return _forges
    import mmap

    flags = _core.MFD_EXEC | _core.MFD_ALLOW_SEALING | _core.MFD_CLOEXEC
    try:
        with open(_core.memfd_create("memfd", flags), "r+b", buffering=0) as file:
            file.truncate(1)
            with mmap.mmap(file.fileno(), 1):
                _core.add_seal_bits(file, _core.F_SEAL_EXEC)
    except OSError as error:
        # Whatever else it is, such as vm.memfd_noexec or EMFILE, proves nothing.
        if error.errno != errno.EBUSY:
            return True
        _forges = False
    else:
        _forges = True
    return _forges
