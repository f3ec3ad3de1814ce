"""First docstring lines lead to the file: each says what its module decides, with the words of the field."""

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = """
1/p, attention mask, bf16, block diffusion, broadcast, chain of thought, chat template, checkpoint, classifier-free,
confidence, cosine, cross-entropy, distributed, elbo, entropy, eos, fp16 loss scaler, fsdp, gguf, gradient accumulation,
gradient clipping, guidance, gumbel, hold-out, infill, kv cache, label smoothing, learning rate, logit shift, lora,
mask rate, masked accuracy, max_length, mixed precision, nan, normaliser, out of memory, packing, padding, peak memory,
perplexity, quota, random length, rank 0, resume, reweight cap, shuffle, sigterm, stratified, streaming,
suppressed tokens, temperature, tokenize, tokens per second, trace, warm-up, weight decay, whole-word
"""
"""What researchers search for."""
LONGEST = 120


@cache
def first_lines() -> dict[str, str]:
    """The first docstring line of each file of the four packages, by path below the root."""
    spec = importlib.util.spec_from_file_location("outline", ROOT / "benchmarks" / "outline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    roots = ("core/", "plugins/", "builtin_plugins/")
    lines = {path: line for path, line in module.outline(tests=False) if path.startswith(roots)}
    return {path: line for path, line in lines.items() if "template" not in Path(path).parts}


@pytest.mark.parametrize("word", " ".join(WORDS.split()).split(", "))
def test_a_word_of_the_field_leads_to_a_file(word: str) -> None:
    start = re.compile(rf"(?<!\w){re.escape(word)}", re.IGNORECASE)
    assert [path for path, line in first_lines().items() if start.search(line)]


def test_every_module_says_in_one_line_what_it_decides() -> None:
    assert len(first_lines()) > 200
    assert {path: line for path, line in first_lines().items() if not 0 < len(line) <= LONGEST} == {}


def test_no_two_modules_say_the_same() -> None:
    lines = list(first_lines().values())
    assert {line for line in lines if lines.count(line) > 1} == set()
