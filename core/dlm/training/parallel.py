"""``training.parallel``: device mesh, sharding (FSDP2, HSDP by ``fully_shard``) or whole copies (DDP); what auto does.

The plan is made before the model, from the number of processes and what a whole copy would take. Sharding itself is
torch's: each decoder layer is a group of its own, and everything else (embedding, last norm, head; tied weights are one
parameter) is the group of the objective, which is whole from the start of its forward to the end of its backward pass:
the loss reads the head's weight outside of the head. Gradients are reduce-scattered after each micro-step.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import PreTrainedModel

from dlm.config.rl_section import START
from dlm.config.run_config import ParallelConfig, RunConfig
from dlm.diffusion.objective import DiffusionObjective
from dlm.errors import UserInputError
from dlm.model.body_and_head import decoder_layers
from dlm.training.processes import on_all, on_main
from dlm.training.weights import Weights

if TYPE_CHECKING:
    from dlm.training.meta_model import Build, Contents

_COMPUTE_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_GRADIENT_AND_MOMENTS = 12
"""Bytes a trained parameter takes beside its weight: a gradient and the two moments of AdamW, in float32."""
_SHARE_OF_MEMORY = 0.5
"""Share of a device's memory that may be full before the first activation: a model that needs more is sharded."""


@attrs.frozen(kw_only=True)
class Plan:
    """Over how many processes a copy of the model is spread, how many copies there are, and why."""

    shard: int
    replicate: int
    reason: str = ""

    @property
    def shards(self) -> bool:
        """Whether the model is spread at all."""
        return self.shard > 1

    def __str__(self) -> str:
        """For the opening lines of a run."""
        if self.shards:
            copies = "" if self.replicate == 1 else f", in {self.replicate} copies (HSDP)"
            text = f"the model is sharded over {self.shard} processes{copies}"
        else:
            text = f"each of {self.replicate} processes holds the whole model"
        return f"{text}{self.reason and f' ({self.reason})'}"


def check_mesh(parallel: ParallelConfig, num_processes: int) -> None:
    """See that shards and copies make up the processes that were launched; those that share nothing are copies.

    Raises:
        UserInputError: They do not.
    """
    replicate = parallel.replicate
    if parallel.shard == "auto":
        if num_processes % replicate:
            raise UserInputError(
                f"training.parallel.replicate: {replicate} copies cannot share {num_processes} processes evenly; set a "
                f"divisor of {num_processes}"
            )
        return
    if parallel.shard == replicate == 1:
        return  # each holds all of it, however many there are
    if parallel.shard * replicate != num_processes:
        raise UserInputError(
            f"training.parallel: shard {parallel.shard} x replicate {replicate} needs {parallel.shard * replicate} "
            f"processes, and there {'is' if num_processes == 1 else 'are'} {num_processes}; launch as many, or set "
            "shard: auto"
        )


