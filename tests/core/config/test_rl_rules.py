"""Learning from rewards: what is refused, in one line each, and what is only warned of."""

from collections.abc import Callable
from typing import Any

import pytest

from dlm.config import load_mapping

RUN: dict[str, Any] = {
    "model": {"name_or_path": "somewhere"},
    "training": {
        "mode": "rl",
        "output_dir": "runs/x",
        "max_steps": 1,
        "loss_impl": "policy_clip",
        "noise": {"masking": "trace"},
    },
    "dataset": {"name": "sums", "max_length": 16},
    "optim": {"lr": 1e-3},
    "rl": {"rewards": ["exact"]},
    "sampling": {"gen_length": 4, "temperature": 1.0, "remasking": "random"},
}

REFUSED = {
    "sampling.temperature=0": "sampling.temperature: 0 writes the same answer every time, so that there is nothing to",
    "sampling.cfg_scale=1.5": "sampling.cfg_scale: guided rollouts follow another law than the one that is trained",
    "sampling.cache=prefix": "sampling.cache: prefix is approximate: rollouts would follow another law",
    "sampling.cache={name: dual, refresh_every: 2}": "sampling.cache: dual is approximate",
    "sampling.attention_bias=full": "sampling.attention_bias: rollouts attend as training does; leave it null",
    "sampling.mask_id=3": "sampling.mask_id: rollouts start from the mask of training; leave it null",
    "sampling.remasking=remdm": "sampling.remasking: takes back what it wrote, and the masking needs one step",
    "sampling.gen_length=null": "sampling.gen_length: mode rl needs the length of the answers",
    "sampling.gen_length=16": "sampling.gen_length: 16 leaves no room for a prompt within dataset.max_length (16)",
    "training.loss_impl={name: policy_clip, kl: k2, beta: 0.1}": "rl.reference: the loss keeps to a reference",
    "training.loss_impl={name: policy_clip, beta: 0.1}": "training.loss_impl: beta (0.1) has no effect without a",
    "training.loss_impl=guidelines": "training.loss_impl: builtin:guidelines does not learn from rewards, as mode rl",
    "training.noise.reweight_cap=3": "training.noise.reweight_cap: would bias the masking's estimate; set it to null",
    "training.noise.mask_contiguous_region_prob=0.5": "training.noise.mask_contiguous_region_prob: rollouts are scored",
    "training.noise.noise_type=random_replace": "training.noise.noise_type: rollouts are written over masks",
    "training.block_attention={enabled: true, block_length: 2, bias: block_causal}": None,
    "rl.reference=start": "rl.reference: has no effect: the loss has no reference to keep to",
    "rl.rewards=[]": "rl.rewards: mode rl needs at least one",
    "rl.group_size=1": "rl.group_size: an answer is compared with the others to its prompt, and there is none",
    "training.block_attention={enabled: true, bias: annealed}": "training.block_attention.bias: Annealed",
    "training.block_attention={enabled: true, bias: {name: per_layer, plan: [full, annealed]}}": (
        "training.block_attention.bias: PerLayerAttention changes over a run, and rollouts are sampled as it ends"
    ),
    "rl.advantage=value": "rl.advantage: needs the values of a value model: set rl.value to {}, or choose group",
    "rl.value={}": "rl.value: has no effect: the advantage reads no values; set that to value, or remove this",
    "rl={rewards: [exact], advantage: value, value: {clip: 0.1}}": "rl.value.clip: has no effect with one update",
    "rl={rewards: [exact], advantage: value, value: {clip: 0}}": "rl.value.clip: must be > 0",
    "rl={rewards: [exact], advantage: value, value: {rate: 1}}": "rl.value.rate: unknown key",
    "rl.curriculum=[{step: 5, gen_length: 4}]": "rl.curriculum: its stages must start at step 0",
    "rl.curriculum=[{step: 0, gen_length: 9}]": "rl.curriculum[0].gen_length: must be at most sampling.gen_length (4)",
    "dataset.pack=true": "dataset.pack: prompts stand alone in their rows; set it to false",
    "dataset.streaming=true": "dataset.streaming: fine-tuning reads its conversations first; set it to false",
}
COLLAPSE, BIAS = "without a reference (kl, beta) such runs collapsed", "sampling.remasking: the order of the rollouts"


@pytest.mark.parametrize(("override", "message"), [item for item in REFUSED.items() if item[1]])
def test_what_gives_no_gradient_or_a_wrong_one_is_refused(
    override: str, message: str, complaints: Callable[..., list[str]]
) -> None:
    import yaml

    found = complaints(yaml.safe_dump(RUN), [override])
    assert any(message in line for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora={r: 4}", "rl.value: is a whole copy of the model beside the adapters; remove lora, or set it to null"),
        ("training.mixed_precision=fp16", "rl.value: does not go with fp16, whose loss is scaled for one model alone"),
    ],
)
def test_what_a_value_model_does_not_go_with_is_refused(
    override: str, message: str, complaints: Callable[..., list[str]]
) -> None:
    import yaml

    found = complaints(yaml.safe_dump(RUN), ["rl={rewards: [exact], advantage: value, value: {}}", override])
    assert any(message in line for line in found), found


def test_blocks_of_rollouts_are_those_of_training(complaints: Callable[..., list[str]]) -> None:
    import yaml

    blocks = "training.block_attention={enabled: true, block_length: 2, bias: block_causal}"
    assert load_mapping(RUN, [blocks]).config.sampling.block_length is None
    (found,) = complaints(yaml.safe_dump(RUN), [blocks, "sampling.block_length=4"])
    assert "sampling.block_length: rollouts have the blocks of training (2); leave it null" in found


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], []),
        (["sampling.remasking=low_confidence"], [BIAS]),
        (["sampling.eos=late"], [BIAS]),
        (["training.noise.masking=all"], [COLLAPSE]),
        (["training.noise.masking=complementary", "sampling.remasking=entropy"], [COLLAPSE]),
        (
            [
                "training.noise.masking=complementary",
                "training.loss_impl={name: policy_clip, kl: k2, beta: 0.1}",
                "rl.reference=start",
            ],
            [],
        ),
    ],
)
def test_what_is_known_to_go_wrong_is_warned_of(overrides: list[str], wanted: list[str]) -> None:
    notes = load_mapping(RUN, overrides).notes
    assert len(notes) == len(wanted), notes
    assert all(text in note for text, note in zip(wanted, notes, strict=True))


@pytest.mark.parametrize("mode", ["pretrain", "sft"])
def test_losses_of_rewards_are_refused_elsewhere(mode: str, complaints: Callable[..., list[str]]) -> None:
    text = f"""\
model: {{name_or_path: somewhere}}
training: {{mode: {mode}, output_dir: runs/x, max_steps: 1, loss_impl: policy_clip}}
dataset: {{name: ./texts}}
optim: {{lr: 1.0e-3}}
"""
    (found,) = complaints(text)
    assert f"training.loss_impl: builtin:policy_clip learns from rewards, and mode {mode} has none" in found
