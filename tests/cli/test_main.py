"""The ``dlm`` command as a process sees it: exit codes, one message each, and a traceback for bugs only."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import attrs
import click
import pytest
import torch
from safetensors.torch import save_file

from dlm import errors
from dlm.config import RunFileError
from dlm_cli import main as main_module
from dlm_cli.main import COMMANDS, main
from dlm_plugins.errors import ComponentLookupError, ConfigurationError, Problem


@attrs.frozen
class Ending:
    """How a command ended."""

    code: object
    out: str
    err: str


Dlm = Callable[..., Ending]


@pytest.fixture
def dlm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dlm:
    """Run the command line in this process; ``doing`` becomes the body of a command named ``try``."""

    def run(*arguments: str, doing: Callable[[], object] | None = None) -> Ending:
        if doing is not None:
            module = ModuleType("a_command_of_a_test")
            module.command = click.command("try")(lambda: doing())  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            monkeypatch.setitem(COMMANDS, "try", (f"{module.__name__}:command", "Try something."))
            arguments = ("try",)
        monkeypatch.setattr(sys, "argv", ["dlm", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        return Ending(code, *capsys.readouterr())

    return run


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


KNOWN = [
    (errors.UserInputError("it is wrong"), 2),
    (errors.ModelError("it is wrong"), 2),
    (errors.DataError("it is wrong"), 2),
    (ConfigurationError([Problem("a.b", "it is wrong")]), 2),
    (ComponentLookupError("it is wrong"), 2),
    (errors.CheckpointError("it is wrong"), 3),
    (errors.NonFiniteError("it is wrong"), 4),
    (errors.NothingToLearnError("it is wrong"), 4),
    (errors.OutOfMemoryError("it is wrong"), 5),
    (errors.FinalStateNotSavedError("it is wrong"), 6),
    (errors.LostProcessError("it is wrong"), 70),
]


@pytest.mark.parametrize(("error", "code"), KNOWN, ids=[type(error).__name__ for error, _ in KNOWN])
def test_a_known_error_is_one_line_with_its_exit_code(dlm: Dlm, error: Exception, code: int) -> None:
    ending = dlm(doing=raising(error))
    assert (ending.code, ending.out) == (code, "")
    assert ending.err.splitlines() == [f"dlm: {error}"]
    assert "it is wrong" in ending.err


def test_every_known_error_has_a_case_above() -> None:
    kinds = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.DlmError)}
    assert kinds - {errors.DlmError} <= {type(error) for error, _ in KNOWN}


def test_the_problems_of_a_run_file_start_with_file_and_line(dlm: Dlm) -> None:
    lines = ["run.yaml:3: optim.lrr: unknown key", "run.yaml:4: logging.every_steps: must be > 0: 0"]
    ending = dlm(doing=raising(RunFileError(lines)))
    assert ending.code == 2
    assert ending.err.splitlines() == lines


def test_one_process_of_a_host_prints_them(dlm: Dlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of eight processes has read the same file; what only one of them may have met is printed by that one."""
    said = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        for error in (RunFileError(["run.yaml:3: optim.lrr: unknown key"]), errors.DataError("it is wrong")):
            ending = dlm(doing=raising(error))
            assert ending.code == 2
            said[type(error).__name__, rank] = ending.err
    assert said["RunFileError", "1"] == ""
    assert said["RunFileError", "0"] == "run.yaml:3: optim.lrr: unknown key\n"
    assert said["DataError", "0"] == said["DataError", "1"] == "dlm: it is wrong\n"


def test_anything_else_is_a_bug_with_its_traceback(dlm: Dlm) -> None:
    ending = dlm(doing=raising(ZeroDivisionError("division of a test by zero")))
    assert (ending.code, ending.out) == (70, "")
    lines = ending.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "ZeroDivisionError: division of a test by zero"
    assert lines[-1] == "dlm: this is a bug in dlm or in a plugin; `dlm env` prints what a report needs."


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_no_bug(dlm: Dlm, code: int) -> None:
    ending = dlm(doing=raising(OSError(code, os.strerror(code), "out.jsonl")))
    assert (ending.code, ending.out, ending.err) == (2, "", f"dlm: out.jsonl: {os.strerror(code)}\n")
    ending = dlm(doing=raising(OSError(code, os.strerror(code))))
    assert ending.err == f"dlm: the result could not be written: {os.strerror(code)}\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["Ctrl-C", "an aborted question"])
def test_ctrl_c_ends_without_a_word_of_complaint(dlm: Dlm, error: BaseException) -> None:
    ending = dlm(doing=raising(error))
    assert (ending.code, ending.out, ending.err.strip()) == (130, "", "")


@pytest.mark.parametrize("code", [1, 143])
def test_a_command_chooses_its_own_exit_code(dlm: Dlm, code: int) -> None:
    assert dlm(doing=lambda: click.get_current_context().exit(code)) == Ending(code, "", "")
    assert dlm(doing=raising(SystemExit(code))) == Ending(code, "", "")


