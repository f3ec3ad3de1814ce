"""A model that knows a distribution exactly is sampled from correctly."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm.sampling import generate

NUM_WORDS, LENGTH, MASK = 3, 3, 3
NUM_SAMPLES = 6000
CRITICAL = {26: 54.05, 2: 13.82}
"""Upper 0.1 % points of the chi-square law by degrees of freedom."""


class OracleBody(nn.Module):
    """Knows the joint law of LENGTH words, and answers with the logits of the conditional law at each mask."""

    def __init__(self, joint: Tensor) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, input_ids: Tensor, **unused: Any) -> Any:
        tables = []
        for row in input_ids.tolist():
            law = self.joint
            for axis, word in enumerate(row):
                if word != MASK:
                    keep = torch.zeros(NUM_WORDS, dtype=torch.float64)
                    keep[word] = 1.0
                    law = law * keep.reshape([-1 if each == axis else 1 for each in range(LENGTH)])
            marginals = [law.sum(dim=[other for other in range(LENGTH) if other != axis]) for axis in range(LENGTH)]
            tables.append(torch.stack([marginal / marginal.sum() for marginal in marginals]))
        probabilities = torch.nn.functional.pad(torch.stack(tables), (0, 1))
        return SimpleNamespace(last_hidden_state=probabilities.log().clamp(min=-1e4))


class Oracle(nn.Module):
    """A body and an identity head, dressed as a model of transformers."""

    def __init__(self, joint: Tensor) -> None:
        super().__init__()
        self.base_model = OracleBody(joint)
        self.head = nn.Linear(NUM_WORDS + 1, NUM_WORDS + 1, bias=False).double()
        nn.init.eye_(self.head.weight)
        config = SimpleNamespace(
            num_hidden_layers=1, vocab_size=NUM_WORDS + 1, mask_token_id=MASK, _attn_implementation="sdpa"
        )
        config.get_text_config = lambda: config
        self.config = self.base_model.config = config

    def get_output_embeddings(self) -> nn.Module:
        return self.head


@pytest.fixture(scope="module")
def joint() -> Tensor:
    random = torch.Generator().manual_seed(4)
    law = torch.rand(NUM_WORDS, NUM_WORDS, NUM_WORDS, generator=random, dtype=torch.float64) ** 3 + 0.01
    return law / law.sum()


def chi_square(counts: Tensor, law: Tensor) -> float:
    expected = law * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def counted(sequences: Tensor) -> Tensor:
    codes = (sequences * torch.tensor([NUM_WORDS**2, NUM_WORDS, 1])).sum(dim=1)
    return torch.bincount(codes, minlength=NUM_WORDS**LENGTH).double()


@pytest.mark.parametrize(
    ("remasking", "block_length"),
    # A choice that looks at what was drawn favours some draws over others: these rules leave the law alone only where
    # there is nothing to choose.
    [("random", 1), ("random", 2), ("random", 3), ("random_topk", 1), ("low_confidence", 1)],
)
def test_one_token_a_step_follows_the_joint_law(joint: Tensor, remasking: str, block_length: int) -> None:
    prompt = torch.empty(NUM_SAMPLES, 0, dtype=torch.long)
    output = generate(
        Oracle(joint),
        prompt,
        gen_length=LENGTH,
        steps=LENGTH,
        block_length=block_length,
        remasking=remasking,
        temperature=1.0,
        seed=11,
    )
    assert chi_square(counted(output.sequences), joint.flatten()) < CRITICAL[26]


def test_all_tokens_in_one_step_follow_the_product_of_the_marginals(joint: Tensor) -> None:
    prompt = torch.empty(NUM_SAMPLES, 0, dtype=torch.long)
    output = generate(Oracle(joint), prompt, gen_length=LENGTH, steps=1, remasking="random", temperature=1.0, seed=5)
    marginals = [joint.sum(dim=[other for other in range(LENGTH) if other != axis]) for axis in range(LENGTH)]
    product = torch.einsum("a,b,c->abc", *marginals).flatten()
    counts = counted(output.sequences)
    assert chi_square(counts, product) < CRITICAL[26]
    assert chi_square(counts, joint.flatten()) > CRITICAL[26]


def test_the_temperature_sharpens_the_law(joint: Tensor) -> None:
    given = torch.tensor([[0, MASK, 2]]).expand(NUM_SAMPLES, -1)
    output = generate(Oracle(joint), given, gen_length=0, steps=1, temperature=0.5, seed=7)
    law = joint[0, :, 2] ** 2
    counts = torch.bincount(output.sequences[:, 1], minlength=NUM_WORDS).double()
    assert chi_square(counts, law / law.sum()) < CRITICAL[2]


def test_the_log_probability_is_that_of_the_model_without_temperature(joint: Tensor) -> None:
    given = torch.tensor([[0, MASK, 2], [1, 1, MASK]])
    output = generate(Oracle(joint), given, gen_length=0, steps=1, temperature=0.5, seed=3)
    laws = joint[0, :, 2] / joint[0, :, 2].sum(), joint[1, 1, :] / joint[1, 1, :].sum()
    for row, (column, law) in enumerate(zip((1, 2), laws, strict=True)):
        expected = law[output.sequences[row, column]].log()
        torch.testing.assert_close(output.log_probabilities[row, column], expected)
