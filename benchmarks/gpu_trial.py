"""A training step of the product on random tokens, as a run file describes it: what ``gpu_parts.py`` measures."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from dlm.config import load_mapping, run_components
from dlm.data.batch import Batch, StepBatch
from dlm.diffusion.forward_process import ForwardProcess
from dlm.diffusion.layout import training_layout, with_clean_copy
from dlm.diffusion.vocabulary import Vocabulary
from dlm.model.attention import Visibility
from dlm.model.body_and_head import split
from dlm.model.from_scratch import model_from_config
from dlm.training.assembly import build_accelerator
from dlm.training.model_and_noise import build_forward_process, build_objective, build_random_length, choose_attention
from dlm.training.optimisation import build_scheduler, parameter_groups
from dlm.training.step import TrainingStep
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY

VOCABULARY_SIZE, MASK_ID = 151_936, 151_669
BLOCK_LENGTH = 32
RunFile = dict[str, Any]


@attrs.frozen(kw_only=True)
class Shape:
    """A model, and the rows it is given."""

    config: Mapping[str, Any]
    num_rows: int
    length: int
    vocabulary_size: int = VOCABULARY_SIZE
    mask_id: int = MASK_ID

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.length


def qwen3(hidden: int, intermediate: int, layers: int, heads: int, groups: int, tied: bool) -> dict[str, Any]:
    """Configuration of a Qwen3 with heads of 128."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "tie_word_embeddings": tied,
    }


QWEN3_06B = qwen3(1024, 3072, 28, 16, 8, tied=True)
QWEN3_8B_SLICE = qwen3(4096, 12_288, 4, 32, 8, tied=False)
SMALL = {**qwen3(256, 768, 4, 4, 2, tied=True), "head_dim": 64, "initializer_range": 0.06}
TINY = {**qwen3(32, 64, 2, 2, 1, tied=True), "head_dim": 16, "initializer_range": 0.1}


def run_file(
    shape: Shape, *, bias: str = "full", attention: str = "sdpa", precision: str = "no", compiles: bool = False
) -> RunFile:
    """The run file of a trial; callers add to it what they vary."""
    return {
        "model": {
            "config": dict(shape.config),
            "tokenizer": {"train": {}},
            "attn_implementation": attention,
        },
        "training": {
            "output_dir": "never-written",
            "max_steps": 1000,
            "batch_size": shape.num_rows,
            "mixed_precision": precision,
            "compile": compiles,
            "noise": {"random_length_prob": 0.0},
            "block_attention": {"enabled": bias != "full", "block_length": BLOCK_LENGTH, "bias": bias},
        },
        "dataset": {"name": "python-docs", "max_length": shape.length},
        "optim": {"name": "adamw", "lr": 1e-4, "lr_scheduler": "constant", "warmup_ratio": 0.0},
        "evaluation": {"do_eval_loss": False},
    }


@attrs.frozen(kw_only=True)
class Trial:
    """A step that is ready to be taken."""

    model: Any
    step: TrainingStep
    process: ForwardProcess
    batch: StepBatch
    """On the host, as a loader gives it."""


def build(values: RunFile, shape: Shape, *, documents: int = 1, padding: int = 0) -> Trial:
    """A model with random weights, made on the device, and everything around it, from the run file ``values``.

    Raises:
        DlmError: The product refuses such a run.
    """
    loaded = load_mapping(values)
    config = loaded.config
    components = run_components(config, loaded.registry)
    accelerator = build_accelerator(config)
    torch.manual_seed(0)
    with torch.device(accelerator.device):  # filling a billion weights on the host would take longer than the steps
        model: Any = model_from_config(
            shape.config,
            vocab_size=shape.vocabulary_size,
            mask_token_id=shape.mask_id,
            dtype=config.model.dtype,
        )
    choose_attention(config, model, components, accelerator.device)
    model.to(accelerator.device).train()
    vocabulary = Vocabulary(
        size=shape.mask_id + 1,
        mask_id=shape.mask_id,
        special_ids=torch.tensor([shape.mask_id]),
        starts_word=torch.ones(shape.mask_id + 1, dtype=torch.bool),
    )
    objective: nn.Module = build_objective(model, config, components, vocabulary)
    optimizer = config.optim.optimizer.build(parameter_groups(model))
    scheduler = build_scheduler(config.optim, optimizer, 1000)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    process = build_forward_process(config, components, loaded.registry, vocabulary)
    step = TrainingStep(
        accelerator=accelerator,
        objective=objective,
        forward_process=process,
        random_length=build_random_length(config),
        optimizer=optimizer,
        scheduler=scheduler,
        max_grad_norm=config.training.max_grad_norm,
        seed=0,
        typical_normaliser=float(shape.num_tokens),
    )
    batch = random_batch(shape, documents=documents, padding=padding)
    micro = StepBatch(
        epoch=0, epoch_batch=0, num_rows=shape.num_rows, micro_batches=[batch], row_ids=tuple(range(shape.num_rows))
    )
    return Trial(model=model, step=step, process=process, batch=micro)


def random_batch(shape: Shape, *, documents: int = 1, padding: int = 0) -> Batch:
    """Rows of random tokens on the host: several isolated documents each, and padding at the end of odd rows."""
    ids = torch.randint(shape.mask_id, (shape.num_rows, shape.length), generator=torch.Generator().manual_seed(0))
    place = torch.arange(shape.length).expand_as(ids)
    each = -(-shape.length // documents)
    is_padding = (place >= shape.length - padding) & (torch.arange(shape.num_rows)[:, None] % 2 == 1)
    return Batch(
        input_ids=ids,
        document_id=torch.where(is_padding, -1, place // each),
        position=torch.where(is_padding, 0, place % each),
        eligible=~is_padding,
        answer_start=torch.zeros_like(ids),
        answer_length=None,
        row_index=torch.arange(shape.num_rows),
        isolate_documents=documents > 1,
    )


def plain_loss(model: Any, noised: Any) -> Tensor:
    """The guideline: logits everywhere, then the masked ones; cross-entropy over p, averaged over all tokens."""
    masked = noised.corrupted
    logits = model(input_ids=noised.noisy_ids).logits
    losses = nn.functional.cross_entropy(logits[masked], noised.clean.input_ids[masked], reduction="none")
    loss: Tensor = (losses / noised.p_mask[masked]).sum() / masked.numel()
    return loss


def work_of(trial: Trial, shape: Shape) -> float:
    """Floating-point operations that a step needs: what is hidden does not count, nor does what is computed again."""
    parts, config = split(trial.model), trial.model.config
    objective = trial.step.accelerator.unwrap_model(trial.step.objective)
    bias = objective._attention.bias
    batch = trial.batch.micro_batches[0]
    layout, copies = training_layout(batch, BLOCK_LENGTH), 1
    if NEEDS_CLEAN_COPY.of(bias):
        layout, copies = with_clean_copy(layout), 2
    visible = Visibility(
        layout=layout, bias=bias, isolate_documents=batch.isolate_documents, has_padding=batch.has_padding
    ).dense()
    positions = copies * shape.length
    pairs = positions**2 if visible is None else float(visible.sum(dtype=torch.float64)) / shape.num_rows
    linear = sum(module.weight.numel() for module in parts.body.modules() if isinstance(module, torch.nn.Linear))
    attention = 2 * config.num_attention_heads * config.head_dim * pairs * config.num_hidden_layers
    scored = float(trial.process(batch, step=0, num_rows=shape.num_rows).corrupted.sum())
    return 6 * (shape.num_rows * (positions * linear + attention) + scored * parts.head.weight.numel())
