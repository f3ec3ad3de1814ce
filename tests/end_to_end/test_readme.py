"""Both READMEs do what they say: every command and every block of Python is run, in order, in one folder.

What makes that quick: `dlm run` gets the overrides of ``SHORTER`` appended. A model and a data set of the hub are
folders of the same name here, which is where dlm looks first. `pip` is only run for what the README itself has written;
whether the distribution can be installed is for .ci/run to find out, whose commands are compared.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import attrs
import click
import pytest
import yaml

from dlm.config import RunConfig
from dlm.data.conversations.formats import find_format
from dlm.data.sources import load_source
from dlm.errors import ExitCode
from dlm_cli.main import COMMANDS, cli, main
from dlm_plugins.field_metadata import UNSTRUCTURED_DEFAULT
from dlm_plugins.kinds import KINDS
from dlm_plugins.registry import Registry
from dlm_plugins.testing.component_check import check_component
from dlm_plugins.validation import component_problems

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-TW.md"))

SHORTER = (
    "training.max_steps=2",
    "training.batch_size=4",
    "training.checkpoint.every_steps=2",
    "evaluation.eval_every_steps=1",
    "logging.every_steps=1",
    "sampling.gen_length=8",
    "sampling.block_length=8",
    "sampling.steps=8",
)
SHORTER_FOR = {
    "configs/pretrain.yaml": ("evaluation.fraction=0.005",),
    "configs/sft.yaml": ("evaluation.fraction=0.02",),
    "configs/qwen3-0.6b-pretrain.yaml": ("dataset.max_length=64", "training.gradient_accumulation_steps=2"),
}


@attrs.frozen
class Block:
    """A fenced block: its language, what stands behind it, and its text."""

    language: str
    note: str
    text: str


def blocks(readme: Path) -> list[Block]:
    text = readme.read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def prose(readme: Path) -> str:
    return re.sub(r"^```.*?^```$", "", readme.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def rows_under(heading: str) -> list[list[str]]:
    """The body of the table whose first heading is this, as cells."""
    text = ENGLISH.read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


@attrs.frozen
class Reader:
    """Someone who follows the README in a folder."""

    folder: Path
    packages: Path
    """Where this reader's pip installs to."""

    def follow(self, line: str) -> str:
        """Run one line of a shell block; return what it printed."""
        return "".join(self._run(shlex.split(command)) for command in line.split(" && "))

    def _run(self, words: list[str]) -> str:
        program, *arguments = words
        actions = {"dlm": self._dlm, "pip": self._pip, "pytest": self._pytest, "accelerate": self._accelerate}
        return actions[program](arguments)

    def _dlm(self, arguments: list[str]) -> str:
        if arguments[0] == "serve":
            return self._serve(arguments)
        code, printed = self.dlm([*arguments, *shorter(arguments)])
        assert code == 0, printed
        return printed

    def _serve(self, arguments: list[str]) -> str:
        """Read the command line of a server, which would not end, and see that there is a model to serve."""
        command = cli.get_command(click.Context(cli), "serve")
        assert command is not None
        with command.make_context("dlm serve", arguments[1:]):
            assert (self.folder / arguments[1] / "config.json").is_file()
        return ""

    def dlm(self, arguments: list[str]) -> tuple[object, str]:
        """Exit code, and both streams in one."""
        code: object = 0
        printed = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            patch.setattr(sys, "argv", ["dlm", *arguments])
            try:
                main()
            except SystemExit as exit_:
                code = exit_.code or 0
        return code, printed.getvalue()

    def _accelerate(self, arguments: list[str]) -> str:
        assert arguments.pop(0) == "launch"
        command = [sys.executable, "-m", "accelerate.commands.launch", *arguments]
        command += shorter(arguments[arguments.index("run") :])
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _pip(self, arguments: list[str]) -> str:
        assert arguments.pop(0) == "install"
        while arguments:
            argument = arguments.pop(0)
            if argument == "-c":
                assert (self.folder / arguments.pop(0)).is_file()
            elif argument == "-e":
                self._install(*re.fullmatch(r"([^\[]+)(?:\[(.+)\])?", arguments.pop(0)).groups())
            elif argument == "--index-url":
                assert arguments.pop(0).startswith("https://download.pytorch.org/whl/")
            else:
                assert argument in (ROOT / "constraints.txt").read_text().splitlines()
        return ""

    def _install(self, source: str, extras: str | None) -> None:
        project = tomllib.loads((self.folder / source / "pyproject.toml").read_text())["project"]
        assert set((extras or "").split(",")) - {""} <= set(project.get("optional-dependencies", {}))
        if project["name"] != "dlm":
            options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                *options,
                "--target",
                str(self.packages),
                str(self.folder / source),
            ]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def _pytest(self, arguments: list[str]) -> str:
        assert arguments == []
        commands = (ROOT / ".ci" / "run").read_text().splitlines()
        assert "pip install -c constraints.txt -e '.[test]'" in commands
        assert any(line.split()[:1] == ["pytest"] for line in commands)
        return ""


def shorter(arguments: list[str]) -> list[str]:
    """What is appended to a command."""
    if arguments[0] != "run":
        return []
    return [*SHORTER, *SHORTER_FOR[arguments[1]]]


