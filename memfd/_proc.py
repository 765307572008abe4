"""What /proc says about other processes: who holds a memfd."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def sharing_pids(device: int, inode: int) -> list[int]:
    """Return the processes that are seen to have a shared mapping of the file."""
    mapped = _in_maps(device, inode)
    return [
        pid
        for pid, lines in _maps()
        if any(mapped in line and line.split()[1][3] == "s" for line in lines)
    ]


def holders(files: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Return which processes are seen to have each file, a device and inode.

    Of this process, which owns the files, only private mappings and descriptors that are
    open for reading only count.
    """
    found: dict[tuple[int, int], set[int]] = {file: set() for file in files}
    texts = {_in_maps(*file): file for file in found}
    own = os.getpid()
    for pid, lines in _maps():
        for line in lines:
            if "/memfd:" not in line or (pid == own and line.split()[1][3] != "p"):
                continue
            for text, file in texts.items():
                if text in line:
                    found[file].add(pid)
        for descriptor in _listed(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{descriptor}"
            try:
                # Of the link first: what is behind another may not answer.
                if not os.readlink(path).startswith("/memfd:"):
                    continue
                is_writable = os.lstat(path).st_mode & 0o200
                if pid == own and is_writable:
                    continue
                status = os.stat(path)
            except OSError:  # closed meanwhile
                continue
            if (status.st_dev, status.st_ino) in found:
                found[status.st_dev, status.st_ino].add(pid)
    return {file: sorted(pids) for file, pids in found.items()}


def _in_maps(device: int, inode: int) -> str:
    """Return what a line of a maps file has of a file."""
    return f"{os.major(device):02x}:{os.minor(device):02x} {inode} "


def _maps() -> Iterator[tuple[int, list[str]]]:
    """Yield the processes that can be seen, and the lines of their maps."""
    for pid in sorted(int(entry) for entry in _listed("/proc") if entry.isdecimal()):
        try:
            with open(f"/proc/{pid}/maps", errors="replace") as file:
                yield pid, file.readlines()
        except OSError:  # gone meanwhile, or another user's
            continue


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
