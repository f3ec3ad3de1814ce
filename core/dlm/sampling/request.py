"""What a caller of the sampler asks for, checked as far as it can be without the model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from dlm.errors import UserInputError
from dlm.sampling.caching import CacheOptions
from dlm_plugins import AttentionBias, Remasker


def _at_least(least: int) -> Any:
    def check(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserInputError(f"{attribute.name} is {value!r}; it must be a whole number")
        if value < least:
            raise UserInputError(f"{attribute.name} is {value}; it must be at least {least}")

    return check


def _not_negative(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UserInputError(f"{attribute.name} is {value!r}; it must be a number of at least 0")


def _finite(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    _not_negative(instance, attribute, value)
    if not math.isfinite(value):
        raise UserInputError(f"{attribute.name} is {value}; it must be finite")


@attrs.frozen(kw_only=True, eq=False)
class Request:
    """The arguments of :func:`dlm.sampling.generate`, which documents them; None means the model's own.

    Raises:
        UserInputError: a value out of its range.
    """

    attention_mask: Tensor | None = None
    gen_length: int = attrs.field(default=128, validator=_at_least(0))
    steps: int = attrs.field(default=128, validator=_at_least(1))
    block_length: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least(1)))
    temperature: float = attrs.field(default=0.0, validator=_finite)
    cfg_scale: float = attrs.field(default=0.0, validator=_finite)
    remasking: str | Mapping[str, Any] | Remasker = "low_confidence"
    attention_bias: str | Mapping[str, Any] | AttentionBias | None = None
    mask_id: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least(0)))
    eos_id: int | Sequence[int] | None = None
    stop_at_eos: bool = False
    eos_penalty: float = attrs.field(default=0.0, validator=_not_negative)
    suppress_tokens: Sequence[int] = ()
    seed: int = attrs.field(default=0, validator=_at_least(0))
    cache: CacheOptions = attrs.field(factory=CacheOptions)
    row_keys: Tensor | None = None
