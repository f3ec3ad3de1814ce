"""How texts are sampled: section ``sampling`` of the run file, options of the commands, arguments of ``dlm.generate``.

Defined once. Steps, blocks, temperature, guidance, remasking, KV cache, end of text (EOS), suppressed tokens, seed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import attrs
from attrs.validators import deep_iterable

from dlm.config.fields import NOT_NEGATIVE, NOT_NEGATIVE_OR_NULL, POSITIVE_OR_NULL, component_setting, setting

if TYPE_CHECKING:  # their modules take torch, and this one lists options
    from dlm_plugins import AttentionBias, Remasker

CacheName = Literal["auto", "off", "prompt", "side_by_side", "prefix", "dual"]
EndPolicy = Literal["stop", "free", "suppress", "late"]

APPROXIMATE_CACHES = ("prefix", "dual")
"""Caches that change the tokens; every other one is exact."""


def _has_an_effect(options: "CacheOptions", attribute: "attrs.Attribute[Any]", value: int | None) -> None:
    if value is not None and options.name not in APPROXIMATE_CACHES:
        raise ValueError(f"has no effect on the exact cache {options.name!r}: leave it out")


@attrs.frozen(kw_only=True)
class CacheOptions:
    """A KV cache by name, with what can be said about it."""

    name: CacheName = setting("Which one.", "auto")
    refresh_every: int | None = setting(
        "Approximate caches: steps between two forwards of the whole canvas; null: one at the first step of a block.",
        None,
        [POSITIVE_OR_NULL, _has_an_effect],
    )


@attrs.frozen(kw_only=True)
class SamplingSettings:
    """How texts are sampled; null means what the model, or the prompt, says. See :func:`dlm.generate`."""

    gen_length: int | None = setting(
        "Tokens to generate after the prompt; 0 only fills in masks; null: 128, or what fits into the model's context.",
        None,
        NOT_NEGATIVE_OR_NULL,
    )
    steps: int | None = setting("Denoising steps over all blocks; null: one for each token.", None, POSITIVE_OR_NULL)
    block_length: int | None = setting(
        "Tokens denoised together before the next block begins; null: the model's own, or all of them. At most "
        "gen_length.",
        None,
        POSITIVE_OR_NULL,
    )
    remasking: "Remasker" = component_setting("Which predictions are kept at a step.", "low_confidence")
    temperature: float = setting("0: the most probable token; 1: as the model predicts.", 0.0, NOT_NEGATIVE)
    cfg_scale: float = setting("Strength of classifier-free guidance; 0: none.", 0.0, NOT_NEGATIVE)
    attention_bias: "AttentionBias | None" = setting("Who sees whom; null: as the model was trained.", None)
    cache: CacheName | CacheOptions = setting(
        "What is reused between forwards. Exact: auto, off, prompt, side_by_side; approximate: prefix, dual.", "auto"
    )
    eos: EndPolicy = setting(
        "At an end of text: stop decoding, go on (free), never write it (suppress), or commit it last (late).", "stop"
    )
    eos_id: int | Sequence[int] | None = setting("Ids that end a text; null: the model's own.", None)
    suppress_tokens: Sequence[int] = setting(
        "Ids that are never written; the mask never is.", (), deep_iterable(NOT_NEGATIVE)
    )
    mask_id: int | None = setting("Id of the mask; null: the model's own.", None, NOT_NEGATIVE_OR_NULL)
    seed: int = setting("Of the randomness, which depends on (seed, row, block, step, position) only.", 0, NOT_NEGATIVE)


class SamplingArguments(TypedDict, total=False):
    """The same as keyword arguments, for type checkers and editors: components also by name, or with their options."""

    gen_length: int | None
    steps: int | None
    block_length: int | None
    remasking: "Remasker | str | Mapping[str, Any]"
    temperature: float
    cfg_scale: float
    attention_bias: "AttentionBias | str | Mapping[str, Any] | None"
    cache: CacheName | CacheOptions | Mapping[str, Any]
    eos: EndPolicy
    eos_id: int | Sequence[int] | None
    suppress_tokens: Sequence[int]
    mask_id: int | None
    seed: int
