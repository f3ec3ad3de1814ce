"""The denoising loop: predict, commit, remask, stop at EOS or put it off; what remasking rules see (confidence)."""

from collections.abc import Callable, Iterator
from itertools import islice
from time import perf_counter
from typing import NoReturn

import attrs
import torch
from torch import Tensor

from dlm.data.batch import sent
from dlm.errors import UserInputError
from dlm.sampling.blind_positions import Ties
from dlm.sampling.candidates import Keys, Predictions, Tokens, predict
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.full_forward import Forward
from dlm.sampling.plan import Stage
from dlm.sampling.resolve import ResolvedSettings
from dlm.sampling.sampling_draws import BlockDraws, RowSeeds, Seed
from dlm_plugins import Decision
from dlm_plugins.remasking import NEEDS_COMMITTED_PREDICTIONS, RESPECTS_QUOTA


@attrs.define(kw_only=True, eq=False)
class BlockState:
    """R blocks of K positions: an implementation of ``dlm_plugins.remasking.DecodingState``, whose words it keeps.

    Entropy and margin need the whole distribution and are computed when asked.
    """

    candidates: Tensor
    log_probability: Tensor
    masked: Tensor
    committed_ids: Tensor
    committed_confidence: Tensor
    committed_step: Tensor
    quota: Tensor
    step: int
    num_steps: int
    draws: BlockDraws
    predicted: Tensor
    """(R, K) bool: positions the model was asked about; the N predictions stand there in order."""
    predictions: Predictions
    part: slice
    """Which of the predictions are this state's."""

    @property
    def confidence(self) -> Tensor:
        """(R, K) float32 or wider, in [0, 1]: untempered probability of the candidate; -inf where not predicted."""
        return torch.where(self.predicted, self.log_probability.exp(), -torch.inf)

    @property
    def entropy(self) -> Tensor:
        """(R, K) float32 or wider, in nats; inf where not predicted."""
        return self._spread(self.predictions.entropy, torch.inf)

    @property
    def margin(self) -> Tensor:
        """(R, K) float32 or wider, in [0, 1]; -inf where not predicted."""
        return self._spread(self.predictions.margin, -torch.inf)

    def _spread(self, compute: Callable[[], Tensor], elsewhere: float) -> Tensor:
        values = compute()[self.part]
        spread = torch.full(self.predicted.shape, elsewhere, dtype=values.dtype, device=values.device)
        return spread.masked_scatter_(self.predicted, values)


# R blocks of K positions are active; N of these positions are predicted. B rows of T positions on the canvas.


