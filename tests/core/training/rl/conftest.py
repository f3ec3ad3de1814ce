"""Small runs that learn from rewards, with a reward by which a model that knows nothing yet can be told apart."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
import torch

from dlm.config import load_config
from dlm.config.rl_section import WeightedReward
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.engine import Engine
from dlm.training.policy_step import PolicyStep
from dlm_plugins import Reward, RewardRequest

RUN = """\
model:
  config: {{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2,
            num_key_value_heads: 1, head_dim: 8, max_position_embeddings: 32, initializer_range: 0.3,
            tie_word_embeddings: true}}
  tokenizer: {{train: {{vocab_size: 258}}}}
training:
  mode: rl
  output_dir: {folder}/run
  max_steps: 4
  batch_size: 4
  loss_impl: policy_clip
  noise: {{masking: trace}}
dataset: {{name: {folder}/sums.jsonl, max_length: 16}}
rl: {{rewards: [exact], group_size: 4}}
optim: {{lr: 1.0e-2, lr_scheduler: constant}}
evaluation: {{do_eval_loss: false}}
sampling: {{gen_length: 3, steps: 3, temperature: 1.0, remasking: random}}
"""


@attrs.frozen(kw_only=True)
class Parity:
    """1 for an answer whose ids have an even sum."""

    def score(self, request: RewardRequest) -> torch.Tensor:
        return torch.tensor([float(sum(item.answer_ids) % 2 == 0) for item in request.items])


@attrs.frozen(kw_only=True)
class Constant:
    """The same for every answer."""

    value: float = 3.3

    def score(self, request: RewardRequest) -> torch.Tensor:
        return torch.full((len(request.items),), self.value)


REWARDS: dict[str, Reward] = {"parity": Parity(), "constant": Constant()}


def with_rewards(engine: Engine, rewards: Sequence[Reward]) -> Engine:
    step = engine.step
    assert isinstance(step, PolicyStep)
    weighted = tuple(WeightedReward(reward=each) for each in rewards)
    judge = attrs.evolve(step.rollouts.judge, rewards=weighted, overlong_is_worthless=False)
    step.rollouts = attrs.evolve(step.rollouts, judge=judge)
    return engine


@pytest.fixture
def rl_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 10) for b in range(1, 10, 2)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = tmp_path / "rl.yaml"
    file.write_text(RUN.format(folder=tmp_path), encoding="utf-8")
    return file


@pytest.fixture
def make_rl(rl_file: Path) -> Callable[..., Engine]:
    """Assemble a run: ``make_rl("rl.group_size=2", reward="constant")``."""

    def make(*overrides: str, reward: str = "parity") -> Engine:
        loaded = load_config(rl_file, overrides)
        return with_rewards(assemble(loaded, build_accelerator(loaded.config)), [REWARDS[reward]])

    return make
