"""Text for terminals: rows in columns, and names that may be hostile."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_LEAST = 8  # of a last column that is cut
_WORD = re.compile(r"[\w.:/@+-]+", re.ASCII)
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # printable, and nothing to be seen


class Column(NamedTuple):
    """A column: its head and cells, and when it is left out for want of room.

    Those with the highest `rank` go first, those with 0 never.
    """

    head: str
    cells: Sequence[str]
    right: bool = False
    rank: int = 0


def lines(columns: Sequence[Column], width: int | None) -> list[str]:
    """Return the lines of a table that is no wider than `width`, heads first.

    The last column is the one that is cut.
    """
    columns = list(columns)
    while width is not None and _width(columns[:-1]) + _LEAST > width:
        worst = max(columns[:-1], key=lambda column: column.rank, default=None)
        if worst is None or not worst.rank:
            break
        columns.remove(worst)
    room = None if width is None else max(_LEAST, width - _width(columns[:-1]))
    *others, last = columns
    table = [[column.head, *column.cells] for column in others]
    widths = [max(map(_length, column)) for column in table]
    found = []
    for number, end in enumerate([last.head, *last.cells]):
        cells = [
            _padded(column[number], size, kind.right)
            for column, size, kind in zip(table, widths, others, strict=True)
        ]
        found.append(_GAP.join([*cells, cut(end, room)]).rstrip(" "))
    return found


def _width(columns: Sequence[Column]) -> int:
    """Return how wide columns are, with a gap after each."""
    return sum(
        max(map(_length, [column.head, *column.cells])) + len(_GAP)
        for column in columns
    )


def _padded(text: str, size: int, right: bool) -> str:
    gap = " " * (size - _length(text))
    return gap + text if right else text + gap


def _length(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, room: int | None) -> str:
    """Shorten text to so many cells of a terminal."""
    if room is None or _length(text) <= room:
        return text
    dots = "…" if _is_known("…") else "..."
    used, found = len(dots), ""
    for character in text:
        used += _cells(character)
        if used > room:
            break
        found += character
    return found + dots


def _cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def escaped(text: str) -> str:
    """Return text that shows what it is, and does nothing to a terminal.

    What is not printable is written as in Python, bytes that are no UTF-8 as ``\\xNN``.
    So are blanks that are not seen, letters that are written from right to left, which
    would move their neighbours, marks that lie over the character before them, and what
    standard output has no code for.
    """
    middle = text.strip(" ")
    before, _, after = text.partition(middle) if middle else ("", "", text)
    return _visible(before) + "".join(map(_escaped, middle)) + _visible(after)


def word(text: str) -> str:
    """Return escaped text in quotation marks where it could be taken for several words."""
    return escaped(text) if _WORD.fullmatch(text) else f'"{escaped(text)}"'


def _visible(spaces: str) -> str:
    return "\\x20" * len(spaces)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    is_plain = (
        character.isprintable()  # guard: escape -> True
        and unicodedata.bidirectional(character) not in ("R", "AL", "AN")
        and not unicodedata.category(character).startswith("M")
        and character not in _BLANKS
        and _is_known(character)
    )
    if is_plain:
        return character
    if character in "\n\r\t":
        return repr(character)[1:-1]
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _is_known(character: str) -> bool:
    """Tell whether standard output can show a character."""
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, else None."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def terminal_height() -> int | None:
    """Return the height of the terminal that standard output is, else None."""
    return shutil.get_terminal_size().lines if sys.stdout.isatty() else None


def bold(text: str) -> str:
    """Make text bold where that is a terminal that shows it."""
    if "NO_COLOR" in os.environ or not has_escapes():
        return text
    return f"\033[1m{text}\033[m"


def has_escapes() -> bool:
    """Tell whether standard output is a terminal that can more than lines of text."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
