"""What must not make a difference: worker processes, the grouping of accumulation, how far a run is."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import yaml

from dlm.data.batch import Batch, Collator, StepShape
from dlm.data.loader import StepLoader
from dlm.data.rows import Row

PROMISED = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-12/optimizer.pt")
MILLION = 1_000_000


def test_worker_processes_change_nothing(laboratory: Any, digest_of: Any, count: Any, tmp_path: Path) -> None:
    config = laboratory.config("pretrain-adamw")
    for number in (0, 1, 2):
        outcome = laboratory.run(config, tmp_path / str(number), arguments=[f"dataset.num_workers={number}"])
        assert outcome.code == 0, outcome.log
    results = [digest_of(tmp_path / str(number) / "run") for number in (0, 1, 2)]
    for name in PROMISED:
        assert len({each[name] for each in results}) == 1, name
    count("0, 1, 2 data workers", "identical")


def test_accumulation_can_be_regrouped(laboratory: Any, count: Any, tmp_path: Path) -> None:
    content = yaml.safe_load(laboratory.config("pretrain-adamw").read_text(encoding="utf-8"))
    model = {"config": {**content["model"]["config"], "attention_dropout": 0.0}}
    states = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        training = {
            "batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 1,
            "max_grad_norm": None,
            "checkpoint": {"every_steps": 1, "resume": "latest"},
        }
        changes = {"model": model, "training": training, "logging": {"every_steps": 1}}
        config, folder = laboratory.config(f"regrouped-{batch_size}", changes), tmp_path / str(batch_size)
        outcome = laboratory.run(config, folder)
        assert outcome.code == 0, outcome.log
        states.append(loss_and_gradient(folder / "run"))
    (loss, gradient), *others = states
    differences = [
        max(abs(other_loss - loss) / abs(loss), float((other - gradient).norm() / gradient.norm()))
        for other_loss, other in others
    ]
    count("accumulation regrouped, loss and gradient of a step", f"largest relative difference {max(differences):.1e}")
    assert max(differences) < 1e-5


def loss_and_gradient(run: Path) -> tuple[float, torch.Tensor]:
    """Of the first step: AdamW's first moment is then the gradient times 1 - beta1."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    loss = next(json.loads(line)["loss"] for line in lines if '"train"' in line)
    state = torch.load(run / "checkpoints" / "step-1" / "optimizer.pt", weights_only=True)["state"]
    return loss, torch.cat([moments["exp_avg"].flatten() for moments in state.values()])


@attrs.frozen(eq=False)
class CountedRows:
    """Ten million rows of one token, which count how often one is read."""

    lengths: Any = attrs.field(factory=lambda: np.broadcast_to(np.int64(4), (10 * MILLION,)))
    reads: list[int] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        self.reads.append(index)
        ids = np.full(4, index % 100, np.int32)
        zeros = np.zeros(4, np.int32)
        return Row(input_ids=ids, document_id=zeros, position=zeros, eligible=np.ones(4, np.bool_), answer_start=zeros)


def test_a_run_resumes_at_the_millionth_batch_at_once(count: Any) -> None:
    rows = CountedRows()
    loader = StepLoader(
        rows=rows,  # type: ignore[arg-type]
        collate=Collator(pad_id=0, isolate_documents=False),
        shape=StepShape(batch_size=2, accumulation=2),
    )
    started = time.process_time()
    step = next(loader.steps(epoch=0, epoch_batch=MILLION))
    seconds = time.process_time() - started
    own = step_rows(step.micro_batches)
    count("resumed at batch 1,000,000", f"{seconds:.3f} s, {len(rows.reads) - own} rows read to get there")
    assert step.epoch_batch == MILLION
    assert sorted(rows.reads) == sorted(step.row_ids)
    assert seconds < 1.0


def step_rows(batches: Sequence[Batch]) -> int:
    return sum(int((batch.row_index >= 0).sum()) for batch in batches)
