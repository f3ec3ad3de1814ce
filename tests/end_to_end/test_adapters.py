"""Low-rank adapters: only they train, only they are saved, runs resume exactly, and a merge is the trained model."""

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import metadata_load
from safetensors.torch import load_file, save_file

import dlm
from dlm.config import RunFileError, load_config
from dlm.errors import CheckpointError, ModelError, UserInputError
from dlm.model.merge import merge
from dlm.model.tokenizer import load_tokenizer
from dlm.training.assembly import assemble, build_accelerator
from dlm_cli.main import cli

PROMISED = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "config.json")


@pytest.fixture
def run_file(tiny, tmp_path: Path) -> Path:
    """Adapters on a tiny Qwen3, with dropout, accumulation and samples."""
    pytest.importorskip("peft")
    config = {
        "model": {"name_or_path": str(tiny.checkpoint)},
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 6,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "checkpoint": {"every_steps": 2, "resume": "latest"},
        },
        "lora": {"r": 4, "alpha": 8.0, "dropout": 0.1},
        "optim": {"name": "adamw", "lr": 0.01},
        "dataset": {"name": str(tiny.texts), "max_length": 32},
        "evaluation": {"eval_every_steps": 3, "sample_prompts": ["The "]},
        "sampling": {"gen_length": 8, "steps": 8, "block_length": 8},
        "logging": {"every_steps": 2},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def engine_of(run_file: Path, *overrides: str) -> Any:
    loaded = load_config(run_file, overrides)
    return assemble(loaded, build_accelerator(loaded.config))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(20, 60)[None]).logits


def test_only_adapters_train_and_only_they_are_saved(tiny, run_file: Path, tmp_path: Path) -> None:
    base = load_file(tiny.checkpoint / "model.safetensors")
    dlm.run(run_file)
    for folder in (tmp_path / "out" / "checkpoints" / "step-6", tmp_path / "out" / "final"):
        assert not (folder / "model.safetensors").exists()
        saved = load_file(folder / "adapter_model.safetensors")
        assert all(".lora_A." in name or ".lora_B." in name for name in saved)
        assert len(saved) == 2 * 7 * 2  # A and B, seven linear layers, two blocks
        assert any(float(value.abs().max()) > 0 for name, value in saved.items() if "lora_B" in name)
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tiny.checkpoint)
        assert (settings["r"], settings["lora_alpha"]) == (4, 8.0)
        assert "lm_head" not in settings["target_modules"]
    after = load_file(tiny.checkpoint / "model.safetensors")
    assert all(torch.equal(base[name], after[name]) for name in base)


def test_a_run_starts_as_its_base(tiny, run_file: Path) -> None:
    """Adapters have no effect before they are trained."""
    engine = engine_of(run_file)
    assert torch.equal(logits_of(engine.saver.objects.model), logits_of(dlm.load(tiny.checkpoint)))
    trained = {name for name, parameter in engine.saver.objects.model.named_parameters() if parameter.requires_grad}
    in_optimizer = sum(len(group["params"]) for group in engine.saver.objects.optimizer.param_groups)
    assert len(trained) == in_optimizer == 28


