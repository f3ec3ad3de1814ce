import io
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

import dlm
from dlm.config import load_config
from dlm.data.tokenizer_training import train_tokenizer
from dlm.diffusion.objective import DiffusionObjective
from dlm.training.assembly import build_accelerator
from dlm.training.preview import preview
from dlm_cli.main import cli
from dlm_cli.preview_text import show

CONVERSATIONS = [
    ("What is a wall?", "It keeps the roof up, and the wind out of the house."),
    ("And a door?", "A hole in a wall."),
    ("Who may build?", "Whoever has a permit.\nAsk first."),
    ("Why?", "Because of the law."),
    ("When?", "\x1b[31mNow\x1b[0m"),
    ("How long does it take to build a house?", "A year."),
]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """Fine-tuning of a tiny model from scratch, with one bad row in the data."""
    rows = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in CONVERSATIONS]
    rows.insert(2, {"conversations": [{"from": "human", "value": "Nobody answers this"}]})
    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [text for pair in CONVERSATIONS for text in pair]
    train_tokenizer(words * 20, vocab_size=290, mask_token="<|mask|>").save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        "model": {
            "config": {**sizes, "num_key_value_heads": 1, "head_dim": 8},
            "tokenizer": str(tmp_path / "tokenizer"),
        },
        "training": {"mode": "sft", "output_dir": str(tmp_path / "out"), "max_steps": 1, "batch_size": 4},
        "dataset": {"name": str(data), "max_length": 96, "on_bad_row": "skip"},
        "evaluation": {"do_eval_loss": False, "sample_prompts": []},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", "preview", *arguments])


def body(output: str) -> str:
    """What follows the legend, without line breaks."""
    return output.partition("next document")[2].replace("\n", "")


def test_a_pipe_gets_markers_in_eighty_columns(run_file: Path) -> None:
    result = run(str(run_file), "--rows", "4")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    for expected in (
        "«prompt»  answer  ⟦under a mask⟧",
        "talk.jsonl:3: no answer",
        "7 rows: 6 used, 1 bad",
        "to train",
    ):
        assert re.sub(r"\s", "", expected) in re.sub(r"\s", "", result.output), expected
    assert len(re.findall(r"(?m)^row \d", result.output)) == 4
    assert "padding x" in result.output
    assert not (run_file.parent / "out").exists()


def test_the_texts_stand_there_whole(run_file: Path) -> None:
    shown = body(run(str(run_file), "--rows", "6", "training.batch_size=6").output)
    unmarked = re.sub(r"[⟦⟧\s]", "", shown)
    for question, answer in CONVERSATIONS:
        escaped = answer.replace("\x1b", r"\x1b").replace("\n", "↵")
        expected = f"«{question}»{escaped}<|endoftext|>"
        assert re.sub(r"\s", "", expected) in unmarked, expected


def test_what_is_shown_is_what_the_first_step_trains_on(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_config(run_file)
    rows = preview(loaded, build_accelerator(loaded.config), 4).rows
    seen = []
    original = DiffusionObjective.forward

    def recorded(self, noised):
        seen.append(noised)
        return original(self, noised)

    monkeypatch.setattr(DiffusionObjective, "forward", recorded)
    dlm.run(run_file)
    (noised,) = seen
    assert 0 < sum(row.count("masked") for row in rows) < sum(row.count("masked", "clean") for row in rows)
    for index, row in enumerate(rows):
        kinds = [kind for piece in row.pieces for kind in [piece.kind] * piece.num_tokens]
        assert [kind == "masked" for kind in kinds] == noised.corrupted[index].tolist()
        assert [kind == "padding" for kind in kinds] == (noised.clean.document_id[index] < 0).tolist()
        assert [kind in ("masked", "clean") for kind in kinds] == noised.clean.eligible[index].tolist()


def test_trained_padding_is_counted_not_repeated(run_file: Path) -> None:
    result = run(str(run_file), "--rows", "4", "dataset.eos_padding=all", "training.sft_noise.min_masking_rate=0.99")
    assert "<|endoftext|> (x" in result.output
    assert "; 0 padding" in result.output
    assert "padding x" not in body(result.output)


def test_packed_rows_show_where_documents_meet(run_file: Path) -> None:
    result = run(str(run_file), "--rows", "1", "dataset.pack=true")
    assert re.search(r"tokens in [2-6] documents", result.output.replace("\n", " "))
    assert "‖" in body(result.output)


def test_replaced_tokens_show_both(run_file: Path) -> None:
    noise = "training.sft_noise.noise_type=random_replace"
    result = run(str(run_file), "--rows", "4", noise, "training.sft_noise.min_masking_rate=0.9")
    assert re.search(r"⦃.+→.+⦄", body(result.output))
    assert "corrupted, rate" in result.output


def test_colours_take_the_place_of_markers_on_a_terminal(run_file: Path) -> None:
    loaded = load_config(run_file)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="standard", width=100, no_color=False)
    show(preview(loaded, build_accelerator(loaded.config), 4), console)
    output = stream.getvalue()
    assert "\x1b[36m" in output
    assert "\x1b[30;43m" in output
    assert not re.search("[«»⟦⟧]", output)
    assert r"\x1b[31mNow" in re.sub("\x1b\\[[0-9;]*m", "", output).replace("\n", "")


def test_pre_training_rows_are_shown_too(run_file: Path) -> None:
    changes = ["training.mode=pretrain", "dataset.name=python-docs", "dataset.max_length=32"]
    result = run(str(run_file), "--rows", "2", *changes)
    assert result.exit_code == 0, result.output
    assert "«prompt»" not in result.output
    assert len(re.findall(r"(?m)^row \d.*32 tokens", result.output)) == 2


def test_columns_beside_the_text_are_named(run_file: Path) -> None:
    rows = [{"text": "some words to learn " * 9, "url": "u", "score": 3, "empty": None}] * 9
    data = run_file.with_name("texts.jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = [str(run_file), "training.mode=pretrain", f"dataset.name={data}", "dataset.max_length=32"]
    for command in (["data", "preview"], ["run", "--dry-run"], ["run"]):
        result = CliRunner().invoke(cli, [*command, *changes])
        assert result.exit_code == 0, result.output
        assert "texts.jsonl:columnsnotused:url,score" in re.sub(r"\s", "", result.stdout), command


def test_one_file_has_to_be_named(run_file: Path) -> None:
    result = run("training.max_steps=2")
    assert result.exit_code == 2
    assert "name one run file" in result.output


def test_prompts_of_rollouts_have_neither_answers_nor_noise_yet(run_file: Path) -> None:
    settings = ["training.mode=rl", "training.loss_impl=policy_clip", "sampling.gen_length=8", "sampling.steps=8"]
    settings += ["rl.rewards=[{name: exact, column: conversations}]", "sampling.temperature=1", "rl.group_size=2"]
    result = run(str(run_file), *settings)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.partition("step 0")[2].split())
    assert "prompts alone: answers are drawn in the run" in shown
    assert not any(word in shown for word in ("masked", "rate", "noise that"))
    assert "«What is a wall?»" in shown
