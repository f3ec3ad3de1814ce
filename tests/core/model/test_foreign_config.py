"""Configurations that others wrote, or damaged: used, or refused in one line that names the key."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dlm.errors import ModelError
from dlm.interop.convert import convert
from dlm.model.from_scratch import model_from_config
from dlm.model.load_model import load_model

Write = Callable[..., Path]
NUM_MUTATIONS = 30
"""Of each family. A mutation takes a tenth of a second."""

ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 7.5, "wide", "", [], [3], {}, {"x": 1}, 10**5, 10**9, 10**18, float("nan"), 1e300,
]  # fmt: skip


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def refusal(call: Callable[[], Any]) -> str | None:
    """The message with which it is refused, None if it works; anything but a ModelError passes through."""
    try:
        call()
    except ModelError as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message
    return message


def mutations(config: dict[str, Any], seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    draw = random.Random(seed)
    for _ in range(NUM_MUTATIONS):
        key = draw.choice(sorted(config))
        changed = dict(config)
        if draw.random() < 0.2:
            del changed[key]
        else:
            changed[key] = draw.choice(ODD_VALUES)
        yield key, changed


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "llada"])
def test_no_damaged_configuration_is_a_traceback(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, family: str
) -> None:
    source = write_checkpoint(getattr(tiny, family)())
    path = source / "config.json"
    whole = json.loads(path.read_text())
    refused = 0
    for number, (key, changed) in enumerate(mutations(whole, seed=len(family))):
        path.write_text(json.dumps(changed))
        messages = {
            refusal(lambda: load_model(source)) or "",
            refusal(lambda: convert(source, tmp_path / "converted")) or "",
        }
        shutil.rmtree(tmp_path / "converted", ignore_errors=True)
        for message in messages - {""}:
            refused += 1
            named = any(name in message for name in (key, *whole, "the weights do not fit config.json"))
            assert named, (number, changed.get(key))
    assert refused > NUM_MUTATIONS / 5
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{", "{}", '{"model_type": 5}', '{"model_type": ["qwen3"]}'])
def test_what_is_no_configuration_at_all_is_refused(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, text: str
) -> None:
    source = write_checkpoint(tiny.qwen3())
    (source / "config.json").write_text(text)
    for call in (lambda: load_model(source), lambda: convert(source, tmp_path / "c")):
        message = refusal(call)
        assert message is not None
        assert "config.json" in message


UNKNOWN_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "quen3"}, "model_type 'quen3' is unknown to transformers {version}; did you mean 'qwen3'?"),
    ({"model_type": "of-tomorrow"}, "is unknown to transformers {version}; a newer one may know it"),
    (
        {"model_type": "of-tomorrow", "auto_map": {"AutoConfig": "configuration_x.Config"}},
        "code of its own (auto_map), which runs only where you allow it; read it, then give --trust-remote-code",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), UNKNOWN_TYPES)
def test_a_type_of_model_without_code_is_refused_in_our_words(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    source = change_config(write_checkpoint(tiny.qwen3()), **changes)
    for call in (lambda: load_model(source), lambda: convert(source, tmp_path / "converted")):
        message = refusal(call)
        assert message is not None
        assert message.endswith(expected.format(version=transformers.__version__)), message


def test_a_padding_id_outside_the_vocabulary_is_not_used_and_said(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = change_config(write_checkpoint(tiny.qwen3()), pad_token_id=9999)
    assert load_model(source).config.pad_token_id is None
    assert "pad_token_id 9999 is not in the vocabulary (0 to 199)" in caplog.text
    convert(source, tmp_path / "converted")
    assert json.loads((tmp_path / "converted" / "config.json").read_text())["pad_token_id"] is None


@pytest.mark.parametrize("key", ["num_attention_heads", "num_hidden_layers", "hidden_act", "intermediate_size"])
def test_the_key_is_named_from_scratch_too(key: str) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    bad = {"num_attention_heads": 0, "num_hidden_layers": 10**9, "hidden_act": "none", "intermediate_size": -4}
    mapping = {"model_type": "llama", **sizes, key: bad[key]}
    with pytest.raises(ModelError, match=key):
        model_from_config(mapping, vocab_size=60, mask_token_id=59)


QUANTISED: dict[str, dict[str, Any]] = {
    "fp8": {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "bitsandbytes": {"quantization_config": {"load_in_4bit": True}},
    "compressed-tensors": {"compression_config": {"quant_method": "compressed-tensors"}},
    "mxfp4": {"text_config": {"quantization_config": {"quant_method": "mxfp4"}}},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_base_is_refused_at_convert_with_what_to_do(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, method: str
) -> None:
    source = change_config(write_checkpoint(tiny.qwen3()), **QUANTISED[method])
    for call in (lambda: load_model(source), lambda: convert(source, tmp_path / "converted")):
        message = refusal(call)
        assert message is not None
        assert f"quantised ({method})" in message
        assert "take the checkpoint it was made from" in message
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("trace", ["float8", "scales", "side file"])
def test_quantised_weights_are_recognised_where_the_configuration_is_silent(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, trace: str
) -> None:
    source = write_checkpoint(tiny.qwen3())
    file = source / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    if trace == "float8":
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    elif trace == "scales":
        tensors[name.replace("weight", "scales")] = torch.ones(3)
    else:
        (source / "quantize_config.json").write_text('{"bits": 4}')
    save_file(tensors, file, metadata={"format": "pt"})
    for call in (lambda: load_model(source), lambda: convert(source, tmp_path / "converted")):
        assert "quantised" in str(refusal(call))


def test_two_sets_of_weights_in_one_folder_are_refused_by_everyone(
    tiny: Any, write_checkpoint: Write, tmp_path: Path
) -> None:
    source = write_checkpoint(tiny.qwen3(seed=1), max_shard_size="30KB")
    single = write_checkpoint(tiny.qwen3(seed=2), name="single") / "model.safetensors"
    shutil.copy(single, source)
    for call in (lambda: load_model(source), lambda: convert(source, tmp_path / "converted")):
        message = refusal(call)
        assert message is not None
        assert "holds two sets of weights, model.safetensors and what model.safetensors.index.json names" in message


def test_an_index_of_the_single_file_is_one_set_of_weights(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3())
    names = load_file(source / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(source, tmp_path / "converted")
    before, after = load_model(source), load_model(tmp_path / "converted")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
