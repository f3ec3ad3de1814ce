"""A step of ``dlm run`` against the same operations and metrics written by hand.

    python benchmarks/engine_overhead.py

Model, data and noise of ``configs/pretrain.yaml``. Both sides start from the same weights and must report the same
losses; they take their steps in turns within one process. Exit code 1 where the median of the ratios is too high.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import get_scheduler

from dlm.config import load_config
from dlm.data.batch import StepBatch
from dlm.data.loader import StepLoader
from dlm.data.order import shuffled
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.console import TrainingConsole
from dlm.training.engine import Engine
from dlm.training.output_folder import METRICS
from dlm_plugins import KeyedDraws

MAX_RATIO = 1.03
MAX_LOSS_DIFFERENCE = 1e-4
"""Of the mean loss: float32 sums in another order, many steps deep."""
NUM_WARMUP = 3
NUM_BINS = 10
RUN_FILE = Path(__file__).parent.parent / "configs" / "pretrain.yaml"


class ByHand:
    """The training loop that one would write for exactly this run."""

    def __init__(self, engine: Engine, num_steps: int) -> None:
        self.model = engine.saver.objects.model
        self.mask_id = self.model.config.mask_token_id
        rows = engine.data.loader.rows
        self.length = int(rows.lengths.max())
        self.num_rows = engine.data.loader.shape.rows_per_step
        # The last row of the text is shorter than the others.
        padded = [np.pad(rows[index].input_ids, (0, self.length - rows.lengths[index])) for index in range(len(rows))]
        self.data = torch.from_numpy(np.stack(padded)).long()
        self.lengths = torch.from_numpy(rows.lengths)
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
        self.scheduler = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=round(0.05 * num_steps), num_training_steps=num_steps
        )

    def rates(self, step: int) -> Tensor:
        """(B,) stratified mask rates, no lower than 0.001."""
        rows = torch.arange(self.num_rows)
        one = KeyedDraws(seed=0, step=step, rows=rows[:1], length=1, scope="t")
        every = KeyedDraws(seed=0, step=step, rows=rows, length=1, scope="t")
        order = every.per_position("order")[:, 0].argsort(stable=True).argsort()
        t = torch.remainder(one.per_position("offset")[0] + order / self.num_rows, 1.0)
        return (0.999 * t + 0.001).clamp(min=0.001)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Clean ids and which of them are real, (B, L) each."""
        start = step * self.num_rows
        numbers = shuffled(np.arange(start, start + self.num_rows), num_rows=len(self.data), seed=0, epoch=0)
        rows, length = torch.from_numpy(numbers), self.length
        coin = KeyedDraws(seed=0, step=step, rows=torch.zeros(1, dtype=torch.long), length=1, scope="length")
        if coin.per_row("coin").item() < 0.01:
            length = 1 + int(coin.per_row("length").item() * self.length)
        return self.data[rows, :length], torch.arange(length) < self.lengths[rows, None]

    def step(self, step: int) -> list[float]:
        """One step; return loss, gradient norm, and by bin of the mask rate the counts, hits and cross-entropy."""
        torch.manual_seed(step)
        self.optimizer.zero_grad()
        ids, real = self.batch(step)
        rate = self.rates(step)
        rows = torch.arange(self.num_rows)
        draws = KeyedDraws(seed=0, step=step, rows=rows, length=ids.shape[1], scope="masking")
        masked = (draws.per_position("coin") < rate[:, None]) & real
        noisy = torch.where(masked, self.mask_id, ids)
        attention_mask = None if bool(real.all()) else real.long()
        hidden = self.model.model(input_ids=noisy, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden[masked])
        targets = ids[masked]
        token_loss = functional.cross_entropy(logits, targets, reduction="none")
        token_rate = rate[:, None].expand_as(ids)[masked]
        loss = (token_loss / token_rate).sum() / real.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        with torch.no_grad():
            bins = (token_rate * NUM_BINS).long().clamp(max=NUM_BINS - 1)
            correct = (logits.argmax(dim=1) == targets).float()
            values = torch.stack((torch.ones_like(correct), correct, token_loss))
            by_bin = torch.zeros(3, NUM_BINS).index_add_(1, bins, values)
            figures = torch.cat((loss[None], norm[None], by_bin.flatten())).tolist()
        self.optimizer.step()
        self.scheduler.step()
        return figures


