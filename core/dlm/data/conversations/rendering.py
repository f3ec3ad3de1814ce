"""From a conversation to the ids of prompt and answer: plainly, or with the tokenizer's chat template."""

from typing import Protocol

import attrs
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.reasoning import BEGINNING, ENDING
from dlm.data.conversations.turns import BadRowError, Conversation, Turn
from dlm.data.tokenization import encode_texts, eos_id_of


@attrs.frozen
class Rendered:
    """What the model sees of one answer: the prompt stays clean, the answer and its end are learned."""

    prompt: list[int]
    answer: list[int]
    """Without its end."""
    end: list[int]
    """What closes the answer; the last id is the end-of-text token."""
    has_reasoning: bool = False
    """Whether the answer begins with reasoning."""


class Rendering(Protocol):
    """Renders conversations for training and for sampling alike."""

    def answer(self, conversation: Conversation, index: int) -> Rendered:
        """The turn ``index``, which is one of ``gpt``, with everything before it as the prompt; the future is cut.

        Raises:
            BadRowError: this conversation cannot be rendered.
        """
        ...

    def prompt(self, conversation: Conversation) -> list[int]:
        """All turns, the last of which is to be answered, as the ids a sampler starts from."""
        ...

    def ignored(self, conversation: Conversation) -> tuple[str, ...]:
        """Columns of the conversation that this way of rendering has no place for."""
        ...


def own_ids(piece: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text of our own or of a template, whose special tokens are meant."""
    return list(tokenizer(piece, add_special_tokens=False)["input_ids"]) if piece else []


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text from a data set; the name of a special token in it stays text."""
    return [int(id_) for ids in encode_texts([text], tokenizer) for id_ in ids]


@attrs.frozen
class PlainRendering:
    """BOS (if the tokenizer has one), system, human: the prompt. Then the answer, and the end-of-text token.

    In longer conversations each earlier answer ends with the end-of-text token as well. Every text is tokenized for
    itself, so that the prompt has the same ids whether the answer follows (training) or not (sampling). Reasoning
    stands in ``<think>`` before its answer, and is gone from earlier answers.
    """

    tokenizer: PreTrainedTokenizerBase

    def answer(self, conversation: Conversation, index: int) -> Rendered:
        """As :meth:`Rendering.answer`."""
        before = attrs.evolve(conversation, turns=conversation.turns[:index])
        turn = conversation.turns[index]
        _refuse_tools(turn, index)
        answer = encode_text(turn.text, self.tokenizer)
        if turn.reasoning is not None:
            reasoning = encode_text(turn.reasoning, self.tokenizer)
            answer = [*own_ids(BEGINNING, self.tokenizer), *reasoning, *own_ids(ENDING, self.tokenizer), *answer]
        return Rendered(self.prompt(before), answer, [eos_id_of(self.tokenizer)], turn.reasoning is not None)

    def prompt(self, conversation: Conversation) -> list[int]:
        """As :meth:`Rendering.prompt`."""
        ids = [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]
        if conversation.system is not None:
            ids += encode_text(conversation.system, self.tokenizer)
        for index, turn in enumerate(conversation.turns):
            _refuse_tools(turn, index)
            ids += encode_text(turn.text, self.tokenizer)
            if turn.role == "gpt":
                ids.append(eos_id_of(self.tokenizer))
        return ids

    def ignored(self, conversation: Conversation) -> tuple[str, ...]:
        """As :meth:`Rendering.ignored`."""
        return ("tools",) if conversation.tools else ()


def _refuse_tools(turn: Turn, index: int) -> None:
    if turn.role == "tool" or turn.fields:
        raise BadRowError(
            f"{turn.called(index)} is about a call of a tool, which only a chat template can write: set "
            "dataset.chat_template to true"
        )
