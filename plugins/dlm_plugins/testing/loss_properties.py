"""Contract tests of losses: finite scalars, eligible positions only, halves add up, padding and row order."""

import attrs
import torch
from torch import Tensor

from dlm_plugins.loss import NEEDS_CAUSAL_COPY, Loss, LossOutput
from dlm_plugins.testing.loss_rows import LossRows, loss_rows, score
from dlm_plugins.testing.loss_statistics import check_mean_over_masks, check_positions_weigh_alike
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    describe,
    for_all,
    require_close,
    require_tensor,
)
from dlm_plugins.testing.purity import require_pure
from dlm_plugins.testing.reference_view import ReferenceView


def _backward(output: LossOutput, view: ReferenceView) -> Tensor:
    """Gradient of the total with respect to all logits (B, L, V)."""
    if not output.total.requires_grad:
        raise AssertionError("total is not connected to the graph: it takes no gradient")
    (gradient,) = torch.autograd.grad(output.total, view.all_logits, allow_unused=True)
    if gradient is None:
        raise AssertionError("total is not connected to the model's output: its gradient is missing")
    return gradient


def _score(loss: Loss, rows: LossRows) -> tuple[LossOutput, Tensor]:
    """What the loss says, and the gradient (B, L, V)."""
    view = rows.view()
    output = score(loss, view)
    return output, _backward(output, view)


def _require_same(output: LossOutput, expected: LossOutput, how: str) -> None:
    require_close(output.total, expected.total, f"another total {how}", atol=1e-5)
    require_close(torch.as_tensor(output.normaliser), torch.as_tensor(expected.normaliser), f"another normaliser {how}")


@at_every_value
@contract_property
def check_scalars(loss: Loss) -> None:
    """``total`` is a finite float32 scalar; ``normaliser`` a finite scalar, at least 0, without gradient."""

    def body(rows: LossRows) -> None:
        output = score(loss, rows.view())
        require_tensor(output.total, "total", torch.Size(), torch.float32)
        if output.normaliser.shape != ():
            raise AssertionError(f"normaliser is {output.normaliser!r}, not a scalar tensor")
        if not (output.total.isfinite() and output.normaliser.isfinite()):
            raise AssertionError(f"total {output.total.item()}, normaliser {output.normaliser.item()}: not finite")
        if output.normaliser < 0 or (output.normaliser == 0 and output.total != 0):
            raise AssertionError(f"normaliser is {output.normaliser.item()} with a total of {output.total.item()}")
        if output.normaliser.requires_grad:
            raise AssertionError("normaliser takes a gradient; it is a count")

    for_all(loss_rows(), body)


@contract_property
def check_scores_eligible_only(loss: Loss) -> None:
    """Predictions at positions that are not eligible do not matter, and get no gradient."""

    def body(rows: LossRows) -> None:
        output, gradient = _score(loss, rows)
        if gradient[~rows.eligible].any():
            raise AssertionError("positions that are not eligible get a gradient")
        elsewhere = torch.where(rows.eligible[..., None], rows.logits, rows.logits.flip(-1) + 3)
        _require_same(
            score(loss, attrs.evolve(rows, logits=elsewhere).view()), output, "with other logits outside eligible"
        )

    for_all(loss_rows(), body)


@contract_property
def check_nothing_scored(loss: Loss) -> None:
    """Without anything to score the total is a zero that is connected to the graph, with zero gradients."""

    def body(rows: LossRows) -> None:
        nobody = torch.zeros_like(rows.eligible)
        output, gradient = _score(loss, attrs.evolve(rows, eligible=nobody, corrupted=nobody))
        if output.total != 0 or gradient.any():
            raise AssertionError(f"total is {output.total.item()} though no position is eligible")
        # Nothing corrupted: a loss may still score clean positions, so only the connection is asked for.
        _score(loss, attrs.evolve(rows, corrupted=nobody))

    for_all(loss_rows(), body, max_examples=10)


@contract_property
def check_adds_up(loss: Loss) -> None:
    """Totals and normalisers of two halves add up to those of the whole, as gradient accumulation assumes."""

    def body(rows: LossRows) -> None:
        num_rows = rows.eligible.shape[0]
        whole, gradient = _score(loss, rows)
        parts = [_score(loss, rows.take([row])) for row in range(num_rows)]
        total = torch.stack([output.total for output, _ in parts]).sum()
        normaliser = torch.stack([output.normaliser for output, _ in parts]).sum()
        _require_same(LossOutput(total, normaliser), whole, "when rows are scored one by one and added up")
        require_close(
            torch.cat([part for _, part in parts]), gradient, "another gradient when rows are scored one by one"
        )

    for_all(loss_rows(), body)


