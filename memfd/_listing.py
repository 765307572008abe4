"""Every memfd on this machine, as far as it can be seen."""

from __future__ import annotations

import errno
import fnmatch
import os
import pwd
import stat
import time
from typing import TypedDict

from memfd import _core, _descriptors, _foreign, _mapping, _proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TRIES = 3
_PAUSE = 0.001  # seconds


class Descriptor(TypedDict):
    """A descriptor of a memfd; ``access`` is "r", "w", "rw" or "path"."""

    fd: int
    access: str


class Mapping(TypedDict):
    """A mapping of a memfd; ``access`` is as in /proc/PID/maps, such as "rw-s"."""

    start: int
    size: int
    offset: int
    access: str


class Holder(TypedDict):
    """What a process has of a memfd."""

    pid: int
    command: str
    descriptors: list[Descriptor]
    mappings: list[Mapping]


class Row(TypedDict):
    """One memfd; see `ls`."""

    name: str
    device: str
    inode: int
    size: int | None
    memory: int | None
    huge: int | None
    page_size: int | None
    seals: list[str] | None
    mode: str | None
    uid: int | None
    user: str | None
    path: str | None
    holders: list[Holder]


class Totals(TypedDict):
    """Sums over all rows, of what is known."""

    memfds: int
    size: int
    memory: int
    huge: int


class Processes(TypedDict):
    """How many processes were looked at."""

    read: int
    unreadable: int
    hidden: bool


class Listing(TypedDict):
    """What `ls` returns."""

    memfds: list[Row]
    totals: Totals
    processes: Processes


def ls(
    pids: Iterable[int] | None = None,
    *,
    user: int | str | None = None,
    name: str | None = None,
) -> Listing:
    """List the memfds of this machine, each once, and who has it.

    Parameters
    ----------
    pids : iterable of int, optional
        Only those that one of these processes has.
    user : int or str, optional
        Only those that belong to this user.
    name : str, optional
        Only those with such a name: a pattern as of a shell, such as ``"frame*"``.

    Returns
    -------
    dict
        What ``memfd ls --json`` prints; later versions may add keys.

        ``memfds`` is a list of dicts.  Of each memfd: ``name``; ``device`` as
        "major:minor", and ``inode``; ``size``, and the ``memory`` that its pages take, both
        in bytes; how much of that is in ``huge`` pages as far as processes map it so, in
        bytes; ``page_size``, the least that it takes, in bytes; ``seals``, such as
        ``["SHRINK", "GROW"]``; ``mode`` in octal digits; ``uid`` and ``user`` of its
        owner; a ``path`` that opens it; and its ``holders``: of each process the ``pid``,
        the ``command``, the ``descriptors`` (``fd`` and ``access``: "r", "w", "rw", or
        "path" for O_PATH) and the ``mappings`` (``start``, ``size`` and ``offset`` in
        bytes, and ``access``, such as "rw-s").  None stands for what may not be seen.

        ``totals`` has the number of ``memfds``, and the sums of ``size``, ``memory`` and
        ``huge``.  ``processes`` says how many were ``read``, how many were ``unreadable``,
        and whether more may be ``hidden`` (hidepid, proc(5)).

    Raises
    ------
    OSError
        ESRCH: there is no process of `pids`; EACCES: its descriptors may not be read.
    ValueError
        There is no user of that name.

    Notes
    -----
    The descriptors of a process can be read by its owner and by root (ptrace(2),
    PTRACE_MODE_READ_FSCREDS).  For seals, a descriptor is duplicated (pidfd_getfd(2),
    since Linux 5.6) or, where that is not permitted, the memfd is opened without waiting,
    unless somebody has a lease on it (fcntl(2), F_SETLEASE), who would be told.
    Nothing is read or mapped.  Where nobody maps it, the kernel does not tell how much is
    in huge pages.  A memfd that is on its way through a socket is in no process, and not
    seen.

    Examples
    --------
    >>> import memfd, os
    >>> with memfd.from_bytes(b"abc", "greeting"):
    ...     [row] = memfd.ls([os.getpid()], name="greet*")["memfds"]
    >>> row["name"], row["size"], row["memory"], row["seals"]
    ('greeting', 3, 4096, ['SEAL', 'SHRINK', 'GROW', 'WRITE', 'EXEC'])
    >>> [holder["descriptors"] for holder in row["holders"]]
    [[{'fd': ..., 'access': 'rw'}]]
    """
    wanted = None if pids is None else set(pids)
    uid = _uid(user) if isinstance(user, str) else user
    scan = _proc.scan()
    for pid in sorted(wanted or ()):
        _check_read(scan, pid)
    found = {}
    for place, file in scan.files.items():
        if wanted is not None and wanted.isdisjoint(file.holders):
            continue
        if uid is not None and (file.status is None or file.status.st_uid != uid):
            continue
        if name is not None and not fnmatch.fnmatchcase(file.name, name):
            continue
        found[place] = file
    huge = _huge(found)
    names: dict[int, str | None] = {}
    commands: dict[int, str] = {}
    rows = []
    for place, file in found.items():
        try:
            seals = _seals(place, file)
        except ValueError:  # no memfd, whatever its name says
            continue
        rows.append(
            _row(place, file, seals, huge.get(place), names, commands, scan.shm)
        )
    totals = Totals(
        memfds=len(rows),
        size=sum(row["size"] or 0 for row in rows),
        memory=sum(row["memory"] or 0 for row in rows),
        huge=sum(row["huge"] or 0 for row in rows),
    )
    hidden = os.geteuid() != 0 and _proc.hides()
    processes = Processes(
        read=len(scan.read), unreadable=len(scan.unreadable), hidden=hidden
    )
    return Listing(memfds=rows, totals=totals, processes=processes)


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        if user.isdecimal():
            return int(user)
        raise ValueError(f"no user {user!r}") from None


