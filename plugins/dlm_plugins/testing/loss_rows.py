"""Rows for losses: small ones that hypothesis shrinks, and batches for statistics."""

from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dlm_plugins.loss import Loss, LossOutput
from dlm_plugins.testing.choices import Choices, sized_cases
from dlm_plugins.testing.property_tools import returned
from dlm_plugins.testing.reference_view import ReferenceView

NUM_LOGITS = 7
"""Of the vocabulary's embedding: five ordinary ids, the mask, one padded row."""
VOCABULARY_SIZE = 6
MASK_ID = 5
_PADDING: dict[str, float] = {"clean_ids": 0, "corrupted": 0, "eligible": 0, "document_id": -1, "t": 0}


@attrs.frozen(kw_only=True, eq=False)
class LossRows:
    """B rows of L positions under the schedule p(t) = 1 - (1 - t)^2, with the mask as noise."""

    clean_ids: Tensor
    """(B, L) int64."""
    corrupted: Tensor
    """(B, L) bool."""
    eligible: Tensor
    """(B, L) bool."""
    document_id: Tensor
    """(B, L) int64; -1 on padding."""
    t: Tensor
    """(B, L) float32."""
    logits: Tensor
    """(B, L, V) float64."""
    answers: bool
    """Whether the rows are answers of fine-tuning rather than text of pre-training."""

    def view(self) -> ReferenceView:
        """These rows as a view whose ``all_logits`` takes a gradient."""
        rate, slope = mask_rate(self.t), 2 * (1 - self.t)
        return ReferenceView(
            all_logits=self.logits.clone().requires_grad_(),
            noisy_ids=torch.where(self.corrupted, MASK_ID, self.clean_ids),
            clean_ids=self.clean_ids,
            mask_id=MASK_ID,
            corrupted=self.corrupted,
            eligible=self.eligible,
            p_mask=torch.where(self.eligible, rate, 0.0),
            t=self.t,
            rate=rate,
            rate_derivative=slope,
            document_id=self.document_id,
            answer_length=self._answer_length() if self.answers else None,
            vocabulary_size=VOCABULARY_SIZE,
            # As of pairs whose rejected answers are not there: each row stands for itself.
            pair=torch.where((self.document_id >= 0).any(dim=1), torch.arange(len(self.t)), -1),
            is_chosen=torch.ones(len(self.t), dtype=torch.bool),
            # As of rollouts that were better than expected.
            advantage=0.5 + self.t,
            group_advantage=torch.stack((0.5 + self.t.amax(dim=1), -1.0 - self.t.amax(dim=1)), dim=1),
            reference_log_probability=-1.5 - self.t,
        )

    def take(self, rows: list[int]) -> "LossRows":
        """Some of the rows, in this order."""
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*_PADDING, "logits")}
        return attrs.evolve(self, **taken)

    def padded(self, *, num_rows: int, num_positions: int) -> "LossRows":
        """The rows with padding on the right and rows of nothing but padding below."""
        pads = (0, num_positions, 0, num_rows)
        grown: dict[str, Any] = {name: F.pad(getattr(self, name), pads, value=fill) for name, fill in _PADDING.items()}
        return attrs.evolve(self, logits=F.pad(self.logits, (0, 0, *pads), value=1.5), **grown)

    def _answer_length(self) -> Tensor:
        same = (self.document_id[:, :, None] == self.document_id[:, None, :]) & (self.document_id[:, None, :] >= 0)
        return (same & self.eligible[:, None, :]).sum(-1)


def score(loss: Loss, view: ReferenceView) -> LossOutput:
    """What ``loss`` says of the view; raise unless it is two tensors."""
    output = returned(loss(view), LossOutput, "the loss")
    returned(output.total, Tensor, "the loss, as total,")
    returned(output.normaliser, Tensor, "the loss, as normaliser,")
    return output


def mask_rate(t: Tensor) -> Tensor:
    """p(t) = 1 - (1 - t)^2, at least 0.001: a schedule with a slope of its own, and 1 / p of small variance."""
    return (1 - (1 - t) ** 2).clamp_min(1e-3)


def loss_rows() -> st.SearchStrategy[LossRows]:
    """Up to 3 rows of up to 6 positions: text or answers, two documents a row, padding, any corrupted set."""

    def make(choices: Choices, num_rows: int, length: int) -> LossRows:
        answers = choices.flip()
        rows = [_row(choices, length, answers) for _ in range(num_rows)]
        eligible, corrupted, document_id, t = (torch.stack(column) for column in zip(*rows, strict=True))
        generator = choices.generator()
        return LossRows(
            clean_ids=torch.randint(MASK_ID, (num_rows, length), generator=generator),
            corrupted=corrupted,
            eligible=eligible,
            document_id=document_id,
            t=t,
            logits=torch.randn(num_rows, length, NUM_LOGITS, generator=generator, dtype=torch.float64),
            answers=answers,
        )

    return sized_cases(make, max_length=6)


def _row(choices: Choices, length: int, answers: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eligible and corrupted positions, documents and times of one row, (L,) each."""
    positions = torch.arange(length)
    real = positions < choices.choice((length, choices.randint(1, length)))
    document = torch.where(real, (positions >= choices.randint(1, length)).long(), -1)
    eligible = real & choices.bits(length, 0.7) if answers else real
    t = torch.full((length,), choices.choice((0.5, 0.01, 0.2, 0.9, 1.0)))
    return eligible, eligible & choices.bits(length), document, t


def uniform_rows(*, answers: bool, num_rows: int, length: int, seed: int) -> LossRows:
    """Rows whose prediction is uniform over all ids, with times spread evenly over (0, 1) and Bernoulli masks.

    With ``answers``, every row holds a long and a short document, and the first position of each is a prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    t = (torch.arange(num_rows) + torch.rand(1, generator=generator)) / num_rows
    t = t[:, None].expand(num_rows, length)
    position = torch.arange(length)
    second = (position >= 2 * length // 3).long().expand(num_rows, length)
    prompt = (position == 0) | (position == 2 * length // 3)
    eligible = (~prompt if answers else torch.ones_like(prompt)).expand(num_rows, length)
    return LossRows(
        clean_ids=torch.randint(MASK_ID, (num_rows, length), generator=generator),
        corrupted=(torch.rand(num_rows, length, generator=generator) < mask_rate(t)) & eligible,
        eligible=eligible,
        document_id=second,
        t=t,
        logits=torch.zeros(num_rows, length, NUM_LOGITS, dtype=torch.float64),
        answers=answers,
    )
