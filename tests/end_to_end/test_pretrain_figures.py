"""What ``dlm run configs/pretrain.yaml`` promises, seen on a real run of the command without a network."""

import json
import operator
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain.yaml"
LOW_RATES = 3
"""Bins of the mask rate below 0.3."""


@attrs.frozen
class Learned:
    """What a run left, and what it printed."""

    evaluations: list[dict[str, Any]]
    printed: str


def without_network() -> list[str]:
    """A prefix that cuts the network off, where this system lets us."""
    prefix = ["unshare", "--net", "--map-root-user"]
    usable = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if usable else []


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Learned:
    """The full run; it takes minutes, so only with --full."""
    if not request.config.getoption("--full"):
        pytest.skip("trains for four minutes; run pytest --full")
    output = tmp_path_factory.mktemp("pretrain") / "run"
    command = [*without_network(), sys.executable, "-m", "dlm", "run", str(CONFIG), f"training.output_dir={output}"]
    done = subprocess.run(command, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if line["split"] == "eval"]
    return Learned(evaluations, done.stdout)


def test_eval_loss_halves(learned: Learned) -> None:
    first, last = learned.evaluations[0], learned.evaluations[-1]
    assert first["step"] == 0
    assert last["loss"] <= first["loss"] / 2


def test_half_of_the_masked_tokens_are_right_at_low_rates(learned: Learned) -> None:
    last = learned.evaluations[-1]
    accuracies, counts = last["masked_accuracy_by_rate"][:LOW_RATES], last["masked_tokens_by_rate"][:LOW_RATES]
    assert min(counts) > 0
    assert sum(map(operator.mul, accuracies, counts)) / sum(counts) >= 0.5


def test_the_filled_passage_shows_words_of_the_corpus(learned: Learned) -> None:
    corpus = set(re.findall(r"[a-z]{3,}", " ".join(pydoc_data.topics.topics.values()).lower()))
    masked = re.search(r"masked: (.*)", learned.printed)
    filled = re.search(r"filled: (.*?)   \(", learned.printed)
    assert masked is not None
    assert filled is not None
    whole_before = set(re.findall(r"(?<![\w_])[a-z]{3,}(?![\w_])", masked[1].lower()))
    completed = set(re.findall(r"(?<!\w)[a-z]{3,}(?!\w)", filled[1].lower())) - whole_before
    assert completed & corpus, f"no word of the corpus was completed: {filled[1]!r}"
