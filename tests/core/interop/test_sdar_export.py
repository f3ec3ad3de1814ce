"""``dlm export --format sdar``: the folder means to a reader of SDAR's layout what ours means to us."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

import dlm
from dlm.errors import ModelError
from dlm.interop.sdar import export_sdar
from dlm_cli.main import cli

from .conftest import END, MASK, TURN_END
from .forward import block_causal, logits_of, stored

EVERY_KEY: dict[str, Any] = {
    "architectures": ["SDARForCausalLM"],
    "model_type": "sdar",
    "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "block_size": 4,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
    "fuse_cross_entropy": False,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 16,
    "initializer_range": 0.4,
    "intermediate_size": 24,
    "mask_token_id": MASK,
    "max_position_embeddings": 64,
    "max_window_layers": 28,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def sdar_logits(folder: Path, ids: Tensor, **changes: Any) -> Tensor:
    """What a reader computes that knows nothing but SDAR's keys and names."""
    config = json.loads((folder / "config.json").read_text()) | changes
    return logits_of(
        stored(folder),
        ids,
        block_causal(len(ids), config["block_size"]),
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        eps=config["rms_norm_eps"],
        theta=config["rope_theta"],
    )


@torch.no_grad()
def our_logits(folder: Path, ids: Tensor, block: int = 4) -> Tensor:
    model = dlm.load(folder, dtype="float64")
    bias = torch.zeros(len(ids), len(ids), dtype=torch.float64).masked_fill(~block_causal(len(ids), block), -torch.inf)
    logits: Tensor = model(input_ids=ids[None], attention_bias=bias[None, None]).logits[0]
    return logits


def test_every_key_of_the_configuration(trained: Callable[..., Path], tmp_path: Path) -> None:
    export_sdar(trained(), tmp_path / "sdar")
    assert json.loads((tmp_path / "sdar" / "config.json").read_text()) == EVERY_KEY


@pytest.mark.parametrize("tied", [True, False])
def test_a_reader_of_sdar_computes_our_logits(trained: Callable[..., Path], tmp_path: Path, tied: bool) -> None:
    final, folder = trained(tie_word_embeddings=tied), tmp_path / "sdar"
    export_sdar(final, folder)
    ids = torch.tensor([3, 14, 15, 92, MASK, 6, MASK, MASK, 35, 8])
    ours, theirs = our_logits(final, ids), sdar_logits(folder, ids)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))
    # The trap of this layout: the default of its readers loads without a word.
    assert (ours - sdar_logits(folder, ids, rope_theta=10000.0)).abs().max() > 0.05 * ours.abs().max()
    first, second = load_file(final / "model.safetensors"), load_file(folder / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prompt", [[5, 6, 7, 8], [5, 6, 7, 8, 9, 10]], ids=["aligned", "straddling"])
def test_a_decoder_of_sdar_writes_our_tokens(trained: Callable[..., Path], tmp_path: Path, prompt: list[int]) -> None:
    final, folder = trained(), tmp_path / "sdar"
    export_sdar(final, folder)
    ids = torch.tensor(prompt + [MASK] * (16 - len(prompt)))
    for start in range(0, 16, 4):
        while bool((ids[start : start + 4] == MASK).any()):
            logits = sdar_logits(folder, ids[: start + 4])[start:]
            logits[:, MASK] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            best = confidence.where(ids[start : start + 4] == MASK, -1).argmax()
            ids[start + best] = token[best]
    model = dlm.load(final, dtype="float64")
    settings: dict[str, Any] = {"gen_length": 16 - len(prompt), "eos": "free"}
    assert dlm.generate(model, torch.tensor([prompt]), **settings).sequences[0].tolist() == ids.tolist()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias": ({"attention_bias_component": {"name": "builtin:block"}}, "bias: block_causal"),
    "no bias": ({"attention_bias_component": None}, "bias: block_causal"),
    "foreign bias": ({"attention_bias_component": {"name": "acme:block_causal"}}, "bias is acme:block_causal"),
    "origin": ({"block_origin": None}, "training.block_attention.origin: document"),
    "shift": ({"logit_shift": True}, "model.logit_shift"),
    "mask id": ({"mask_token_id": 99}, "its mask id is 99, the engines take 151669"),
    "block length": ({"block_length": None}, "training.block_attention.block_length"),
    "noise": ({"noise_shows_mask": False}, "noise_type: mask"),
    "rope": (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        "rope_parameters.rope_type is linear",
    ),
    "projection bias": ({"attention_bias": True}, "attention_bias is true"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is gelu"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_mean_the_same_is_refused(
    trained: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match="SDAR would not mean the same") as refused:
        export_sdar(trained(**changes), tmp_path / "sdar")
    assert reason in str(refused.value)
    assert not (tmp_path / "sdar").exists()


def test_all_obstacles_are_named_at_once(trained: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"logit_shift.*mask id is 7"):
        export_sdar(trained(logit_shift=True, mask_token_id=7), tmp_path / "sdar")


def test_adapters_are_to_be_merged_first(trained: Callable[..., Path], tmp_path: Path) -> None:
    final = trained()
    (final / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="dlm merge"):
        export_sdar(final, tmp_path / "sdar")


def test_what_engines_read_besides(trained: Callable[..., Path], tmp_path: Path) -> None:
    final, folder = trained(), tmp_path / "sdar"
    (final / "LICENSE").write_text("as the base")
    (final / "LICENSES").mkdir()
    export_sdar(final, folder)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": None,
        "eos_token_id": [END, TURN_END],
        "pad_token_id": END,
    }
    assert (folder / "LICENSE").read_text() == "as the base"
    assert (folder / "LICENSES").is_dir()
    assert (folder / "sglang_low_confidence.yaml").read_text() == "threshold: 0.9\nblock_size: 4\n"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    read = (config.rope_theta, config.rope_parameters["rope_theta"], config.block_size, config.mask_token_id)
    assert read == (500000.0, 500000.0, 4, MASK)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id) == (MASK, END)
    assert tokenizer("w3 <|im_end|> <|mask|>")["input_ids"] == [3, TURN_END, MASK]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings.keys().isdisjoint({"extra_special_tokens", "is_local", "local_files_only"})


def test_the_command_prints_how_to_serve_it(trained: Callable[..., Path], tmp_path: Path) -> None:
    final, folder = trained(prompt_rendering="plain"), tmp_path / "to serve"
    result = CliRunner().invoke(cli, ["export", "--src", str(final), "--dst", str(folder), "--format", "sdar"])
    assert result.exit_code == 0, result.output
    for expected in (
        f"sglang.launch_server --model-path '{folder}' ",
        f"--dllm-algorithm-config '{folder}/sglang_low_confidence.yaml'",
        f"lmdeploy serve api_server '{folder}' ",
        "--dllm-block-length 4 ",
        "id 151669",
        "/v1/completions",
    ):
        assert expected in result.output
