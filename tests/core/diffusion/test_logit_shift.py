"""``logit_shift``: a position is predicted from the one before it, as the autoregressive parent did."""

import pytest
import torch
from torch.nn import functional

from dlm.diffusion.objective import shifted


def test_each_position_takes_the_hidden_state_before_it() -> None:
    hidden = torch.arange(7.0)[None, :, None].expand(2, 7, 3)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 0, 0]])
    assert shifted(hidden, positions)[:, :, 0].tolist() == [[0, 0, 1, 2, 3, 4, 5], [0, 0, 1, 3, 3, 5, 6]]


@pytest.mark.parametrize("bias", ["full", "block_causal"])
@pytest.mark.parametrize("isolate", [False, True])
def test_the_loss_is_that_of_shifted_logits(lab, docs, isolate: bool, bias: str) -> None:
    model = lab.model()
    noised = lab.noised(lab.batch(docs(5, 8), docs(6, 3), isolate=isolate), num_rows=2)
    settings = {"bias": lab.component("attention_bias", bias), "block_length": 4}
    total, _ = lab.objective(model, logit_shift=True, **settings)(noised)
    logits = model.lm_head(lab.hidden(model, noised, **settings))
    expected = torch.zeros((), dtype=torch.float64)
    for row, position in noised.corrupted.nonzero().tolist():
        is_first = position == 0 or (isolate and noised.clean.position[row, position] == 0)
        source = logits[row, position if is_first else position - 1]
        loss = functional.cross_entropy(source, noised.clean.input_ids[row, position])
        expected = expected + loss / noised.p_mask[row, position].double()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-8)
    unshifted, _ = lab.objective(model, **settings)(noised)
    assert abs(float(unshifted.detach() / total.detach()) - 1) > 1e-3
