"""Tiny runs on a text of a few documents."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlm.config import load_config
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine
from dlm.training.step import StepResult

RUN = """\
model:
  name_or_path: null
  config: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
            num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64, initializer_range: 0.2,
            tie_word_embeddings: true}}
  tokenizer: {{train: {{vocab_size: 280}}}}
training:
  output_dir: {folder}/run
  max_steps: 20
  batch_size: 8
  max_grad_norm: null
  block_attention: {{enabled: false, block_length: 8}}
dataset: {{name: {folder}/texts.jsonl, max_length: 24}}
optim: {{name: adamw, lr: 1.0e-2, lr_scheduler: linear}}
evaluation: {{do_eval_loss: false}}
"""


def write_run(folder: Path) -> Path:
    """A run file, and 53 documents of many lengths."""
    words = random.Random(3)
    vocabulary = ["masked", "language", "model", "predicts", "the", "noise", "of", "a", "token", "row", "and", "block"]
    lines = [" ".join(words.choices(vocabulary, k=words.randint(2, 9))) for _ in range(53)]
    documents = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text(documents, encoding="utf-8")
    (folder / "run.yaml").write_text(RUN.format(folder=folder), encoding="utf-8")
    return folder / "run.yaml"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return write_run(tmp_path)


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(run_file: Path) -> MakeEngine:
    """Assemble a tiny run: ``make_engine("training.batch_size=4")``."""

    def make(*overrides: str) -> Engine:
        loaded = load_config(run_file, overrides)
        return assemble(loaded, build_accelerator(loaded.config))

    return make


TakeStep = Callable[..., tuple[StepResult, dict[str, Tensor]]]


@pytest.fixture
def take_step() -> TakeStep:
    """Take one step of a engine, at a batch of the first epoch; return the result and the gradients by name."""

    def take(engine: Engine, epoch_batch: int = 0, step: int = 5) -> tuple[StepResult, dict[str, Tensor]]:
        result = engine.step(next(engine.data.loader.steps(0, epoch_batch)), step)
        return result, gradients_of(engine)

    return take


def gradients_of(engine: Engine) -> dict[str, Tensor]:
    parameters = engine.saver.objects.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


@pytest.fixture(scope="session")
def largest_difference() -> Callable[[dict[str, Tensor], dict[str, Tensor]], float]:
    """Largest relative difference, by parameter, between two sets of gradients."""

    def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
        assert ours.keys() == theirs.keys()
        assert ours
        return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)

    return difference


@pytest.fixture(autouse=True)
def nondeterministic_again() -> None:
    """A run makes torch deterministic for the whole process; the next test starts as a user would."""
    torch.use_deterministic_algorithms(False)
