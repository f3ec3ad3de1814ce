"""More than one process: the same numbers, and the same promise."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dlm.errors import ExitCode

COMPARED = ("loss", "masked_ce", "grad_norm")
SHARDED = ["training.parallel.shard=2"]
SAME = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-12/optimizer.pt")


def config_of(laboratory: Any, name: str, *, dropout: float, tied: bool = False, **training: object) -> Path:
    content = yaml.safe_load(laboratory.config("pretrain-adamw").read_text(encoding="utf-8"))
    model = {**content["model"]["config"], "attention_dropout": dropout, "tie_word_embeddings": tied}
    changes = {"model": {"config": model}, "training": training, "logging": {"every_steps": 1}}
    config: Path = laboratory.config(name, changes)
    return config


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_two_processes_give_the_loss_of_one(laboratory: Any, count: Any, tmp_path: Path) -> None:
    alone = config_of(laboratory, "alone", dropout=0.0, batch_size=4, gradient_accumulation_steps=1)
    shared = config_of(laboratory, "shared", dropout=0.0, batch_size=2, gradient_accumulation_steps=1)
    assert laboratory.run(alone, tmp_path / "alone").code == 0
    outcome = laboratory.run(shared, tmp_path / "shared", num_processes=2)
    assert outcome.codes == [0, 0], outcome.log
    number, largest = difference(tmp_path / "alone", tmp_path / "shared")
    count(
        "two processes, against one: loss of every step", f"{number} lines, largest relative difference {largest:.1e}"
    )
    assert largest < 1e-5


def test_a_dry_run_is_described_once(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "alone", dropout=0.0, batch_size=4, gradient_accumulation_steps=1)
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=["--dry-run", *SHARDED])
    assert outcome.codes == [0, 0], outcome.log
    assert outcome.log.count("sharded over 2 processes") == outcome.log.count("nothing was written") == 1
    assert "Warning" not in outcome.log


def test_two_processes_share_a_stream_and_go_on_in_it_as_one(
    laboratory: Any, digest_of: Any, count: Any, tmp_path: Path
) -> None:
    stream = {"max_length": 60, "streaming": True, "shuffle_buffer": 16, "num_workers": 1}
    changes = {"model": float64_model(laboratory), "dataset": stream, "evaluation": {"do_eval_loss": False}}
    config = laboratory.config("shared-stream", {**changes, "logging": {"every_steps": 1}})
    twice, once = (f"training.gradient_accumulation_steps={number}" for number in (2, 1))
    assert laboratory.run(config, tmp_path / "alone", arguments=[twice]).code == 0
    outcome = laboratory.run(config, tmp_path / "both", num_processes=2, arguments=[once])
    assert outcome.codes == [0, 0], outcome.log
    number, largest = difference(tmp_path / "alone", tmp_path / "both")
    count("two processes that share a stream, against one", f"{number} lines, largest difference {largest:.1e}")
    assert largest < 1e-6
    folder = tmp_path / "killed"
    outcome = laboratory.run(config, folder, num_processes=2, arguments=[once], inject=["die_in_backward", 7])
    assert 0 not in outcome.codes
    outcome = laboratory.run(config, folder, num_processes=2, arguments=[once])
    assert outcome.codes == [0, 0], outcome.log
    assert digest_of(folder / "run") == digest_of(tmp_path / "both" / "run")


@pytest.fixture(scope="module")
def pretrained(laboratory: Any) -> str:
    """A folder of a float64 model with tied weights, for fine-tuning."""
    config = laboratory.config("pretrained", {"model": float64_model(laboratory), "training": {"max_steps": 1}})
    assert laboratory.run(config, laboratory.folder / "pretrained").code == 0
    return str(laboratory.folder / "pretrained" / "run" / "final")


def float64_model(laboratory: Any) -> dict[str, object]:
    """The laboratory's model in a precision that shows what is wrong, without dropout: its draws depend on the rank."""
    content = yaml.safe_load(laboratory.config("pretrain-adamw").read_text(encoding="utf-8"))
    config = {**content["model"]["config"], "attention_dropout": 0.0, "tie_word_embeddings": True}
    return {"config": config, "dtype": "float64"}


