"""A context behind which nothing changes is run once: the same likelihoods as without, from fewer tokens."""

from typing import Any

import pytest

import dlm.evaluation.scoring as scoring
from dlm.evaluation.likelihood import ScoredText, score_texts
from dlm.evaluation.scoring import Scorer

BLOCKS = {"attention_bias_component": {"name": "block"}, "block_length": 3}
CONTEXTS = [[0, 3, 1, 5, 2], [4, 4], [], [0, 3, 1, 5, 2]]
TEXTS = [[1, 2, 3, 4, 5, 0, 1], [2, 0], [3, 1, 2, 2], [5]]


def scored(model: Any, contexts: Any = CONTEXTS, texts: Any = TEXTS, **options: Any) -> tuple[list[float], int]:
    """Values, and tokens that went through the model."""
    scorer = Scorer.of(model, **options)
    tokens = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal tokens
        tokens += kwargs["input_ids"].numel()

    hook = model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    made = [ScoredText.of_ids(c, t, scorer.blocks_from_start) for c, t in zip(contexts, texts, strict=True)]
    estimates, _ = score_texts(scorer, made, method="bound", draws=6, seed=0)
    hook.remove()
    return [each.value for each in estimates], tokens


def test_it_is_exact_and_runs_each_context_once(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(**BLOCKS)
    values, tokens = scored(model)
    small, _ = scored(model, batch_tokens=12)
    alone = [scored(model, [c], [t])[0][0] for c, t in zip(CONTEXTS, TEXTS, strict=True)]
    monkeypatch.setattr(scoring, "static_length", lambda row, decoder: 0)
    plain, tokens_without = scored(model)
    assert values == pytest.approx(plain, abs=1e-10)
    assert values == pytest.approx(small, abs=1e-10)
    assert values == pytest.approx(alone, abs=1e-10)
    assert tokens < 0.8 * tokens_without
    # Two contexts, once each; then their continuations, and the text without a context.
    assert tokens >= 5 + 2


@pytest.mark.parametrize("config", [{}, {**BLOCKS, "block_origin": "document"}], ids=["full", "from the document"])
def test_a_context_that_sees_the_answer_or_is_part_of_its_blocks_is_run_with_every_mask(
    make_model: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(**config)
    values, tokens = scored(model)
    monkeypatch.setattr(scoring, "static_length", lambda row, decoder: 0)
    assert (values, tokens) == scored(model)


def test_it_is_kept_apart_from_other_contexts(make_model: Any) -> None:
    model = make_model(**BLOCKS)
    one, _ = scored(model, [[0, 1]], [[2, 3]])
    both, _ = scored(model, [[0, 1], [1, 1]], [[2, 3], [2, 3]])
    assert one[0] == pytest.approx(both[0], abs=1e-10)
    assert abs(both[1] - both[0]) > 1e-3
