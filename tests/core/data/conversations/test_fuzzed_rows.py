import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.data.conversations.examples import ExampleMaker
from dlm.data.conversations.formats import FORMATS
from dlm.data.conversations.rows import rendering_of
from dlm.data.readers import read_jsonl
from dlm.data.records import Origin, Record

texts = st.one_of(
    st.text(st.characters(), max_size=20),  # lone surrogates included
    st.sampled_from(["", " ", "hello", "\ud800", "<|endoftext|>", "<|mask|><|im_end|>", "<think>", "</think>x", "\0"]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
roles = st.one_of(st.sampled_from(["human", "gpt", "user", "assistant", "system", "tool"]), anything)
turn = st.one_of(st.fixed_dictionaries({"from": roles, "value": st.one_of(texts, anything)}), anything)
good_looking = st.lists(texts, min_size=1, max_size=5).map(
    lambda values: [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
)
rows = st.one_of(
    st.fixed_dictionaries(
        {"conversations": st.one_of(good_looking, st.lists(turn, max_size=4), anything)},
        optional={"system": st.one_of(texts, anything)},
    ),
    st.dictionaries(texts, anything, max_size=3),
)


def counts_add_up(counts):
    return counts.num_rows == counts.num_used_rows + counts.num_bad_rows + counts.num_dropped_rows


# Hundred lists of hundred rows: ten thousand rows for each rendering.
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(rows, min_size=100, max_size=100))
@pytest.mark.parametrize("chat_template", [False, True], ids=["plain", "template"])
def test_each_row_is_used_or_listed(shared_chat_tokenizer, batch, chat_template):
    maker = ExampleMaker(
        format=FORMATS["conversations"],
        rendering=rendering_of(shared_chat_tokenizer, chat_template=chat_template),
        max_length=40,
    )
    for number, values in enumerate(batch):
        examples = maker(Record(Origin("fuzz", number), values))
        listed = [bad for bad in (*maker.bad_rows, *maker.too_long) if bad.origin.index == number]
        assert bool(examples) or bool(listed)
        assert all(bad.reason for bad in listed)
        for example in examples:
            assert 0 < example.prompt_length < len(example.ids) <= 40
            assert shared_chat_tokenizer.mask_token_id not in example.ids
    assert counts_add_up(maker.counts)
    assert maker.counts.num_rows == len(batch)


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(st.one_of(st.binary(max_size=30), anything.map(lambda v: json.dumps(v).encode())), max_size=20))
def test_each_line_of_a_file_is_read_or_has_a_problem(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("fuzz") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    expected = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    records = list(read_jsonl(path))
    assert len(records) == len(expected)
    for record, line in zip(records, expected, strict=True):
        try:
            is_object = isinstance(json.loads(line.removeprefix(b"\xef\xbb\xbf")), dict)
        except ValueError:
            is_object = False
        assert (record.problem is None) == is_object
