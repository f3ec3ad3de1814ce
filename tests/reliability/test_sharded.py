"""Sharded checkpoints: the same promise, kept by several processes together, and resumed by another number of them."""

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

import dlm
from dlm.errors import CheckpointError, ExitCode, ModelError
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.shards import ShardReader
from dlm.training.consolidate import consolidate
from dlm.training.output_folder import OutputFolder
from dlm.training.resuming import LATEST, starting_point
from dlm_cli.main import cli as command

SHARE_OF_TRIALS = 0.5
"""Of the trials that single runs get: one of several processes takes as many times longer."""
NUM_STEPS, EVERY = 6, 2
MAX_KILLS = 4


def config_of(laboratory: Any, name: str, *, dropout: float = 0.1, **checkpoint: object) -> Path:
    content = yaml.safe_load(laboratory.config("pretrain-adamw").read_text(encoding="utf-8"))
    model = {**content["model"]["config"], "attention_dropout": dropout, "tie_word_embeddings": True}
    changes = {
        "model": {"config": model},
        "training": {
            "max_steps": NUM_STEPS,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "checkpoint": {"every_steps": EVERY, "keep_last": 2, "resume": "latest", "format": "sharded", **checkpoint},
        },
        "logging": {"every_steps": 1},
        "evaluation": {"eval_every_steps": 3, "sample_prompts": []},
    }
    config: Path = laboratory.config(name, changes)
    return config


def train(laboratory: Any, config: Path, folder: Path, num_processes: int = 2, **request: Any) -> Any:
    """A run whose model is sharded over its processes."""
    arguments = [f"training.parallel.shard={num_processes}", *request.pop("arguments", ())]
    return laboratory.run(config, folder, num_processes=num_processes, arguments=arguments, **request)


def figures(folder: Path) -> dict[tuple[str, int, str], float]:
    """Losses, and the norms of the gradients, which differ sooner."""
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    named = [(line, name) for line in map(json.loads, lines) for name in ("loss", "grad_norm") if name in line]
    return {(line["split"], line["step"], name): line[name] for line, name in named}