@contract_property
def check_row_order(loss: Loss) -> None:
    """The order of the rows does not matter."""

    def body(rows: LossRows) -> None:
        order = list(reversed(range(rows.eligible.shape[0])))
        output, gradient = _score(loss, rows)
        reordered, reordered_gradient = _score(loss, rows.take(order))
        _require_same(reordered, output, "in another order of rows")
        require_close(reordered_gradient, gradient[order], "another gradient in another order of rows")

    for_all(loss_rows(), body, max_examples=10)


@contract_property
def check_padding(loss: Loss) -> None:
    """Padding, in rows and in rows of nothing else, changes nothing."""

    def body(rows: LossRows) -> None:
        num_rows, length = rows.eligible.shape
        output, gradient = _score(loss, rows)
        padded, padded_gradient = _score(loss, rows.padded(num_rows=1, num_positions=2))
        _require_same(padded, output, "with more padding")
        require_close(padded_gradient[:num_rows, :length], gradient, "another gradient with more padding")

    for_all(loss_rows(), body)


@contract_property
def check_context_does_not_count(loss: Loss) -> None:
    """What a masking hides as context (``corrupted``, but not ``scored``) gets no gradient.

    Unless ``needs_causal_copy`` is claimed: next tokens are scored everywhere.
    """
    if NEEDS_CAUSAL_COPY.of(loss):
        return

    def body(rows: LossRows) -> None:
        even = torch.arange(rows.corrupted.shape[1]) % 2 == 0
        view = attrs.evolve(rows.view(), scored=rows.corrupted & even)
        gradient = _backward(score(loss, view), view)
        if gradient[rows.corrupted & ~even].any():
            raise AssertionError("scores positions at odd places, which are hidden as context: use view.scored")

    for_all(loss_rows(), body)


@contract_property
def check_views_share(loss: Loss) -> None:
    """A row that is seen in two views, each with a share of 1 / ``num_views``, counts as much as in one."""

    def body(rows: LossRows) -> None:
        num_rows = rows.eligible.shape[0]
        once = rows.view()
        twice = rows.take([row for row in range(num_rows) for _ in range(2)]).view()
        pair = None if once.pair is None else once.pair.repeat_interleave(2)
        row_index = once.row_index.repeat_interleave(2)
        twice = attrs.evolve(twice, num_views=torch.full_like(twice.p_mask, 2), pair=pair, row_index=row_index)
        _require_same(score(loss, twice), score(loss, once), "where each row has two views: divide by view.num_views")

    for_all(loss_rows(), body, max_examples=10)


@contract_property
def check_favours_clean_ids(loss: Loss) -> None:
    """Descending the gradient raises the clean ids at corrupted positions."""

    def body(rows: LossRows) -> None:
        rows = attrs.evolve(rows, corrupted=rows.eligible, t=torch.full_like(rows.t, 0.5))
        if not rows.eligible.any():
            return
        _, gradient = _score(loss, rows)
        slope = gradient.gather(2, rows.clean_ids[..., None])[rows.eligible].sum().item()
        if not slope < 0:
            raise AssertionError(f"the gradient on the logits of the clean ids sums to {slope}, not below 0")

    for_all(loss_rows(), body, max_examples=10)


@at_every_value
@contract_property
def check_finite_at_extremes(loss: Loss) -> None:
    """Total and gradient stay finite where predictions are certain, right or wrong."""

    def body(rows: LossRows) -> None:
        for scale in (100.0, 10000.0):
            output, gradient = _score(loss, attrs.evolve(rows, logits=rows.logits * scale))
            how = f"with the logits of the case times {scale:g}"
            if not output.total.isfinite():
                raise AssertionError(f"total is {output.total.item()}, not finite, {how}")
            wrong = ~gradient.isfinite()
            if wrong.any():
                row, position, _ = wrong.nonzero()[0].tolist()
                found = f"{describe(gradient[wrong][0])} at position {position} of row {row}"
                raise AssertionError(f"the gradient is {found}, not finite, {how} (total {output.total.item():g})")

    for_all(loss_rows(), body, max_examples=15)


@contract_property
def check_pure(loss: Loss) -> None:
    """Same answer every time, the view left as it was, no random numbers."""
    for_all(loss_rows(), lambda rows: require_pure(lambda view: score(loss, view), rows.view()), max_examples=5)


PROPERTIES = (
    check_scalars,
    check_scores_eligible_only,
    check_nothing_scored,
    check_adds_up,
    check_row_order,
    check_padding,
    check_context_does_not_count,
    check_views_share,
    check_favours_clean_ids,
    check_finite_at_extremes,
    check_mean_over_masks,
    check_positions_weigh_alike,
    check_pure,
)
