"""What ``--dry-run`` says of second models in mode rl, against the models that the run makes."""

import re
from pathlib import Path

import attrs
import pytest

from dlm.config import load_config
from dlm.config.run_config import LoraConfig
from dlm.training.dry_run import describe_run
from dlm.training.memory_plan import DecoderShape, Setting, plan_memory, size_text
from dlm.training.parallel import second_models

REFERENCE = ("training.loss_impl={name: policy_clip, kl: k2, beta: 0.1}", "rl.reference=start")
VALUE = ("rl.advantage=value", "rl.value={}")


@pytest.mark.parametrize(
    ("overrides", "weights", "trained"), [((), 0, 0), (REFERENCE, 1, 0), (VALUE, 0, 1), ((*REFERENCE, *VALUE), 1, 1)]
)
def test_references_and_value_models_are_counted(
    rl_file: Path, make_rl: object, overrides: tuple[str, ...], weights: int, trained: int
) -> None:
    described = describe_run(load_config(rl_file, overrides))
    model = make_rl(*overrides).saver.objects.model  # type: ignore[operator]
    size = sum(each.numel() * each.itemsize for each in model.parameters())
    said = re.search(r"second models ([\d.]+ \w+)", described)
    expected = size * weights + 4 * size * trained
    assert (said and said[1]) == (size_text(expected) if expected else None)


def test_a_named_reference_is_a_second_model_whatever_is_trained(rl_file: Path) -> None:
    config = load_config(rl_file, REFERENCE).config
    adapted = attrs.evolve(config, lora=LoraConfig())
    named = attrs.evolve(adapted, rl=attrs.evolve(adapted.rl, reference="another"))
    assert [list(second_models(each).values()) for each in (config, adapted, named)] == [[False], [], [False]]


def test_a_sharded_model_is_whole_while_it_samples() -> None:
    shape = DecoderShape.qwen3(num_layers=36, hidden=4096, intermediate=12_288, heads=32, key_heads=8, tied=False)
    plans = [
        plan_memory(shape, Setting(shard=8, replicate=1, positions=4096, samples_alone=samples))
        for samples in (False, True)
    ]
    assert plans[1].gathered == 2 * shape.parameters
    assert plans[0].gathered < plans[1].gathered / 2
