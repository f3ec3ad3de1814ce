"""Every shipped run file runs, shortened by overrides; what the hub would give is replaced by something tiny."""

import json
from pathlib import Path

import pytest

import dlm

CONFIGS = Path(__file__).parents[2] / "configs"

SHORT = [
    "training.max_steps=3",
    "logging.every_steps=1",
    "training.checkpoint.every_steps=2",
    "sampling.gen_length=8",
    "sampling.block_length=8",
    "sampling.steps=8",
]


def overrides_for(name: str, checkpoint: Path, texts: Path) -> list[str]:
    """What replaces the hub, and makes a run short."""
    local = [f"model.name_or_path={checkpoint}", f"dataset.name={texts}", "dataset.max_length=64"]
    return {
        "pretrain.yaml": ["training.batch_size=8"],
        "adapt-smollm2.yaml": local[:1],
        "sft.yaml": local[:1],
        "rl-start.yaml": ["training.batch_size=8", "evaluation.max_rows=8"],
        "preference.yaml": [*local[:1], "training.batch_size=4", "evaluation.max_rows=8"],
        "rl.yaml": [
            *local[:1],
            "training.batch_size=4",
            "rl.group_size=2",
            "dataset.max_length=32",
            "evaluation.max_rows=4",
        ],
        "reference.yaml": ["model.tokenizer.train.vocab_size=300", *local[1:]],
        "qwen3-0.6b-pretrain.yaml": [*local, "training.batch_size=2", "training.gradient_accumulation_steps=2"],
    }[name]


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_run_file_runs(config: Path, tiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    overrides = [*SHORT, *overrides_for(config.name, tiny.checkpoint, tiny.texts), f"training.output_dir={output}"]

    result = dlm.run(config, overrides)

    assert result.final_step == 3
    assert result.output_dir == output
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]
    assert all(isinstance(line["loss"], float) for line in lines)
    assert (output / "checkpoints" / "step-2" / "trainer_state.json").exists()
    assert dlm.load(output / "final").config.mask_token_id is not None
