"""Forward process: mask rate of a sound schedule, corrupted positions, noisy ids, weight 1/p up to the reweight cap."""

from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.data.batch import Batch, LayoutKey, sent
from dlm.diffusion.exact_counts import ExactCounts
from dlm.diffusion.layout import Moment, block_of
from dlm.diffusion.times import TimeSampler, TimeUnit, times_of
from dlm.diffusion.vocabulary import Vocabulary
from dlm.errors import UserInputError
from dlm_plugins import (
    CorruptionRequest,
    KeyedDraws,
    Masking,
    MaskingRequest,
    NoiseSchedule,
    NoiseType,
    Selection,
)
from dlm_plugins.loss import runs_of
from dlm_plugins.masking import has_many_views, views_of


@attrs.frozen(kw_only=True, eq=False)
class PolicyFigures:
    """What is known of answers beside their tokens. Tensors are (B, L) float, with B the views of all rows."""

    advantage: Tensor | None = None
    """How much better than expected each token was; None: nobody judged."""
    group_advantage: Tensor | None = None
    """(B, G): the mean advantages of all answers to the same prompt."""
    old_log_probability: Tensor | None = None
    """Of the model that drew them; None: it is the one that is trained still."""
    reference_log_probability: Tensor | None = None
    """Of a frozen model; None: there is none."""
    value: Tensor | None = None
    """The reward that a value model expects; None: there is none."""
    returns: Tensor | None = None
    """What came out, which it learns to expect."""

    def to(self, device: torch.device) -> "PolicyFigures":
        """The same on ``device``."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(PolicyFigures)}
        moved: dict[str, Any] = {name: sent(value, device) for name, value in values.items() if value is not None}
        return attrs.evolve(self, **moved)


@attrs.frozen(kw_only=True, eq=False)
class NoisedBatch:
    """A batch after the forward process. Tensors are (B, L), with B the views of all rows."""

    clean: Batch
    noisy_ids: Tensor
    """int64"""
    corrupted: Tensor
    """bool"""
    p_mask: Tensor
    """float32: probability with which each position is scored."""
    weight: Tensor
    """float32: min(1 / p_mask, reweight_cap), 0 where p_mask is 0."""
    t: Tensor
    """float32 in [0, 1)."""
    rate: Tensor
    """float32: the mask rate after the lower clip."""
    rate_derivative: Tensor
    """float32: dp/dt, not clipped."""
    scored: Tensor = attrs.field(default=attrs.Factory(lambda self: self.corrupted, takes_self=True))
    """bool: the corrupted positions that a loss may score."""
    num_views: Tensor = attrs.field(default=attrs.Factory(lambda self: torch.ones_like(self.p_mask), takes_self=True))
    """float32: views that each view's row has."""
    scored_index: Tensor = attrs.field(
        default=attrs.Factory(lambda noised: noised.scored.flatten().nonzero()[:, 0], takes_self=True)
    )
    """(N,) int64: the N scored positions of B x L. Looked up where the noise is drawn, on the host: elsewhere it
    would cost a wait."""
    layout_key: LayoutKey = attrs.field(
        default=attrs.Factory(lambda noised: noised.clean.layout_key(), takes_self=True)
    )
    """Of the clean batch, looked up there too: batches with the same key can share one attention mask."""
    policy: PolicyFigures | None = None
    """Where the rows are rollouts, or are compared with a reference."""
    moment: Moment | None = None
    """When the batch is trained on; None: outside training."""

    def to(self, device: torch.device) -> "NoisedBatch":
        """The same batch on ``device``."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(NoisedBatch)}
        moved: dict[str, Any] = {
            name: sent(value, device) for name, value in values.items() if isinstance(value, Tensor)
        }
        if self.scored is self.corrupted:  # losses may ask for either
            moved["scored"] = moved["corrupted"]
        policy = None if self.policy is None else self.policy.to(device)
        return attrs.evolve(self, clean=self.clean.to(device), policy=policy, **moved)

    def row_of(self) -> Tensor:
        """(B,) int64 on the host: which row of the batch that was noised each view is of.

        The views of a row are neighbours, in the order of rows. Fillers, the last ones, count as one.
        """
        return runs_of(self.clean.row_index.cpu())


@attrs.frozen(kw_only=True)
class ForwardProcess:
    """Noise, as one section ``noise`` of a run file describes it.

    What a row gets depends on (seed, step, index of the row in the global step batch) alone, see
    :class:`dlm_plugins.KeyedDraws`.
    """

    schedule: NoiseSchedule
    masking: Masking
    noise_type: NoiseType
    sample_times: TimeSampler
    time_unit: TimeUnit
    min_masking_rate: float
    region_masking: Masking
    """The masking of the rows whose coin falls on a contiguous region."""
    region_probability: float
    reweight_cap: float | None
    block_length: int
    vocabulary: Vocabulary
    seed: int
    blocks_are_separate: bool = False
    """Whether attention hides noisy blocks from each other."""
    num_steps: int | None = None
    """Of the run; None: outside training."""
    exact_counts: ExactCounts | None = None
    """In place of ``masking``, with the rates that it makes of the schedule's."""
    num_draws: int = 1
    """Times and masks of their own that each row is seen with."""

    def __call__(self, batch: Batch, *, step: int, num_rows: int) -> NoisedBatch:
        """Noise a micro-batch.

        Args:
            batch: clean rows, on the host: the numbers are the same on every device, but a device cannot tell how many
                positions are corrupted without being waited for.
            step: the global step.
            num_rows: rows of the global step batch, over which times are stratified.
        """
        if self.num_draws > 1:
            batch, num_rows = _drawn_apart(batch, self.num_draws), num_rows * self.num_draws
        # A filler row has index -1 and nothing eligible: whichever numbers it gets do not matter.
        rows, length = batch.row_index.clamp(min=0), batch.input_ids.shape[1]
        block = block_of(batch, self.block_length)
        t = times_of(
            self.sample_times,
            self.time_unit,
            block,
            batch.document_id,
            rows,
            seed=self.seed,
            step=step,
            num_rows=num_rows,
        )
        p = self.schedule.mask_rate(t).clamp(min=self.min_masking_rate)
        if self.exact_counts is not None:
            p = self.exact_counts.rates(p, batch.eligible, block, batch.document_id)
        request = MaskingRequest(
            eligible=batch.eligible,
            p=p,
            spans=self.vocabulary.words_of(batch.input_ids, batch.document_id),
            document_id=batch.document_id,
            block_length=self.block_length,
            view_index=torch.zeros_like(rows),
            draws=self._draws("masking", step, rows, length),
            block=block,
            committed_step=batch.committed_step,
            context=(batch.document_id >= 0) & ~batch.eligible,
            blocks_are_separate=self.blocks_are_separate,
        )
        num_views = views_of(self.masking, request)
        if has_many_views(self.masking):
            view_of = torch.arange(len(rows), device=rows.device).repeat_interleave(num_views)
            batch, rows, t, num_views = batch.rows_at(view_of), rows[view_of], t[view_of], num_views[view_of]
            request = _views(request, view_of, self._draws("masking", step, rows, length))
        return self._noised(batch, request, t, num_views, step)

    def _noised(self, batch: Batch, request: MaskingRequest, t: Tensor, num_views: Tensor, step: int) -> NoisedBatch:
        rows, length = batch.row_index.clamp(min=0), batch.input_ids.shape[1]
        selection = self._select(request, self._draws("region", step, rows, length))
        noisy_ids = self.noise_type.corrupt(
            CorruptionRequest(
                input_ids=batch.input_ids,
                corrupted=selection.corrupted,
                mask_id=self.vocabulary.mask_id,
                vocabulary_size=self.vocabulary.size,
                special_ids=self.vocabulary.special_ids,
                draws=self._draws("noise_type", step, rows, length),
            )
        )
        return NoisedBatch(
            clean=batch,
            noisy_ids=noisy_ids,
            corrupted=selection.corrupted,
            p_mask=selection.p_mask,
            weight=inverse_probability(selection.p_mask, self.reweight_cap),
            t=t,
            rate=request.p,
            rate_derivative=self.schedule.mask_rate_derivative(t),
            scored=_scored(selection),
            num_views=num_views[:, None].float().expand_as(request.p),
            moment=self._moment(step),
        )

    def _moment(self, step: int) -> Moment | None:
        if self.num_steps is None:
            return None
        return Moment(progress=min(step / self.num_steps, 1.0), seed=self.seed, step=step)

    def _select(self, request: MaskingRequest, draws: KeyedDraws) -> Selection:
        if self.exact_counts is not None:
            return self.exact_counts.select(request)
        usual = self.masking.select(request)
        if self.region_probability == 0:
            return usual
        region = self.region_masking.select(attrs.evolve(request, draws=draws))
        coin = (draws.per_row("coin") < self.region_probability)[:, None]
        return Selection(
            corrupted=torch.where(coin, region.corrupted, usual.corrupted),
            p_mask=torch.where(coin, region.p_mask, usual.p_mask),
            scored=torch.where(coin, _scored(region), _scored(usual)),
        )

    def _draws(self, scope: str, step: int, rows: Tensor, length: int) -> KeyedDraws:
        return KeyedDraws(seed=self.seed, step=step, rows=rows, length=length, scope=scope)


