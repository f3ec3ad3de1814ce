"""Sums that add up, windows that survive JSON, accuracy by mask rate."""

import json
import math
from typing import Any

import cattrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.diffusion.sums import NUM_RATE_BINS, Sums
from dlm.training.output_folder import TIMINGS
from dlm.training.trainer_state import Stopwatch, Window

SIZE = 5 + 3 * NUM_RATE_BINS

FLOATS = st.floats(0, 1e6, width=32)
VECTORS = st.lists(FLOATS, min_size=SIZE, max_size=SIZE)


def flat(sums: Sums) -> list[float]:
    scalars = [sums.total, sums.normaliser, sums.real_tokens, sums.eligible_tokens, sums.rows]
    return [*scalars, *sums.corrupted, *sums.correct, *sums.cross_entropy]


@settings(deadline=None, max_examples=50)
@given(VECTORS, VECTORS)
def test_sums_add_up_number_by_number(first: list[float], second: list[float]) -> None:
    sums = Sums.unpack(first)
    assert flat(sums) == first
    sums.add(Sums.unpack(second))
    assert flat(sums) == [a + b for a, b in zip(first, second, strict=True)]


@settings(deadline=None, max_examples=50)
@given(st.lists(VECTORS, min_size=1, max_size=4), FLOATS)
def test_a_window_survives_json_and_goes_on_exactly_as_before(vectors: list[list[float]], norm: float) -> None:
    straight, interrupted = Window(), Window()
    for vector in vectors:
        straight.add(Sums.unpack(vector), norm)
        interrupted.add(Sums.unpack(vector), norm)
        interrupted = cattrs.structure(json.loads(json.dumps(cattrs.unstructure(interrupted))), Window)
    assert interrupted == straight
    assert interrupted.metrics() == straight.metrics()


def test_a_new_sum_does_not_share_its_bins_with_others() -> None:
    first, second = Sums(), Sums()
    first.add(Sums.unpack([1.0] * SIZE))
    assert flat(second) == [0.0] * SIZE
    before = Sums.unpack([1.0] * SIZE)
    window = Window()
    window.add(before, 1.0)
    window.add(before, 1.0)
    assert flat(before) == [1.0] * SIZE


def test_nothing_counted_gives_no_figures_instead_of_zeros() -> None:
    metrics = Window().metrics()
    assert metrics == {
        "loss": None,
        "masked_ce": None,
        "masked_accuracy": None,
        "masked_ce_by_rate": [None] * NUM_RATE_BINS,
        "masked_accuracy_by_rate": [None] * NUM_RATE_BINS,
        "masked_tokens_by_rate": [0] * NUM_RATE_BINS,
        "grad_norm": None,
    }
    assert Sums().loss == 0.0


def test_figures_are_ratios_of_sums() -> None:
    sums = Sums(total=6.0, normaliser=4.0)
    sums.corrupted[:4], sums.correct[:4], sums.cross_entropy[:4] = [1, 0, 4, 10], [1, 0, 1, 2], [0.5, 0, 4.0, 30.0]
    assert sums.loss == 1.5
    assert sums.quality() == {
        "masked_ce": 34.5 / 15,
        "masked_accuracy": 4 / 15,
        "masked_ce_by_rate": [0.5, None, 1.0, 3.0, None, None, None, None, None, None],
        "masked_accuracy_by_rate": [1.0, None, 0.25, 0.2, None, None, None, None, None, None],
        "masked_tokens_by_rate": [1, 0, 4, 10, 0, 0, 0, 0, 0, 0],
    }


def test_a_window_averages_losses_by_step_and_accuracy_by_token() -> None:
    window = Window()
    long, short = Sums(total=100.0, normaliser=50.0), Sums(total=4.0, normaliser=1.0)
    long.corrupted[9], long.correct[9] = 40, 10
    short.corrupted[9], short.correct[9] = 1, 1
    window.add(long, 1.0)
    window.add(short, 2.0)
    metrics = window.metrics()
    assert (metrics["loss"], metrics["grad_norm"], metrics["masked_accuracy"]) == (3.0, 1.5, 11 / 41)


@pytest.mark.parametrize("rate", [0.0, 0.0999, 0.1, 0.5, 0.9999, 1.0])
def test_bins_are_tenths_of_the_mask_rate(rate: float) -> None:
    view = _View(rate)
    bins = Sums.pack(view, torch.tensor(7.0), torch.tensor(2.0))[5:].view(3, NUM_RATE_BINS)
    expected = min(math.floor(rate * 10), 9)
    assert bins[0].nonzero().tolist() == [[expected]]
    assert bins[:, expected].tolist() == [3.0, 2.0, 4.5]


class _View:
    """Four positions of one row, three of them corrupted, two of these right."""

    def __init__(self, rate: float) -> None:
        self.rate = torch.full((1, 4), rate)
        self.document_id = torch.tensor([[0, 0, 0, -1]])
        self.eligible = torch.tensor([[True, True, True, False]])
        self.scored = torch.tensor([[True, True, True, False]])
        self.correct = torch.tensor([[True, False, True, True]])
        self.cross_entropy = torch.tensor([[0.5, 3.0, 1.0, 99.0]])

    def score_all(self) -> None:
        """Everything is known."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_both_parts_of_a_hybrid_loss_are_logged(make_engine: Any) -> None:
    engine = make_engine("training.loss_impl={name: hybrid, ar_weight: 0.5}", "model.logit_shift=true")
    result = engine.step(next(engine.data.loader.steps()), 0)
    window = Window()
    window.add(result.sums, result.grad_norm, result.figures)
    logged = window.metrics()
    assert logged["loss"] == pytest.approx(logged["diffusion_loss"] + 0.5 * logged["ar_loss"], rel=1e-6)
    assert logged["ar_loss"] > 1


def test_what_came_before_the_first_step_is_no_training_time(make_engine: Any) -> None:
    """Verifying and reading a checkpoint, for one, which may take minutes."""
    engine = make_engine("training.max_steps=1", "logging.every_steps=1")
    engine.stopwatch = Stopwatch(started=engine.stopwatch._started - 1000)
    with engine.saver.folder as folder:
        engine.run()
        (timings,) = folder.read(TIMINGS)
    assert timings["seconds"] < 500
