"""Loading of run files by hand-made cases: every problem at once, each with file, line and key."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import pytest

from dlm.config import RunConfig, RunFileError, load_config, load_mapping
from dlm.config.run_file_source import COMMAND_LINE
from dlm.errors import ExitCode
from dlm_plugins import KINDS
from dlm_plugins.registry import Registry

Complaints = Callable[..., list[str]]


def test_a_minimal_file_gets_every_default(minimal: dict[str, Any]) -> None:
    config = load_mapping(minimal).config
    assert (config.training.batch_size, config.training.seed, config.dataset.max_length) == (8, 0, 512)
    assert config.dataset.pack is True
    assert (config.optim.lr_scheduler, config.optim.warmup_ratio, config.optim.warmup_steps) == ("cosine", 0.0, None)
    assert config.lora is None


def test_every_kind_is_selected_at_its_own_key(minimal: dict[str, Any], registry: Registry) -> None:
    config = load_mapping(
        {**minimal, "evaluation": {"metrics": ["elbo", "exact_match"]}, "rl": {"rewards": ["exact"]}}
    ).config
    for kind in KINDS.values():
        holder: Any = config
        for key in kind.key.split("."):
            holder = getattr(holder, key)
        found = holder.optimizer if kind.key == "optim" else holder
        if kind.name == "reward":
            found = tuple(each.reward for each in holder)
        # Where several may be chosen, the key holds a list.
        for component in found if isinstance(found, tuple) else (found,):
            assert registry.entry_of(component).kind == kind.name


def test_all_problems_come_at_once_in_the_order_of_the_file(complaints: Complaints) -> None:
    text = """\
model: {name_or_path: gpt2, dtyp: float32}
training:
  output_dir: runs/x
  max_stepz: 10
  lr: 3e-4
  batch_size: "8"
  noise: {schedule: cosin}
dataset:
  nam: foo
optim: {name: adamw, lr: "3", lr_schedular: cosine}
evaluation:
  sample_prompts: [a, 3]
