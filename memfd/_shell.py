"""What `memfd ls` and `memfd show` print."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
import warnings

from memfd import _describe, _descriptors, _listing
from memfd._file import readable
from memfd._table import (
    Column,
    bold,
    cut,
    escaped,
    has_escapes,
    lines,
    terminal_height,
    terminal_width,
    word,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from memfd._listing import Listing, Row

# A letter for each seal, in this order, as `memfd ls` shows them.
LETTERS = {
    "SHRINK": "s",
    "GROW": "g",
    "WRITE": "w",
    "FUTURE_WRITE": "f",
    "EXEC": "x",
    "SEAL": "S",
}
SORTS = {
    "memory": lambda row: (-(row["memory"] or 0), row["inode"]),
    "size": lambda row: (-(row["size"] or 0), row["inode"]),
    "huge": lambda row: (-(row["huge"] or 0), row["inode"]),
    "holders": lambda row: (-len(row["holders"]), row["inode"]),
    "name": lambda row: (row["name"], row["inode"]),
    "user": lambda row: (row["user"] or "", row["uid"] or 0, row["inode"]),
    "inode": lambda row: row["inode"],
}
_UNKNOWN = "?"
_STEP = 1 << 16  # bytes of a dump that are read at once


def ls(arguments: argparse.Namespace) -> int:
    """Run `memfd ls`."""
    while True:
        listing = _listing.ls(
            arguments.pids or None, user=arguments.user, name=arguments.name
        )
        listing["memfds"].sort(key=SORTS[arguments.sort])
        if arguments.reverse:
            listing["memfds"].reverse()
        if arguments.json:
            print(json.dumps(listing, indent=None if arguments.watch else 2))
        else:
            found, tail = (
                list(_table(listing, arguments)),
                list(_sums(listing, arguments)),
            )
            if arguments.watch and has_escapes():
                print("\033[H\033[J", end="")
                # The first lines are what was asked for; the last one stays empty.
                room = max(2, (terminal_height() or 0) - len(tail) - 1)
                del found[room:]
            print(*found, *tail, sep="\n")
        if not arguments.watch:
            return 0
        sys.stdout.flush()
        time.sleep(arguments.interval)
        if not (arguments.json or sys.stdout.isatty()):
            print()


def _table(listing: Listing, arguments: argparse.Namespace) -> Iterator[str]:
    rows, width = listing["memfds"], terminal_width()
    size = str if arguments.bytes else readable
    named = 3 if width is None or width >= 120 else 1

    def sizes(key: str) -> list[str]:
        values = [row[key] for row in rows]  # type: ignore[literal-required]
        return [_UNKNOWN if value is None else size(value) for value in values]

    table = [
        Column("INODE", [str(row["inode"]) for row in rows], True, rank=4),
        Column("SIZE", sizes("size"), True, rank=1),
        Column("MEMORY", sizes("memory"), True),
        Column("HUGE", sizes("huge"), True, rank=6),
        Column("SEALS", [_letters(row["seals"]) for row in rows], rank=3),
        Column("USER", [_user(row) for row in rows], rank=5),
        Column("HOLDERS", [_holders(row, named) for row in rows], rank=2),
        Column("PATH", [row["path"] or _UNKNOWN for row in rows], rank=7),
        Column("NAME", [escaped(row["name"]) for row in rows]),
    ]
    if arguments.long:
        del table[6]  # which get lines of their own
    head, *others = lines(table, width)
    yield bold(head)
    for row, line in zip(rows, others, strict=True):
        yield line
        if arguments.long:
            details = [f"seals: {_words(row['seals'])}", *_holder_lines(row)]
            yield from (cut(f"    {detail}", width) for detail in details)


def _sums(listing: Listing, arguments: argparse.Namespace) -> Iterator[str]:
    totals, size = listing["totals"], str if arguments.bytes else readable
    yield (
        f"memfds: {totals['memfds']}, memory: {size(totals['memory'])}, "
        f"in huge pages: {size(totals['huge'])}"
    )
    yield from _notes(listing)


def _notes(listing: Listing) -> Iterator[str]:
    """Say what could not be seen."""
    processes = listing["processes"]
    if processes["unreadable"]:
        hint = " (root reads those of all users)" if os.geteuid() else ""
        yield (
            f"processes read: {processes['read']}, "
            f"not readable: {processes['unreadable']}{hint}"
        )
    if processes["hidden"]:
        yield "/proc hides processes of other users here (hidepid)"


def show(arguments: argparse.Namespace) -> int:
    """Run `memfd show`."""
    device, inode = _place(arguments.memfd)
    listing = _listing.ls()
    found = [
        row
        for row in listing["memfds"]
        if row["inode"] == inode and device in (None, row["device"])
    ]
    if not found:
        what = f"inode {inode}" if device is None else arguments.memfd
        notes = "; ".join(_notes(listing))
        raise FileNotFoundError(
            errno.ENOENT,
            f"{escaped(what)} is no memfd that is seen{notes and f' ({notes})'}",
        )
    for number, row in enumerate(found):
        if number:
            print()
        for line in _one(row, arguments.count if arguments.hexdump else 0):
            print(line)
    return 0


def _place(target: str) -> tuple[str | None, int]:
    """Return the device, if it is known, and inode of what was asked for."""
    if target.isdecimal():
        return None, int(target)
    found = re.fullmatch(r"(\d+):(\d+)", target)
    path = f"/proc/{found[1]}/fd/{found[2]}" if found else target
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if found and not os.path.exists(f"/proc/{found[1]}"):
            raise ProcessLookupError(errno.ESRCH, f"no process {found[1]}") from None
        if found:
            raise FileNotFoundError(
                errno.ENOENT, f"process {found[1]} has no descriptor {found[2]}"
            ) from None
        raise FileNotFoundError(errno.ENOENT, f"no file {escaped(path)}") from None
    except OSError as error:
        raise OSError(error.errno, f"{escaped(path)}: {error.strerror}") from None
    device = status.st_dev
    return f"{os.major(device)}:{os.minor(device)}", status.st_ino


def _one(row: Row, count: int) -> Iterator[str]:
    """Say all that is known of one memfd."""

    def line(key: str, value: str) -> str:
        return f"{bold(key.ljust(10))} {value}".rstrip()

    def size(value: int | None) -> str:
        if value is None:
            return _UNKNOWN
        return readable(value) + (f" ({value} bytes)" if value >= 1024 else "")

    yield line("name", escaped(row["name"]))
    yield line("inode", f"{row['inode']} on device {row['device']}")
    yield line("size", size(row["size"]))
    yield line("memory", size(row["memory"]))
    yield line("huge pages", size(row["huge"]))
    yield line("seals", _words(row["seals"]))
    yield line("mode", row["mode"] or _UNKNOWN)
    uid = "" if row["uid"] is None else f" ({row['uid']})"
    yield line("owner", f"{_user(row)}{uid}")
    yield line("path", row["path"] or _UNKNOWN)
    for number, text in enumerate(_holder_lines(row)):
        yield line("" if number else "holders", text)
    own = _opened(row)
    if own is None:
        yield line("contents", "may not be read")
        return
    try:
        for number, text in enumerate(_contents(own[0])):
            yield line("" if number else "contents", text)
        if count:
            yield ""
            yield from _hexdump(own[0], min(count, os.fstat(own[0]).st_size))
    finally:
        own.close()


def _opened(row: Row) -> _descriptors.Descriptors | None:
    """Return a descriptor to read the memfd with, if one can be had."""
    for holder in row["holders"]:
        for descriptor in holder["descriptors"]:
            if descriptor["access"] in ("r", "rw"):
                try:
                    own = _listing.duplicate(holder["pid"], descriptor["fd"])
                except OSError:
                    continue
                if _is(own, row):
                    return own
    major, minor = map(int, row["device"].split(":"))
    another = _listing.opened(row["path"], (os.makedev(major, minor), row["inode"]))
    return another if another is not None and _is(another, row) else None


def _is(own: _descriptors.Descriptors, row: Row) -> bool:
    """Tell whether a descriptor is of this memfd, and close it if not."""
    status = os.fstat(own[0])
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    if (device, status.st_ino) == (row["device"], row["inode"]):
        return True
    own.close()
    return False


def _contents(fd: int) -> Iterator[str]:
    """Say what is in a memfd, without running or mapping it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which would show what is hostile as it is
            kind, _, parts = _describe.described(fd, os.fstat(fd).st_size)
    except ValueError as error:
        yield f"damaged: {escaped(str(error))}"
        return
    except ModuleNotFoundError:  # NumPy, to check the header, which is text
        header = os.pread(fd, 256, 10).partition(b"\n")[0].decode("latin1")
        yield f".npy array {escaped(header.rstrip())} (unchecked: there is no NumPy)"
        return
    if kind == "array":
        (part,) = parts
        shape = ", ".join(map(str, part.shape or ()))
        dtype = escaped(part.dtype or "")
        yield f".npy array of {dtype}, shape ({shape}), at {part.offset}"
    elif kind == "arrays":
        yield f"safetensors file, arrays: {len(parts)}"
        names = Column("NAME", [escaped(part.name) for part in parts])
        shapes = [",".join(map(str, part.shape or ())) for part in parts]
        table = [
            Column("DTYPE", [escaped(part.dtype or "") for part in parts]),
            Column("SHAPE", [f"[{shape}]" for shape in shapes]),
            Column("OFFSET", [str(part.offset) for part in parts], True),
            Column("SIZE", [readable(part.size) for part in parts], True),
            names,
        ]
        yield from (f"  {line}" for line in lines(table, None))
    elif kind == "object":
        pickled, *buffers = parts
        size = readable(pickled.size)
        yield f"Python object: a pickle of {size}, buffers: {len(buffers)}"
        for buffer in buffers:
            yield f"  {readable(buffer.size)} at {buffer.offset}"
    else:
        yield "bytes"


