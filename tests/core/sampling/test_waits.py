"""How often the host waits for the device in a denoising step: once, to count what is masked.

Counted on the CPU, by what would wait elsewhere: numbers that are read (``item``, ``tolist``), and results whose size
depends on numbers (``nonzero``, boolean indexing, ``unique``).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dlm
from dlm_plugins.registry import Registry

MakeModel = Callable[..., Any]

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"}
INDEXING = {"aten::index", "aten::index_put_", "aten::index_put"}
RULES = [entry.name for entry in Registry.discover().entries("remasking")]


class Waits(TorchDispatchMode):
    """Counts what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def tolist(self, tensor: Tensor) -> Any:
        self.count += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return tensor.detach().numpy().tolist()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        self.count += name in WAITS
        if name in INDEXING:
            self.count += any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
        return function(*args, **(kwargs or {}))


def waits_by_step(model: Any, prompt: Tensor, **settings: Any) -> list[int]:
    """The waits between a step's result and the next one's, for the steps of one block."""
    counts = []
    with pytest.MonkeyPatch.context() as patch, Waits() as waits:
        patch.setattr(Tensor, "tolist", lambda tensor: waits.tolist(tensor))
        for _ in dlm.iter_generate(model, prompt, **settings):
            counts.append(waits.count)
            waits.count = 0
    return counts[2:]  # without the plan and the start of the block


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "cfg_scale": 1.0}, {"eos": "stop"}], ids=str)
def test_a_denoising_step_waits_once(frozen_model: MakeModel, rule: str, settings: dict[str, Any]) -> None:
    model = frozen_model(eos_token_id=3)
    prompt = torch.arange(12).reshape(2, 6) + 5
    block = {"gen_length": 8, "block_length": 8, "steps": 4, "attention_bias": "full", "cache": "off"}
    counts = waits_by_step(model, prompt, remasking=rule, **block, **settings)
    assert counts
    assert set(counts) == {1}


@pytest.mark.parametrize("cache", ["prompt", "side_by_side"])
def test_so_does_one_with_a_cache(frozen_model: MakeModel, cache: str) -> None:
    prompt = torch.arange(12).reshape(2, 6) + 5
    block = {"gen_length": 16, "block_length": 8, "steps": 8, "attention_bias": "block", "cache": cache}
    assert 1 in (counts := waits_by_step(frozen_model(), prompt, **block))
    # The second block starts with waits of its own.
    assert sum(count > 1 for count in counts) <= 1


def test_a_rule_that_breaks_its_promise_is_refused_all_the_same(frozen_model: MakeModel) -> None:
    """Though what it wants is looked at a step later."""
    from dlm.errors import UserInputError
    from dlm_plugins import Decision, DecodingState

    class Rewrite:
        def decide(self, state: DecodingState) -> Decision:
            is_first = state.masked & (state.masked.cumsum(dim=1) == 1)
            return Decision(commit=is_first | ~state.masked)

    settings = {"gen_length": 8, "block_length": 8, "steps": 4, "attention_bias": "full"}
    with pytest.raises(UserInputError, match="Rewrite wants to write where no mask is"):
        dlm.generate(frozen_model(), torch.arange(6)[None] + 5, remasking=Rewrite(), **settings)