"""
    found = complaints(text, ["training.seed=-1", "colour=blue"])
    assert [line.partition(": ")[0] for line in found] == [
        *(f"run.yaml:{line}" for line in (1, 4, 5, 6, 7, 9, 10, 10, 12)),
        COMMAND_LINE,
        COMMAND_LINE,
    ]
    for line, words in zip(
        found,
        [
            "model.dtyp: unknown key; did you mean 'dtype'?",
            "training.max_stepz: unknown key; did you mean 'max_steps'?",
            "training.lr: unknown key here; did you mean 'optim.lr'?",
            "training.batch_size: must be an integer, not '8', which is text",
            "training.noise.schedule: unknown noise_schedule 'cosin'; did you mean 'cosine'?",
            "dataset.nam: unknown key; did you mean 'name'?",
            "optim.lr_schedular: unknown key; did you mean 'lr_scheduler'?",
            "optim.lr: must be a number, not '3', which is text",
            "evaluation.sample_prompts[1]: must be text, not 3",
            "colour: unknown key; known here: model, training,",
            "training.seed: must be >= 0: -1",
        ],
        strict=True,
    ):
        assert words in line


def test_another_name_of_a_section_is_not_taken_for_a_key_deep_in_another(
    complaints: Complaints, minimal_text: str
) -> None:
    (found,) = complaints(minimal_text + "optimizer: adamw\n")
    assert found.endswith(" optimizer: unknown key; did you mean 'optim'?")


def test_a_missing_key_points_to_its_section_and_a_missing_section_to_the_file(complaints: Complaints) -> None:
    missing = "training.output_dir: required, but missing"
    assert complaints("model: {name_or_path: x}\n\ntraining:\n  max_steps: 3\n") == [f"run.yaml:3: {missing}"]
    assert complaints("\nmodel: {name_or_path: x}\n") == [f"run.yaml:2: {missing}"]
    assert complaints("model: {name_or_path: x}\ntraining: {max_steps: 3, output_dir: x}\n") == [
        "run.yaml:1: dataset.name: required, unless `mixture` names several data sets"
    ]


@pytest.mark.parametrize("value", ["null", "3", "[a]", "text"])
def test_a_section_that_is_no_mapping_is_refused(complaints: Complaints, minimal_text: str, value: str) -> None:
    (line,) = complaints(minimal_text + f"logging: {value}\n")
    assert line.startswith("run.yaml:8: logging: must be a mapping, not")


STREAM = {"dataset.streaming": True, "evaluation.do_eval_loss": False}
RULES = [
    ({"dataset.name": None}, "dataset.name: required, unless `mixture` names several data sets"),
    ({"dataset.mixture": [{"name": "./a", "weight": 1}]}, "dataset.mixture: give name or mixture, not both"),
    (
        {"dataset.name": None, "dataset.mixture": [{"name": "./a", "weight": 1}] * 2},
        "dataset.mixture: './a' is named twice; add up its weights",
    ),
    (
        {"dataset.name": None, "dataset.mixture": [{"name": "./a", "weight": 1}], **STREAM},
        "dataset.mixture: reads its data sets first; set dataset.streaming to false",
    ),
    ({"dataset.mixture": [{"name": "./a", "weight": 0}]}, "dataset.mixture[0].weight: must be > 0: 0"),
    (
        {"dataset.name": None, "dataset.mixture": [{"name": "./a", "weight": 0}]},
        "dataset.mixture[0].weight: must be > 0",
    ),
    (
        {"dataset.name": None, "dataset.mixture": [{"name": name, "weight": 1.5e308} for name in ("./a", "./b")]},
        "dataset.mixture: the weights add up to more than a number can hold",
    ),
    ({"dataset.mixture": [{"name": "./a"}]}, "dataset.mixture[0].weight: required, but missing"),
    ({"dataset.mixture": []}, "dataset.mixture: "),
    ({"training.num_epochs": 2}, "training.num_epochs: give max_steps or num_epochs"),
    ({"training.max_steps": None}, "training.max_steps: required, unless num_epochs"),
    (
        {"training.max_steps": None, "training.num_epochs": 1, **STREAM},
        "training.num_epochs: a stream has no known length",
    ),
    ({"optim": {"warmup_ratio": 0.1, "warmup_steps": 3}}, "optim.warmup_steps: give warmup_ratio or warmup_steps"),
    ({**STREAM, "training.mode": "sft"}, "dataset.streaming: fine-tuning reads its conversations first"),
    ({"dataset.streaming": True}, "evaluation.split: a stream has no fraction to hold out"),
    ({"training.mixed_precision": "bf16", "model.dtype": "float64"}, "training.mixed_precision: has no effect"),
    (
        {"training.mode": "sft", "dataset.format": "prompt_response", "dataset.train_on": "last_answer"},
        "dataset.train_on: has no effect with format prompt_response",
    ),
    ({"evaluation": {"split": "test", "fraction": 0.2}}, "evaluation.fraction: has no effect"),
    ({"model.name_or_path": None}, "model.name_or_path: required, unless `config`"),
    ({"model.config": {"hidden_size": 8}}, "model.config: describes a model from scratch"),
    ({"model": {"config": {"hidden_size": 8}}}, "model.tokenizer: required for a model from scratch"),
    ({"model.tokenizer": {"train": {"vocab_size": 300}}}, "model.tokenizer: a new tokenizer does not fit"),
    ({"training.mixed_precision": "fp16", "model.dtype": "bfloat16"}, "training.mixed_precision: fp16 needs"),
    (
        {"model.logit_shift": True, "training.block_attention": {"enabled": True, "bias": "block", "block_length": 4}},
        "model.logit_shift: does not go with BlockAttention",
    ),
    (
        {
            "training.mode": "sft",
            "training.block_attention": {"enabled": True, "bias": "block", "block_length": 4, "origin": "document"},
        },
        "training.block_attention.origin: document cuts the prompt into blocks",
    ),
    (
        {"model.logit_shift": True, "sampling.attention_bias": "block"},
        "sampling.attention_bias: model.logit_shift does not go with BlockAttention",
    ),
    (
        {"training.block_attention": {"enabled": True, "block_length": 64}, "dataset.max_length": 32},
        "training.block_attention.block_length: must be at most dataset.max_length (32), not 64",
    ),
    ({"sampling": {"gen_length": 16, "block_length": 17}}, "sampling.block_length: must be at most"),
    ({"dataset.pack": False, "dataset.isolate_documents": True}, "dataset.isolate_documents: has no effect"),
    (
        {"training.mode": "sft", "training.sft_noise": {"random_length_prob": 0.5}},
        "training.sft_noise.random_length_prob: has no effect",
    ),
    (
        {"training.noise": {"reweight_cap": 1000.0}},
        "training.noise.reweight_cap: has no effect: p is at least 0.001, and 1/p at most 1000;",
    ),
    (
        {"training.mode": "sft", "training.sft_noise": {"min_masking_rate": 0.2, "reweight_cap": 5.0}},
        "training.sft_noise.reweight_cap: has no effect: p is at least 0.2, and 1/p at most 5;",
    ),
    (
        {"training.noise": {"schedule": {"name": "uniform", "eps": 0.01}, "reweight_cap": 100.0}},
        "training.noise.reweight_cap: has no effect: p is at least 0.01,",
    ),
    (
        {"training.noise": {"min_masking_rate": 0.0005}},
        "training.noise.min_masking_rate: has no effect: the schedule never falls below 0.001;",
    ),
    ({"training.loss_impl": "elbo"}, "training.loss_impl: elbo needs a schedule"),
    ({"training.loss_impl": "dllm", "training.noise": {"noise_type": "random_replace"}}, "training.loss_impl:"),
]


def changed(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, content in changes.items():
        *parents, key = path.split(".")
        holder = value
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[key] = content
    return value


@pytest.mark.parametrize(("changes", "expected"), RULES)
def test_contradictions_and_settings_without_effect_are_refused(
    minimal: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RunFileError) as raised:
        load_mapping(changed(minimal, changes), name="run.yaml")
    assert len(raised.value.lines) == 1, raised.value.lines
    assert raised.value.lines[0].startswith(f"run.yaml: {expected}")


@pytest.mark.parametrize(
    "changes",
    [
        {"training.max_steps": None, "training.num_epochs": 2},
        {"optim": {"warmup_ratio": 0.0, "warmup_steps": 3}},
        {"optim": {"warmup_ratio": 0.1, "warmup_steps": None}},
        {"evaluation": {"split": "test", "fraction": 0.05}},
        {"training.noise": {"reweight_cap": 999.0}},
        {"training.noise": {"reweight_cap": 4.0, "min_masking_rate": 0.2}},
        {"training.noise": {"reweight_cap": 1e6, "min_masking_rate": 0.0, "schedule": "cosine"}},
        {"training.noise": {"reweight_cap": 1000.0, "masking": "contiguous"}},
        {"training.noise": {"min_masking_rate": 0.0}},
        {"training.noise": {"min_masking_rate": 0.0005, "schedule": "cosine"}},
        {"model": {"config": {"hidden_size": 8}, "tokenizer": {"train": {}}}},
        {"model.tokenizer": "another/tokenizer"},
        {"training.block_attention": {"enabled": False, "block_length": 4096}},
        {"dataset.pack": False, "dataset.isolate_documents": False},
        {"sampling.gen_length": 16},
        {"sampling": {"gen_length": 0, "block_length": 32}},
        {"sampling": {"gen_length": 16, "block_length": None}},
        {"training.loss_impl": "elbo", "training.noise": {"schedule": {"name": "uniform", "eps": 0}}},
        {"training.mode": "sft", "training.loss_impl": "dllm", "training.noise": {"noise_type": "random_replace"}},
    ],
)
def test_settings_that_equal_their_default_or_are_switched_off_are_fine(
    minimal: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert isinstance(load_mapping(changed(minimal, changes)).config, RunConfig)


def test_blocks_are_the_models_own_unless_said_otherwise(minimal: dict[str, Any]) -> None:
    assert load_mapping(minimal, ["sampling.gen_length=16"]).config.sampling.block_length is None
    assert (
        load_mapping(minimal, ["sampling.gen_length=16", "sampling.block_length=8"]).config.sampling.block_length == 8
    )


def test_rules_are_checked_besides_other_problems_but_not_on_doubtful_keys(complaints: Complaints) -> None:
    text = """\
