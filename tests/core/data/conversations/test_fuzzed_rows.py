import copy
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.data.conversations.conversation_rows import configured_rendering
from dlm.data.conversations.examples import ExampleMaker
from dlm.data.conversations.formats import ANY_FORMAT
from dlm.data.readers import read_jsonl
from dlm.data.source_records import Origin, Record

AWKWARD = ["", " ", "\ud800", "<|endoftext|>", "<|mask|><|im_end|>", "<think>", "</think>x", "\0", "\ue0000\ue001"]
texts = st.text(st.characters(), max_size=20)  # lone surrogates included
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


ROLES = ("human", "GPT", "user", "assistant", "User", "gpt")
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}


@pytest.fixture(scope="module")
def tools_tokenizer(shared_chat_tokenizer):
    """A tokenizer whose template writes tools and their calls."""
    tokenizer = copy.deepcopy(shared_chat_tokenizer)
    tokenizer.chat_template = TOOLS
    return tokenizer


def row_from(generator, words, values):
    """A row that is wrong more often than not, in any of many ways."""

    def maybe_wrong(right):
        return generator.choice(values) if generator.random() < 0.02 else right

    def some(right):
        return maybe_wrong(generator.choice(right))

    def turn(number, keys):
        role, text = keys if generator.random() < 0.97 else generator.choice([*KEYS.values(), words[:2]])
        made = {role: maybe_wrong(ROLES[number]), text: some(words)}
        if generator.random() < 0.2:
            made[generator.choice(["weight", "train", "name", "x"])] = some([0, 1, True, False])
        if generator.random() < 0.2:
            made["reasoning_content"] = some(words)
        if generator.random() < 0.05:
            made["tool_calls"] = some([[], [{"function": {"name": "f", "arguments": some(['{"a": 1}', "x", {}])}}]])
        return maybe_wrong(made)

    def turns(column):
        return {column: maybe_wrong([turn(number, KEYS[column]) for number in range(generator.randint(0, 6))])}

    def question():
        return {"prompt": some(words), "response": some(words), "history": some([None, [], [["a", "b"]], [["a"]], "x"])}

    column = generator.choice(["conversations"] * 3 + ["messages"] * 3 + ["prompt"])
    row = question() if column == "prompt" else turns(column)
    for key, choices in (("system", words), ("system_prompt", words), ("tools", ["", "[]", [{"name": "f"}], "{"])):
        if generator.random() < 0.2:
            row[key] = some(choices)
    return maybe_wrong(row) if generator.random() < 0.1 else row


# Twenty draws of hundred rows: two thousand rows, each in three renderings.
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    words=st.lists(texts, min_size=5, max_size=5),
    values=st.lists(anything, min_size=20, max_size=20),
    seed=st.integers(0, 2**32),
)
def test_each_row_is_used_or_listed(shared_chat_tokenizer, tools_tokenizer, words, values, seed):
    generator = random.Random(seed)
    rows = [row_from(generator, [*words, *AWKWARD, "a", "b c", "long " * 20], values) for _ in range(100)]
    for tokenizer, chat_template in (
        (shared_chat_tokenizer, False),
        (shared_chat_tokenizer, True),
        (tools_tokenizer, True),
    ):
        maker = ExampleMaker(
            format=ANY_FORMAT, rendering=configured_rendering(tokenizer, chat_template=chat_template), max_length=60
        )
        for number, row in enumerate(rows):
            is_object = isinstance(row, dict)
            record = Record(Origin("fuzz", number), row if is_object else {}, None if is_object else "no object")
            check(maker, record, shared_chat_tokenizer.mask_token_id)
        counts = maker.findings.counts
        assert counts.num_rows == counts.num_used_rows + counts.num_bad_rows + counts.num_dropped_rows == 100
        assert counts.num_answers == counts.num_used_answers + counts.num_dropped_answers
        assert counts.num_bad_rows == len(maker.findings.bad_rows)


def check(maker, record, mask_id):
    examples = maker(record)
    listed = [bad for bad in (*maker.findings.bad_rows, *maker.findings.too_long) if bad.origin == record.origin]
    assert examples or listed
    assert all(bad.reason for bad in listed)
    for example in examples:
        assert 0 < example.prompt_length < len(example.ids) <= 60
        assert mask_id not in example.ids


def test_fuzzed_rows_are_of_every_kind(shared_chat_tokenizer):
    # Without this the test above might be about bad rows alone.
    generator = random.Random(0)
    maker = ExampleMaker(
        format=ANY_FORMAT,
        rendering=configured_rendering(shared_chat_tokenizer, chat_template=True),
        max_length=60,
    )
    values = [None, 3, "x", ["a"], {"b": 1.5}]
    for number in range(1000):
        row = row_from(generator, ["a", "b c", "d", "<think>e</think>f", "\ud800", "long " * 20], values)
        if isinstance(row, dict):
            maker(Record(Origin("fuzz", number), row))
    assert (
        min(
            maker.findings.counts.num_used_rows,
            maker.findings.counts.num_bad_rows,
            maker.findings.counts.num_dropped_rows,
        )
        > 20
    )
    assert len({bad.reason for bad in maker.findings.bad_rows}) > 30
    assert maker.findings.counts.num_reasoned_answers > 20
    assert maker.findings.counts.num_context_answers > 5
    assert {"x", "tools"} & {*maker.findings.unused.columns, *maker.findings.unused.of_turns}


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(st.one_of(st.binary(max_size=30), anything.map(lambda v: json.dumps(v).encode())), max_size=20))
def test_each_line_of_a_file_is_read_or_has_a_problem(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("fuzz") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    expected = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    records = list(read_jsonl(path, 0, print))
    assert len(records) == len(expected)
    for record, line in zip(records, expected, strict=True):
        try:
            is_object = isinstance(json.loads(line.removeprefix(b"\xef\xbb\xbf")), dict)
        except ValueError:
            is_object = False
        assert (record.problem is None) == is_object
