"""The two commands that show learning from rewards, shortened and with sums of one digit: held-out answers get better.

The run files are those that are shipped; the model is smaller, and the data a table that it learns within seconds.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

import dlm

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "model.config.num_hidden_layers=2",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=2",
]
NUM_STEPS = 40
START = ["training.max_steps=150", "training.batch_size=128", "optim.lr=4.0e-3", "evaluation.do_eval_loss=false"]
LEARN = [
    f"training.max_steps={NUM_STEPS}",
    "training.batch_size=64",
    "rl.group_size=4",
    "optim.lr=5.0e-3",
    "optim.warmup_steps=2",
    "sampling.gen_length=2",
    "sampling.steps=2",
]


def write_sums(folder: Path) -> None:
    """Prompts ``c3+4=``, a third of them held out; one response in three is right, the others miss by one."""
    folder.mkdir()
    chance = random.Random(0)
    asked = [(letter, a, b) for letter in "abcdefghijklmnop" for a in range(5) for b in range(5) if a + b > 0]
    chance.shuffle(asked)
    third = len(asked) // 3
    for name, part in (("test", asked[:third]), ("train", 8 * asked[third:])):
        rows = [
            {"prompt": f"{letter}{a}+{b}=", "answer": str(a + b), "response": str(a + b + chance.choice((-1, 0, 1)))}
            for letter, a, b in part
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the run from rewards says of held-out prompts, before and after."""
    folder = tmp_path_factory.mktemp("rewards")
    write_sums(folder / "sums")
    common = [f"dataset.name={folder / 'sums'}", "training.checkpoint.every_steps=1000"]
    start = [f"training.output_dir={folder / 'start'}", "evaluation.sample_prompts=[]"]
    dlm.run(CONFIGS / "rl-start.yaml", [*common, *start, *SMALL, *START])
    learn = [f"training.output_dir={folder / 'rl'}", f"model.name_or_path={folder / 'start' / 'final'}"]
    dlm.run(CONFIGS / "rl.yaml", [*common, *learn, *LEARN])
    lines = [json.loads(line) for line in (folder / "rl" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "eval"]


def test_held_out_prompts_are_answered_better_afterwards(evaluations: list[dict[str, Any]]) -> None:
    """Measured: 71 to 100 % greedily, 48 to 83 % drawn; the fine-tuning data would stay at 33 %."""
    before, after = evaluations[0], evaluations[-1]
    assert (before["step"], after["step"]) == (0, NUM_STEPS)
    for how in ("greedy_right", "drawn_right"):
        assert before[how] < 0.8  # there is something to learn
        assert after[how] > before[how] + 0.1
