"""Diffusion times t: for each row, block or token, stratified or independent; a fixed grid for evaluation."""

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from dlm.data.order import shuffled
from dlm_plugins import KeyedDraws


@attrs.frozen
class TimeUnit:
    """Which positions of a row share one t."""

    units_of: Callable[[Tensor, Tensor], Tensor]
    """From block and document numbers (B, L) to the number of each position's unit, from 0 in each row."""
    one_per_row: bool = False


@attrs.frozen(kw_only=True)
class TimeRequest:
    """What a time sampler needs to know: B rows of a step of n, with U units each."""

    seed: int
    step: int
    rows: Tensor
    """(B,) int64: indices of the rows in the step."""
    num_rows: int
    """n, at least 1."""
    num_units: int

    def uniform(self, purpose: str, rows: Tensor, num_units: int) -> Tensor:
        """(rows, num_units) float32 in [0, 1)."""
        return KeyedDraws(seed=self.seed, step=self.step, rows=rows, length=num_units, scope="t").per_position(purpose)

    def of_units(self, purpose: str) -> Tensor:
        """One number for each unit, shared by all rows: (1, U) float32 in [0, 1)."""
        return self.uniform(purpose, torch.zeros_like(self.rows[:1]), self.num_units)

    def places(self) -> Tensor:
        """Place of each row in a random order of all n: (B, 1) int64 in 0..n-1.

        Units turn this order by a number of their own: so a step draws n + U numbers, not n x U, and the times of one
        row's units are independent all the same.
        """
        everyone = torch.arange(self.num_rows, device=self.rows.device)
        order = self.uniform("order", everyone, 1)[:, 0].argsort(stable=True).argsort()
        return order[self.rows, None]


TimeSampler = Callable[[TimeRequest], Tensor]
"""Times (B, U) float32 in [0, 1)."""


def stratified_times(request: TimeRequest) -> Tensor:
    """Low-discrepancy times t = (U + pi(k) / n) mod 1 over the n rows of the step, with U and pi drawn for each unit.

    Each t is uniform by itself, and together they cover [0, 1) evenly (Sahoo et al. 2024, "Simple and effective masked
    diffusion language models"), which lowers the variance of the loss. Rows are permuted so that a rank or a
    micro-batch does not always hold neighbouring times.
    """
    return torch.remainder(request.of_units("offset") + request.places() / request.num_rows, 1.0)


def independent_times(request: TimeRequest) -> Tensor:
    """Independent uniform times."""
    return request.uniform("independent", request.rows, request.num_units)


def grid_times(request: TimeRequest) -> Tensor:
    """Evaluation's times: the fixed grid (pi(k) + 1/2) / n, so that every evaluation scores the same mask rates."""
    return (_grid_places(request) + 0.5) / request.num_rows


def jittered_grid_times(request: TimeRequest) -> Tensor:
    """Evaluation's times (pi(k) + U_k) / n, where counts of masks follow from them: one in each interval of the grid.

    U is uniform and drawn for each row and unit, so that each t is uniform over [0, 1): the middles leave counts out
    where there are fewer rows than tokens. Times near 0 would be a poor choice for coins, whose weight is 1/t.
    """
    within = request.uniform("within", request.rows, request.num_units)
    # Rounding must not reach 1.
    return ((_grid_places(request) + within) / request.num_rows).clamp(max=1 - 2**-24)


def _grid_places(request: TimeRequest) -> Tensor:
    """Interval of the grid for each row and unit: (B, 1) or (B, U) int64 in 0..n-1.

    Here n is the number of all evaluation rows, so pi is worked out for the B rows that are asked for alone.
    """
    rows = request.rows.cpu().numpy()
    order = shuffled(rows, num_rows=request.num_rows, seed=request.seed, epoch=request.step)
    places = torch.from_numpy(order).to(request.rows.device)[:, None]
    if request.num_units > 1:
        places = (places + (request.of_units("turn") * request.num_rows).long()) % request.num_rows
    return places


def times_of(
    sample: TimeSampler,
    unit: TimeUnit,
    block: Tensor,
    document_id: Tensor,
    rows: Tensor,
    *,
    seed: int,
    step: int,
    num_rows: int,
) -> Tensor:
    """Time of each position: (B, L) float32 in [0, 1).

    Args:
        sample: how the times of a step are drawn.
        unit: which positions of a row share one t.
        block: (B, L) int64, attention block of each position.
        document_id: (B, L) int64.
        rows: (B,) int64, index of each row in the global step batch.
        seed: of the run.
        step: the global step.
        num_rows: rows of the global step batch, n.
    """
    num_units = 1 if unit.one_per_row else block.shape[1]
    request = TimeRequest(seed=seed, step=step, rows=rows, num_rows=num_rows, num_units=num_units)
    return sample(request).gather(1, unit.units_of(block, document_id))


def _one_unit(block: Tensor, document_id: Tensor) -> Tensor:
    return torch.zeros_like(block)


def _block_units(block: Tensor, document_id: Tensor) -> Tensor:
    new = (block[:, 1:] != block[:, :-1]) | (document_id[:, 1:] != document_id[:, :-1])
    return torch.cat((torch.zeros_like(block[:, :1]), new.long().cumsum(dim=1)), dim=1)


def _token_units(block: Tensor, document_id: Tensor) -> Tensor:
    return torch.arange(block.shape[1], device=block.device).expand_as(block)


TIME_UNITS = {
    "sequence": TimeUnit(_one_unit, one_per_row=True),
    "block": TimeUnit(_block_units),
    "token": TimeUnit(_token_units),
}
"""The choices of ``t_per``."""

TIME_SAMPLERS: dict[str, TimeSampler] = {"stratified": stratified_times, "independent": independent_times}
"""The choices of ``t_sampling``."""
