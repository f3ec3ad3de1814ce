"""Small fine-tuning jobs, assembled from run files as ``dlm run`` does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine

CONVERSATIONS: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    (None, ("What is a wall?", "It keeps the roof up.")),
    ("Be brief.", ("And a door?", "A hole in a wall.", "And a window?", "A hole as well, with a pane of glass.")),
    (None, ("Who may build here?", "Whoever has a permit.", "Why?", "The law.", "Since when?", "For long.")),
    (None, ("How many?", "2")),
    ("Answer in a word.", ("Is it cold?", "Yes.", "Is it dark?", "No.")),
    (None, ("How long does it take to build a house of stone?", "A year, or two when it rains.")),
    (None, ("Wood?", "Half of that, and less in summer, when the days are long.")),
)
"""System texts and turns, human first."""


@attrs.frozen
class Bench:
    """Builds jobs of fine-tuning in float64."""

    folder: Path

    def run_file(self, changes: Mapping[str, Any] | None = None, rows: Sequence[Any] = CONVERSATIONS) -> Path:
        """A run file; ``changes`` are by dotted key."""
        data = self.folder / "talk.jsonl"
        lines = [
            {
                "conversations": [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(turns)],
                **({} if system is None else {"system": system}),
            }
            for system, turns in rows
        ]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        texts = [text for _, turns in CONVERSATIONS for text in turns]
        train_tokenizer(texts * 20, vocab_size=290).save_pretrained(self.folder / "tokenizer")
        config: dict[str, Any] = {
            "model": {
                "config": {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "head_dim": 16,
                    "initializer_range": 0.3,  # attention is far from uniform, so that masks show
                },
                "tokenizer": str(self.folder / "tokenizer"),
                "dtype": "float64",
            },
            "training": {"mode": "sft", "output_dir": str(self.folder / "out"), "max_steps": 2, "batch_size": 2},
            "dataset": {"name": str(data), "max_length": 128},
            "evaluation": {"do_eval_loss": False, "sample_prompts": []},
        }
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def engine(self, changes: Mapping[str, Any] | None = None, rows: Sequence[Any] = CONVERSATIONS) -> Engine:
        """A engine that is ready to train."""
        loaded = load_config(self.run_file(changes, rows))
        return assemble(loaded, build_accelerator(loaded.config))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def conversations() -> tuple[tuple[str | None, tuple[str, ...]], ...]:
    return CONVERSATIONS
