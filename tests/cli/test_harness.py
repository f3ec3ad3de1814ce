"""The lm-evaluation-harness asks a tiny model: two local tasks through ``dlm eval``, and the adapter itself."""

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import get_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import dlm
from dlm.errors import UserInputError
from dlm.evaluation.harness import DlmLM, cut
from dlm_cli.main import cli

CHOICES = """\
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""
ANSWERS = """\
task: tiny_answers
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: true, temperature: 1.0}
metric_list: [{metric: exact_match}]
"""
ROLLING = """\
task: tiny_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}} {{choices[answer]}} and so on and on and on"
metric_list: [{metric: word_perplexity}]
"""
ROWS = [{"question": f"{a} is", "choices": ["one", "two", "three"], "answer": a % 3} for a in range(5)]
"""An odd number: one of two processes asks something twice."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "tasks").mkdir()
    for name, text in {"choices": CHOICES, "answers": ANSWERS, "rolling": ROLLING}.items():
        (folder / "tasks" / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    write_model(folder / "model")
    return folder


def write_model(folder: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz .0123456789\n"
    backend = Tokenizer(models.WordLevel({each: i for i, each in enumerate(letters)} | {"?": 39}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="<e>", mask_token="<m>")
    torch.manual_seed(0)
    config = dlm.Qwen3LLadaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=44,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
        max_position_embeddings=32,
    )
    dlm.Qwen3LLadaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def lm(folder: Path) -> DlmLM:
    return DlmLM(str(folder / "model"), draws=8)


def asked(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def test_the_harness_s_own_default_device_is_no_demand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert DlmLM(str(folder / "model"), device="cuda:0").session.model.device.type != "cuda"


def test_both_tasks_run_through_dlm_eval(folder: Path, tmp_path: Path) -> None:
    tasks = ["--harness-tasks", "tiny_choices,tiny_answers", "--include-path", str(folder / "tasks")]
    text = tmp_path / "text.txt"
    text.write_text("a text. " * 5)
    common = ["eval", "--model", str(folder / "model"), "--data", str(text), "--max-draws", "8"]
    result = CliRunner().invoke(cli, [*common, *tasks, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.output, result.exception)
    (found,) = json.loads((tmp_path / "out" / "report.json").read_text())["models"]
    assert 0 <= found["harness"]["results"]["tiny_choices"]["acc,none"] <= 1
    assert "tiny_answers: exact_match" in result.output
    result = CliRunner().invoke(cli, [*common, "--harness-tasks", "no_such", "--include-path", str(folder / "tasks")])
    assert isinstance(result.exception, UserInputError)
    assert "no task 'no_such'" in str(result.exception)


TWO_PROCESSES = """\
import json, sys
from dlm.evaluation import harness
folder, batch_size = sys.argv[1], int(sys.argv[2])
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=folder + "/tasks", include_defaults=False)
lm = harness.DlmLM(folder + "/model", draws=2, batch_size=batch_size)
found = simple_evaluate(
    model=lm, tasks=["tiny_choices", "tiny_answers", "tiny_rolling"], task_manager=manager, bootstrap_iters=0
)
if lm.rank == 0:
    answers = lambda rows: sorted((each["doc_id"], each["filtered_resps"]) for each in rows)
    samples = {name: answers(rows) for name, rows in found["samples"].items()}
    print("FOUND " + json.dumps([lm.world_size, found["results"], samples]))
"""


def evaluated_by(folder: Path, num_processes: int, batch_size: int) -> Any:
    """Results and every answer, from as many processes that meet over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", TWO_PROCESSES, str(folder), str(batch_size)]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **place, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(num_processes)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * num_processes, outputs
    (line,) = [each for each in outputs[0][0].decode().splitlines() if each.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


def test_a_score_differs_neither_with_the_number_of_processes_nor_with_the_batch_size(folder: Path) -> None:
    """All five methods that the harness asks of several processes; likelihoods, whole texts, random answers."""
    (one, results, samples), (two, results_of_two, samples_of_two) = (
        evaluated_by(folder, processes, batch_size) for processes, batch_size in ((1, 2), (2, 4))
    )
    assert (one, two) == (1, 2)
    assert results["tiny_rolling"]["word_perplexity,none"] > 1
    for task in results:
        for key, value in results[task].items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert results_of_two[task][key] == expected, (task, key)
    assert len(samples_of_two["tiny_answers"]) == len(ROWS)
    assert samples_of_two["tiny_answers"] == samples["tiny_answers"]
    answers = [json.dumps(resps) for _, resps in samples["tiny_answers"]]
    assert len(set(answers)) > 2  # they are random


def test_the_entry_point_leads_to_the_class() -> None:
    (point,) = [each for each in entry_points(group="lm_eval.models") if each.name == "dlm"]
    assert point.load() is DlmLM
    assert issubclass(DlmLM, TemplateLM)
    # What the harness's own command line looks the name up in.
    assert get_model("dlm") is DlmLM


def test_the_results_say_how_they_were_made(lm: DlmLM) -> None:
    info = lm.get_model_info()
    assert (info["estimator"], info["draws"], info["draw_seed"]) == ("bound", 8, 0)


def test_likelihoods_are_those_of_dlm_whatever_else_is_asked(lm: DlmLM) -> None:
    requests = [asked("a cat is", " here"), asked("a cat is", " there now"), asked("", "dogs")]
    together = lm.loglikelihood(requests, disable_tqdm=True)
    alone = [lm.loglikelihood([each], disable_tqdm=True)[0] for each in requests]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], rel=1e-5)
    model, tokenizer = lm.session.model, lm.session.tokenizer
    own = dlm.log_likelihood(model, ["a cat is"] * 2, [" here", " there now"], tokenizer=tokenizer, draws=8)
    assert [value for value, _ in together[:2]] == pytest.approx(own.values.tolist(), rel=1e-5)
    (rolling,) = lm.loglikelihood_rolling([asked("abc")])
    assert rolling == pytest.approx(
        float(dlm.log_likelihood(model, [""], ["abc"], tokenizer=tokenizer).values), rel=1e-5
    )
    assert len(lm.loglikelihood_rolling([asked("a text that is longer than the context of the model")])) == 1


def test_the_greedy_flag_is_that_of_decoding_from_left_to_right(lm: DlmLM) -> None:
    model, ids = lm.session.model, lm.tok_encode("a cat")
    mask, written = lm.session.mask_id, []
    for left in range(3, 0, -1):
        row = torch.tensor([[*ids, *written, *[mask] * left]])
        logits = model(input_ids=row).logits[0, len(ids) + len(written)].detach()
        logits[mask] = logits[42:] = -torch.inf
        written.append(int(logits.argmax()))
    pairs = [(("", ""), ids, written), (("", ""), ids, [(written[0] + 1) % 39, *written[1:]])]
    assert [greedy for _, greedy in lm._loglikelihood_tokens(pairs)] == [True, False]


def test_the_task_s_arguments_are_obeyed(lm: DlmLM) -> None:
    (long, short, other) = lm.generate_until(
        [
            asked("a cat", {"until": [], "max_gen_toks": 12}),
            asked("a cat", {"until": [], "max_gen_toks": 4, "do_sample": False, "temperature": 5.0}),
            asked("a cat", {"until": [], "max_gen_toks": 4}),
        ]
    )
    assert len(long) > len(short)
    assert short == other
    assert cut("one two three", "two") == "one "
    assert cut("one two three", ["three", "two"]) == "one "
    assert cut("one", None) == "one"