def test_stopping_and_going_on_changes_nothing(run_file: Path, tmp_path: Path) -> None:
    from dlm.training.step import TrainingStep

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    dlm.run(run_file, [f"training.output_dir={whole}"])
    original = TrainingStep.__call__

    def interrupted(self, step_batch, number, meanwhile):
        if number == 3:
            for thread in threading.enumerate():
                if thread.name == "dlm-checkpoint":
                    thread.join()  # step 2 is saved while training goes on
            raise KeyboardInterrupt
        return original(self, step_batch, number, meanwhile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dlm.run(run_file, [f"training.output_dir={parts}"])
    assert sorted(path.name for path in (parts / "checkpoints").glob("step-*")) == ["step-2"]
    dlm.run(run_file, [f"training.output_dir={parts}"])

    for name in PROMISED:
        first, second = (run / "checkpoints" / "step-6" / name for run in (whole, parts))
        assert first.read_bytes() == second.read_bytes(), name
    for name in ("metrics.jsonl", "samples.jsonl", "final/adapter_model.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_a_base_that_changed_is_refused(tiny, run_file: Path, tmp_path: Path) -> None:
    from transformers import Qwen3ForCausalLM

    base = tmp_path / "base"
    model = Qwen3ForCausalLM.from_pretrained(tiny.checkpoint)
    model.save_pretrained(base)
    load_tokenizer(tiny.checkpoint).save_pretrained(base)
    own = [f"model.name_or_path={base}", "optim.lr_scheduler=constant"]
    dlm.run(run_file, [*own, "training.max_steps=2"])

    model.model.norm.weight.data[0] += 1.0
    model.save_pretrained(base)
    with pytest.raises(UserInputError, match="base_weights"):
        dlm.run(run_file, own)
    with pytest.raises(ModelError, match="is not the model these adapters were trained on"):
        merge(tmp_path / "out" / "final", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_adapters_of_another_shape_are_no_checkpoint_of_this_run(run_file: Path, tmp_path: Path) -> None:
    dlm.run(run_file, ["training.max_steps=2"])
    engine = engine_of(run_file, "lora.r=2")
    with pytest.raises(CheckpointError, match="other tensors than this run trains"):
        engine.saver.objects.read_checkpoint(tmp_path / "out" / "checkpoints" / "step-2")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_merge_is_what_was_trained_and_what_peft_makes_of_it(tiny, run_file: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    final, merged = tmp_path / "out" / "final", tmp_path / "merged"
    dlm.run(run_file)
    engine = engine_of(run_file)
    engine.saver.objects.read_checkpoint(tmp_path / "out" / "checkpoints" / "step-6")
    trained = logits_of(engine.saver.objects.model)

    result = command("merge", final, "--out", merged)

    assert result.exit_code == 0, result.output
    assert "14 adapters" in result.output
    model = dlm.load(merged)
    torch.testing.assert_close(logits_of(model), trained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trained, logits_of(dlm.load(tiny.checkpoint)), atol=1e-2)
    assert not {name for name, _ in model.named_parameters() if "lora" in name or "base_layer" in name}
    assert model.config.mask_token_id == load_tokenizer(merged).mask_token_id is not None
    assert not (merged / "adapter_config.json").exists()

    by_peft = PeftModel.from_pretrained(dlm.load(tiny.checkpoint), final).merge_and_unload()
    for name, parameter in by_peft.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=1e-6, atol=1e-7)


def test_a_base_that_was_moved_is_named_again(tiny, run_file: Path, tmp_path: Path) -> None:
    base, final = tmp_path / "base", tmp_path / "out" / "final"
    shutil.copytree(tiny.checkpoint, base)
    dlm.run(run_file, ["training.max_steps=1", f"model.name_or_path={base}"])
    (base / "LICENSE").write_text("terms")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=f"{base}: .*{final} names it as its base: .* name it with --base"):
        merge(final, tmp_path / "merged")
    with pytest.raises(ModelError, match=r"nowhere: .*") as caught:
        merge(final, tmp_path / "merged", base="./nowhere")
    assert "--base" not in str(caught.value)
    assert merge(final, tmp_path / "merged", base=str(tmp_path / "moved")).num_adapters == 14
    assert (tmp_path / "merged" / "LICENSE").read_text() == "terms"
    assert metadata_load(tmp_path / "merged" / "README.md") == {"license": "mit", "tags": ["dlm"]}


def test_a_merged_folder_samples_and_trains_on_like_any_other(run_file: Path, tmp_path: Path) -> None:
    dlm.run(run_file, ["training.max_steps=2"])
    command("merge", tmp_path / "out" / "final", "--out", tmp_path / "merged")
    result = command("generate", "--model", tmp_path / "merged", "--prompt", "The ", "--gen_length", "4")
    assert result.exit_code == 0, result.output
    again = [f"model.name_or_path={tmp_path / 'merged'}", f"training.output_dir={tmp_path / 'again'}"]
    assert dlm.run(run_file, [*again, "lora=null", "training.max_steps=1"]).final_step == 1


def test_an_adapter_folder_is_no_model_and_says_what_to_do(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a name with spaces"
    dlm.run(run_file, ["training.max_steps=2", f"training.output_dir={out}"])
    final = out / "final"
    assert f"dlm merge '{final}' --out '{out / 'merged'}'" in capsys.readouterr().out
    for arguments in (
        ("generate", "--model", final, "--prompt", "x"),
        ("convert", "--src", final, "--dst", tmp_path / "c"),
    ):
        result = command(*arguments)
        assert isinstance(result.exception, ModelError)
        assert f"dlm merge '{final}' --out DIR" in str(result.exception)


def test_gradient_checkpointing_gives_the_same_adapters(run_file: Path, tmp_path: Path) -> None:
    for name in ("true", "false"):
        changes = [f"training.gradient_checkpointing={name}", f"training.output_dir={tmp_path / name}"]
        dlm.run(run_file, ["training.max_steps=2", "lora.dropout=0.0", *changes])
    first, second = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("true", "false"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-6)


def test_targets_are_checked(run_file: Path) -> None:
    assert len(list(engine_of(run_file, "lora.targets=[q_proj]").saver.objects.weights.tensors())) == 4
    with pytest.raises(UserInputError, match=r"no linear layer 'q_prj'; did you mean 'q_proj'\?"):
        engine_of(run_file, "lora.targets=[q_prj]")
    with pytest.raises(UserInputError, match="no linear layer 'lm_head'"):
        engine_of(run_file, "lora.targets=[lm_head]")


def test_adapters_need_a_base(run_file: Path) -> None:
    with pytest.raises(RunFileError, match=r"lora: .*model.name_or_path"):
        load_config(
            run_file, ["model.name_or_path=null", "model.config={hidden_size: 32}", "model.tokenizer={train: {}}"]
        )


def test_without_peft_the_extra_is_named(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserInputError, match=r"pip install 'dlm\[lora\]'"):
        engine_of(run_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "adapters with use_dora"),
        ({"peft_type": "IA3"}, "adapters of type IA3"),
        ({"base_model_name_or_path": None}, "name it with --base"),
        ({"r": 0}, "r is 0; it must be a number above 0"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'; it must be a number above 0"),
    ],
)
def test_what_cannot_be_merged_is_refused(run_file: Path, tmp_path: Path, change: dict, message: str) -> None:
    dlm.run(run_file, ["training.max_steps=1"])
    path = tmp_path / "out" / "final" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    result = command("merge", path.parent, "--out", tmp_path / "merged")
    assert message in str(result.exception)


def test_adapters_of_another_shape_and_settings_of_another_kind_are_refused(run_file: Path, tmp_path: Path) -> None:
    dlm.run(run_file, ["training.max_steps=1"])
    final = tmp_path / "out" / "final"
    tensors = load_file(final / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    for wrong in (tensors[name][:1].clone(), tensors[name][:, 1:].clone(), tensors[name].flatten()):
        save_file({**tensors, name: wrong}, final / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="is incomplete, or belongs to another model"):
            merge(final, tmp_path / "merged")
    (final / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"adapter_config\.json: cannot be read: no JSON object"):
        merge(final, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_without_adapters_is_refused(tiny, tmp_path: Path) -> None:
    result = command("merge", tiny.checkpoint, "--out", tmp_path / "merged")
    assert "no adapters here" in str(result.exception)
