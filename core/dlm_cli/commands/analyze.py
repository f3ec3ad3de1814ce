"""``dlm analyze``: compare two checkpoints tensor by tensor."""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dlm.model.analyze import Comparison, TensorComparison

_EPILOG = """\b
Examples:
  dlm analyze ./qwen3 ./qwen3-llada
  dlm analyze runs/a/final runs/b/final --json

Exit code: 0 the checkpoints are the same, 1 they differ, 2 one of them cannot be read.
"""


@click.command(epilog=_EPILOG)
@click.argument("a")
@click.argument("b")
@click.option("--all", "show_all", is_flag=True, help="List the equal tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every tensor.")
def analyze(a: str, b: str, show_all: bool, as_json: bool) -> None:
    """Compare names, shapes, dtypes and values of the tensors of checkpoints A and B.

    A and B are folders, sharded or not, or .safetensors files. A head that one of them leaves out because it is tied
    to the embedding is no difference.
    """
    from dlm.model.analyze import analyze as analyze_checkpoints

    comparison = analyze_checkpoints(a, b)
    if as_json:
        click.echo(json.dumps(_as_json(comparison), indent=2))
    else:
        _print_table(comparison, show_all=show_all)
    click.get_current_context().exit(0 if comparison.same else 1)


def _as_json(comparison: "Comparison") -> dict[str, Any]:
    """The comparison as plain JSON values; a NaN becomes a string, which JSON has no number for."""
    import attrs

    def plain(_instance: Any, _field: Any, value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {"same": comparison.same, **attrs.asdict(comparison, value_serializer=plain)}


def _print_table(comparison: "Comparison", *, show_all: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    # Without a terminal there is no width to fit into, and names must not be cut.
    console = Console(width=None if sys.stdout.isatty() else 200)
    shown = [tensor for tensor in comparison.tensors if show_all or not tensor.same]
    if shown:
        table = Table()
        for heading in ("tensor", "difference", "shape A", "shape B", "dtype A", "dtype B", "max |A-B|", "elements"):
            table.add_column(heading, overflow="fold")
        for tensor in shown:
            table.add_row(*_cells(tensor))
        console.print(table)
    num_same = sum(tensor.same for tensor in comparison.tensors)
    verdict = "the checkpoints are the same" if comparison.same else "the checkpoints differ"
    console.print(f"{num_same} of {len(comparison.tensors)} tensors are the same: {verdict}", highlight=False)


def _cells(tensor: "TensorComparison") -> list[str]:
    """One row of the table."""
    largest = tensor.max_abs_difference
    return [
        tensor.name,
        str(tensor.status),
        _text(tensor.shape_a),
        _text(tensor.shape_b),
        _text(tensor.dtype_a),
        _text(tensor.dtype_b),
        "" if largest is None else f"{largest:.3g}",
        _text(tensor.num_different),
    ]


def _text(value: object) -> str:
    return "" if value is None else str(value)
