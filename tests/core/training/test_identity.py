"""What may change between a checkpoint and its resumption, and what may not."""

import pytest

from dlm.errors import UserInputError
from dlm.training.run_identity import compare, identity_of, only_warns

CONFIG = {
    "model": {"config": {"hidden_size": 32}, "dtype": "float32"},
    "training": {
        "output_dir": "runs/a",
        "max_steps": 10,
        "num_epochs": None,
        "batch_size": 8,
        "checkpoint": {"every_steps": 5},
        "loss_impl": {"name": "builtin:soft_ce", "label_smoothing": 0.1},
    },
    "dataset": {"name": "python-docs", "num_workers": 0},
    "optim": {"name": "builtin:adamw", "betas": (0.9, 0.95), "lr": 1e-3},
    "evaluation": {"fraction": 0.05},
    "sampling": {"steps": 8},
    "logging": {"every_steps": 10},
    "plugins": {"disable": []},
}
FACTS = {
    "data_fingerprint": "abc",
    "num_processes": 1,
    "num_threads": 2,
    "device": "cpu",
    "plugin_versions": {"builtin": "0.1"},
    "training": {"max_steps": 10, "num_epochs": None},
}


def identity(changes: dict[str, object] | None = None, **facts: object) -> dict[str, object]:
    """The identity of a run with other values at dotted keys."""
    config = {section: dict(values) for section, values in CONFIG.items()}
    for key, value in (changes or {}).items():
        section, name = key.split(".", 1)
        config[section][name] = value
    return identity_of(config, {**FACTS, **facts})


@pytest.mark.parametrize(
    "key",
    [
        "training.output_dir",
        "training.max_steps",
        "training.num_epochs",
        "training.checkpoint",
        "dataset.num_workers",
        "evaluation.fraction",
        "sampling.steps",
        "logging.every_steps",
        "plugins.disable",
    ],
)
def test_what_does_not_bear_on_the_weights_may_change_silently(key: str) -> None:
    assert compare(identity(), identity({key: "other"}), ()) == []


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("model.dtype", "bfloat16", "model.dtype: 'float32' in the checkpoint, 'bfloat16' now"),
        ("model.config", {"hidden_size": 64}, "model.config.hidden_size: 32 in the checkpoint, 64 now"),
        ("training.batch_size", 4, "training.batch_size: 8 in the checkpoint, 4 now"),
        ("dataset.name", "./other.txt", "dataset.name: 'python-docs' in the checkpoint, './other.txt' now"),
        ("optim.betas", (0.9, 0.99), "optim.betas: [0.9, 0.95] in the checkpoint, [0.9, 0.99] now"),
        (
            "training.loss_impl",
            {"name": "builtin:soft_ce", "label_smoothing": 0.2},
            "training.loss_impl.label_smoothing: 0.1 in the checkpoint, 0.2 now",
        ),
        ("training.loss_impl", {"name": "builtin:elbo"}, "training.loss_impl.label_smoothing: 0.1 in the checkpoint"),
    ],
)
def test_anything_else_is_refused_and_named(key: str, value: object, shown: str) -> None:
    with pytest.raises(UserInputError, match="the run is not the same") as caught:
        compare(identity(), identity({key: value}), ())
    assert shown in str(caught.value)
    assert "--allow-change" in str(caught.value)


@pytest.mark.parametrize("fact", ["data_fingerprint", "num_processes"])
def test_facts_about_the_run_are_refused_too(fact: str) -> None:
    with pytest.raises(UserInputError, match=fact):
        compare(identity(), identity(**{fact: "other"}), ())


def test_another_number_of_steps_is_named_and_allowed_by_its_key_in_the_run_file() -> None:
    longer = identity(training={"max_steps": 20, "num_epochs": None})
    with pytest.raises(UserInputError, match=r"training\.max_steps: 10 in the checkpoint, 20 now"):
        compare(identity(), longer, ())
    (note,) = compare(identity(), longer, ["training.max_steps"])
    assert "training.max_steps" in note


