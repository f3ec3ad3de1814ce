"""What a user can get wrong: one line that says where, what and what to do; exit 2; nothing written, nothing lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import dlm
from dlm.errors import UserInputError
from dlm_cli.main import main

RUN_FILE = """\
model:
  config: {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 64}
  tokenizer: {train: {vocab_size: 300}}
training:
  output_dir: out
  max_steps: 2
  batch_size: 4
dataset:
  name: ./texts.jsonl
  max_length: 16
evaluation: {sample_prompts: []}
"""


@attrs.frozen
class Refusal:
    """How a command ended that was given something wrong."""

    code: object
    out: str
    lines: list[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good run file and its data, and with data that cannot be used."""
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"text": f"row {number} of a small text, with words"}) for number in range(60)]
    files = {
        "run.yaml": RUN_FILE,
        "texts.jsonl": "\n".join(rows),
        "empty.jsonl": "",
        "blank.txt": "\n\n",
        "numbers.jsonl": '{"a": 1, "b": 2}\n' * 5,
        "two.jsonl": '{"a": "some text", "b": "some other text"}\n' * 5,
        "broken.jsonl": '{"text": "fine"}\n{oops\n',
        "letter.docx": "no",
        "twice.yaml": RUN_FILE + "dataset: {name: python-docs}\n",
        "list.yaml": "- a\n",
        "nothing.yaml": "",
        "no-model/readme.txt": "nothing here",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refuse(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command that must refuse its input and leave the folder as it was."""

    def run(*arguments: str) -> Refusal:
        monkeypatch.setattr(sys, "argv", ["dlm", *arguments])
        capsys.readouterr()
        before = contents(folder)
        with pytest.raises(SystemExit) as exit_:
            main()
        assert contents(folder) == before
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Refusal(exit_.value.code, out, err.splitlines())

    return run


RUN_FILE_CASES = {
    "unknown key": (
        ["optim.lrr=1"],
        "<command line>: optim.lrr: unknown key; did you mean 'lr'?",
    ),
    "unknown section": (
        ["trainig.max_steps=1"],
        "<command line>: trainig: unknown key; did you mean 'training'?",
    ),
    "key without its section": (
        ["max_steps=1"],
        "<command line>: max_steps: unknown key here; did you mean 'training.max_steps'?",
    ),
    "wrong type": (
        ["training.max_steps=many"],
        "<command line>: training.max_steps: must be an integer, not 'many', which is text",
    ),
    "out of range": (
        ["logging.every_steps=0"],
        "<command line>: logging.every_steps: must be > 0: 0",
    ),
    "not one of the choices": (
        ["training.mixed_precision=off"],
        "<command line>: training.mixed_precision: must be one of no, fp16, bf16, not 'off'",
    ),
    "unknown component": (
        ["training.loss_impl=gidelines"],
        "<command line>: training.loss_impl: unknown loss 'gidelines'; did you mean 'guidelines'? available: ",
    ),
    "unknown option of a component": (
        ["training.loss_impl={name: soft_ce, label_smooting: 0.1}"],
        "<command line>: training.loss_impl.label_smooting: unknown key; did you mean 'label_smoothing'?",
    ),
    "components that do not go together": (
        ["training.noise.noise_type=random_replace", "training.loss_impl=dllm"],
        "<command line>: training.loss_impl: dllm finds corrupted positions by the mask token, but ",
    ),
    "contradiction": (
        ["training.num_epochs=1"],
        "<command line>: training.num_epochs: give max_steps or num_epochs, not both",
    ),
    "no override": (
        ["training.max_steps"],
        "<command line>: 'training.max_steps' is not an override; write it as key.key=value",
    ),
    "unknown tracker": (
        ["logging.trackers=[tensorbored]"],
        "<command line>: logging.trackers: unknown tracker 'tensorbored'; known are ",
    ),
    "unknown plugin": (
        ["plugins.disable=[nobody]"],
        "<command line>: plugins.disable: no plugin 'nobody' is installed",
    ),
    "a plugin that is not there": (
        ["plugins.require=[dlm-nowhere>=0.3]"],
        "<command line>: plugins.require: this run requires 'dlm-nowhere>=0.3', and no plugin of that distribution is ",
    ),
}


@pytest.mark.parametrize(("overrides", "line"), RUN_FILE_CASES.values(), ids=RUN_FILE_CASES)
def test_a_wrong_setting(refuse, overrides: list[str], line: str) -> None:
    commands = [["run"], ["run", "--dry-run"]]
    if all("=" in override for override in overrides):
        commands += [["validate"], ["config", "show"]]  # these would take it for a second file
    for command in commands:
        refusal = refuse(*command, "run.yaml", *overrides)
        assert (refusal.code, refusal.out) == (2, "")
        (shown,) = refusal.lines
        assert shown.startswith(line)


DATA_CASES = {
    "missing file": ("./text.jsonl", "./text.jsonl: no such file or folder; did you mean 'texts.jsonl'"),
    "missing file without ./": ("text.jsonl", "text.jsonl: no such file or folder; did you mean 'texts.jsonl'"),
    "missing folder": ("./texts/", "./texts/: no such file or folder"),
    "folder without data": ("./no-data", "./no-data: no file in a known format in this folder; known are txt, jsonl"),
    "empty file": ("./empty.jsonl", "./empty.jsonl: no rows (the file is empty"),
    "file without text": ("./blank.txt", "./blank.txt: no text left in column 'text'"),
    "no text column": (
        "./numbers.jsonl",
        "./numbers.jsonl: no column holds text; name one with dataset.text_column (columns: a (int), b (int))",
    ),
    "two text columns": (
        "./two.jsonl",
        "./two.jsonl: which column holds the text is not clear; name one with dataset.text_column",
    ),
    "broken row": ("./broken.jsonl", "broken.jsonl:2: not valid JSON"),
    "unknown format": ("./letter.docx", "./letter.docx: unknown format (.docx); known are txt, jsonl"),
    "missing package": ("pkg://nowhere/x.txt", "pkg://nowhere/x.txt: there is no package 'nowhere' here"),
}


@pytest.mark.parametrize(("name", "line"), DATA_CASES.values(), ids=DATA_CASES)
def test_data_that_cannot_be_used(refuse, folder: Path, name: str, line: str) -> None:
    (folder / "no-data").mkdir()
    refusal = refuse("run", "run.yaml", f"dataset.name={name}")
    assert (refusal.code, refusal.out) == (2, "")
    (shown,) = refusal.lines
    assert shown.startswith(f"dlm: {line}")


BUILDING_CASES = {
    "text column that is not there": (
        ["dataset.text_column=txt"],
        "./texts.jsonl: no column 'txt'; did you mean 'text'?",
    ),
    "split that is not there": (
        ["dataset.split=test"],
        "./texts.jsonl: a single file has only the split 'train', not 'test'",
    ),
    "rows longer than the context": (
        ["dataset.max_length=65"],
        "dataset.max_length: 65 is more than the model's context of 64 (max_position_embeddings); set it to at most 64",
    ),
    "vocabulary smaller than the bytes": (
        ["model.tokenizer.train.vocab_size=10"],
        "model.tokenizer.train.vocab_size: 10 is too small; 256 bytes and 2 special tokens need at least 258",
    ),
    "vocabulary smaller than the tokenizer": (
        ["model.config.vocab_size=10"],
        "model config: vocab_size 10 is smaller than the tokenizer's ",
    ),
    "mask id by hand": (
        ["model.config.mask_token_id=9"],
        "model config (qwen3llada): mask_token_id cannot be set here: it comes from the tokenizer",
    ),
    "unknown key of the model": (
        ["model.config.hiden_size=8"],
        "model config (qwen3llada): unknown key hiden_size; did you mean 'hidden_size'?",
    ),
    "mask token with another purpose": (
        ["model.mask_token=<|endoftext|>"],
        "model.mask_token: '<|endoftext|>' cannot be used; it must be a text of its own",
    ),
    "tokenizer that is not there": (["model.tokenizer=./gone"], "./gone: no such folder"),
    "folder that is no model": (
        ["model.name_or_path=./no-model", "model.config=null", "model.tokenizer=null"],
        "no-model: there is no tokenizer here",
    ),
    "output folder that is a file": (
        ["training.output_dir=run.yaml"],
        "training.output_dir: cannot use run.yaml (File exists)",
    ),
    "checkpoint that is not there": (
        ["training.checkpoint.resume=out/checkpoints/step-9"],
        "training.checkpoint.resume: no folder out/checkpoints/step-9",
    ),
}


@pytest.mark.parametrize(("overrides", "line"), BUILDING_CASES.values(), ids=BUILDING_CASES)
def test_model_and_data_that_do_not_fit(refuse, overrides: list[str], line: str) -> None:
    refusal = refuse("run", "run.yaml", *overrides)
    assert (refusal.code, refusal.out) == (2, "")
    (shown,) = refusal.lines
    assert shown.startswith(f"dlm: {line}")


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml"])
def test_an_output_folder_that_cannot_be_made_ready(folder: Path, name: str) -> None:
    (folder / "out" / name).mkdir(parents=True)
    with pytest.raises(UserInputError, match=rf"^training\.output_dir: cannot make out ready \(.*{name}"):
        dlm.run("run.yaml")


def test_a_mask_id_outside_the_vocabulary(refuse, folder: Path, tiny) -> None:
    shutil.copytree(tiny.checkpoint, folder / "model")
    settings = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**settings, "mask_token_id": 336}))
    refusal = refuse("generate", "--model", "model", "--prompt", "The")
    assert refusal.code == 2
    (line,) = refusal.lines
    assert line.startswith("dlm: the model's config says mask_token_id is 336, outside its vocabulary, 0 to 335: ")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "model: the checkpoint is quantised (fp8): "),
        ({"num_attention_heads": 0}, "model: config.json: num_attention_heads 0: no model can be made of it: "),
        ({}, "model: holds two sets of weights, model.safetensors and what model.safetensors.index.json names; "),
    ],
    ids=["quantised", "no heads", "two sets of weights"],
)
def test_a_base_that_cannot_be_used(refuse, folder: Path, tiny, fault: dict[str, object], message: str) -> None:
    shutil.copytree(tiny.checkpoint, folder / "model")
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fault}))
    if not fault:
        shutil.copy(folder / "model" / "model.safetensors", folder / "model" / "model-00001-of-00001.safetensors")
        index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
        (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal = refuse("run", "run.yaml", "model.name_or_path=./model", "model.config=null", "model.tokenizer=null")
    assert refusal.code == 2
    (line,) = refusal.lines
    assert line.startswith(f"dlm: {message}")


FILE_CASES = {
    "missing": ("gone.yaml", "gone.yaml: no such file"),
    "a folder": ("no-model", "no-model: a folder, not a file"),
    "empty": ("nothing.yaml", "nothing.yaml: the file is empty; configs/reference.yaml shows every key"),
    "a list": ("list.yaml", "list.yaml:1: the file must hold keys (`key: value`), not a list"),
    "a key twice": ("twice.yaml", "twice.yaml:13: dataset: given twice, first in line 9; keep one"),
}


@pytest.mark.parametrize(("name", "line"), FILE_CASES.values(), ids=FILE_CASES)
def test_a_run_file_that_cannot_be_read(refuse, name: str, line: str) -> None:
    for command in (["run"], ["validate"], ["config", "show"]):
        assert refuse(*command, name) == Refusal(2, "", [line])


def test_all_problems_of_a_file_come_at_once(refuse, folder: Path) -> None:
    (folder / "run.yaml").write_text(RUN_FILE.replace("max_steps: 2", "max_step: 2").replace("./texts", "../texts"))
    refusal = refuse("run", "run.yaml", "optim.lr=-1", "training.loss_impl=elboo")
    assert refusal.code == 2
    assert [line.partition(";")[0] for line in refusal.lines] == [
        "run.yaml:7: training.max_step: unknown key",
        "<command line>: training.loss_impl: unknown loss 'elboo'",
        "<command line>: optim.lr: must be > 0: -1.0",
    ]


COMMAND_CASES = {
    "unknown command": (["rum", "run.yaml"], "dlm: no such command 'rum'; did you mean 'run'? (see dlm --help)"),
    "unknown option": (["run", "run.yaml", "--dryrun"], "dlm run: No such option '--dryrun'"),
    "no run file": (["run"], "dlm run: Missing argument 'CONFIG' (see dlm run --help)"),
    "nothing to generate": (["generate", "--model", "x"], "dlm generate: nothing to generate: give --prompt"),
    "model that is not there": (["generate", "--model", "./gone", "--prompt", "x"], "dlm: ./gone: no such folder"),
    "folder that is no model": (
        ["generate", "--model", "no-model", "--prompt", "x"],
        "dlm: no-model: no config.json in this folder; give the folder of a model",
    ),
    "conversion of nothing": (["convert", "--src", "./gone", "--dst", "new"], "dlm: ./gone: no such folder"),
    "conversion of a folder that is no model": (
        ["convert", "--src", "no-model", "--dst", "new"],
        "dlm: no-model: no config.json in this folder; give the folder of a model",
    ),
    "comparison with nothing": (["analyze", "gone", "no-model"], "dlm: gone: no such file or folder"),
    "unknown kind": (["plugins", "show", "los", "x"], "dlm plugins show: unknown kind 'los'; the kinds are loss, "),
    "unknown name": (["plugins", "show", "loss", "elboo"], "dlm: unknown loss 'elboo'; did you mean 'elbo'?"),
    "no name": (["plugins", "new", "loss", "2x", "--out", "new"], "dlm: '2x' is no name for a component"),
}


@pytest.mark.parametrize(("arguments", "line"), COMMAND_CASES.values(), ids=COMMAND_CASES)
def test_a_wrong_command(refuse, arguments: list[str], line: str) -> None:
    refusal = refuse(*arguments)
    assert (refusal.code, refusal.out) == (2, "")
    (shown,) = refusal.lines
    assert shown.startswith(line)


def test_an_output_folder_that_holds_checkpoints_in_real_processes(folder: Path) -> None:
    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dlm", "run", "run.yaml", *overrides]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)

    first = run()
    assert first.returncode == 0, first.stderr
    before = contents(folder)
    again = run()
    assert (again.returncode, again.stdout) == (2, "")
    (line,) = again.stderr.splitlines()
    assert line.startswith("dlm: training.output_dir: out already holds checkpoints, up to step 2. ")
    for way_out in ("training.checkpoint.resume=latest", "resume=none", "choose another training.output_dir"):
        assert way_out in line
    assert contents(folder) == before


def test_the_folder_of_a_run_is_no_model_but_holds_one(refuse, folder: Path, tiny) -> None:
    shutil.copytree(tiny.checkpoint, folder / "run" / "final")
    refusal = refuse("generate", "--model", "run", "--prompt", "x")
    assert refusal.code == 2
    assert refusal.lines == ["dlm: run: no config.json in this folder; did you mean run/final?"]
