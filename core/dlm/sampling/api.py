"""``dlm.generate`` and ``iter_generate``: the public functions of the sampler, and what they return."""

from collections.abc import Iterator
from typing import Any, Unpack

import attrs
import torch
from torch import Tensor

from dlm.config.sampling_settings import SamplingArguments, SamplingSettings
from dlm.sampling.arguments import settings_of
from dlm.sampling.blind_positions import warn_of_blind_blocks
from dlm.sampling.cache_choice import Way, choose_way
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.full_forward import Runner
from dlm.sampling.loop import Loop
from dlm.sampling.plan import Stage, plan
from dlm.sampling.resolve import resolve


@attrs.frozen(kw_only=True, eq=False)
class GenerateOutput:
    """Finished sequences. B rows of T = prompt + gen_length positions."""

    sequences: Tensor
    """(B, T) int64: the input ids, then what was generated; masks of the input filled in."""
    committed_step: Tensor
    """(B, T) int64: the row's own denoising step, from 0, at which a position was written; -1 where it was given."""
    log_probabilities: Tensor
    """(B, T) float32 or wider: log-probability, without temperature, of what was written when it was written; 0 where
    it was given, or filled after the end of the text."""
    num_forwards: int
    """How often the model ran for the whole batch."""
    cache: str
    """The cache that was in effect, see ``dlm.sampling.cache_choice.CACHES``."""


@attrs.frozen(kw_only=True, eq=False)
class GenerateState(GenerateOutput):
    """The sequences on their way: masks where nothing has been written yet."""

    masked: Tensor
    """(B, T) bool: positions that wait for a token."""
    block: Tensor
    """(B, T) int64: number of the block of each position; -1 before the answer and on padding."""
    step: int
    """Denoising steps done so far; 0 is the state before the first."""
    seconds: float
    """Time the last step took; 0 before the first."""

    @property
    def output(self) -> GenerateOutput:
        """What is known of the sequences when this is the last state."""
        shared = {field.name: getattr(self, field.name) for field in attrs.fields(GenerateOutput)}
        return GenerateOutput(**shared)

    def on_host(self) -> "GenerateState":
        """The same with all tensors on the CPU, so that whoever looks at it waits for no device."""
        names = [field.name for field in attrs.fields(GenerateState)]
        moved: dict[str, Any] = {name: each.cpu() for name in names if isinstance(each := getattr(self, name), Tensor)}
        return attrs.evolve(self, **moved)

    def num_settled(self, takes_nothing_back: bool) -> int:
        """Positions at the beginning of the one row that stay as they are.

        Args:
            takes_nothing_back: what the remasking rule claims (``RESPECTS_QUOTA``).
        """
        waiting = self.masked[0]
        if not takes_nothing_back:
            # What was written may be taken back until a later block is begun; side by side all are begun at once.
            is_begun = (self.committed_step[0] >= 0) & (self.cache != "side_by_side")
            newest = torch.where(is_begun, self.block[0], 0).max()
            waiting = waiting | (self.block[0] >= newest)
        return int(waiting.long().argmax()) if bool(waiting.any()) else len(waiting)


def generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    row_keys: Tensor | None = None,
    **settings: Unpack[SamplingArguments],
) -> GenerateOutput:
    """Generate by iterative unmasking, block after block (LLaDA: Nie et al. 2025, section 2.4).

    Args:
        model: a diffusion language model (``dlm.load``): a decoder with a linear head.
        input_ids: (B, P) int64. Masks among them are filled in.
        attention_mask: (B, P), 0 on padding. Prompts of different lengths are padded on the left.
        row_keys: (B,) int64: the keys of the rows' randomness, if not their numbers in the batch.
        **settings: the fields of :class:`dlm.config.sampling_settings.SamplingSettings`, which are also the section
            ``sampling`` of a run file. None means the model's own.

    ``gen_length`` is the number of positions after the prompt. ``steps`` are shared among the blocks in proportion to
    their masks. Blocks count from the answer; for a model pre-trained with blocks (``block_origin: document`` in its
    config) from the start of the text, so that the first holds the end of the prompt; the last may be shorter.
    ``temperature`` 0 takes the most probable token, otherwise a draw from softmax(logits / temperature). ``cfg_scale``
    s gives logits un + (s + 1)(cond - un), with the prompt masked in un. ``remasking`` and ``attention_bias`` take a
    name, a mapping with ``name`` and options, or a component. With ``eos`` ``stop``, once a block that holds an end of
    text is finished, the blocks after it are filled with ``eos_id`` instead of decoded; the text up to there is the
    same, and what is filled counts as given.

    Raises:
        UserInputError: a value out of range, an unknown component, a prompt that does not fit.
        ModelError: a model that cannot be used.
    """
    *_, state = iter_generate(model, input_ids, attention_mask=attention_mask, row_keys=row_keys, **settings)
    return state.output


def iter_generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    row_keys: Tensor | None = None,
    **settings: Unpack[SamplingArguments],
) -> Iterator[GenerateState]:
    """The same as :func:`generate`, step by step: the state before the first step, then one after every forward."""
    return denoise(model, input_ids, settings_of(settings), attention_mask=attention_mask, row_keys=row_keys)


def denoise(
    model: Any,
    input_ids: Tensor,
    settings: SamplingSettings,
    *,
    attention_mask: Tensor | None = None,
    row_keys: Tensor | None = None,
) -> Iterator[GenerateState]:
    """The same with settings that are ready."""
    loop, way = prepare(model, input_ids, settings, attention_mask=attention_mask, row_keys=row_keys)
    waves = plan(loop.canvas, loop.settings.steps, side_by_side=way.side_by_side)
    return _states(loop, waves, way.cache)


def prepare(
    model: Any,
    input_ids: Tensor,
    settings: SamplingSettings,
    *,
    attention_mask: Tensor | None = None,
    row_keys: Tensor | None = None,
) -> tuple[Loop, Way]:
    """Everything before the first step: the canvas, and how the model goes over it."""
    resolved = resolve(model, input_ids, settings, row_keys)
    decoder = Decoder.of(model, resolved.bias)
    canvas = Canvas.build(
        input_ids,
        attention_mask,
        gen_length=resolved.gen_length,
        block_length=resolved.block_length,
        mask_id=resolved.mask_id,
        dtype=torch.promote_types(decoder.dtype, torch.float32),
        blocks_from_start=resolved.blocks_from_start,
    )
    warn_of_blind_blocks(canvas, resolved)
    way = choose_way(settings.cache, Runner(decoder=decoder, canvas=canvas, cfg_scale=resolved.cfg_scale))
    return Loop(decoder=decoder, canvas=canvas, forward=way.forward, settings=resolved), way


def _states(loop: Loop, waves: list[list[Stage]], cache: str) -> Iterator[GenerateState]:
    yield snapshot(loop, cache, 0, 0.0)
    for step, seconds in enumerate(loop.run(waves), start=1):
        yield snapshot(loop, cache, step, seconds)


def snapshot(loop: Loop, cache: str, step: int, seconds: float) -> GenerateState:
    """How the rows of a loop stand now."""
    canvas = loop.canvas
    return GenerateState(
        sequences=canvas.ids.clone(),
        committed_step=canvas.committed_step.clone(),
        log_probabilities=canvas.log_probability.clone(),
        num_forwards=loop.decoder.num_forwards,
        cache=cache,
        masked=canvas.masked,
        block=canvas.block,
        step=step,
        seconds=seconds,
    )
