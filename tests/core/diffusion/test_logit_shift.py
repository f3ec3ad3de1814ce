"""``logit_shift``: a position is predicted from the one before it, as the autoregressive parent did."""

import attrs
import pytest
import torch
from torch.nn import functional

from dlm.diffusion.layout import shift_source, training_layout


@pytest.mark.parametrize(
    ("bias", "isolate", "expected"),
    [
        ("full", False, [0, 0, 1, 2, 3, 4, 5]),
        ("full", True, [0, 0, 1, 2, 3, 5, 5]),
        # Column 7 begins the clean half. Blocks of two begin at positions 0, 2 and 4 of a document.
        ("block_causal", False, [0, 0, 8, 2, 10, 5, 5]),
        ("block_causal", True, [0, 0, 8, 2, 10, 5, 5]),
    ],
)
def test_each_position_is_predicted_from_the_one_before_it(lab, docs, bias: str, isolate: bool, expected) -> None:
    batch = lab.batch(docs(5, 2), isolate=isolate)
    source = shift_source(batch, training_layout(batch, 2), lab.component("attention_bias", bias))
    assert source.tolist() == [expected]


def test_the_first_token_of_an_answer_is_predicted_from_the_clean_prompt(lab, docs) -> None:
    batch = lab.batch(docs((5, 3)), max_length=7)
    source = shift_source(batch, training_layout(batch, 2), lab.component("attention_bias", "block_causal"))
    assert source.tolist() == [[0, 0, 8, 2, 10, 5, 6]]


@pytest.mark.parametrize("bias", ["full", "block_causal"])
@pytest.mark.parametrize("isolate", [False, True])
def test_the_loss_is_that_of_shifted_logits(lab, docs, isolate: bool, bias: str) -> None:
    model = lab.model()
    noised = lab.noised(lab.batch(docs(5, 8), docs(6, 3), isolate=isolate), num_rows=2)
    settings = {"bias": lab.component("attention_bias", bias), "block_length": 4}
    total, _ = lab.objective(model, logit_shift=True, **settings)(noised)
    noisy = model.lm_head(lab.hidden(model, noised, **settings))
    without_noise = attrs.evolve(noised, noisy_ids=noised.clean.input_ids)
    clean = model.lm_head(lab.hidden(model, without_noise, **settings))
    is_text_start = noised.clean.position == 0
    if bias == "full" and not isolate:
        is_text_start[:, 1:] = False
    expected = torch.zeros((), dtype=torch.float64)
    for row, position in noised.corrupted.nonzero().tolist():
        crosses = bias == "block_causal" and int(noised.clean.position[row, position]) % 4 == 0
        logits = (clean if crosses else noisy)[row]
        source = noisy[row, position] if is_text_start[row, position] else logits[position - 1]
        loss = functional.cross_entropy(source, noised.clean.input_ids[row, position])
        expected = expected + loss / noised.p_mask[row, position].double()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-8)
    unshifted, _ = lab.objective(model, **settings)(noised)
    assert abs(float(unshifted.detach() / total.detach()) - 1) > 1e-3


def test_the_block_before_moves_the_first_token_of_a_block_as_it_does_in_sampling(lab, docs) -> None:
    """At t = 1 nothing but the clean copy can tell what the block before says."""
    model = lab.model()
    settings = {"bias": lab.component("attention_bias", "block_causal"), "block_length": 3, "logit_shift": True}
    noised = lab.noised(lab.batch(docs(9)))
    noised = attrs.evolve(noised, noisy_ids=torch.full_like(noised.noisy_ids, lab.mask_id))
    other_ids = noised.clean.input_ids.clone()
    other_ids[0, 5] = (other_ids[0, 5] + 17) % 80 + 8
    other = attrs.evolve(noised, clean=attrs.evolve(noised.clean, input_ids=other_ids))
    moved = (lab.hidden(model, noised, **settings) - lab.hidden(model, other, **settings)).abs().amax(-1)[0] > 1e-3
    assert moved.tolist() == [False] * 6 + [True] * 3
