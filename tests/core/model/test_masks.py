import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.errors import ModelError
from dlm.model.masks import attention_mask_for, visible_from_additive, visible_with_padding


@st.composite
def visibilities(draw: st.DrawFn) -> torch.Tensor:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))


@settings(deadline=None, max_examples=50)
@given(visibilities(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_both_forms_give_the_attention_weights_of_a_plain_softmax(visible: torch.Tensor, dtype: torch.dtype) -> None:
    boolean = attention_mask_for(visible, implementation="sdpa", dtype=dtype)
    additive = attention_mask_for(visible, implementation="eager", dtype=dtype)
    assert boolean is not None and additive is not None  # noqa: PT018 - narrowing for the type checker
    assert boolean.dtype == torch.bool
    assert additive.dtype == dtype
    assert boolean.shape == additive.shape == (visible.shape[0], 1, *visible.shape[1:])
    scores = torch.linspace(-2, 2, visible.numel()).view(visible.shape)
    weights = torch.softmax(scores[:, None] + additive.float(), dim=-1)[:, 0]
    for row in range(visible.shape[0]):
        for query in range(visible.shape[1]):
            seen = visible[row, query]
            if not seen.any():
                seen = torch.ones_like(seen)
            assert torch.equal(boolean[row, 0, query], seen)
            expected = torch.zeros(len(seen))
            expected[seen] = torch.softmax(scores[row, query][seen], dim=-1)
            torch.testing.assert_close(weights[row, query], expected)


def test_none_means_everybody_and_needs_no_mask_on_any_backend() -> None:
    for implementation in ("sdpa", "eager", "flash_attention_2"):
        assert attention_mask_for(None, implementation=implementation, dtype=torch.float32) is None


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "something"])
def test_backends_that_cannot_follow_a_mask_are_refused_by_name(implementation: str) -> None:
    with pytest.raises(ModelError, match=rf"{implementation}.*sdpa, eager"):
        attention_mask_for(torch.ones(1, 2, 2, dtype=torch.bool), implementation=implementation, dtype=torch.float32)


@pytest.mark.parametrize("visible", [torch.ones(2, 2, dtype=torch.bool), torch.ones(1, 2, 2)])
def test_visibility_of_another_form_is_refused(visible: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="must be"):
        attention_mask_for(visible, implementation="sdpa", dtype=torch.float32)


@settings(deadline=None, max_examples=30)
@given(visibilities(), st.booleans())
def test_an_additive_bias_is_read_back(visible: torch.Tensor, finite: bool) -> None:
    hidden = torch.finfo(torch.float32).min if finite else float("-inf")
    bias = torch.zeros(visible.shape).masked_fill(~visible, hidden)[:, None]
    assert torch.equal(visible_from_additive(bias), visible)


def test_padding_hides_keys_and_nothing_else() -> None:
    padding = torch.tensor([[1, 1, 0], [0, 1, 1]])
    visible = torch.tensor([[[1, 0, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    expected = torch.tensor([[[1, 0, 0], [1, 1, 0]], [[0, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    assert torch.equal(visible_with_padding(visible, padding, num_queries=2), expected)
    everybody = visible_with_padding(None, padding, num_queries=2)
    assert torch.equal(everybody, padding.bool()[:, None].repeat(1, 2, 1))
