"""Whatever the kind, a component that answers with something else than asked for is told so, in these words."""

import attrs
import pytest

from dlm_plugins.testing import check_component


@attrs.frozen(kw_only=True)
class Anything:
    """Answers every method of every kind with a text."""

    lr: float = attrs.field(default=0.1, metadata={"help": "Any number."})

    def __call__(self, view: object) -> str:
        return "text"

    def answer(self, request: object) -> str:
        return "text"

    mask_rate = mask_rate_derivative = select = corrupt = mask_function = decide = build = answer


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("loss", "the loss returned a str, not a LossOutput"),
        ("noise_schedule", "mask_rate returned a str, not a Tensor"),
        ("masking", "select returned a str, not a Selection"),
        ("noise_type", "corrupt returned a str, not a Tensor"),
        ("attention_bias", "mask_function returned 'text', not a function"),
        ("remasking", "decide returned a str, not a Decision"),
        ("optimizer", "build returned a str, not an Optimizer"),
    ],
)
def test_another_type_is_named_by_every_property_that_asks(kind: str, reason: str) -> None:
    messages = check_component(kind, Anything)
    assert len(messages) >= 4
    assert all(reason in each or "mask_rate_derivative returned a str" in each for each in messages), messages
