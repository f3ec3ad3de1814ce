"""What a likelihood costs: forward rows for an interval of 1 %, pairing, and speed against published procedures.

    python benchmarks/likelihood.py RUN

    dlm run configs/pretrain.yaml && python benchmarks/likelihood.py runs/pretrain

RUN is the output folder of a run with a checkpoint before its end, such as that of configs/pretrain.yaml. Everything is
a ratio within this one call. Exit code 1 where a figure is missed.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

import dlm
from dlm.evaluation.corpus import measure
from dlm.evaluation.evaluate import open_model
from dlm.evaluation.likelihood import ScoredText, score_texts, text_key
from dlm.evaluation.own_rows import evaluation_data
from dlm.evaluation.scoring import Job, Scorer
from dlm.model.tokenizer import num_ids

LOWEST_RATE = 1e-3
"""Cut of independent times, whose variance is infinite without one."""
MORE_ROWS = {"exact counts": 1.0, "stratified t": 5.0, "independent t": 9.0}
"""How many times as many rows each way of drawing is to need, at least, for the same interval."""
MORE_VARIANCE = 8.0
"""Of a difference with draws of their own, against shared ones, at least."""


def main() -> None:
    """Print all figures, and end with 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=14, help="held-out rows that are scored again and again")
    parser.add_argument("--repetitions", type=int, default=16, help="how often, at least 2")
    parser.add_argument("--draws", type=int, default=32, help="masks a row each time")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="of the models whose speed is compared")
    options = parser.parse_args()
    all_met = [met for figures in (forward_rows, pairing, speed) for met in figures(options)]
    sys.exit(0 if all(all_met) else 1)


def verdict(value: float, least: float) -> str:
    return f"at least {least:g}: {'met' if value >= least else 'MISSED'}"


def scorer_of(folder: Path) -> Scorer:
    """A model as evaluation asks it."""
    session = open_model(str(folder))
    return Scorer.of(session.model, num_ids=num_ids(session.tokenizer))


def forward_rows(options: argparse.Namespace) -> Iterator[bool]:
    """Rows through the model until the interval of the draws is 1 % of the value, from repeated runs."""
    final = options.run / "final"
    rows = evaluation_data(str(final), open_model(str(final)), None, None).rows[: options.rows]
    texts = [ScoredText(row=row, key=text_key(row.input_ids)) for row in rows]
    scorer = scorer_of(final)
    random = np.random.default_rng(0)
    totals: dict[str, list[float]] = {"exact counts": [], "stratified t": [], "independent t": []}
    for seed in range(options.repetitions):
        found, _ = score_texts(scorer, texts, method="bound", draws=options.draws, seed=seed)
        totals["exact counts"].append(sum(each.value for each in found))
        for name in ("stratified t", "independent t"):
            jobs, times = zip(*(bernoulli_job(row, options.draws, name, random) for row in rows), strict=True)
            scores = scorer.score(jobs)
            totals[name].append(
                sum(float((each.cross_entropy.sum(axis=1) / t).mean()) for each, t in zip(scores, times, strict=True))
            )
    value = float(np.mean(totals["exact counts"]))
    number = len(rows) * options.draws
    needed = {name: number * np.var(each, ddof=1) * (1.96 / 0.01 / value) ** 2 for name, each in totals.items()}
    print(f"forward rows for +-1 % ({len(rows)} rows, {options.draws} draws, {options.repetitions} repetitions):")
    for name, count in needed.items():
        ratio = count / needed["exact counts"]
        print(f"  {name:14} {count:8.0f}  {ratio:5.1f}x   mean {np.mean(totals[name]):.1f} nats", end="  ")
        print(verdict(ratio, MORE_ROWS[name]))
        yield ratio >= MORE_ROWS[name]


def bernoulli_job(row: Any, draws: int, name: str, random: np.random.Generator) -> tuple[Job, Any]:
    """Masks of independent coins at a rate t each, and the rates: as the published procedures draw them."""
    t = random.random(draws)
    if name == "stratified t":
        t = (t[0] + np.arange(draws) / draws) % 1
    t = LOWEST_RATE + (1 - LOWEST_RATE) * t
    masked = random.random((draws, len(row.input_ids))) < t[:, None]
    return Job(row=row, masked=masked, scored=masked), t


