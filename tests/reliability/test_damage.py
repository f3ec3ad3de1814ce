"""Checkpoints damaged in every way that was thought of."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlm.errors import CheckpointError, ExitCode
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.manifest import MANIFEST, verify, write_manifest
from dlm.training.output_folder import OutputFolder
from dlm.training.report import evaluations
from dlm.training.resuming import LATEST, starting_point

NEWEST, OLDER = 12, 10
FEWEST_CASES = 90

Damage = Callable[[Path], object]


def flip(place: float) -> Damage:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        file.write_bytes(content)

    return damage


DAMAGES: dict[str, Damage] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zero-filled": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "first bit flipped": flip(0.0),
    "a bit in the middle flipped": flip(0.5),
    "last bit flipped": flip(1.0),
    "extended": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        change(content)
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")

    return damage


FOLDER_DAMAGES: dict[str, Damage] = {
    "a file too many": lambda folder: (folder / "stray").write_text(""),
    "a newer format": edit_manifest(lambda content: content.update(format_version=2)),
    "no version": edit_manifest(lambda content: content.pop("format_version")),
    "no files": edit_manifest(lambda content: content.update(files={})),
    "files of another type": edit_manifest(lambda content: content.update(files=[1])),
    "a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "a number": lambda folder: (folder / MANIFEST).write_text("1"),
    "everything gone": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.fixture(scope="module")
def finished(laboratory: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), folder)
    assert outcome.code == 0, outcome.log
    return folder / "run"


def cases(finished: Path) -> Iterator[tuple[str, Damage]]:
    newest, older = finished / "checkpoints" / f"step-{NEWEST}", finished / "checkpoints" / f"step-{OLDER}"
    for file in sorted(newest.iterdir()):
        for name, damage in DAMAGES.items():
            yield f"{file.name}: {name}", lambda folder, file=file, damage=damage: damage(folder / file.name)
        other = (older / file.name).read_bytes()
        if other != file.read_bytes():
            yield (
                f"{file.name}: of another step",
                lambda folder, file=file, other=other: (folder / file.name).write_bytes(other),
            )
    yield from FOLDER_DAMAGES.items()


def test_each_damage_is_found_and_the_checkpoint_before_is_used(finished: Path, count: Any, tmp_path: Path) -> None:
    not_found = []
    num_cases = 0
    for name, damage in cases(finished):
        num_cases += 1
        run = tmp_path / str(num_cases)
        shutil.copytree(finished, run)
        store, newest = CheckpointStore(run / "checkpoints", keep_last=2), run / "checkpoints" / f"step-{NEWEST}"
        damage(newest)
        start = starting_point(OutputFolder(run), store, LATEST)
        is_found = start.checkpoint == store.path(OLDER) and len(start.notes) == 1 and str(newest) in start.notes[0]
        with pytest.raises(CheckpointError) as refusal:
            starting_point(OutputFolder(run), store, str(newest))
        if not is_found or refusal.value.exit_code != ExitCode.CHECKPOINT or str(newest) not in str(refusal.value):
            not_found.append(name)
        shutil.rmtree(run)
    count("damaged newest checkpoint", f"{num_cases} cases, {num_cases - len(not_found)} found, the one before used")
    assert not not_found
    assert num_cases >= FEWEST_CASES


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    laboratory: Any, finished: Path, digest_of: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / f"step-{NEWEST}"
    flip(0.5)(newest / "optimizer.pt")
    config = laboratory.config("pretrain-adamw")
    outcome = laboratory.run(config, tmp_path)
    assert outcome.code == 0, outcome.log
    lines = [line for line in outcome.log.splitlines() if line.startswith("not used:")]
    assert len(lines) == 1
    assert "optimizer.pt" in lines[0]
    found = digest_of(tmp_path / "run")
    assert {name: found[name] for name in found if not name.startswith("previous-")} == digest_of(finished)
    assert (tmp_path / "run" / "previous-1" / "checkpoints" / f"step-{NEWEST}" / "optimizer.pt").exists()


def test_where_a_log_lost_its_end_an_older_checkpoint_that_still_fits_is_used(
    laboratory: Any, finished: Path, digest_of: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-1])
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path)
    assert outcome.code == 0, outcome.log
    (line,) = [line for line in outcome.log.splitlines() if line.startswith("not used:")]
    assert f"step-{NEWEST}: run/metrics.jsonl had" in line
    assert f"continuing from run/checkpoints/step-{OLDER}" in " ".join(outcome.log.split())
    found = digest_of(tmp_path / "run")
    assert {name: found[name] for name in found if not name.startswith("previous-")} == digest_of(finished)


def test_a_damaged_line_of_a_log_is_named_and_ends_nothing(laboratory: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    lines[2] = b"\xff" + lines[2][1:]
    lines[4] = lines[4].replace(b'"split"', b'"spliv"')
    metrics.write_bytes(b"".join(lines))
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path)
    assert outcome.code == 0, outcome.log
    assert "run/metrics.jsonl: damaged, and left out here: line 3, 5" in outcome.log
    assert f"at step {NEWEST}" in outcome.log
    assert metrics.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_in_a_line_of_metrics_is_survived(finished: Path, tmp_path: Path, bit: int) -> None:
    lines = (finished / "metrics.jsonl").read_bytes().splitlines()
    (line,) = [line for line in lines if b'"eval"' in line and b'"step": 12,' in line]
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1 << bit
        (tmp_path / "metrics.jsonl").write_bytes(changed + b"\n" + line + b"\n")
        found, _ = evaluations(OutputFolder(tmp_path))
        assert found[-1].step == NEWEST
        assert all(each.loss_text for each in found)


def test_a_flipped_bit_in_a_manifest_is_blamed_on_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    write_manifest(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / MANIFEST).write_bytes(changed)
        if json_or_none(changed) != json.loads(whole):
            with pytest.raises(CheckpointError, match=f"{MANIFEST} is damaged"):
                verify(tmp_path)


def test_a_manifest_from_before_it_had_a_digest_is_read(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    write_manifest(tmp_path)
    edit_manifest(lambda content: content.pop("sha256"))(tmp_path)
    verify(tmp_path)


def json_or_none(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_damaged_checkpoint_that_is_named_ends_the_run(laboratory: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / f"step-{NEWEST}" / "model.safetensors").write_bytes(b"")
    config = laboratory.config("pretrain-adamw")
    resume = f"training.checkpoint.resume=run/checkpoints/step-{NEWEST}"
    outcome = laboratory.run(config, tmp_path, arguments=[resume])
    assert outcome.code == ExitCode.CHECKPOINT
    assert "model.safetensors" in outcome.log
    assert "Traceback" not in outcome.log


def test_no_whole_checkpoint_ends_the_run_and_touches_nothing(
    laboratory: Any, finished: Path, digest_of: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for step in (NEWEST, OLDER):
        (tmp_path / "run" / "checkpoints" / f"step-{step}" / MANIFEST).unlink()
    before = digest_of(tmp_path / "run")
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path)
    assert outcome.code == ExitCode.CHECKPOINT
    assert "none of its checkpoints can be continued from" in outcome.log
    assert digest_of(tmp_path / "run") == before


def test_a_planted_pickle_is_refused_even_with_a_manifest_that_fits(
    laboratory: Any, finished: Path, tmp_path: Path
) -> None:
    import pickle

    class Planted:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path("planted"),)  # type: ignore[return-value]

    shutil.copytree(finished, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / f"step-{NEWEST}"
    (newest / "optimizer.pt").write_bytes(pickle.dumps(Planted()))
    write_manifest(newest)
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path)
    assert outcome.code == ExitCode.CHECKPOINT
    assert not (tmp_path / "planted").exists()
    assert "Traceback" not in outcome.log
