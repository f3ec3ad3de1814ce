"""Sampling against a plain loop that follows LLaDA's published procedure.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --only 4 --rounds 1      # the fifth row, once

Qwen3 with hidden size 256, 4 layers and its real vocabulary of 151,936 ids, float32, temperature 0, low_confidence, one
token a step. The plain loop computes the logits of the whole sequence at every step. Where its whole run would take
minutes, its time is that of a few steps, which all cost the same, times their number. Tokens are compared with the
plain loop where it ran to its end, and with the sampler without a cache. Exit code 1 where a figure is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

import dlm

VOCABULARY_SIZE, MASK_ID = 151_936, 151_669
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "initializer_range": 0.06,
    "tie_word_embeddings": True,
}
MAX_GAP = 1e-5
"""Nearness of two choices at which the order of summation may decide."""


@attrs.frozen(kw_only=True)
class Case:
    """One row of the table."""

    name: str
    min_ratio: float
    prompt_length: int = 128
    gen_length: int = 64
    block_length: int = 16
    bias: str
    cache: str
    plain_steps: int | None = None
    """Steps of the plain loop that are run; None: all."""


CASES = (
    Case(name="full attention", min_ratio=5, bias="full", cache="auto"),
    Case(name="block attention, cached prompt", min_ratio=7, bias="block", cache="prompt"),
    Case(name="block attention, cached and side by side", min_ratio=12, bias="block", cache="side_by_side"),
    Case(
        name="prompt 1024, gen_length 256, block 32, block attention",
        min_ratio=40,
        prompt_length=1024,
        gen_length=256,
        block_length=32,
        bias="block",
        cache="auto",
        plain_steps=3,
    ),
)
BATCH_NAME, BATCH_RATIO = "block attention, cached: 8 prompts of 16 to 256 together, against one by one", 1.5


def plain_loop(model: Any, prompt: Tensor, case: Case, num_steps: int) -> tuple[Tensor, list[tuple[int, float]]]:
    """LLaDA's procedure for the first steps: the sequence, and of each step its position and how near others were."""
    prompt_length, total = prompt.shape[1], prompt.shape[1] + case.gen_length
    x = torch.full((1, total), MASK_ID)
    x[:, :prompt_length] = prompt
    bias = block_bias(prompt_length, total, case.block_length) if case.bias == "block" else None
    taken: list[tuple[int, float]] = []
    for step in range(num_steps):
        end = prompt_length + (step // case.block_length + 1) * case.block_length
        masked = x == MASK_ID
        logits = model(input_ids=x, attention_bias=bias).logits
        proposed = logits.argmax(dim=-1)
        confidence = logits.softmax(dim=-1).gather(-1, proposed[..., None])[..., 0]
        confidence[:, end:] = -torch.inf
        confidence = torch.where(masked, confidence, -torch.inf)
        chosen = int(confidence[0].argmax())
        taken.append((chosen, nearest(logits[0, chosen], confidence[0])))
        x[0, chosen] = proposed[0, chosen]
    return x, taken


def nearest(logits: Tensor, confidence: Tensor) -> float:
    """How far the second best choice was behind the best: of the token, or of the position (relative)."""
    first, second = logits.topk(2).values.tolist()
    best, other = confidence.topk(2).values.tolist()
    return min(first - second, 1 - other / best if other > 0 else 1.0)


def block_bias(prompt_length: int, total: int, block_length: int) -> Tensor:
    """(1, 1, T, T) additive: the prompt sees the prompt, a block sees the prompt and itself."""
    block = (torch.arange(total) - prompt_length).div(block_length, rounding_mode="floor").clamp(min=-1)
    visible = (block[None] < 0) | (block[None] == block[:, None])
    return torch.zeros(1, 1, total, total).masked_fill(~visible, -torch.inf)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def sampler(model: Any, prompt: Tensor, case: Case, cache: str) -> Tensor:
    """Our tokens."""
    return dlm.generate(
        model,
        prompt,
        gen_length=case.gen_length,
        steps=case.gen_length,
        block_length=case.block_length,
        attention_bias=case.bias,
        cache=cache,
    ).sequences


def is_same(ours: Tensor, theirs: Tensor, taken: list[tuple[int, float]]) -> bool:
    """Whether tokens are equal, or the two runs parted at a step where two choices were nearly equal."""
    differs = [bool(ours[0, position] != theirs[0, position]) for position, _ in taken]
    # They parted where they first differ, or before it, by another order.
    return not any(differs) or min(gap for _, gap in taken[: differs.index(True) + 1]) < MAX_GAP


def run_case(model: Any, case: Case, num_rounds: int) -> bool:
    """Measure one row, and print it."""
    prompt = torch.randint(MASK_ID, (1, case.prompt_length), generator=torch.Generator().manual_seed(0))
    num_steps = case.plain_steps or case.gen_length
    ratios = []
    for _ in range(num_rounds):
        plain_seconds, (plain, taken) = timed(lambda: plain_loop(model, prompt, case, num_steps))
        own_seconds, ours = timed(lambda: sampler(model, prompt, case, case.cache))
        ratios.append(plain_seconds * case.gen_length / num_steps / own_seconds)
    uncached = sampler(model, prompt, case, "off")
    as_uncached = ours.equal(uncached)
    as_plain = case.plain_steps is not None or is_same(ours, plain, taken)
    ratio = sorted(ratios)[len(ratios) // 2]
    return report(case.name, ratio, case.min_ratio, as_plain and as_uncached)


def run_batch(model: Any, num_rounds: int) -> bool:
    """Eight prompts of different lengths together, against one by one."""
    case = Case(name=BATCH_NAME, min_ratio=BATCH_RATIO, bias="block", cache="auto")
    lengths = [16, 48, 80, 112, 144, 176, 224, 256]
    random = torch.Generator().manual_seed(1)
    prompts = [torch.randint(MASK_ID, (1, length), generator=random) for length in lengths]
    padded = torch.cat([torch.nn.functional.pad(prompt, (256 - prompt.shape[1], 0)) for prompt in prompts])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(each), (256 - each.shape[1], 0)) for each in prompts])
    arguments: dict[str, Any] = {
        "gen_length": case.gen_length,
        "steps": case.gen_length,
        "block_length": case.block_length,
        "attention_bias": case.bias,
        "cache": "prompt",
    }
    ratios = []
    for _ in range(num_rounds):
        seconds, together = timed(lambda: dlm.generate(model, padded, attention_mask=mask, **arguments).sequences)
        alone_seconds, alone = timed(
            lambda: [dlm.generate(model, prompt, **arguments).sequences[0, -case.gen_length :] for prompt in prompts]
        )
        ratios.append(alone_seconds / seconds)
    same = torch.stack(alone).equal(together[:, -case.gen_length :])
    return report(case.name, sorted(ratios)[len(ratios) // 2], case.min_ratio, same)


def report(name: str, ratio: float, min_ratio: float, same: bool) -> bool:
    """Print a row, and say whether it is as it should be."""
    passed = ratio >= min_ratio and same
    print(
        f"{'ok  ' if passed else 'MISS'}  {ratio:6.1f}x (at least {min_ratio}x)  "
        f"{'tokens identical' if same else 'TOKENS DIFFER'}  {name}",
        flush=True,
    )
    return passed


@torch.no_grad()
def main() -> int:
    """Run every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs per row; the median counts")
    parser.add_argument("--only", type=int, choices=range(len(CASES) + 1), help="number of one row, from 0")
    arguments = parser.parse_args()
    from dlm.model.from_scratch import model_from_config

    model = model_from_config(SIZES, vocab_size=VOCABULARY_SIZE, mask_token_id=MASK_ID).eval()
    rows: list[Callable[[], bool]] = [lambda case=case: run_case(model, case, arguments.rounds) for case in CASES]  # type: ignore[misc]
    rows.append(lambda: run_batch(model, arguments.rounds))
    chosen = rows if arguments.only is None else [rows[arguments.only]]
    passed = [row() for row in chosen]  # all of them, whatever the first ones were
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
