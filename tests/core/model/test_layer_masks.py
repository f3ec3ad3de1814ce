from typing import Any

import pytest
import torch

from dlm.errors import ModelError
from dlm.model.body_and_head import split
from dlm.model.layer_masks import mask_arguments
from dlm.model.masks import attention_mask_for

both_backends = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
IDS = torch.tensor([[3, 14, 15, 92, 65]])


def causal_mask(implementation: str) -> torch.Tensor | None:
    visible = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    return attention_mask_for(visible, implementation=implementation, dtype=torch.float32)


def own_position_mask(implementation: str) -> torch.Tensor | None:
    visible = torch.eye(5, dtype=torch.bool)[None]
    return attention_mask_for(visible, implementation=implementation, dtype=torch.float32)


def layer_by_layer(body: Any, masks: list[torch.Tensor | None]) -> torch.Tensor:
    """The hidden states, computed by calling Qwen3's layers one after the other."""
    hidden = body.embed_tokens(IDS)
    position_ids = torch.arange(5)[None]
    embeddings = body.rotary_emb(hidden, position_ids)
    for layer, mask in zip(body.layers, masks, strict=True):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=embeddings, is_causal=False)
    result: torch.Tensor = body.norm(hidden)
    return result


@both_backends
def test_each_layer_gets_its_own_mask(tiny: Any, implementation: str) -> None:
    body = split(tiny.llada(implementation)).body
    causal, own = causal_mask(implementation), own_position_mask(implementation)
    results = []
    for masks in ([causal, own], [own, causal], [None, causal], [causal, None], [own, own]):
        results.append(body(input_ids=IDS, **mask_arguments(body, masks)).last_hidden_state)
        torch.testing.assert_close(results[-1], layer_by_layer(body, masks), atol=1e-5, rtol=1e-5)
    assert (results[0] - results[1]).abs().max() > 1e-2


@both_backends
def test_ordinary_masks_still_work_after_layer_masks(tiny: Any, implementation: str) -> None:
    body = split(tiny.llada(implementation)).body
    causal = causal_mask(implementation)
    before = body(input_ids=IDS).last_hidden_state, body(input_ids=IDS, attention_mask=causal).last_hidden_state
    body(input_ids=IDS, **mask_arguments(body, [causal, None]))
    after = body(input_ids=IDS).last_hidden_state, body(input_ids=IDS, attention_mask=causal).last_hidden_state
    torch.testing.assert_close(after, before, atol=0, rtol=0)


@both_backends
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_is_computed_again_in_backward_sees_the_same_mask(
    tiny: Any, implementation: str, reentrant: bool
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny.llada(implementation).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        body = split(model).body
        masks = [causal_mask(implementation), own_position_mask(implementation)]
        hidden = body(input_ids=IDS, **mask_arguments(body, masks)).last_hidden_state
        # Another call with other masks of the same number, between forward and backward.
        body.eval()
        with torch.no_grad():
            body(input_ids=IDS, **mask_arguments(body, [masks[1], None]))
        body.train()
        hidden.square().sum().mul(hidden.sum()).backward()
        gradients.append([parameter.grad for parameter in body.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


def test_gpt2_layers_can_be_masked_one_by_one(tiny: Any) -> None:
    model = tiny.gpt2()
    model.config.is_causal = False
    body = split(model).body
    own = own_position_mask("sdpa")

    def first_position(ids: torch.Tensor, masks: list[torch.Tensor | None]) -> torch.Tensor:
        result: torch.Tensor = body(input_ids=ids, **mask_arguments(body, masks)).last_hidden_state
        return result[:, 0]

    changed = torch.tensor([[3, 14, 15, 92, 66]])
    torch.testing.assert_close(first_position(IDS, [own, own]), first_position(changed, [own, own]), atol=0, rtol=0)
    for masks in ([own, None], [None, own]):
        assert (first_position(IDS, masks) - first_position(changed, masks)).abs().max() > 0


def test_layers_that_all_share_a_mask_get_the_ordinary_argument(tiny: Any) -> None:
    body = split(tiny.llada(num_hidden_layers=4)).body
    causal = causal_mask("sdpa")
    assert mask_arguments(body, [causal] * 4) == {"attention_mask": causal}
    assert mask_arguments(body, [None] * 4) == {"attention_mask": None}


def test_a_wrong_number_of_masks_is_refused(tiny: Any) -> None:
    with pytest.raises(ModelError, match="3 layer masks for 2"):
        mask_arguments(split(tiny.llada()).body, [None] * 3)
