"""Runs on preferences: the same update however pairs are grouped, exact resumption, references, what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dlm
from dlm.config import RunFileError, load_config
from dlm.errors import DataError
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine

RUN = """\
model:
  name_or_path: null
  config: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
            num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64, initializer_range: 0.2}}
  tokenizer: {{train: {{vocab_size: 270}}}}
training:
  mode: preference
  output_dir: {folder}/run
  max_steps: 6
  batch_size: 4
  max_grad_norm: null
  loss_impl: {{name: dpo, beta: 0.5, num_draws: 2}}
  checkpoint: {{resume: latest}}
dataset: {{name: {folder}/pairs.jsonl, max_length: 48}}
optim: {{name: adamw, lr: 5.0e-3, lr_scheduler: constant}}
evaluation: {{do_eval_loss: false}}
logging: {{every_steps: 1}}
"""


def pair(number: int) -> dict[str, str]:
    answers = ("yes", "no")[:: 1 if number % 2 == 0 else -1]
    return {"prompt": f"Is {number} even?", "chosen": answers[0] * (number % 3 + 1), "rejected": answers[1]}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    lines = "".join(json.dumps(pair(number)) + "\n" for number in range(30))
    (tmp_path / "pairs.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RUN.format(folder=tmp_path), encoding="utf-8")
    return tmp_path / "run.yaml"


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make(run_file: Path) -> MakeEngine:
    def engine(*overrides: str) -> Engine:
        loaded = load_config(run_file, overrides)
        return assemble(loaded, build_accelerator(loaded.config))

    return engine


def gradients(engine: Engine, step: int = 3) -> dict[str, Tensor]:
    # The second step, when model and reference differ.
    engine.step(next(engine.data.loader.steps(0, 0)), 0)
    engine.step(next(engine.data.loader.steps(0, 1)), step)
    parameters = engine.saver.objects.model.named_parameters()
    return {name: each.grad.clone() for name, each in parameters if each.grad is not None}


def test_the_update_does_not_depend_on_how_pairs_are_grouped(make: MakeEngine, largest_difference) -> None:
    whole = gradients(make())
    for batch_size, accumulation in ((1, 4), (2, 2)):
        sizes = f"training.batch_size={batch_size}", f"training.gradient_accumulation_steps={accumulation}"
        assert largest_difference(gradients(make(*sizes)), whole) < 1e-5


def test_the_first_step_is_undecided_and_the_margin_grows(run_file: Path, tmp_path: Path) -> None:
    overrides = ["training.max_steps=25", "evaluation.do_eval_loss=true", "evaluation.fraction=0.2"]
    dlm.run(run_file, [*overrides, "evaluation.eval_every_steps=25"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["split"] == "eval"]
    assert evaluated[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert (evaluated[0]["reward_accuracy"], evaluated[0]["reward_margin"]) == (0.5, 0)
    assert evaluated[-1]["reward_margin"] > 0.2
    assert evaluated[-1]["reward_accuracy"] > 0.6
    trained = [line for line in lines if line["split"] == "train"]
    assert trained[0]["reward_margin"] == 0 < trained[-1]["reward_margin"]


def test_a_resumed_run_ends_with_the_same_weights(run_file: Path, tmp_path: Path) -> None:
    weights = []
    for name, stages in (("straight", (6,)), ("halves", (3, 6))):
        for steps in stages:
            dlm.run(run_file, [f"training.output_dir={tmp_path / name}", f"training.max_steps={steps}"])
        weights.append(load_file(tmp_path / name / "final" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def start(run_file: Path, tmp_path: Path) -> Path:
    """A model of a few steps."""
    dlm.run(run_file, [f"training.output_dir={tmp_path / 'start'}", "training.max_steps=2"])
    return tmp_path / "start" / "final"


def test_the_reference_of_adapters_is_their_base(make: MakeEngine, start: Path) -> None:
    base = (f"model.name_or_path={start}", "model.config=null", "model.tokenizer=null")
    engine, lora = make(*base), make(*base, "lora={r: 4, targets: null}")
    batch = next(engine.data.loader.steps(0, 0))
    for each in (engine, lora):
        assert each.step(batch, 0).figures["reward_margin"] == 0
    # Both have moved; their references have not.
    noised = [next(iter(each.step._noised(batch, 1))) for each in (engine, lora)]
    known = [
        each.step.objective.reference.log_probabilities(one) for each, one in zip((engine, lora), noised, strict=True)
    ]
    torch.testing.assert_close(known[0], known[1], rtol=1e-5, atol=1e-6)
    assert lora.step(batch, 1).figures["reward_margin"] != 0
    assert not any(each.requires_grad for each in engine.step.objective.reference.objective.parameters())
    names = {name for name, _ in engine.step.objective.named_parameters()}
    assert not any("reference" in name for name in names)


def test_a_named_reference_is_compared_with(make: MakeEngine, start: Path) -> None:
    engine = make(f"preference.reference={start}")
    assert engine.step(next(engine.data.loader.steps(0, 0)), 0).figures["reward_margin"] != 0


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["training.loss_impl=guidelines"],
            "does not learn from pairs of answers, as mode preference does: choose dpo",
        ),
        (["training.mode=sft"], "training.loss_impl: builtin:dpo learns from pairs of answers, and mode sft has none"),
        (["dataset.pack=true"], "dataset.pack: the answers of a pair stand alone"),
        (["training.noise.masking=contiguous"], "dpo needs positions to be masked independently"),
        (["training.noise.noise_type=random_replace"], "dpo needs masks"),
        (["training.noise.reweight_cap=5"], "dpo needs the weights of the ELBO as they are"),
        (
            ["training.mode=pretrain", "training.loss_impl=hybrid"],
            "hybrid predicts next tokens too.*logit_shift to true",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(run_file: Path, overrides: list[str], reason: str) -> None:
    with pytest.raises(RunFileError, match=reason):
        load_config(run_file, overrides)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Is 3 even?", "chosen": "no"}, "rejected is missing or null"),
        ({"prompt": "Is 3 even?", "chosen": "no", "rejected": "no"}, "chosen and rejected are the same answer"),
    ],
)
def test_bad_rows_are_told_with_their_place(make: MakeEngine, run_file: Path, row: dict[str, str], reason: str) -> None:
    with (run_file.parent / "pairs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"pairs\.jsonl:31: {reason}") as raised:
        make()
    assert raised.value.exit_code == 2
    assert len(make("dataset.on_bad_row=skip").data.loader.rows) == 30
