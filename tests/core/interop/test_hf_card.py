"""The model card of a published folder, and its upload to a hub, played by a local server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard

from dlm.errors import ModelError
from dlm.interop.hf_export import export_hugging_face
from dlm_cli.main import cli

from .test_hf_export import write_model

RUN: dict[str, Any] = {
    "model": {"name_or_path": "owner/base"},
    "training": {"mode": "sft", "max_steps": 7, "loss_impl": "elbo", "noise": {"schedule": "cosine"}},
    "dataset": {"mixture": [{"name": "owner/texts:de", "weight": 2}, {"name": "./private", "weight": 1}]},
    "optim": {"name": "adamw", "lr": 0.001},
}
EVALUATIONS = [
    {"step": 0, "split": "eval", "loss": 6.5, "masked_ce": 6.5, "masked_accuracy": 0.01},
    {"step": 7, "split": "train", "loss": 1.0, "masked_ce": 1.0, "masked_accuracy": 0.5},
    {"step": 7, "split": "eval", "loss": 2.25, "masked_ce": 2.5, "masked_accuracy": 0.375},
]


def write_run(folder: Path, **changes: Any) -> Path:
    """A run's folder with its model in ``final``."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in EVALUATIONS))
    return write_model(folder / "final", **changes)


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    final = write_run(tmp_path / "run", block_length=4, attention_bias_component={"name": "builtin:block"})
    (final / "README.md").write_text("---\nlicense: mit\n---\n")
    report = export_hugging_face(final, tmp_path / "hf", name="me/mine")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.base_model) == ("mit", "transformers", "owner/base")
    assert data.datasets == ["owner/texts"]
    assert "custom_code" in data.tags
    figures = {result.metric_type: result.metric_value for result in data.eval_results}
    assert figures == {"loss": 2.25, "masked_ce": 2.5, "masked_accuracy": 0.375}
    for said in ("# me/mine", "./private", "| attention | block |", "| training.loss_impl | elbo |", "mit, as the base",
                 '{"name": "adamw", "lr": 0.001}', "after 7 steps", "`<\\|mask\\|>`, id 101"):  # fmt: skip
        assert said in card.content
    assert report.to_fill_in == ()


def test_the_card_leaves_open_what_nobody_said(tmp_path: Path) -> None:
    report = export_hugging_face(write_model(tmp_path / "model"), tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert card.data.license == "unknown"
    assert card.content.count("unknown: fill in") == 3
    assert report.to_fill_in == ("license", "the data it was trained on")


def test_the_usage_of_the_card_fits_how_prompts_were_written(tmp_path: Path) -> None:
    for rendering, expected in ((None, 'tokenizer("..."'), ("chat_template", "apply_chat_template(")):
        folder = tmp_path / f"hf-{rendering}"
        export_hugging_face(write_model(tmp_path / f"model-{rendering}", prompt_rendering=rendering), folder)
        code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
        compile(code, "card", "exec")
        assert expected in code


def test_a_damaged_run_is_one_line(tmp_path: Path) -> None:
    final = write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"split": "ev')
    with pytest.raises(ModelError, match=r"metrics.jsonl.* cannot be read .*copy final to a folder of its own"):
        export_hugging_face(final, tmp_path / "hf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "sdar", "--push", "me/mine"], "--push uploads what --format hf writes"),
        (["--format", "hf", "--private"], "give --push NAME"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["export", "--src", "x", "--dst", "y", *options])
    assert result.exit_code == 2
    assert said in result.output


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs; what it answers depends on the name of the repository."""

    files: dict[str, list[str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            status = {"forbidden": 403, "theirs": 403, "unknown": 401}.get(wanted["name"], 200)
            self.answer(status, {"url": f"{self.address}/{name}", "name": name})
        elif "/you/theirs/" in self.path:
            self.answer(403, {"error": "read only"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            self.answer(200, {"files": modes})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            type(self).files[name] = sorted(each["value"]["path"] for each in lines if each["key"] == "file")
            url = f"{self.address}/{name}/commit/1"
            self.answer(200, {"success": True, "commitUrl": url, "commitOid": "1", "hookOutput": ""})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        self.answer(200 if name.startswith("you/theirs") else 404, {"siblings": [], "id": name, "sha": "0"})

    @property
    def address(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}"

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Address of a hub, and what was uploaded to it."""
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Hub.files
    server.shutdown()
    server.server_close()
    thread.join()


CHILD = """
import json, os, sys
from click.testing import CliRunner
from dlm_cli.main import cli

source, target, endpoint = sys.argv[1:]
said = {}

def export(key, name, *options):
    command = ["export", "--src", source, "--dst", f"{target}/{key}", "--format", "hf", "--push", name, *options]
    result = CliRunner().invoke(cli, command)
    code = getattr(result.exception, "exit_code", getattr(result.exception, "code", None))
    said[key] = [code, result.output + str(result.exception), os.path.exists(f"{target}/{key}/README.md")]

export("done", "me/mine", "--private")
export("forbidden", "you/forbidden")
export("theirs", "you/theirs")
export("unknown", "me/unknown")
export("no-name", "no good/name/this")
del os.environ["HF_TOKEN"]
export("no-token", "me/mine")
os.environ["HF_TOKEN"] = "hf_secret"
import huggingface_hub.constants as constants
from huggingface_hub import hf_api
constants.HF_HUB_OFFLINE = True
export("offline", "me/mine")
constants.HF_HUB_OFFLINE = False
constants.ENDPOINT = "http://127.0.0.1:9"
export("no-network", "me/mine")
print(json.dumps(said))
"""


def test_push_uploads_the_folder_or_says_why_not(tmp_path: Path, hub: tuple[str, dict[str, list[str]]]) -> None:
    endpoint, uploaded = hub
    source = write_model(tmp_path / "model")
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home")}
    environment = {key: value for key, value in environment.items() if not key.endswith("_OFFLINE")}
    command = [sys.executable, "-c", CHILD, str(source), str(tmp_path / "out"), endpoint]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["done"][0] in (None, 0), said["done"]
    assert f"pushed to    {endpoint}/me/mine" in said["done"][1]
    written = sorted(path.name for path in (tmp_path / "out" / "done").iterdir())
    assert uploaded == {"me/mine": written}
    assert {"README.md", "config.json", "model.safetensors", "modeling_dlm.py", "tokenizer.json"} <= set(written)
    for key, (reason, is_written) in {
        "forbidden": ("refused (403): the token may not write there", True),
        "theirs": ("refused (403): the token may not write there", True),
        "unknown": ("refused (401): the hub does not know the token", True),
        "no-name": ("no good/name/this", False),
        "no-token": ("no token for the hub; log in with `hf auth login`", False),
        "offline": ("HF_HUB_OFFLINE is set", False),
        "no-network": ("http://127.0.0.1:9 cannot be reached", True),
    }.items():
        code, text, exists = said[key]
        assert (code, exists) == (2, is_written), (key, text)
        assert reason in text
        assert "hf_secret" not in text
        message = text.splitlines()[-1]
        assert reason in message  # one line says it all
