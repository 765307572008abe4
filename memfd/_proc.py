"""What /proc says about the processes of this machine: which memfds each of them has."""

from __future__ import annotations

import errno
import functools
import os
import re
from typing import NamedTuple

from memfd import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOUNT = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)
_HUGE_SIZE = re.compile(r"hugepages-(\d+)kB")
_PREFIX, _SUFFIX = "/memfd:", " (deleted)"
# start-end perms offset device inode path
_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) "
    rb"([0-9a-f]{1,8}):([0-9a-f]{1,8}) (\d+) +(/memfd:.*)",
    re.DOTALL,
)
# In smaps: where a mapping starts, and what of it is in huge pages.
_PMD_MAPPED = re.compile(
    rb"^([0-9a-f]+)-[0-9a-f]+ |^(?:Shmem|File)PmdMapped: +([1-9]\d*) kB$", re.MULTILINE
)
# In /proc/locks, as "1: LEASE  ACTIVE    WRITE 4711 00:01:1024 0 EOF".
_LEASE = re.compile(rb" LEASE .* ([0-9a-f]+):([0-9a-f]+):(\d+) 0 EOF$", re.MULTILINE)
_PF_KTHREAD = 0x00200000  # in the flags of /proc/PID/stat


class Descriptor(NamedTuple):
    """A descriptor of a memfd: what it is open for is "r", "w", "rw" or "path"."""

    number: int
    access: str


class Region(NamedTuple):
    """A mapping of a memfd, as /proc/PID/maps has it; addresses and sizes in bytes."""

    start: int
    size: int
    offset: int
    permissions: str


class Holder(NamedTuple):
    """What one process has of a memfd."""

    descriptors: list[Descriptor]
    regions: list[Region]


class File:
    """A memfd, as it is seen through the processes that have it.

    Attributes
    ----------
    name : str
        As it was created, undecodable bytes as surrogates.
    status : os.stat_result or None
        None where nothing that leads to the file may be followed.
    path : str or None
        What leads to the file.
    holders : dict
        pid -> `Holder`, of processes that could be read.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status: os.stat_result | None = None
        self.path: str | None = None
        self.holders: dict[int, Holder] = {}


class Scan(NamedTuple):
    """All memfds, by device and inode, and which processes were and were not read."""

    files: dict[tuple[int, int], File]
    read: set[int]
    unreadable: set[int]
    shm: int  # the device of all that are not hugetlb


class _Homes(NamedTuple):
    """Where memfds are: file systems that nobody mounts, by device and by mount."""

    shm: int
    devices: set[int]
    mounts: set[bytes]


def scan() -> Scan:
    """Look at every process once; those that end meanwhile are no error.

    Raises
    ------
    OSError
        /proc is not there, or something is missing that is needed to read it.
    """
    homes = _homes()
    found = Scan({}, set(), set(), homes.shm)
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        try:
            # Descriptors first: what is mapped and then closed is seen either way.
            seen = _read(found.files, pid, f"/proc/{pid}", homes)
            if not seen and _state(pid) == "Z":  # only its first thread has ended
                for task in os.listdir(f"/proc/{pid}/task"):
                    if seen := _read(
                        found.files, pid, f"/proc/{pid}/task/{task}", homes
                    ):
                        break
            found.read.add(pid)
        except PermissionError:
            has_nothing = _state(pid) in ("K", "Z")  # the kernel's own, and zombies
            (found.read if has_nothing else found.unreadable).add(pid)
        except (FileNotFoundError, ProcessLookupError):  # gone
            continue
    return found


def sharing_pids(device: int, inode: int, besides: Iterable[int] = ()) -> list[int]:
    """Return the processes that are seen to have a shared mapping of the file.

    In this process those do not count that begin at an address in `besides`.
    """
    own, besides = os.getpid(), set(besides)
    try:
        file = scan().files.get((device, inode))
    except OSError:
        return []
    if file is None:
        return []
    return [
        pid
        for pid, holder in file.holders.items()
        if any(
            region.permissions[3] == "s"
            and not (pid == own and region.start in besides)
            for region in holder.regions
        )
    ]


def holders(files: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Return which processes are seen to have each file, a device and inode.

    Of this process, which owns the files, only private mappings and descriptors that are
    open for reading only count.
    """
    own = os.getpid()
    try:
        found = scan().files
    except OSError:  # without /proc nobody is seen
        found = {}

    def counts(pid: int, holder: Holder) -> bool:
        return (
            pid != own
            or any(descriptor.access == "r" for descriptor in holder.descriptors)
            or any(region.permissions[3] == "p" for region in holder.regions)
        )

    return {
        file: [pid for pid, has in found[file].holders.items() if counts(pid, has)]
        if file in found
        else []
        for file in files
    }


def command(pid: int) -> str:
    """Return what a process calls itself, or "" when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().removesuffix(b"\n"))
    except OSError:
        return ""


def pmd_mapped(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the start of each mapping of a process, and its bytes in huge pages."""
    with open(f"/proc/{pid}/smaps", "rb") as file:
        text = file.read()
    start = 0
    for found in _PMD_MAPPED.finditer(text):
        if found[1]:
            start = int(found[1], 16)
        else:
            yield start, int(found[2]) * 1024


