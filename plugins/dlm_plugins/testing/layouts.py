"""Layouts for attention biases: prompts, answers, blocks, packed documents, padding, clean copies."""

from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.attention_bias import SequenceLayout
from dlm_plugins.draws import KeyedDraws
from dlm_plugins.testing.choices import Choices, sized_cases

TENSORS = ("position", "block", "document", "is_clean")


def layouts(*, stage: str) -> st.SearchStrategy[SequenceLayout]:
    """Layouts of a stage: "training", "training with a clean copy" or "sampling".

    One or two rows hold one or two documents each (one in sampling), each a prompt of 0 to 2 positions and an answer of
    1 to 5, in blocks of 1 to 3, and padding. In sampling the prompt and the first few blocks are clean; training is
    anywhere between its start and its end. There are draws before the end only.
    """

    def make(choices: Choices, num_rows: int, longest_answer: int) -> SequenceLayout:
        block_length = choices.randint(1, 3)
        rows = [_row(choices, stage, block_length, longest_answer) for _ in range(num_rows)]
        length = max(len(row) for row in rows) + choices.randint(0, 1)
        padding = (0, -1, -1, False)
        table = [row + [padding] * (length - len(row)) for row in rows]
        columns = [torch.tensor([[entry[i] for entry in row] for row in table]) for i in range(len(TENSORS))]
        draws = KeyedDraws(seed=choices.randint(0, 9), step=3, rows=torch.arange(num_rows), length=length)
        progress = 1.0 if stage == "sampling" else choices.choice((1.0, 0.5, 0.0, 0.1, 0.9))
        layout = SequenceLayout(
            **dict(zip(TENSORS, columns, strict=True)), progress=progress, draws=draws if progress < 1 else None
        )
        return with_clean_copy(layout) if stage == "training with a clean copy" else layout

    return sized_cases(make, max_rows=2, max_length=5)


def _row(choices: Choices, stage: str, block_length: int, longest_answer: int) -> list[tuple[int, int, int, bool]]:
    row = []
    for document in range(1 if stage == "sampling" else choices.randint(1, 2)):
        num_prompt, num_answer = choices.randint(0, 2), choices.randint(1, longest_answer)
        num_committed = choices.randint(0, 2) if stage == "sampling" else 0
        for position in range(num_prompt + num_answer):
            block = (position - num_prompt) // block_length if position >= num_prompt else -1
            row.append((position, block, document, stage == "sampling" and block < num_committed))
    return row


def with_clean_copy(layout: SequenceLayout) -> SequenceLayout:
    """[noisy | clean]: everything twice, and marked clean the second time."""
    doubled = {name: torch.cat((getattr(layout, name), getattr(layout, name)), dim=1) for name in TENSORS}
    half = layout.position.shape[1]
    doubled["is_clean"] = (torch.arange(2 * half) >= half) & (doubled["document"] >= 0)
    return _with(layout, doubled)


def take(layout: SequenceLayout, rows: list[int]) -> SequenceLayout:
    """Some of the rows, in this order."""
    return _with(layout, {name: getattr(layout, name)[rows] for name in TENSORS}, rows)


def padded(layout: SequenceLayout, num_positions: int) -> SequenceLayout:
    """The layout with more padding on the right."""
    fills = {"position": 0, "block": -1, "document": -1, "is_clean": False}
    grown: dict[str, Tensor] = {}
    for name, fill in fills.items():
        tensor: Tensor = getattr(layout, name)
        grown[name] = torch.cat((tensor, tensor.new_full((tensor.shape[0], num_positions), fill)), dim=1)
    return _with(layout, grown)


def on_device(layout: SequenceLayout, device: str) -> SequenceLayout:
    """The layout elsewhere."""
    changes: dict[str, Any] = {name: getattr(layout, name).to(device) for name in TENSORS}
    if isinstance(layout.draws, KeyedDraws):
        changes["draws"] = attrs.evolve(layout.draws, rows=layout.draws.rows.to(device))
    return attrs.evolve(layout, **changes)


def _with(layout: SequenceLayout, tensors: dict[str, Tensor], rows: list[int] | None = None) -> SequenceLayout:
    """The layout with other tensors, and draws of their shape: of some rows, or of all of them."""
    changes: dict[str, Any] = {**tensors}
    if isinstance(layout.draws, KeyedDraws):
        kept = layout.draws.rows if rows is None else layout.draws.rows[rows]
        changes["draws"] = attrs.evolve(layout.draws, rows=kept, length=tensors["block"].shape[1])
    return attrs.evolve(layout, **changes)


def with_clean_blocks(layout: SequenceLayout, num_committed: int) -> SequenceLayout:
    """A sampling layout in which another number of blocks is committed."""
    return attrs.evolve(layout, is_clean=(layout.block < num_committed) & (layout.document >= 0))
