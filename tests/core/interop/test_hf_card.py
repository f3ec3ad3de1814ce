"""The model card of a published folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from tokenizers import processors

from dlm.errors import ModelError
from dlm.interop.hf_export import export_hugging_face
from dlm.model.foreign_config import load_model_config
from dlm.model.tokenizer import load_tokenizer
from dlm.sampling.prompts import prompt_ids, rendering_of
from dlm_cli.main import cli

from .test_hf_export import small_tokenizer, write_model

RUN: dict[str, Any] = {
    "model": {"name_or_path": "owner/base"},
    "training": {"mode": "sft", "max_steps": 7, "loss_impl": "elbo", "noise": {"schedule": "cosine"}, "seed": 0},
    "dataset": {"mixture": [{"name": "owner/texts:de", "weight": 2}, {"name": "./private", "weight": 1}]},
    "optim": {"name": "adamw", "lr": 0.001},
}
EVALUATIONS = [
    {"step": 0, "split": "eval", "loss": 6.5, "masked_ce": 6.5, "masked_accuracy": 0.01},
    {"step": 7, "split": "train", "loss": 1.0, "masked_ce": 1.0, "masked_accuracy": 0.5},
    {"step": 7, "split": "eval", "loss": 2.25, "masked_ce": 2.5, "masked_accuracy": 0.0},
]


def write_run(
    folder: Path, settings: dict[str, Any] = RUN, evaluations: list[dict[str, Any]] = EVALUATIONS, **changes: Any
) -> Path:
    """A run's folder with its model in ``final``."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    # Other separators of lines than \n may stand within a line of JSON.
    lines = [json.dumps({**line, "note": "a\u2028b"}, ensure_ascii=False) + "\n" for line in evaluations]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return write_model(folder / "final", **changes)


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    final = write_run(tmp_path / "run", block_length=4, attention_bias_component={"name": "builtin:block"})
    (final / "README.md").write_text("---\nlicense: mit\n---\n")
    report = export_hugging_face(final, tmp_path / "hf", name="me/mine")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.base_model) == ("mit", "transformers", "owner/base")
    assert data.datasets == ["owner/texts"]
    assert "custom_code" in data.tags
    figures = {result.metric_type: result.metric_value for result in data.eval_results}
    assert figures == {"loss": 2.25, "masked_ce": 2.5, "masked_accuracy": 0.0}
    for said in ("# me/mine", "./private", "| attention | block |", "| training.loss_impl | elbo |",
                 "## Licence\n\nmit.\n", '{"name": "adamw", "lr": 0.001}', "after 7 steps", "| training.seed | 0 |",
                 "| masked accuracy | 0.0000 |", "`<\\|mask\\|>`, id 101"):  # fmt: skip
        assert said in card.content
    assert report.to_fill_in == ()