def leased() -> set[tuple[int, int]] | None:
    """Return the files, as device and inode, whose owner is told when they are opened.

    None where that cannot be known.
    """
    try:
        with open("/proc/locks", "rb") as file:
            text = file.read()
    except OSError:
        return None
    return {
        (os.makedev(int(found[1], 16), int(found[2], 16)), int(found[3]))
        for found in _LEASE.finditer(text)
    }


def hides() -> bool:
    """Tell whether /proc was mounted so that it shows some users only some processes."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return False
    # Of several mounts over one another, the last is seen.
    options = [line for line in lines if line.split()[4:5] == [b"/proc"]][-1:]
    hidden = (rb"hidepid=(2|4|invisible|ptraceable)\b" for _ in options)
    return any(map(re.search, hidden, options))


def _read(
    files: dict[tuple[int, int], File], pid: int, folder: str, homes: _Homes
) -> bool:
    """Read a process, or one thread of it; tell whether there was anything."""
    numbers = os.listdir(f"{folder}/fd")
    _read_descriptors(files, pid, folder, numbers, homes)
    with open(f"{folder}/maps", "rb") as maps:
        text = maps.read()
    if b" /memfd:" in text:
        _read_mappings(files, pid, text, homes)
    return bool(numbers or text)


def _read_descriptors(
    files: dict[tuple[int, int], File],
    pid: int,
    folder: str,
    numbers: list[str],
    homes: _Homes,
) -> None:
    for number in numbers:
        path = f"{folder}/fd/{number}"
        try:
            name = _name(os.readlink(path))
            if name is None:
                continue
            # Of the mount first: what is on another may not answer.
            with open(f"{folder}/fdinfo/{number}", "rb") as info:
                mount = _MOUNT.search(info.read())
            if mount is None or mount[1] not in homes.mounts:
                continue
            bits = os.lstat(path).st_mode
            status = os.stat(path)
        except (FileNotFoundError, ProcessLookupError):  # closed meanwhile
            continue
        if status.st_dev not in homes.devices:  # another one has the number by now
            continue
        access = ("r" if bits & 0o400 else "") + ("w" if bits & 0o200 else "")
        file = files.setdefault((status.st_dev, status.st_ino), File(name))
        file.name = name  # the kernel escapes nothing here
        file.status = status
        if file.path is None or access.startswith("r"):
            file.path = path
        holder = file.holders.setdefault(pid, Holder([], []))
        holder.descriptors.append(Descriptor(int(number), access or "path"))


def _read_mappings(
    files: dict[tuple[int, int], File], pid: int, text: bytes, homes: _Homes
) -> None:
    # A carriage return in a name would begin a line of its owner's making.
    lines = text.split(b"\n")  # guard: forged line -> lines = text.splitlines()
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        start, end, offset, major, minor = (int(found[i], 16) for i in (1, 2, 4, 5, 6))
        device, inode = os.makedev(major, minor), int(found[7])
        name = _name(os.fsdecode(found[8]).replace("\\012", "\n"))
        if name is None or device not in homes.devices:
            continue
        file = files.get((device, inode))
        if file is None:
            file = files[device, inode] = File(name)
        if file.status is None:
            _follow(file, f"/proc/{pid}/map_files/{start:x}-{end:x}", (device, inode))
        region = Region(start, end - start, offset, found[3].decode())
        file.holders.setdefault(pid, Holder([], [])).regions.append(region)


def _follow(file: File, path: str, place: tuple[int, int]) -> None:
    """Learn from a mapping what its line does not tell: this needs a privilege."""
    try:
        file.name = _name(os.readlink(path)) or file.name
        status = os.stat(path)
    except OSError:  # not permitted, or unmapped meanwhile
        return
    if (status.st_dev, status.st_ino) == place:
        file.status, file.path = status, path


def _name(link: str) -> str | None:
    """Return the name in a link to a memfd; others lead elsewhere."""
    if not (link.startswith(_PREFIX) and link.endswith(_SUFFIX)):
        return None
    return link[len(_PREFIX) : -len(_SUFFIX)]


@functools.cache  # they are the kernel's, from boot on
def _homes() -> _Homes:
    """Return the homes of memfds, where memfds of our own are."""
    devices: list[int] = []
    mounts = set()
    sizes = _HUGE_SIZE.findall(" ".join(_listed("/sys/kernel/mm/hugepages")))
    logs = [(int(size) << 10).bit_length() - 1 for size in sizes]
    flags = [_core.MFD_HUGETLB | log << _core.MFD_HUGE_SHIFT for log in logs]
    for kind in (0, *flags):
        try:
            fd = _own(kind | _core.MFD_CLOEXEC)
        except OSError:
            if not kind:
                raise
            continue  # not on this kernel
        try:
            devices.append(os.fstat(fd).st_dev)
            with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
                if found := _MOUNT.search(info.read()):
                    mounts.add(found[1])
        finally:
            os.close(fd)
    return _Homes(devices[0], set(devices), mounts)


def _own(flags: int) -> int:
    """Return a memfd, also where vm.memfd_noexec insists."""
    try:
        return _core.memfd_create("", flags | _core.MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 6.3
            raise
    return _core.memfd_create("", flags)


def _state(pid: int) -> str:
    """Return the letter of a process's state: Z for zombies, K for the kernel's own."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:  # hidden, or gone
        return ""
    return "K" if int(fields[6]) & _PF_KTHREAD else fields[0].decode()


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
