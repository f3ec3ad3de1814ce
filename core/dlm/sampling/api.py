"""The public functions of the sampler."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.forward import PlainForward
from dlm.sampling.loop import Loop
from dlm.sampling.plan import Stage, plan
from dlm.sampling.predict import Tokens
from dlm.sampling.settings import complete
from dlm.sampling.settings import row_keys as keys_of_rows
from dlm_plugins import AttentionBias, Remasker


@attrs.frozen(kw_only=True, eq=False)
class GenerateOutput:
    """Finished sequences. B rows of T = prompt + gen_length positions."""

    sequences: Tensor
    """(B, T) int64: the input ids, then what was generated; masks of the input filled in."""
    committed_step: Tensor
    """(B, T) int64: the row's own denoising step, from 0, at which a position was written; -1 where it was given."""
    log_probabilities: Tensor
    """(B, T) float32 or wider: log-probability, without temperature, of what was written when it was written; 0 where
    it was given."""
    num_forwards: int
    """How often the model ran for the whole batch."""


@attrs.frozen(kw_only=True, eq=False)
class GenerateState(GenerateOutput):
    """The sequences on their way: masks where nothing has been written yet."""

    masked: Tensor
    """(B, T) bool: positions that wait for a token."""
    step: int
    """Denoising steps done so far; 0 is the state before the first."""
    seconds: float
    """Time the last step took; 0 before the first."""


def generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    gen_length: int = 128,
    steps: int = 128,
    block_length: int | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str | Mapping[str, Any] | Remasker = "low_confidence",
    attention_bias: str | Mapping[str, Any] | AttentionBias | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    seed: int = 0,
    cache: str = "auto",
    row_keys: Tensor | None = None,
) -> GenerateOutput:
    """Generate by iterative unmasking, block after block (LLaDA: Nie et al. 2025, section 2.4).

    Args:
        model: a diffusion language model (``dlm.load``): a decoder with a linear head.
        input_ids: (B, P) int64. Masks among them are filled in.
        attention_mask: (B, P), 0 on padding. Prompts of different lengths are padded on the left.
        gen_length: number of positions to generate after the prompt; 0 only fills in.
        steps: denoising steps over all blocks, shared among them in proportion to their masks.
        block_length: blocks are decoded one after another. None: the model's own, or everything in one block. The last
            block may be shorter.
        temperature: at least 0; 0 takes the most probable token, otherwise a draw from softmax(logits / temperature).
        cfg_scale: classifier-free guidance s: logits un + (s + 1)(cond - un), with the prompt masked in un.
        remasking: which predictions are kept at each step: a name, a mapping with ``name`` and options, or a component.
        attention_bias: who sees whom; None: as the model was trained.
        mask_id: None: the model's own.
        seed: of the randomness, which depends on (seed, row, block, step, position) only.
        row_keys: (B,) int64: the keys of the rows, if not their numbers in the batch.

    Raises:
        UserInputError: a value out of range, an unknown component, a prompt that does not fit.
        ModelError: a model that cannot be used.
    """
    *_, state = iter_generate(
        model,
        input_ids,
        attention_mask=attention_mask,
        gen_length=gen_length,
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        attention_bias=attention_bias,
        mask_id=mask_id,
        eos_id=eos_id,
        seed=seed,
        cache=cache,
        row_keys=row_keys,
    )
    return GenerateOutput(
        sequences=state.sequences,
        committed_step=state.committed_step,
        log_probabilities=state.log_probabilities,
        num_forwards=state.num_forwards,
    )


def iter_generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    gen_length: int = 128,
    steps: int = 128,
    block_length: int | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str | Mapping[str, Any] | Remasker = "low_confidence",
    attention_bias: str | Mapping[str, Any] | AttentionBias | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    seed: int = 0,
    cache: str = "auto",
    row_keys: Tensor | None = None,
) -> Iterator[GenerateState]:
    """The same as :func:`generate`, step by step: the state before the first step, then one after every forward."""
    settings = complete(
        model,
        input_ids,
        gen_length=gen_length,
        steps=steps,
        block_length=block_length,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        attention_bias=attention_bias,
        mask_id=mask_id,
        seed=seed,
    )
    decoder = Decoder.of(model, settings.bias)
    canvas = Canvas.build(
        input_ids,
        attention_mask,
        gen_length=settings.gen_length,
        block_length=settings.block_length,
        mask_id=settings.mask_id,
        dtype=torch.promote_types(decoder.dtype, torch.float32),
    )
    loop = Loop(
        decoder=decoder,
        canvas=canvas,
        forward=PlainForward(decoder, canvas, settings.cfg_scale),
        remasker=settings.remasker,
        tokens=Tokens(mask_id=settings.mask_id, suppressed=input_ids.new_empty(0)),
        temperature=settings.temperature,
        seed=settings.seed,
        row_keys=keys_of_rows(len(input_ids), row_keys, input_ids.device),
    )
    waves = plan(canvas, settings.steps, side_by_side=False)
    return _states(loop, waves)


def _states(loop: Loop, waves: list[list[Stage]]) -> Iterator[GenerateState]:
    yield _snapshot(loop, 0, 0.0)
    for step, seconds in enumerate(loop.run(waves), start=1):
        yield _snapshot(loop, step, seconds)


def _snapshot(loop: Loop, step: int, seconds: float) -> GenerateState:
    canvas = loop.canvas
    return GenerateState(
        sequences=canvas.ids.clone(),
        committed_step=canvas.committed_step.clone(),
        log_probabilities=canvas.log_probability.clone(),
        num_forwards=loop.decoder.num_forwards,
        masked=canvas.masked,
        step=step,
        seconds=seconds,
    )
