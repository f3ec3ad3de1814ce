"""Keys of section ``dataset``: name, split, text column, streaming, max_length, packing, chat template, bad rows."""

from typing import Literal

import attrs
from attrs.validators import ge, min_len, optional

from dlm.config.fields import NOT_NEGATIVE, setting


@attrs.frozen(kw_only=True)
class DatasetConfig:
    """What is read, and how rows are made of it."""

    name: str = setting(
        "python-docs (built in), a hub name, ./file or ./folder (txt, json, jsonl, csv, parquet), or pkg://package/path.",
        validator=min_len(1),
    )
    split: str = setting("Split of the dataset.", "train", min_len(1))
    text_column: str | None = setting(
        "Column that holds the text; null: found by itself. Pre-training only.", None, optional(min_len(1))
    )
    streaming: bool = setting("Read on the fly instead of preparing everything first.", default=False)
    max_length: int = setting("Longest row, in tokens.", 512, ge(2))
    pack: bool = setting(
        "Fill rows with several documents. Default: true in pre-training, false in fine-tuning.", default=True
    )
    isolate_documents: bool = setting(
        "Hide the documents of a packed row from each other. Fine-tuning always does.", default=False
    )
    num_workers: int = setting("Processes that prepare batches; 0: the main process.", 0, NOT_NEGATIVE)
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