@pytest.mark.parametrize("kind", ["pretrain", "sft", "lora"])
def test_sharded_and_in_copies_it_is_the_run_of_one_process(
    laboratory: Any, pretrained: str, count: Any, tmp_path: Path, kind: str
) -> None:
    changes = laboratory.mode("sft" if kind == "lora" else kind)
    loaded = {"config": None, "tokenizer": None, "name_or_path": pretrained, "dtype": "float64"}
    changes = {
        **changes,
        "model": float64_model(laboratory) if kind == "pretrain" else loaded,
        "training": {**changes.get("training", {}), "max_steps": 20, "checkpoint": {"every_steps": 10}},
        "evaluation": {"eval_every_steps": 10, "sample_prompts": ["The "]},
        "logging": {"every_steps": 1},
        **({"lora": {"r": 4}} if kind == "lora" else {}),
    }
    config = laboratory.config(f"equal-{kind}", changes)
    assert laboratory.run(config, tmp_path / "one", arguments=["training.gradient_accumulation_steps=4"]).code == 0
    for name, processes, mesh in (("fsdp", 2, SHARDED), ("hsdp", 4, [*SHARDED, "training.parallel.replicate=2"])):
        arguments = [f"training.gradient_accumulation_steps={4 // processes}", *mesh]
        outcome = laboratory.run(config, tmp_path / name, num_processes=processes, arguments=arguments)
        assert outcome.codes == [0] * processes, outcome.log
        assert "the model is sharded over 2 processes" in outcome.log
        number, largest = difference(tmp_path / "one", tmp_path / name)
        count(f"{kind}, {name} on {processes} processes against one: 20 steps", f"largest difference {largest:.1e}")
        assert number >= 20
        assert largest < 1e-6
        assert texts(tmp_path / "one") == texts(tmp_path / name)


def texts(folder: Path) -> list[str]:
    return (folder / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()


def difference(one: Path, other: Path) -> tuple[int, float]:
    """How many lines of metrics there are, and the largest relative difference between those of two runs."""
    pairs = list(zip(lines(one), lines(other), strict=True))
    return len(pairs), max(abs(a[name] / b[name] - 1) for a, b in pairs for name in COMPARED if name in a)


def test_a_sharded_run_in_bf16_counts_exactly_and_has_the_loss_of_a_replicated_one(
    laboratory: Any, count: Any, tmp_path: Path
) -> None:
    config = config_of(laboratory, "bf16", dropout=0.0, mixed_precision="bf16", max_steps=6, batch_size=6)
    arguments = ["dataset.max_length=128"]  # so that there are more tokens of a kind than bf16 can count
    tokens_seen = []
    for name, mesh in (("replicated", []), ("sharded", SHARDED)):
        outcome = laboratory.run(config, tmp_path / name, num_processes=2, arguments=[*arguments, *mesh])
        assert outcome.codes == [0, 0], outcome.log
        state = tmp_path / name / "run" / "checkpoints" / "step-6" / "trainer_state.json"
        tokens_seen.append(json.loads(state.read_text(encoding="utf-8"))["tokens_seen"])
    assert tokens_seen[0] == tokens_seen[1]
    pairs = list(zip(lines(tmp_path / "replicated"), lines(tmp_path / "sharded"), strict=True))
    assert {one["split"] for one, _ in pairs} == {"train", "eval"}
    assert all(one["masked_tokens_by_rate"] == two["masked_tokens_by_rate"] for one, two in pairs)
    largest = max(abs(one[name] / two[name] - 1) for one, two in pairs for name in ("loss", "masked_ce"))
    count("two processes in bf16, sharded (FSDP2) against replicated", f"largest relative difference {largest:.1e}")
    assert largest < 3e-3


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(
    laboratory: Any, digest_of: Any, count: Any, tmp_path: Path, victim: int
) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    reference = laboratory.reference(config, num_processes=2)
    outcome = laboratory.run(config, tmp_path, num_processes=2, inject=["die_in_backward", 14], inject_rank=victim)
    assert outcome.codes[victim] == -signal.SIGKILL, outcome.log
    assert outcome.codes[1 - victim] == ExitCode.BUG, outcome.log
    assert (
        f"dlm: process {1 - victim} of 2 waited for the gradients of step 7, and another process is gone" in outcome.log
    )
    outcome = laboratory.run(config, tmp_path, num_processes=2)
    assert outcome.codes == [0, 0], outcome.log
    assert digest_of(tmp_path / "run") == reference
    count(f"rank {victim} of 2 killed", "the other ended by itself, started again, 0 different")


@pytest.mark.parametrize("mesh", [[], SHARDED])
def test_who_waits_too_long_says_for_what_and_ends(laboratory: Any, tmp_path: Path, mesh: list[str]) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    outcome = laboratory.run(
        config,
        tmp_path,
        num_processes=2,
        arguments=[*mesh, "training.parallel.timeout_seconds=3"],
        inject=["sleep_in_backward", 14, 8.0],
        inject_rank=1,
    )
    assert outcome.codes == [ExitCode.BUG] * 2, outcome.log
    # Whoever notices first; to the other, its connection breaks.
    assert re.search(r"dlm: process [01] of 2 waited 3 s for the gradients of step 7, as long as", outcome.log)
    assert "Traceback" not in outcome.log


def test_who_waits_too_long_for_answers_and_their_rewards_says_so(laboratory: Any, tmp_path: Path) -> None:
    config = laboratory.config("rl-slow", {**laboratory.mode("rl"), "evaluation": {"do_eval_loss": False}})
    arguments = ["training.parallel.timeout_seconds=2"]
    inject = {"inject": ["sleep_over_rewards", 5.0], "inject_rank": 1}
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=arguments, **inject)
    assert outcome.codes == [ExitCode.BUG] * 2, outcome.log
    assert "dlm: process 0 of 2 waited 2 s for the others' answers and their rewards, as long as" in outcome.log


