"""Arguments and streamers of transformers' ``generate``: translated to the sampler's settings, or refused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import UserInputError
from dlm.sampling.api import GenerateOutput, GenerateState, denoise
from dlm.sampling.arguments import settings_of
from dlm.sampling.pieces import num_whole
from dlm.sampling.resolve import check_attention_mask, check_input_ids, gen_length_of
from dlm_plugins.remasking import RESPECTS_QUOTA

_SETTINGS = frozenset(field.name for field in attrs.fields(SamplingSettings))
_OWN = _SETTINGS | {"attention_mask", "row_keys"}
_THEIRS = frozenset(
    [
        "max_new_tokens",
        "max_length",
        "do_sample",
        "temperature",
        "eos_token_id",
        "pad_token_id",
        "num_return_sequences",
        "streamer",
        "return_dict_in_generate",
    ]
)
_ASKS_FOR_NOTHING = frozenset(("_from_model_config", "bos_token_id", "transformers_version", "use_cache"))
"""What a ``GenerationConfig`` says besides."""


class Streamer(Protocol):
    """What transformers' ``TextStreamer`` does."""

    def put(self, value: Tensor) -> None:
        """Take the next ids, first the prompt's."""
        ...

    def end(self) -> None:
        """There will be no more."""
        ...


def generate_like_transformers(
    model: Any,
    inputs: Tensor | None = None,
    *,
    input_ids: Tensor | None = None,
    generation_config: Any = None,
    **options: Any,
) -> Tensor | GenerateOutput:
    """See :meth:`dlm.model.generate_mixin.GeneratesByUnmasking.generate`."""
    ids = inputs if inputs is not None else input_ids
    if ids is None:
        raise UserInputError("generate needs the ids of a prompt: generate(input_ids) or generate(**tokenizer(...))")
    check_input_ids(ids, model.config.get_text_config().vocab_size)
    options.pop("tokenizer", None)  # transformers' own callers hand it over, for stop strings
    said = _said_by(generation_config)
    unknown = sorted({*said, *options} - _OWN - _THEIRS)
    if unknown:
        raise UserInputError(f"{unknown[0]} means nothing to a diffusion language model; leave it out")
    options = {**said, **{key: value for key, value in options.items() if value is not None}}
    copies = options.get("num_return_sequences", 1)
    settings = _translated(model, ids, options)
    mask = options.get("attention_mask")
    if mask is not None:
        check_attention_mask(mask, ids)
        mask = mask.repeat_interleave(copies, dim=0)
    ids = ids.repeat_interleave(copies, dim=0)
    states = denoise(model, ids, settings, attention_mask=mask, row_keys=options.get("row_keys"))
    streamer = options.get("streamer")
    if streamer is not None:
        if len(ids) != 1:
            raise UserInputError(f"a streamer follows one text, not {len(ids)}")
        states = stream(states, streamer, ids.shape[1], RESPECTS_QUOTA.of(settings.remasking))
    *_, state = states
    ends = _ids(getattr(model.config, "eos_token_id", None) if settings.eos_id is None else settings.eos_id)
    sequences = _padded(state.sequences, ids.shape[1], ends, _pad_id(model, options, ends))
    return state.output if options.get("return_dict_in_generate") else sequences


def stream(
    states: Iterable[GenerateState], streamer: Streamer, prompt_length: int, takes_nothing_back: bool
) -> Iterator[GenerateState]:
    """Pass states on, and put each id as soon as neither it nor anything before it can change any more.

    A streamer with a tokenizer, as those of transformers have, gets the ids of a character together.
    """
    num_put, state, tokenizer = prompt_length, None, getattr(streamer, "tokenizer", None)
    for state in states:
        if state.step == 0:
            streamer.put(state.sequences[0, :prompt_length].cpu())
        settled = state.sequences[0, num_put : state.num_settled(takes_nothing_back)].cpu()
        if tokenizer is not None:
            settled = settled[: num_whole(tokenizer, settled.tolist())]
        if len(settled):
            streamer.put(settled)
            num_put += len(settled)
        yield state
    if state is not None and num_put < state.sequences.shape[1]:
        streamer.put(state.sequences[0, num_put:].cpu())
    streamer.end()


def _said_by(config: Any) -> dict[str, Any]:
    found = {} if config is None else config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in _ASKS_FOR_NOTHING and value is not None}


def _translated(model: Any, ids: Tensor, options: Mapping[str, Any]) -> SamplingSettings:
    """Our settings for transformers' options."""
    arguments = {key: value for key, value in options.items() if key in _SETTINGS}
    arguments.setdefault("gen_length", _gen_length(model, ids.shape[1], options))
    arguments["temperature"] = _temperature(options)
    if "eos_token_id" in options:
        arguments["eos_id"] = _ids(options["eos_token_id"])
    return settings_of(arguments)


def _gen_length(model: Any, prompt_length: int, options: Mapping[str, Any]) -> int:
    if "max_new_tokens" in options:
        return int(options["max_new_tokens"])
    if "max_length" in options:
        return int(options["max_length"]) - prompt_length
    return gen_length_of(model.config, None, prompt_length)


def _temperature(options: Mapping[str, Any]) -> float:
    temperature, do_sample = options.get("temperature"), options.get("do_sample")
    if do_sample is False and temperature is not None and temperature > 0:
        raise UserInputError(f"do_sample is False, but temperature is {temperature}: leave one of them out")
    if temperature is None:
        return 1.0 if do_sample else 0.0
    return float(temperature)


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _pad_id(model: Any, options: Mapping[str, Any], ends: Sequence[int]) -> int:
    for candidate in (options.get("pad_token_id"), getattr(model.config, "pad_token_id", None), *ends):
        if candidate is not None:
            return int(candidate)
    return 0


def _padded(sequences: Tensor, prompt_length: int, ends: Sequence[int], pad_id: int) -> Tensor:
    """The sequences with padding after the first end of text that was generated."""
    generated = sequences[:, prompt_length:]
    is_end = torch.isin(generated, torch.tensor(ends, dtype=torch.long, device=sequences.device))
    is_after = is_end.long().cumsum(dim=1) - is_end.long() > 0
    return torch.cat((sequences[:, :prompt_length], generated.masked_fill(is_after, pad_id)), dim=1)
