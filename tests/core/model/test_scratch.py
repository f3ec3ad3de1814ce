from typing import Any

import pytest
import torch

from dlm.errors import ModelError
from dlm.model.from_scratch import model_from_config
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM

MAPPING: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def build(mapping: dict[str, Any] | None = None, **options: Any) -> Any:
    return model_from_config(
        MAPPING if mapping is None else mapping, **{"vocab_size": 60, "mask_token_id": 59} | options
    )


def test_the_default_is_our_own_class_with_the_tokenizer_s_vocabulary() -> None:
    model = build()
    assert type(model) is Qwen3LLadaForMaskedLM
    assert (model.config.vocab_size, model.config.mask_token_id) == (60, 59)
    assert (model.config.is_causal, model.config.use_cache) == (False, False)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.rand(3), expected)
    weights = [model.lm_head.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    "spelling",
    [{"rope_theta": 100.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}],
    ids=["alone", "inside"],
)
def test_rope_theta_takes_effect_in_both_spellings(spelling: dict[str, Any]) -> None:
    model = build({**MAPPING, **spelling})
    expected = 100.0 ** -(torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_initializer_range_and_dtype_take_effect() -> None:
    wide = build({**MAPPING, "initializer_range": 0.5})
    assert 0.4 < wide.lm_head.weight.std().item() < 0.6
    model = build(dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "qwen2"])
def test_another_decoder_can_be_named(model_type: str) -> None:
    mapping = {key: value for key, value in MAPPING.items() if key != "head_dim"}
    model = build({**mapping, "model_type": model_type})
    assert model.config.model_type == model_type
    assert model.config.is_causal is False


def test_gpt2_takes_its_own_names_and_the_common_ones() -> None:
    own = build({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4})
    common = build({"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4})
    assert [parameter.shape for parameter in own.parameters()] == [parameter.shape for parameter in common.parameters()]


def test_the_vocabulary_may_be_padded_but_not_cut() -> None:
    assert build({**MAPPING, "vocab_size": 64}).lm_head.out_features == 64
    with pytest.raises(ModelError, match="vocab_size 50 is smaller"):
        build({**MAPPING, "vocab_size": 50})


def test_all_unknown_keys_are_named_with_suggestions() -> None:
    with pytest.raises(ModelError, match=r"hiden_size; did you mean 'hidden_size'\?.*unknown key zzz"):
        build({**MAPPING, "hiden_size": 3, "zzz": 1})


@pytest.mark.parametrize("key", ["is_causal", "use_cache", "mask_token_id", "dtype"])
def test_keys_that_are_set_elsewhere_are_refused_with_the_place(key: str) -> None:
    with pytest.raises(ModelError, match=f"{key} cannot be set here"):
        build({**MAPPING, key: None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_act": "sillu"}, "sillu"),
        ({"num_key_value_heads": 3}, "does not run"),
        ({"model_type": "qwen3lada"}, "did you mean .*qwen3llada"),
        ({"model_type": "t5"}, "unknown key"),
    ],
)
def test_values_that_make_no_model_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build({**MAPPING, **change})
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ModelError, match="encoder-decoder"):
        build({"model_type": "t5"})


def test_a_mask_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match="60"):
        build(mask_token_id=60)
    with pytest.raises(ModelError, match="60"):
        build(
            {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
            mask_token_id=60,
        )
