import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from dlm.errors import ModelError
from dlm_cli.main import cli


@pytest.fixture
def qwen3(tmp_path: Path) -> Path:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=80, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, **sizes)
    folder = tmp_path / "qwen3"
    Qwen3ForCausalLM(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({f"w{index}": index for index in range(70)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0").save_pretrained(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_convert_reports_what_it_did_and_analyze_agrees(qwen3: Path, tmp_path: Path) -> None:
    converted = str(tmp_path / "converted")
    result = run("convert", "--src", str(qwen3), "--dst", converted)
    assert result.exit_code == 0, result.output
    for expected in ("Qwen3LLadaForMaskedLM", "<|mask|> = id 70 (added)", "80 rows, not resized", converted):
        assert expected in result.output
    assert run("analyze", str(qwen3), converted).exit_code == 0


def test_convert_takes_another_mask_token(qwen3: Path, tmp_path: Path) -> None:
    result = run("convert", "--src", str(qwen3), "--dst", str(tmp_path / "c"), "--mask-token", "w5")
    assert "w5 = id 5 (already in the tokenizer)" in result.output


def test_convert_refuses_a_folder_that_is_not_empty_with_exit_code_two(qwen3: Path) -> None:
    result = run("convert", "--src", str(qwen3), "--dst", str(qwen3))
    assert isinstance(result.exception, ModelError)
    assert result.exception.exit_code == 2
    assert "not empty" in str(result.exception)


def test_convert_without_its_options_is_a_usage_error() -> None:
    result = run("convert", "--src", "x")
    assert result.exit_code == 2
    assert "--dst" in result.output


def test_help_shows_an_example() -> None:
    result = run("convert", "--help")
    assert result.exit_code == 0
    assert "dlm convert --src Qwen/Qwen3-0.6B-Base --dst" in result.output


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_padding_id_outside_the_vocabulary_does_not_stop_a_conversion(qwen3: Path, tmp_path: Path) -> None:
    change_config(qwen3, pad_token_id=9999)
    result = run("convert", "--src", str(qwen3), "--dst", str(tmp_path / "c"))
    assert result.exit_code == 0, result.output


def test_a_quantised_checkpoint_is_refused_with_exit_code_two(qwen3: Path, tmp_path: Path) -> None:
    change_config(qwen3, quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})
    result = run("convert", "--src", str(qwen3), "--dst", str(tmp_path / "c"))
    assert isinstance(result.exception, ModelError)
    assert result.exception.exit_code == 2
    assert "the checkpoint is quantised (fp8)" in str(result.exception)


def test_the_declared_mask_token_is_kept_and_a_replacement_is_said(
    qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(qwen3)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(qwen3)
    result = run("convert", "--src", str(qwen3), "--dst", str(tmp_path / "kept"))
    assert "[MASK] = id 70 (already in the tokenizer)" in result.output
    assert not caplog.records
    run("convert", "--src", str(qwen3), "--dst", str(tmp_path / "replaced"), "--mask-token", "<|mask|>")
    assert "<|mask|> replaces [MASK]" in caplog.text
