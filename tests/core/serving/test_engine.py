"""Alone or in any company a row gets the same tokens: random mixes of arrivals, lengths, seeds and settings."""

import random
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch

import dlm
from dlm.errors import UserInputError
from dlm.sampling.api import GenerateOutput, GenerateState
from dlm.sampling.arguments import settings_of
from dlm.serving.engine import Engine, Row

MASK, END = 49, 48
MIXES, MIXES_IN_FULL = 10, 200
BIASES: tuple[Any, ...] = (
    "block_causal",
    "block_causal",
    "block",
    {"name": "alternating", "first": "block", "second": "block"},
    "full",
)


@lru_cache(maxsize=8)
def model_of(seed: int, shift: bool, from_start: bool) -> Any:
    """A random float64 model that has opinions; not to be changed."""
    config = dlm.Qwen3LLadaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=50,
        mask_token_id=MASK,
        eos_token_id=END,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
        logit_shift=shift,
        block_length=6,
        attention_bias_component={"name": "block_causal"},
        **({"block_origin": "document"} if from_start else {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dlm.Qwen3LLadaForMaskedLM(config).double().eval()


def any_settings(chance: random.Random, bias: Any) -> dict[str, Any]:
    """Settings of one request."""
    gen_length = chance.randint(1, 20)
    block_length = chance.choice([None, 4, 6])
    if bias is not None:
        block_length = chance.randint(1, gen_length)
    return {
        "gen_length": gen_length,
        "block_length": None if block_length is None or block_length > gen_length else block_length,
        "steps": None if chance.random() < 0.5 else chance.randint(20, 30),
        "temperature": chance.choice([0.0, 0.0, 0.7]),
        "cfg_scale": chance.choice([0.0, 0.0, 0.0, 1.0]),
        "remasking": chance.choice(["low_confidence", "low_confidence", "random", "threshold", "remdm"]),
        "cache": chance.choice(["auto"] * 5 + ["off", "dual"]),
        "eos": chance.choice(["stop", "stop", "free", "late"]),
        "attention_bias": bias,
    }


def any_ids(chance: random.Random, has_gaps: bool) -> tuple[int, ...]:
    ids = [chance.randrange(END) for _ in range(chance.randint(0, 30))]
    if has_gaps and ids:
        ids = [MASK if chance.random() < 0.3 else each for each in ids]
    return tuple(ids)


class Company:
    """Rows that come to an engine one by one: each so many forwards after the one before, or when nobody is there."""

    def __init__(self, engine: Engine, rows: Sequence[Row], gaps: Sequence[int]) -> None:
        self.results: dict[int, GenerateState | Exception] = {}
        self.sizes: list[int] = []
        self._engine, self._coming = engine, list(zip(range(len(rows)), rows, gaps, strict=True))
        self._forwards = self._here = 0
        self._is_done = threading.Event()

    def run(self) -> list[GenerateState | Exception]:
        """What becomes of all of them."""
        hook = self._engine.model.model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._engine.start()
        try:
            self._next()
            assert self._is_done.wait(300)
        finally:
            self._engine.stop()
            hook.remove()
        assert not self._engine.num_live
        return [result for _, result in sorted(self.results.items())]

    def _count(self, body: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.sizes.append(len(kwargs["input_ids"]))
        self._forwards += 1
        if self._coming and self._forwards >= self._coming[0][2]:
            self._next()

    def _next(self) -> None:
        index, row, _ = self._coming.pop(0)
        self._forwards, self._here = 0, self._here + 1
        row.on_end = lambda result: self._end(index, result)
        self._engine.submit([row])

    def _end(self, index: int, result: GenerateState | Exception) -> None:
        self.results[index] = result
        self._here -= 1
        if self._coming and not self._here:
            self._next()
        elif not self._here:
            self._is_done.set()


def alone(model: Any, row: Row) -> GenerateOutput:
    settings = {field: getattr(row.settings, field) for field in row.settings.__slots__ if field != "__weakref__"}
    return dlm.generate(model, torch.tensor([row.ids], dtype=torch.long), row_keys=torch.tensor([row.key]), **settings)


def mix_of(seed: int) -> tuple[Any, list[Row], list[int]]:
    """A model, rows, and how many forwards each comes after the one before."""
    chance = random.Random(seed)
    bias = chance.choice([None, *BIASES])
    own = bias is None
    shift = own and chance.random() < 0.4
    model = model_of(seed % 3, shift, own and chance.random() < 0.5)
    kinds = [any_settings(chance, bias) for _ in range(chance.randint(1, 2))]
    rows = []
    for index in range(chance.randint(3, 9)):
        settings = {**chance.choice(kinds), "seed": chance.choice([0, 0, 1, 2])}
        if chance.random() < 0.5:
            settings["gen_length"] += 5
            settings["steps"] = None
        rows.append(
            Row(
                ids=any_ids(chance, chance.random() < 0.3),
                settings=settings_of(settings),
                key=chance.choice([0, 0, index]),
                on_end=lambda _: None,
            )
        )
    return model, rows, [chance.randint(1, 8) for _ in rows]


def test_company_changes_no_token(pytestconfig: pytest.Config) -> None:
    sizes: list[int] = []
    num_rows = 0
    for seed in range(MIXES_IN_FULL if pytestconfig.option.full else MIXES):
        model, rows, gaps = mix_of(seed)
        company = Company(Engine(model=model, max_rows=2 + seed % 6, max_waiting=len(rows)), rows, gaps)
        for row, result in zip(rows, company.run(), strict=True):
            if isinstance(result, Exception):
                with pytest.raises(UserInputError, match=re.escape(str(result))):
                    alone(model, row)
                continue
            expected = alone(model, row)
            assert result.sequences.equal(expected.sequences), (seed, row.settings)
            assert result.log_probabilities.allclose(expected.log_probabilities, atol=1e-9)
            num_rows += 1
        sizes += company.sizes
    assert num_rows > 2 * MIXES
    assert sum(size > 2 for size in sizes) * 8 > len(sizes), "they do share forwards"
