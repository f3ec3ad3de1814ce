"""Rows for maskings: small ones that hypothesis shrinks, and large batches for statistics."""

from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dlm_plugins.draws import KeyedDraws
from dlm_plugins.masking import NEEDS_TRACE, Masking, MaskingRequest, Selection, views_of
from dlm_plugins.testing.choices import Choices, sized_cases
from dlm_plugins.testing.property_tools import returned

_RATES = (0.5, 0.0, 0.001, 0.1, 0.9, 1.0)
_PADDING = {"eligible": False, "p": 0.0, "spans": -1, "document_id": -1, "committed_step": -1}


@attrs.frozen(kw_only=True, eq=False)
class MaskingRows:
    """B rows of L positions, as a masking gets them."""

    eligible: Tensor
    """(B, L) bool."""
    p: Tensor
    """(B, L) float32."""
    spans: Tensor
    """(B, L) int64."""
    document_id: Tensor
    """(B, L) int64."""
    committed_step: Tensor
    """(B, L) int64."""
    knows_steps: bool = True
    """Whether the request has ``committed_step``."""
    row_index: Tensor
    """(B,) int64: rows are told apart by it; the views of one row share it."""
    view_index: Tensor
    """(B,) int64."""
    block_length: int
    seed: int = 0
    blocks_are_separate: bool = False

    def request(self) -> MaskingRequest:
        """These rows as a request, with their own draws."""
        draws = KeyedDraws(seed=self.seed, step=3, rows=self.row_index, length=self.eligible.shape[1])
        return MaskingRequest(
            eligible=self.eligible,
            p=self.p,
            spans=self.spans,
            document_id=self.document_id,
            block_length=self.block_length,
            view_index=self.view_index,
            draws=draws,
            committed_step=self.committed_step if self.knows_steps else None,
            context=(self.document_id >= 0) & ~self.eligible,
            blocks_are_separate=self.blocks_are_separate,
        )

    def take(self, rows: list[int]) -> "MaskingRows":
        """Some of the rows, in this order."""
        index = torch.tensor(rows)
        return self._with({name: getattr(self, name)[index] for name in (*_PADDING, "row_index", "view_index")})

    def padded(self, num_positions: int) -> "MaskingRows":
        """The rows with more padding on the right; a rate that is constant along the row stays so."""
        padded = {name: F.pad(getattr(self, name), (0, num_positions), value=fill) for name, fill in _PADDING.items()}
        constant = (self.p == self.p[:, :1]).all(1, keepdim=True)
        padded["p"] = torch.where(constant, self.p[:, :1], padded["p"])
        return self._with(padded)

    def to(self, device: str) -> "MaskingRows":
        """The rows on another device."""
        return self._with({name: getattr(self, name).to(device) for name in (*_PADDING, "row_index", "view_index")})

    def _with(self, changes: dict[str, Any]) -> "MaskingRows":
        return attrs.evolve(self, **changes)


def select(masking: Masking, rows: MaskingRows) -> Selection:
    """What ``masking`` selects; raise unless it is two tensors."""
    selection = returned(masking.select(rows.request()), Selection, "select")
    returned(selection.corrupted, Tensor, "select, as corrupted,")
    returned(selection.p_mask, Tensor, "select, as p_mask,")
    if selection.scored is not None:
        returned(selection.scored, Tensor, "select, as scored,")
    return selection


def scored(selection: Selection) -> Tensor:
    """(B, L) bool: what a loss may score."""
    return selection.corrupted if selection.scored is None else selection.scored


def with_views(masking: Masking, rows: MaskingRows) -> MaskingRows:
    """Every row once for each view ``masking`` wants of it, the views of a row next to each other."""
    views = views_of(masking, rows.request()).tolist()
    repeated = rows.take([row for row, count in enumerate(views) for _ in range(count)])
    return attrs.evolve(repeated, view_index=torch.tensor([view for count in views for view in range(count)]))


def masking_rows(masking: Masking | None = None) -> st.SearchStrategy[MaskingRows]:
    """Up to 3 rows of up to 9 positions: any eligible set, rates, words, documents, steps and padding.

    With a masking, each row as often as that wants views of it, and steps in half of the cases unless it needs them.
    """
    needs_steps = masking is None or NEEDS_TRACE.of(masking)

    def make(choices: Choices, num_rows: int, length: int) -> MaskingRows:
        rows = [_row(choices, length) for _ in range(num_rows)]
        eligible, p, spans, document_id, step = (torch.stack(column) for column in zip(*rows, strict=True))
        made = MaskingRows(
            eligible=eligible,
            p=p,
            spans=spans,
            document_id=document_id,
            committed_step=step,
            row_index=torch.randperm(100, generator=choices.generator())[:num_rows],
            view_index=torch.zeros(num_rows, dtype=torch.int64),
            block_length=choices.randint(1, 4),
            seed=choices.randrange(1000),
            blocks_are_separate=choices.flip(),
            knows_steps=needs_steps or choices.flip(),
        )
        return made if masking is None else with_views(masking, made)

    return sized_cases(make)


def _row(choices: Choices, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Eligible positions, rates, words, documents and steps of one row, (L,) each."""
    positions = torch.arange(length)
    real = positions < choices.choice((length, choices.randint(1, length)))
    rate = torch.full((length,), choices.choice(_RATES))
    if choices.flip():  # a rate of its own for each position
        rate[::2] = choices.choice(_RATES)
    starts = choices.bits(length)
    spans = torch.where(real, starts.cumsum(0) - starts[0].long(), -1)
    documents = torch.where(real, (positions >= choices.randint(1, length)).long(), -1)
    eligible = choices.bits(length, choices.choice((0.6, 1.0))) & real
    step = torch.randint(-1, 4, (length,), generator=choices.generator())
    return eligible, rate, spans, documents, torch.where(eligible, step, -1)


def many_rows(
    eligible: Tensor, p: Tensor, *, num_rows: int, masking: Masking | None = None, seed: int = 0
) -> MaskingRows:
    """One row (L,) repeated with different draws: words of 1, 2, 3, 1, ... positions, two documents, blocks of 4.

    With a masking, each row as often as that wants views of it.
    """
    length = eligible.shape[0]
    words = torch.tensor([word for word in range(length) for _ in range(word % 3 + 1)])[:length]
    half = (torch.arange(length) >= length // 2).long()
    rows = MaskingRows(
        eligible=eligible.expand(num_rows, length),
        p=p.expand(num_rows, length),
        spans=words.expand(num_rows, length),
        document_id=half.expand(num_rows, length),
        committed_step=torch.where(eligible, torch.arange(length) * 3 % 5, -1).expand(num_rows, length),
        row_index=torch.arange(num_rows),
        view_index=torch.zeros(num_rows, dtype=torch.int64),
        block_length=4,
        seed=seed,
    )
    return rows if masking is None else with_views(masking, rows)