def test_the_card_leaves_open_what_nobody_said(tmp_path: Path) -> None:
    report = export_hugging_face(write_model(tmp_path / "model"), tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert card.data.license == "unknown"
    assert card.content.count("unknown: fill in") == 3
    assert report.to_fill_in == ("license", "the base", "the data it was trained on")
    again = export_hugging_face(tmp_path / "hf", tmp_path / "again")
    assert again.to_fill_in == report.to_fill_in


@pytest.mark.parametrize(
    ("written", "licence", "in_words"),
    [
        ("license: other\nlicense_name: qwen\nlicense_link: LICENSE", {"license": "other", "license_name": "qwen",
         "license_link": "LICENSE"}, "other (qwen, LICENSE)."),
        ("license: [mit, apache-2.0]", {"license": ["mit", "apache-2.0"]}, "mit, apache-2.0."),
    ],
)  # fmt: skip
def test_the_whole_licence_is_carried(tmp_path: Path, written: str, licence: dict[str, Any], in_words: str) -> None:
    model = write_model(tmp_path / "model")
    (model / "README.md").write_text(f"---\n{written}\n---\n")
    export_hugging_face(model, tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert {key: value for key, value in card.data.to_dict().items() if key.startswith("license")} == licence
    assert f"## Licence\n\n{in_words}\n" in card.content


@pytest.mark.parametrize("written", [b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n", b"\xff"])
def test_a_damaged_card_is_one_line(tmp_path: Path, written: bytes) -> None:
    model = write_model(tmp_path / "model")
    (model / "README.md").write_bytes(written)
    with pytest.raises(ModelError, match=r"README.md: cannot be read for the licence .*; mend it"):
        export_hugging_face(model, tmp_path / "hf")


def test_paths_are_no_names_on_the_hub_wherever_one_is(tmp_path: Path) -> None:
    data = {"mixture": [{"name": "data/texts.txt"}, {"name": "owner/texts"}]}
    for folder in ("models/base", "data/texts.txt"):
        (tmp_path / folder).mkdir(parents=True)
    final = write_run(tmp_path / "runs" / "one", {**RUN, "model": {"name_or_path": "models/base"}, "dataset": data})
    export_hugging_face(final, tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md").data
    assert (card.base_model, card.datasets) == (None, ["owner/texts"])
    # What is measured on both is no name that the hub takes.
    assert {result.dataset_type for result in card.eval_results} == {"custom"}


def test_figures_are_those_that_the_run_measures(tmp_path: Path) -> None:
    measured = {"step": 7, "split": "eval", "loss": -0.5, "greedy_reward": 0.5, "greedy_right": 0.25}
    lost = {"step": 7, "split": "eval", "loss": float("nan"), "masked_ce": None, "masked_accuracy": None}
    for name, line, found in (("rewards", measured, {"greedy_reward": 0.5, "greedy_right": 0.25}), ("lost", lost, {})):
        export_hugging_face(write_run(tmp_path / name, evaluations=[line]), tmp_path / f"hf-{name}")
        card = ModelCard.load(tmp_path / f"hf-{name}" / "README.md")
        assert {result.metric_type: result.metric_value for result in card.data.eval_results or ()} == found
        assert ("## Metrics" in card.content) == bool(found)


def test_a_name_with_line_breaks_stays_a_heading(tmp_path: Path) -> None:
    export_hugging_face(write_model(tmp_path / "model"), tmp_path / "my\n# model")
    assert "\n\n# my # model\n\n" in (tmp_path / "my\n# model" / "README.md").read_text()


def test_the_usage_of_the_card_fits_how_prompts_were_written(tmp_path: Path) -> None:
    for rendering, expected in ((None, 'tokenizer("..."'), ("chat_template", "apply_chat_template(")):
        folder = tmp_path / f"hf-{rendering}"
        export_hugging_face(write_model(tmp_path / f"model-{rendering}", prompt_rendering=rendering), folder)
        code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
        compile(code, "card", "exec")
        assert expected in code
        assert code.count("from_pretrained(name, trust_remote_code=True)") == 2


THINKS = "{% for m in messages %}{{ m.content }} {% endfor %}w7 {% if enable_thinking is false %}w8 {% endif %}"


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_rendering": None},
        {"prompt_rendering": "plain"},
        {"prompt_rendering": "chat_template", "prompt_thinking": False},
        {"prompt_rendering": "chat_template", "prompt_thinking": True},
    ],
)
def test_the_prompt_of_the_card_is_that_of_training(tmp_path: Path, settings: dict[str, Any], begins: bool) -> None:
    model = write_model(tmp_path / "model", **settings)
    tokenizer = small_tokenizer()
    tokenizer.bos_token, tokenizer.chat_template = "w3", THINKS
    if begins:  # by itself, wanted or not
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="w3 $A", special_tokens=[("w3", 3)]
        )
    tokenizer.save_pretrained(model)
    export_hugging_face(model, tmp_path / "hf")
    code = (tmp_path / "hf" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"tokenizer": load_tokenizer(tmp_path / "hf")}
    exec(code.rpartition("\n\n")[2].partition("ids = model")[0].replace('"..."', '"w1 w2"'), names)
    config = load_model_config(str(model))
    expected = prompt_ids(load_tokenizer(model), "w1 w2", rendering_of(config, load_tokenizer(model)))
    assert names["inputs"]["input_ids"].tolist() == [expected]


def test_a_damaged_run_is_one_line(tmp_path: Path) -> None:
    final = write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"split": "ev')
    with pytest.raises(ModelError, match=r"metrics.jsonl.* cannot be read .*copy final to a folder of its own"):
        export_hugging_face(final, tmp_path / "hf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "sdar", "--push", "me/mine"], "--push uploads what --format hf writes"),
        (["--format", "hf", "--private"], "give --push NAME"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["export", "--src", "x", "--dst", "y", *options])
    assert result.exit_code == 2
    assert said in result.output
