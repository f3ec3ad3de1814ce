"""How ``dlm data preview`` looks: colours of each kind of position on a terminal, markers elsewhere."""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dlm.training.noised_pieces import Piece
    from dlm.training.preview import Preview, PreviewRow

_WIDTH = 80
_MOST_UNUSED = 5
_STYLES: Mapping[str, str] = {
    "prompt": "cyan",
    "clean": "green",
    "masked": "black on yellow",
    "replaced": "white on red",
    "padding": "dim",
}
_MARKERS: Mapping[str, tuple[str, str]] = {
    "prompt": ("«", "»"),
    "clean": ("", ""),
    "masked": ("⟦", "⟧"),
    "replaced": ("⦃", "⦄"),
    "padding": ("", ""),
}
_DOCUMENT_BOUNDARY = "‖"


def show(preview: "Preview", console: Console | None = None) -> None:
    """Print a preview.

    Args:
        preview: what to print.
        console: where to; None: standard output, 80 columns wide unless it is a terminal.
    """
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    coloured = console.is_terminal and not console.no_color
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(preview):
        table.add_row(name, Text(value))
    table.add_row("legend", _legend(preview.mode, coloured))
    console.print(table)
    for row in preview.rows:
        console.print()
        console.print(Text(_heading(row, preview)), style="bold")
        console.print(_drawn(row.pieces, coloured), overflow="fold")


def _facts(preview: "Preview") -> Iterator[tuple[str, str]]:
    yield "data", preview.data_summary
    yield from (("", note) for note in preview.notes)
    lengths = preview.lengths
    if lengths is not None:
        spread = f"{lengths.shortest} to {lengths.longest}, median {lengths.median}, at most {preview.max_length}"
        yield "rows", f"{lengths.num_rows:,} to train on, {lengths.num_tokens:,} tokens; a row has {spread}"
    yield "evaluation", preview.evaluation_summary
    views = f", {preview.num_views} views of each" if preview.num_views > 1 else ""
    what = (
        "prompts alone: answers are drawn in the run"
        if preview.mode == "rl"
        else "with the noise that the run will draw"
    )
    yield "step 0", f"{preview.rows_per_step:,} rows{views}, {what}"
    for number, bad in enumerate(preview.unused[:_MOST_UNUSED]):
        yield ("" if number else "not used"), str(bad)
    if len(preview.unused) > _MOST_UNUSED:
        yield "", f"and {len(preview.unused) - _MOST_UNUSED:,} more; a run lists all of them in bad_rows.jsonl"


def _legend(mode: str, coloured: bool) -> Text:
    if mode == "rl":
        return Text("  ").join([_marked("prompt", "prompt", coloured), _marked("padding", "padding", coloured)])
    names = {
        "prompt": "prompt",
        "clean": "answer" if mode != "pretrain" else "text",
        "masked": "under a mask",
        "replaced": "was→is",
        "padding": "padding",
    }
    shown = names if mode != "pretrain" else {kind: name for kind, name in names.items() if kind != "prompt"}
    parts = [_marked(kind, name, coloured) for kind, name in shown.items()]
    return Text("  ").join([*parts, Text(f"{_DOCUMENT_BOUNDARY} next document")])


def _heading(row: "PreviewRow", preview: "Preview") -> str:
    parts = [f"row {row.number} (data row {row.data_row})"]
    if preview.num_views > 1:
        parts[0] += f", view {row.view}"
    corrupted, scored = row.count("masked", "replaced"), row.count("clean", "masked", "replaced")
    kinds = f"{row.count('prompt')} prompt + {scored} answer" if preview.mode != "pretrain" else f"{scored}"
    documents = f" in {row.num_documents} documents" if row.num_documents > 1 else ""
    low, high = row.rates
    rate = f"rate {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"rates {low:.2f} to {high:.2f}"
    what = "masked" if not row.count("replaced") else "corrupted"
    if preview.mode == "rl":
        parts += [f"{row.count('prompt')} tokens"]
    else:
        parts += [f"{kinds} tokens{documents}", f"{corrupted} {what}, {rate}"]
    parts += [f"{row.count('padding')} padding"]
    return "; ".join(parts)


def _drawn(pieces: "tuple[Piece, ...]", coloured: bool) -> Text:
    text = Text()
    document = 0
    for piece in pieces:
        if piece.document > document:
            text.append(_DOCUMENT_BOUNDARY)
            document = piece.document
        inside = {"padding": f"  (padding x{piece.num_tokens})", "replaced": f"{piece.text}→{piece.seen}"}
        text.append_text(_marked(piece.kind, inside.get(piece.kind, piece.text), coloured))
    return text


def _marked(kind: str, text: str, coloured: bool) -> Text:
    before, after = ("", "") if coloured else _MARKERS[kind]
    return Text(f"{before}{text}{after}", style=_STYLES[kind])