def make_plan(parallel: ParallelConfig, accelerator: Accelerator, num_bytes: Callable[[], int]) -> Plan:
    """What ``training.parallel`` comes to. The main process decides for all, which must call.

    ``auto`` spreads each of ``replicate`` copies over an equal part of the processes. With one copy, it leaves the
    model whole on each process where weights, gradients and AdamW fill at most half of the device; on the CPU always.

    Args:
        parallel: the setting; :func:`check_mesh` has seen it.
        accelerator: knows the processes.
        num_bytes: what a whole copy takes (:func:`bytes_of_whole_copy`), if it has to be known.
    """
    num_processes = int(accelerator.num_processes)
    if parallel.shard != "auto":
        return Plan(shard=parallel.shard, replicate=num_processes // parallel.shard)
    if parallel.replicate > 1 or num_processes == 1:
        return Plan(shard=num_processes // parallel.replicate, replicate=parallel.replicate)
    if accelerator.device.type == "cpu":
        return Plan(shard=1, replicate=num_processes, reason="training.parallel.shard: auto never shards on a CPU")

    def decide() -> Plan:
        needed = num_bytes()
        total = _device_bytes(accelerator)
        reason = f"{_gib(needed)} with gradients and optimizer, of {_gib(total)}"
        if needed <= _SHARE_OF_MEMORY * total:
            return Plan(shard=1, replicate=num_processes, reason=reason)
        return Plan(shard=num_processes, replicate=1, reason=reason)

    return on_main(accelerator, decide, "the device mesh")


def second_models(config: RunConfig) -> dict[str, bool]:
    """Whole models beside the trained one on each process, by what asks for them, and whether they are trained too.

    A reference that is the trained model without its adapters is none.
    """
    base = config.lora is not None  # there without another copy
    preference, rl = config.preference.reference, config.rl.reference
    wanted = {
        "mode preference": config.training.mode == "preference" and not (base and preference is None),
        "rl.reference (other than start with lora)": rl is not None and not (base and rl == START),
        "rl.value": config.rl.value is not None,
    }
    return {name: name == "rl.value" for name, is_wanted in wanted.items() if is_wanted}


def bytes_of_whole_copy(model: nn.Module) -> int:
    """What weights, gradients and AdamW's moments of a model take where nothing is sharded."""
    return sum(
        parameter.numel() * (parameter.element_size() + _GRADIENT_AND_MOMENTS * parameter.requires_grad)
        for parameter in model.parameters()
    )


def check_rollouts(model: nn.Module, accelerator: Accelerator) -> None:
    """See that a sharded model can be sampled from by each process alone: all weights are gathered meanwhile.

    Raises:
        UserInputError: They would fill more than half of the device.
    """
    if accelerator.device.type == "cpu":
        return
    needed, total = bytes_gathered(model, accelerator.mixed_precision), _device_bytes(accelerator)
    if needed > _SHARE_OF_MEMORY * total:
        raise UserInputError(
            f"training.parallel.shard: in mode rl each process samples with all weights, {_gib(needed)}, of "
            f"{_gib(total)}; half may be full: take a smaller model, or GPUs with more memory"
        )


def bytes_gathered(model: nn.Module, mixed_precision: str) -> int:
    """What the weights of a sharded model take where they are gathered, in the precision they compute in."""
    dtype = _COMPUTE_DTYPES[mixed_precision]
    return sum(each.numel() * (dtype or each.dtype).itemsize for each in model.parameters())


def _device_bytes(accelerator: Accelerator) -> int:
    return int(torch.get_device_module(accelerator.device).mem_get_info()[1])


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def device_mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    """The mesh of a plan that shards: ``(shard,)``, or ``(replicate, shard)`` with neighbouring ranks in a shard."""
    if plan.replicate == 1:
        return init_device_mesh(device.type, (plan.shard,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (plan.replicate, plan.shard), mesh_dim_names=("replicate", "shard"))


def build_model_for(
    plan: Plan, build: "Build", name_or_path: str | None, accelerator: Accelerator
) -> "tuple[PreTrainedModel, Weights, Contents | None]":
    """The model of a run, what of it is saved, and its contents where it is to be sharded first.

    Args:
        plan: of :func:`make_plan`.
        build: makes the model.
        name_or_path: where it comes from; None: from scratch.
        accelerator: knows the processes.

    Raises:
        DlmError: The model cannot be built.
    """
    if not plan.shards:
        # From the hub, hosts may not get it equally soon.
        return *on_all(accelerator, build, "the others to load the model"), None
    from dlm.training.meta_model import build_on_meta

    return build_on_meta(build, name_or_path, accelerator)


def distribute(
    objective: DiffusionObjective,
    model: PreTrainedModel,
    plan: Plan,
    accelerator: Accelerator,
    contents: "Contents | None",
) -> nn.Module:
    """The objective as it is trained: sharded in place and filled, or prepared by accelerate.

    Optimizers are built afterwards.

    Args:
        objective: of ``model``.
        model: of :func:`build_model_for`.
        plan: of :func:`make_plan`.
        accelerator: knows the processes.
        contents: of the model, where the plan shards.
    """
    if contents is None:
        model.to(accelerator.device)  # 8-bit optimizers try themselves out on the device of the parameters
        whole: nn.Module = accelerator.prepare(objective)
        return whole
    from dlm.training.meta_model import fill, prove

    shard(objective, model, device_mesh(plan, accelerator.device), accelerator.mixed_precision)
    fill(model, contents, accelerator)
    if not contents.is_proved:
        prove(objective, model, accelerator)
    # Autocast alone: in training, accelerate would average gradients as well (DDP).
    sharded: nn.Module = accelerator.prepare_model(objective, device_placement=False, evaluation_mode=True)
    return sharded


def shard(objective: DiffusionObjective, model: PreTrainedModel, mesh: DeviceMesh, mixed_precision: str) -> None:
    """Spread the parameters of ``objective``, which are those of ``model``, over a mesh, in place.

    Optimizers are built afterwards, from the parameters that are left: ``DTensor`` with a share of each.

    Args:
        objective: its forward pass is the only one, but for :func:`dlm.training.sharding.lend`.
        model: knows its decoder layers.
        mesh: of :func:`device_mesh`.
        mixed_precision: ``no``, ``fp16`` or ``bf16``.

    Raises:
        UserInputError: The model does not say which of its modules are decoder layers.
    """
    policy = precision_policy(mixed_precision)
    for layer in decoder_layers(model, wanted_by="training.parallel"):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for method in (DiffusionObjective.lend, DiffusionObjective.log_probabilities):
        register_fsdp_forward_method(objective, method.__name__)


def precision_policy(mixed_precision: str) -> MixedPrecisionPolicy:
    """How a sharded model computes under ``training.mixed_precision``: ``no``, ``fp16`` or ``bf16``.

    Weights are kept as they are (``model.dtype``) and gathered in that precision; gradients are summed in float32, over
    processes and micro-batches. What a module returns stays as it is: the objective returns sums and counts, which half
    precision would round.
    """
    dtype = _COMPUTE_DTYPES[mixed_precision]
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)


_FOREIGN_SHARDING = {
    "ACCELERATE_USE_FSDP": "to shard the model (FSDP)",
    "ACCELERATE_USE_DEEPSPEED": "to use DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "to use Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "to split the model or its rows (parallelism_config: TP, CP, HSDP)",
}
"""What ``accelerate launch`` leaves in the environment for what dlm leaves to torch's ``fully_shard``."""


def refuse_foreign_sharding() -> None:
    """Refuse what a launcher was told to do to the model: the run file says it, in one place.

    Raises:
        UserInputError: accelerate was told to shard, to use DeepSpeed, or tensor parallelism; with the equivalent.
    """
    for variable, what in _FOREIGN_SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            processes, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            equivalent = f"{{shard: {processes}}}" if processes > 1 else "{shard: auto}"
            if 1 < local < processes:
                equivalent += f", or {{shard: {local}, replicate: {processes // local}}} for a copy on each host"
            raise UserInputError(
                f"accelerate was told {what}; dlm shards with torch's own FSDP2 instead: take that out of accelerate's "
                f"configuration, and set training.parallel: {equivalent}"
            )
