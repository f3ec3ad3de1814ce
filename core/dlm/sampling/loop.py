"""The denoising loop: predict, commit, remask, stop at EOS; what remasking rules see (confidence, entropy, margin)."""

from collections.abc import Callable, Iterator
from time import perf_counter

import attrs
import torch
from torch import Tensor

from dlm.errors import UserInputError
from dlm.sampling.blind_positions import Ties
from dlm.sampling.candidates import Keys, Predictions, Tokens, predict
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.full_forward import Forward
from dlm.sampling.plan import Stage
from dlm.sampling.resolve import ResolvedSettings
from dlm.sampling.sampling_draws import BlockDraws
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
    _ties: Ties = attrs.field(init=False)
    _row_steps: Tensor = attrs.field(init=False)
    """(B,) int64: denoising steps each row has taken part in."""
    _ended: Tensor = attrs.field(init=False)
    """(B,) bool: rows whose text has come to its end."""

    def __attrs_post_init__(self) -> None:
        self._ties = Ties(self.decoder, self.canvas)
        self._row_steps = torch.zeros_like(self.settings.row_keys)
        self._ended = torch.zeros_like(self.settings.row_keys, dtype=torch.bool)

    def run(self, waves: list[list[Stage]]) -> Iterator[float]:
        """Decode wave after wave; yields the seconds of each forward with what it led to, visible on the canvas."""
        may_end = self.settings.stops_at_eos
        for wave in waves:
            if may_end and bool(self._ended.all()):
                return
            with torch.no_grad():
                self.forward.begin(wave)
                self._ties.begin(wave)
            for step in range(max(stage.num_steps for stage in wave)):
                started = perf_counter()
                if self._step(wave, step):
                    if may_end:
                        self._ended |= self.canvas.fill_after_end(self.settings.eos_ids)
                    yield perf_counter() - started
            if wave is not waves[-1]:
                with torch.no_grad():
                    self.forward.end(wave)

    @torch.no_grad()
    def _step(self, wave: list[Stage], step: int) -> bool:
        """One step of a wave; False when no position could have changed, and the model was not asked."""
        active = [
            blocks for stage in wave if step < stage.num_steps and (blocks := self._active(stage, step)) is not None
        ]
        if not active:
            return False
        predicted = [self._predicted(stage) for stage in active]
        rows = [stage.row[:, None].expand_as(where)[where] for stage, where in zip(active, predicted, strict=True)]
        columns = [stage.columns[where] for stage, where in zip(active, predicted, strict=True)]
        ordinals = [
            stage.ordinal[:, None].expand_as(where)[where] for stage, where in zip(active, predicted, strict=True)
        ]
        at_row, at_column, ordinal = torch.cat(rows), torch.cat(columns), torch.cat(ordinals)
        at_source = self.canvas.source_of(at_row, at_column, self.decoder.shift)
        members = torch.unique(torch.cat([stage.row for stage in active]))
        hidden = self.forward.hidden(members, at_row, at_source)
        predictions = predict(
            hidden,
            self.decoder.head,
            Tokens(mask_id=self.canvas.mask_id, suppressed=self.settings.suppressed),
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            step=step,
            keys=Keys(
                row=self.settings.row_keys[at_row],
                block=ordinal,
                position=self.canvas.position[at_row, at_column],
            ),
            leader=self._ties.leaders(at_row, at_source, ordinal),
        )
        start = 0
        for stage, where, own_columns in zip(active, predicted, columns, strict=True):
            part = slice(start, start + len(own_columns))
            state = self._state(stage, where, predictions, part, step)
            self._apply(stage, state, self._decide(state), predictions.log_probability[part])
            start += len(own_columns)
        self._row_steps[members] += 1
        return True

    def _active(self, stage: Stage, step: int) -> Stage | None:
        """The blocks of a stage that this step can change; None when there are none."""
        wanted = ~self._ended[stage.row]
        if NEEDS_COMMITTED_PREDICTIONS.of(self.settings.remasker):
            pass  # there may always be something to take back
        elif RESPECTS_QUOTA.of(self.settings.remasker):
            if not stage.is_planned[step]:
                return None
            wanted = wanted & (stage.quota[:, step] > 0)
        else:
            wanted = wanted & (self.canvas.masked[stage.row[:, None], stage.columns] & stage.valid).any(dim=1)
        keep: Tensor = wanted.nonzero()[:, 0]
        if not keep.numel():
            return None
        return stage if len(keep) == len(wanted) else stage.of_blocks(keep)

    def _predicted(self, stage: Stage) -> Tensor:
        where = self.canvas.writable if NEEDS_COMMITTED_PREDICTIONS.of(self.settings.remasker) else self.canvas.masked
        return where[stage.row[:, None], stage.columns] & stage.valid

    def _state(self, stage: Stage, predicted: Tensor, predictions: Predictions, part: slice, step: int) -> BlockState:
        canvas, at = self.canvas, (stage.row[:, None], stage.columns)
        ids = canvas.ids[at]
        masked = canvas.masked[at] & stage.valid
        candidates = ids.masked_scatter(predicted, predictions.candidates[part])
        log_probability = torch.full_like(canvas.log_probability[at], -torch.inf)
        log_probability.masked_scatter_(predicted, predictions.log_probability[part])
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
                seed=self.settings.seed,
                step=step,
                rows=self.settings.row_keys[stage.row],
                blocks=stage.ordinal,
                length=stage.columns.shape[1],
            ),
            predicted=predicted,
            predictions=predictions,
            part=part,
        )

    def _decide(self, state: BlockState) -> Decision:
        if state.step == state.num_steps - 1:
            return Decision(commit=state.masked)
        decision = self.settings.remasker.decide(state)
        commit, remask = decision.commit, decision.remask
        wrong = commit & ~state.masked
        if remask is not None:
            wrong = wrong | (remask & (state.masked | (state.committed_step < 0)))
        if bool(wrong.any()):
            raise UserInputError(
                f"remasking rule {type(self.settings.remasker).__name__} wants to write where no mask is, or to take "
                "back what was not generated; `dlm plugins check` shows what its contract asks"
            )
        return decision

    def _apply(self, stage: Stage, state: BlockState, decision: Decision, log_probability: Tensor) -> None:
        canvas = self.canvas
        rows = stage.row[:, None].expand_as(stage.columns)
        if decision.remask is not None:
            back = rows[decision.remask], stage.columns[decision.remask]
            canvas.ids[back] = canvas.mask_id
            canvas.committed_step[back] = canvas.block_step[back] = -1
            canvas.log_probability[back] = 0.0
        at = rows[decision.commit], stage.columns[decision.commit]
        canvas.ids[at] = state.candidates[decision.commit]
        canvas.block_step[at] = state.step
        canvas.committed_step[at] = self._row_steps[at[0]]
        # Of the N predictions of this stage, in the order of the positions.
        canvas.log_probability[at] = log_probability[decision.commit[state.predicted]]
