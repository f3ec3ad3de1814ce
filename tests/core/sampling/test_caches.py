"""Every cache that calls itself exact gives the tokens of the plain way."""

import copy
from typing import Any, ClassVar

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from dlm.config.components_in_effect import reason_against_shift
from dlm.config.sampling_settings import APPROXIMATE_CACHES
from dlm.data.batch import Batch
from dlm.diffusion.layout import training_layout, with_clean_copy
from dlm.errors import UserInputError
from dlm.model.attention import Visibility
from dlm.model.modeling_qwen3llada import Qwen3LLadaModel
from dlm.sampling import generate
from dlm.sampling.cache_choice import CACHES
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import name_of_cache, visible_keys
from dlm.sampling.full_forward import layout_of
from dlm.sampling.plan import plan
from dlm_builtin_plugins.attention_biases.alternating import AlternatingAttention
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.attention_biases.per_layer import PerLayerAttention
from dlm_plugins import MaskFunction, SequenceLayout
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT


@attrs.frozen(kw_only=True)
class ShortMemory:
    """Block diffusion that remembers the block before only."""

    prefix_is_static: ClassVar[bool] = True
    needs_clean_copy: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        everything, block = BlockCausalAttention().mask_function(layout), layout.block
        return lambda b, h, q, k: everything(b, h, q, k) & (block[b, q] - block[b, k] <= 1)


@attrs.frozen(kw_only=True)
class PromptFirst:
    """The prompt sees itself, the answer everything."""

    prefix_is_static: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        return lambda b, h, q, k: (layout.block[b, q] >= 0) | (layout.block[b, k] < 0)


class NamesCache(Qwen3LLadaModel):
    """Has the name that transformers gives its cache now."""

    def forward(self, cache: Any = None, **arguments: Any) -> Any:
        return super().forward(**{name_of_cache(Qwen3Model): cache}, **arguments)


class NamesPastKeyValues(Qwen3LLadaModel):
    """Has the name from before."""

    def forward(self, past_key_values: Any = None, **arguments: Any) -> Any:
        return super().forward(**{name_of_cache(Qwen3Model): past_key_values}, **arguments)


class HandsOn(NamesPastKeyValues):
    """Does not name what it hands on."""

    def forward(self, **arguments: Any) -> Any:
        return super().forward(**arguments)


BIASES = {
    "block": BlockAttention(),
    "block_causal": BlockCausalAttention(),
    "alternating": AlternatingAttention(first="block", second="block"),
    "per_layer": PerLayerAttention(plan=[BlockCausalAttention(), ShortMemory(), BlockCausalAttention()]),
    "static": PerLayerAttention(plan=[BlockAttention(), PromptFirst()]),
}
EXACT = [name for name in CACHES if name not in ("auto", "off", *APPROXIMATE_CACHES)]


def padded_prompts(seed: int, num_rows: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 49, (num_rows, longest), generator=random)
    pads = torch.randint(0, longest + 1, (num_rows, 1), generator=random)
    return prompt, (torch.arange(longest)[None] >= pads).long()


@st.composite
def sampling_settings(draw: st.DrawFn) -> dict[str, Any]:
    gen_length = draw(st.integers(1, 14))
    block_length = draw(st.integers(1, gen_length))
    num_blocks = -(-gen_length // block_length)
    return {
        "gen_length": gen_length,
        "block_length": block_length,
        "steps": draw(st.integers(num_blocks, gen_length + 3)),
        "temperature": draw(st.sampled_from([0.0, 0.7])),
        "cfg_scale": draw(st.sampled_from([0.0, 1.5])),
        "remasking": draw(st.sampled_from(["low_confidence", "random", "random_topk", "threshold", "remdm"])),
        "seed": draw(st.integers(0, 5)),
        "eos": draw(st.sampled_from(["stop", "free"])),
        "eos_id": draw(st.integers(0, 48)),
    }


@pytest.mark.parametrize(
    ("bias", "cache"),
    [
        (bias, cache)
        for bias in BIASES
        for cache in EXACT
        if cache != "side_by_side" or BLOCKS_ARE_INDEPENDENT.of(BIASES[bias])
    ],
)
@settings(deadline=None, max_examples=20)
@given(
    options=sampling_settings(),
    implementation=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 3),
    rows=st.integers(1, 3),
    longest=st.integers(0, 7),
    shift=st.booleans(),
)
def test_exact_caches_change_no_token(
    frozen_model: Any,
    bias: str,
    cache: str,
    implementation: str,
    options: dict[str, Any],
    seed: int,
    rows: int,
    longest: int,
    shift: bool,
) -> None:
    # With nothing given, all positions are equal, and every choice is a tie.
    shift = shift and reason_against_shift(BIASES[bias]) is None
    model = frozen_model(seed=seed, attn_implementation=implementation, logit_shift=shift)
    prompt, attention_mask = padded_prompts(seed, rows, longest)
    arguments = {"attention_mask": attention_mask, "attention_bias": BIASES[bias], **options}
    plain = generate(model, prompt, cache="off", **arguments)
    cached = generate(model, prompt, cache=cache, **arguments)
    assert plain.cache == "off"
    assert cached.cache != "off"
    assert cached.sequences.equal(plain.sequences)
    assert cached.log_probabilities.allclose(plain.log_probabilities, atol=1e-9)


