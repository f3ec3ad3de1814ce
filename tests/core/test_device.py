"""Nothing of the host meets what is on a device: runs, rewards, pairs, likelihoods, serving, samples on one made up.

It computes as the CPU does, so that samples are the same, and parameters up to rounding (see ``made_up_device``).
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.3,
}
SUMS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 5) for b in range(1, 5)]
CHATS = [{"prompt": row["prompt"], "response": row["answer"]} for row in SUMS]
PAIRS = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": str(a)} for a in range(1, 9)]
STEPS: dict[str, dict[str, Any]] = {
    "rl": {
        "training": {
            "mode": "rl",
            "batch_size": 2,
            "loss_impl": {"name": "policy_clip", "kl": "k3", "beta": 0.1},
            "noise": {"masking": "trace"},
        },
        "dataset": {"name": "sums.jsonl", "max_length": 16},
        "rl": {"rewards": ["exact"], "group_size": 2, "advantage": "value", "value": {}, "reference": "start"},
        "sampling": {"gen_length": 3, "steps": 3, "temperature": 1.0, "remasking": "random"},
        "evaluation": {"do_eval_loss": False},
    },
    "preference": {
        "training": {"mode": "preference", "batch_size": 2, "loss_impl": {"name": "dpo", "num_draws": 2}},
        "dataset": {"name": "pairs.jsonl", "max_length": 48},
        "evaluation": {"do_eval_loss": False},
    },
}
WHOLE_RUN: dict[str, Any] = {
    "training": {"mode": "sft", "batch_size": 2, "block_attention": {"enabled": True, "block_length": 2}},
    "dataset": {"name": "chats.jsonl", "max_length": 16},
    "sampling": {"gen_length": 4},
    "evaluation": {"fraction": 0.3, "sample_prompts": ["1+2="]},
}
SAMPLES: dict[str, dict[str, Any]] = {
    "caches": {"attention_bias": "block_causal", "cache": "auto"},
    "side_by_side": {"attention_bias": "block", "cache": "side_by_side"},
    "dual": {"attention_bias": "full", "cache": "dual"},
    "prefix": {"attention_bias": "full", "cache": "prefix", "remasking": "threshold"},
    "guidance": {"attention_bias": "full", "cache": "off", "cfg_scale": 1.0, "temperature": 0.7},
    "remdm": {"attention_bias": "full", "remasking": "remdm", "eos": "late"},
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What happened, by case: a process of its own, as the device stays."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", [*STEPS, *SAMPLES, "run", "served", "likelihood"])
def test_a_device_gives_what_the_cpu_gives(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "same"


@pytest.mark.parametrize("case", ["rows", "index", "write", "gather"])
def test_what_cuda_refuses_is_refused(outcomes: dict[str, str], case: str) -> None:
    assert "to be on the same device" in outcomes[case]


def frozen_model(device: torch.device) -> Any:
    from dlm.model.from_scratch import model_from_config

    torch.manual_seed(0)
    sizes = {**SIZES, "eos_token_id": 3}
    return model_from_config(sizes, vocab_size=50, mask_token_id=49, dtype=torch.float64).eval().to(device)


def sampled(settings: dict[str, Any], device: torch.device, folder: Path) -> Any:
    import dlm

    prompt = (torch.arange(12).reshape(2, 6) + 5).to(device)
    blocks = {"gen_length": 8, "block_length": 4, "steps": 8}
    output = dlm.generate(frozen_model(device), prompt, **{**blocks, **settings})
    assert output.sequences.device == device
    return [output.sequences.cpu()]


def served(device: torch.device, folder: Path) -> Any:
    """Rows of several lengths that a server writes together, two at a time; its engine in this thread."""
    from dlm.sampling.arguments import settings_of
    from dlm.serving.engine import Engine, Row

    engine, ends = Engine(model=frozen_model(device), max_rows=2, max_waiting=4), dict[int, Any]()

    def end(key: int, state: Any) -> None:  # the last state, or what went wrong
        ends[key] = state
        engine._is_stopping = len(ends) == 3

    blocks = settings_of({"gen_length": 8, "block_length": 4, "attention_bias": "block_causal"})
    rows = [
        Row(ids=tuple(range(5, 8 + key)), settings=blocks, key=key, on_state=lambda _: None, on_end=partial(end, key))
        for key in range(3)
    ]
    engine.submit(rows)
    engine._run()
    for end_of_row in ends.values():
        if isinstance(end_of_row, Exception):
            raise end_of_row
    return [ends[key].sequences.cpu() for key in range(3)]


def likelihood(device: torch.device, folder: Path) -> Any:
    from dlm.evaluation.likelihood import log_likelihood

    contexts, continuations = [[5, 6, 7], [5]], [[8, 9, 10, 11], [12, 13]]
    methods = ("bound", "chain_rule", "all_masked", "autoregressive")
    model = frozen_model(device)
    return [log_likelihood(model, contexts, continuations, method=each, draws=8).values for each in methods]  # type: ignore[arg-type]


def loaded_run(changes: dict[str, Any], folder: Path) -> Any:
    from dlm.config import load_mapping

    training = {"output_dir": str(folder / "run"), "max_steps": 2, **changes["training"]}
    dataset = {**changes["dataset"], "name": str(folder / changes["dataset"]["name"])}
    model = {"config": SIZES, "tokenizer": {"train": {"vocab_size": 258}}, "attn_implementation": "eager"}
    return load_mapping(
        {"model": model, "optim": {"name": "adamw"}, **changes, "training": training, "dataset": dataset}
    )


def trained(changes: dict[str, Any], device: torch.device, folder: Path) -> Any:
    """The parameters after two steps."""
    from dlm.training.assembly import assemble, build_accelerator

    loaded = loaded_run(changes, folder)
    engine: Any = assemble(loaded, build_accelerator(loaded.config))
    assert engine.accelerator.device == device
    steps = engine.data.loader.steps(0, 0)
    for number in range(2):
        engine.step(next(steps), number)
    return [parameter.detach().cpu() for parameter in engine.saver.objects.model.parameters()]


def run_to_its_end(device: torch.device, folder: Path) -> Any:
    """Losses of steps and of evaluations, with samples in between; and what ``dlm eval`` says of what was saved."""
    from dlm.config.eval_options import EvalOptions
    from dlm.evaluation.evaluate import evaluate, open_model
    from dlm.training.run import run

    place = folder / device.type
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run(loaded_run({**WHOLE_RUN, "training": {**WHOLE_RUN["training"], "output_dir": str(place)}}, folder))
    assert f"parameters, on {device.type}" in said.getvalue()
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    final, options = str(place / "final"), EvalOptions(max_draws=8)
    session = open_model(final, device=str(device))
    assert session.model.device == device
    measured = evaluate(final, session, options)
    return [*(line["loss"] for line in lines), measured.measurement.nats_per_token.value]


CASES: dict[str, Callable[[torch.device, Path], Any]] = {
    **{name: partial(trained, changes) for name, changes in STEPS.items()},
    **{name: partial(sampled, settings) for name, settings in SAMPLES.items()},
    "run": run_to_its_end,
    "served": served,
    "likelihood": likelihood,
}


def outcome(call: Callable[[], Any], expected: Any) -> str:
    try:
        torch.testing.assert_close(call(), expected, rtol=0, atol=1e-6)
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return "same"


def main() -> None:
    from accelerate.state import AcceleratorState
    from made_up_device import MadeUpDevice, make_device  # type: ignore[import-not-found]

    # Made before the first backward: torch counts the devices then.
    host, device = torch.device("cpu"), make_device()
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, rows in (("sums.jsonl", SUMS), ("pairs.jsonl", PAIRS), ("chats.jsonl", CHATS)):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        expected = {case: call(host, folder) for case, call in CASES.items()}
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        with MadeUpDevice():
            found = {case: outcome(partial(call, device, folder), expected[case]) for case, call in CASES.items()}
            there, here = torch.zeros(3, device=device), torch.tensor([0, 1])
            found["rows"] = outcome(lambda: there + torch.zeros(3), None)
            found["index"] = outcome(lambda: torch.zeros(3)[here.to(device)], None)
            found["write"] = outcome(lambda: torch.zeros(3).add_(there), None)
            found["gather"] = outcome(lambda: there.gather(0, here), None)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
