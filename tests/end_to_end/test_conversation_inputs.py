"""Conversations as people have them, from the file to the command: used as they mean it, or named in one line."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from dlm.data.tokenizer_training import train_tokenizer
from dlm.training.trainer_state import TrainerState
from dlm_cli.main import cli, main

SAID = "{{ '<|im_start|>' + m.role + '\\n' + c + '<|im_end|>\\n' }}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TEMPLATES = {
    # Takes the reasoning out of the text, and writes a thought into the last answer only.
    "think": (
        "{% for m in messages %}{% set c = m.content %}{% set r = '' %}{% if m.role == 'assistant' %}"
        "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{% if loop.last %}{% set c = '<think>\\n' + r + '\\n</think>\\n\\n' + c %}{% endif %}{% endif %}"
        + SAID
        + "{% endfor %}"
        + ASKS
        + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    ),
    "date": (
        "{{ '[now ' + strftime_now('%H:%M:%S.%f') + ']' }}{% for m in messages %}{% set c = m.content %}"
        + SAID
        + "{% endfor %}"
        + ASKS
    ),
}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer for each template."""
    folder = tmp_path_factory.mktemp("tokenizers")
    tokenizer = train_tokenizer(["Say it in one word, and think of it first. " * 20], vocab_size=290)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    for name, template in TEMPLATES.items():
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def run_file(tmp_path: Path, tokenizers: Path):
    """Write rows and a run file that trains on them."""

    def write(*rows: object, template: str | None = None, **dataset: object) -> Path:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = {
            "model": {
                "config": {**SIZES, "num_key_value_heads": 1, "head_dim": 8},
                "tokenizer": str(tokenizers / (template or "think")),
            },
            "training": {
                "mode": "sft",
                "output_dir": str(tmp_path / "out"),
                "max_steps": 2,
                "batch_size": 2,
                "checkpoint": {"every_steps": 2, "resume": "latest"},
            },
            "dataset": {"name": str(data), "max_length": 256, "chat_template": template is not None, **dataset},
            "optim": {"lr_scheduler": "constant"},
            "evaluation": {"do_eval_loss": False, "sample_prompts": []},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


def output_of(*arguments: object) -> str:
    """What a command prints, without the white space that the width of the terminal brings."""
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return re.sub(r"[\s⟦⟧]", "", result.stdout)


def preview_of(path: Path) -> str:
    return output_of("data", "preview", path, "--rows", 8, "training.batch_size=8")


def test_history_becomes_earlier_turns(run_file) -> None:
    shown = preview_of(
        run_file(
            {
                "instruction": "And his wife?",
                "input": "",
                "output": "Mary.",
                "system_prompt": "Be brief.",
                "history": [["Who is the king?", "John."], ["How old is he?", "Fifty."]],
            },
            {"prompt": "And?", "response": "The Elbe.", "system": "Be brief.", "history": None},
        )
    )
    end = "<|endoftext|>"
    assert f"«Bebrief.Whoistheking?John.{end}Howoldishe?Fifty.{end}Andhiswife?»Mary.{end}" in shown
    assert f"«Bebrief.Whoistheking?»John.{end}" in shown
    assert "2rows:2used" in shown
    assert "4of4answers" in shown
    assert "notused" not in shown


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_answers_of_weight_zero_are_context(run_file, mark) -> None:
    shown = preview_of(
        run_file(
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Wrong.", **mark},
                    {"role": "user", "content": "Really?"},
                    {"role": "assistant", "content": "Right.", "weight": 1},
                ]
            }
        )
    )
    assert "«HiWrong.<|endoftext|>Really?»Right.<|endoftext|>" in shown
    assert "»Wrong." not in shown
    assert "1of1answers;1moreanswersarecontext" in shown
    assert "notused" not in shown


ROWS_OF_MANY_FORMS = (
    {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one."}]},
    {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "GPT", "value": "two."}]},
    {"messages": [{"role": "USER", "content": "Hi"}, {"role": "Assistant", "content": "three."}], "prompt": None},
    {"messages": [{"from": "human", "value": "Hi"}, {"role": "assistant", "content": "four."}]},
    {"prompt": "Hi", "response": "five.", "messages": None},
    {"instruction": "Hi", "output": "six."},
)


def test_all_forms_and_roles_may_stand_in_one_file(run_file) -> None:
    shown = preview_of(run_file(*ROWS_OF_MANY_FORMS))
    assert "6rows:6used" in shown
    for number in ("one", "two", "three", "four", "five", "six"):
        assert f"«Hi»{number}." in shown


def test_other_keys_are_named_with_those_expected(run_file, monkeypatch, capsys) -> None:
    path = run_file({"conversations": [{"speaker": "user", "text": "Hi"}, {"speaker": "bot", "text": "Hello."}]})
    monkeypatch.setattr(sys, "argv", ["dlm", "data", "preview", str(path)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    expected = "rows.jsonl:1: turn 1 has the keys speaker, text; expected from and value, or role and content"
    assert expected in capsys.readouterr().err


def test_what_nobody_reads_is_named_once(run_file) -> None:
    turns = [{"role": "user", "content": "Hi", "name": "Eve"}, {"role": "assistant", "content": "Hello.", "id": 3}]
    tools = [{"type": "function", "function": {"name": "add"}}]
    path = run_file({"messages": turns, "tools": tools, "source": "web", "score": 3, "note": ""}, {"messages": turns})
    line = "rows.jsonl:columnsnotused:source,score,tools;keysofturnsnotused:name,id"
    for arguments in (["data", "preview", path], ["run", path, "--dry-run"], ["run", path]):
        assert output_of(*arguments).count(line) == 1, arguments


@pytest.mark.parametrize("template", ["think", "date", None])
def test_reasoning_is_trained_whatever_the_template_does(run_file, template) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {number}"},
                {"role": "assistant", "content": f"<think>\nOne digit {number}\n</think>\n\nIt is {number}."},
            ]
        }
        for number in range(3)
    ]
    path = run_file(*rows, template=template)
    shown = preview_of(path)
    assert "3rows:3used" in shown
    assert "3ofthemwithreasoning" in shown
    for number in range(3):
        assert f"»<think>↵Onedigit{number}↵</think>↵↵Itis{number}." in shown
    dropped = output_of("data", "preview", path, "dataset.reasoning=drop")
    assert "Onedigit" not in dropped
    output_of("run", path)
    final = json.loads((path.parent / "out" / "final" / "config.json").read_text())
    assert final["prompt_thinking"] is True
    assert final["prompt_rendering"] == ("plain" if template is None else "chat_template")


def test_a_template_that_prints_the_time_prints_that_of_the_first_start(run_file) -> None:
    path = run_file(*ROWS_OF_MANY_FORMS, template="date")
    # Microseconds: no two starts print the same.
    output_of("run", path)
    assert "continuingfrom" in output_of("run", path, "training.max_steps=4")
    checkpoints = path.parent / "out" / "checkpoints"
    (_, first), (_, second) = (TrainerState.read(checkpoints / f"step-{step}") for step in (2, 4))
    assert first == second
    assert first["template_clock"] is not None
    # Another run has a clock of its own; from a checkpoint of the first it takes over the first one's.
    other = [f"training.output_dir={path.parent / 'other'}", "training.max_steps=4"]
    output_of("run", path, *other, f"training.checkpoint.resume={checkpoints / 'step-2'}")
    weights = [path.parent / folder / "final" / "model.safetensors" for folder in ("out", "other")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
