import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from dlm.errors import ModelError
from dlm.interop.convert import convert
from dlm.model.load_model import load_model
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM
from dlm.sampling import complete_texts
from dlm.sampling.arguments import settings_of

Write = Callable[..., Path]
IDS = torch.tensor([[3, 14, 15, 92]])
CHANGED = torch.tensor([[3, 14, 15, 93]])


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first.view(torch.uint8), second.view(torch.uint8))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qwen3_becomes_our_class_with_the_same_bits(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, tied: bool, dtype: torch.dtype
) -> None:
    source = write_checkpoint(tiny.qwen3(tie_word_embeddings=tied, attention_bias=True).to(dtype))
    report = convert(source, tmp_path / "converted")
    assert report.model_class == "Qwen3LLadaForMaskedLM"
    assert (report.mask_token, report.mask_token_id, report.mask_token_added) == ("<|mask|>", 150, True)
    assert (report.num_rows_before, report.num_rows_after) == (200, 200)
    before, after = stored(source), stored(tmp_path / "converted")
    assert before.keys() == after.keys()
    assert len(before) == report.num_tensors
    assert all(same_bits(before[name], after[name]) for name in before)

    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").eval()
    assert type(model) is Qwen3LLadaForMaskedLM
    assert model.dtype == dtype
    assert report.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (model.config.mask_token, model.config.mask_token_id) == ("<|mask|>", 150)
    assert (model.config.is_causal, model.config.use_cache) == (False, False)
    assert model.config.attention_bias is True
    assert not torch.equal(model(IDS).logits[0, 0], model(CHANGED).logits[0, 0])
    assert AutoTokenizer.from_pretrained(tmp_path / "converted").mask_token_id == 150
    assert not list(tmp_path.glob(".*"))


def test_the_converted_model_computes_what_the_parent_does_without_causality(
    tiny: Any, write_checkpoint: Write, tmp_path: Path
) -> None:
    parent = tiny.qwen3(rope_parameters={"rope_type": "default", "rope_theta": 300.0})
    convert(write_checkpoint(parent), tmp_path / "converted")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").eval()
    torch.testing.assert_close(model(IDS).logits, parent(IDS, is_causal=False).logits, atol=0, rtol=0)


def test_shards_and_their_index_are_kept(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3(), max_shard_size="30KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    convert(source, tmp_path / "converted")
    before, after = stored(source), stored(tmp_path / "converted")
    assert all(same_bits(before[name], after[name]) for name in before)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").config.model_type == "qwen3llada"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_size", ["30KB", "5GB"])
def test_a_full_embedding_grows_by_one_row_and_everything_else_keeps_its_bits(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, tied: bool, shard_size: str
) -> None:
    model = tiny.qwen3(tie_word_embeddings=tied).to(torch.bfloat16)
    source = write_checkpoint(model, num_ids=200, max_shard_size=shard_size)
    report = convert(source, tmp_path / "converted")
    assert (report.mask_token_id, report.num_rows_before, report.num_rows_after) == (200, 200, 201)
    before, after = stored(source), stored(tmp_path / "converted")
    grown = {name for name in before if before[name].shape != after[name].shape}
    assert grown == ({"model.embed_tokens.weight"} if tied else {"model.embed_tokens.weight", "lm_head.weight"})
    assert all(same_bits(before[name], after[name][: len(before[name])]) for name in before)
    converted = AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").eval()
    assert converted.config.vocab_size == 201
    assert converted(torch.tensor([[3, 200]])).logits.isfinite().all()
    index = tmp_path / "converted" / "model.safetensors.index.json"
    if index.is_file():
        total = sum(tensor.nbytes for tensor in after.values())
        assert json.loads(index.read_text())["metadata"]["total_size"] == total


@pytest.mark.parametrize("num_ids", [150, 200])
def test_another_decoder_keeps_its_class_and_says_that_it_is_bidirectional(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, num_ids: int
) -> None:
    source = write_checkpoint(tiny.gpt2(), num_ids=num_ids)
    report = convert(source, tmp_path / "converted")
    assert report.model_class == "GPT2LMHeadModel"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted").eval()
    assert model.config.is_causal is False
    assert (model.config.mask_token_id, model.config.mask_token) == (num_ids, "<|mask|>")
    assert not torch.equal(model(IDS).logits[0, 0], model(CHANGED).logits[0, 0])


def test_a_body_that_was_saved_without_its_prefix_can_grow(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.gpt2(), num_ids=200)
    file = source / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    report = convert(source, tmp_path / "converted")
    assert report.num_rows_after == 201
    assert stored(tmp_path / "converted")["wte.weight"].shape == (201, 32)


