"""The sampler against LLaDA's published procedure, written down plainly and independently here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm.sampling import generate

NUM_SETTINGS = 60


def published_procedure(
    model: Any,
    prompt: Tensor,
    attention_mask: Tensor | None,
    *,
    gen_length: int,
    steps: int,
    block_length: int,
    cfg_scale: float,
) -> Tensor:
    """Full logits of the whole sequence at every step, one row's choice at a time."""
    mask_id = model.config.mask_token_id
    num_rows, prompt_length = prompt.shape
    x = torch.full((num_rows, prompt_length + gen_length), mask_id)
    x[:, :prompt_length] = prompt
    given = x != mask_id
    position_ids = None
    if attention_mask is not None:
        attention_mask = torch.cat((attention_mask, attention_mask.new_ones(num_rows, gen_length)), dim=1)
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)

    def logits_of(ids: Tensor) -> Tensor:
        repeats = len(ids) // num_rows
        arguments: dict[str, Any] = {}
        if attention_mask is not None and position_ids is not None:
            arguments = {
                "attention_mask": attention_mask.repeat(repeats, 1),
                "position_ids": position_ids.repeat(repeats, 1),
            }
        logits: Tensor = model(input_ids=ids, **arguments).logits
        # With a shift, position i is predicted at position i - 1, as in an autoregressive model.
        return torch.cat((logits[:, :1], logits[:, :-1]), dim=1) if model.config.logit_shift else logits

    num_blocks = gen_length // block_length
    steps_in_block = steps // num_blocks
    for block in range(num_blocks):
        end = prompt_length + (block + 1) * block_length
        base, remainder = divmod(block_length, steps_in_block)
        for step in range(steps_in_block):
            masked = x == mask_id
            if cfg_scale > 0:
                without_prompt = torch.where(given, mask_id, x)
                conditional, free = logits_of(torch.cat((x, without_prompt))).chunk(2)
                logits = free + (cfg_scale + 1) * (conditional - free)
            else:
                logits = logits_of(x)
            proposed = logits.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, proposed[..., None])[..., 0]
            confidence[:, end:] = -torch.inf
            confidence = torch.where(masked, confidence, -torch.inf)
            for row in range(num_rows):
                chosen = confidence[row].topk(base + (step < remainder)).indices
                x[row, chosen] = proposed[row, chosen]
    return x


@pytest.mark.parametrize("number", range(NUM_SETTINGS))
@torch.no_grad()
def test_tokens_are_those_of_the_published_procedure(number: int, make_model: Any) -> None:
    random = torch.Generator().manual_seed(number)

    def pick(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=random))]

    model = make_model(
        seed=number,
        num_hidden_layers=pick(1, 2),
        logit_shift=pick(False, False, True),
        initializer_range=pick(0.2, 0.4),
    )
    block_length, num_blocks, num_rows = pick(1, 3, 4, 8), pick(1, 2, 3), pick(1, 2, 4)
    gen_length = block_length * num_blocks
    steps = num_blocks * pick(*range(1, block_length + 1))
    prompt = torch.randint(0, 49, (num_rows, pick(1, 5, 9)), generator=random)
    attention_mask = None
    if num_rows > 1 and pick(True, False):
        pads = torch.randint(0, prompt.shape[1], (num_rows, 1), generator=random)
        attention_mask = (torch.arange(prompt.shape[1])[None] >= pads).long()
    settings = {
        "gen_length": gen_length,
        "steps": steps,
        "block_length": block_length,
        "cfg_scale": pick(0.0, 0.0, 0.5, 2.0),
    }
    expected = published_procedure(model, prompt, attention_mask, **settings)
    output = generate(model, prompt, attention_mask=attention_mask, **settings)
    assert not (expected == 49).any(), "the comparison needs a model that never proposes the mask"
    assert output.sequences.equal(expected)
