"""``dlm generate`` and ``dlm chat`` on a tiny trained folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

import dlm
from dlm.errors import DlmError
from dlm_cli.main import cli

LETTERS = "abcdefghijklmnopqrstuvwxyz .,?!'\n0123456789"
END, MASK = "<|end|>", "<|mask|>"


def letter_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)} | {"<unk>": len(LETTERS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token=END, mask_token=MASK)


def write_folder(folder: Path, **config: Any) -> Path:
    logging.disable_progress_bar()
    tokenizer = letter_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    settings = dlm.Qwen3LLadaConfig(
        **sizes,
        num_key_value_heads=1,
        head_dim=16,
        # More rows than the tokenizer has ids, as Qwen3 has.
        vocab_size=60,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
        max_position_embeddings=96,
        tie_word_embeddings=False,
        **config,
    )
    dlm.Qwen3LLadaForMaskedLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def invoke(command: str, folder: Path, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, [command, "--model", str(folder), *arguments], input=text)


def generate(folder: Path, *arguments: str) -> Result:
    result = invoke("generate", folder, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_the_call_of_the_specification_works_with_underscores_and_dashes(folder: Path) -> None:
    common = ["--prompt", "what is diffusion lm?", "--steps", "24", "--remasking", "random_topk", "--block_attention"]
    written = generate(folder, *common, "--gen_length", "24", "--block_length", "8")
    dashed = generate(folder, *common, "--gen-length", "24", "--block-length", "8")
    assert written.stdout == dashed.stdout
    assert len(written.stdout.rstrip("\n")) <= 24
    for figure in ("forwards (", "tokens per forward)", "tokens per second)", "cache side_by_side (exact)"):
        assert figure in written.stderr


def test_the_text_is_that_of_the_library(folder: Path) -> None:
    result = generate(folder, "--prompt", "hello", "--gen_length", "12", "--eos", "free", "--dtype", "float64")
    model, tokenizer = dlm.load(folder, dtype=torch.float64), letter_tokenizer()
    ids = torch.tensor([tokenizer("hello")["input_ids"]])
    output = dlm.generate(model, ids, gen_length=12, steps=12, suppress_tokens=range(len(tokenizer), 60))
    tokens = output.sequences[0, 5:].tolist()
    tokens = tokens[: tokens.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in tokens else tokens
    assert result.stdout == tokenizer.decode(tokens, skip_special_tokens=True) + "\n"


def test_options_of_a_component_follow_a_dot(folder: Path) -> None:
    def text(*options: str) -> str:
        arguments = ["--prompt", "hello", "--gen_length", "16", "--steps", "8", "--remasking", "random_topk"]
        return generate(folder, *arguments, *options).stdout

    cold = text("--remasking.temperature", "0")
    assert cold == generate(folder, "--prompt", "hello", "--gen_length", "16", "--steps", "8").stdout
    assert cold != text("--remasking.temperature=50")


def test_gaps_are_filled_and_the_rest_stays(folder: Path) -> None:
    result = generate(folder, "--infill", "the <|mask:3|> of <|mask|>.", "--infill", "a<|mask|>c")
    first, second = [line for line in result.stdout.splitlines() if not line.startswith("---")][:2]
    assert first.startswith("the ")
    assert " of " in first
    assert len(second) <= 3


def test_results_go_to_a_file_and_do_not_depend_on_the_batch(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\nthe second is longer\nthree\n", encoding="utf-8")

    def lines(batch_size: int) -> list[dict[str, Any]]:
        out = tmp_path / f"{batch_size}.jsonl"
        arguments = ["--prompt-file", str(prompts), "--num-samples", "2", "--temperature", "1", "--gen_length", "10"]
        generate(folder, *arguments, "--out", str(out), "--batch-size", str(batch_size), "--dtype", "float64")
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    rows = lines(8)
    assert [(row["prompt"], row["sample"]) for row in rows] == [
        (prompt, sample) for prompt in ("one", "the second is longer", "three") for sample in (0, 1)
    ]
    assert rows[0]["ids"] != rows[1]["ids"]
    assert rows == lines(4) == lines(1)
    assert all(each < 46 + 2 for row in rows for each in row["ids"]), "rows beyond the tokenizer are never written"


def test_prompts_come_from_json_lines_too(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one\\ntwo"}\n"three"\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    generate(folder, "--prompt-file", str(prompts), "--gen_length", "4", "--out", str(out))
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("piped", "prompts"),
    [
        ("one\n\ntwo\n", ["one", "two"]),
        ('{"prompt": "one\\nmore"}\n{"prompt": "two"}\n', ["one\nmore", "two"]),
        ('{ not json\n{"prompt": "two"}\n', ["{ not json", '{"prompt": "two"}']),
    ],
    ids=["lines", "json lines", "lines that look like json"],
)
@pytest.mark.parametrize("asked", [(), ("--prompt-file", "-")], ids=["by itself", "asked"])
def test_prompts_are_piped_in_and_results_out(
    folder: Path, piped: str, prompts: list[str], asked: tuple[str, ...]
) -> None:
    result = invoke("generate", folder, *asked, "--gen_length", "3", "--out", "-", text=piped)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert all(len(row["input_ids"]) > row["prompt_length"] for row in rows)


def test_what_is_piped_in_is_named_when_it_is_wrong(folder: Path) -> None:
    wrong = invoke("generate", folder, text='{"prompt": "one"}\n{"prompt": 2}\n')
    assert isinstance(wrong.exception, DlmError)
    assert str(wrong.exception).startswith("standard input:2: ")
    empty = invoke("generate", folder, "--prompt-file", "-", text="")
    assert "standard input: no prompt in it" in str(empty.exception)


def test_a_terminal_without_unicode_gets_json_with_escapes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner(charset="ascii").invoke(
        cli, ["generate", "--model", str(folder), "--prompt", "é", "--gen_length", "2", "--out", "-"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prompt"] == "é"


@pytest.mark.parametrize(
    "content",
    ["steps: 5\ngen_length: 10\nremasking: random\n", "sampling: {steps: 5, gen_length: 10, remasking: random}\n"],
)
def test_settings_come_from_a_file_and_the_command_line_wins(folder: Path, tmp_path: Path, content: str) -> None:
    config = tmp_path / "sample.yaml"
    config.write_text(content, encoding="utf-8")
    from_file = generate(folder, "--prompt", "hello", "--config", str(config))
    assert "in 5 forwards" in from_file.stderr
    overridden = generate(folder, "--prompt", "hello", "--config", str(config), "--steps", "10")
    assert "in 10 forwards" in overridden.stderr
    given = ["--gen_length", "10", "--steps", "5", "--remasking", "random"]
    assert from_file.stdout == generate(folder, "--prompt", "hello", *given).stdout


def test_a_component_may_be_written_as_in_a_run_file(folder: Path) -> None:
    common = ["--prompt", "hello", "--gen_length", "12", "--steps", "6"]
    dotted = generate(folder, *common, "--remasking", "random_topk", "--remasking.temperature", "2")
    mapping = generate(folder, *common, "--remasking", "{name: random_topk, temperature: 2}")
    assert mapping.stdout == dotted.stdout
    assert mapping.stdout != generate(folder, *common).stdout
    refused = invoke("generate", folder, *common, "--remasking", "{name: random_topk, temprature: 2}")
    assert "sampling.remasking.temprature: unknown key; did you mean 'temperature'?" in str(refused.exception)


def test_watching_and_tracing_change_nothing(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    plain = generate(folder, "--prompt", "hello", "--gen_length", "10")
    seen = generate(folder, "--prompt", "hello", "--gen_length", "10", "--watch", "--trace", str(page))
    assert seen.stdout == plain.stdout
    assert '"title": "hello"' in page.read_text(encoding="utf-8")


def ids_under(policy: str, folder: Path, out: Path) -> list[list[int]]:
    """Ids of 24 warm samples of 12 tokens, decoded in blocks of 4."""
    lengths = ["--gen_length", "12", "--block_length", "4", "--num-samples", "24", "--temperature", "3"]
    generate(folder, "--prompt", "hello", *lengths, "--eos", policy, "--out", str(out))
    return [json.loads(line)["ids"] for line in out.read_text(encoding="utf-8").splitlines()]


def test_the_policy_for_the_end_decides_what_follows_it(folder: Path, tmp_path: Path) -> None:
    end = letter_tokenizer().eos_token_id
    written = {policy: ids_under(policy, folder, tmp_path / policy) for policy in ("stop", "free", "suppress", "late")}
    assert all(len(ids) == 12 for texts in written.values() for ids in texts)
    assert all(end not in ids for ids in written["suppress"])
    early = [ids for ids in written["free"] if end in ids[:8]]
    assert any(set(ids[8:]) != {end} for ids in early)
    stopped = [ids[ids.index(end) // 4 * 4 + 4 :] for ids in written["stop"] if end in ids]
    assert any(stopped)
    assert all(set(rest) <= {end} for rest in stopped)
    assert any(end in ids for ids in written["late"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "sampling.steps: must be > 0"),
        (["--gen_length", "8", "--block_length", "9"], "block_length is 9"),
        (["--gen_length", "500"], "context of 96"),
        (["--remasking", "low_konfidence"], "did you mean 'low_confidence'"),
        (["--remasking", "random_topk", "--remasking.temprature", "1"], "did you mean 'temperature'"),
        (["--temperature", "-1"], "sampling.temperature"),
        (["--prompt", "a <|mask|>"], "--infill"),
        (["--prompt", "x" * 200], "context of 96"),
        (["--infill", "no gap"], "has no gap"),
        (["--infill", "<|mask:0|>"], "at least one"),
        (["--prompt-file", "/nowhere.txt"], "cannot be read"),
        (["--config", "/nowhere.yaml"], "no such file"),
        (["--cache", "duel"], "did you mean 'dual'"),
        (["--cache", "side_by_side"], "would not be exact"),
        (["--cache.refresh_every", "2"], "no effect"),
        (["--attention_bias.first", "full"], "attention_bias: the mapping needs a `name`"),
        (["--device", "abacus"], "abacus"),
        (["--dtype", "int8"], "unknown dtype"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_bad_input_is_one_error_the_user_can_mend(folder: Path, arguments: list[str], message: str) -> None:
    result = invoke("generate", folder, "--prompt", "hello", *arguments)
    assert isinstance(result.exception, DlmError), result.output
    assert result.exception.exit_code == 2
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate"),
        (["--prompt", "a", "--prompt", "b", "--trace", "t.html"], "one text"),
        (["--prompt", "a", "--out", "/no/such/folder/out.jsonl"], "does not exist"),
        (["--prompt", "a", "--attention_bias", "full", "--block_attention"], "one of them"),
        (["--prompt", "a", "--stepz", "4"], "No such option"),
        (["--prompt", "a", "--steps.x", "4"], "No such option"),
        (["--prompt", "a", "--remasking.temperature"], "needs a value"),
    ],
)
def test_wrong_usage_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    result = invoke("generate", folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        result = invoke("generate", place, "--prompt", "hello")
        assert isinstance(result.exception, DlmError)
        assert str(place) in str(result.exception)


def chat(folder: Path, lines: Sequence[str], *arguments: str) -> Result:
    result = invoke("chat", folder, *arguments, text="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("chat"), prompt_rendering="plain")


def test_a_chat_remembers_until_it_is_told_to_forget(chat_folder: Path) -> None:
    arguments = ("--gen_length", "8", "--eos", "suppress", "--dtype", "float64")
    first, second = chat(chat_folder, ["hello", "and you?"], *arguments).stdout.splitlines()
    alone = chat(chat_folder, ["hello"], *arguments).stdout.splitlines()
    fresh = chat(chat_folder, ["hello", "/reset", "and you?"], *arguments).stdout.splitlines()
    told = chat(chat_folder, ["/system be brief", "hello"], *arguments).stdout.splitlines()
    assert alone == [first]
    assert fresh == [first, *chat(chat_folder, ["and you?"], *arguments).stdout.splitlines()]
    assert fresh[1] != second
    assert told != [first]


def test_a_chat_goes_on_when_its_history_outgrows_the_context(chat_folder: Path) -> None:
    result = chat(chat_folder, ["abcdefghijklmnopqrstuvwxyz"] * 4, "--gen_length", "8", "--eos", "suppress")
    assert len(result.stdout.splitlines()) >= 4
    assert "no longer fit" in result.stderr


def test_a_chat_survives_what_it_cannot_answer(chat_folder: Path) -> None:
    lines = ["x" * 95, "a <|mask|>", "/what", "", "hello", "/exit", "never read"]
    result = chat(chat_folder, lines, "--gen_length", "8", "--watch")
    assert "does not fit" in result.stderr
    assert "mask token" in result.stderr
    assert "unknown command /what" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_a_chat_without_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(click.UsageError, match="standard input is closed"):
        cli.main(["chat", "--model", "no model is asked for"], standalone_mode=False)


def test_a_model_that_is_no_chat_model_says_so(folder: Path) -> None:
    assert "not fine-tuned on conversations" in chat(folder, ["hello"], "--gen_length", "4").stderr


def test_answers_go_into_training_with_the_steps_of_their_tokens(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("ab\nwhy?\nno\nyes\n", encoding="utf-8")
    options = ("--prompt-file", str(prompts), "--out", str(out), "--gen_length", "6", "--temperature", "1")
    assert invoke("generate", folder, *options).exit_code == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    tokenizer = letter_tokenizer()
    for row in rows:
        prompt, answer = row["input_ids"][: row["prompt_length"]], row["input_ids"][row["prompt_length"] :]
        assert tokenizer.decode(prompt) == row["prompt"]
        assert answer == row["ids"][: len(answer)]
        assert sorted(row["step_map"]) == sorted(set(row["step_map"]))  # one token a step
        assert len(row["step_map"]) == len(answer)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"model: {{name_or_path: {folder}}}\n"
        f"training: {{mode: sft, output_dir: {tmp_path / 'run'}, max_steps: 2, batch_size: 2, "
        "sft_noise: {masking: {name: trace, shrink: 2}}}\n"
        f"dataset: {{name: {out}, max_length: 16}}\nevaluation: {{do_eval_loss: false}}\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(cli, ["run", str(run_file)])
    assert result.exit_code == 0, result.output
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["loss"] > 0
    for row in rows:
        del row["step_map"]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(cli, ["run", str(run_file), f"training.output_dir={tmp_path / 'other'}"])
    assert isinstance(result.exception, SystemExit | DlmError)
    assert "needs the step at which each token was written" in result.output + str(result.exception)


BIAS_PLUGIN = '''"""A plugin with one attention bias."""

import attrs

from dlm_plugins import hookimpl


@attrs.frozen
class Open:
    """Everybody sees everybody."""

    def mask_function(self, layout):
        return None


@hookimpl
def dlm_attention_biases():
    return {"open": Open}
'''


def test_a_plugin_that_is_left_out_is_unknown_to_the_end_of_the_command(site_packages: Any, tmp_path: Path) -> None:
    site_packages.install("dlm-acme", {"acme_bias.py": BIAS_PLUGIN})
    trained = write_folder(tmp_path / "model", attention_bias_component={"name": "acme:open"})
    arguments = ("--prompt", "ab", "--gen_length", "2", "--steps", "1")
    generate(trained, *arguments)
    refused = invoke("generate", trained, "--no-plugin", "acme", *arguments)
    assert isinstance(refused.exception, DlmError)
    assert "unknown attention_bias 'acme:open'" in str(refused.exception)
    assert "acme (dlm-acme 0.1) is disabled (switched off by --no-plugin" in str(refused.exception)
    generate(trained, *arguments)  # what one command leaves out, the next one has