@pytest.fixture
def reader(tmp_path: Path, tiny, site_packages, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A folder with what a clone has, and with what stands in for the hub."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("configs", "constraints.txt", "pyproject.toml", "docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(tiny.checkpoint, folder / "Qwen" / "Qwen3-0.6B-Base")
    published = folder / "JetLM" / "SDAR-1.7B-Chat"
    shutil.copytree(tiny.checkpoint, published)
    settings = json.loads((published / "config.json").read_text()) | {"model_type": "sdar"}
    (published / "config.json").write_text(json.dumps(settings))
    for path in ("HuggingFaceFW/fineweb-edu/train.jsonl", "my-texts/one.jsonl"):
        (folder / path).parent.mkdir(parents=True)
        shutil.copy(tiny.texts, folder / path)
    monkeypatch.chdir(folder)
    return Reader(folder, site_packages.folder)


def test_every_block_does_what_it_says(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: dict[str, str] = {}
    # A module of its own, as a class has that can be pickled.
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(ENGLISH):
        if block.language == "bash":
            for line in block.text.splitlines():
                printed[line] = reader.follow(line)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.text, "README.md", "exec"), module.__dict__)
            printed[block.text] = output.getvalue()
        elif block.language == "console":
            command, *expected = block.text.splitlines()
            _, told = reader.dlm(shlex.split(command)[2:])
            assert told.splitlines() == expected
        elif block.language == "json":
            check_conversations(reader.folder, block.text)
        else:
            assert (block.language, block.note) == ("text", "example")
            assert skeleton(block.text) <= skeleton(printed[next(iter(printed))])

    commands = list(printed)
    assert "The value of the " in printed[next(each for each in commands if "dlm.generate(" in each)]
    assert "nothing was written" in printed["dlm run configs/pretrain.yaml --dry-run"]
    assert (reader.folder / "trace.html").read_text().startswith("<!DOCTYPE html>")
    assert yaml.safe_load(printed["dlm config show configs/pretrain.yaml"])["training"]["seed"] == 0
    assert json.loads(printed["dlm config schema"])["type"] == "object"
    for run in ("pretrain", "my-texts", "qwen3-0.6b", "qwen3-0.6b-two", "sft", "clipped"):
        assert (reader.folder / "runs" / run / "final" / "model.safetensors").is_file(), run
    check_own_schedule(module.Clipped)


def skeleton(text: str) -> set[str]:
    """The lines of a run's output without what differs from run to run."""
    lines = (re.split(r"\d|'|: | -> ", line.strip())[0] for line in text.splitlines())
    return {line for line in lines if line}


def check_conversations(folder: Path, text: str) -> None:
    for line, form in zip(
        text.splitlines(), ("conversations", "messages", "prompt_response", "instruction"), strict=True
    ):
        file = folder / f"{form}.jsonl"
        file.write_text(line)
        source = load_source(str(file))
        (record,) = source.open()
        conversation = find_format(source).parse(record.values)
        assert [turn.text for turn in conversation.turns] == ["Who wrote Hamlet?", "Shakespeare."]


def check_own_schedule(cls: object) -> None:
    assert isinstance(cls, type)
    assert component_problems(KINDS["noise_schedule"], cls) == []
    assert check_component("noise_schedule", cls) == []


def test_the_chinese_readme_has_the_same_blocks_in_the_same_order() -> None:
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_the_chinese_readme_has_the_same_parts_and_tables() -> None:
    english, chinese = (path.read_text(encoding="utf-8") for path in (ENGLISH, CHINESE))
    for pattern in (r"^#+ ", r"^\|", r"^\d\. ", r"^```"):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1] > 0, pattern
    for text in re.findall(r"`[^`\n]+`", prose(ENGLISH)):
        assert text in prose(CHINESE), text


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_links_lead_somewhere(readme: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", readme.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_exit_codes_are_all_there() -> None:
    listed = {int(code) for codes, _ in rows_under("exit code") for code in codes.split(", ")}
    assert listed == {int(code) for code in ExitCode}


def test_the_commands_exist() -> None:
    in_blocks = [line for block in blocks(ENGLISH) for line in block.text.splitlines()]
    named = set(re.findall(r"(?:^|[`$] ?|-m )dlm ([a-z]+)", "\n".join([prose(ENGLISH), *in_blocks]), re.MULTILINE))
    assert {"run", "generate", "convert", "analyze", "chat", "env", "validate"} <= named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_the_table_of_keys_is_what_the_code_says(readme: Path) -> None:
    table = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (.+?) \| (.+) \|$", readme.read_text("utf-8"), re.MULTILINE)
    assert len(table) > 40
    for section, key, default, meaning in table:
        expected_default, expected_meaning = described(section, key)
        assert default.replace("必填", "required") == expected_default, f"{section}.{key}"
        assert meaning == expected_meaning or readme == CHINESE, f"{section}.{key}"
        assert len(meaning) > 3


def described(section: str, key: str) -> tuple[str, str]:
    """Default and meaning of a key, as the table has them."""
    if (section, key) == ("optim", "name"):
        return (
            "`adamw`",
            "The optimizer: `adamw`, `adamw8bit`, `lion8bit`, or a plugin's. The next two keys are its options.",
        )
    cls = RunConfig
    for part in section.split("."):
        cls = attrs.fields_dict(cls)[part].type
    fields = attrs.fields_dict(cls)
    if section == "optim" and key not in fields:
        fields = attrs.fields_dict(Registry.discover().resolve("optimizer", "adamw").cls)
    field = fields[key]
    default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
    if default is attrs.NOTHING:
        shown = "required"
    else:
        value = list(default) if isinstance(default, tuple) else default
        shown = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        shown = f"`{shown}`"
    return shown.replace("|", "\\|"), field.metadata["help"].replace("|", "\\|")
