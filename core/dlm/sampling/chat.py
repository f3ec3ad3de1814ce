"""A chat with a model: history, system prompt, and how the next answer is sampled."""

from collections.abc import Iterator

import attrs

from dlm.data.conversations.reasoning import gpt_turn
from dlm.data.conversations.rendering import PlainRendering
from dlm.data.conversations.turns import Conversation, Turn
from dlm.errors import UserInputError
from dlm.sampling.api import GenerateState
from dlm.sampling.prompts import check_prompt, shortened
from dlm.sampling.session import Session, TextBatch, TextTask


@attrs.define
class Chat:
    """Turns so far, and how to go on. The oldest exchanges are left out of the prompt when they no longer fit."""

    session: Session
    system: str | None = None
    turns: list[Turn] = attrs.field(factory=list)
    num_left_out: int = 0
    """Exchanges that the last prompt did without."""
    _num_answers: int = 0

    def reset(self) -> None:
        """Forget what was said; the system text stays."""
        self.turns.clear()
        self.num_left_out = 0

    def ask(self, text: str) -> tuple[TextBatch, Iterator[GenerateState]]:
        """Begin the answer to ``text``; hand its last state to :meth:`finish`.

        Raises:
            UserInputError: nothing was said, there is a mask in it, or it does not fit into the context by itself.
        """
        if not text.strip():
            raise UserInputError("say something")
        check_prompt(self.session.tokenizer, text)
        self.turns.append(Turn("human", text))
        try:
            (batch,) = self.session.batches([self._job(text)], 1)
            return batch, self.session.states(batch)
        except Exception:
            self.turns.pop()
            raise

    def finish(self, batch: TextBatch, state: GenerateState) -> str:
        """Take in the finished answer, and return its text."""
        (result,) = self.session.results(batch, state)
        self.turns.append(gpt_turn(result.text))
        self._num_answers += 1
        return result.text

    def forget_question(self) -> None:
        """Take back a question whose answer was broken off."""
        if self.turns and self.turns[-1].role == "human":
            self.turns.pop()

    def _job(self, text: str) -> TextTask:
        for num_left_out in range(0, len(self.turns), 2):
            ids = self._prompt(num_left_out)
            if len(ids) <= self.session.room():
                self.num_left_out = num_left_out // 2
                # Every answer draws from its own key, or the same question would get the same answer for ever.
                return TextTask(prompt=text, ids=tuple(ids), is_infill=False, sample=0, key=self._num_answers)
        raise UserInputError(
            f"{shortened(text)!r} does not fit into the model's context together with an answer: say it more briefly, "
            "or lower --gen_length"
        )

    def _prompt(self, num_left_out: int) -> list[int]:
        conversation = Conversation(turns=tuple(self.turns[num_left_out:]), system=self.system)
        rendering = self.session.rendering or PlainRendering(self.session.tokenizer)
        return rendering.prompt(conversation)
