import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dlm.errors import ModelError
from dlm.model import analyze as module
from dlm.model.analyze import Status, analyze


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def statuses(a: Path, b: Path) -> dict[str, Status]:
    return {tensor.name: tensor.status for tensor in analyze(a, b).tensors}


def test_every_kind_of_difference_is_named(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    a = write(tmp_path / "a.safetensors", {"same": base, "value": base, "type": base, "shape": base, "mine": base})
    changed = base.clone()
    changed[1, 2] += 0.5
    changed[2, 0] -= 0.25
    other = {"same": base, "value": changed, "type": base.bfloat16(), "shape": base.T.contiguous(), "yours": base + 1}
    b = write(tmp_path / "b.safetensors", other)
    comparison = analyze(a, b)
    assert not comparison.same
    found = {tensor.name: tensor for tensor in comparison.tensors}
    assert list(found) == sorted(found)
    assert {name: tensor.status for name, tensor in found.items()} == {
        "same": Status.EQUAL,
        "value": Status.VALUES,
        "type": Status.DTYPE,
        "shape": Status.SHAPE,
        "mine": Status.ONLY_A,
        "yours": Status.ONLY_B,
    }
    assert (found["value"].max_abs_difference, found["value"].num_different) == (0.5, 2)
    assert (found["type"].dtype_a, found["type"].dtype_b, found["type"].num_different) == ("F32", "BF16", 0)
    assert (found["shape"].shape_a, found["shape"].shape_b) == ((3, 4), (4, 3))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 5),
    chunk=st.integers(1, 12),
    place=st.integers(0, 10**6),
    seed=st.integers(0, 99),
)
def test_a_single_changed_element_is_found_wherever_the_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, chunk: int, place: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("analyze")
    tensor = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    changed = tensor.clone()
    changed.view(-1)[place % tensor.numel()] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        a, b = write(folder / "a.safetensors", {"w": tensor}), write(folder / "b.safetensors", {"w": changed})
        (found,) = analyze(a, b).tensors
        assert analyze(a, a).same
    assert found.num_different == 1
    assert found.max_abs_difference == pytest.approx(1, rel=1e-5)


def test_bits_count_and_nan_and_infinity_are_reported(tmp_path: Path) -> None:
    nan, infinity = math.nan, math.inf
    a = {"zero": torch.tensor([0.0]), "nan": torch.tensor([nan, 1.0]), "new": torch.tensor([1.0, 5.0])}
    b = {"zero": torch.tensor([-0.0]), "nan": torch.tensor([nan, 1.0]), "new": torch.tensor([nan, 4.0])}
    a |= {"inf": torch.tensor([infinity]), "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3)}
    b |= {"inf": torch.tensor([-infinity]), "scalar": torch.tensor(4.0), "empty": torch.zeros(0, 3)}
    found = {
        tensor.name: tensor
        for tensor in analyze(write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)).tensors
    }
    assert (found["zero"].status, found["zero"].num_different) == (Status.VALUES, 0)
    assert found["nan"].status is Status.EQUAL
    assert found["new"].num_different == 2
    assert math.isnan(found["new"].max_abs_difference or 0.0)
    assert found["inf"].max_abs_difference == infinity
    assert found["scalar"].max_abs_difference == 1
    assert found["empty"].status is Status.EQUAL


def test_shards_equal_the_whole(tiny: Any, tmp_path: Path) -> None:
    model = tiny.qwen3()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert analyze(tmp_path / "whole", tmp_path / "shards").same
    assert analyze(tmp_path / "whole" / "model.safetensors", tmp_path / "shards").same


def test_a_head_left_out_because_it_is_tied_is_no_difference(tiny: Any, tmp_path: Path) -> None:
    tiny.qwen3(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    with_head = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    full = write(tmp_path / "full.safetensors", with_head)
    assert statuses(full, tmp_path / "tied")["lm_head.weight"] is Status.TIED
    assert statuses(tmp_path / "tied", full)["lm_head.weight"] is Status.TIED
    assert analyze(tmp_path / "tied", full).same

    other = write(tmp_path / "other.safetensors", tensors | {"lm_head.weight": with_head["lm_head.weight"] + 1})
    assert statuses(other, tmp_path / "tied")["lm_head.weight"] is Status.ONLY_A


def test_a_head_that_an_untied_model_lacks_is_a_difference(tiny: Any, tmp_path: Path) -> None:
    tiny.qwen3(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    full = write(
        tmp_path / "full.safetensors", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )
    config = tmp_path / "tied" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    assert statuses(full, tmp_path / "tied")["lm_head.weight"] is Status.ONLY_A


@pytest.mark.parametrize("fault", ["absent", "empty", "pickled", "torn", "no shard", "bad index", "wrong suffix"])
def test_what_cannot_be_read_is_refused(tiny: Any, tmp_path: Path, fault: str) -> None:
    good = tmp_path / "good"
    tiny.qwen3().save_pretrained(good, max_shard_size="30KB" if "shard" in fault or "index" in fault else "5GB")
    bad = tmp_path / "bad"
    if fault != "absent":
        bad.mkdir()
    if fault == "pickled":
        (bad / "pytorch_model.bin").write_bytes(b"x")
    elif fault == "torn":
        (bad / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:-10])
    elif fault == "no shard":
        bad = good
        sorted(bad.glob("*.safetensors"))[0].unlink()
    elif fault == "bad index":
        bad = good
        (bad / "model.safetensors.index.json").write_text("[]")
    elif fault == "wrong suffix":
        bad = tmp_path / "weights.bin"
        bad.write_bytes(b"x")
    with pytest.raises(ModelError, match=str(bad)):
        analyze(good if bad != good else bad, bad)
