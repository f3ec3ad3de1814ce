"""No setting is without effect: a changed value changes what a run does or says, or it is refused.

Tried on pairs of keys, because it is mostly the value of another key that makes one idle.
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.config import config_to_mapping, load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.errors import DlmError
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine
from dlm.training.run_identity import flatten

PAIRS = 12
RUN = """\
model:
  config: {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2, head_dim: 8, max_position_embeddings: 256, initializer_range: 0.4}
  tokenizer: tokenizer
training: {output_dir: out, max_steps: 4, batch_size: 4, block_attention: {block_length: 4}}
dataset: {name: texts, max_length: 24, on_bad_row: skip}
optim: {lr: 1.0e-2, warmup_ratio: 0.25}
evaluation: {fraction: 0.2, sample_prompts: [the noise]}
sampling: {gen_length: 8, steps: 4, temperature: 1.0}
"""
NOISE = {
    "schedule": "cosine",
    "noise_type": "random_replace",
    "masking": "contiguous",
    "t_sampling": "independent",
    "t_per": "token",
    "min_masking_rate": "0.4",
    "mask_contiguous_region_prob": "0.9",
    "reweight_cap": "1.5",
}
CHANGED = {
    "model.mask_token": "<|hole|>",
    "model.tokenizer": "other-tokenizer",
    "model.logit_shift": "true",
    "model.dtype": "float64",
    "model.attn_implementation": "eager",
    "training.output_dir": "elsewhere",
    "training.seed": "1",
    "training.max_steps": "3",
    "training.batch_size": "2",
    "training.gradient_accumulation_steps": "2",
    "training.loss_impl": "soft_ce",
    **{f"training.noise.{key}": value for key, value in NOISE.items()},
    "training.noise.random_length_prob": "1.0",
    **{f"training.sft_noise.{key}": value for key, value in NOISE.items()},
    "training.sft_noise.random_length_prob": "1.0",
    "training.mixed_precision": "bf16",
    "training.deterministic": "false",
    "training.parallel.shard": "2",
    "training.parallel.replicate": "2",
    "training.gradient_checkpointing": "true",
    "training.compile": "true",
    "training.max_grad_norm": "1e-3",
    "training.checkpoint.every_steps": "2",
    "training.checkpoint.keep_last": "1",
    "training.checkpoint.resume": "out/checkpoints/step-1",
    "training.checkpoint.format": "sharded",
    "dataset.text_column": "other",
    "dataset.max_length": "20",
    "dataset.isolate_documents": "true",
    "dataset.num_workers": "1",
    "dataset.shuffle_buffer": "2",
    "dataset.on_bad_row": "error",
    "dataset.format": "prompt_response",
    "dataset.train_on": "last_answer",
    "dataset.eos_padding": "none",
    "dataset.chat_template": "true",
    "dataset.reasoning": "drop",
    "dataset.long_rows": "drop",
    "optim.lr": "0.02",
    "optim.betas": "[0.5, 0.5]",
    "optim.eps": "0.1",
    "optim.weight_decay": "0.5",
    "optim.lr_scheduler": "constant",
    "optim.warmup_ratio": "0.0",
    "evaluation.eval_every_steps": "3",
    "evaluation.fraction": "0.3",
    "evaluation.max_rows": "1",
    "logging.every_steps": "3",
}
SWITCHES = {
    "streaming": ("dataset.streaming=true", "evaluation.split=test", "evaluation.fraction=0.05"),
    "unevaluated stream": ("dataset.streaming=true", "evaluation.do_eval_loss=false"),
    "not evaluated": ("evaluation.do_eval_loss=false",),
    "nothing watched": ("evaluation.do_eval_loss=false", "evaluation.sample_prompts=[]"),
    "a split of its own": ("evaluation.split=test", "evaluation.fraction=0.05"),
    "fine-tuning": ("training.mode=sft", "dataset.name=talks"),
    "not packed": ("dataset.pack=false",),
    "blocks": ("training.block_attention.enabled=true",),
    "spans": ("training.noise.mask_contiguous_region_prob=1.0",),
    "causal blocks": ("training.block_attention.enabled=true", "training.block_attention.bias=block_causal"),
    "elbo": ("training.loss_impl=elbo", "training.noise.schedule={name: uniform, eps: 0.0}"),
    "constant": ("optim.lr_scheduler=constant",),
    "nothing": (),
}
ELSEWHERE = {
    "model.name_or_path": "another model instead of the one from scratch",
    "model.config": "as above",
    "training.mode": "among the switches",
    "training.num_epochs": "another way to say max_steps",
    "training.block_attention": "among the switches; idle while it is not enabled",
    "dataset.name": "other data",
    "dataset.split": "other data",
    "dataset.mixture": "other data",
    "dataset.streaming": "among the switches",
    "dataset.pack": "among the switches",
    "training.parallel.timeout_seconds": "needs a process that waits for another",
    "evaluation.metrics": "read by dlm eval",
    "evaluation.at_end": "after the run; tests/cli/test_eval_at_end.py",
    "optim.name": "needs bitsandbytes",
    "optim.warmup_steps": "another way to say warmup_ratio",
    "preference": "read in mode preference",
    "rl": "read in mode rl",
    "lora": "needs a pretrained model",
    "evaluation.do_eval_loss": "among the switches",
    "evaluation.split": "among the switches",
    "evaluation.sample_prompts": "among the switches",
    "logging.trackers": "needs their packages",
    "sampling": "used by `dlm generate --config` whatever the run does",
    "plugins": "names that are not there are refused",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in two columns and two splits, conversations in which every way to treat them matters, two tokenizers."""
    folder = tmp_path_factory.mktemp("keys")
    words = random.Random(3)
    vocabulary = ["masked", "language", "model", "predicts", "the", "noise", "of", "a", "token", "row", "and", "block"]

    def text(length: int) -> str:
        return " ".join(words.choices(vocabulary, k=length))

    texts = [{"text": text(words.randint(2, 9)), "other": text(4)} for _ in range(60)]
    thinking = "<think>why</think> "
    talks = [
        {
            "messages": [
                {"role": ("user", "assistant")[k % 2], "content": thinking * (k % 2) + text(k + 1)}
                for k in range(2 * n)
            ]
        }
        for n in (1, 2, 1, 1) * 8
    ]
    talks.append({"messages": []})
    for name, rows in {
        "texts/train": texts[:50],
        "texts/test": texts[50:],
        "talks/train": talks,
        "talks/test": talks[:4],
    }.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, size in (("tokenizer", 280), ("other-tokenizer", 270)):
        train_tokenizer([row["text"] for row in texts], vocab_size=size).save_pretrained(folder / name)
    (folder / "run.yaml").write_text(RUN)
    return folder


