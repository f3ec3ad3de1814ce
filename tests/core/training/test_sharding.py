"""The precision of FSDP: what is computed in half precision, and what is not; where gradients of DDP lie."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from dlm.model.body_and_head import decoder_layers
from dlm.training.parallel import precision_policy, shard
from dlm.training.sharding import whole


@pytest.fixture
def group_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Counting(nn.Module):
    """Returns a number that half precision cannot hold, and the precision of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, factor: float) -> tuple[Tensor, Tensor, torch.dtype]:
        return self.weight.sum() * factor, torch.tensor([2394.0, 2.0**24 - 1]), self.weight.dtype


@pytest.mark.parametrize(
    ("mixed_precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.usefixtures("group_of_one")
def test_sums_are_exact_whatever_the_precision_of_the_parameters(mixed_precision: str, dtype: torch.dtype) -> None:
    module = Counting()
    fully_shard(module, mp_policy=precision_policy(mixed_precision))
    module.set_requires_gradient_sync(False)
    total, counts, computed = module(2048.0)
    total.backward()
    module.set_requires_gradient_sync(True)
    module(1.0)[0].backward()
    assert computed == dtype
    assert counts.tolist() == [2394.0, 2.0**24 - 1]
    assert module.weight.dtype == torch.float32
    assert module.weight.grad is not None
    assert whole(module.weight.grad).item() == 2049.0  # half precision of either kind makes it 2048


def test_nothing_is_cast_without_mixed_precision() -> None:
    assert precision_policy("no") == MixedPrecisionPolicy()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler, which asks every tensor
@pytest.mark.usefixtures("group_of_one")
def test_compiled_layers_are_gathered_and_give_the_loss_and_gradient_of_plain_ones(
    make_engine: Any, take_step: Any, largest_difference: Any
) -> None:
    """Layers are compiled with all their hooks, among them those that gather the weights of a sharded layer."""
    plain = make_engine("model.config.num_hidden_layers=2")
    expected, gradients = take_step(plain)
    engine = make_engine("model.config.num_hidden_layers=2")
    objective, model = engine.step.objective, engine.saver.objects.model
    layers = decoder_layers(model, wanted_by="")
    for layer in layers:
        layer.compile(backend="eager")  # the code generator, which takes half a minute, has its own test
    shard(objective, model, init_device_mesh("cpu", (1,)), "no")
    result, compiled = take_step(engine)
    assert result.sums.loss == pytest.approx(expected.sums.loss, rel=1e-6)
    assert largest_difference({name: whole(gradient) for name, gradient in compiled.items()}, gradients) < 1e-5


@pytest.mark.usefixtures("group_of_one")
def test_copies_add_gradients_up_beside_the_buckets_that_they_send() -> None:
    """What the memory plan counts twice: micro-steps before the last leave gradients outside of DDP's buckets."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2), gradient_as_bucket_view=True)

    def places() -> set[int]:
        return {parameter.grad.untyped_storage().data_ptr() for parameter in model.parameters()}

    for _ in range(2):  # DDP lays its buckets out anew after the first step
        model.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
    buckets = places()
    model.zero_grad()
    with model.no_sync():
        model(torch.ones(1, 3)).sum().backward()
    assert not places() & buckets
    model(torch.ones(1, 3)).sum().backward()
    assert places() == buckets