def test_finished_blocks_stay_right_where_blocks_in_between_were_given(make_model: Any) -> None:
    model = make_model(seed=2)
    prompt = torch.randint(0, 49, (2, 20), generator=torch.Generator().manual_seed(0))
    prompt[:, 4:7] = 49
    prompt[:, 13:15] = 49
    arguments: dict[str, Any] = {"gen_length": 0, "block_length": 3, "steps": 9}
    for bias in BIASES.values():
        plain = generate(model, prompt, cache="off", attention_bias=bias, **arguments)
        cached = generate(model, prompt, cache="prompt", attention_bias=bias, **arguments)
        assert cached.sequences.equal(plain.sequences)


def test_auto_never_caches_where_the_prompt_sees_the_answer(model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    for bias in (None, FullAttention(), AlternatingAttention(first="block", second="full")):
        assert generate(model, prompt, gen_length=4, steps=4, attention_bias=bias).cache == "off"


def test_auto_does_not_cache_rows_that_begin_at_different_columns(model: Any) -> None:
    prompt = torch.tensor([[1, 2, 49, 3], [1, 49, 49, 3]])
    assert generate(model, prompt, gen_length=0, steps=2, attention_bias=BlockAttention()).cache == "off"


@pytest.mark.parametrize(
    ("cache", "bias", "reason"),
    [
        ("prompt", FullAttention(), "the prompt sees the answer"),
        ("side_by_side", BlockCausalAttention(), "blocks see each other"),
    ],
)
def test_an_exact_cache_is_refused_where_it_is_not(model: Any, cache: str, bias: Any, reason: str) -> None:
    with pytest.raises(UserInputError, match=reason):
        generate(model, torch.tensor([[1, 2, 3]]), gen_length=4, steps=4, attention_bias=bias, cache=cache)


@pytest.mark.parametrize("kind", [NamesCache, NamesPastKeyValues, HandsOn])
def test_a_body_is_given_its_cache_by_the_name_that_it_has_for_it(frozen_model: Any, kind: type[Any]) -> None:
    """transformers 5.24 renamed it, and code that comes with a model may have either."""
    model, prompt = copy.deepcopy(frozen_model()), torch.arange(12).reshape(2, 6) + 5
    settings: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 8, "attention_bias": "block"}
    expected = generate(model, prompt, cache="off", **settings).sequences
    model.model.__class__ = kind
    assert generate(model, prompt, cache="prompt", **settings).sequences.equal(expected)


