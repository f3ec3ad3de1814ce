import pytest

from dlm.data.conversations.formats import ANY_FORMAT, FORMATS, find_format, formats_of
from dlm.data.conversations.turns import BadRowError, Conversation, Turn
from dlm.errors import DataError

QUESTION = Turn("human", "q")
ANSWER = Turn("gpt", "a")


def turns(*pairs):
    return [{"from": role, "value": text} for role, text in pairs]


def messages(*pairs):
    return [{"role": role, "content": text} for role, text in pairs]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("conversations", {"conversations": turns(("human", "q"), ("gpt", "a")), "system": "s"}, "s"),
        ("conversations", {"conversations": turns(("system", "s"), ("human", "q"), ("gpt", "a"))}, "s"),
        ("conversations", {"conversations": turns(("human", "q"), ("gpt", "a")), "system": ""}, None),
        ("conversations", {"conversations": turns(("human", "q"), ("gpt", "a")), "category": 3}, None),
        ("messages", {"messages": messages(("system", "s"), ("user", "q"), ("assistant", "a"))}, "s"),
        ("messages", {"messages": messages(("user", "q"), ("assistant", "a"))}, None),
        ("prompt_response", {"prompt": "q", "response": "a"}, None),
        ("prompt_response", {"prompt": "q", "completion": "a", "system": "s"}, "s"),
        ("instruction", {"instruction": "q", "input": "", "output": "a"}, None),
        ("instruction", {"instruction": "q", "output": "a"}, None),
    ],
)
def test_format_is_found_and_read(source_of, name, row, expected):
    assert formats_of(row) == [name]
    for found in (find_format(source_of(row)), find_format(source_of({"other": 1}), name)):
        assert found.parse(row) == Conversation((QUESTION, ANSWER), expected)


def test_input_of_an_instruction_follows_it():
    row = {"instruction": "Add these", "input": "1 2", "output": "3"}
    assert FORMATS["instruction"].parse(row).turns[0].text == "Add these\n\n1 2"


def test_every_answer_of_a_long_conversation_is_known():
    row = {"conversations": turns(("human", "q"), ("gpt", "a"), ("human", "q"), ("gpt", "a"), ("human", "q"))}
    assert list(FORMATS["conversations"].parse(row).answers) == [1, 3]


def test_unknown_format_is_refused(source_of):
    with pytest.raises(DataError, match=r"unknown format 'chat'; known are conversations, messages, prompt_response"):
        find_format(source_of({"a": 1}), "chat")


def test_columns_of_no_format_are_listed(source_of):
    with pytest.raises(DataError, match=r"no conversations in any known format \(columns: q, a\)"):
        find_format(source_of({"q": "x", "a": "y"}))


def test_columns_of_two_formats_ask_for_a_name(source_of):
    with pytest.raises(DataError, match=r"several formats \(messages, prompt_response\).*dataset\.format"):
        find_format(source_of({"messages": [3], "prompt": "x", "response": "y"}))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "conversations is missing or null"),
        ({"conversations": None}, "conversations is missing or null"),
        ({"conversations": 3}, "conversations is not a list but int"),
        ({"conversations": "text"}, "conversations is not a list but str"),
        ({"conversations": []}, "no turns"),
        ({"conversations": [[]]}, "turn 1 is not an object but list"),
        ({"conversations": turns(("human", "q"))}, "no answer"),
        ({"conversations": turns(("gpt", "a"))}, "turn 1 is from gpt (assistant), expected human (user)"),
        (
            {"conversations": turns(("human", "q"), ("human", "q"))},
            "turn 2 is from human (user), expected gpt (assistant)",
        ),
        ({"conversations": turns(("system", "s"), ("human", "q"), ("human", "q"))}, "turn 3 is from human"),
        ({"conversations": turns(("human", "q"), ("narrator", "a"))}, "unknown role 'narrator' in turn 2"),
        ({"conversations": turns(("human", "q"), (None, "a"))}, "unknown role None in turn 2"),
        ({"conversations": turns(("human", "q"), (["gpt"], "a"))}, "unknown role ['gpt'] in turn 2"),
        ({"conversations": turns(("human", "q"), ("system", "a"))}, "unknown role 'system' in turn 2"),
        (
            {"conversations": [{"from": "human", "text": "q"}]},
            "turn 1 has the keys from, text; expected from and value, or role and content",
        ),
        ({"conversations": [{}]}, "turn 1 has the keys none; expected from and value, or role and content"),
        ({"conversations": turns(("human", "q"), ("tool", "a"))}, "turn 2 is from tool, expected gpt (assistant)"),
        ({"conversations": turns(("human", None), ("gpt", "a"))}, "value of turn 1 is missing or null"),
        ({"conversations": turns(("human", 3), ("gpt", "a"))}, "value of turn 1 is not text but int"),
        ({"conversations": turns(("human", {"a": 1}), ("gpt", "a"))}, "value of turn 1 is not text but dict"),
        ({"conversations": turns(("human", "q"), ("gpt", " \n"))}, "value of turn 2 is empty"),
        ({"conversations": turns(("human", "\ud800"), ("gpt", "a"))}, "value of turn 1 is not valid Unicode"),
        ({"conversations": turns(("human", "q"), ("gpt", "a")), "system": 3}, "system is not text but int"),
        ({"conversations": turns(("system", "s"), ("human", "q")), "system": "t"}, "two different system texts"),
    ],
)
def test_wrong_row_has_a_reason(row, reason):
    with pytest.raises(BadRowError) as caught:
        FORMATS["conversations"].parse(row)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("prompt_response", {"prompt": "q"}, "response is missing or null"),
        ("prompt_response", {"prompt": ["q"], "response": "a"}, "prompt is not text but list"),
        ("prompt_response", {"prompt": "q", "completion": ""}, "completion is empty"),
        ("instruction", {"instruction": "q", "output": None}, "output is missing or null"),
        ("instruction", {"instruction": "q", "input": 3, "output": "a"}, "input is not text but int"),
    ],
)
def test_wrong_question_or_answer_has_a_reason(name, row, reason):
    with pytest.raises(BadRowError) as caught:
        FORMATS[name].parse(row)
    assert str(caught.value) == reason


def test_the_answer_is_in_the_column_that_has_something():
    row = {"prompt": "How?", "response": None, "completion": "So."}  # a table has every column in every row
    assert ANY_FORMAT.parse(row).turns[-1].text == "So."


@pytest.mark.parametrize("thought", ["<think>\nlook\n</think>\n", "look\n</think>"])
def test_an_answer_may_be_a_thought_and_a_call(thought):
    call = {"function": {"name": "look_up", "arguments": "{}"}}
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": thought, "tool_calls": [call]}]
    answer = ANY_FORMAT.parse({"messages": turns}).turns[-1]
    assert (answer.text, answer.reasoning) == ("", "look")
    with pytest.raises(BadRowError, match="reasoning without an answer"):
        ANY_FORMAT.parse({"messages": [turns[0], {**turns[1], "tool_calls": None}]})
