"""Upload of a published folder (``dlm export --push``) to a hub, played by a local server: large files, refusals."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from .test_hf_export import write_model

CHUNK = 1 << 14
"""Bytes of a part of the largest file."""
OWN = {"model.safetensors": "in parts", "tokenizer.json": "whole"}
"""Files that go into the storage for large ones, and how."""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs. A repository named ``STAGE-STATUS`` answers so at that stage."""

    committed: dict[str, dict[str, Any]]
    """By repository, what the last commit says of each path."""
    stored: dict[str, bytes]
    """By SHA-256, what was uploaded to the storage for large files."""
    verified: set[str]
    address: str

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.answer("create", name, {"url": f"{self.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer("yaml", "", {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"] in OWN else "regular", "shouldIgnore": False}
                for each in asked
            ]
            self.answer("preupload", self.repository, {"files": modes})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [self.action(each, self.path[1:].partition(".git/")[0]) for each in json.loads(body)["objects"]]
            self.answer("batch", self.path[1:].partition(".git/")[0], {"objects": objects})
        elif self.path.startswith("/complete/"):
            oid = self.path.rpartition("/")[2]
            parts = json.loads(body)["parts"]
            type(self).stored[oid] = b"".join(self.stored[f"{oid}/{each['partNumber']}"] for each in parts)
            self.answer("complete", self.repository_of_url, {})
        elif self.path.startswith("/verify/"):
            said = json.loads(body)
            assert len(self.stored[said["oid"]]) == said["size"]
            self.verified.add(said["oid"])
            self.answer("verify", self.repository_of_url, {})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            if self.answer("commit", self.repository, self.commit):
                changes = (each for each in lines if each["key"] != "header")
                self.committed[self.repository] = {each["value"]["path"]: each for each in changes}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.stored["/".join(self.path.split("/")[4:])] = body
        self.answer("part", self.repository_of_url, {}, {"ETag": sha256(body).hexdigest()})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        info = {"siblings": [], "id": name, "sha": "0", "private": "public" not in name}
        self.answer("look", name if "theirs" in name or "create" not in name else "me/look-404", info)

    @property
    def repository(self) -> str:
        return "/".join(self.path.split("/")[3:5])

    @property
    def repository_of_url(self) -> str:
        return "/".join(self.path.split("/")[2:4])

    @property
    def commit(self) -> dict[str, Any]:
        url = f"{self.address}/{self.repository}/commit/1"
        return {"success": True, "commitUrl": url, "commitOid": "1", "hookOutput": ""}

    def action(self, wanted: dict[str, Any], name: str) -> dict[str, Any]:
        """Where a large file is to be put: in parts, or whole."""
        oid, size = wanted["oid"], wanted["size"]
        upload: dict[str, Any] = {"href": f"{self.address}/put/{name}/{oid}"}
        if size > CHUNK:
            numbers = range(1, -(-size // CHUNK) + 1)
            parts = {f"{number:05}": f"{self.address}/put/{name}/{oid}/{number}" for number in numbers}
            upload = {"href": f"{self.address}/complete/{name}/{oid}", "header": {"chunk_size": str(CHUNK), **parts}}
        verify = {"href": f"{self.address}/verify/{name}/{oid}"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def answer(self, stage: str, name: str, content: dict[str, Any], headers: dict[str, str] | None = None) -> bool:
        """Answer as the name of the repository says; whether all is well."""
        found = re.search(rf"{stage}-(\d+)", name)
        status = int(found[1]) if found else 200
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return status == 200

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    """A hub, and what was uploaded to it."""
    Hub.committed, Hub.stored, Hub.verified = {}, {}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


CHILD = """
import json, os, sys, time
from pathlib import Path
from click.testing import CliRunner
from dlm.errors import DlmError
from dlm.interop.hf_push import push
from dlm_cli.main import cli

source, target, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
said = {}
time.sleep = lambda seconds: None  # between two tries of the hub's client

def export(key, name, *options):
    command = ["export", "--src", source, "--dst", f"{target}/{key}", "--format", "hf", "--push", name, *options]
    result = CliRunner().invoke(cli, command)
    code = getattr(result.exception, "exit_code", getattr(result.exception, "code", None))
    said[key] = [code, result.output + str(result.exception), os.path.exists(f"{target}/{key}/README.md")]

export("done", "me/mine", "--private")
for name in names:
    try:
        said[name] = [0, push(Path(f"{target}/done"), name, private=False), True]
    except DlmError as error:
        said[name] = [error.exit_code, str(error), True]
export("forbidden", "you/create-403")
export("seen-by-all", "me/public", "--private")
export("no-name", "no good/name/this")
del os.environ["HF_TOKEN"]
export("no-token", "me/mine")
os.environ["HF_TOKEN"] = "hf_secret"
import huggingface_hub.constants as constants
constants.HF_HUB_OFFLINE = True
export("offline", "me/mine")
constants.HF_HUB_OFFLINE = False
constants.ENDPOINT = "http://127.0.0.1:9"
export("no-network", "me/mine")
print(json.dumps(said))
"""

THERE_ALREADY = "me/create-409"
MAY_NOT_WRITE = "refused (403): the token may not write there"
TROUBLE = "the hub has trouble of its own"
REFUSALS = {
    "me/create-401": "refused (401): the hub does not know the token",
    "you/create-403-commit-403-theirs": MAY_NOT_WRITE,
    "me/create-500": f"refused (500): {TROUBLE}",
    "me/preupload-404": "refused (404): no such name there",
    "me/preupload-503": f"refused (503): {TROUBLE}",
    "me/batch-403": MAY_NOT_WRITE,
    "me/part-403": MAY_NOT_WRITE,
    "me/complete-502": f"refused (502): {TROUBLE}",
    "me/verify-500": f"refused (500): {TROUBLE}",
    "me/commit-409": "refused (409): it changed while it was uploaded to; try again",
    "me/commit-413": "refused (413): the hub takes no more",
}


def test_push_uploads_the_folder_or_says_why_not(tmp_path: Path, hub: type[Hub]) -> None:
    source = write_model(tmp_path / "model", hidden_size=64)
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home")}
    environment = {key: value for key, value in environment.items() if not key.endswith("_OFFLINE")}
    # Without the storage of its own protocol the client uses that of git's large files.
    environment["HF_HUB_DISABLE_XET"] = "1"
    target = tmp_path / "to publish"
    names = json.dumps([THERE_ALREADY, *REFUSALS])
    command = [sys.executable, "-c", CHILD, str(source), str(target), names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])

    written = {path.name: path.read_bytes() for path in (target / "done").iterdir()}
    assert len(written["model.safetensors"]) > CHUNK > len(written["tokenizer.json"])
    assert said["done"][0] in (None, 0), said["done"]
    assert f"pushed to    {hub.address}/me/mine" in said["done"][1]
    assert said[THERE_ALREADY][:2] == [0, f"{hub.address}/{THERE_ALREADY}"]
    for file in OWN:
        change = hub.committed["me/mine"][file]
        oid = change["value"]["oid"]
        assert change["key"] == "lfsFile"
        assert hub.stored[oid] == written[file]
        assert oid in hub.verified
    assert {name: files.keys() for name, files in hub.committed.items()} == {
        "me/mine": written.keys(),
        THERE_ALREADY: written.keys(),
    }

    refusals = {name: (reason, True) for name, reason in REFUSALS.items()} | {
        "forbidden": (MAY_NOT_WRITE, True),
        "seen-by-all": ("the repository was there already, for all to see", True),
        "no-name": ("no good/name/this", False),
        "no-token": ("no token for the hub; log in with `hf auth login`", False),
        "offline": ("HF_HUB_OFFLINE is set", False),
        "no-network": ("the upload to http://127.0.0.1:9 failed: ", True),
    }
    for key, (reason, is_written) in refusals.items():
        code, text, exists = said[key]
        assert (code, exists) == (2, is_written), (key, text)
        assert "hf_secret" not in text
        message = text.splitlines()[-1]
        assert reason in message  # one line says it all
        assert ("`hf upload " in message) == is_written
        assert (f" '{target}/" in message) == is_written  # as a shell takes it
