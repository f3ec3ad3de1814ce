"""``dlm.run``: a run file from start to end: load, lock the folder, assemble, resume, train, report."""

import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
from accelerate import Accelerator

from dlm.config import LoadedConfig, load_config
from dlm.data.conversations.bad_rows import write_bad_rows
from dlm.errors import UserInputError
from dlm.training.agreement import check_agreement
from dlm.training.assembly import assemble, build_accelerator, build_store
from dlm.training.checkpoints.publishing import write_file
from dlm.training.engine import Engine
from dlm.training.failures import explained
from dlm.training.output_folder import BAD_ROWS, CONFIG, OutputFolder
from dlm.training.processes import close_group, on_main
from dlm.training.report import Report
from dlm.training.resuming import StartingPoint, restore, starting_point
from dlm.training.run_identity import only_warns
from dlm.user_paths import user_path
from dlm_plugins.reward import RUNS_CODE
from dlm_plugins.streams import steady_streams


@attrs.frozen(kw_only=True)
class RunResult:
    """How a run ended."""

    final_step: int
    output_dir: Path
    """The trained model is in its folder ``final``."""


def run(
    config: str | Path | LoadedConfig,
    overrides: Sequence[str] = (),
    *,
    allow_change: Collection[str] = (),
    trust_remote_code: bool = False,
    allow_code_execution: bool = False,
) -> RunResult:
    """Train as a run file says, from the beginning or from where an earlier run stopped.

    Args:
        config: path of a run file, or a loaded one (:func:`dlm.config.load_config`).
        overrides: ``key.key=value`` each; only with a path.
        allow_change: keys that may differ from those of the checkpoint that is resumed.
        trust_remote_code: whether code from the model's folder may run.
        allow_code_execution: whether rewards may run code that the model writes (docs/rewards.md).

    Raises:
        DlmError: With a message for the user and the exit code of the command line.
    """
    if isinstance(config, LoadedConfig):
        if overrides:
            raise UserInputError("overrides: a loaded configuration has been checked already; give its path instead")
        loaded = config
    else:
        loaded = load_config(config, overrides)
    if not allow_code_execution:
        refuse_code(loaded)
    with steady_streams(), explained(loaded):
        return _run(loaded, allow_change=allow_change, trust_remote_code=trust_remote_code)


def refuse_code(loaded: LoadedConfig) -> None:
    """See that no reward runs code that the model writes.

    Raises:
        UserInputError: One does.
    """
    running = [each.reward for each in loaded.config.rl.rewards if RUNS_CODE.of(each.reward)]
    if running and loaded.config.training.mode == "rl":
        name = loaded.registry.entry_of(running[0]).selecting_name
        raise UserInputError(
            f"rl.rewards: {name} runs code that the model writes; where that is wanted (docs/rewards.md says what such "
            "code could do), add --allow-code-execution, or allow_code_execution=True in Python"
        )


def _run(loaded: LoadedConfig, *, allow_change: Collection[str], trust_remote_code: bool) -> RunResult:
    config = loaded.config
    at_end = config.evaluation.at_end is not None
    if at_end:
        # Imported where it is wanted: evaluation builds on training.
        from dlm.evaluation.at_end import check_at_end, evaluate_at_end
    accelerator, store = build_accelerator(config), build_store(config)
    with ExitStack() as stack:
        folder = OutputFolder(user_path(config.training.output_dir))

        def enter_and_choose() -> StartingPoint:
            if at_end:
                check_at_end(loaded)
            stack.enter_context(folder)
            return starting_point(folder, store, config.training.checkpoint.resume)

        start = on_main(accelerator, enter_and_choose, "the output folder")
        is_main = accelerator.is_main_process  # which it cannot say once the group is closed
        final_step = _train(loaded, accelerator, start, allow_change, trust_remote_code=trust_remote_code)
        close_group(accelerator)
        if is_main and at_end:
            device = str(accelerator.device)
            evaluate_at_end(loaded, folder, print, device=device, trust_remote_code=trust_remote_code)
    return RunResult(final_step=final_step, output_dir=folder.path)


def _train(
    loaded: LoadedConfig,
    accelerator: Accelerator,
    start: StartingPoint,
    allow_change: Collection[str],
    *,
    trust_remote_code: bool,
) -> int:
    engine = assemble(loaded, accelerator, trust_remote_code=trust_remote_code, started=start.started)
    notes = check_agreement(accelerator, engine.saver.objects.identity, only_warns)
    notes += restore(engine, start, allow_change)
    on_main(accelerator, lambda: _write_what_runs(engine), "the output folder")
    if engine.is_main:
        for note in loaded.notes:
            print(f"dlm: note: {note}", file=sys.stderr)  # one line each, whatever the console's width
    report = Report(engine)
    report.opening(notes)
    if accelerator.log_with:
        accelerator.init_trackers("dlm", config={"run": engine.saver.objects.config_text})
    engine.run()
    on_main(accelerator, report.closing, "the closing words")
    return engine.state.global_step


def _write_what_runs(engine: Engine) -> None:
    """Write the resolved run file, and the rows that are not used."""
    folder = engine.saver.folder
    with folder.made_ready():
        write_file(folder.path / CONFIG, engine.saver.objects.config_text)
        if engine.data.unused:
            write_bad_rows(engine.data.unused, folder.path / BAD_ROWS)