def _scored(selection: Selection) -> Tensor:
    return selection.corrupted if selection.scored is None else selection.scored


def _drawn_apart(batch: Batch, num_draws: int) -> Batch:
    """Each row ``num_draws`` times, with indices of their own: rows that shared one still share the draws."""
    copies = batch.rows_at(torch.arange(len(batch.row_index)).repeat_interleave(num_draws))
    number = torch.arange(num_draws).repeat(len(batch.row_index))
    index = torch.where(copies.row_index >= 0, copies.row_index * num_draws + number, -1)
    return attrs.evolve(copies, row_index=index)


def _views(request: MaskingRequest, view_of: Tensor, draws: KeyedDraws) -> MaskingRequest:
    """The request with its rows at ``view_of`` (R,), which does not fall: the views of a row are neighbours."""
    values = {field.name: getattr(request, field.name) for field in attrs.fields(MaskingRequest)}
    tensors: dict[str, Any] = {name: value[view_of] for name, value in values.items() if isinstance(value, Tensor)}
    first = torch.searchsorted(view_of, view_of)
    index = torch.arange(len(view_of), device=view_of.device) - first
    tensors |= {"view_index": index, "draws": draws}
    return attrs.evolve(request, **tensors)


def inverse_probability(p_mask: Tensor, cap: float | None) -> Tensor:
    """The weight min(1/p, cap), 0 where p is 0: (B, L) float32."""
    weight = torch.where(p_mask > 0, 1.0 / p_mask.clamp(min=torch.finfo(p_mask.dtype).tiny), 0.0)
    return weight if cap is None else weight.clamp(max=cap)