def _hexdump(fd: int, count: int) -> Iterator[str]:
    """Yield lines as of ``hexdump -C``."""
    done = 0
    while done < count and (data := os.pread(fd, min(_STEP, count - done), done)):
        for start in range(0, len(data), 16):
            piece = data[start : start + 16]
            left, right = piece[:8].hex(" "), piece[8:].hex(" ")
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
            yield f"{done + start:08x}  {left:23}  {right:23}  |{text}|"
        done += len(data)
    yield f"{done:08x}"


def _letters(seals: list[str] | None) -> str:
    if seals is None:
        return _UNKNOWN
    known = "".join(
        letter if seal in seals else "-" for seal, letter in LETTERS.items()
    )
    return known + "".join(f"+{seal}" for seal in seals if seal not in LETTERS)


def _words(seals: list[str] | None) -> str:
    return _UNKNOWN if seals is None else " ".join(seals) or "none"


def _user(row: Row) -> str:
    if row["user"] is not None:
        return escaped(row["user"])
    return _UNKNOWN if row["uid"] is None else str(row["uid"])


def _holders(row: Row, named: int) -> str:
    """Return the first holders of a memfd, and how many more there are."""
    first = [
        f"{holder['pid']} {word(holder['command'])}"
        for holder in row["holders"][:named]
    ]
    more = len(row["holders"]) - len(first)
    return ", ".join(first) + (f" +{more}" if more else "")


def _holder_lines(row: Row) -> Iterator[str]:
    """Yield a line for each holder: its descriptors and mappings."""
    for holder in row["holders"]:
        parts = [f"{holder['pid']} {word(holder['command'])}"]
        if holder["descriptors"]:
            fds = ", ".join(f"{d['fd']} {d['access']}" for d in holder["descriptors"])
            parts.append(f"fd {fds}")
        if holder["mappings"]:
            mapped = ", ".join(
                f"{m['access']} {readable(m['size'])} at {m['offset']}"
                for m in holder["mappings"]
            )
            parts.append(f"mapped {mapped}")
        yield "; ".join(parts)
