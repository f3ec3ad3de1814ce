"""Attention that is annealed over a run: where it stands is a function of the step, and it ends as what is stored."""

import pytest
import torch

BLOCKS = "training.block_attention.enabled=true"
ANNEALED = (BLOCKS, "training.block_attention.bias={name: annealed, until: 1.0}", "model.logit_shift=true")
FULL = ("model.logit_shift=true",)


def test_a_step_is_a_function_of_its_number(make_engine, take_step, largest_difference) -> None:
    first, again = (take_step(make_engine(*ANNEALED), 3, step=7)[1] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    later = take_step(make_engine(*ANNEALED), 3, step=8)[1]
    assert largest_difference(first, later) > 1e-3


def test_rows_see_the_same_however_they_are_grouped(make_engine, take_step, largest_difference) -> None:
    whole = take_step(make_engine(*ANNEALED), 3, step=7)[1]
    settings = ("training.batch_size=2", "training.gradient_accumulation_steps=4")
    assert largest_difference(take_step(make_engine(*ANNEALED, *settings), 3, step=7)[1], whole) < 1e-5


def test_it_ends_full(make_engine, take_step, largest_difference) -> None:
    plain, annealed = make_engine(*FULL), make_engine(*ANNEALED)
    at_end = take_step(annealed, 3, step=20)[1]
    assert largest_difference(at_end, take_step(plain, 3, step=20)[1]) < 1e-6
    assert annealed.saver.objects.model.config.attention_bias_component == {"name": "builtin:full"}


def test_evaluation_sees_the_end(make_engine) -> None:
    settings = ("evaluation.do_eval_loss=true", "evaluation.fraction=0.2")
    losses = []
    for bias in (ANNEALED, FULL):
        engine = make_engine(*bias, *settings)
        assert engine.evaluation is not None
        losses.append(engine.evaluation().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_number_of_steps_belongs_to_what_is_resumed(make_engine) -> None:
    constant = "optim.lr_scheduler=constant"
    assert "training.max_steps" in make_engine(*ANNEALED, constant).saver.objects.identity
    assert "training.max_steps" not in make_engine(*FULL, constant).saver.objects.identity