def pairing(options: argparse.Namespace) -> Iterator[bool]:
    """Variance of the difference of two checkpoints: the same masks for both, against masks of their own."""
    steps = sorted(
        (path for path in (options.run / "checkpoints").glob("step-*")), key=lambda path: int(path.name.split("-")[1])
    )
    if not steps:
        sys.exit(f"{options.run}: it has no checkpoint to compare the final model with")
    final = options.run / "final"
    data = evaluation_data(str(final), open_model(str(final)), None, None)
    one, other = scorer_of(final), scorer_of(steps[0])

    def run(scorer: Scorer, seed: int) -> Any:
        return measure(scorer, data.rows, data.num_bytes, seed=seed, precision=1e-9, max_draws=8)

    newer, older, apart = run(one, 0), run(other, 0), run(other, 1)
    shared, alone = older.minus(newer), apart.minus(newer)
    unpaired = older.nats_per_token.data**2 + newer.nats_per_token.data**2
    print(f"{steps[0].name} against final, nats a token: {shared.value:.4f} +-{shared.data:.4f} with shared draws")
    ratio = alone.data**2 / shared.data**2
    print(f"  variance: models apart {unpaired / shared.data**2:.1f}x, same rows with draws of their own ", end="")
    print(f"{ratio:.1f}x ({verdict(ratio, MORE_VARIANCE)}), ", end="")
    print(f"their part of the draws {alone.draws**2 / shared.draws**2:.1f}x")
    yield ratio >= MORE_VARIANCE


def speed(options: argparse.Namespace) -> Iterator[bool]:
    """Seconds of one request against a plain procedure: the same row again and again, all logits."""
    torch.manual_seed(0)
    config = dlm.Qwen3LLadaConfig(
        vocab_size=options.vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        mask_token_id=options.vocabulary - 1,
        max_position_embeddings=512,
    )
    plain_model: Any = dlm.Qwen3LLadaForMaskedLM(config).eval()
    static = copy.deepcopy(config)
    static.attention_bias_component, static.block_length = {"name": "block"}, 32
    blocks: Any = dlm.Qwen3LLadaForMaskedLM(static).eval()
    blocks.load_state_dict(plain_model.state_dict())
    print(f"against one request at a time with all logits, vocabulary {options.vocabulary:,}:")
    cases = (
        (plain_model, 12, 12, 16, 16, 3.0),
        (plain_model, 128, 8, 16, 16, 6.0),
        (plain_model, 12, 3, 128, 128, 40.0),
        (blocks, 128, 8, 16, 16, 12.0),
    )
    for model, context, length, draws, theirs, least in cases:
        ids = torch.randint(0, options.vocabulary - 1, (context + length,))
        before, after = ids[:context].tolist(), ids[context:].tolist()
        found = dlm.log_likelihood(model, [before], [after], draws=draws)  # whatever is done once is done
        ours = seconds(partial(dlm.log_likelihood, model, [before], [after], draws=draws))
        published = seconds(partial(plain, model, ids, context, theirs))
        kind = ", static prefix" if model is blocks else ""
        exact = "exact" if bool(found.is_exact[0]) else f"{draws} draws"
        ratio = published / ours
        print(f"  {context:3} + {length:2} tokens, {exact} against {theirs} draws{kind}: {ratio:6.1f}x", end="  ")
        print(verdict(ratio, least))
        yield ratio >= least


def seconds(action: Callable[[], object]) -> float:
    """CPU time of the fastest of three calls: what others do on the machine stays out of it."""
    taken = []
    for _ in range(3):
        started = process_time()
        action()
        taken.append(process_time() - started)
    return min(taken)


@torch.no_grad()
def plain(model: Any, ids: torch.Tensor, context: int, draws: int, batch: int = 8) -> float:
    """The published procedure (LLaDA, get_log_likelihood): counts on a line, all logits, cross-entropy where masked."""
    length, losses = len(ids) - context, []
    for _ in range(draws // batch):
        first = int(torch.randint(1, length + 1, ()))
        counts = torch.round(torch.linspace(first, first + (batch - 1) * (length / batch), batch)).long()
        counts = (counts - 1) % length + 1
        noisy = ids.repeat(batch, 1)
        for row, count in zip(noisy, counts.tolist(), strict=True):
            row[context + torch.randperm(length)[:count]] = model.config.mask_token_id
        masked = noisy == model.config.mask_token_id
        logits = model(input_ids=noisy).logits
        loss = torch.nn.functional.cross_entropy(logits[masked], ids.repeat(batch, 1)[masked], reduction="none")
        weight = (length / counts)[:, None].expand_as(masked)[masked]
        losses.append(float((loss * weight).sum()) / batch)
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