@attrs.define
class TakingTurns:
    """A loader after whose batches, once the engine is done with one, the loop by hand takes the same step."""

    loader: StepLoader
    by_hand: ByHand
    engine_seconds: list[float] = attrs.field(factory=list)
    hand_seconds: list[float] = attrs.field(factory=list)
    hand_losses: list[float] = attrs.field(factory=list)

    def steps(self, *place: Any) -> Iterator[StepBatch]:
        batches = self.loader.steps(*place)
        while True:
            started = time.perf_counter()
            # Until the engine asks again, it works on its step.
            yield next(batches)
            self.engine_seconds.append(time.perf_counter() - started)
            self.step_by_hand()

    def step_by_hand(self) -> None:
        started = time.perf_counter()
        loss, *_ = self.by_hand.step(len(self.hand_losses))
        self.hand_seconds.append(time.perf_counter() - started)
        self.hand_losses.append(loss)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def measure(num_steps: int) -> tuple[TakingTurns, float]:
    """Run the engine with the loop by hand beside it; also return the mean loss that the engine logs."""
    with tempfile.TemporaryDirectory() as folder:
        # One window of the log holds all steps. Evaluation and saving are no part of a step.
        overrides = [
            f"training.output_dir={folder}",
            f"training.max_steps={num_steps}",
            f"logging.every_steps={num_steps}",
            "evaluation.do_eval_loss=false",
            "evaluation.sample_prompts=[]",
        ]
        loaded = load_config(RUN_FILE, overrides)
        engine, other = (assemble(loaded, build_accelerator(loaded.config)) for _ in range(2))
        # By hand there is one epoch, without its last step, which may be short.
        most = engine.data.loader.steps_per_epoch - 1
        if not NUM_WARMUP + 1 < num_steps <= most:
            sys.exit(f"--steps {num_steps}: wanted are {NUM_WARMUP + 2} to {most}")
        turns = TakingTurns(engine.data.loader, ByHand(other, num_steps))
        with engine.saver.folder:
            engine.data = attrs.evolve(engine.data, loader=turns)
            engine.console = TrainingConsole(num_steps=num_steps, is_main=False)
            engine.run()
        turns.step_by_hand()  # the engine does not ask for more after the last step, which is not timed
        last_line = (engine.saver.folder.path / METRICS).read_text(encoding="utf-8").splitlines()[-1]
    return turns, float(json.loads(last_line)["loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="pairs of steps")
    turns, loss = measure(parser.parse_args().steps)
    ours, hand = turns.engine_seconds[NUM_WARMUP:], turns.hand_seconds[NUM_WARMUP : len(turns.engine_seconds)]
    ratio = statistics.median(a / b for a, b in zip(ours, hand, strict=True))
    difference = abs(loss / statistics.mean(turns.hand_losses) - 1)
    print(f"threads {torch.get_num_threads()}; {len(ours)} pairs; median milliseconds: ", end="")
    print(f"dlm run {1e3 * statistics.median(ours):.2f}, by hand {1e3 * statistics.median(hand):.2f}")
    all_met = ratio <= MAX_RATIO and difference <= MAX_LOSS_DIFFERENCE
    print(f"median ratio {ratio:.4f} (at most {MAX_RATIO}), ", end="")
    print(f"mean loss {loss:.5f}, apart by {difference:.1e} (at most {MAX_LOSS_DIFFERENCE:.0e}): ", end="")
    print("met" if all_met else "MISSED")
    sys.exit(0 if all_met else 1)


if __name__ == "__main__":
    main()
