"""Keys of ``training``: steps, batch size, accumulation, clipping, mixed precision, checkpoints, block attention."""

from typing import Literal

import attrs
from attrs.validators import and_, ge, lt, min_len, optional

from dlm.config.fields import POSITIVE, POSITIVE_OR_NULL, component, section, setting
from dlm.config.noise import NoiseConfig
from dlm_plugins.attention_bias import AttentionBias
from dlm_plugins.loss import Loss


@attrs.frozen(kw_only=True)
class BlockAttentionConfig:
    """Attention by blocks, the same in training and in sampling."""

    enabled: bool = setting("Restrict who sees whom by blocks; false: everybody sees everybody.", default=False)
    block_length: int = setting(
        "Length of a block, counted from the start of the answer (pre-training: of the document).", 32, POSITIVE
    )
    bias: AttentionBias = component("Which blocks see which.", "block")


@attrs.frozen(kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and where a run continues."""

    every_steps: int = setting("Steps between two checkpoints.", 500, POSITIVE)
    keep_last: int = setting("How many of the newest checkpoints are kept; the best one is kept besides.", 3, POSITIVE)
    resume: str | None = setting(
        "latest: continue where the newest checkpoint ends; none: start anew; or the path of a checkpoint; "
        "null: start, but refuse a folder that holds checkpoints.",
        None,
        optional(min_len(1)),
    )


@attrs.frozen(kw_only=True)
class TrainingConfig:
    """What is trained, for how long, and with which noise."""

    mode: Literal["pretrain", "sft"] = setting("Pre-training on text, or fine-tuning on conversations.", "pretrain")
    output_dir: str = setting("Folder for everything the run writes.", validator=min_len(1))
    seed: int = setting("Seed of everything random.", 0, and_(ge(0), lt(2**32)))
    max_steps: int | None = setting("Number of optimizer steps; this or num_epochs.", None, POSITIVE_OR_NULL)
    num_epochs: int | None = setting("Passes over the dataset; this or max_steps.", None, POSITIVE_OR_NULL)
    batch_size: int = setting("Rows per process and micro-step.", 8, POSITIVE)
    gradient_accumulation_steps: int = setting("Micro-steps per optimizer step.", 1, POSITIVE)
    loss_impl: Loss = component("Which positions are scored, with which weight.", "guidelines")
    noise: NoiseConfig = section("Noise of pre-training.")
    sft_noise: NoiseConfig = section("Noise of fine-tuning; left out, it is LLaDA's: uniform, mask, bernoulli.")
    block_attention: BlockAttentionConfig = section("Attention by blocks.")
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("Automatic mixed precision.", "no")
    deterministic: bool = setting("Deterministic algorithms: the same run twice gives the same weights.", default=True)
    gradient_checkpointing: bool = setting(
        "Compute activations again in the backward pass: less memory.", default=False
    )
    compile: bool = setting("Compile the model with torch.compile.", default=False)
    max_grad_norm: float | None = setting("Gradients are clipped to this norm; null: never.", 1.0, POSITIVE_OR_NULL)
    checkpoint: CheckpointConfig = section("Checkpoints and resumption.")

    @property
    def active_noise(self) -> NoiseConfig:
        """The noise of this run's mode."""
        return self.sft_noise if self.mode == "sft" else self.noise
