from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from dlm.errors import ModelError
from dlm.model.body_and_head import split
from dlm.model.load_checks import prove_bidirectional
from dlm.model.load_model import load_model
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM
from dlm.model.tokenizer import load_tokenizer

IDS = torch.tensor([[3, 14, 15, 92]])
CHANGED = torch.tensor([[3, 14, 15, 93]])
SMALL = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen2() -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "gpt2", "llama", "qwen2"])
def test_an_autoregressive_decoder_becomes_bidirectional_and_keeps_its_class(
    tiny: Any, tmp_path: Path, family: str, implementation: str
) -> None:
    build: dict[str, Callable[[], Any]] = {"qwen3": tiny.qwen3, "gpt2": tiny.gpt2, "llama": llama, "qwen2": qwen2}
    source = build[family]()
    source.save_pretrained(tmp_path)
    causal = source.eval()
    assert torch.equal(causal(IDS).logits[0, 0], causal(CHANGED).logits[0, 0])

    model = load_model(tmp_path, attn_implementation=implementation, mask_token_id=199)
    assert type(model) is type(source)
    assert not model.training
    assert (model.config.is_causal, model.config.use_cache, model.config.mask_token_id) == (False, False, 199)
    assert not torch.equal(model(IDS).logits[0, 0], model(CHANGED).logits[0, 0])

    model.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", attn_implementation=implementation)
    assert (again.config.is_causal, again.config.mask_token_id) == (False, 199)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=0, rtol=0)


def test_a_converted_folder_gives_our_class_in_its_saved_dtype(tiny: Any, tmp_path: Path) -> None:
    tiny.llada().to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert type(model) is Qwen3LLadaForMaskedLM
    assert model.dtype == torch.bfloat16
    assert model.config.mask_token_id == 199
    assert load_model(tmp_path, dtype="float32").dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_proof_holds_in_every_dtype_at_the_usual_small_initialisation(tiny: Any, dtype: torch.dtype) -> None:
    prove_bidirectional(tiny.llada(initializer_range=0.02).to(dtype))


def test_the_proof_leaves_training_mode_gradients_and_hooks_alone(tiny: Any) -> None:
    model = tiny.llada().train()
    prove_bidirectional(model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks
    assert not model.lm_head._forward_hooks


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_causal_model_fails_the_proof(tiny: Any, implementation: str) -> None:
    model = tiny.qwen3()
    model.set_attn_implementation(implementation)
    with pytest.raises(ModelError, match="not bidirectional"):
        prove_bidirectional(model)


def test_switching_the_modules_instead_of_the_configuration_fails_the_proof_on_eager(tiny: Any) -> None:
    model = tiny.qwen3()
    model.set_attn_implementation("eager")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ModelError, match="not bidirectional"):
        prove_bidirectional(model)


def test_a_model_that_sees_padding_fails_the_proof(tiny: Any) -> None:
    model = tiny.llada()

    def drop_mask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None}

    model.model.register_forward_pre_hook(drop_mask, with_kwargs=True)
    with pytest.raises(ModelError, match="see padding on the left"):
        prove_bidirectional(model)


def test_a_model_with_weights_that_are_not_finite_fails_the_proof(tiny: Any) -> None:
    model = tiny.llada()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        prove_bidirectional(model)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Gemma2ForCausalLM(
            Gemma2Config(**SMALL, head_dim=8, max_position_embeddings=64, final_logit_softcapping=30.0)
        ),
        lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=2.0)),
    ],
    ids=["capped", "scaled"],
)
def test_families_that_cap_or_scale_their_logits_are_refused(build: Callable[[], Any], tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="scales, caps or transforms"):
        load_model(tmp_path, attn_implementation="eager")


@pytest.mark.parametrize(("window", "accepted"), [(16, False), (None, True), (64, True)])
def test_layers_that_look_at_a_window_are_refused(tmp_path: Path, window: int | None, accepted: bool) -> None:
    config = MistralConfig(**SMALL, sliding_window=window, max_position_embeddings=64)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    if accepted:
        assert load_model(tmp_path).config.is_causal is False
    else:
        with pytest.raises(ModelError, match="window of 16 tokens"):
            load_model(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_model(tmp_path)


def test_an_encoder_with_a_transforming_head_is_refused(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    BertLMHeadModel(BertConfig(**sizes, is_decoder=True)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertLMHeadModel"):
        load_model(tmp_path)


def test_a_family_without_sdpa_names_the_way_out(tmp_path: Path) -> None:
    Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, max_position_embeddings=64)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="set attn_implementation to eager"):
        load_model(tmp_path, attn_implementation="sdpa")


def test_a_model_with_flex_attention_is_proven_and_attends_with_it(tiny: Any, tmp_path: Path) -> None:
    """Whose derivative, which the proof takes, torch does not have on the CPU."""
    tiny.llada().save_pretrained(tmp_path)
    assert load_model(tmp_path, attn_implementation="flex_attention").config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("mask_token_id", [-1, 200])
def test_a_mask_id_outside_the_vocabulary_is_refused(tiny: Any, tmp_path: Path, mask_token_id: int) -> None:
    tiny.qwen3().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"{mask_token_id} is outside the vocabulary.*0 to 199"):
        load_model(tmp_path, mask_token_id=mask_token_id)


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such", "a/b/c", ""])
def test_a_missing_folder_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_model, load_tokenizer):  # "runs/mine" looks like a name on the hub, and was meant as a folder
        with pytest.raises(ModelError, match="nobody/nothing: no such folder, and from the hub: ") as caught:
            load("nobody/nothing")
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)


def test_pickled_weights_are_never_read(tiny: Any, tmp_path: Path) -> None:
    model = tiny.qwen3()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "torn"])
def test_weights_that_do_not_fit_the_configuration_are_refused(tiny: Any, tmp_path: Path, fault: str) -> None:
    tiny.qwen3().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if fault == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif fault == "unexpected":
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(3)
    elif fault == "shape":
        tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, file, metadata={"format": "pt"})
    if fault == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tied_checkpoint_that_also_stores_its_head_loads(tiny: Any, tmp_path: Path) -> None:
    model = tiny.qwen3(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = load_model(tmp_path)
    assert type(loaded) is Qwen3ForCausalLM
    parts = split(loaded)
    assert parts.head.weight is parts.body.embed_tokens.weight


def test_loading_is_silent(tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.qwen3().save_pretrained(tmp_path)
    capfd.readouterr()
    load_model(tmp_path)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_the_parts_share_their_parameters_and_give_the_logits(tiny: Any) -> None:
    for model in (tiny.llada(), tiny.gpt2(), tiny.qwen3()):
        parts = split(model)
        hidden = parts.body(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(parts.head(hidden), model(IDS).logits)
        assert {id(p) for p in parts.body.parameters()} <= {id(p) for p in model.parameters()}


def test_a_model_without_a_head_has_no_parts(tiny: Any) -> None:
    with pytest.raises(ModelError, match="no head"):
        split(tiny.llada().model)


def test_transformers_itself_reads_what_loading_saved(tiny: Any, tmp_path: Path) -> None:
    tiny.qwen3().save_pretrained(tmp_path)
    load_model(tmp_path).save_pretrained(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert not torch.equal(model(IDS).logits[0, 0], model(CHANGED).logits[0, 0])