def _check_read(scan: _proc.Scan, pid: int) -> None:
    if pid in scan.unreadable:
        raise PermissionError(errno.EACCES, f"process {pid} may not be read")
    if pid not in scan.read:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}")


def _row(
    place: tuple[int, int],
    file: _proc.File,
    seals: int | None,
    huge: int | None,
    names: dict[int, str | None],
    commands: dict[int, str],
    shm: int,
) -> Row:
    device, inode = place
    status = file.status
    if status is None:
        size = memory = page_size = uid = mode = None
    else:
        size, memory, uid = status.st_size, status.st_blocks * 512, status.st_uid
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        page_size = os.sysconf("SC_PAGE_SIZE")
        if device != shm:  # hugetlb, of which this is the page size
            page_size, huge = status.st_blksize, memory
        elif memory < _mapping.HUGE_PAGE_SIZE:
            huge = 0
        if uid not in names:
            names[uid] = _user(uid)
    holders = []
    for pid, holder in file.holders.items():
        if pid not in commands:
            commands[pid] = _proc.command(pid)
        descriptors = [
            Descriptor(fd=number, access=access)
            for number, access in holder.descriptors
        ]
        mappings = [
            Mapping(start=start, size=length, offset=offset, access=permissions)
            for start, length, offset, permissions in holder.regions
        ]
        holders.append(
            Holder(
                pid=pid,
                command=commands[pid],
                descriptors=descriptors,
                mappings=mappings,
            )
        )
    return Row(
        name=file.name,
        device=f"{os.major(device)}:{os.minor(device)}",
        inode=inode,
        size=size,
        memory=memory,
        huge=huge,
        page_size=page_size,
        seals=None if seals is None else _foreign.seal_names(seals),
        mode=mode,
        uid=uid,
        user=None if uid is None else names[uid],
        path=file.path,
        holders=holders,
    )


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _seals(place: tuple[int, int], file: _proc.File) -> int | None:
    """Return the seals, or None where nothing that tells them can be had."""
    for pid, holder in file.holders.items():
        for number, access in holder.descriptors:
            if access != "path":
                try:
                    own = duplicate(pid, number)
                except OSError:
                    continue
                found = _seals_of(own, place)
                if found is not None:
                    return found
    another = opened(file.path, place)
    return None if another is None else _seals_of(another, place)


def duplicate(pid: int, fd: int) -> _descriptors.Descriptors:
    """Duplicate a descriptor of a process, where that is permitted."""
    if pid == os.getpid():
        return _descriptors.duplicate(fd)
    return _descriptors.of_process(pid, fd)


def opened(path: str | None, place: tuple[int, int]) -> _descriptors.Descriptors | None:
    """Open a memfd for reading if that is permitted and disturbs nobody.

    The owner of a lease on it would be sent a signal.
    """
    if path is None:
        return None
    for _ in range(_TRIES):
        leased = _proc.leased()
        if leased is None or place in leased:  # guard: lease
            break
        try:
            return _descriptors.opened(path, os.O_RDONLY)
        except BlockingIOError:  # a lease, since then
            time.sleep(_PAUSE)
        except OSError:
            break
    return None


def _seals_of(own: _descriptors.Descriptors, place: tuple[int, int]) -> int | None:
    """Return the seals of a descriptor, which is closed, if it still is the one meant."""
    try:
        status = os.fstat(own[0])
        if (status.st_dev, status.st_ino) != place:
            return None
        return _core.seal_bits(own[0])
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ValueError("no memfd") from None
        return None
    finally:
        own.close()


def _huge(files: dict[tuple[int, int], _proc.File]) -> dict[tuple[int, int], int]:
    """Return how much of each file is in huge pages where the most of it is mapped.

    That is one process for each file, as its page tables have to be walked, and none for
    files that are too small.
    """
    least = _mapping.HUGE_PAGE_SIZE
    if not least:
        return {}
    asked: dict[int, list[tuple[int, int]]] = {}  # pid -> files
    for place, file in files.items():
        mapped = {
            pid: sum(region.size for region in holder.regions)
            for pid, holder in file.holders.items()
        }
        if file.status is not None and file.status.st_blocks * 512 < least:
            continue
        pid = max(mapped, key=lambda pid: mapped[pid])
        if mapped[pid] >= least:
            asked.setdefault(pid, []).append(place)
    found: dict[tuple[int, int], int] = {}
    for pid, places in asked.items():
        mapped = dict(_pmd_mapped(pid))
        for place in places:
            end = total = 0
            # Each part of the file once, however often it is mapped.
            regions = files[place].holders[pid].regions
            for region in sorted(regions, key=lambda region: region.offset):
                if region.offset >= end:
                    total += mapped.get(region.start, 0)
                    end = region.offset + region.size
            found[place] = total
    return found


def _pmd_mapped(pid: int) -> Iterator[tuple[int, int]]:
    try:
        yield from _proc.pmd_mapped(pid)
    except OSError:  # gone
        return
