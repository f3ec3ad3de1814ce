from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, Qwen3Config

from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig


def test_defaults_are_bidirectional_and_without_a_cache() -> None:
    config = Qwen3LLadaConfig()
    assert config.model_type == "qwen3llada"
    assert config.is_causal is False
    assert config.use_cache is False
    assert config.vocab_size == Qwen3Config().vocab_size


def test_an_autoregressive_configuration_cannot_turn_the_cache_on() -> None:
    inherited = Qwen3Config(use_cache=True).to_dict()
    inherited.pop("model_type")
    assert Qwen3LLadaConfig(**inherited).use_cache is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask_token_id": "a"},
        {"block_length": 1.5},
        {"logit_shift": "no"},
        {"attention_bias_component": "block"},
        {"mask_token": 5},
        {"prompt_rendering": 3},
    ],
)
def test_own_fields_of_the_wrong_type_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(wrong))):
        Qwen3LLadaConfig(**wrong)


@pytest.mark.parametrize("mask_token_id", [-1, 200])
def test_a_mask_id_outside_the_vocabulary_is_refused(mask_token_id: int) -> None:
    with pytest.raises(ValueError, match=r"mask_token_id.*\[0, 199\]"):
        Qwen3LLadaConfig(vocab_size=200, mask_token_id=mask_token_id)


def test_a_causal_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="is_causal"):
        Qwen3LLadaConfig(is_causal=True)


def test_all_own_fields_survive_saving(tmp_path: Path) -> None:
    fields = {
        "mask_token_id": 7,
        "mask_token": "<|mask|>",
        "attention_bias_component": {"name": "builtin:block", "size": 4},
        "block_length": 4,
        "logit_shift": True,
        "prompt_rendering": "chat",
        "attention_bias": True,
    }
    Qwen3LLadaConfig(**fields).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, Qwen3LLadaConfig)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.is_causal is False