def test_forwards_are_saved_side_by_side_and_counted(model: Any) -> None:
    arguments: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 12, "attention_bias": BlockAttention()}
    prompt = torch.tensor([[1, 2, 3]])
    counts = {name: generate(model, prompt, cache=name, **arguments).num_forwards for name in ("off", *EXACT)}
    assert counts == {"off": 12, "prompt": 13, "side_by_side": 5}


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@settings(deadline=None, max_examples=15)
@given(
    options=sampling_settings(),
    seed=st.integers(0, 3),
    rows=st.integers(1, 3),
    longest=st.integers(0, 7),
    shift=st.booleans(),
)
def test_approximate_caches_are_exact_when_refreshed_at_every_step(
    frozen_model: Any, cache: str, options: dict[str, Any], seed: int, rows: int, longest: int, shift: bool
) -> None:
    model = frozen_model(seed=seed, logit_shift=shift)
    prompt, attention_mask = padded_prompts(seed, rows, longest)
    arguments = {"attention_mask": attention_mask, **options}
    plain = generate(model, prompt, **arguments)
    fresh = generate(model, prompt, cache={"name": cache, "refresh_every": 1}, **arguments)
    assert fresh.sequences.equal(plain.sequences)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_approximate_caches_fill_everything_and_say_so(make_model: Any, cache: str) -> None:
    model = make_model(logit_shift=True)
    prompt, attention_mask = padded_prompts(0, 3, 6)
    output = generate(
        model, prompt, attention_mask=attention_mask, gen_length=9, block_length=4, steps=9, cache=cache, cfg_scale=1.0
    )
    assert output.cache == cache
    assert output.cache in APPROXIMATE_CACHES
    assert not (output.sequences == 49).any()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("dula", "did you mean 'dual'"),
        ({"name": "auto", "refresh_every": 2}, "no effect"),
        ({"name": "dual", "refresh_every": 0}, "must be > 0"),
        ({"name": "dual", "refresh": 2}, "refresh_every"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(model: Any, cache: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        generate(model, torch.tensor([[1, 2, 3]]), gen_length=4, steps=4, cache=cache)


@pytest.mark.parametrize("prompt_length", [1, 4, 7, 8])
def test_blocks_that_count_from_the_start_of_the_text_are_cached_exactly(make_model: Any, prompt_length: int) -> None:
    bias = {"name": "builtin:block_causal"}
    model = make_model(seed=1, attention_bias_component=bias, block_length=4, block_origin="document")
    prompt = torch.randint(0, 49, (2, prompt_length), generator=torch.Generator().manual_seed(prompt_length))
    arguments: dict[str, Any] = {"gen_length": 10, "steps": 8, "temperature": 0.5}
    plain = generate(model, prompt, cache="off", **arguments)
    cached = generate(model, prompt, cache="prompt", **arguments)
    assert cached.sequences.equal(plain.sequences)
    # What callers name themselves counts from the answer: the same only where the prompt is exactly one block.
    named = generate(model, prompt, cache="off", attention_bias=bias, **arguments)
    assert named.sequences.equal(plain.sequences) == (prompt_length == 4)


@pytest.mark.parametrize("prompt_length", [3, 4, 9])
def test_a_model_pretrained_by_blocks_sees_in_sampling_what_it_saw_in_training(prompt_length: int) -> None:
    length, block_length = 12, 4
    ids = torch.arange(length)[None]
    batch = Batch(
        input_ids=ids,
        document_id=torch.zeros_like(ids),
        position=ids,
        eligible=torch.ones_like(ids, dtype=torch.bool),
        answer_start=torch.zeros_like(ids),
        answer_length=None,
        row_index=torch.zeros(1, dtype=torch.long),
        isolate_documents=False,
    )
    layout = with_clean_copy(training_layout(batch, block_length))
    trained = Visibility(layout=layout, bias=BlockCausalAttention(), isolate_documents=False, has_padding=False).dense()
    assert trained is not None
    canvas = Canvas.build(
        ids[:, :prompt_length],
        None,
        gen_length=length - prompt_length,
        block_length=block_length,
        mask_id=49,
        dtype=torch.float32,
        blocks_from_start=True,
    )
    columns = torch.arange(length)
    for wave in plan(canvas, length, side_by_side=False):
        sampled = visible_keys(BlockCausalAttention(), layout_of(canvas, wave), columns, columns)
        assert sampled is not None
        start = int(wave[0].columns[0, 0])
        for query in range(start, start + block_length):
            # Before the block the clean copy, in the block the noisy one, after it nothing.
            clean, noisy = trained[0, query, length:], trained[0, query, :length]
            expected = torch.where(columns < start, clean, noisy & (columns < start + block_length))
            assert sampled[0, query].equal(expected)
        for query in range(start):
            assert sampled[0, query].equal(trained[0, length + query, length:])
