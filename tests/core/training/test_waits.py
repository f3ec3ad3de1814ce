"""How often the host waits for the device in a training step: once. A device is made up, on which no tensor has values.

What needs a value of it (``item``, ``nonzero``, boolean indexing), what mixes it with tensors of the host, and what
copies to it while the host waits is an error or is counted, in forward, backward and update.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MASK_ID = 90
CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
CASES = [
    {"bias": "full", "loss": "guidelines"},
    {"bias": "block_causal", "loss": "elbo", "schedule": "cosine"},
    {"bias": "alternating", "loss": "soft_ce", "noise": "random_replace"},
    {"bias": "block", "loss": "guidelines", "attention": "eager"},
    {"bias": "annealed", "loss": "guidelines"},
]


@pytest.fixture(scope="module")
def waits() -> dict[str, Any]:
    """The places of the waits in a step of two micro-batches by case: a process of its own, as the device stays."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_a_step_waits_for_the_device_once(waits: dict[str, Any], case: dict[str, str]) -> None:
    assert waits["-".join(case.values())] == ["tolist"]


def test_what_waits_is_seen(waits: dict[str, Any]) -> None:
    assert waits["deliberate"] == ["copy", "tolist"]


class Waits(TorchDispatchMode):
    """Counts what makes the host wait: the numbers of a tensor, and copies that are not sent on their way."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.seen: list[str] = []

    def tolist(self, tensor: Tensor) -> Any:
        self.seen.append("tolist")
        return [1.0] * tensor.numel()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name
        if name == "aten::_local_scalar_dense" and args[0].device != self.device:
            return 1.0  # AdamW keeps the number of its steps on the host
        result = function(*args, **kwargs)
        if name in ("aten::_to_copy", "aten::copy_"):
            devices = {leaf.device for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)}
            is_sent = kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:] == (True,))
            if len(devices) > 1 and not is_sent:
                self.seen.append("copy")
        return result


def faked(value: Any, mode: Any) -> Any:
    """The same without numbers."""
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        member = getattr(value, field.name)
        if isinstance(member, Tensor):
            changes[field.name] = mode.from_tensor(member)
        elif attrs.has(type(member)):
            changes[field.name] = faked(member, mode)
    return attrs.evolve(value, **changes)


def step_of(case: dict[str, str], mode: Any, device: torch.device) -> Any:
    """A training step as a run file describes it, and its batch."""
    from torch.utils._python_dispatch import _disable_current_modes

    from dlm.config import load_mapping, run_components
    from dlm.data.batch import Collator, RandomLength, StepBatch
    from dlm.data.rows import Row
    from dlm.diffusion.vocabulary import Vocabulary
    from dlm.model.from_scratch import model_from_config
    from dlm.training.model_and_noise import build_forward_process, build_objective
    from dlm.training.optimisation import build_scheduler, parameter_groups
    from dlm.training.step import TrainingStep

    bias, attention = case["bias"], case.get("attention", "sdpa")
    mapping = {
        "model": {"config": CONFIG, "tokenizer": {"train": {}}, "attn_implementation": attention},
        "training": {
            "output_dir": "unused",
            "max_steps": 9,
            "loss_impl": case["loss"],
            "block_attention": {"enabled": bias != "full", "bias": bias, "block_length": 4},
            "noise": {"noise_type": case.get("noise", "mask"), "schedule": case.get("schedule", "uniform")},
        },
        "dataset": {"name": "python-docs"},
        "optim": {"name": "adamw"},
    }
    loaded = load_mapping(mapping)
    components = run_components(loaded.config, loaded.registry)
    special, starts = torch.tensor([MASK_ID]), torch.ones(MASK_ID + 1, dtype=torch.bool)
    vocabulary = Vocabulary(size=MASK_ID + 1, mask_id=MASK_ID, special_ids=special, starts_word=starts)
    model = model_from_config(
        CONFIG, vocab_size=MASK_ID + 1, mask_token_id=MASK_ID, attn_implementation=attention
    ).train()
    process = build_forward_process(loaded.config, components, loaded.registry, vocabulary, num_steps=9)
    rows = [
        Row(
            input_ids=np.arange(length, dtype=np.int32),
            document_id=np.zeros(length, np.int32),
            position=np.arange(length, dtype=np.int32),
            eligible=np.ones(length, np.bool_),
            answer_start=np.zeros(length, np.int32),
        )
        for length in (11, 9)
    ]
    batches = [Collator(pad_id=0)(rows, indices, 11) for indices in ((0, 1), (2, 3))]

    def noised_on_the_host(batch: Any, **settings: Any) -> Any:
        with _disable_current_modes():
            noised = process(batch, **settings)
        return faked(noised, mode)

    with mode:
        model.to_empty(device=device)
        optimizer = loaded.config.optim.optimizer.build(parameter_groups(model))
    # accelerate knows no such device.
    accelerator = SimpleNamespace(
        device=device,
        num_processes=1,
        process_index=0,
        scaler=None,
        no_sync=lambda objective: nullcontext(),
        backward=lambda loss: loss.backward(),
        reduce=lambda tensor, reduction: tensor,
        unscale_gradients=lambda: None,
    )
    step: Any = TrainingStep(
        accelerator=accelerator,  # type: ignore[arg-type]
        objective=build_objective(model, loaded.config, components, vocabulary),
        forward_process=noised_on_the_host,  # type: ignore[arg-type]
        random_length=RandomLength(probability=0.0, max_length=11, seed=0),
        optimizer=optimizer,
        scheduler=build_scheduler(loaded.config.optim, optimizer, 9),
        max_grad_norm=1.0,
        seed=0,
        typical_normaliser=40.0,
    )
    return step, StepBatch(epoch=0, epoch_batch=0, num_rows=4, micro_batches=batches, row_ids=(0, 1, 2, 3))


def main() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from made_up_device import make_device  # type: ignore[import-not-found]

    device, found = make_device(), {}
    for case in CASES:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        step, batch = step_of(case, mode, device)
        waits = watched(mode, device, lambda: (step(batch, 0), step.prepare(batch, 1), step(batch, 1)))  # noqa: B023
        half = len(waits) // 2
        assert waits[:half] == waits[half:], waits
        found["-".join(case.values())] = waits[:half]
    found["deliberate"] = watched(FakeTensorMode(), device, lambda: torch.ones(3).to(device).tolist())
    print(json.dumps(found))


def watched(mode: Any, device: torch.device, call: Callable[[], object]) -> list[str]:
    """The waits in ``call()``."""
    from torch._subclasses.fake_tensor import FakeTensor

    with mode, Waits(device) as waits, pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTensor, "tolist", lambda tensor: waits.tolist(tensor))
        call()
    return waits.seen


if __name__ == "__main__":
    main()
