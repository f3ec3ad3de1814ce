from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForMaskedLM, DynamicCache
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from dlm.errors import ModelError
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM, Qwen3LLadaModel
from dlm.sampling.decoder import name_of_cache

both_backends = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
IDS = torch.tensor([[3, 14, 15, 92, 65, 35], [89, 79, 32, 38, 46, 26]])
NEVER = float("-inf")


def changed_at(ids: torch.Tensor, position: int) -> torch.Tensor:
    changed = ids.clone()
    changed[:, position] = 150
    return changed


@both_backends
def test_the_last_token_moves_the_first_position(tiny: Any, implementation: str) -> None:
    model = tiny.llada(implementation)
    difference = model(IDS).logits[:, 0] - model(changed_at(IDS, -1)).logits[:, 0]
    assert difference.abs().max() > 1e-2


def test_sdpa_and_eager_agree_with_padding_and_bias(tiny: Any) -> None:
    sdpa, eager = tiny.llada("sdpa"), tiny.llada("eager")
    padding = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]])
    bias = torch.zeros(2, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(3).bool(), NEVER)
    for arguments in ({}, {"attention_mask": padding}, {"attention_bias": bias}):
        torch.testing.assert_close(sdpa(IDS, **arguments).logits, eager(IDS, **arguments).logits, atol=1e-4, rtol=1e-4)
    both = {"attention_mask": padding, "attention_bias": bias}
    real = padding.bool()
    torch.testing.assert_close(sdpa(IDS, **both).logits[real], eager(IDS, **both).logits[real], atol=1e-4, rtol=1e-4)


@both_backends
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_padding_is_invisible_and_a_padded_row_equals_the_row_alone(
    tiny: Any, implementation: str, side: str, with_bias: bool
) -> None:
    model = tiny.llada(implementation)
    padding = torch.ones(2, 6, dtype=torch.long)
    where = slice(0, 2) if side == "left" else slice(4, 6)
    padding[:, where] = 0
    kept = slice(2, 6) if side == "left" else slice(0, 4)
    arguments: dict[str, torch.Tensor] = {"attention_bias": torch.zeros(2, 1, 6, 6)} if with_bias else {}
    position_ids = (padding.cumsum(-1) - 1).clamp_min(0)
    other = IDS.clone()
    other[:, where] = 150
    padded = model(IDS, attention_mask=padding, position_ids=position_ids, **arguments).logits[:, kept]
    refilled = model(other, attention_mask=padding, position_ids=position_ids, **arguments).logits[:, kept]
    torch.testing.assert_close(padded, refilled, atol=0, rtol=0)
    torch.testing.assert_close(padded, model(IDS[:, kept]).logits, atol=1e-4, rtol=1e-4)


@both_backends
def test_a_bias_of_zeros_changes_nothing(tiny: Any, implementation: str) -> None:
    model = tiny.llada(implementation)
    with_bias = model(IDS, attention_bias=torch.zeros(2, 1, 6, 6)).logits
    torch.testing.assert_close(with_bias, model(IDS).logits, atol=1e-5, rtol=1e-5)


@both_backends
def test_a_bias_isolates_two_halves_like_two_rows(tiny: Any, implementation: str) -> None:
    model = tiny.llada(implementation)
    half = torch.tensor([0, 0, 0, 1, 1, 1])
    bias = torch.zeros(2, 1, 6, 6).masked_fill(half[:, None] != half, NEVER)
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2]])
    together = model(IDS, attention_bias=bias, position_ids=position_ids).logits
    apart = torch.cat([model(IDS[:, :3]).logits, model(IDS[:, 3:]).logits], dim=1)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@both_backends
def test_a_boolean_four_dimensional_mask_hides_on_both_backends(tiny: Any, implementation: str) -> None:
    model = tiny.llada(implementation)
    visible = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    first = model(IDS, attention_mask=visible).logits[:, 0]
    torch.testing.assert_close(first, model(changed_at(IDS, -1), attention_mask=visible).logits[:, 0], atol=0, rtol=0)