@attrs.define(kw_only=True, eq=False)
class Loop:
    """Everything that stays the same from step to step, and the canvas, which does not."""

    decoder: Decoder
    canvas: Canvas
    forward: Forward
    settings: ResolvedSettings
    row_steps: Tensor = attrs.field()
    """(B,) int64: denoising steps each row has taken part in."""
    ended: Tensor = attrs.field(init=False)
    """(B,) bool: rows whose text has come to its end."""
    _ties: Ties = attrs.field(init=False)
    _wrong: Tensor = attrs.field(init=False)
    """() bool: whether the rule has wanted what it may not."""
    _every_row: Tensor = attrs.field(init=False)
    """(B,) int64: 0 to B - 1."""

    @row_steps.default
    def _no_steps(self) -> Tensor:
        return torch.zeros_like(self.settings.row_keys)

    def __attrs_post_init__(self) -> None:
        self._ties = Ties(self.decoder, self.canvas)
        self.ended = torch.zeros_like(self.settings.row_keys, dtype=torch.bool)
        self._wrong = torch.zeros((), dtype=torch.bool, device=self.ended.device)
        self._every_row = torch.arange(len(self.ended), device=self.ended.device)

    def run(self, waves: list[list[Stage]]) -> Iterator[float]:
        """Decode wave after wave; yields the seconds of each forward with what it led to, visible on the canvas."""
        for wave in waves:
            if self.settings.stops_at_eos and bool(self.ended.all()):
                return
            yield from self.decode(wave)
            if wave is not waves[-1]:
                self.keep(wave)

    def decode(self, wave: list[Stage]) -> Iterator[float]:
        """Decode the blocks of one wave."""
        with torch.no_grad():
            self.forward.begin(wave)
            self._ties.begin(wave)
        for step in range(max(stage.num_steps for stage in wave)):
            started = perf_counter()
            if self._step(wave, step):
                if self.settings.stops_at_eos:
                    self.ended |= self.canvas.fill_after_end(self.settings.eos_ids)
                yield perf_counter() - started
        if bool(self._wrong):
            self._refuse()

    @torch.no_grad()
    def keep(self, wave: list[Stage]) -> None:
        """Close a wave after which others follow."""
        self.forward.end(wave)

    def _seed_at(self, rows: Tensor) -> Seed:
        seed = self.settings.seed
        return seed if isinstance(seed, int) else RowSeeds(seeds=seed, at=rows)

    @torch.no_grad()
    def _step(self, wave: list[Stage], step: int) -> bool:
        """One step of a wave; False when no position could have changed, and the model was not asked."""
        active = self._active([stage for stage in wave if step < stage.num_steps], step)
        if not active:
            return False
        at_row, at_column, ordinal = (torch.cat(each) for each in zip(*(each.keys for each in active), strict=True))
        at_source = self.canvas.source_of(at_row, at_column, self.decoder.shift)
        members = self._members(active)
        hidden = self.forward.hidden(members, at_row, at_source)
        predictions = predict(
            hidden,
            self.decoder.head,
            Tokens(mask_id=self.canvas.mask_id, suppressed=self.settings.suppressed),
            temperature=self.settings.temperature,
            seed=self._seed_at(at_row),
            step=step,
            keys=Keys(
                row=self.settings.row_keys[at_row],
                block=ordinal,
                position=self.canvas.position[at_row, at_column],
            ),
            leader=self._ties.leaders(at_row, at_source, ordinal),
        )
        start = 0
        for each in active:
            part = slice(start, start + len(each.block))
            state = self._state(each, predictions, part, step)
            self._apply(each, state, self._decide(state), predictions.log_probability[part])
            start = part.stop
        self.row_steps[members] += 1
        return True

    def _active(self, stages: list[Stage], step: int) -> list["_Active"]:
        """The blocks that this step can change, stage by stage. Here the host waits for the device, once a step."""
        rule, masked = self.settings.remasker, self.canvas.masked
        asked = self.canvas.writable if NEEDS_COMMITTED_PREDICTIONS.of(rule) else masked
        asked_of = [asked[stage.row[:, None], stage.columns] & stage.valid for stage in stages]
        masked_of = [masked[stage.row[:, None], stage.columns] & stage.valid for stage in stages]
        counts = [each.sum(dim=1) for each in (*asked_of, *masked_of)]
        numbers = iter(torch.cat((self.ended.long(), self._wrong[None].long(), *counts)).tolist())
        ended = list(islice(numbers, len(self.ended)))
        if next(numbers):
            self._refuse()
        num_asked, num_masked = ([list(islice(numbers, len(each.rows_on_host))) for each in stages] for _ in range(2))
        active = []
        for stage, where, num_wanted, num_left in zip(stages, asked_of, num_asked, num_masked, strict=True):
            blocks = [
                block
                for block, row in enumerate(stage.rows_on_host)
                if not ended[row] and self._can_change(stage.quotas_on_host[block][step], num_left[block])
            ]
            if blocks:
                kept = stage.of_blocks(blocks)
                where = where if kept is stage else where[sent(torch.tensor(blocks), where.device)]
                active.append(_Active.of(kept, where, sum(num_wanted[block] for block in blocks)))
        return active

    def _can_change(self, quota: int, num_masked: int) -> bool:
        """Whether a step of a block that has not ended can change it."""
        if NEEDS_COMMITTED_PREDICTIONS.of(self.settings.remasker):
            return True  # there may always be something to take back
        return (quota if RESPECTS_QUOTA.of(self.settings.remasker) else num_masked) > 0

    def _members(self, active: list["_Active"]) -> Tensor:
        """The rows that take part, ascending."""
        rows = sorted({row for each in active for row in each.stage.rows_on_host})
        if len(rows) == len(self._every_row):
            return self._every_row
        return sent(torch.tensor(rows), self._every_row.device)

    def _state(self, active: "_Active", predictions: Predictions, part: slice, step: int) -> BlockState:
        canvas, stage, where = self.canvas, active.stage, active.where
        at = (stage.row[:, None], stage.columns)
        ids = canvas.ids[at]
        masked = canvas.masked[at] & stage.valid
        candidates = ids.masked_scatter(where, predictions.candidates[part])
        log_probability = torch.full_like(canvas.log_probability[at], -torch.inf)
        log_probability.masked_scatter_(where, predictions.log_probability[part])
        if self.settings.commits_eos_last:
            log_probability.masked_fill_(torch.isin(candidates, self.settings.eos_ids), -torch.inf)
        return BlockState(
            candidates=candidates,
            log_probability=log_probability,
            masked=masked,
            committed_ids=ids,
            committed_confidence=torch.where(masked, 0.0, canvas.log_probability[at].exp()),
            # Beyond the end of a row a column of another position stands in: nothing was written there.
            committed_step=torch.where(stage.valid, canvas.block_step[at], -1),
            quota=stage.quota[:, step],
            step=step,
            num_steps=stage.num_steps,
            draws=BlockDraws(
                seed=self._seed_at(stage.row),
                step=step,
                rows=self.settings.row_keys[stage.row],
                blocks=stage.ordinal,
                length=stage.columns.shape[1],
            ),
            predicted=where,
            predictions=predictions,
            part=part,
        )

    def _decide(self, state: BlockState) -> Decision:
        if state.step == state.num_steps - 1:
            return Decision(commit=state.masked)
        decision = self.settings.remasker.decide(state)
        if self.settings.commits_eos_last:
            decision = self._with_ends_last(state, decision)
        commit, remask = decision.commit, decision.remask
        wrong = commit & ~state.masked
        if remask is not None:
            wrong = wrong | (remask & (state.masked | (state.committed_step < 0)))
        self._wrong = self._wrong | wrong.any()  # looked at with the next step's numbers
        return decision

    def _with_ends_last(self, state: BlockState, decision: Decision) -> Decision:
        """In place of ends of text that would be written while others wait: as many of the others, the surest first.

        Rules that go by confidence see to it themselves, others do not.
        """
        is_end = torch.isin(state.candidates, self.settings.eos_ids)
        ends, others = decision.commit & is_end, state.masked & ~decision.commit & ~is_end
        number = torch.minimum(ends.sum(dim=1), others.sum(dim=1))[:, None]
        surest = state.log_probability.masked_fill(~others, -torch.inf).argsort(dim=1, descending=True, stable=True)
        put_off = ends & (ends.cumsum(dim=1) <= number)
        instead = others & (surest.argsort(dim=1) < number)
        return Decision(commit=(decision.commit & ~put_off) | instead, remask=decision.remask)

    def _refuse(self) -> NoReturn:
        raise UserInputError(
            f"remasking rule {type(self.settings.remasker).__name__} wants to write where no mask is, or to take "
            "back what was not generated; `dlm plugins check` shows what its contract asks"
        )

    def _apply(self, active: "_Active", state: BlockState, decision: Decision, log_probability: Tensor) -> None:
        canvas, stage = self.canvas, active.stage
        if decision.remask is not None:
            # Columns beyond the end of a row stand for another position, so that nothing but a sum is safe.
            votes = torch.zeros_like(canvas.ids)
            votes.index_put_((stage.row[:, None], stage.columns), decision.remask.long(), accumulate=True)
            back = votes > 0
            canvas.ids.masked_fill_(back, canvas.mask_id)
            canvas.committed_step.masked_fill_(back, -1)
            canvas.block_step.masked_fill_(back, -1)
            canvas.log_probability.masked_fill_(back, 0.0)
        row, column, _ = active.keys
        at, is_written = (row, column), decision.commit[active.block, active.place]
        for target, value in (
            (canvas.ids, state.candidates[active.block, active.place]),
            (canvas.block_step, torch.full_like(row, state.step)),
            (canvas.committed_step, self.row_steps[row]),
            (canvas.log_probability, log_probability),
        ):
            target[at] = torch.where(is_written, value, target[at])


@attrs.frozen(kw_only=True, eq=False)
class _Active:
    """Blocks that take part in a step, and the N positions of them that are predicted."""

    stage: Stage
    where: Tensor
    """(R, K) bool: the positions."""
    block: Tensor
    """(N,) int64: which of the R blocks, and"""
    place: Tensor
    """(N,) int64: which of its K positions, in order."""

    @classmethod
    def of(cls, stage: Stage, where: Tensor, num_positions: int) -> "_Active":
        """Find the positions, whose number the host knows: so it need not wait."""
        order = (~where).flatten().byte().argsort(stable=True)[:num_positions]
        return cls(stage=stage, where=where, block=order // where.shape[1], place=order % where.shape[1])

    @property
    def keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column on the canvas and the block's ordinal of each position, (N,) each."""
        stage = self.stage
        return stage.row[self.block], stage.columns[self.block, self.place], stage.ordinal[self.block]
