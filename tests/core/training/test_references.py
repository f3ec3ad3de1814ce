"""References (rl.reference, preference.reference): those of the model that is named, or of the base of adapters."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import dlm
from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.diffusion.forward_process import NoisedBatch
from dlm.errors import UserInputError
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine
from dlm.training.policy_step import PolicyStep

TEMPERATURE = 0.7
MODES: dict[str, dict[str, Any]] = {
    "rl": {
        "training": {
            "loss_impl": {"name": "policy_clip", "kl": "k3", "beta": 0.5},
            "noise": {"masking": "trace"},
            "max_steps": 4,
        },
        "dataset": {"max_length": 16},
        "rl": {"rewards": [{"name": "pattern", "pattern": "[0-9a-f]"}], "group_size": 4, "skip_even_groups": False},
        "sampling": {"gen_length": 3, "steps": 3, "temperature": TEMPERATURE, "remasking": "random", "eos": "suppress"},
    },
    "preference": {
        "training": {"loss_impl": {"name": "dpo", "beta": 0.5}, "max_steps": 4},
        "dataset": {"max_length": 16},
    },
}
REFERENCES = ("named", "base of adapters")


def write_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["0123456789+= yes no"], vocab_size=260)
    config = dlm.Qwen3LLadaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        initializer_range=0.3,
        mask_token_id=tokenizer.mask_token_id,
    )
    dlm.Qwen3LLadaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[[str, str], Path]:
    """The run file of a mode with a kind of reference."""
    start, other = write_model(tmp_path / "start", 0), write_model(tmp_path / "other", 1)

    def write(mode: str, reference: str) -> Path:
        content = {
            "model": {"name_or_path": str(start)},
            "evaluation": {"do_eval_loss": False},
            "optim": {"lr": 1e-2, "lr_scheduler": "constant"},
            **MODES[mode],
        }
        content["training"] = {
            "mode": mode,
            "output_dir": str(tmp_path / "run"),
            "batch_size": 4,
            "checkpoint": {"every_steps": 2, "resume": "latest"},
            **content["training"],
        }
        content["dataset"] = {"name": str(tmp_path / "rows.jsonl"), **content["dataset"]}
        if reference == "named":
            content[mode] = {**content.get(mode, {}), "reference": str(other)}
        else:
            content["lora"] = {"r": 2, "alpha": 16}
            if mode == "rl":
                content["rl"] = {**content["rl"], "reference": "start"}
        rows = [{"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": "no"} for a in range(4) for b in range(4)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


def said_by(folder: Path, noised: NoisedBatch, temperature: float, excluded: list[int]) -> Tensor:
    """(B, L): log-probability of the clean ids where they are scored, row by row from the model in ``folder``."""
    model = dlm.load(str(folder)).eval()
    found = torch.zeros(noised.scored.shape)
    for row, real in enumerate((noised.clean.document_id >= 0).sum(dim=1).tolist()):
        if real:
            with torch.no_grad():
                logits = model(input_ids=noised.noisy_ids[row : row + 1, :real]).logits[0] / temperature
            logits[:, excluded] = -torch.inf
            clean = noised.clean.input_ids[row, :real, None]
            found[row, :real] = logits.log_softmax(dim=-1).gather(1, clean)[:, 0]
    return torch.where(noised.scored, found, 0.0)


def compared(engine: Engine) -> tuple[NoisedBatch, Tensor, Tensor]:
    """A batch after two steps, with what the reference and the model say of it."""
    batches = engine.data.loader.steps()
    for number in range(2):
        engine.step(next(batches), number, lambda: None)
    if isinstance(engine.step, PolicyStep):
        noised = engine.step._view(engine.step.rollouts(next(batches), 2), 0, 2)
        assert noised.policy is not None
        reference = noised.policy.reference_log_probability
    else:
        noised = next(iter(engine.step._noised(next(batches), 2)))  # type: ignore[attr-defined]
        reference = engine.step.objective.reference.log_probabilities(noised)
    own = engine.accelerator.unwrap_model(engine.step.objective).log_probabilities(noised)
    assert reference is not None
    return noised, reference, own


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("mode", MODES)
def test_a_reference_says_what_its_model_says(
    write_run: Callable[[str, str], Path], tmp_path: Path, mode: str, reference: str
) -> None:
    loaded = load_config(write_run(mode, reference), [])
    engine = assemble(loaded, build_accelerator(loaded.config))
    noised, found, own = compared(engine)
    is_rl, tokenizer = mode == "rl", engine.saver.objects.tokenizer
    expected = said_by(
        tmp_path / ("other" if reference == "named" else "start"),
        noised,
        TEMPERATURE if is_rl else 1.0,
        [tokenizer.mask_token_id, tokenizer.eos_token_id] if is_rl else [],
    )
    assert noised.scored.sum() > 10
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (own - found).abs().max() > 1e-2


def files_of(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("mode", MODES)
def test_a_run_with_a_reference_is_resumed_exactly(
    write_run: Callable[[str, str], Path], tmp_path: Path, mode: str, reference: str
) -> None:
    file, run = write_run(mode, reference), tmp_path / "run"
    dlm.run(file)
    whole = files_of(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "final")
    dlm.run(file)
    assert files_of(run / "checkpoints" / "step-4") == whole

    # Another model by the same name would be another reference.
    shutil.rmtree(run / "checkpoints" / "step-4")
    write_model(tmp_path / ("other" if reference == "named" else "start"), 2)
    with pytest.raises(UserInputError, match="cannot resume, because the run is not the same"):
        dlm.run(file)