def test_what_a_save_needs_of_the_network_is_tried_before_the_first_step(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=SHARDED, inject=["refuse_gloo"])
    assert outcome.codes == [ExitCode.BUG] * 2, outcome.log
    assert "waited for connections to the others for threads (gloo), and" in outcome.log
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_the_main_process_does_alone_may_take_longer(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    arguments = ["training.parallel.timeout_seconds=3", "training.max_steps=4"]
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=arguments, inject=["sleep_in_save", 2, 5.0])
    assert outcome.codes == [0, 0], outcome.log


@pytest.mark.parametrize("slow", [0, 1])
def test_what_each_does_for_itself_may_take_longer_on_one_of_them(laboratory: Any, tmp_path: Path, slow: int) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    arguments = ["training.parallel.timeout_seconds=2", "training.max_steps=1", *SHARDED]
    inject = {"inject": ["sleep_over_the_data", 4.0], "inject_rank": slow}
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=arguments, **inject)
    assert outcome.codes == [0, 0], outcome.log


def test_processes_that_would_train_different_things_are_refused(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    inject = {"inject": ["have_another_run_file", "optim.lr=0.1"], "inject_rank": 1}
    outcome = laboratory.run(config, tmp_path / "lr", num_processes=2, **inject)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert re.search(r"dlm: optim\.lr: 0\.001 in process 0 \(on .*\), 0\.1 in process 1 \(on .*\); all", outcome.log)


def test_the_output_folder_stays_locked_where_the_others_have_looked_at_it(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    inject: Any = {"inject": ["take_the_folder_in_a_save"]}
    arguments = ["training.output_dir=run", "training.max_steps=5", *SHARDED]
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=arguments, **inject)
    assert outcome.codes == [0, 0], outcome.log
    assert re.search(r"another process: .*: run is in use by process \d+ on ", outcome.log), outcome.log


def test_another_model_on_one_host_is_refused(laboratory: Any, tmp_path: Path) -> None:
    """Copies of a model by one path, of which one process has another: of the same names and sizes."""
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    laboratory.reference(config, num_processes=2)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, elsewhere):
        shutil.copytree(laboratory.folder / "reference-ranks" / "run" / "final", folder / "model")
    weights = elsewhere / "model" / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    assert weights.stat().st_size == (tmp_path / "model" / weights.name).stat().st_size
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({**content, "model": {"name_or_path": "model"}}), encoding="utf-8"
    )
    inject = {"inject": ["stand_in", str(elsewhere)], "inject_rank": 1}
    outcome = laboratory.run(tmp_path / "run.yaml", tmp_path, num_processes=2, arguments=SHARDED, **inject)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert outcome.log.count("dlm: model.name_or_path, digest of its files: '") == 2
    shutil.rmtree(elsewhere / "model")
    outcome = laboratory.run(tmp_path / "run.yaml", tmp_path, num_processes=2, arguments=SHARDED, **inject)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log