def test_a_token_that_the_tokenizer_has_is_reused(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    report = convert(write_checkpoint(tiny.qwen3()), tmp_path / "converted", mask_token="w9")
    assert (report.mask_token_id, report.mask_token_added) == (9, False)


def test_the_mask_token_that_the_tokenizer_declares_is_kept(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_checkpoint(tiny.qwen3())
    tiny.tokenizer(150, mask_token="[MASK]").save_pretrained(source)
    report = convert(source, tmp_path / "converted")
    assert (report.mask_token, report.mask_token_id, report.mask_token_added) == ("[MASK]", 150, False)
    assert AutoTokenizer.from_pretrained(tmp_path / "converted").mask_token == "[MASK]"
    assert not caplog.records
    convert(tmp_path / "converted", tmp_path / "again", mask_token="<|mask|>")
    assert "<|mask|> replaces [MASK]" in caplog.text
    assert "mask_token_id: 151 replaces 150" in caplog.text


def test_converting_what_was_converted_gives_the_same_again(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    first = convert(write_checkpoint(tiny.qwen3()), tmp_path / "first")
    second = convert(tmp_path / "first", tmp_path / "second")
    assert (second.mask_token_id, second.mask_token_added) == (first.mask_token_id, False)
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in names)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_ends_of_text_that_only_the_generation_config_names_end_texts(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, family: str
) -> None:
    source = write_checkpoint(getattr(tiny, family)())
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**settings, "eos_token_id": 1}))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    convert(source, tmp_path / "before")
    prompt, wanted = ["w5 w6"], settings_of({"gen_length": 8, "eos": "stop"})
    folders, tokenizer = (tmp_path / "before", tmp_path / "after"), AutoTokenizer.from_pretrained(tmp_path / "before")
    (free,) = complete_texts(load_model(folders[0]), tokenizer, prompt, wanted)
    end = free.ids[3]
    assert 1 not in free.ids
    # Beside the known ones: what the vocabulary does not have, or is no id.
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 1, 200, -1, None, "x", True]}))
    convert(source, folders[1])
    assert [json.loads((each / "config.json").read_text())["eos_token_id"] for each in folders] == [1, [1, end]]
    (found,) = complete_texts(load_model(folders[1]), tokenizer, prompt, wanted)
    assert found.text == tokenizer.decode(free.ids[: free.ids.index(end)])
    # A run may begin with the source as it is.
    assert load_model(source).config.eos_token_id == [1, end]


@pytest.mark.parametrize("said", ["{", "[]", "{}", '{"eos_token_id": null}'])
def test_a_generation_config_without_ends_of_text_changes_nothing(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, said: str
) -> None:
    source = write_checkpoint(tiny.qwen3(eos_token_id=1))
    (source / "generation_config.json").write_text(said)
    if said == "{":
        with pytest.raises(ModelError, match=r"generation_config\.json: not readable: .*; mend it, or remove it"):
            convert(source, tmp_path / "converted")
        return
    convert(source, tmp_path / "converted")
    assert json.loads((tmp_path / "converted" / "config.json").read_text())["eos_token_id"] == 1


def test_the_notices_of_the_source_are_carried_along(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3())
    (source / "LICENSE").write_text("terms")
    (source / "LICENSES").mkdir()
    (source / "LICENSES" / "MIT.txt").write_text("more terms")
    convert(source, tmp_path / "converted")
    assert (tmp_path / "converted" / "LICENSE").read_text() == "terms"
    assert (tmp_path / "converted" / "LICENSES" / "MIT.txt").read_text() == "more terms"


def test_an_empty_destination_is_used_and_parents_are_made(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3())
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")
    convert(source, tmp_path / "new" / "deep")
    assert (tmp_path / "empty" / "config.json").is_file()
    assert (tmp_path / "new" / "deep" / "config.json").is_file()


def test_a_destination_that_holds_something_is_left_alone(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3())
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(ModelError, match="not empty"):
        convert(source, source)
    assert sorted(path.name for path in source.iterdir()) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelError, match="a file of that name"):
        convert(source, tmp_path / "file")


@pytest.mark.parametrize("destination", [".", "link", "dangling"])
def test_a_destination_that_no_new_folder_can_replace_is_refused_at_once(
    destination: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "empty" if destination == "." else tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"current folder|symbolic link"):
        convert("a/source/that/is/not/there", destination)
    assert sorted(tmp_path.iterdir()) == before


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    # Mounting takes root; what the system says of such a folder is all that is needed.
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "out")
    with pytest.raises(ModelError, match=r"out: a mount point.*name a new one inside it"):
        convert("a/source/that/is/not/there", tmp_path / "out")


def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritable(
    tiny: Any, write_checkpoint: Write, tmp_path: Path
) -> None:
    source = write_checkpoint(tiny.qwen3())
    (source / "LICENSE").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"^\S*/LICENSE: cannot be read: No such file"):
        convert(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_disk_that_is_full_is_no_traceback(tiny: Any, write_checkpoint: Write, tmp_path: Path) -> None:
    source = write_checkpoint(tiny.qwen3(), num_ids=200)  # the embedding grows, so that the weights are written anew
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ModelError, match=r"converted: cannot be written: .*File too large"):
            convert(source, tmp_path / "converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("fault", ["no tokenizer", "no config", "pickled", "torn", "missing tensor", "absent"])
def test_a_source_that_cannot_be_converted_leaves_nothing_behind(
    tiny: Any, write_checkpoint: Write, tmp_path: Path, fault: str
) -> None:
    source = write_checkpoint(tiny.qwen3())
    weights = source / "model.safetensors"
    if fault == "no tokenizer":
        for file in source.glob("tokenizer*"):
            file.unlink()
    elif fault == "no config":
        (source / "config.json").unlink()
    elif fault == "pickled":
        torch.save(load_file(weights), source / "pytorch_model.bin")
        weights.unlink()
    elif fault == "torn":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif fault == "missing tensor":
        tensors = load_file(weights)
        del tensors["model.norm.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    else:
        source = tmp_path / "absent"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "converted")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
