"""``dlm eval`` and ``dlm report`` on a tiny run: figures, comparisons, reports, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from transformers import AutoTokenizer

import dlm
from dlm_cli.main import cli

RUN_FILE = """\
model:
  name_or_path: null
  config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64, tie_word_embeddings: true}
  tokenizer: {train: {vocab_size: 262}}
training: {mode: pretrain, output_dir: OUT, max_steps: 2, batch_size: 4, loss_impl: guidelines,
           checkpoint: {every_steps: 2, keep_last: 1, resume: latest}}
dataset: {name: TEXTS, max_length: 16, pack: true}
optim: {name: adamw, lr: 1.0e-3}
evaluation: {eval_every_steps: 2, fraction: 0.2, sample_prompts: ["The ", "A cat"]}
sampling: {gen_length: 4, steps: 2}
logging: {every_steps: 1}
"""
QUESTIONS = [
    {"question": "The sky is", "choices": ["blue", "xq"], "answer": 0},
    {"question": "Grass is", "choices": ["xq", "green"], "answer": "green"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    lines = [
        f"The {noun} of number {number} is {number * 7 % 10}.\n" for number in range(12) for noun in ("cat", "sky")
    ]
    (folder / "texts.txt").write_text("".join(lines))
    text = RUN_FILE.replace("OUT", str(folder / "run")).replace("TEXTS", str(folder / "texts.txt"))
    (folder / "run.yaml").write_text(text)
    dlm.run(folder / "run.yaml")
    for name, rows in {
        "questions": QUESTIONS,
        "answers": [{"question": "1 + 1 =", "answer": ["2", "two"]}],
        "preferences": [{"prompt": "The", "chosen": "cat", "rejected": "qqqq"}],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluate(run: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["eval", "--model", str(run / "run" / "final"), *arguments])


def report_of(run: Path, out: Path, *arguments: str) -> tuple[dict, Result]:
    result = evaluate(run, "--out", str(out), *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads((out / "report.json").read_text()), result


def test_without_options_it_scores_what_the_run_held_out(run: Path, tmp_path: Path) -> None:
    report, result = report_of(run, tmp_path / "report")
    (found,) = report["models"]
    saved = json.loads((next((run / "run" / "checkpoints").glob("step-*")) / "trainer_state.json").read_text())
    assert found["data"]["fingerprint"] == saved["identity"]["data_fingerprint"]
    assert found["data"]["notes"] == []
    nats = found["likelihood"]["nats_per_token"]
    # An untrained model: about the logarithm of its 261 ids.
    assert 4.5 < nats["value"] < 6.5
    low, high = nats["interval_of_draws"]
    assert low < nats["value"] < high
    assert found["likelihood"]["is_as_precise_as_asked"] == (high - low < 0.02 * nats["value"])
    assert sum(each["positions"] for each in found["by_mask_rate"]) == sum(
        each["positions"] for each in found["calibration"]
    )
    assert found["model"]["weights_sha256"] is not None
    assert found["sampling"]["tokens_per_forward"] == 2
    assert "nats a token" in result.output
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "step 2" in page


def test_questions_answers_and_preferences_are_scored(run: Path, tmp_path: Path) -> None:
    names = ("questions", "answers", "preferences")
    options = [part for name in names for part in (f"--{name}", str(run / f"{name}.jsonl"))]
    report, _ = report_of(run, tmp_path / "report", *options, "--max-draws", "8")
    (found,) = report["models"]
    assert found["questions"]["metrics"]["accuracy"]["number"] == 2
    assert len(found["questions"]["margins"]) == 2
    assert set(found["answers"]["metrics"]) == {"exact_match", "contains", "number", "distinct_n", "entropy"}
    assert found["answers"]["items"][0]["references"] == ["2", "two"]
    assert found["answers"]["tokens_per_forward"] == 2
    assert found["preferences"]["chosen_is_likelier"]["number"] == 1
    model, tokenizer = dlm.load(run / "run" / "final"), AutoTokenizer.from_pretrained(run / "run" / "final")
    values = dlm.log_likelihood(model, ["The sky is"] * 2, [" blue", " xq"], tokenizer=tokenizer).values
    assert found["questions"]["margins"][0] == pytest.approx(float(values[0] - values[1]), rel=1e-5)


def test_a_model_against_itself_differs_by_nothing(run: Path, tmp_path: Path) -> None:
    report, result = report_of(run, tmp_path / "r", "--against", str(run / "run" / "final"), "--max-draws", "8")
    difference = report["against"]["nats_per_token_difference"]
    assert (difference["value"], difference["interval_of_draws"]) == (0, [0, 0])
    assert f"more than {run / 'run' / 'final'}, paired:" in result.output


def test_questions_and_preferences_are_compared_item_by_item_each_model_by_its_own_method(
    run: Path, tmp_path: Path
) -> None:
    quiz = tmp_path / "quiz.jsonl"
    rows = [{"question": f"The {noun} is", "choices": ["a", "b", "c"], "answer": 0} for noun in ("cat", "sky", "6")]
    quiz.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--questions", str(quiz), "--preferences", str(run / "preferences.jsonl"), "--max-draws", "8"]
    other = ["--against", str(run / "run" / "checkpoints" / "step-2")]
    report, result = report_of(run, tmp_path / "r", *asked, *other, "--against-method", "autoregressive")
    (found,), comparison = report["models"], report["against"]
    assert [each["questions"]["method"] for each in (found, comparison)] == ["bound", "autoregressive"]
    mine, theirs = (each["questions"]["metrics"]["accuracy"]["values"] for each in (found, comparison))
    differences = np.subtract(mine, theirs)
    accuracy = comparison["item_differences"]["questions"]["accuracy"]
    assert accuracy["value"] == pytest.approx(differences.mean())
    half = 4.3026527 * differences.std(ddof=1) / 3**0.5  # Student's t of two degrees of freedom
    assert accuracy["interval"] == pytest.approx([accuracy["value"] - half, accuracy["value"] + half])
    margins = np.subtract(found["preferences"]["margins"], comparison["preferences"]["margins"])
    assert comparison["item_differences"]["preferences"]["margin in nats"]["value"] == pytest.approx(margins.mean())
    # A single pair says nothing of others.
    assert comparison["item_differences"]["preferences"]["margin in nats"]["interval"] is None
    assert "questions: accuracy" in result.output.partition("paired:")[2]
    assert "questions: accuracy" in (tmp_path / "r" / "report.html").read_text().partition("(paired)")[2]


@pytest.fixture(scope="module")
def other(run: Path) -> Path:
    """A model with another tokenizer."""
    changes = [f"training.output_dir={run / 'other'}", "model.tokenizer.train.vocab_size=300"]
    return dlm.run(run / "run.yaml", [*changes, "model.config.max_position_embeddings=32"]).output_dir / "final"


def test_models_with_different_tokenizers_are_compared_in_bits_a_byte_only(
    run: Path, other: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat of number 3 is 1. " * 8)
    options = ("--data", str(text), "--max-draws", "16", "--precision", "0.001%")
    report, result = report_of(run, tmp_path / "r", "--against", str(other), "--window", "24", *options)
    comparison = report["against"]
    assert "nats_per_token_difference" not in comparison
    assert "only bits a byte can be compared" in result.output
    difference = comparison["bits_per_byte_difference"]["value"]
    mine, theirs = (each["likelihood"]["bits_per_byte"]["value"] for each in (report["models"][0], comparison))
    assert difference == pytest.approx(mine - theirs, rel=1e-9)
    # Its 300 entries make fewer tokens of the same bytes.
    nats = comparison["likelihood"]["nats_per_token"]["value"]
    assert theirs < 0.95 * nats / np.log(2)
    text.write_text("ZQXJKVW%" * 8)  # what its entries do not shorten
    result = evaluate(run, "--against", str(other), *options)
    assert getattr(result.exception, "exit_code", None) == 2
    assert "its context is 32: give a smaller --window" in str(result.exception)


def test_several_models_make_a_table(run: Path, other: Path, tmp_path: Path) -> None:
    report, result = report_of(run, tmp_path / "r", "--model", str(other), "--max-draws", "8")
    assert [each["model"]["name"] for each in report["models"]] == [str(run / "run" / "final"), str(other)]
    lines = result.output.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("side by side"))
    assert lines[start + 1].split() == ["figure", str(run / "run" / "final"), str(other)]
    (line,) = [each for each in lines[start:] if "nats a token" in each]
    for each in report["models"]:
        assert f"{each['likelihood']['nats_per_token']['value']:.4g} [" in line
    assert "Side by side" in (tmp_path / "r" / "report.html").read_text()


def test_texts_longer_than_the_context_are_scored_in_windows_and_that_is_said(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("The cat of number 3 is 1. " * 40)
    report, result = report_of(run, tmp_path / "r", "--data", str(text), "--max-draws", "8")
    assert "windows of at most 64 tokens, each after the first with the 32 tokens before it" in result.output
    assert report["models"][0]["data"]["bytes"] == len(text.read_bytes())


def test_a_sweep_tries_every_combination(run: Path, tmp_path: Path) -> None:
    report, _ = report_of(run, tmp_path / "r", "--sweep", "sampling.steps=2,4", "--sweep", "sampling.remasking=random")
    assert [each["settings"] for each in report["sweep"]] == [
        "steps=2, remasking=random",
        "steps=4, remasking=random",
    ]
    # As in the report, where two texts are written at once: 4 tokens in 2 steps, whatever the batch.
    assert [each["tokens_per_forward"] for each in report["sweep"]] == [2, 1]
    assert report["models"][0]["sampling"]["tokens_per_forward"] == 2
    assert all(np.isfinite(each["figures"]["own nats a token"]["value"]) for each in report["sweep"])


@pytest.mark.parametrize("context", [64, 24])
def test_where_no_run_says_how_long_texts_are_short_ones_tell_the_speed(
    run: Path, tmp_path: Path, context: int
) -> None:
    alone = tmp_path / "out" / "alone"  # without the run's configuration beside it
    shutil.copytree(run / "run" / "final", alone)
    config = json.loads((alone / "config.json").read_text())
    (alone / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    (tmp_path / "text.txt").write_text("The cat of number 3 is 1.")
    options = ["--data", str(tmp_path / "text.txt"), "--max-draws", "8", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli, ["eval", "--model", str(alone), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    sampling = json.loads((tmp_path / "report.json").read_text())["models"][0]["sampling"]
    assert sampling["texts"] == 4
    assert 0 < sampling["tokens"] <= 4 * min(32, context)


def test_a_dry_run_counts_the_rows(run: Path) -> None:
    result = evaluate(run, "--dry-run", "--max-draws", "16")
    assert result.exit_code == 0
    found = re.search(r": (\d+) rows of .*; (\d+) to (\d+) rows through the model", result.output)
    assert found is not None
    rows, least, most = map(int, found.groups())
    assert (least, most) == (8 * rows, 16 * rows)


def test_the_page_of_a_run_needs_no_evaluation(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(run / "run"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "Samples over time" in page


@pytest.mark.parametrize(
    ("command", "out", "message"),
    [
        (["report", "gone"], "folder", "--out {}: a folder, not a file"),
        (["report", "gone"], "gone/page.html", "--out {}: the folder does not exist"),
        (["eval", "--model", "gone"], "file", "--out {}: {} is a file, not a folder"),
        (["eval", "--model", "gone"], "file/below", "is a file, not a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_else(
    tmp_path: Path, command: list[str], out: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    place = str(tmp_path / out)
    result = CliRunner().invoke(cli, [*command, "--out", place])
    assert result.exit_code == 2
    assert message.format(place, place) in result.output


@pytest.mark.parametrize(
    ("option", "row", "message"),
    [
        ("questions", {"question": "a", "choices": ["b"], "answer": 0}, "choices: a list of at least two texts"),
        ("questions", {"question": "a", "choices": ["b", "c"], "answer": 2}, "answer is 2; it must be one of the"),
        ("questions", {"choices": ["b", "c"], "answer": 0}, "no question: expected"),
        ("answers", {"question": "a", "answer": ""}, "answer is empty"),
        ("answers", {"question": "a"}, "answer is None; it must be a text"),
        ("preferences", {"chosen": "a"}, "expected {"),
    ],
)
def test_rows_that_are_wrong_are_named(run: Path, tmp_path: Path, option: str, row: object, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    result = evaluate(run, f"--{option}", str(file), "--max-draws", "8")
    assert getattr(result.exception, "exit_code", None) == 2
    assert str(result.exception).startswith(f"{file}:1: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "much"], "--precision much: expected a share"),
        (["--precision", "200%"], "precision is 2.0; it must lie between 0 and 1"),
        (["--max-draws", "9"], "max_draws is 9; it must be a multiple of 8"),
        (["--draws", "3"], "draws is 3; it must be even"),
        (["--batch-size", "0"], "'batch_size' must be > 0: 0"),
        (["--method", "guess"], "'guess' is not one of 'bound', 'chain_rule', 'all_masked', 'autoregressive'"),
        (["--against-method", "bound"], "--against-method is of the model that --against names"),
        (["--include-path", "."], "--include-path is where --harness-tasks are looked for"),
        (["--sweep", "sampling.stepz=1"], "no setting 'stepz'; did you mean 'steps'?"),
        (["--sweep", "sampling.steps="], "expected sampling.steps=VALUE,VALUE"),
    ],
)
def test_options_that_are_wrong_are_refused(run: Path, arguments: list[str], message: str) -> None:
    result = evaluate(run, *arguments)
    assert message in result.output + str(result.exception)
    assert result.exit_code == 2 or getattr(result.exception, "exit_code", None) == 2
