"""A tokenizer trained on conversations has read what was said in them, and nothing else."""

from pathlib import Path
from typing import Any

from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.training.model_and_noise import build_tokenizer

ROWS = [(None, ("What is a wall?", "A wall keeps the roof up.")), ("Be brief.", ("And a door?", "A hole in a wall."))]
TRAINED = {"model.tokenizer": {"train": {"vocab_size": 300}}}


def test_it_is_trained_on_every_turn_and_on_the_system_texts(bench: Any) -> None:
    texts = ["What is a wall?", "A wall keeps the roof up.", "Be brief.", "And a door?", "A hole in a wall."]
    tokenizer = bench.engine(TRAINED, ROWS).saver.objects.tokenizer
    assert tokenizer.get_vocab() == train_tokenizer(texts, vocab_size=300).get_vocab()
    assert len(tokenizer) > 258  # something was merged


def test_rows_that_are_no_conversation_are_left_to_the_reading_of_rows(bench: Any) -> None:
    path: Path = bench.run_file({**TRAINED, "dataset.on_bad_row": "skip"}, ROWS)
    alone = build_tokenizer(load_config(path).config)
    with (bench.folder / "talk.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"conversations": [{"from": "human", "value": "walls walls walls walls"}]}\nno JSON\n')
    assert build_tokenizer(load_config(path).config).get_vocab() == alone.get_vocab()
