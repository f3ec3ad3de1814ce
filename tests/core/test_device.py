"""Nothing of the host meets what is on a device: rollouts, pairs of answers and samples on one made up.

It computes as the CPU does, so that samples are the same, and parameters up to rounding (see ``made_up_device``).
"""

import json
import os
import subprocess
import sys
import tempfile
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
PAIRS = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": str(a)} for a in range(1, 9)]
RL: dict[str, Any] = {
    "training": {
        "mode": "rl",
        "batch_size": 2,
        "loss_impl": {"name": "policy_clip", "kl": "k3", "beta": 0.1},
        "noise": {"masking": "trace"},
    },
    "dataset": {"name": "sums.jsonl", "max_length": 16},
    "rl": {"rewards": ["exact"], "group_size": 2, "advantage": "value", "value": {}, "reference": "start"},
    "sampling": {"gen_length": 3, "steps": 3, "temperature": 1.0, "remasking": "random"},
}
RUNS: dict[str, dict[str, Any]] = {
    "rl": RL,
    "preference": {
        "training": {"mode": "preference", "batch_size": 2, "loss_impl": {"name": "dpo", "num_draws": 2}},
        "dataset": {"name": "pairs.jsonl", "max_length": 48},
    },
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


@pytest.mark.parametrize("case", [*RUNS, *SAMPLES])
def test_a_device_gives_what_the_cpu_gives(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "same"


@pytest.mark.parametrize("case", ["rows", "index", "write", "gather"])
def test_what_cuda_refuses_is_refused(outcomes: dict[str, str], case: str) -> None:
    assert "to be on the same device" in outcomes[case]


def sampled(settings: dict[str, Any], device: torch.device) -> Any:
    import dlm
    from dlm.model.from_scratch import model_from_config

    sizes = {**SIZES, "eos_token_id": 3}
    model = model_from_config(sizes, vocab_size=50, mask_token_id=49, dtype=torch.float64).eval().to(device)
    prompt = (torch.arange(12).reshape(2, 6) + 5).to(device)
    output = dlm.generate(model, prompt, **{"gen_length": 8, "block_length": 4, "steps": 8, **settings})
    assert output.sequences.device == device
    return [output.sequences.cpu()]


def trained(changes: dict[str, Any], device: torch.device, folder: Path) -> Any:
    """The parameters after two steps."""
    from dlm.config import load_mapping
    from dlm.training.assembly import assemble, build_accelerator

    training = {"output_dir": str(folder / "run"), "max_steps": 2, **changes["training"]}
    dataset = {**changes["dataset"], "name": str(folder / changes["dataset"]["name"])}
    model = {"config": SIZES, "tokenizer": {"train": {"vocab_size": 258}}, "attn_implementation": "eager"}
    common = {"model": model, "optim": {"name": "adamw"}, "evaluation": {"do_eval_loss": False}}
    loaded = load_mapping({**common, **changes, "training": training, "dataset": dataset})
    engine: Any = assemble(loaded, build_accelerator(loaded.config))
    assert engine.accelerator.device == device
    steps = engine.data.loader.steps(0, 0)
    for number in range(2):
        engine.step(next(steps), number)
    return [parameter.detach().cpu() for parameter in engine.saver.objects.model.parameters()]


def outcome(call: Any, expected: Any) -> str:
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
        for file, rows in (("sums.jsonl", SUMS), ("pairs.jsonl", PAIRS)):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        expected = {case: trained(changes, host, folder) for case, changes in RUNS.items()}
        expected |= {case: sampled(settings, host) for case, settings in SAMPLES.items()}
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        with MadeUpDevice():
            found = {
                case: outcome(lambda: trained(changes, device, folder), expected[case])  # noqa: B023
                for case, changes in RUNS.items()
            }
            for case, settings in SAMPLES.items():
                found[case] = outcome(lambda: sampled(settings, device), expected[case])  # noqa: B023
            there, here = torch.zeros(3, device=device), torch.tensor([0, 1])
            found["rows"] = outcome(lambda: there + torch.zeros(3), None)
            found["index"] = outcome(lambda: torch.zeros(3)[here.to(device)], None)
            found["write"] = outcome(lambda: torch.zeros(3).add_(there), None)
            found["gather"] = outcome(lambda: there.gather(0, here), None)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
