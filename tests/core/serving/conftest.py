"""Servers on real ports, in processes of their own, and the tiny models that they serve."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from openai import OpenAI
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import dlm

LETTERS = "abcdefghijklmnopqrstuvwxyz .,?!'\n0123456789-:"


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; after them come unknown, end of text and the mask."""
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)} | {"<unk>": len(LETTERS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>", mask_token="<|mask|>"
    )


def write_folder(folder: Path, **config: Any) -> None:
    """A random model that has opinions, trained (so it says) on conversations, with blocks of eight."""
    tokenizer = letter_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings: dict[str, Any] = {
        **sizes,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 60,
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.3,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "attention_bias_component": {"name": "block_causal"},
        "block_length": 8,
        "prompt_rendering": "plain",
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dlm.Qwen3LLadaForMaskedLM(dlm.Qwen3LLadaConfig(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def folder(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A block-diffusion model; not to be changed."""
    return made_once("served", write_folder)


@pytest.fixture(scope="session")
def full_folder(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """One in which everybody sees everybody, and which continues text."""
    return made_once(
        "served-full",
        lambda path: write_folder(path, attention_bias_component=None, block_length=None, prompt_rendering=None),
    )


@attrs.frozen(kw_only=True, eq=False)
class Server:
    """``dlm serve`` in a process."""

    process: "subprocess.Popen[str]"
    url: str
    model: str

    @property
    def client(self) -> OpenAI:
        """OpenAI's own client, which does not try again."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> "Answer":
        """The answer to a request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read().decode())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> "Answer":
        """The answer to a body."""
        return self.ask("POST", path, body, **headers)

    @contextmanager
    def open(self, body: bytes) -> Iterator[socket.socket]:
        """A connection on which a completion was asked for, and whose answer nobody reads."""
        host, port = self.url.removeprefix("http://").split(":")
        length = f"Content-Length: {len(body)}"
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            yield connection

    def metric(self, name: str) -> float:
        """One figure of ``/metrics``, summed over its labels."""
        lines = self.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)


@attrs.frozen
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The answer, read."""
        return json.loads(self.text)


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Start a server, and end it."""
    command = [sys.executable, "-c", "from dlm_cli.main import main; main()", "serve", str(folder), "--port", "0"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen([*command, *options], env=variables, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " at http://" in line, line + process.stderr.read()
        yield Server(process=process, url=line.partition(" at ")[2].split()[0], model=str(folder))
    finally:
        process.kill()
        process.wait(timeout=60)
        process.stderr.close()


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """One server for many tests, in float64."""
    with serving(folder, "--dtype", "float64", "--block_length", "8", "--max-body", "20000") as started:
        yield started