def test_other_versions_on_one_host_are_told(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    inject = {"inject": ["have_another_version", "accelerate", "0.1"], "inject_rank": 1}
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=["training.max_steps=1"], **inject)
    assert outcome.codes == [0, 0], outcome.log
    said = r"not the same everywhere: versions\.accelerate: '[\d.]+' in process 0 \(on .*\), '0\.1' in process 1 \(on "
    assert len(re.findall(said, outcome.log)) == 1, outcome.log


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"text": "One more."}', "dataset, fingerprint of what was read: "), ("{", "texts.jsonl:21: not valid JSON")],
)
def test_data_that_are_other_on_one_host_end_all(laboratory: Any, tmp_path: Path, line: str, said: str) -> None:
    """A path means another file on another host: here one relative to the folder that a process is in."""
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    texts = (laboratory.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, more in ((tmp_path, []), (elsewhere, [line])):
        (folder / "texts.jsonl").write_text("\n".join([*texts, *more, ""]), encoding="utf-8")
    inject = {"inject": ["stand_in", str(elsewhere)], "inject_rank": 1}
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=["dataset.name=texts.jsonl"], **inject)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert outcome.log.count(said) == 2


@pytest.mark.parametrize("sharded", [True, False])
def test_an_output_folder_that_the_hosts_do_not_share_is_refused_where_all_need_it(
    laboratory: Any, tmp_path: Path, sharded: bool
) -> None:
    """Where all write to it, or read a checkpoint of it. Else only the first process has to see it."""
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    request: Any = {"num_processes": 2, "inject": ["stand_in", str(elsewhere)], "inject_rank": 1}
    arguments = ["training.output_dir=mine", "training.max_steps=5", *(SHARDED if sharded else ())]
    outcome = laboratory.run(config, tmp_path, arguments=arguments, **request)
    if not sharded:
        assert outcome.codes == [0, 0], outcome.log
        arguments = [*arguments[:1], "training.max_steps=6", "--allow-change", "training.max_steps"]
        outcome = laboratory.run(config, tmp_path, arguments=arguments, **request)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert re.search(
        rf"dlm: training\.output_dir: {elsewhere}/mine on .* is not the folder that process \d+ on", outcome.log
    )
    assert not (elsewhere / "mine").exists()


def test_a_sharded_run_is_saved_as_one_folder_where_it_is_told_and_goes_on(
    laboratory: Any, digest_of: Any, count: Any, tmp_path: Path
) -> None:
    config = config_of(laboratory, "sharded", dropout=0.1, batch_size=2, gradient_accumulation_steps=2, tied=True)
    arguments = [*SHARDED, "training.checkpoint.format=single"]
    outcome = laboratory.run(config, tmp_path / "whole", num_processes=2, arguments=arguments)
    assert outcome.codes == [0, 0], outcome.log
    folder = tmp_path / "killed"
    laboratory.run(config, folder, num_processes=2, arguments=arguments, inject=["die_in_backward", 14], inject_rank=1)
    outcome = laboratory.run(config, folder, num_processes=2, arguments=arguments)
    assert outcome.codes == [0, 0], outcome.log
    assert "continuing from" in outcome.log
    assert digest_of(folder / "run") == digest_of(tmp_path / "whole" / "run")
    replicated = laboratory.reference(config, num_processes=2)
    assert set(digest_of(folder / "run")) == set(replicated)
    sharded, reference = (
        load_file(each / "run" / "final" / "model.safetensors")
        for each in (folder, laboratory.folder / "reference-sharded")
    )
    assert {name: tensor.shape for name, tensor in sharded.items()} == {
        name: tensor.shape for name, tensor in reference.items()
    }
    count("a sharded run (FSDP2), one rank killed, started again", "the same folder format, 0 different")


def test_an_optimizer_that_cannot_shard_is_named(laboratory: Any, tmp_path: Path) -> None:
    config = laboratory.config("sharded-8bit", {"optim": {"name": "adamw8bit"}})
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=SHARDED)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert "cannot work on a sharded model" in outcome.log


