"""kill -9 at every named point of saving, rotating and cleaning up."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import dlm.training
from dlm.training.checkpoints.checkpoint_store import CheckpointStore

NAMED = re.compile(r'reached\("([^"]+)"\)')
# Points that no uninterrupted run comes by, and the death or the command that leads there.
DETOURS: dict[str, tuple[list[str], list[str]]] = {
    "swept": (["manifest written"], []),
    "set aside": ([], ["training.checkpoint.resume=none"]),
    "old one renamed": ([], []),
}


def source_points() -> set[str]:
    sources = Path(dlm.training.__path__[0]).rglob("*.py")
    return {point for source in sources for point in NAMED.findall(source.read_text(encoding="utf-8"))}


def has_valid_checkpoint(folder: Path) -> bool:
    return CheckpointStore(folder / "run" / "checkpoints", keep_last=2).latest()[0] is not None


def test_killed_at_every_named_point(
    laboratory: Any, in_parallel: Any, digest_of: Any, count: Any, tmp_path: Path
) -> None:
    config = laboratory.config("pretrain-adamw8bit", {"optim": {"name": "adamw8bit"}})
    reference = laboratory.reference(config)
    record = tmp_path / "points.json"
    outcome = laboratory.run(config, tmp_path / "recorded", record=str(record))
    assert outcome.code == 0, outcome.log
    occurrences = json.loads(record.read_text(encoding="utf-8"))

    def trial(case: tuple[str, int]) -> str:
        point, occurrence = case
        folder = tmp_path / f"{point}-{occurrence}".replace(" ", "-")
        outcome = laboratory.run(config, folder, die_at=[point, occurrence])
        if outcome.code != -signal.SIGKILL:
            return f"{case}: the point was not reached: {outcome.log}"
        was_saved = outcome.num_saves > 1 or occurrence > 1 or point == "published"
        if was_saved and any((folder / "run" / "checkpoints").glob("step-*")) and not has_valid_checkpoint(folder):
            return f"{case}: no valid checkpoint is left"
        if outcome.num_saves > 1 and not has_valid_checkpoint(folder):
            return f"{case}: no valid checkpoint is left after the first save"
        outcome = laboratory.run(config, folder)
        if outcome.code != 0:
            return f"{case}: {outcome.log}"
        return "" if digest_of(folder / "run") == reference else f"{case}: the result differs"

    cases = [(point, number) for point, total in occurrences.items() for number in sorted({1, total})]
    failures = [failure for failure in in_parallel(trial, cases) if failure]
    failures += [failure for point in DETOURS if (failure := detour(point, laboratory, config, digest_of, tmp_path))]
    named = source_points()
    missed = named - set(occurrences) - set(DETOURS)
    count(
        "kill -9 at every named point, first and last time",
        f"{len(occurrences) + len(DETOURS)} points, {len(cases) + len(DETOURS)} kills, {len(failures)} failures",
    )
    assert not failures
    assert not missed, "named points that no kill was tried at"


def detour(point: str, laboratory: Any, config: Path, digest_of: Any, tmp_path: Path) -> str:
    """Kill at a point that only a run after another one comes by."""
    deaths, arguments = DETOURS[point]
    folder = tmp_path / f"detour-{point}".replace(" ", "-")
    for death in deaths:
        laboratory.run(config, folder, die_at=[death, 3])
    if not deaths:
        laboratory.run(config, folder)
    outcome = laboratory.run(config, folder, die_at=[point, 1], arguments=arguments)
    if outcome.code != -signal.SIGKILL:
        return f"{point}: not reached: {outcome.log}"
    outcome = laboratory.run(config, folder, arguments=arguments)
    if outcome.code != 0:
        return f"{point}: {outcome.log}"
    found = {name: digest for name, digest in digest_of(folder / "run").items() if not name.startswith("previous-")}
    reference = laboratory.reference(config)
    if arguments:  # the run file is another one, and is stored beside the weights
        found, reference = (without_run_file(each) for each in (found, reference))
    return "" if found == reference else f"{point}: the result differs"


def without_run_file(digests: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if Path(name).name not in ("config.yaml", "manifest.json")}