def test_analyze_answers_with_its_exit_code(dlm: Dlm, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("zeros.safetensors", "ones.safetensors")]
    save_file({"weight": torch.zeros(2, 3)}, files[0])
    save_file({"weight": torch.ones(2, 3)}, files[1])
    assert dlm("analyze", files[0], files[0]).code == 0
    different = dlm("analyze", *files)
    assert different.code == 1
    assert "0 of 1 tensors are the same: the checkpoints differ" in different.out


def test_a_command_that_returns_is_done(dlm: Dlm) -> None:
    assert dlm(doing=lambda: click.echo("here")) == Ending(0, "here\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runn", "x.yaml"], "dlm: no such command 'runn'; did you mean 'run'? (see dlm --help)"),
        (["zzz"], "dlm: no such command 'zzz' (see dlm --help)"),
        (["run"], "dlm run: Missing argument 'CONFIG' (see dlm run --help)"),
        (["config", "show"], "dlm config show: Missing argument 'CONFIG [KEY=VALUE]...' (see dlm config show --help)"),
        (["convert"], "dlm convert: Missing option '--src' (see dlm convert --help)"),
    ],
)
def test_wrong_arguments_are_one_line(dlm: Dlm, arguments: list[str], line: str) -> None:
    ending = dlm(*arguments)
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.splitlines() == [line]


@pytest.mark.parametrize(
    ("arguments", "where", "what"),
    [(["--hepl"], "dlm", "--hepl"), (["run", "x.yaml", "--dryrun"], "dlm run", "--dryrun")],
)
def test_a_wrong_option_is_one_line_that_names_it(dlm: Dlm, arguments: list[str], where: str, what: str) -> None:
    ending = dlm(*arguments)
    assert ending.code == 2
    (line,) = ending.err.splitlines()
    assert line.startswith(f"{where}: ")
    assert what in line
    assert line.endswith(f"(see {where} --help)")


def test_without_arguments_the_help_is_shown(dlm: Dlm) -> None:
    ending = dlm()
    shown = ending.out + ending.err
    assert ending.code in (0, 2)  # click before 8.2 and after
    assert shown.startswith("Usage: dlm")
    for name, (_, summary) in COMMANDS.items():
        assert name in shown
        assert summary in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_has_help(dlm: Dlm, name: str) -> None:
    ending = dlm(name, "--help")
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.startswith(f"Usage: dlm {name}")
    assert max(map(len, ending.out.splitlines())) <= 100


def test_the_version_is_the_distributions(dlm: Dlm) -> None:
    from importlib.metadata import version

    ending = dlm("--version")
    assert (ending.code, ending.out.split()[-1]) == (0, version("dlm"))


LIGHT = [
    ["--help"],
    ["--version"],
    ["plugins", "list", "--help"],
    *([name, "--help"] for name in COMMANDS),
    ["run", "x.yaml", "--dryrun"],
    ["generate", "--modle", "x"],
    ["generate", "--model", "x", "--prompt", "a", "--batch-size", "none"],
    ["generate", "--model", "x", "--prompt", "a", "--num-samples", "2", "--trace", "t.html"],
    ["chat", "--model", "x", "--block_attention", "--attention_bias", "full"],
    ["eval", "--model", "x", "--draws", "3"],
    ["eval", "--model", "x", "--against-method", "bound"],
    ["serve", "x", "--host", "0.0.0.0"],
]
"""What answers without torch."""


def test_help_and_wrong_options_need_no_torch() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from dlm_cli.main import main\n"
        f"for arguments in {LIGHT!r}:\n"
        "    sys.argv = ['dlm', *arguments]\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main()\n"
        "    heavy = {'torch', 'transformers', 'accelerate', 'dlm.model', 'dlm_plugins.api'} & set(sys.modules)\n"
        "    if heavy:\n"
        "        sys.exit(f'{arguments}: {sorted(heavy)}')\n"
        "print('light')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "light\n"), done.stderr


def _parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _parameters(found)


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    options = [each for each in _parameters(main_module.cli) if isinstance(each.default, float)]
    assert {each.name for each in options} >= {"timeout"}
    for option in options:
        for text in ("nan", "inf", "-inf"):
            with pytest.raises(click.UsageError):
                option.process_value(click.Context(main_module.cli), text)


def test_importing_the_library_registers_its_models_and_the_command_does_so_when_it_needs_them() -> None:
    code = (
        "import sys, dlm\n"
        "registered = 'dlm.model' in sys.modules\n"
        "print(registered, dlm.Qwen3LLadaConfig.model_type, 'dlm.model' in sys.modules)\n"
    )
    for before, expected in (("", "True qwen3llada True\n"), ("import dlm_cli.main\n", "False qwen3llada True\n")):
        done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)
        assert done.stdout == expected, done.stderr


def test_the_entry_point_is_this_function() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="dlm")
    assert entry.load() is main_module.main


@pytest.mark.parametrize("group", ["config", "data", "plugins"])
def test_the_summaries_of_a_group_are_whole(dlm: Dlm, group: str) -> None:
    commands = dlm(group, "--help").out.partition("Commands:\n")[2]
    assert commands
    assert not any(line.endswith("...") for line in commands.splitlines())