def digest(value: Any) -> Any:
    """Something that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if attrs.has(type(value)):
        return {field.name: digest(getattr(value, field.name)) for field in attrs.fields(type(value))}
    return value


def effects(engine: Engine) -> Iterator[Any]:
    """What the run does: batches with their noise, losses and weights, how and when it is watched and saved."""
    step, loader, saver = engine.step, engine.data.loader, engine.saver
    batches = list(zip(range(3), loader.steps(), strict=False))
    for number, batch in batches:
        for micro in batch.micro_batches:
            cut = step.random_length(micro, number)
            yield digest(step.forward_process(cut, step=number, num_rows=batch.num_rows))
    model, tokenizer = saver.objects.model, saver.objects.tokenizer
    compiles = any(module._compiled_call_impl is not None for module in step.objective.body.modules())
    yield compiles
    if not compiles:  # it would take half a minute to do the same
        for number, batch in batches:
            yield step(batch, number).grad_norm
        yield [digest(parameter) for parameter in model.parameters()]
        yield engine.evaluation and engine.evaluation().loss
        yield [completion.ids for completion in engine.sampler()]
    yield model.config.to_dict(), model.dtype, model.config._attn_implementation, model.is_activation_checkpointing
    yield len(tokenizer), torch.are_deterministic_algorithms_enabled(), step.max_grad_norm
    yield engine.num_steps, loader.shape, engine.save_every, engine.logging_every
    yield saver.store.keep_last, saver.store.pinned, saver.folder.path, saver.sharded
    yield loader.num_workers
    yield (engine.evaluation is not None or engine.sampler.prompts) and engine.evaluate_every


class Runs:
    """Observes runs, each once."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], Any] = {}

    def outcome(self, overrides: tuple[str, ...]) -> Any:
        """What the run says and does, or None where it is refused."""
        if overrides not in self._seen:
            try:
                loaded = load_config("run.yaml", overrides)
                torch.use_deterministic_algorithms(False)
                engine = assemble(loaded, build_accelerator(loaded.config))
                said = (loaded.notes, engine.data.summary, engine.data.notes, engine.data.unused)
                self._seen[overrides] = (said, list(effects(engine)))
            except DlmError:
                self._seen[overrides] = None
        return self._seen[overrides]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield Runs()
    torch.use_deterministic_algorithms(deterministic)


def is_idle(runs: Runs, key: str, others: tuple[str, ...]) -> bool:
    """Whether the key changes nothing beside these overrides, and is accepted in silence."""
    change = f"{key}={CHANGED[key]}"
    if change in others:
        return False  # as it was
    before, after = runs.outcome(others), runs.outcome((*others, change))
    if before is None or before != after:
        return False
    (notes, *_), _ = after
    return not any(key in note for note in notes)


@settings(deadline=None, max_examples=PAIRS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(CHANGED)), switch=st.sampled_from(sorted(SWITCHES)))
def test_a_changed_value_does_something_says_something_or_is_refused(folder, runs, monkeypatch, key, switch) -> None:
    monkeypatch.chdir(folder)
    assert not is_idle(runs, key, SWITCHES[switch])


def test_the_switches_are_runs_that_differ(folder, runs, monkeypatch) -> None:
    """A refused run would hide every idle key."""
    monkeypatch.chdir(folder)
    outcomes = [runs.outcome(overrides) for overrides in SWITCHES.values()]
    assert None not in outcomes
    assert all(one != other for one, other in itertools.combinations(outcomes, 2))


def test_every_key_is_tried(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    loaded = load_config("run.yaml")
    keys = {key for key, _ in flatten(config_to_mapping(loaded.config, loaded.registry))}
    known = (*CHANGED, *ELSEWHERE)
    missing = {key for key in keys if not any(key == each or key.startswith(f"{each}.") for each in known)}
    assert missing == set()