@pytest.fixture(scope="module")
def finished(laboratory: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("together")
    outcome = train(laboratory, config_of(laboratory, "together"), folder)
    assert outcome.codes == [0, 0], outcome.log
    return folder


def test_each_process_writes_its_part_and_the_model_is_whole_at_the_end(finished: Path) -> None:
    checkpoint = finished / "run" / "checkpoints" / f"step-{NUM_STEPS}"
    names = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.safetensors")}
    assert names == {f"{kind}/shard-0000{i}-of-00002.safetensors" for kind in ("weights", "optimizer") for i in (1, 2)}
    final = load_file(finished / "run" / "final" / "model.safetensors")
    reader = ShardReader(checkpoint / "weights")
    targets = {name: torch.empty(each.shape) for name, each in reader.tensors().items()}
    reader.read(targets)
    assert targets.keys() == final.keys()
    assert all(torch.equal(targets[name], each) for name, each in final.items())


def test_a_model_is_made_of_a_sharded_checkpoint(finished: Path, tmp_path: Path) -> None:
    checkpoint = finished / "run" / "checkpoints" / f"step-{NUM_STEPS}"
    with pytest.raises(ModelError, match="a sharded checkpoint; `dlm merge"):
        dlm.load(checkpoint)
    merge = ["merge", str(checkpoint), "--out", str(tmp_path / "model")]
    with pytest.raises(ModelError, match=r"inside of the checkpoint .*, which has to stay as it was saved"):
        consolidate(checkpoint, checkpoint / "model")
    assert "--base is for adapters" in CliRunner().invoke(command, [*merge, "--base", "owner/base"]).output
    result = CliRunner().invoke(command, merge)
    assert result.exit_code == 0, result.output
    final = finished / "run" / "final"
    names = {path.name for path in final.iterdir()} - {"manifest.json"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names
    for name in names:
        assert (tmp_path / "model" / name).read_bytes() == (final / name).read_bytes()
    dlm.load(tmp_path / "model")


def test_killed_at_random_moments_together(
    laboratory: Any, digest_of: Any, finished: Path, count: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One process or several of two or four, again and again in the same folder."""
    num_trials = max(1, round(SHARE_OF_TRIALS * request.config.getoption("--trials")))
    config = config_of(laboratory, "together")
    references = {2: digest_of(finished / "run")}
    kills = []
    for number in range(num_trials):
        draws, folder = random.Random(number), tmp_path / str(number)
        num_processes = 4 if number % 4 == 3 else 2
        for _ in range(MAX_KILLS):
            victims = draws.sample(range(num_processes), draws.randint(1, num_processes))
            kill = {"kill_in_save": [draws.choice([1, 1, 2]), draws.uniform(0, 0.05)], "victims": victims}
            outcome = train(laboratory, config, folder, num_processes, **kill)
            if outcome.codes == [0] * num_processes:
                break  # it had fewer saves left than that
            assert 0 not in outcome.codes, "a process went on alone"
            kills.append(outcome.inside_save)
            store = CheckpointStore(folder / "run" / "checkpoints", keep_last=2)
            assert not store.latest()[1], "a checkpoint that is neither whole nor absent"
        outcome = train(laboratory, config, folder, num_processes)
        assert outcome.codes == [0] * num_processes, outcome.log
        if num_processes not in references:
            whole = train(laboratory, config, tmp_path / "whole", num_processes)
            assert whole.codes == [0] * num_processes, whole.log
            references[num_processes] = digest_of(tmp_path / "whole" / "run")
        assert digest_of(folder / "run") == references[num_processes], number
    assert len(kills) >= 2 * num_trials
    count(
        "two or four sharded processes, one or more killed",
        f"{len(kills)} kills, {sum(kills)} inside a save, 0 different",
    )


@pytest.mark.parametrize(
    ("point", "rank", "may_be_whole"),
    [
        ("model written", 0, False),
        ("model written", 1, False),
        ("optimizer written", 1, True),  # all of its part: the first process needs it no more
        ("manifest written", 0, False),
    ],
)
def test_killed_between_two_files(
    laboratory: Any, digest_of: Any, finished: Path, tmp_path: Path, point: str, rank: int, may_be_whole: bool
) -> None:
    config = config_of(laboratory, "together")
    outcome = train(laboratory, config, tmp_path, die_at=[point, 2], die_rank=rank)
    assert outcome.codes[rank] == -signal.SIGKILL, outcome.log
    assert 0 not in outcome.codes
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=2)
    assert store.steps() in ([EVERY], *([[EVERY, 2 * EVERY]] if may_be_whole else []))
    assert not store.latest()[1], "a checkpoint that is neither whole nor absent"
    outcome = train(laboratory, config, tmp_path)
    assert outcome.codes == [0, 0], outcome.log
    assert digest_of(tmp_path / "run") == digest_of(finished / "run")


def test_two_processes_then_one_then_four_take_the_same_steps(laboratory: Any, count: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "regrouped", dropout=0.0)
    reference, folder = tmp_path / "reference", tmp_path / "regrouped"
    assert train(laboratory, config, reference).codes == [0, 0]
    outcome = train(laboratory, config, folder, inject=["signal_in_backward", 3, "SIGTERM"])  # in step 2
    assert outcome.codes == [ExitCode.TERMINATED] * 2, outcome.log
    alone = ["training.gradient_accumulation_steps=4"]
    outcome = train(laboratory, config, folder, 1, arguments=alone, inject=["signal_in_backward", 5, "SIGTERM"])
    assert outcome.code == ExitCode.TERMINATED, outcome.log
    copies = ["training.gradient_accumulation_steps=1", "training.parallel={shard: 2, replicate: 2}"]
    outcome = train(laboratory, config, folder, 4, arguments=copies, kill_in_save=[1, 0.01], victims=[3])
    assert 0 not in outcome.codes
    outcome = train(laboratory, config, folder, 4, arguments=["training.gradient_accumulation_steps=1"])
    assert outcome.codes == [0] * 4, outcome.log
    for before, now in ((2, 1), (1, 4)):
        line = f"changed since the checkpoint: num_processes: {before} in the checkpoint, {now} now"
        assert line in " ".join(outcome.log.split())
    found = figures(folder)
    pairs = [(value, found[key]) for key, value in figures(reference).items()]
    largest = max(abs(one - two) / one for one, two in pairs)
    count(
        "resumed by 2, then 1, then 4 processes",
        f"largest relative difference of a loss or gradient norm {largest:.1e}",
    )
    assert largest < 1e-6


def test_another_number_of_rows_is_refused(laboratory: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    outcome = train(laboratory, config_of(laboratory, "together"), tmp_path, 1)
    assert outcome.code == ExitCode.USER_INPUT
    assert "num_processes: 2 in the checkpoint, 1 now" in outcome.log
    assert "rows of a step: 8 in the checkpoint, 4 now" in outcome.log


def test_single_and_sharded_checkpoints_hold_the_same_and_go_on_from_each_other(
    laboratory: Any, finished: Path, tmp_path: Path
) -> None:
    config, single = config_of(laboratory, "together"), ["training.checkpoint.format=single"]
    signal_ = {"inject": ["signal_in_backward", 3, "SIGTERM"]}
    assert train(laboratory, config, tmp_path, arguments=single, **signal_).codes == [ExitCode.TERMINATED] * 2
    assert (tmp_path / "run" / "checkpoints" / "step-2" / "model.safetensors").exists()
    assert train(laboratory, config, tmp_path, **signal_).codes == [ExitCode.TERMINATED] * 2
    assert (tmp_path / "run" / "checkpoints" / "step-4" / "weights").is_dir()
    assert train(laboratory, config, tmp_path, arguments=single).codes == [0, 0]
    weights = "final/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (finished / "run" / weights).read_bytes()
    whole = tmp_path / "run" / "checkpoints" / f"step-{NUM_STEPS}"
    saved = torch.load(whole / "optimizer.pt", weights_only=True)["state"]
    parts = ShardReader(finished / "run" / "checkpoints" / f"step-{NUM_STEPS}" / "optimizer")
    targets = {name: torch.empty(each.shape) for name, each in parts.tensors().items()}
    parts.read(targets)
    moments = sorted(float(each.double().sum()) for values in saved.values() for each in values.values())
    assert moments == sorted(float(each.double().sum()) for each in targets.values())


def missing(shard: Path, older: Path) -> None:
    shard.unlink()


def of_another_save(shard: Path, older: Path) -> None:
    shutil.copyfile(older, shard)


def half(shard: Path, older: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


@pytest.mark.parametrize("damage", [missing, of_another_save, half])
@pytest.mark.parametrize("kind", ["weights", "optimizer"])
def test_a_shard_that_is_not_the_one_that_was_saved_is_named_and_the_checkpoint_before_is_used(
    finished: Path, tmp_path: Path, damage: Callable[[Path, Path], None], kind: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    store = CheckpointStore(run / "checkpoints", keep_last=2)
    name = f"{kind}/shard-00002-of-00002.safetensors"
    damage(store.path(NUM_STEPS) / name, store.path(NUM_STEPS - EVERY) / name)
    start = starting_point(OutputFolder(run), store, LATEST)
    assert start.checkpoint == store.path(NUM_STEPS - EVERY)
    (note,) = start.notes
    assert f"step-{NUM_STEPS}: {name} " in note
    with pytest.raises(CheckpointError, match=name) as refusal:
        starting_point(OutputFolder(run), store, str(store.path(NUM_STEPS)))
    assert refusal.value.exit_code == ExitCode.CHECKPOINT
    assert "\n" not in str(refusal.value)


def test_a_full_disk_of_one_process_is_survived_by_all(
    laboratory: Any, digest_of: Any, finished: Path, tmp_path: Path
) -> None:
    config = config_of(laboratory, "together")
    outcome = train(laboratory, config, tmp_path, inject=["limit_file_size_of_helper", 2, 1000], inject_rank=1)
    assert outcome.codes == [0, 0], outcome.log
    assert "step 4: could not save a checkpoint" in outcome.log
    assert CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=2).steps() == [2, 6]
    assert not list((tmp_path / "run").rglob(".dlm-*"))
    found, reference = digest_of(tmp_path / "run"), digest_of(finished / "run")
    same = [name for name in reference if name.startswith(("final", "metrics")) or "step-6/optimizer" in name]
    assert {name: found.get(name) for name in same} == {name: reference[name] for name in same}
