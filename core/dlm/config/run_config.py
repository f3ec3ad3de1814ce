"""Every key of the run file, in sections model, lora, training (mixed precision), noise, dataset; where each belongs.

Also ``logging`` and ``plugins``; ``optim`` and ``sampling`` have files beside this one, as they are used without a run
file too.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import attrs
from attrs.validators import and_, ge, gt, lt, min_len, optional

from dlm.config.eval_options import EvalOptions
from dlm.config.fields import (
    FRACTION,
    POSITIVE,
    POSITIVE_OR_NULL,
    PROPER_FRACTION,
    auto_or_above,
    component_setting,
    section,
    setting,
)
from dlm.config.optim_section import DEFAULT_OPTIMIZER, OptimConfig
from dlm.config.preference_section import PreferenceConfig
from dlm.config.rl_section import RlConfig
from dlm.config.sampling_settings import SamplingSettings
from dlm_plugins import KINDS, Metric
from dlm_plugins.attention_bias import AttentionBias
from dlm_plugins.field_metadata import BESIDE, UNSTRUCTURED_DEFAULT
from dlm_plugins.loss import Loss
from dlm_plugins.masking import Masking
from dlm_plugins.noise_schedule import NoiseSchedule
from dlm_plugins.noise_type import NoiseType
from dlm_plugins.problems import join_path
from dlm_plugins.registry import Registry
from dlm_plugins.strict_types import fields_by_key, is_component, is_required, is_union


@attrs.frozen(kw_only=True)
class TokenizerTrainingConfig:
    """A tokenizer that is trained on the dataset of the run."""

    vocab_size: int = setting("Number of entries of the vocabulary, special tokens included.", 4096, POSITIVE)


@attrs.frozen(kw_only=True)
class TokenizerConfig:
    """A tokenizer that does not exist yet."""

    train: TokenizerTrainingConfig = section("Train a byte-level BPE tokenizer on the dataset.")


@attrs.frozen(kw_only=True)
class ModelConfig:
    """Which model is trained, and how it is loaded."""

    name_or_path: str | None = setting(
        "Hub name or folder of a decoder; null for a model from scratch, described by `config`.",
        None,
        optional(min_len(1)),
    )
    config: Mapping[str, Any] | None = setting(
        "Configuration of a model from scratch, keys as in transformers: {model_type: qwen3llada, hidden_size: 192}.",
        None,
    )
    tokenizer: str | TokenizerConfig | None = setting(
        "Hub name or folder; null for the model's own; {train: {vocab_size: 4096}} trains one on the dataset.", None
    )
    mask_token: str | None = setting(
        "Text of the mask token; null for the one the tokenizer declares, else <|mask|>, which is added.",
        None,
        optional(min_len(1)),
    )
    logit_shift: bool = setting(
        "Predict position i from hidden state i-1, as the autoregressive parent did.", default=False
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = setting("Data type of the weights.", "float32")
    attn_implementation: Literal["auto", "sdpa", "flex_attention", "eager"] = setting(
        "Attention implementation of transformers; auto: flex_attention on a GPU where anything is hidden, else sdpa.",
        "auto",
    )


@attrs.frozen(kw_only=True)
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning."""

    r: int = setting("Rank of the adapters.", 16, POSITIVE)
    alpha: float = setting("Scale: the adapters' output is multiplied by alpha / r.", 32.0, POSITIVE)
    dropout: float = setting("Dropout in front of the adapters.", 0.0, PROPER_FRACTION)
    targets: Sequence[str] | None = setting(
        "Names of the linear layers that get an adapter; null for all but the head.", None, optional(min_len(1))
    )


@attrs.frozen(kw_only=True)
class NoiseConfig:
    """How clean text becomes noisy text."""

    schedule: NoiseSchedule = component_setting("Mask rate p as a function of diffusion time t.", "uniform")
    noise_type: NoiseType = component_setting("What stands at a corrupted position.", "mask")
    masking: Masking = component_setting("Which positions are corrupted, given p.", "bernoulli")
    t_sampling: Literal["stratified", "independent"] = setting(
        "How t is drawn over the rows of a step: spread evenly, or each row on its own.", "stratified"
    )
    t_per: Literal["sequence", "block", "token"] = setting("What gets a t of its own.", "sequence")
    min_masking_rate: float = setting(
        "Lower bound of p: noise is drawn and weighted with the bounded rate.", 0.001, PROPER_FRACTION
    )
    mask_contiguous_region_prob: float = setting(
        "Probability that a row is corrupted in one contiguous span instead of by `masking`.", 0.0, FRACTION
    )
    reweight_cap: float | None = setting("Upper bound of the weight 1/p; null for none.", None, optional(ge(1)))
    random_length_prob: float = setting(
        "Probability that a step's rows are cut to a random length; pre-training only.", 0.01, FRACTION
    )


