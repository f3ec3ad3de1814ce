"""Losses on a fixed seed: a change of the code that is meant to change nothing leaves them as they are.

Whole runs in miniature, from text to the optimizer, eight steps each, in float64 so that summation order stays out of
it. Where a change is meant to change them, write them anew and say why in the commit:

    python tests/golden/test_golden_losses.py --write
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.training.assembly import assemble, build_accelerator

HERE = Path(__file__).parent
GOLDEN = HERE / "losses.json"
NUM_STEPS = 8
RELATIVE = 1e-6

RUN = """\
model:
  name_or_path: null
  config: {{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
            num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 256, initializer_range: 0.1,
            tie_word_embeddings: true}}
  tokenizer: {folder}/tokenizer
training:
  output_dir: {folder}
  seed: 7
  max_steps: 8
  batch_size: 4
  gradient_accumulation_steps: 2
  block_attention: {{enabled: false, block_length: 8}}
dataset: {{name: {folder}/documents.jsonl, max_length: 32}}
optim: {{name: adamw, lr: 1.0e-2, weight_decay: 0.1, lr_scheduler: cosine, warmup_steps: 2}}
"""
SFT = ("training.mode=sft", f"dataset.name={HERE}/conversations.jsonl", "dataset.max_length=200")
PREFERENCE = ("training.mode=preference", f"dataset.name={HERE}/pairs.jsonl", "dataset.max_length=64")
NOISE = "training.noise"
BLOCKS = "training.block_attention.enabled=true"
RUNS: dict[str, tuple[str, ...]] = {
    "guidelines": (),
    "dllm": ("training.loss_impl=dllm",),
    "soft_ce": ("training.loss_impl=soft_ce",),
    "elbo": ("training.loss_impl=elbo", f"{NOISE}.schedule=cosine"),
    "cosine": (f"{NOISE}.schedule=cosine",),
    "power": (f"{NOISE}.schedule={{name: power, exponent: 3.0}}",),
    "sigmoid": (f"{NOISE}.schedule=sigmoid",),
    "contiguous": (f"{NOISE}.masking=contiguous",),
    "region": (f"{NOISE}.mask_contiguous_region_prob=0.5",),
    "random_replace": (f"{NOISE}.noise_type=random_replace",),
    "independent": (f"{NOISE}.t_sampling=independent",),
    "t_per_block": (f"{NOISE}.t_per=block",),
    "t_per_token": (f"{NOISE}.t_per=token",),
    "capped": (f"{NOISE}.reweight_cap=4.0", f"{NOISE}.min_masking_rate=0.1"),
    "random_length": (f"{NOISE}.random_length_prob=1.0",),
    "block": (BLOCKS, "training.block_attention.bias=block"),
    "block_causal": (BLOCKS, "training.block_attention.bias=block_causal"),
    "alternating": (BLOCKS, "training.block_attention.bias=alternating"),
    "isolated": ("dataset.isolate_documents=true",),
    "unpacked": ("dataset.pack=false", "dataset.max_length=128"),
    "logit_shift": ("model.logit_shift=true",),
    "untied": ("model.config.tie_word_embeddings=false",),
    "hybrid": ("training.loss_impl={name: hybrid, ar_weight: 0.5}", "model.logit_shift=true"),
    "annealed": (BLOCKS, "training.block_attention.bias={name: annealed, until: 1.0}"),
    "dpo": (*PREFERENCE, "training.loss_impl={name: dpo, beta: 0.5, num_draws: 2}"),
    "sft": SFT,
    "sft_packed": (*SFT, "dataset.pack=true", "training.batch_size=1"),
    "sft_block": (*SFT, BLOCKS, "training.block_attention.bias=block"),
}


def losses_of(overrides: tuple[str, ...]) -> dict[str, list[float]]:
    """Loss, unweighted cross-entropy and gradient norm of each step; before them, the evaluation loss."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    with tempfile.TemporaryDirectory() as folder:
        texts = (HERE / "text.txt").read_text(encoding="utf-8").splitlines()
        train_tokenizer(texts, vocab_size=280).save_pretrained(f"{folder}/tokenizer")
        documents = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        Path(folder, "documents.jsonl").write_text(documents, encoding="utf-8")
        run_file = Path(folder) / "run.yaml"
        run_file.write_text(RUN.format(folder=folder), encoding="utf-8")
        loaded = load_config(run_file, overrides)
        engine = assemble(loaded, build_accelerator(loaded.config))
    engine.saver.objects.model.double()
    if (reference := getattr(engine.step.objective, "reference", None)) is not None:
        reference.objective.double()
    assert engine.evaluation is not None
    found: dict[str, list[float]] = {"evaluation": [engine.evaluation().loss], "loss": [], "masked_ce": [], "norm": []}
    batches = engine.data.loader.steps()
    for step in range(NUM_STEPS):
        result = engine.step(next(batches), step)
        found["loss"].append(result.sums.loss)
        found["masked_ce"].append(float(str(result.sums.quality()["masked_ce"] or 0.0)))
        found["norm"].append(result.grad_norm)
    torch.use_deterministic_algorithms(deterministic)
    return found


def test_every_run_has_a_golden_loss() -> None:
    assert json.loads(GOLDEN.read_text(encoding="utf-8")).keys() == RUNS.keys()


@pytest.mark.parametrize("name", list(RUNS))
def test_losses_are_what_they_were(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    found = losses_of(RUNS[name])
    assert found.keys() == golden.keys()
    for key, numbers in golden.items():
        assert found[key] == pytest.approx(numbers, rel=RELATIVE), key


def test_no_two_runs_have_the_same_losses() -> None:
    """Every setting does something."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    by_losses: dict[tuple[float, ...], list[str]] = {}
    for name, numbers in golden.items():
        by_losses.setdefault(tuple(numbers["loss"]), []).append(name)
    # No text holds the mask token, so dllm finds the positions that guidelines knows.
    assert [names for names in by_losses.values() if len(names) > 1] == [["guidelines", "dllm"]]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    content = {name: losses_of(overrides) for name, overrides in RUNS.items()}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
