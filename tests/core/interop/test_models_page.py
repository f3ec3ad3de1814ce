"""docs/models.md says of every published layout what the code does, and nothing else."""

import html
import re
from itertools import takewhile
from pathlib import Path

import pytest

from dlm.interop.layout_configs import _LLADA_KEYS
from dlm.interop.layouts import _NOT_MAPPED, LAYOUTS, Layout
from dlm.interop.published import _LLADA_LAYER, _LLADA_TOP
from dlm_cli.commands.export import export

from .test_published import CASES

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first heading it is."""
    lines = PAGE.partition(f"| {heading} |")[2].splitlines()[2:]
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[plain(cell) for cell in row.split("|")[1:-1]] for row in rows]


def plain(cell: str) -> str:
    return html.unescape(re.sub(r"</?code>|`", "", cell)).strip()


def row_of(layout: Layout) -> list[str]:
    """What the table has to say of a layout."""
    families = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
    mask_ids = sorted({case.mask for case in CASES.values() if layout_of_case(case.config, case.options) is layout})
    mask = f"{layout.mask_tokens[0]}, " + ("added" if layout.adds_mask else ", ".join(map(str, mask_ids)))
    return [
        ", ".join(layout.model_types),
        "not needed" if layout.recognised else layout.name,
        ", ".join(dict.fromkeys(families[target] for target in layout.model_types.values())),
        mask,
        "the next position" if layout.logit_shift else "in place",
        "full" if layout.bias is None else layout.bias.removeprefix("builtin:"),
        "none" if layout.bias is None else f"{', '.join(layout.block_keys)}, else --block-length",
        ", ".join(layout.ends),
        "as the tokenizer's chat template" if layout.chats else "plain",
    ]


def layout_of_case(config: dict[str, object], options: dict[str, object]) -> Layout:
    named = options.get("layout")
    fitting = [each for each in LAYOUTS.values() if config["model_type"] in each.model_types]
    return LAYOUTS[str(named)] if named else fitting[0]


def test_the_table_has_every_layout_as_the_code_has_it_and_no_other() -> None:
    written = [[re.sub(r" \(.*\)", "", cell) for cell in row] for row in table("`model_type`")]
    assert written == [row_of(layout) for layout in LAYOUTS.values()]


def test_names_and_keys_of_llada() -> None:
    renamed = {f"{old} (top)": new for old, new in _LLADA_TOP.items()} | _LLADA_LAYER
    assert dict(table("LLaDA's tensor")) == renamed  # type: ignore[arg-type]
    changed = {old: new for old, new in _LLADA_KEYS.items() if old != new}
    assert dict(table("LLaDA's key")) == changed  # type: ignore[arg-type]


def test_what_is_refused_is_listed() -> None:
    listed = PAGE.partition("- **Refused")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {*_NOT_MAPPED, "rope_theta"}


def test_every_format_of_the_export_is_in_the_table() -> None:
    (formats,) = (option.type.choices for option in export.params if option.name == "layout")  # type: ignore[attr-defined]
    assert [row[0] for row in table("format")] == list(formats)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_tried(name: str) -> None:
    assert any(layout_of_case(case.config, case.options).name == name for case in CASES.values())
