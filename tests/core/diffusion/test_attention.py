"""Which kernel attends, and that it makes no difference: flex_attention, additive masks, padded rows, bytes kept."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from dlm.diffusion.layout import training_layout
from dlm.errors import UserInputError
from dlm.model.attention import Visibility, choose_implementation, padding_of
from dlm_plugins.registry import Registry

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BUILT_IN = [entry.name for entry in Registry.discover().entries("attention_bias")]

# The compiler, which transformers imports for flex_attention, about itself; and flex_attention without it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning", "ignore:flex_attention called without"
)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """flex_attention as it is: its kernel would take half a minute to compile."""

    def plain(*args: Any, training: bool, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", plain)


@pytest.fixture(params=[*BUILT_IN, "sliding_window"])
def bias(request: pytest.FixtureRequest, lab: Any, visible_packages: Any) -> Any:
    """Every built-in bias, and that of the example."""
    if request.param in BUILT_IN:
        return lab.component("attention_bias", request.param)
    visible_packages(request.config.rootpath / "examples" / "dlm-acme")
    from dlm_acme.sliding_window import SlidingWindow

    return SlidingWindow(width=3)


@pytest.mark.parametrize("isolate", [True, False])
def test_flex_attention_is_sdpa_under_every_bias(lab, docs, bias: Any, isolate: bool, uncompiled: None) -> None:
    """Two documents a row, one row that is all padding, more than one block of 128."""
    noised = lab.noised(lab.batch(docs((90, 60)), docs((5, 2), (6, 4)), None, isolate=isolate), num_rows=2)
    sdpa, flex = (
        lab.hidden(
            lab.model(torch.float32, each),
            noised,
            implementation=each,
            bias=bias,
            padded_length=padding_of(each, compiles=False, max_length=90),
        )
        for each in ("sdpa", "flex_attention")
    )
    real = noised.clean.document_id >= 0
    assert bool(flex.isfinite().all())
    torch.testing.assert_close(flex[real], sdpa[real], rtol=1e-5, atol=1e-5)


def test_flex_attention_takes_queries_of_another_dtype_under_autocast(lab, docs, uncompiled: None) -> None:
    noised = lab.noised(lab.batch(docs(30, 20), isolate=True))
    with torch.autocast("cpu", torch.bfloat16):
        sdpa, flex = (
            lab.hidden(lab.model(torch.float32, each), noised, implementation=each)
            for each in ("sdpa", "flex_attention")
        )
    torch.testing.assert_close(flex.float(), sdpa.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_masks_have_the_dtype_of_the_scores(lab, docs, dtype: torch.dtype, autocast: bool) -> None:
    """Also where the model was cast afterwards. sdpa takes a float32 mask for float64 queries, and is wrong."""
    model = lab.model(torch.float32)
    objective = lab.objective(model, bias=lab.component("attention_bias", "block"))
    model.to(dtype)
    seen = []

    def sdpa(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **kwargs: Any) -> Tensor:
        seen.append((query.dtype, attn_mask.dtype))
        return query

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", sdpa)
        objective(lab.noised(lab.batch(docs(9), docs(5))))
    expected = torch.bfloat16 if autocast and dtype != torch.float64 else dtype
    assert [mask for _, mask in seen] == [expected] * 2
    # Under autocast sdpa itself casts what norms gave in float32.
    assert autocast or [query for query, _ in seen] == [expected] * 2


@pytest.mark.parametrize("name", BUILT_IN)
def test_padded_rows_give_the_same_hidden_states(lab, docs, name: str) -> None:
    noised = lab.noised(lab.batch(docs((12, 9)), docs((5, 2), (6, 4)), None), num_rows=2)
    bias, real = lab.component("attention_bias", name), noised.clean.document_id >= 0
    plain, padded = (
        lab.hidden(lab.model(), noised, bias=bias, padded_length=each) for each in (lambda n: n, lambda n: n + 7)
    )
    assert padded.shape == plain.shape
    torch.testing.assert_close(padded[real], plain[real], rtol=1e-10, atol=1e-10)


def test_lengths_are_padded_only_where_each_would_be_compiled() -> None:
    lengths = [1, 48, 128, 129, 300]
    assert [padding_of("sdpa", compiles=False, max_length=300)(each) for each in lengths] == lengths
    assert [padding_of("sdpa", compiles=True, max_length=300)(each) for each in lengths] == [128, 128, 128, 256, 300]
    assert padding_of("sdpa", compiles=True, max_length=48)(48) == 48
    assert [padding_of("flex_attention", compiles=False, max_length=300)(each) for each in lengths] == [
        128, 128, 128, 256, 384,
    ]  # fmt: skip


def visibility_of(lab: Any, docs: Any, bias: str, **changes: Any) -> Visibility:
    batch = lab.batch(docs((12, 9)), docs((5, 2)))
    settings = {"isolate_documents": False, "has_padding": True, **changes}
    return Visibility(layout=training_layout(batch, 4), bias=lab.component("attention_bias", bias), **settings)


def test_the_form_of_the_mask_is_chosen_in_one_place(lab, docs) -> None:
    nothing_hidden = visibility_of(lab, docs, "full", has_padding=False)
    hidden = visibility_of(lab, docs, "block")
    seen = hidden.dense()
    assert seen is not None
    for implementation in ("sdpa", "eager", "flex_attention"):
        assert nothing_hidden.mask(implementation, torch.float32) is None
    for implementation, lowest in (("sdpa", -torch.inf), ("eager", torch.finfo(torch.bfloat16).min)):
        mask = hidden.mask(implementation, torch.bfloat16)
        assert isinstance(mask, Tensor)
        assert mask.dtype == torch.bfloat16
        assert (mask[:, 0] == 0).equal(seen | ~seen.any(dim=-1, keepdim=True))
        assert set(mask.unique().tolist()) == {lowest, 0.0}
    assert isinstance(hidden.mask("flex_attention", torch.float32), BlockMask)


def test_layers_with_the_same_rule_share_one_mask(lab, docs) -> None:
    masks = visibility_of(lab, docs, "alternating", has_padding=False).of_layers(4, "sdpa", torch.float32)
    assert masks[0] is masks[2] is not None
    assert masks[1] is masks[3] is None
    assert len(visibility_of(lab, docs, "block").of_layers(4, "sdpa", torch.float32)) == 1


@pytest.mark.parametrize("name", ["block", "block_causal", "alternating"])
def test_the_backward_pass_keeps_one_mask_for_the_whole_model(lab, docs, name: str) -> None:
    """Not one for each layer: storages of the size of a mask that autograd saves, in a model of six layers."""
    model = lab.model(torch.float32, num_hidden_layers=6).train()
    noised = lab.noised(lab.batch(*[docs((70, 50)) for _ in range(3)]), num_rows=3)
    objective = lab.objective(model, bias=lab.component("attention_bias", name))
    length = 140 if name == "block_causal" else 70
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if length in tensor.shape[-1:] and length in tensor.shape[-2:-1]:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total, _ = objective(noised)
    total.backward()
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    assert sizes == [3 * length * length * 4]


def test_batches_of_the_same_layout_share_one_mask(lab, docs) -> None:
    """Whatever their ids and noise; and none with another layout or length."""
    objective, seen = lab.objective(lab.model(), bias=lab.component("attention_bias", "block")), []
    objective.body.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )

    def mask_of(batch: Any) -> Tensor:
        objective(lab.noised(batch, num_rows=9))
        mask: Tensor = seen.pop()
        return mask

    first = lab.batch(docs((12, 9)), docs((12, 9)))
    mask = mask_of(first)
    assert mask_of(lab.batch(docs((12, 9)), docs((12, 9)), first_row=5)) is mask
    others = [
        lab.batch(docs((12, 9)), docs((12, 8))),
        lab.batch(docs((12, 9))),
        lab.batch(docs((12, 9)), docs((12, 9)), isolate=True),
        first.truncated(11),
        first.rows_at(torch.arange(len(first.input_ids)).repeat(2)),
    ]
    for other in others:
        mask = mask_of(first)
        assert mask_of(first) is mask
        own = mask_of(other)
        assert own is not mask
        assert own.shape[0] == len(other.row_index)
        assert own.shape[-1] == other.input_ids.shape[1]


@pytest.mark.parametrize(
    ("bias", "isolates", "device", "expected"),
    [
        ("full", False, CUDA, "sdpa"),
        ("full", True, CUDA, "flex_attention"),
        ("block", False, CUDA, "flex_attention"),
        ("alternating", False, CUDA, "flex_attention"),
        ("block", True, CPU, "sdpa"),
    ],
)
def test_auto_chooses_by_device_and_bias(
    lab, monkeypatch: pytest.MonkeyPatch, bias: str, isolates: bool, device: torch.device, expected: str
) -> None:
    monkeypatch.setattr("dlm.model.attention.find_spec", lambda name: name)
    component = lab.component("attention_bias", bias)
    model = lab.model()
    assert choose_implementation("auto", model, component, isolates=isolates, device=device) == expected
    assert choose_implementation("eager", model, component, isolates=isolates, device=device) == "eager"


@pytest.mark.parametrize(
    ("config", "package", "reason"),
    [
        ({"attention_dropout": 0.1}, "there", "attention_dropout is not 0"),
        ({"head_dim": 8}, "there", "at least 16 dimensions"),
        ({}, None, "the package triton, which is not installed"),
    ],
)
def test_auto_leaves_flex_attention_alone_where_it_cannot_train(
    lab, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], package: str | None, reason: str
) -> None:
    monkeypatch.setattr("dlm.model.attention.find_spec", lambda name: package)
    model, bias = lab.model(**config), lab.component("attention_bias", "block")
    assert choose_implementation("auto", model, bias, isolates=False, device=CUDA) == "sdpa"
    with pytest.raises(UserInputError, match=reason):
        choose_implementation("flex_attention", model, bias, isolates=False, device=CUDA)


def test_training_with_flex_attention_on_a_cpu_is_refused_in_one_line(lab) -> None:
    bias = lab.component("attention_bias", "full")
    with pytest.raises(UserInputError) as refusal:
        choose_implementation("flex_attention", lab.model(), bias, isolates=False, device=CPU)
    assert str(refusal.value) == (
        "model.attn_implementation: flex_attention cannot train on cpu: torch has no backward pass for it there; "
        "use auto or sdpa"
    )
