"""``import dlm``: what is public, what it registers, and that each function does its work on a tiny model."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Unpack

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

import dlm
from dlm.config.sampling_settings import SamplingArguments

PUBLIC = {
    "ConversionReport",
    "GenerateOutput",
    "LogLikelihood",
    "Perplexity",
    "Qwen3LLadaConfig",
    "Qwen3LLadaForMaskedLM",
    "Qwen3LLadaModel",
    "RunResult",
    "convert",
    "generate",
    "iter_generate",
    "load",
    "log_likelihood",
    "perplexity",
    "run",
}

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
}


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoregressive Qwen3, converted."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    report = dlm.convert(tiny.checkpoint, folder)
    assert isinstance(report, dlm.ConversionReport)
    assert report.destination == str(folder)
    return folder


def test_the_public_names_are_these() -> None:
    assert set(dlm.__all__) == PUBLIC
    assert all(getattr(dlm, name).__doc__ for name in PUBLIC)
    assert dlm.__all__ == sorted(dlm.__all__)


def parameters(function: object) -> dict[str, object]:
    assert callable(function)
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def test_generate_takes_the_settings_of_the_run_file_by_keyword() -> None:
    assert parameters(dlm.generate) == parameters(dlm.iter_generate)
    signature = inspect.signature(dlm.generate)
    assert list(signature.parameters) == ["model", "input_ids", "attention_mask", "row_keys", "settings"]
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in list(signature.parameters.values())[2:-1])
    assert signature.parameters["settings"].annotation == Unpack[SamplingArguments]


def test_importing_registers_the_model_type_with_the_auto_classes(tmp_path: Path) -> None:
    config = dlm.Qwen3LLadaConfig(**TINY, mask_token_id=49)
    assert (config.model_type, config.is_causal, config.use_cache) == ("qwen3llada", False, False)
    model = dlm.Qwen3LLadaForMaskedLM(config)
    model.save_pretrained(tmp_path)

    code = (
        "import sys, dlm\n"
        "from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM\n"
        "for auto in (AutoConfig, AutoModel, AutoModelForMaskedLM):\n"
        "    print(type(auto.from_pretrained(sys.argv[1])).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Qwen3LLadaConfig", "Qwen3LLadaModel", "Qwen3LLadaForMaskedLM"], done.stderr

    assert AutoConfig.from_pretrained(tmp_path).mask_token_id == 49
    assert isinstance(AutoModel.from_pretrained(tmp_path), dlm.Qwen3LLadaModel)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(again, dlm.Qwen3LLadaForMaskedLM)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_load_makes_any_decoder_see_both_ways(tiny, converted: Path) -> None:
    parent, ours = dlm.load(tiny.checkpoint), dlm.load(converted)
    assert (type(parent).__name__, type(ours).__name__) == ("Qwen3ForCausalLM", "Qwen3LLadaForMaskedLM")
    ids = torch.tensor([[5, 6, 7, 8]])
    changed = torch.tensor([[5, 6, 7, 9]])
    for model in (parent, ours):
        with torch.no_grad():
            first, second = model(input_ids=ids).logits[0, 0], model(input_ids=changed).logits[0, 0]
        assert not torch.equal(first, second)
    with torch.no_grad():
        torch.testing.assert_close(parent(input_ids=ids).logits, ours(input_ids=ids).logits, rtol=0, atol=0)


def test_generate_and_iter_generate_fill_the_same_canvas(converted: Path) -> None:
    model, tokenizer = dlm.load(converted), AutoTokenizer.from_pretrained(converted)
    prompt = torch.tensor([tokenizer.encode("The value")])
    options = {"gen_length": 8, "steps": 8, "block_length": 4, "temperature": 0.7, "seed": 3}
    output = dlm.generate(model, prompt, **options)
    length = prompt.shape[1]
    assert isinstance(output, dlm.GenerateOutput)
    assert output.sequences.shape == output.committed_step.shape == output.log_probabilities.shape == (1, length + 8)
    assert torch.equal(output.sequences[:, :length], prompt)
    assert model.config.mask_token_id not in output.sequences
    assert sorted(output.committed_step[0, length:].tolist()) == list(range(8))
    assert (output.committed_step[0, :length] == -1).all()

    states = list(dlm.iter_generate(model, prompt, **options))
    assert [int(state.masked.sum()) for state in states] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert torch.equal(states[-1].sequences, output.sequences)


def test_masks_in_the_prompt_are_filled_in(converted: Path) -> None:
    model = dlm.load(converted)
    mask = model.config.mask_token_id
    ids = torch.tensor([[5, mask, 7, mask, mask]])
    filled = dlm.generate(model, ids, gen_length=0, steps=3).sequences
    assert mask not in filled
    assert filled[0, [0, 2]].tolist() == [5, 7]


def test_run_returns_where_it_ended(tiny, tmp_path: Path) -> None:
    text = f"""
model: {{name_or_path: {tiny.checkpoint}}}
training: {{output_dir: {tmp_path / "out"}, max_steps: 1, batch_size: 2}}
dataset: {{name: {tiny.texts}, max_length: 16}}
evaluation: {{do_eval_loss: false}}
"""
    (tmp_path / "run.yaml").write_text(text)
    result = dlm.run(tmp_path / "run.yaml")
    assert isinstance(result, dlm.RunResult)
    assert (result.final_step, result.output_dir) == (1, tmp_path / "out")
    assert dlm.load(result.output_dir / "final").config.is_causal is False


def test_the_package_is_a_command_and_says_its_version() -> None:
    done = subprocess.run([sys.executable, "-m", "dlm", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert "dlm run configs/pretrain.yaml" in done.stdout
    from importlib.metadata import version

    assert dlm.__version__ == version("dlm")