def test_a_signal_to_any_rank_ends_or_saves_on_all(laboratory: Any, digest_of: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    reference = laboratory.reference(config, num_processes=2)
    folder = tmp_path / "ended"
    outcome = laboratory.run(
        config, folder, num_processes=2, inject=["signal_in_backward", 9, "SIGTERM"], inject_rank=1
    )
    assert outcome.codes == [ExitCode.TERMINATED] * 2, outcome.log
    assert (folder / "run" / "checkpoints" / "step-5" / "manifest.json").exists()
    assert laboratory.run(config, folder, num_processes=2).codes == [0, 0]
    found = digest_of(folder / "run")
    assert {name: found[name] for name in SAME} == {name: reference[name] for name in SAME}
    folder = tmp_path / "saved"
    outcome = laboratory.run(
        config, folder, num_processes=2, inject=["signal_in_backward", 9, "SIGUSR1"], inject_rank=1
    )
    assert outcome.codes == [0, 0], outcome.log
    found = digest_of(folder / "run")
    assert {name: found[name] for name in SAME} == {name: reference[name] for name in SAME}


def test_another_number_of_processes_is_refused_on_all(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    outcome = laboratory.run(config, tmp_path, num_processes=2, inject=["die_in_backward", 14])
    outcome = laboratory.run(config, tmp_path)
    assert outcome.code == ExitCode.USER_INPUT
    assert "num_processes: 2 in the checkpoint, 1 now" in outcome.log


def test_what_fails_on_the_main_process_ends_all_with_its_exit_code(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    outcome = laboratory.run(config, tmp_path, num_processes=2, inject=["report_full_disk", 2, 99])
    assert outcome.codes == [ExitCode.FINAL_STATE_NOT_SAVED] * 2, outcome.log
    arguments = ["training.checkpoint.resume=run/checkpoints/step-99"]
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=arguments)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log


def test_one_of_several_processes_evaluates_at_the_end_and_nobody_waits_for_it(laboratory: Any, tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": "A", "choices": ["b", "c"], "answer": 0}) + "\n")
    asked = {"questions": str(tmp_path / "quiz.jsonl"), "draws": 2, "max_draws": 8}
    config = laboratory.config("at-end", {"training": {"max_steps": 2}, "evaluation": {"at_end": asked}})
    alone = {"num_processes": 2, "inject": ["evaluate_at_the_end_once_alone", 30], "inject_rank": 0}
    outcome = laboratory.run(config, tmp_path / "told", **alone)
    assert outcome.codes == [0, 0], outcome.log
    assert outcome.log.count("evaluated: ") == 1
    report = json.loads((tmp_path / "told" / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["models"][0]["questions"]["metrics"]["accuracy"]["number"] == 1
    arguments = ["evaluation.at_end.window=1000", f"evaluation.at_end.data={laboratory.folder / 'texts.jsonl'}"]
    outcome = laboratory.run(config, tmp_path / "failed", num_processes=2, arguments=arguments)
    assert outcome.codes == [0, 0], outcome.log
    assert outcome.log.count("evaluation.at_end failed (window is 1000") == 1
    assert (tmp_path / "failed" / "run" / "final" / "model.safetensors").is_file()
    outcome = laboratory.run(
        config, tmp_path / "missing", num_processes=2, arguments=["evaluation.at_end.questions=no"]
    )
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert not (tmp_path / "missing" / "run").exists()


def launch(laboratory: Any, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    folder.mkdir()
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "dlm", "run", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_who_is_launched_and_left_alone_waits_no_longer_than_the_timeout(laboratory: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    command = [sys.executable, "-m", "dlm", "run", str(config), "training.parallel.timeout_seconds=2"]
    place = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"}
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody else answers at that port
        port = server.getsockname()[1]
        stranger = {**os.environ, **place, "RANK": "1", "MASTER_PORT": str(port)}
        second = subprocess.run(command, cwd=tmp_path, env=stranger, capture_output=True, text=True, check=False)
    first = subprocess.run(
        command, cwd=tmp_path, env={**stranger, "RANK": "0"}, capture_output=True, text=True, check=False
    )
    for rank, result in enumerate((first, second)):
        assert result.returncode == ExitCode.BUG, result.stderr
        assert f"dlm: process {rank} of 2 waited 2 s for the other processes to start, as long as" in result.stderr
    assert not (tmp_path / "run").exists()


def test_accelerate_launches_two_processes(laboratory: Any, digest_of: Any, tmp_path: Path) -> None:
    config = config_of(laboratory, "ranks", dropout=0.1, batch_size=2, gradient_accumulation_steps=2)
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    result = launch(laboratory, tmp_path / "launched", *options)
    assert result.returncode == 0, result.stderr
    assert digest_of(tmp_path / "launched" / "run") == laboratory.reference(config, num_processes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num_processes", "2"), "--multi_gpu --num_processes N"),
        (("--num_processes", "2", "--use_fsdp", "--fsdp_version", "2"), "set training.parallel: {shard: "),
    ],
)
def test_a_launch_that_would_do_something_else_is_refused(
    laboratory: Any, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = launch(laboratory, tmp_path / "launched", *options, "--num_machines", "1", "--main_process_port", "0")
    assert result.returncode != 0
    assert message in result.stderr
    assert not (tmp_path / "launched" / "run" / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_learning_from_rewards_is_the_same_sharded(
    laboratory: Any, pretrained: str, count: Any, tmp_path: Path, kind: str
) -> None:
    """There is one held-out prompt: while one process answers it, the other has nothing to go through the model for."""
    changes = changes_of_rl(laboratory, pretrained)
    if kind == "lora":
        changes |= {"lora": {"r": 4}}
        changes["training"]["loss_impl"] = {"name": "policy_clip", "kl": "k2", "beta": 0.1}
        changes["rl"]["reference"] = "start"
    config = laboratory.config(f"sharded-rl-{kind}", changes)
    for name, mesh in (("replicated", []), ("sharded", SHARDED)):
        outcome = laboratory.run(config, tmp_path / name, num_processes=2, arguments=mesh)
        assert outcome.codes == [0, 0], outcome.log
    one, other = lines(tmp_path / "replicated"), lines(tmp_path / "sharded")
    assert len(one) == len(other)
    assert {line["split"] for line in one} == {"train", "eval"}
    largest = max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in OF_REWARDS if name in a)
    count(f"mode rl, {kind}: sharded (FSDP2) against replicated", f"largest difference {largest:.1e}")
    assert max(line.get("grad_norm", 0) for line in one) > 0.01
    assert largest < 1e-6
    assert texts(tmp_path / "replicated") == texts(tmp_path / "sharded")


OF_REWARDS = ("loss", "grad_norm", "kl_to_old", "entropy", "reward_mean", "greedy_reward", "drawn_reward")


def changes_of_rl(laboratory: Any, model: str) -> dict[str, Any]:
    changes: dict[str, Any] = laboratory.mode("rl")
    return {
        **changes,
        "model": {"config": None, "tokenizer": None, "name_or_path": model, "dtype": "float64"},
        "training": {**changes["training"], "loss_impl": "policy_clip", "max_steps": 4},
        "rl": {"rewards": ["exact"], "group_size": 4, "updates_per_rollout": 2},
        "logging": {"every_steps": 1},
    }


@pytest.mark.parametrize(
    ("rl", "what"),
    [
        ({"reference": "start"}, "rl.reference (other than start with lora)"),
        ({"advantage": "value", "value": {}}, "rl.value"),
    ],
)
def test_a_second_model_beside_a_shard_is_refused(
    laboratory: Any, pretrained: str, tmp_path: Path, rl: dict[str, Any], what: str
) -> None:
    changes = changes_of_rl(laboratory, pretrained)
    changes["rl"] |= rl
    if "reference" in rl:
        changes["training"]["loss_impl"] = {"name": "policy_clip", "kl": "k2", "beta": 0.1}
    config = laboratory.config(f"sharded-{what.partition(' ')[0]}", changes)
    outcome = laboratory.run(config, tmp_path, num_processes=2, arguments=SHARDED)
    assert outcome.codes == [ExitCode.USER_INPUT] * 2, outcome.log
    assert f"training.parallel.shard: {what} means a second model, which is not sharded yet; set shard" in outcome.log
