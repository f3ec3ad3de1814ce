"""Runs that are killed, starved and damaged, and the counts of what they survived."""

import hashlib
import json
import os
import pydoc_data.topics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import attrs
import pytest
import yaml

NUM_SERVERS = 2
OUTSIDE_THE_PROMISE = ("timings.jsonl", ".lock")
COUNT = "count of "


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    properties = [each for report in reports for each in report.user_properties]
    counts = {name.removeprefix(COUNT): result for name, result in properties if name.startswith(COUNT)}
    if counts:
        terminalreporter.section("reliability")
        width = max(map(len, counts))
        for what, result in counts.items():
            terminalreporter.write_line(f"{what:<{width}}  {result}")


@attrs.frozen
class Outcome:
    """How a run ended."""

    codes: list[int]
    """Of each process: exit code, or minus the number of the signal that ended it."""
    inside_save: bool
    num_saves: int
    seconds: float
    log: str
    """All it printed, runs in the same folder before it included."""

    @property
    def code(self) -> int:
        """How the first process ended."""
        return self.codes[0]


class ForkServer:
    """A process that forks a child for each run."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("fork_server.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def wait_until_ready(self) -> None:
        assert self._answer() == {"ready": True}

    def run(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=600)
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@attrs.frozen
class Laboratory:
    """Runs ``dlm run`` in folders of its own, as often as wanted."""

    folder: Path
    """With texts, conversations and a tokenizer."""
    servers: "Queue[ForkServer]"
    configs: dict[str, Path] = attrs.field(factory=dict)
    references: dict[Path, dict[str, str]] = attrs.field(factory=dict)
    lock: Any = attrs.field(factory=threading.RLock)

    def config(self, name: str, changes: Mapping[str, Mapping[str, object]] | None = None) -> Path:
        """A run file in the folder, written once for each name."""
        with self.lock:
            if name not in self.configs:
                content = run_file(self.folder)
                for section, values in (changes or {}).items():
                    content[section] = {**content.get(section, {}), **values}
                self.configs[name] = self.folder / f"{name}.yaml"
                self.configs[name].write_text(yaml.safe_dump(content), encoding="utf-8")
            return self.configs[name]

    def mode(self, name: str) -> dict[str, dict[str, object]]:
        """What turns the run file into one of pre-training or fine-tuning."""
        if name == "pretrain":
            return {}
        if name == "rl":
            loss = {"name": "policy_clip", "kl": "k2", "beta": 0.1}
            return {
                "training": {"mode": name, "loss_impl": loss, "noise": {"masking": "trace"}},
                "dataset": {"name": str(self.folder / "prompts.jsonl"), "max_length": 32},
                "rl": {
                    "rewards": ["exact"],
                    "group_size": 4,
                    "updates_per_rollout": 2,
                    "reference": "start",
                    "advantage": "value",
                    "value": {"updates": 2},
                },
                "sampling": {"gen_length": 1, "steps": 1, "block_length": 1, "temperature": 1.0, "eos": "suppress"},
            }
        data = {"name": str(self.folder / "conversations.jsonl"), "max_length": 64}
        return {"training": {"mode": name}, "dataset": data}

    def run(self, config: Path, folder: Path, **request: object) -> Outcome:
        """One run of ``config`` in ``folder``, in a forked process."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        log.touch()  # a process may be killed before it opens it
        server = self.servers.get()
        try:
            answer = server.run({"config": str(config), "folder": str(folder), "log": str(log), **request})
        finally:
            self.servers.put(server)
        return Outcome(**answer, log=log.read_text(encoding="utf-8", errors="replace"))

    def reference(self, config: Path, **request: object) -> dict[str, str]:
        """What an uninterrupted run of ``config`` leaves."""
        with self.lock:
            if config not in self.references:
                folder = self.folder / f"reference-{config.stem}"
                outcome = self.run(config, folder, **request)
                assert outcome.code == 0, outcome.log
                self.references[config] = tree(folder / "run")
            return self.references[config]


def run_file(folder: Path) -> dict[str, dict[str, object]]:
    """A run of seconds with everything in it that could differ: dropout, accumulation, evaluation, samples."""
    model = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "attention_dropout": 0.1,
    }
    return {
        "model": {"config": model, "tokenizer": str(folder / "tokenizer")},
        "training": {
            "output_dir": "run",
            "max_steps": 12,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "checkpoint": {"every_steps": 2, "keep_last": 2, "resume": "latest"},
        },
        "dataset": {"name": str(folder / "texts.jsonl"), "max_length": 32},
        "optim": {"name": "adamw", "lr": 1e-3},
        "evaluation": {"eval_every_steps": 3, "fraction": 0.05, "sample_prompts": ["The "]},
        "sampling": {"gen_length": 8, "steps": 2, "block_length": 8},
        "logging": {"every_steps": 2},
    }


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that is promised to be the same."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OUTSIDE_THE_PROMISE]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_data(folder: Path) -> None:
    """Texts, conversations and a tokenizer, from the language reference that ships with Python."""
    from dlm.data.tokenizer_training import train_tokenizer

    topics = dict(sorted(pydoc_data.topics.topics.items())[:24])
    texts = [{"text": text[:600]} for text in topics.values()]
    conversations = [
        {"messages": [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": text[:60]}]}
        for name, text in topics.items()
    ]
    # Half of all characters are right, so that a model that knows nothing is told what to do as well.
    right = [chr(code) for code in range(33, 127, 2)]
    prompts = [{"prompt": f"What is {name}?", "answer": right} for name in topics]
    for name, rows in (("texts", texts), ("conversations", conversations), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = train_tokenizer([row["text"] for row in texts], vocab_size=320, mask_token="<|mask|>")
    tokenizer.save_pretrained(folder / "tokenizer")


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    folder = tmp_path_factory.mktemp("laboratory")
    servers = [ForkServer() for _ in range(NUM_SERVERS)]
    try:
        write_data(folder)
        queue: Queue[ForkServer] = Queue()
        for server in servers:
            server.wait_until_ready()
            queue.put(server)
        yield Laboratory(folder=folder, servers=queue)
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def count(record_property: Any) -> Any:
    """``count(what, result)``: a line of the table at the end of the session. Reports bring it, from workers too."""
    return lambda what, result: record_property(f"{COUNT}{what}", result)


@pytest.fixture(scope="session")
def in_parallel() -> Any:
    """``in_parallel(function, items)``: results in the order of the items, one thread for each server."""

    def run(function: Any, items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(NUM_SERVERS) as pool:
            return list(pool.map(function, items))

    return run


@pytest.fixture(scope="session")
def digest_of() -> Any:
    """``digest_of(folder)``: SHA-256 of everything in an output folder that is promised to be the same."""
    return tree
