"""Plain tables: aligned columns, no colour, nothing cut off, the last column wrapped where there is a screen."""

import shutil
import sys
import textwrap
from collections.abc import Sequence

_GAP = "  "
_NARROWEST_LAST_COLUMN = 24


def screen_width() -> int | None:
    """Columns of the terminal; None when the output goes to a file or a pipe, where a row stays on one line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, indent: str = ""
) -> str:
    """Lay out rows under a header; an empty header is left out. The last column wraps to fit ``width``."""
    table = [*([header] if any(header) else []), *rows]
    if not table:
        return ""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    start = len(indent) + sum(each + len(_GAP) for each in widths)
    room = None if width is None else max(width - start, _NARROWEST_LAST_COLUMN)
    lines = []
    for *cells, last in table:
        head = indent + "".join(cell.ljust(each) + _GAP for cell, each in zip(cells, widths, strict=True))
        first, *others = [last] if room is None else textwrap.wrap(last, room) or [""]
        lines += [(head + first).rstrip(), *(" " * start + other for other in others)]
    return "\n".join(lines)
