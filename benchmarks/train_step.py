"""Forward and backward pass against a plain loop that follows the text of the LLaDA guideline.

    python benchmarks/train_step.py

Qwen3 with hidden size 256, 4 layers and its real vocabulary of 151,936 ids, 4 rows of 256 tokens, mean mask rate 0.5.
Both sides get the same weights and the same noised batch. Times are taken in turns within one process, memory in a
process for each side. Exit code 1 where a figure is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

MIN_SPEEDUP = 2.6
MAX_MEMORY_RATIO = 0.37
MAX_LOSS_DIFFERENCE = 1e-6
MAX_GRADIENT_DIFFERENCE = 1e-5

VOCABULARY_SIZE = 151_936
NUM_ROWS, LENGTH = 4, 256
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}
MASK_ID = 151_669

Step = Callable[[Any, Any], Any]
"""From model and noised batch to the loss, with the gradient in the parameters."""


def build() -> tuple[Any, Any]:
    """The model, and a noised batch whose mask rates are 1/8, 3/8, 5/8 and 7/8."""
    import torch

    from dlm.data.batch import Batch
    from dlm.diffusion.forward_process import ForwardProcess
    from dlm.diffusion.times import TIME_UNITS, grid_times
    from dlm.model.from_scratch import model_from_config

    model = model_from_config(SIZES, vocab_size=VOCABULARY_SIZE, mask_token_id=MASK_ID).train()
    ids = torch.randint(MASK_ID, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    batch = Batch(
        input_ids=ids,
        document_id=torch.zeros_like(ids),
        position=torch.arange(LENGTH).expand_as(ids),
        eligible=torch.ones_like(ids, dtype=torch.bool),
        answer_start=torch.zeros_like(ids),
        answer_length=None,
        row_index=torch.arange(NUM_ROWS),
        isolate_documents=False,
    )
    process = ForwardProcess(
        schedule=component("noise_schedule", "uniform"),
        masking=component("masking", "bernoulli"),
        noise_type=component("noise_type", "mask"),
        sample_times=grid_times,
        time_unit=TIME_UNITS["sequence"],
        min_masking_rate=0.001,
        region_masking=component("masking", "contiguous"),
        region_probability=0.0,
        reweight_cap=None,
        block_length=32,
        vocabulary=vocabulary(),
        seed=0,
    )
    return model, process(batch, step=0, num_rows=NUM_ROWS)


def component(kind: str, name: str) -> Any:
    from dlm_plugins.registry import Registry

    return Registry.discover().resolve(kind, name).cls()


def vocabulary() -> Any:
    import torch

    from dlm.diffusion.vocabulary import Vocabulary

    return Vocabulary(
        size=MASK_ID + 1,
        mask_id=MASK_ID,
        special_ids=torch.tensor([MASK_ID]),
        starts_word=torch.ones(MASK_ID + 1, dtype=torch.bool),
    )


def make_objective_step(model: Any) -> Step:
    from dlm.diffusion.objective import Attention, DiffusionObjective
    from dlm.model.body_and_head import split

    parts = split(model)
    objective = DiffusionObjective(
        parts.body,
        parts.head,
        loss=component("loss", "guidelines"),
        vocabulary=vocabulary(),
        attention=Attention(
            bias=component("attention_bias", "full"),
            block_length=32,
            num_layers=SIZES["num_hidden_layers"],
            implementation="sdpa",
        ),
        logit_shift=False,
    )

    def step(model: Any, noised: Any) -> Any:
        total, sums = objective(noised)
        loss = total / sums[1]
        loss.backward()
        return loss.detach()

    return step


def plain_step(model: Any, noised: Any) -> Any:
    """The guideline: logits everywhere, then the masked ones; cross-entropy over p, averaged over all tokens."""
    from torch.nn import functional

    input_ids, masked = noised.clean.input_ids, noised.corrupted
    logits = model(input_ids=noised.noisy_ids).logits
    token_loss = functional.cross_entropy(logits[masked], input_ids[masked], reduction="none") / noised.p_mask[masked]
    loss = token_loss.sum() / (input_ids.shape[0] * input_ids.shape[1])
    loss.backward()
    return loss.detach()


def peak_memory_of(side: str) -> int:
    """Peak memory, in bytes, of a fresh process that takes two steps; of one that only imports for ``import``."""
    command = [sys.executable, __file__, "--memory-of", side]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(result.stdout.splitlines()[-1]))


def print_peak_memory(side: str) -> None:
    import torch

    from dlm.training.trainer_state import peak_memory

    build_parts = {"plain": lambda model: plain_step, "dlm": make_objective_step}
    if side in build_parts:
        model, noised = build()
        step = build_parts[side](model)
        for _ in range(2):
            model.zero_grad()
            step(model, noised)
    else:
        import dlm.model.from_scratch
        import dlm.training.assembly  # noqa: F401
    print(json.dumps(peak_memory(torch.device("cpu"))))


def compare(num_rounds: int) -> dict[str, float]:
    """Times in turns, and the differences of loss and gradient."""
    import torch

    model, noised = build()
    steps: dict[str, Step] = {"plain": plain_step, "dlm": make_objective_step(model)}
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    losses, gradients = {}, {}
    for number in range(num_rounds + 1):  # the first round warms up
        for side, step in steps.items():
            model.zero_grad()
            started = time.perf_counter()
            losses[side] = step(model, noised)
            if number:
                seconds[side].append(time.perf_counter() - started)
            else:
                gradients[side] = [parameter.grad.clone() for parameter in model.parameters()]
    pairs = zip(gradients["dlm"], gradients["plain"], strict=True)
    differences = [float((ours - plain).norm() / plain.norm()) for ours, plain in pairs]
    return {
        "num_threads": torch.get_num_threads(),
        "plain_seconds": statistics.median(seconds["plain"]),
        "dlm_seconds": statistics.median(seconds["dlm"]),
        "speedup": statistics.median(p / d for p, d in zip(seconds["plain"], seconds["dlm"], strict=True)),
        "loss_difference": abs(float(losses["dlm"] / losses["plain"]) - 1),
        "gradient_difference": max(differences),
    }


def report(figures: dict[str, float], memory: dict[str, int]) -> bool:
    """Print the table; whether every figure is met."""
    plain, ours = (memory[side] - memory["import"] for side in ("plain", "dlm"))
    rows = [
        ("speed-up", figures["speedup"], ">=", MIN_SPEEDUP),
        ("memory ratio", ours / plain, "<=", MAX_MEMORY_RATIO),
        ("loss, relative difference", figures["loss_difference"], "<=", MAX_LOSS_DIFFERENCE),
        ("gradients, largest relative difference", figures["gradient_difference"], "<=", MAX_GRADIENT_DIFFERENCE),
    ]
    print(f"threads {figures['num_threads']}; median seconds: plain {figures['plain_seconds']:.3f}, ", end="")
    print(f"dlm {figures['dlm_seconds']:.3f}; MiB above imports: plain {plain >> 20}, dlm {ours >> 20}")
    all_met = True
    for name, value, relation, bound in rows:
        is_met = value >= bound if relation == ">=" else value <= bound
        all_met &= is_met
        print(f"{name:<40} {value:>10.3g}  {relation} {bound:g}  {'met' if is_met else 'MISSED'}")
    return all_met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps that are timed")
    parser.add_argument("--memory-of", choices=["import", "plain", "dlm"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_peak_memory(arguments.memory_of)
        return
    # Before anything large is here: a child may inherit the peak of its parent.
    memory = {side: peak_memory_of(side) for side in ("import", "plain", "dlm")}
    sys.exit(0 if report(compare(arguments.rounds), memory) else 1)


if __name__ == "__main__":
    main()
