"""The parts of the sampler by themselves: plans, canvases, predictions, randomness."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dlm.errors import ModelError, UserInputError
from dlm.sampling import candidates, generate, iter_generate, sampling_draws
from dlm.sampling.candidates import Keys, Tokens
from dlm.sampling.canvas import Canvas
from dlm.sampling.plan import quotas, steps_per_block
from dlm.sampling.sampling_draws import BlockDraws, add_gumbel_
from dlm_plugins import Decision
from dlm_plugins.testing.decoding_state import ReferenceState


@settings(deadline=None)
@given(num_masks=st.integers(0, 200), num_steps=st.integers(1, 200))
def test_quotas_add_up_and_the_remainder_comes_first(num_masks: int, num_steps: int) -> None:
    shares = quotas(num_masks, num_steps)
    assert len(shares) == num_steps
    assert sum(shares) == num_masks
    assert shares == sorted(shares, reverse=True)
    assert max(shares) - min(shares) <= 1


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 64), min_size=1, max_size=9), extra=st.integers(0, 300))
def test_steps_are_shared_in_proportion_to_the_masks(counts: list[int], extra: int) -> None:
    steps = len(counts) + extra
    shares = steps_per_block(counts, steps)
    assert sum(shares) == steps
    assert min(shares) >= 1
    # No block can give a step to another and leave the busiest of the two less busy.
    for count, share in zip(counts, shares, strict=True):
        if share > 1:
            assert all(count / (share - 1) >= other / own for other, own in zip(counts, shares, strict=True))


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 64), min_size=1, max_size=9))
def test_as_many_steps_as_masks_is_one_token_a_step(counts: list[int]) -> None:
    assert steps_per_block(counts, sum(counts)) == counts


def test_fewer_steps_than_blocks_are_refused() -> None:
    with pytest.raises(UserInputError, match=r"steps is 2.*3 blocks.*at least 3"):
        steps_per_block([4, 4, 4], 2)


def test_blocks_count_from_the_first_mask_of_each_row() -> None:
    ids = torch.tensor([[0, 7, 8, 9], [5, 6, 49, 4]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    canvas = Canvas.build(ids, mask, gen_length=3, block_length=2, mask_id=49, dtype=torch.float32)
    assert canvas.block.tolist() == [[-1, -1, -1, -1, 0, 0, 1], [-1, -1, 0, 0, 1, 1, 2]]
    assert canvas.position.tolist() == [[0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]
    assert canvas.writable.long().tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("mask", "gen_length", "message"),
    [
        ([[1, 0, 1]], 2, "middle"),
        ([[1, 1, 0]], 2, "pad on the left"),
        ([[1, 1]], 2, "must match"),
    ],
)
def test_masks_that_make_no_sense_are_refused(mask: list[list[int]], gen_length: int, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        Canvas.build(
            torch.tensor([[1, 2, 3]]),
            torch.tensor(mask),
            gen_length=gen_length,
            block_length=2,
            mask_id=49,
            dtype=torch.float32,
        )


def keys(count: int) -> Keys:
    zero = torch.zeros(count, dtype=torch.long)
    return Keys(row=torch.arange(count), block=zero, position=zero)


@pytest.mark.parametrize("chunk_elements", [1, 1 << 24])
def test_predictions_are_those_of_the_whole_distribution(monkeypatch: pytest.MonkeyPatch, chunk_elements: int) -> None:
    monkeypatch.setattr("dlm.sampling.candidates._CHUNK_ELEMENTS", chunk_elements)
    random = torch.Generator().manual_seed(0)
    head = nn.Linear(6, 11).double()
    hidden = torch.randn(7, 6, generator=random, dtype=torch.float64)
    tokens = Tokens(mask_id=10, suppressed=torch.tensor([3, 4]))
    with torch.no_grad():
        found = candidates.predict(hidden, head, tokens, temperature=0.0, seed=0, step=0, keys=keys(7))
        logits = head(hidden)
        logits[:, [3, 4]] = -math.inf
        law = logits.softmax(dim=-1)
        best = law[:, :10].max(dim=-1)
        assert found.candidates.equal(best.indices)
        torch.testing.assert_close(found.log_probability, best.values.log())
        torch.testing.assert_close(found.entropy(), -(law * law.clamp(min=1e-300).log()).sum(dim=-1))
        first, second = law.sort(dim=-1, descending=True).values[:, :2].unbind(dim=-1)
        torch.testing.assert_close(found.margin(), first - second)


@pytest.mark.parametrize(
    ("dtype", "exact"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_confidence_is_float32_or_wider(dtype: torch.dtype, exact: torch.dtype) -> None:
    tokens = Tokens(mask_id=9, suppressed=torch.tensor([], dtype=torch.long))
    with torch.no_grad():
        found = candidates.predict(
            torch.randn(3, 4).to(dtype),
            nn.Linear(4, 10).to(dtype),
            tokens,
            temperature=0.0,
            seed=0,
            step=0,
            keys=keys(3),
        )
    assert found.log_probability.dtype == exact


def test_gumbel_noise_has_the_gumbel_law_and_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = torch.zeros(40, dtype=torch.long)

    def noise() -> torch.Tensor:
        return add_gumbel_(
            torch.zeros(40, 1001, dtype=torch.float64),
            2.0,
            seed=3,
            step=1,
            rows=torch.arange(40),
            blocks=zero,
            positions=zero + 5,
        )

    whole = noise()
    monkeypatch.setattr("dlm.sampling.sampling_draws._CHUNK_ELEMENTS", 1)
    assert noise().equal(whole)
    sample = (whole / 2.0).flatten().sort().values
    law = (-(-sample).exp()).exp()
    distance = (law - torch.linspace(0, 1, len(sample), dtype=torch.float64)).abs().max()
    assert distance < 1.95 / math.sqrt(len(sample)), "Kolmogorov-Smirnov at 0.1 %"


def test_the_noise_is_mixed_as_published() -> None:
    # Java's SplittableRandom(0), and the reference implementation seeded with 0, begin with these words.
    golden = 0x9E3779B97F4A7C15 - (1 << 64)
    words = sampling_draws._mixed_(torch.arange(1, 4) * golden)
    assert [each % (1 << 64) for each in words.tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@pytest.mark.parametrize("key", ["rows", "blocks", "positions", "seed", "step"])
def test_noise_depends_on_every_key(key: str) -> None:
    zero = torch.zeros(2, dtype=torch.long)
    keys: dict[str, Any] = {"rows": zero, "blocks": zero, "positions": zero, "seed": 0, "step": 0}

    def noise(**changes: Any) -> torch.Tensor:
        return add_gumbel_(torch.zeros(2, 9, dtype=torch.float64), 1.0, **{**keys, **changes})

    assert noise()[0].equal(noise()[1])
    changed = torch.tensor([0, 1]) if isinstance(keys[key], torch.Tensor) else 1
    assert not noise(**{key: changed})[1].equal(noise()[1])


def test_draws_of_a_block_depend_on_row_block_step_and_purpose_only() -> None:
    def block(rows: list[int], blocks: list[int], step: int = 0, length: int = 6) -> BlockDraws:
        return BlockDraws(seed=1, step=step, rows=torch.tensor(rows), blocks=torch.tensor(blocks), length=length)

    both = block([4, 9], [0, 2])
    assert both.per_position("x")[1].equal(block([9], [2]).per_position("x")[0])
    assert both.per_position("x")[:, :3].equal(block([4, 9], [0, 2], length=3).per_position("x"))
    others = [block([4], [1]), block([5], [0]), block([4], [0], step=1)]
    assert not any(both.per_position("x")[0].equal(other.per_position("x")[0]) for other in others)
    assert not both.per_position("x").equal(both.per_position("y"))
    assert both.per_row("x").shape == (2,)


class Overwriter:
    """A rule that breaks its contract."""

    def decide(self, state: Any) -> Decision:
        return Decision(commit=~state.masked | state.masked)


class Amnesiac:
    """A rule that takes back what was never written."""

    respects_quota = False

    def decide(self, state: Any) -> Decision:
        return Decision(commit=state.masked & False, remask=state.masked)


@pytest.mark.parametrize("rule", [Overwriter(), Amnesiac()])
def test_a_rule_that_breaks_its_contract_is_stopped(model: Any, rule: Any) -> None:
    with pytest.raises(UserInputError, match=f"remasking rule {type(rule).__name__}"):
        generate(model, torch.tensor([[1, 49, 3, 49, 49]]), gen_length=0, steps=3, remasking=rule)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100))
def test_what_is_taken_back_is_written_again(frozen_model: Any, seed: int) -> None:
    states = list(
        iter_generate(
            frozen_model(),
            torch.tensor([[1, 2, 3]]),
            gen_length=12,
            steps=12,
            remasking={"name": "remdm", "rate": 0.9},
            temperature=1.0,
            seed=seed,
        )
    )
    taken_back = [(~a.masked & b.masked)[:, 3:].any() for a, b in itertools.pairwise(states)]
    assert any(taken_back)
    assert not states[-1].masked.any()
    for state in states:
        waiting = state.masked
        assert (state.committed_step[waiting] == -1).all()
        assert (state.log_probabilities[waiting] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: must be > 0"),
        ({"steps": 2.5}, "steps: must be an integer"),
        ({"gen_length": -1}, "gen_length: must be >= 0"),
        ({"block_length": 0}, "block_length: must be > 0"),
        ({"block_length": 5}, "longer than the 4 positions"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "finite"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"gen_length": 254}, "context of 256"),
        ({"mask_id": 50}, "vocabulary"),
        ({"eos_id": 50}, "vocabulary"),
        ({"suppress_tokens": [-1]}, "suppress_tokens: must be >= 0"),
        ({"remasking": "low_konfidence"}, "did you mean 'low_confidence'"),
        ({"remasking": {"name": "threshold", "threshold": 3}}, "threshold"),
        ({"attention_bias": "blok"}, "did you mean 'block'"),
        ({"row_keys": torch.tensor([1, 2])}, "row_keys"),
        ({"gen_length": 0, "block_length": None}, "nothing to generate"),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(model: Any, change: dict[str, Any], message: str) -> None:
    arguments = {"gen_length": 4, "steps": 4, "block_length": 2, **change}
    with pytest.raises(UserInputError, match=message):
        generate(model, torch.tensor([[1, 2, 3]]), **arguments)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": [[1, 2, 3]]}, r"input_ids must be a tensor \(rows, positions\) of int64, not list"),
        ({"input_ids": IDS.numpy()}, "not ndarray"),
        ({"input_ids": "text"}, "not str"),
        ({"input_ids": IDS[0]}, r"\(rows, positions\), not \(3,\)"),
        ({"input_ids": IDS[:0]}, "no rows"),
        ({"input_ids": IDS.double()}, "of int64, not of float64"),
        ({"input_ids": IDS > 2}, "of int64, not of bool"),
        ({"input_ids": IDS * 10}, "50 in row 1 at position 1 is outside the vocabulary, 0 to 49"),
        ({"input_ids": IDS - 2}, "-1 in row 0 at position 0"),
        ({"attention_mask": [[1, 1, 1]]}, "attention_mask must be a tensor .*, not list"),
        ({"attention_mask": torch.ones(2, 4)}, r"attention_mask is \(2, 4\), input_ids are \(2, 3\)"),
        ({"attention_mask": torch.zeros(2, 3) - torch.inf}, "1 at tokens and 0 at padding"),
        ({"row_keys": [0, 1]}, r"row_keys must be a tensor \(2,\) of int64, not list"),
        ({"row_keys": torch.arange(3)}, r"row_keys must be \(2,\), one for each row, not \(3,\)"),
        ({"row_keys": torch.rand(2)}, "not of float32"),
    ],
)
def test_what_is_no_batch_of_ids_is_refused_with_what_was_expected(
    model: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserInputError, match=message):
        generate(model, **{"input_ids": IDS, "gen_length": 4, "steps": 4, **change})
    with pytest.raises(UserInputError, match=message):
        model.generate(**{"input_ids": IDS, "max_new_tokens": 4, **change})


def test_narrower_integers_and_masks_of_any_dtype_are_taken(model: Any) -> None:
    arguments: dict[str, Any] = {"gen_length": 4, "steps": 4}
    plain = generate(model, IDS, **arguments).sequences
    for mask in (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)):
        assert generate(model, IDS.to(torch.int32), attention_mask=mask, **arguments).sequences.equal(plain)


def test_models_that_cannot_unmask_are_refused(make_model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    model = make_model()
    model.config.noise_shows_mask = False
    with pytest.raises(ModelError, match="noise_type: mask"):
        generate(model, prompt, gen_length=4, steps=4)
    model = make_model()
    model.config.mask_token_id = None
    with pytest.raises(ModelError, match="dlm convert"):
        generate(model, prompt, gen_length=4, steps=4)


def test_the_settings_of_training_are_the_defaults(make_model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    trained = make_model(attention_bias_component={"name": "builtin:block"}, block_length=4)
    arguments: dict[str, Any] = {"gen_length": 12, "steps": 12}
    own = generate(trained, prompt, **arguments)
    assert own.cache == "side_by_side"
    told = generate(make_model(), prompt, attention_bias="block", block_length=4, **arguments)
    assert own.sequences.equal(told.sequences)
    assert not own.sequences.equal(generate(make_model(), prompt, **arguments).sequences)


class Spy:
    """Compares what a rule is shown with what the contract's own state makes of the whole logits."""

    needs_committed_predictions = True
    respects_quota = False

    def __init__(self, model: Any, prompt: torch.Tensor) -> None:
        self.model = model
        self.prompt = prompt
        self.num_compared = 0

    def decide(self, state: Any) -> Decision:
        ids = torch.cat((self.prompt, state.committed_ids), dim=1)
        with torch.no_grad():
            logits = self.model(input_ids=ids).logits[:, self.prompt.shape[1] :]
        reference = ReferenceState(
            all_logits=logits,
            masked=state.masked,
            committed_ids=state.committed_ids,
            committed_confidence=state.committed_confidence,
            committed_step=state.committed_step,
            quota=state.quota,
            step=state.step,
            num_steps=state.num_steps,
            row_index=torch.arange(len(ids)),
            predicts_committed=True,
        )
        assert state.candidates.equal(reference.candidates)
        for name in ("confidence", "log_probability", "entropy", "margin"):
            torch.testing.assert_close(getattr(state, name), getattr(reference, name), msg=name)
        assert state.masked.equal(state.committed_ids == 49)
        assert (state.committed_confidence[state.masked] == 0).all()
        assert (state.committed_step[state.masked] == -1).all()
        committed = ~state.masked
        assert ((state.committed_step >= 0) == committed).all()
        assert ((state.committed_confidence > 0) == committed).all()
        self.num_compared += 1
        # One goes back, two are written: like this the block is done in time, and both directions are seen.
        order = state.confidence.masked_fill(committed, -1).argsort(dim=1, descending=True)
        commit = torch.zeros_like(committed).scatter_(1, order[:, :2], True) & state.masked
        doubtful = state.committed_confidence.masked_fill(~committed, 2).argmin(dim=1, keepdim=True)
        remask = torch.zeros_like(committed).scatter_(1, doubtful, True) & committed
        return Decision(commit=commit, remask=remask)


def test_a_rule_is_shown_what_the_contract_says(model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    spy = Spy(model, prompt)
    output = generate(model, prompt, gen_length=8, steps=10, remasking=spy)
    assert spy.num_compared == 9, "the last step belongs to the loop"
    assert output.num_forwards == 10
    assert not (output.sequences == 49).any()