@attrs.frozen(kw_only=True)
class BlockAttentionConfig:
    """Attention by blocks, the same in training and in sampling."""

    enabled: bool = setting("Restrict who sees whom by blocks; false: everybody sees everybody.", default=False)
    block_length: int = setting(
        "Length of a block, counted from `origin` (pre-training: from the start of the document).", 32, POSITIVE
    )
    bias: AttentionBias = component_setting("Which blocks see which.", "block")
    origin: Literal["answer", "document"] = setting(
        "Where blocks start in fine-tuning: at the answer, or at the prompt, as SGLang and lmdeploy count them. "
        "Pre-training: always at the document.",
        "answer",
    )


@attrs.frozen(kw_only=True)
class ParallelConfig:
    """How several processes share the model."""

    shard: Literal["auto"] | int = setting(
        "Processes that a copy of the model is spread over (FSDP); 1: each holds all of it; auto: where a whole model "
        "would fill more than half of the device, all of them.",
        "auto",
        auto_or_above(0),
    )
    replicate: int = setting(
        "Copies of the model; beside shard, HSDP: spread within each group of neighbouring processes.", 1, POSITIVE
    )
    timeout_seconds: float = setting(
        "How long a process waits for the others before it ends with exit code 70.", 600.0, POSITIVE
    )