@both_backends
@pytest.mark.parametrize("through", ["attention_mask", "attention_bias"])
def test_a_row_that_sees_nothing_stays_finite_forward_and_backward(
    tiny: Any, implementation: str, through: str
) -> None:
    model = tiny.llada(implementation).train()
    hidden = torch.zeros(2, 6) if through == "attention_mask" else torch.full((2, 1, 6, 6), NEVER)
    logits = model(IDS, **{through: hidden}).logits
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.ones(2, 6, 6)}, "attention_mask must be"),
        ({"attention_bias": torch.zeros(2, 6, 6)}, "attention_bias must be"),
        ({"attention_bias": torch.zeros(2, 1, 6, 6, dtype=torch.bool)}, "attention_bias must be"),
        ({"attention_bias": torch.full((2, 1, 6, 6), -1.0)}, "only 0"),
        ({"attention_bias": torch.zeros(2, 1, 6, 6), "attention_mask": torch.ones(2, 1, 6, 6)}, "second bias"),
    ],
)
def test_masks_of_another_form_are_refused(tiny: Any, arguments: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny.llada()(IDS, **arguments)


def test_no_cache_is_made_even_when_asked_for(tiny: Any) -> None:
    model = tiny.llada()
    model.config.use_cache = True
    assert model.model(IDS, use_cache=True).past_key_values is None


def test_a_cache_that_is_passed_is_used(tiny: Any) -> None:
    model = tiny.llada()
    cache = DynamicCache(config=model.config)
    passed: dict[str, Any] = {name_of_cache(Qwen3Model): cache}
    model.model(IDS[:, :4], **passed)
    tail = model.model(IDS[:, 4:], position_ids=torch.tensor([[4, 5]]), **passed).last_hidden_state
    # The first four do not see the last two here, so the whole row needs a bias that says the same.
    bias = torch.zeros(2, 1, 6, 6)
    bias[:, :, :4, 4:] = NEVER
    whole = model.model(IDS, attention_bias=bias).last_hidden_state
    torch.testing.assert_close(tail, whole[:, 4:], atol=1e-4, rtol=1e-4)


def test_logits_to_keep_selects_rows_of_the_full_logits(tiny: Any) -> None:
    model = tiny.llada()
    full = model(IDS).logits
    selection = torch.tensor([[True, False, False, True, False, False], [False, False, False, False, False, True]])
    columns = torch.tensor([1, 4])
    own = torch.tensor([[0, 5], [2, 3]])
    expectations = [
        (0, full),
        (2, full[:, -2:]),
        (columns, full[:, columns]),
        (own, torch.stack([full[0, own[0]], full[1, own[1]]])),
        (selection, torch.stack([full[0, 0], full[0, 3], full[1, 5]])),
    ]
    for keep, expected in expectations:
        torch.testing.assert_close(model(IDS, logits_to_keep=keep).logits, expected, atol=1e-5, rtol=1e-5)


def test_labels_are_scored_in_place_without_a_shift(tiny: Any) -> None:
    model = tiny.llada()
    labels = torch.full_like(IDS, -100)
    labels[0, 2], labels[1, 5] = 15, 26
    output = model(IDS, labels=labels)
    expected = -(output.logits[0, 2].log_softmax(-1)[15] + output.logits[1, 5].log_softmax(-1)[26]) / 2
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(model(IDS, labels=labels, logits_to_keep=labels != -100).loss, expected)


def test_embeddings_can_be_given_instead_of_ids(tiny: Any) -> None:
    model = tiny.llada()
    torch.testing.assert_close(model(inputs_embeds=model.model.embed_tokens(IDS)).logits, model(IDS).logits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_gives_the_same_class_and_logits(
    tiny: Any, tmp_path: Path, tied: bool, dtype: torch.dtype
) -> None:
    model = tiny.llada(tie_word_embeddings=tied).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is Qwen3LLadaForMaskedLM
    assert loaded.dtype == dtype
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    states = zip(model.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(tensor, twin) for (name, tensor), (other, twin) in states)
    # A model that was cast has cast its rotary table too, one that was loaded has not.
    if dtype == torch.float32:
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=0, rtol=0)
    assert type(AutoModel.from_pretrained(tmp_path)) is Qwen3LLadaModel


@both_backends
def test_gradients_are_the_same_with_gradient_checkpointing(tiny: Any, implementation: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny.llada(implementation).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        F.cross_entropy(model(IDS).logits.flatten(0, 1), IDS.flatten()).backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-5)
