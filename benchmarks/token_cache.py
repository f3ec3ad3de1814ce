"""How soon a run over millions of rows is back at work: from a cache of token ids to the first batch of a resumption.

The cache is synthetic: its shards are files with holes (nothing is tokenized, the disk holds next to nothing), its
documents have lengths as texts have. Everything else is what a run does. Two figures, each the median of some trials:

* the loader: from its construction to the first batch, in the middle of an epoch, of rows that nobody has read yet;
* the start: the same, with the cache looked up, the rows cut and a part of them held out before it.

    python benchmarks/token_cache.py                     # 10 million rows
    python benchmarks/token_cache.py --rows 1000000
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import attrs
import numpy as np
from accelerate import Accelerator

from dlm.config import load_mapping
from dlm.data import token_cache
from dlm.data.sources import load_source
from dlm.data.token_store import SHARD_TOKENS
from dlm.data.tokenization import Documents
from dlm.data.tokenizer_training import train_tokenizer
from dlm.training.run_data import prepare_data

MAX_SECONDS = 1.0
MAX_LENGTH = 512
MEAN_LENGTH = 1000
"""Tokens of a document."""


def fill(entry: token_cache._Entry, source: Path, num_tokens: int) -> int:
    """Write an entry as :mod:`dlm.data.token_cache` would; returns the number of documents."""
    random = np.random.default_rng(0)
    entry.path.mkdir(parents=True)
    contents = token_cache._Contents(
        key=entry.key, sources=[token_cache._facts(source)], findings={"num_rows": 1, "num_texts": 1}, digest="0" * 64
    )
    while num_tokens > 0:
        lengths = 1 + random.geometric(1 / MEAN_LENGTH, size=SHARD_TOKENS // MEAN_LENGTH)
        size, name = int(lengths.sum()), f"{len(contents.shards):05}"
        with (entry.path / f"{name}.ids").open("wb") as file:
            file.truncate(4 * size)
        with (entry.path / f"{name}.npz").open("wb") as file:
            np.savez(file, lengths=lengths)
        contents.shards.append((f"{name}.ids", size, len(lengths)))
        for each in (f"{name}.ids", f"{name}.npz"):
            bytes_ = (entry.path / each).stat().st_size
            contents.files.append(token_cache._FileFacts(each, bytes_, "0" * 64))
        num_tokens -= size
    token_cache._write(entry.path / "manifest.json", contents)
    paths = [*(entry.path / facts.name for facts in contents.files), source]
    token_cache._write_seen(entry.path, {str(path): token_cache._stamp(path) for path in paths})
    return sum(num_documents for _, _, num_documents in contents.shards)


def main() -> None:
    """Measure, print, and end with 1 where the loader takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of 512 tokens")
    parser.add_argument("--trials", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DLM_CACHE"] = str(folder / "cache")
        source, tokenizer = folder / "texts.jsonl", train_tokenizer(["a text"], vocab_size=258)
        source.write_text(json.dumps({"text": "a text"}) + "\n", encoding="utf-8")
        recipe = Documents(load_source(str(source)), "text", tokenizer)
        entry = token_cache._Entry.of(recipe, "train", folder / "cache" / "tokens")
        num_documents = fill(entry, source, options.rows * MAX_LENGTH)
        config = load_mapping(
            {
                "model": {"config": {}, "tokenizer": "none"},
                "training": {"output_dir": name, "max_steps": 1},
                "dataset": {"name": str(source), "max_length": MAX_LENGTH},
            }
        ).config
        starts, loaders = [], []
        for _ in range(options.trials):
            began = time.perf_counter()
            data = prepare_data(config, tokenizer, Accelerator(cpu=True))
            is_ready = time.perf_counter()
            loader = attrs.evolve(data.loader)
            next(loader.steps(3, loader.steps_per_epoch // 2))
            loaders.append(time.perf_counter() - is_ready)
            starts.append(time.perf_counter() - began)
    print(f"{len(data.loader.rows):,} training rows, {num_documents:,} documents")
    print(f"  loader to first batch: {statistics.median(loaders):.3f} s, at most {MAX_SECONDS} s")
    print(f"  start to first batch:  {statistics.median(starts):.3f} s")
    raise SystemExit(statistics.median(loaders) > MAX_SECONDS)


if __name__ == "__main__":
    main()