@attrs.frozen(kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and where a run continues."""

    every_steps: int = setting("Steps between two checkpoints.", 500, POSITIVE)
    keep_last: int = setting("How many of the newest checkpoints are kept; the best one is kept besides.", 3, POSITIVE)
    format: Literal["auto", "single", "sharded"] = setting(
        "single: one Hugging Face folder, written by one process; sharded: each process writes its part; auto: sharded "
        "where the model is.",
        "auto",
    )
    resume: str | None = setting(
        "latest: continue where the newest checkpoint ends; none: start anew; or the path of a checkpoint; "
        "null: start, but refuse a folder that holds checkpoints.",
        None,
        optional(min_len(1)),
    )


@attrs.frozen(kw_only=True)
class TrainingConfig:
    """What is trained, for how long, and with which noise."""

    mode: Literal["pretrain", "sft", "preference", "rl"] = setting(
        "Pre-training on text, fine-tuning on conversations, learning from pairs of answers (loss dpo), or from "
        "rewards (section rl).",
        "pretrain",
    )
    output_dir: str = setting("Folder for everything the run writes.", validator=min_len(1))
    seed: int = setting("Seed of everything random.", 0, and_(ge(0), lt(2**32)))
    max_steps: int | None = setting("Number of optimizer steps; this or num_epochs.", None, POSITIVE_OR_NULL)
    num_epochs: int | None = setting("Passes over the dataset; this or max_steps.", None, POSITIVE_OR_NULL)
    batch_size: int = setting("Rows per process and micro-step.", 8, POSITIVE)
    gradient_accumulation_steps: int = setting("Micro-steps per optimizer step.", 1, POSITIVE)
    loss_impl: Loss = component_setting("Which positions are scored, with which weight.", "guidelines")
    noise: NoiseConfig = section("Noise of pre-training.")
    sft_noise: NoiseConfig = section("Noise of fine-tuning; left out, it is LLaDA's: uniform, mask, bernoulli.")
    block_attention: BlockAttentionConfig = section("Attention by blocks.")
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("Automatic mixed precision.", "no")
    deterministic: Literal["auto", True, False] = setting(
        "Deterministic algorithms: the same run twice gives the same weights; auto: on the CPU, where they are cheap.",
        "auto",
    )
    parallel: ParallelConfig = section("Several processes: what they share; needs a launcher (torchrun, accelerate).")
    gradient_checkpointing: bool = setting(
        "Compute activations again in the backward pass: less memory.", default=False
    )
    compile: bool = setting("Compile the decoder layers with torch.compile.", default=False)
    max_grad_norm: float | None = setting("Gradients are clipped to this norm; null: never.", 1.0, POSITIVE_OR_NULL)
    checkpoint: CheckpointConfig = section("Checkpoints and resumption.")

    @property
    def active_noise(self) -> NoiseConfig:
        """The noise of this run's mode."""
        return self.sft_noise if self.mode == "sft" else self.noise


@attrs.frozen(kw_only=True)
class MixtureSource:
    """One data set of several."""

    name: str = setting("As dataset.name.", validator=min_len(1))
    weight: float = setting("Share of the rows, beside the weights of the others.", validator=and_(gt(0), lt(math.inf)))


@attrs.frozen(kw_only=True)
class DatasetConfig:
    """What is read, and how rows are made of it."""

    name: str | None = setting(
        "python-docs or sums (built in), a hub name, ./file or ./folder (txt, json, jsonl, csv, parquet), or pkg://package/path.",
        None,
        optional(min_len(1)),
    )
    mixture: Sequence[MixtureSource] | None = setting(
        "Instead of name, several of these with the share of the rows that each has: [{name: ./a, weight: 3}, ...].",
        None,
        optional(min_len(1)),
    )
    split: str = setting("Split of the dataset.", "train", min_len(1))
    text_column: str | None = setting(
        "Column that holds the text; null: found by itself. Pre-training only.", None, optional(min_len(1))
    )
    streaming: bool = setting("Read on the fly instead of preparing everything first.", default=False)
    shuffle_buffer: int = setting(
        "Rows of a stream that are read before they are taken in a random order; 1: as they come. Streaming only.",
        1024,
        ge(1),
    )
    max_length: int = setting("Longest row, in tokens.", 512, ge(2))
    pack: bool = setting(
        "Fill rows with several documents. Default: true in pre-training, false in fine-tuning.", default=True
    )
    isolate_documents: bool = setting(
        "Hide the documents of a packed row from each other. Fine-tuning always does.", default=False
    )
    num_workers: Literal["auto"] | int = setting(
        "Processes that prepare batches (of a stream: tokenize ahead); 0: the main process; auto: one for a stream "
        "beside a GPU, else 0.",
        "auto",
        auto_or_above(-1),
    )
    format: Literal["conversations", "messages", "prompt_response", "instruction"] | None = setting(
        "Format of the conversations; null: found by itself. Fine-tuning only.", None
    )
    train_on: Literal["each_answer", "last_answer"] = setting(
        "One row for each answer, or for the last one only. Fine-tuning only.", "each_answer"
    )
    eos_padding: Literal["first", "all", "none"] = setting(
        "Which end-of-text tokens behind an answer are trained. Fine-tuning only.", "first"
    )
    chat_template: bool = setting(
        "Render with the tokenizer's chat template instead of plainly. Fine-tuning only.", default=False
    )
    reasoning: Literal["train", "drop"] = setting(
        "Reasoning in answers (<think>, reasoning_content): train it with the answer, or drop it. Fine-tuning only.",
        "train",
    )
    long_rows: Literal["truncate_answer", "drop", "error"] = setting(
        "What happens to conversations longer than max_length. Fine-tuning only.", "truncate_answer"
    )
    on_bad_row: Literal["error", "skip"] = setting(
        "What happens to rows that cannot be used. Fine-tuning only.", "error"
    )


@attrs.frozen(kw_only=True)
class EvaluationConfig:
    """What is measured during training; at step 0 too."""

    do_eval_loss: bool = setting("Measure loss and accuracy on held-out rows.", default=True)
    eval_every_steps: int = setting("Steps between two evaluations.", 200, POSITIVE)
    fraction: float = setting(
        "Share of the rows held out when there is no split of their own.", 0.05, and_(gt(0), lt(1))
    )
    split: str | None = setting("Split to evaluate on, instead of a fraction.", None, optional(min_len(1)))
    max_rows: int = setting(
        "Most held-out rows that are evaluated: where there are more, a fixed sample.", 2000, POSITIVE
    )
    sample_prompts: Sequence[str] = setting("Prompts that are continued at each evaluation.", ())
    metrics: Sequence[Metric] = setting("Metrics of `dlm eval`; empty: those that fit what is evaluated.", ())
    at_end: EvalOptions | None = setting(
        "Evaluate the final model as `dlm eval` does: report.json and report.html in the output folder; {}: with the "
        "defaults; null: not.",
        None,
    )


@attrs.frozen(kw_only=True)
class LoggingConfig:
    """What is reported, and where."""

    every_steps: int = setting("Steps between two lines of metrics.jsonl.", 10, POSITIVE)
    trackers: Sequence[str] = setting("Trackers of accelerate: tensorboard, wandb, ...", ())


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """Which plugins the run may and must use."""

    disable: Sequence[str] = setting("Names of plugins that are not loaded; `all`: every third-party one.", ())
    require: Sequence[str] = setting("Distributions that must be installed: dlm-acme>=0.3.", ())


@attrs.frozen(kw_only=True)
class RunConfig:
    """Everything a run depends on."""

    model: ModelConfig = section("The model.")
    training: TrainingConfig = section("The training.")
    dataset: DatasetConfig = section("The data.")
    optim: OptimConfig = attrs.field(
        metadata={
            "help": "The optimizer by name with its options, and the course of the learning rate.",
            UNSTRUCTURED_DEFAULT: {"name": DEFAULT_OPTIMIZER},
        }
    )
    lora: LoraConfig | None = setting(
        "Train low-rank adapters only (extra: dlm[lora]), to be merged by dlm merge; null: all weights.", None
    )
    preference: PreferenceConfig = section("Learning from preferences.")
    rl: RlConfig = section("Learning from rewards.")
    evaluation: EvaluationConfig = section("Evaluation during training.")
    sampling: SamplingSettings = section("Generation of samples.")
    logging: LoggingConfig = section("Metrics and trackers.")
    plugins: PluginsConfig = section("Third-party plugins.")


def places_of(registry: Registry) -> dict[str, str]:
    """Dotted path by key, for every key that only one place has; options of components included."""
    paths = list(dict.fromkeys((*_paths_below(RunConfig, ""), *_option_paths(registry))))
    count = Counter(path.rpartition(".")[2] for path in paths)
    return {key: path for path in paths if count[key := path.rpartition(".")[2]] == 1}


def short_forms() -> dict[str, str | None]:
    """Keys whose value may be a name or a mapping with ``name``, each with the name that stands there by default."""
    return {"optim": DEFAULT_OPTIMIZER, **dict(_short_forms(RunConfig, ""))}


def sections_of(expected: Any) -> list[Any]:
    """The attrs classes that a key of this type may hold."""
    return [member for member in (get_args(expected) if is_union(expected) else (expected,)) if attrs.has(member)]


def _paths_below(cls: Any, path: str) -> Iterator[str]:
    for key, field in fields_by_key(cls).items():
        place = join_path(path, key)
        # Fine-tuning's noise has the keys of pre-training's: a key means the latter. The optimizer of a value model is
        # not what `optimizer` means elsewhere, which is the section optim.
        if key == "sft_noise" or place == "rl.value.optimizer" or field.metadata.get(BESIDE):
            continue
        yield place
        if key == "at_end":
            continue  # its seed is not the one that is meant without a section
        for member in sections_of(field.type):
            yield from _paths_below(member, place)


def _short_forms(cls: Any, path: str) -> Iterator[tuple[str, str | None]]:
    for key, field in fields_by_key(cls).items():
        if field.metadata.get(BESIDE):
            continue
        members = get_args(field.type) if is_union(field.type) else (field.type,)
        has_name = len(members) > 1 and any(map(_has_name, members))
        if not is_required(field) and (has_name or any(map(is_component, members))):
            default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
            yield join_path(path, key), default if isinstance(default, str) else None
        for member in sections_of(field.type):
            yield from _short_forms(member, join_path(path, key))


def _has_name(member: Any) -> bool:
    return attrs.has(member) and "name" in fields_by_key(member)


def _option_paths(registry: Registry) -> Iterator[str]:
    for entry in registry.entries():
        for key in fields_by_key(entry.cls):
            yield join_path(KINDS[entry.kind].key, key)
