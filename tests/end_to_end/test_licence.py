"""Licence and base of a model go with it: from the hub, through conversion and runs, to the card that is published."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

import dlm
from dlm.interop.convert import convert
from dlm.interop.hf_export import export_hugging_face
from dlm.training.consolidate import consolidate

LICENCE = {"license": "other", "license_name": "theirs", "license_link": "LICENSE"}
CARD = f"---\n{yaml.safe_dump(LICENCE)}base_model: owner/older\n---\n# The best model that reads from left to right\n"
NAME = "owner/base"
DAMAGED = (b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n", b"\xff")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as reading one model needs."""

    folder: Path

    def do_GET(self) -> None:
        files = sorted(path.name for path in self.folder.iterdir())
        name = self.path.partition("?")[0].rpartition("/")[2]
        if self.path.startswith("/api/"):
            info = {"id": NAME, "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]}
            entries = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in files]
            self.answer(200, json.dumps(entries if "/tree/" in self.path else info).encode())
        elif name in files:
            self.answer(200, (self.folder / name).read_bytes())
        else:
            self.answer(404, b"")

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def source(tiny: Any, tmp_path: Path) -> Path:
    """A model with card and licence, as it lies on the hub."""
    folder = tmp_path / "source"
    shutil.copytree(tiny.checkpoint, folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "LICENSE").write_text("terms", encoding="utf-8")
    return folder


@pytest.fixture
def address(source: Path) -> Iterator[str]:
    """Of a hub that has the source."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubOf", (Hub,), {"folder": source}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def run_on(base: str | Path, texts: Path, output: Path) -> dict[str, Any]:
    """A run of one step."""
    return {
        "model": {"name_or_path": str(base)},
        "training": {"output_dir": str(output), "max_steps": 1, "batch_size": 2},
        "dataset": {"name": str(texts), "max_length": 32},
        "evaluation": {"eval_every_steps": 1},
    }


def published_card(final: Path, tmp_path: Path) -> ModelCard:
    """The card of the export, which knows licence and base."""
    folder = tmp_path / f"published-{final.parent.name}-{final.name}"
    report = export_hugging_face(final, folder)
    assert not {"license", "the base"} & {*report.to_fill_in}
    assert (folder / "LICENSE").read_text() == "terms"
    card = ModelCard.load(folder / "README.md")
    assert {key: value for key, value in card.data.to_dict().items() if key.startswith("license")} == LICENCE
    assert card.data.base_model == NAME
    assert "left to right" not in card.content
    return card


CHILD = """
import sys
import dlm
from dlm.interop.convert import convert

convert("owner/base", sys.argv[1])
dlm.run(sys.argv[2])
"""


def test_what_comes_from_the_hub_is_published_with_its_licence_and_base(
    tiny: Any, address: str, tmp_path: Path
) -> None:
    converted, first, run_file = tmp_path / "converted", tmp_path / "first", tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(run_on(NAME, tiny.texts, first)), encoding="utf-8")
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = {key: value for key, value in environment.items() if not key.endswith("_OFFLINE")}
    command = [sys.executable, "-c", CHILD, str(converted), str(run_file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr

    assert metadata_load(converted / "README.md") == {**LICENCE, "base_model": NAME, "tags": ["dlm"]}
    published_card(converted, tmp_path)
    assert f"## Base\n\n{NAME}\n" in published_card(first / "final", tmp_path).content
    # And so does a run that begins with either, one after the other, when what it began with is gone.
    for base, output in ((converted, tmp_path / "second"), (first / "final", tmp_path / "third")):
        run_file.write_text(yaml.safe_dump(run_on(base, tiny.texts, output)), encoding="utf-8")
        dlm.run(run_file)
        shutil.rmtree(base)
        assert f"## Base\n\n{base}, made from {NAME}\n" in published_card(output / "final", tmp_path).content


def test_a_folder_is_no_name_on_the_hub_and_its_parent_not_the_base(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "converted")
    card = (tmp_path / "converted" / "README.md").read_text(encoding="utf-8")
    assert metadata_load(tmp_path / "converted" / "README.md") == {**LICENCE, "tags": ["dlm"]}
    assert card.endswith(f"---\n\nConverted by `dlm convert` from {source}.\n")
    convert(tmp_path / "converted", tmp_path / "again")
    assert metadata_load(tmp_path / "again" / "README.md") == {**LICENCE, "tags": ["dlm"]}


def test_a_folder_of_licences_goes_along_through_a_sharded_checkpoint(source: Path, tiny: Any, tmp_path: Path) -> None:
    (source / "LICENSES").mkdir()
    (source / "LICENSES" / "MIT.txt").write_text("more terms", encoding="utf-8")
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(run_on(source, tiny.texts, tmp_path / "run")), encoding="utf-8")
    dlm.run(run_file, ["training.checkpoint.format=sharded"])
    consolidate(tmp_path / "run" / "checkpoints" / "step-1", tmp_path / "model")
    for folder in (tmp_path / "run" / "final", tmp_path / "model"):
        assert (folder / "LICENSES" / "MIT.txt").read_text() == "more terms"
        assert metadata_load(folder / "README.md") == {**LICENCE, "tags": ["dlm"]}


@pytest.mark.parametrize("written", [None, b"no metadata", b"---\n1: 2\ntags: 3\nbase_model: {}\n---\n", *DAMAGED])
def test_a_card_that_says_nothing_stops_nothing(
    source: Path, tiny: Any, tmp_path: Path, written: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "README.md").unlink() if written is None else (source / "README.md").write_bytes(written)
    (source / "LICENSE").unlink()
    (source / "LICENSE").symlink_to(tmp_path / "nowhere")
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(run_on(source, tiny.texts, tmp_path / "run")), encoding="utf-8")
    dlm.run(run_file)
    assert "source: its licence and notices are not carried along" in caplog.text
    (source / "LICENSE").unlink()
    convert(source, tmp_path / "converted")
    for folder in (tmp_path / "converted", tmp_path / "run" / "final"):
        assert metadata_load(folder / "README.md") == {"tags": ["dlm"]}
    said = caplog.text.count("README.md: cannot be read for the licence")
    assert said == (2 if written in DAMAGED else 0)