_NUM_TIMES = 257
_ROUNDING = 1e-6


def refuse_broken_schedule(schedule: NoiseSchedule, name: str, key: str) -> None:
    """Try the mask rate at times over [0, 1].

    Args:
        schedule: to be tried.
        name: its qualified name, for the message.
        key: of the run file that selects it.

    Raises:
        UserInputError: it gives no mask rates, or they leave [0, 1] or fall.
    """
    t = torch.linspace(0, 1, _NUM_TIMES)
    reason = _reason(schedule.mask_rate(t), t)
    if reason:
        raise UserInputError(
            f"{key}: {name} breaks its contract: mask_rate {reason}; `dlm plugins check {name.partition(':')[0]}` "
            "shows all that is wrong"
        )


def _reason(rate: object, t: Tensor) -> str | None:
    if not isinstance(rate, Tensor):
        return f"returns a {type(rate).__name__}, not a tensor"
    if rate.shape != t.shape:
        return f"returns {tuple(rate.shape)} for times of shape {tuple(t.shape)}"
    outside = ~((rate >= -_ROUNDING) & (rate <= 1 + _ROUNDING))  # so that NaN is outside
    if bool(outside.any()):
        return f"is {rate[outside][0]:.4g} at t = {t[outside][0]:.4g}, outside [0, 1]"
    falls = rate.diff() < -_ROUNDING
    if bool(falls.any()):
        return f"falls behind t = {t[:-1][falls][0]:.4g}; it must not"
    return None
