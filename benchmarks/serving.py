"""Throughput of ``dlm serve`` at 1, 4 and 8 concurrent requests: tokens per second against one request at a time.

The shape of ``configs/pretrain.yaml`` with random weights, block-causal attention, blocks of 16, a context of 512;
prompts of 64 to 256 ids, 64 new tokens, one token a step. A server in a process of its own, and clients that each send
one request after another over HTTP. Figures are ratios within one run; those of processor time hold on a machine that
is busy with other things too.

    python benchmarks/serving.py
    python benchmarks/serving.py --threads 2 --stream
    python benchmarks/serving.py --requests 48 --hidden 512 --layers 8      # another shape
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

import dlm
from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer

ROOT = Path(__file__).parent.parent
LEVELS = (1, 4, 8)
CONTEXT, BLOCK, NEW, VOCABULARY = 512, 16, 64, 300


def make_model(folder: Path, changes: dict[str, int]) -> int:
    """Save a random model with its tokenizer; returns the first id that is no special token."""
    model = load_config(ROOT / "configs" / "pretrain.yaml").config.model
    tokenizer = train_tokenizer([Path(__file__).read_text("utf-8")], vocab_size=VOCABULARY, mask_token="<|mask|>")
    settings: dict[str, Any] = {
        **(model.config or {}),
        **changes,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY,
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "attention_bias_component": {"name": "block_causal"},
        "block_length": BLOCK,
    }
    torch.manual_seed(0)
    dlm.Qwen3LLadaForMaskedLM(dlm.Qwen3LLadaConfig(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return max(tokenizer.mask_token_id, tokenizer.eos_token_id) + 1


@contextmanager
def served(folder: Path, num_threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Host and port of a server that computes with so many threads, and its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    command = [sys.executable, "-m", "dlm", "serve", str(folder), "--port", "0", "--max-rows", str(max(LEVELS))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            yield line.partition("http://")[2].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def ask(address: str, prompt: list[int], *, streams: bool) -> int:
    """Tokens of one answer."""
    connection = http.client.HTTPConnection(address, timeout=600)
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": NEW, "dlm": {"eos": "free"}}
    if streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    content = connection.getresponse().read()
    last = content.split(b"data: ")[-2] if streams else content  # behind it comes [DONE]
    number: int = json.loads(last)["usage"]["completion_tokens"]
    connection.close()
    return number


def rates(
    address: str, process: psutil.Process, prompts: list[list[int]], level: int, *, streams: bool
) -> tuple[float, float]:
    """Tokens per second, and per second of the server's processor time, with so many prompts at a time."""
    started, busy = time.perf_counter(), sum(process.cpu_times()[:2])
    with ThreadPoolExecutor(level) as clients:
        total = sum(clients.map(lambda prompt: ask(address, prompt, streams=streams), prompts))
    return total / (time.perf_counter() - started), total / (sum(process.cpu_times()[:2]) - busy)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=24, help="at each level")
    parser.add_argument("--threads", type=int, default=1, help="that the server computes with")
    parser.add_argument("--stream", action="store_true", help="let the texts come as they are written")
    parser.add_argument("--hidden", type=int, help="another hidden size")
    parser.add_argument("--layers", type=int, help="another number of layers")
    arguments = parser.parse_args()
    changes = {"hidden_size": arguments.hidden, "num_hidden_layers": arguments.layers}
    with tempfile.TemporaryDirectory() as name:
        first = make_model(Path(name), {key: value for key, value in changes.items() if value is not None})
        chance = random.Random(0)
        prompts = [
            [chance.randrange(first, VOCABULARY) for _ in range(chance.randint(64, 256))]
            for _ in range(arguments.requests)
        ]
        streams = arguments.stream
        with served(Path(name), arguments.threads) as (address, process):
            rates(address, process, prompts[:4], 2, streams=streams)  # warm
            found = {level: rates(address, process, prompts, level, streams=streams) for level in LEVELS}
    print(f"{'concurrent':>10} {'tokens/s':>9} {'ratio':>6} {'tokens per processor second':>28} {'ratio':>6}")
    first_rate, first_busy = found[1]
    for level, (rate, busy) in found.items():
        print(f"{level:>10} {rate:>9.1f} {rate / first_rate:>6.2f} {busy:>28.1f} {busy / first_busy:>6.2f}")


if __name__ == "__main__":
    main()