def test_every_difference_is_in_one_message() -> None:
    changed = identity({"training.batch_size": 4, "model.dtype": "bfloat16"}, data_fingerprint="def")
    with pytest.raises(UserInputError) as caught:
        compare(identity(), changed, ())
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "model.dtype",
        "training.batch_size",
        "data_fingerprint",
    ]


def test_machine_and_versions_warn() -> None:
    changed = identity(num_threads=8, device="cuda", plugin_versions={"builtin": "0.2", "acme": "1"})
    warnings = compare(identity(), changed, ())
    assert len(warnings) == 4
    assert "changed since the checkpoint: device: 'cpu' in the checkpoint, 'cuda' now" in warnings
    assert all(map(only_warns, ("num_threads", "device", "plugin_versions.builtin")))


@pytest.mark.parametrize("allowed", ["model", "model.config", "model.config.hidden_size"])
def test_a_change_can_be_allowed_by_name_or_by_section(allowed: str) -> None:
    changed = identity({"model.config": {"hidden_size": 64}})
    (warning,) = compare(identity(), changed, (allowed,))
    assert "model.config.hidden_size" in warning
    with pytest.raises(UserInputError, match=r"model\.config\.hidden_size"):
        compare(identity(), changed, ("training",))


def test_a_name_is_no_prefix_of_a_longer_name() -> None:
    saved, now = identity_of({"training": {"max": 1}}, {}), identity_of({"training": {"max": 2}}, {})
    assert compare(saved, now, ("training.max",))
    saved["training.maximum"] = 3
    with pytest.raises(UserInputError, match=r"training\.maximum"):
        compare(saved, now, ("training.max",))


@pytest.mark.parametrize(
    ("allowed", "hint"),
    [
        ("trainign.seed", ""),
        ("trainign.batch_size", "; did you mean 'training.batch_size'?"),
        ("model.config.hiden_size", "; did you mean 'model.config.hidden_size'?"),
        ("optm", "; did you mean 'optim'?"),
    ],
)
def test_an_allowed_key_that_does_not_exist_is_an_error(allowed: str, hint: str) -> None:
    with pytest.raises(UserInputError) as caught:
        compare(identity(), identity(), (allowed,))
    assert str(caught.value) == f"--allow-change {allowed}: there is no such key in this run{hint}"


@pytest.mark.parametrize(
    "allowed",
    ["training.output_dir", "training.num_epochs", "evaluation", "sampling.steps", "device", "plugin_versions"],
)
def test_a_key_that_need_not_be_allowed_is_said_to_be_so(allowed: str) -> None:
    facts = {name: value for name, value in FACTS.items() if name != "training"}
    run = identity_of(CONFIG, facts)
    assert compare(run, run, (allowed,)) == [f"--allow-change {allowed}: not needed, it may change anyway"]
    assert compare(run, run, ("training.batch_size", "training")) == []


@pytest.mark.parametrize("allowed", ["training", "training.batch_size", "num_processes"])
def test_other_rows_of_a_step_can_be_allowed_by_name_or_by_section(allowed: str) -> None:
    changed = identity({"training.batch_size": 6})
    (warning,) = compare(identity(), changed, (allowed,), is_sharded=True)
    assert warning == "changed since the checkpoint: training.batch_size: 8 in the checkpoint, 6 now"
    with pytest.raises(UserInputError, match="rows of a step: 8 in the checkpoint, 6 now"):
        compare(identity(), changed, ("optim",), is_sharded=True)


def test_what_another_optimizer_has_learned_is_refused_whatever_is_allowed() -> None:
    allowed = ("optim", "optimizer_used")
    before, moved, other = (identity(optimizer_used=name) for name in ("a.AdamW", "b.AdamW", "b.AdamW8bit"))
    assert compare(before, moved, allowed) == [
        "changed since the checkpoint: optimizer_used: 'a.AdamW' in the checkpoint, 'b.AdamW' now"
    ]
    for accepted in (allowed, ()):
        with pytest.raises(UserInputError, match=r"'b\.AdamW8bit' now; what one has .* cannot be accepted") as caught:
            compare(before, other, accepted)
        assert str(caught.value).count("optimizer_used") == 1
