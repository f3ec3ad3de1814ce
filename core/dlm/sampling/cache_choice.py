"""Which KV cache is used (off, auto, prompt, prefix, dual, ...), and whether it is exact for this model."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import torch
from torch import Tensor

from dlm.config.sampling_settings import CacheName, CacheOptions
from dlm.errors import UserInputError
from dlm.sampling.approximate_cache import StaleForward
from dlm.sampling.canvas import Canvas
from dlm.sampling.exact_cache import BlockCausalForward, CachedForward, IndependentBlocksForward
from dlm.sampling.full_forward import Forward, PlainForward, Runner
from dlm_plugins import AttentionBias
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY, PREFIX_IS_STATIC, blocks_are_separate


@attrs.frozen(kw_only=True, eq=False)
class Way:
    """A way through the model."""

    forward: Forward
    side_by_side: bool = False
    """Whether all blocks are decoded at the same time."""
    cache: str
    """Name of the cache that is in effect."""


def choose_way(cache: CacheName | CacheOptions, runner: Runner) -> Way:
    """The way that ``cache`` names.

    Raises:
        UserInputError: an exact cache that would not be exact for this model and these prompts.
    """
    options = cache if isinstance(cache, CacheOptions) else CacheOptions(name=cache)
    return CACHES[options.name](runner, options.refresh_every)


def _off(runner: Runner, _: int | None) -> Way:
    """The whole canvas, every step."""
    return Way(forward=PlainForward(runner), cache="off")


def _auto(runner: Runner, _: int | None) -> Way:
    """The fastest of the exact ones that fits the model."""
    if _reason_against_prompt(runner) is not None:
        return _off(runner, None)
    if _reason_against_side_by_side(runner) is not None:
        return _prompt(runner, None)
    return _side_by_side(runner, None)


def _prompt(runner: Runner, _: int | None) -> Way:
    """Exact: keys and values of the prompt, and of finished blocks where the attention allows it."""
    _refuse("prompt", _reason_against_prompt(runner))
    bias = runner.decoder.bias
    if BLOCKS_ARE_INDEPENDENT.of(bias):
        kind: type[CachedForward] = IndependentBlocksForward
    else:
        kind = BlockCausalForward if NEEDS_CLEAN_COPY.of(bias) else CachedForward
    return Way(forward=kind(runner, num_prompt_columns(runner.canvas)), cache="prompt")


def _side_by_side(runner: Runner, _: int | None) -> Way:
    """Exact: the same, and all blocks at once, for attention that keeps blocks independent."""
    _refuse("side_by_side", _reason_against_side_by_side(runner) or _reason_against_prompt(runner))
    return Way(forward=_prompt(runner, None).forward, side_by_side=True, cache="side_by_side")


def _prefix(runner: Runner, refresh_every: int | None) -> Way:
    """Approximate: what precedes the block is reused from its first step."""
    return Way(forward=StaleForward(runner=runner, keeps_suffix=False, refresh_every=refresh_every), cache="prefix")


def _dual(runner: Runner, refresh_every: int | None) -> Way:
    """Approximate: what surrounds the block is reused from its first step."""
    return Way(forward=StaleForward(runner=runner, keeps_suffix=True, refresh_every=refresh_every), cache="dual")


CACHES: Mapping[CacheName, Callable[[Runner, int | None], Way]] = MappingProxyType(
    {
        "auto": _auto,
        "off": _off,
        "prompt": _prompt,
        "side_by_side": _side_by_side,
        "prefix": _prefix,
        "dual": _dual,
    }
)
"""How each value of ``cache`` chooses."""


def first_active_column(canvas: Canvas) -> Tensor:
    """(B,) int64: first column of the first block with masks in each row; 0 in a row without masks."""
    first = torch.where(canvas.writable, canvas.block, torch.iinfo(torch.long).max).amin(dim=1, keepdim=True)
    return (canvas.block == first).long().argmax(dim=1)


def num_prompt_columns(canvas: Canvas) -> int:
    """Columns before the first block with masks of any row."""
    return int(first_active_column(canvas)[canvas.writable.any(dim=1)].min())


def _reason_against_prompt(runner: Runner) -> str | None:
    bias: AttentionBias = runner.decoder.bias
    if not PREFIX_IS_STATIC.of(bias):
        return f"under {type(bias).__name__} the prompt sees the answer, so that its keys and values change"
    if not _take_the_same_path(runner.canvas):
        return "the rows have their masks in different blocks; sample them one by one"
    if not blocks_are_separate(bias) and bool((runner.canvas.block[:, : num_prompt_columns(runner.canvas)] >= 0).any()):
        return "blocks count from the start of the text, so that the prompt is no prefix"
    return None


def _take_the_same_path(canvas: Canvas) -> bool:
    """Whether the blocks of all rows that have masks begin at the same columns."""
    rows = canvas.writable.any(dim=1)
    writable, block, start = canvas.writable[rows], canvas.block[rows], first_active_column(canvas)[rows]
    if not len(block):
        return True
    relative = block - block.gather(1, start[:, None])
    has_masks = torch.zeros(len(block), int(relative.max()) + 1, dtype=torch.long, device=block.device)
    has_masks.scatter_add_(1, relative.clamp(min=0), writable.long())
    return bool((start == start[0]).all()) and bool(((has_masks > 0) == (has_masks[:1] > 0)).all())


def _reason_against_side_by_side(runner: Runner) -> str | None:
    bias = runner.decoder.bias
    return None if BLOCKS_ARE_INDEPENDENT.of(bias) else f"under {type(bias).__name__} blocks see each other"


def _refuse(name: str, reason: str | None) -> None:
    if reason is not None:
        raise UserInputError(f"cache {name!r} would not be exact here: {reason}; use cache 'auto'")
