"""Whatever the conversations, their layout and the noise: nothing but answers is ever corrupted or scored."""

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from dlm.config import load_config, run_components
from dlm.data.batch import Batch, StepShape
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.data.loader import StepLoader
from dlm.data.sources import MemorySource
from dlm.model.tokenizer import load_tokenizer
from dlm.training.model_and_noise import build_forward_process, build_vocabulary
from dlm.training.run_data import collator

texts = st.text(alphabet="abc <|>mask\n", min_size=1, max_size=12).filter(str.strip)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
LAYOUTS = [
    {"dataset.pack": False, "dataset.eos_padding": "first"},
    {"dataset.pack": False, "dataset.eos_padding": "none"},
    {"dataset.pack": False, "dataset.eos_padding": "all"},
    {"dataset.pack": True, "dataset.eos_padding": "first"},
]
NOISES: list[dict[str, Any]] = [
    {},
    {"masking": "contiguous"},
    {"noise_type": "random_replace"},
    {"mask_contiguous_region_prob": 1.0, "t_per": "token"},
    {"min_masking_rate": 0.999, "t_sampling": "independent"},
]


@pytest.fixture
def batches_of(bench):
    """Noised micro-batches of one epoch of some conversations."""

    def make(conversations: list[Any], layout: dict[str, Any], noise: dict[str, Any]) -> Iterator[tuple[Batch, Any]]:
        loaded = load_config(bench.run_file({**layout, "training.sft_noise": noise}))
        config = loaded.config
        tokenizer = load_tokenizer(config.model.tokenizer)
        rows = conversation_rows(
            MemorySource("talk", tuple({"messages": messages} for messages in conversations)),
            tokenizer,
            max_length=128,
            eos_padding=config.dataset.eos_padding,
            pack=config.dataset.pack,
        )
        process = build_forward_process(
            config,
            run_components(config, loaded.registry),
            loaded.registry,
            build_vocabulary(tokenizer, tokenizer.mask_token_id),
        )
        shape = StepShape(batch_size=2, accumulation=2)
        for step in StepLoader(rows=rows, collate=collator(config, tokenizer), shape=shape).one_epoch():
            for batch in step.micro_batches:
                yield batch, process(batch, step=step.epoch_batch, num_rows=step.num_rows)

    return make


@pytest.mark.parametrize("noise", NOISES, ids=["llada", "contiguous", "random_replace", "regions", "all"])
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations=st.lists(pairs, min_size=1, max_size=5), layout=st.sampled_from(LAYOUTS))
def test_noise_falls_on_answers_only(batches_of, noise, conversations, layout) -> None:
    messages = [
        [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        for turns in conversations
    ]
    num_answers = 0
    for batch, noised in batches_of(messages, layout, noise):
        is_answer = (batch.document_id >= 0) & (batch.position >= batch.answer_start)
        assert torch.equal(batch.eligible, is_answer)
        outside = ~is_answer
        assert torch.equal(noised.noisy_ids[outside], batch.input_ids[outside])
        assert not noised.corrupted[outside].any()
        assert not noised.p_mask[outside].any()
        assert not noised.weight[outside].any()
        assert not (batch.input_ids[outside] == 1).any()  # the mask token
        pairs_of = {
            (row, number) for row, ids in enumerate(batch.document_id.tolist()) for number in ids if number >= 0
        }
        num_answers += len(pairs_of)
    assert num_answers == sum(len(turns) for turns in conversations)
