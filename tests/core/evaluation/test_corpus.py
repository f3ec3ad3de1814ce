"""Measuring a corpus round by round: against exact values, whatever the order, and paired."""

from typing import Any

import numpy as np
import pytest

import dlm
from dlm.config.sampling_settings import SamplingSettings
from dlm.data.tokenizer_training import train_tokenizer
from dlm.errors import UserInputError
from dlm.evaluation.corpus import _keyed, measure
from dlm.evaluation.likelihood import ScoredText
from dlm.evaluation.own_rows import EvaluationData, for_other_tokenizer
from dlm.evaluation.scoring import Scorer
from dlm.sampling.arguments import component
from dlm.sampling.session import Session

TEXTS = [[*((i + j * j * (i % 4)) % 6 for j in range(4)), i % 5] for i in range(12)] + [[1, 2], [5]]
ROWS = [ScoredText.of_ids([], text, False).row for text in TEXTS]
BYTES = [len(text) for text in TEXTS]


@pytest.mark.parametrize("bias", ["full", "block_causal"])
def test_rounds_come_near_the_exact_value_and_the_interval_says_how_near(make_model: Any, bias: str) -> None:
    model = make_model(attention_bias_component={"name": bias}, block_length=4)
    exact = -float(dlm.log_likelihood(model, [[]] * len(TEXTS), TEXTS, draws=32).values.sum()) / sum(BYTES)
    scorer, errors = Scorer.of(model), []
    for seed in range(6):
        found = measure(scorer, ROWS, BYTES, seed=seed, precision=1e-9, max_draws=24)
        figure = found.nats_per_token
        assert (found.draws, found.is_precise) == (24, False)
        assert 0 < figure.draws < 0.2 * figure.value
        errors.append((figure.value - exact) / (figure.draws / 1.96))
        # Texts of up to three tokens have no more than eight masks.
        assert [each.num_draws for each in found.estimates[-2:]] == [0, 0]
    assert abs(np.mean(errors)) < 3 / 6**0.5
    assert measure(scorer, ROWS, BYTES, precision=0.5).draws == 8


def test_the_order_of_the_rows_and_the_batch_do_not_matter(make_model: Any) -> None:
    model = make_model()
    one = measure(Scorer.of(model), ROWS, BYTES, max_draws=8)
    other = measure(Scorer.of(model, batch_tokens=11), ROWS[::-1], BYTES[::-1], max_draws=8)
    assert other.nats_per_token.value == pytest.approx(one.nats_per_token.value, rel=1e-12)
    assert other.values[::-1] == pytest.approx(one.values, rel=1e-12)
    assert len({each.key for each in _keyed([*ROWS, *ROWS])}) == 2 * len(ROWS)
    assert other.by_rate.count == pytest.approx(one.by_rate.count)


def test_masks_that_are_shared_cancel_in_a_difference(make_model: Any) -> None:
    model, near = make_model(), make_model()
    near.lm_head.weight.data *= 1.02
    one, other = (measure(Scorer.of(each), ROWS, BYTES, precision=1e-9, max_draws=8) for each in (model, near))
    difference = one.minus(other)
    assert difference.value == pytest.approx(one.nats_per_token.value - other.nats_per_token.value)
    assert difference.draws < one.nats_per_token.draws / 8**0.5
    assert one.minus(one).draws == 0


def test_a_text_that_another_tokenizer_has_nothing_of_is_refused(make_model: Any) -> None:
    """Its nats would be compared with none, over no byte."""
    sessions = [
        Session(
            model=make_model(),
            tokenizer=train_tokenizer(["a cat, a cat and a cat"], vocab_size=size),
            settings=SamplingSettings(remasking=component("remasking", "low_confidence")),
            rendering=None,
            mask_id=6,
            eos_ids=(),
        )
        for size in (262, 264)
    ]
    end = sessions[0].tokenizer.eos_token_id
    text = sessions[0].tokenizer("a cat")["input_ids"]

    def data(*rows: list[int]) -> EvaluationData:
        made = [ScoredText.of_ids([], ids, False).row for ids in rows]
        return EvaluationData(name="texts", rows=made, num_bytes=[], fingerprint="", isolate_documents=False, notes=())

    (row,) = for_other_tokenizer(data([*text, end]), *sessions).rows
    assert sessions[1].tokenizer.decode(row.input_ids.tolist()) == "a cat"
    with pytest.raises(UserInputError, match="--against: what is scored of a text is special tokens alone"):
        for_other_tokenizer(data(text, [end]), *sessions)