model: {name_or_path: x}
training: {output_dir: a, max_stepz: 3}
dataset: {name: b, pak: true}
optim: {warmup_ratio: 0.1, warmup_steps: 3}
"""
    found = complaints(text)
    assert [line.split(":")[1] for line in found] == ["2", "3", "4"]
    assert "give warmup_ratio or warmup_steps" in found[2]


def test_keys_of_the_other_mode_are_told_in_one_note(minimal: dict[str, Any]) -> None:
    minimal["dataset"] |= {"text_column": "body", "train_on": "last_answer"}
    minimal["training"]["noise"] = {"schedule": "cosine", "t_per": "token"}
    assert load_mapping(minimal).notes == ("training.mode is pretrain; not used: dataset.train_on",)
    expected = "dataset.text_column, training.noise.schedule, training.noise.t_per"
    assert load_mapping(minimal, ["training.mode=sft"]).notes == (f"training.mode is sft; not used: {expected}",)


def test_keys_that_only_pretraining_reads_are_told_in_every_other_mode(minimal: dict[str, Any]) -> None:
    minimal["dataset"]["isolate_documents"] = True
    minimal["training"]["noise"] = {"random_length_prob": 0.5}
    assert load_mapping(minimal).notes == ()
    preference = ["training.mode=preference", "training.loss_impl=dpo"]
    expected = "not used: dataset.isolate_documents, training.noise.random_length_prob"
    assert load_mapping(minimal, preference).notes == (f"training.mode is preference; {expected}",)
    assert load_mapping(minimal, ["training.mode=sft"]).notes == (f"training.mode is sft; {expected}",)


def test_keys_of_an_evaluation_that_is_off_are_told_in_one_note(minimal: dict[str, Any]) -> None:
    minimal["evaluation"] = {"fraction": 0.1, "max_rows": 7, "eval_every_steps": 3}
    assert load_mapping(minimal).notes == ()
    off, why = "evaluation.do_eval_loss=false", "evaluation.do_eval_loss is false; not used: "
    keys = "evaluation.fraction, evaluation.max_rows"
    assert load_mapping(minimal, [off]).notes == (f"{why}{keys}, evaluation.eval_every_steps",)
    # Samples are still taken every so many steps.
    assert load_mapping(minimal, [off, "evaluation.sample_prompts=[a]"]).notes == (f"{why}{keys}",)


def test_a_masking_that_no_row_is_given_to_is_told_in_one_note(minimal: dict[str, Any]) -> None:
    minimal["training"]["noise"] = {"masking": "contiguous"}
    assert load_mapping(minimal, ["training.noise.mask_contiguous_region_prob=0.9"]).notes == ()
    assert load_mapping(minimal, ["training.noise.mask_contiguous_region_prob=1.0"]).notes == (
        "training.noise.mask_contiguous_region_prob is 1; not used: training.noise.masking",
    )


def test_modes_can_be_switched_by_an_override(minimal: dict[str, Any], registry: Registry) -> None:
    minimal["training"]["noise"] = {"schedule": "cosine"}
    config = load_mapping(minimal, ["training.mode=sft", "dataset.name=./talks.jsonl"]).config
    assert config.dataset.pack is False
    assert registry.entry_of(config.training.active_noise.schedule).name == "uniform"
    assert load_mapping(minimal).config.training.active_noise is not config.training.sft_noise


OVERRIDES = [
    (["optim.lr=1e-3"], lambda c: c.optim.optimizer.lr == 1e-3),
    (["training.seed=7", "training.seed=8"], lambda c: c.training.seed == 8),
    (["training.checkpoint.resume=none"], lambda c: c.training.checkpoint.resume == "none"),
    (["training.checkpoint.resume=latest"], lambda c: c.training.checkpoint.resume == "latest"),
    (["training.checkpoint.resume="], lambda c: c.training.checkpoint.resume is None),
    (["training.mixed_precision=no"], lambda c: c.training.mixed_precision == "no"),
    (["training.output_dir=a=b"], lambda c: c.training.output_dir == "a=b"),
    (["evaluation.sample_prompts=[a, 'b: c']"], lambda c: c.evaluation.sample_prompts == ("a", "b: c")),
    (["lora.r=4"], lambda c: c.lora.r == 4),
    (["lora={r: 4}", "lora.alpha=3"], lambda c: (c.lora.r, c.lora.alpha) == (4, 3.0)),
    (["model.tokenizer=gpt2"], lambda c: c.model.tokenizer == "gpt2"),
    (["training.noise.schedule.exponent=3"], lambda c: c.training.noise.schedule.exponent == 3),
    (["training.noise.schedule=cosine"], lambda c: not attrs.fields(type(c.training.noise.schedule))),
    (
        ["training.loss_impl={name: soft_ce, label_smoothing: 0.2}"],
        lambda c: c.training.loss_impl.label_smoothing == 0.2,
    ),
    (
        ["training.loss_impl=soft_ce", "training.loss_impl.label_smoothing=0"],
        lambda c: c.training.loss_impl.label_smoothing == 0,
    ),
    (["optim=lion8bit"], lambda c: (c.optim.lr_scheduler, c.optim.warmup_steps) == ("linear", 5)),
]


@pytest.mark.parametrize(("overrides", "holds"), OVERRIDES)
def test_overrides(minimal: dict[str, Any], overrides: list[str], holds: Callable[[Any], bool]) -> None:
    minimal["training"]["noise"] = {"schedule": "power"}
    minimal["optim"] = {"name": "adamw", "betas": [0.8, 0.9], "lr_scheduler": "linear", "warmup_steps": 5}
    minimal["lora"] = None
    assert holds(load_mapping(minimal, overrides).config)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.seeed=3", "training.seeed: unknown key; did you mean 'seed'?"),
        ("trainig.seed=3", "trainig: unknown key; did you mean 'training'?"),
        ("training.seed.x=3", "training.seed: must be an integer, not a mapping"),
        ("training.seed=[1", "training.seed: '[1': not valid YAML"),
        ("training.seed=1: 2: 3", "training.seed: '1: 2: 3': not valid YAML"),
        ("training.seed='3'", "training.seed: must be an integer"),
        ("training.loss_impl.gama=3", "training.loss_impl.gama: unknown key"),
        ("training.loss_impl=guidlines", "training.loss_impl: unknown loss 'guidlines'; did you mean 'guidelines'?"),
        ("training.seed", "'training.seed' is not an override"),
        ("=3", "'=3' is not an override"),
        ("a..b=3", "'a..b=3' is not an override"),
        ("a[0]=3", "'a[0]=3' is not an override"),
        (
            "training.output_dir=2024",
            "training.output_dir: must be text, not 2024; in YAML, text that looks like a number",
        ),
        ("training.output_dir=runs/a #1", "training.output_dir: '#1' would be left out, as a comment"),
        ("training.checkpoint.resume=#none", "training.checkpoint.resume: '#none' would be left out, as a comment"),
        ("training.max_steps.x=3", "training.max_steps: must be an integer"),
        ("dataset.name.x.y=3", "dataset.name: must be text"),
    ],
)
def test_bad_overrides_are_blamed_on_the_command_line(
    complaints: Complaints, minimal_text: str, override: str, expected: str
) -> None:
    (line,) = complaints(minimal_text, [override])
    assert line.startswith(f"{COMMAND_LINE}: {expected}")


def test_a_hash_within_a_value_is_no_comment(minimal: dict[str, Any]) -> None:
    overrides = ["training.output_dir=runs/a#1", "evaluation.sample_prompts=['#1 is', \"# 2\"]"]
    config = load_mapping(minimal, overrides).config
    assert config.training.output_dir == "runs/a#1"
    assert config.evaluation.sample_prompts == ("#1 is", "# 2")


def test_an_override_below_a_list_is_blamed_on_the_command_line(complaints: Complaints, minimal_text: str) -> None:
    text = minimal_text + "evaluation:\n  metrics:\n    - elbo\n"
    assert complaints(text, ["evaluation.metrics.per=byte"]) == [
        f"{COMMAND_LINE}: evaluation.metrics: must be a list, not a mapping"
    ]


def test_an_override_mends_the_file(complaints: Complaints, minimal_text: str) -> None:
    text = minimal_text.replace("max_steps: 10", "max_steps: ten")
    assert len(complaints(text)) == 1
    assert complaints(text, ["training.max_steps=10"]) == []


def test_a_problem_beside_an_override_keeps_its_line(complaints: Complaints, minimal_text: str) -> None:
    text = minimal_text + "optim:\n  name: adamw\n  lr: -1\n"
    assert complaints(text, ["optim.weight_decay=-1"]) == [
        "run.yaml:10: optim.lr: must be > 0: -1.0",
        f"{COMMAND_LINE}: optim.weight_decay: must be >= 0: -1.0",
    ]


def test_plugins_are_settled_before_components_are_looked_up(complaints: Complaints, minimal_text: str) -> None:
    (line,) = complaints(minimal_text + "plugins: {disable: [nobody]}\n")
    assert line.startswith("run.yaml:8: plugins.disable: no plugin 'nobody'")
    (line,) = complaints(minimal_text + "plugins:\n  require: ['dlm-nowhere>=1']\n")
    assert line.startswith("run.yaml:9: plugins.require:")
    assert "dlm-nowhere" in line
    (line,) = complaints(minimal_text + "plugins: {disable: nobody}\n")
    assert line.startswith("run.yaml:8: plugins.disable: must be a list")


def test_what_the_environment_asks_is_not_blamed_on_an_option(
    minimal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_DISABLE_PLUGINS", "nobody")
    with pytest.raises(RunFileError, match=r"^<environment>: DLM_DISABLE_PLUGINS: no plugin 'nobody'"):
        load_mapping(minimal, strict=True)


def test_a_run_file_may_come_through_a_pipe(minimal_text: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=(minimal_text,))
    writer.start()
    assert load_config(path).config.training.max_steps == 10
    writer.join()


def test_the_same_file_loads_twice_to_equal_configurations(minimal_text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(minimal_text)
    assert load_config(path).config == load_config(str(path)).config


def test_the_refusal_is_a_mistake_of_the_user_with_one_line_for_each_problem(minimal: dict[str, Any]) -> None:
    with pytest.raises(RunFileError) as raised:
        load_mapping(minimal, ["training.seed=a", "training.sed=1"])
    assert raised.value.exit_code == ExitCode.USER_INPUT
    assert raised.value.lines == tuple(str(raised.value).split("\n"))
    assert len(raised.value.lines) == 2


def test_trackers_that_would_be_passed_over_in_silence_are_refused(complaints: Complaints, minimal_text: str) -> None:
    (line,) = complaints(minimal_text + "logging: {trackers: [tensorbored]}\n")
    assert line.startswith(
        "run.yaml:8: logging.trackers: unknown tracker 'tensorbored'; known are all, aim, tensorboard"
    )
    missing = next(name for name in ("dvclive", "swanlab", "aim") if find_spec(name) is None)
    (line,) = complaints(minimal_text + f"logging: {{trackers: [{missing}]}}\n")
    assert line.startswith(f"run.yaml:8: logging.trackers: {missing} is not installed here; install its package")
    assert complaints(minimal_text + "logging: {trackers: [all]}\n") == []


def test_samples_need_noise_that_shows_the_mask(minimal: dict[str, Any]) -> None:
    overrides = ["training.noise.noise_type=random_replace", "evaluation.sample_prompts=[hello]"]
    with pytest.raises(RunFileError, match=r"evaluation.sample_prompts: this noise type never shows the mask"):
        load_mapping(minimal, overrides)
    assert load_mapping(minimal, overrides[:1]).config.evaluation.sample_prompts == ()
