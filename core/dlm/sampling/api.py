"""The public functions of the sampler."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.sampling.caching import CacheOptions, cache_options, choose_way
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.forward import Runner
from dlm.sampling.loop import Loop
from dlm.sampling.plan import Stage, plan
from dlm.sampling.request import Request
from dlm.sampling.settings import complete
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
    it was given, or filled after the end of the text."""
    num_forwards: int
    """How often the model ran for the whole batch."""
    cache: str
    """The cache that was in effect, see ``dlm.sampling.caching.CACHES``."""


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
    eos_id: int | Sequence[int] | None = None,
    stop_at_eos: bool = False,
    eos_penalty: float = 0.0,
    suppress_tokens: Sequence[int] = (),
    seed: int = 0,
    cache: str | Mapping[str, Any] | CacheOptions = "auto",
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
            block may be shorter. They count from the answer; for a model pre-trained with blocks (``block_origin:
            document`` in its config) from the start of the text, so that the first holds the end of the prompt.
        temperature: at least 0; 0 takes the most probable token, otherwise a draw from softmax(logits / temperature).
        cfg_scale: classifier-free guidance s: logits un + (s + 1)(cond - un), with the prompt masked in un.
        remasking: which predictions are kept at each step: a name, a mapping with ``name`` and options, or a component.
        attention_bias: who sees whom; None: as the model was trained.
        mask_id: None: the model's own.
        eos_id: end-of-text ids; None: the model's own.
        stop_at_eos: once a block that holds an end of text is finished, the blocks after it are filled with ``eos_id``
            instead of decoded. The text up to there is the same. What is filled counts as given.
        eos_penalty: taken from the log-confidence of an end of text, so that it is committed late; inf: last.
        suppress_tokens: ids that are never written; the mask never is.
        seed: of the randomness, which depends on (seed, row, block, step, position) only.
        cache: ``auto`` (the fastest exact one), ``off``, or another of ``dlm.sampling.caching.CACHES``.
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
        stop_at_eos=stop_at_eos,
        eos_penalty=eos_penalty,
        suppress_tokens=suppress_tokens,
        seed=seed,
        cache=cache,
        row_keys=row_keys,
    )
    return GenerateOutput(
        sequences=state.sequences,
        committed_step=state.committed_step,
        log_probabilities=state.log_probabilities,
        num_forwards=state.num_forwards,
        cache=state.cache,
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
    eos_id: int | Sequence[int] | None = None,
    stop_at_eos: bool = False,
    eos_penalty: float = 0.0,
    suppress_tokens: Sequence[int] = (),
    seed: int = 0,
    cache: str | Mapping[str, Any] | CacheOptions = "auto",
    row_keys: Tensor | None = None,
) -> Iterator[GenerateState]:
    """The same as :func:`generate`, step by step: the state before the first step, then one after every forward."""
    request = Request(
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
        stop_at_eos=stop_at_eos,
        eos_penalty=eos_penalty,
        suppress_tokens=suppress_tokens,
        seed=seed,
        cache=cache_options(cache),
        row_keys=row_keys,
    )
    settings = complete(model, input_ids, request)
    decoder = Decoder.of(model, settings.bias)
    canvas = Canvas.build(
        input_ids,
        attention_mask,
        gen_length=gen_length,
        block_length=settings.block_length,
        mask_id=settings.mask_id,
        dtype=torch.promote_types(decoder.dtype, torch.float32),
        blocks_from_start=settings.blocks_from_start,
    )
    way = choose_way(request.cache, Runner(decoder=decoder, canvas=canvas, cfg_scale=float(cfg_scale)))
    waves = plan(canvas, steps, side_by_side=way.side_by_side)
    return _states(Loop(decoder=decoder, canvas=canvas, forward=way.forward, settings=settings), waves, way.cache)


def _states(loop: Loop, waves: list[list[Stage]], cache: str) -> Iterator[GenerateState]:
    yield _snapshot(loop, cache, 0, 0.0)
    for step, seconds in enumerate(loop.run(waves), start=1):
        yield _snapshot(loop, cache, step, seconds)


def _snapshot(loop: Loop, cache: str, step: int, seconds: float) -> GenerateState:
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
