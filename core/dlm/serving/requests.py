"""Bodies of requests in OpenAI's form: what they may hold, what is refused, and the rows of ids they ask for."""

from collections.abc import Collection, Mapping, Sequence
from secrets import randbelow
from typing import Any

import attrs
from attrs.validators import ge, le, min_len, optional

from dlm.config.fields import NOT_NEGATIVE_OR_NULL, POSITIVE_OR_NULL, setting
from dlm.config.sampling_settings import SamplingSettings
from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.reasoning import gpt_turn
from dlm.data.conversations.rendering import Rendering
from dlm.data.conversations.turns import Conversation, Turn
from dlm.errors import UserInputError
from dlm.sampling.arguments import structured
from dlm.sampling.prompts import check_prompt, has_gaps, infill_ids, prompt_ids
from dlm.sampling.session import Session
from dlm.serving.api_errors import refused
from dlm.serving.limits import Limits, fitted

MAX_SAMPLES = 16
MAX_STOPS = 4
_SEEDS = 1 << 31

ASKS_FOR_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (),
    "top_p": (1,),
    "verbosity": (),
    "web_search_options": (),
}
"""Keys of OpenAI's that have no meaning here, with the values, besides null, that ask for nothing."""


@attrs.frozen(kw_only=True)
class StreamOptions:
    """What a stream holds besides the text."""

    include_usage: bool | None = setting("Whether the last chunk counts tokens.", None)
    include_obfuscation: bool | None = setting("Accepted, and ignored: nothing is obfuscated.", None)


@attrs.frozen(kw_only=True)
class Body:
    """Keys that all requests share; null means left out."""

    model: str | None = setting("Name of the model; only the one that is served exists.", None)
    max_tokens: int | None = setting("Tokens to write: gen_length of the sampler.", None, POSITIVE_OR_NULL)
    stop: str | Sequence[str] | None = setting("Texts before which the answer ends, at most four.", None)
    seed: int | None = setting(
        "Of the randomness; left out, one of the request's own, which the answer names.", None, NOT_NEGATIVE_OR_NULL
    )
    temperature: float | None = setting("As in the sampler's settings.", None, NOT_NEGATIVE_OR_NULL)
    n: int | None = setting("Texts for each prompt.", None, optional([ge(1), le(MAX_SAMPLES)]))
    stream: bool | None = setting("Whether the text comes as it is written (server-sent events).", None)
    stream_options: StreamOptions | None = setting("What a stream holds besides the text.", None)
    user: str | None = setting("Accepted, and ignored: no user is told from another.", None)
    dlm: Mapping[str, Any] | None = setting("Settings of the sampler, by their names there.", None)

    @property
    def is_infill(self) -> bool:
        """Whether gaps of a text are filled, instead of a text continued."""
        return False

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_samples(self) -> int:
        """Texts for each prompt."""
        return self.n or 1

    @property
    def num_prompts(self) -> int:
        """Prompts, before any of them is read."""
        return 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


@attrs.frozen(kw_only=True)
class CompletionBody(Body):
    """Body of ``/v1/completions``."""

    prompt: Any = setting("A text, a list of texts, a list of ids, or a list of lists of ids.")

    @property
    def num_prompts(self) -> int:
        """Those of the list, or one."""
        return len(self._given)

    def prompts(self, session: Session, longest: int) -> list[tuple[int, ...]]:
        """The ids of each prompt. Texts are rendered as ``dlm generate`` does."""
        return [self._ids(session, each) for each in self._given]

    @property
    def _given(self) -> list[Any]:
        given = self.prompt
        if isinstance(given, str) or _is_list_of(int, given):
            given = [given]
        if not isinstance(given, list) or not given:
            raise refused("prompt must be a text, a list of texts, or ids", "prompt")
        return given

    def _ids(self, session: Session, prompt: Any) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(prompt_ids(session.tokenizer, prompt, session.rendering))
        size = session.model.config.get_text_config().vocab_size
        if not _is_list_of(int, prompt) or not all(0 <= each < size for each in prompt):
            raise refused(f"prompt must be a text, or ids from 0 to {size - 1}", "prompt")
        if session.mask_id in prompt:
            raise refused(f"prompt holds the mask, id {session.mask_id}: gaps are filled by /v1/infill", "prompt")
        return tuple(prompt)


@attrs.frozen(kw_only=True)
class ChatBody(Body):
    """Body of ``/v1/chat/completions``."""

    messages: Sequence[Mapping[str, Any]] = setting("The conversation so far.", validator=min_len(1))
    max_completion_tokens: int | None = setting("The same as max_tokens.", None, POSITIVE_OR_NULL)

    def prompts(self, session: Session, longest: int) -> list[tuple[int, ...]]:
        """The ids of the one prompt."""
        rendering = _rendering_of(session)
        conversation = _conversation(self.messages)
        for turn in conversation.turns:
            check_prompt(session.tokenizer, turn.text)
        if conversation.system is not None:
            check_prompt(session.tokenizer, conversation.system)
        return [tuple(rendering.prompt(conversation))]


@attrs.frozen(kw_only=True)
class InfillBody(Body):
    """Body of ``/v1/infill``."""

    prompt: str = setting("A text with gaps: <|mask|> is one token, <|mask:3|> three.")

    @property
    def is_infill(self) -> bool:
        """Always."""
        return True

    def prompts(self, session: Session, longest: int) -> list[tuple[int, ...]]:
        """The ids of the text, masks at its gaps."""
        return [tuple(infill_ids(session.tokenizer, self.prompt, session.mask_id, longest))]


@attrs.frozen(kw_only=True)
class TraceBody(Body):
    """Body of ``/v1/trace``, which the page uses: a prompt, or a text with gaps."""

    prompt: str = setting("A text to continue, or one with gaps as for /v1/infill.")

    @property
    def is_infill(self) -> bool:
        """Whether there are gaps."""
        return has_gaps(self.prompt)

    def prompts(self, session: Session, longest: int) -> list[tuple[int, ...]]:
        """The ids of the text."""
        kind = InfillBody if self.is_infill else CompletionBody
        return kind(prompt=self.prompt).prompts(session, longest)


@attrs.frozen(kw_only=True)
class Wanted:
    """What a request comes to."""

    body: Body
    prompts: tuple[tuple[int, ...], ...]
    settings: tuple[SamplingSettings, ...]
    """Of each prompt: what was left open may differ."""
    is_infill: bool

    @property
    def seed(self) -> int:
        """Of all prompts."""
        return self.settings[0].seed


def wanted_of(kind: type[Body], value: Any, session: Session, limits: Limits, *, draws_seed: bool = True) -> Wanted:
    """Read the body of a request.

    Args:
        kind: of its keys.
        value: the JSON of the body.
        session: the model that is served, with the settings that hold where a request says nothing.
        limits: of the server.
        draws_seed: whether a request that names no seed gets one of its own, instead of the session's.

    Raises:
        ApiError: what OpenAI's interface does not allow, what means nothing here, or more than the limits allow.
        UserInputError: prompts and settings that do not fit the model.
    """
    body: Any = structured(_meaningful(value), kind)
    if len(body.stops) > MAX_STOPS or not all(body.stops):
        raise refused(f"stop is one text, or at most {MAX_STOPS}, none of them empty", "stop")
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options go with stream: true", "stream_options")
    # Before the prompts are read: nobody else's are read meanwhile.
    num_rows = body.num_prompts * body.num_samples
    if num_rows > limits.max_waiting:
        raise refused(f"{num_rows} texts are more than the {limits.max_waiting} that may wait here", "n")
    prompts = tuple(body.prompts(session, limits.longest(session.model.config)))
    settings, said = _settings(body, session.settings, draws_seed)
    return Wanted(
        body=body,
        prompts=prompts,
        settings=tuple(fitted(settings, said, ids, session.model, limits) for ids in prompts),
        is_infill=body.is_infill,
    )


def _meaningful(value: Any) -> dict[str, Any]:
    """The body without what asks for nothing."""
    if not isinstance(value, dict):
        raise refused("the body must be a JSON object")
    for key, neutral in ASKS_FOR_NOTHING.items():
        if value.get(key) is not None and value[key] not in neutral:
            raise refused(f"{key} means nothing to this model: leave it out", key, "unsupported_parameter")
    return {key: each for key, each in value.items() if key not in ASKS_FOR_NOTHING and each is not None}


def _settings(body: Any, defaults: SamplingSettings, draws_seed: bool) -> tuple[SamplingSettings, Collection[str]]:
    """The server's settings with what the request says on top, and what it says."""
    standard = {
        "gen_length": body.max_tokens,
        "seed": body.seed,
        "temperature": body.temperature,
    }
    more = getattr(body, "max_completion_tokens", None)
    if more is not None:
        if body.max_tokens not in (None, more):
            raise refused("max_tokens and max_completion_tokens are the same: give one", "max_completion_tokens")
        standard["gen_length"] = more
    if body.is_infill and body.max_tokens is not None:
        raise refused("an infill writes its gaps and nothing else: leave max_tokens out", "max_tokens")
    said = {key: value for key, value in standard.items() if value is not None}
    own = dict(body.dlm or {})
    if twice := sorted(said.keys() & own.keys()):
        raise refused(f"{twice[0]} is said twice, in dlm and beside it: give one", f"dlm.{twice[0]}")
    drawn = {"seed": randbelow(_SEEDS)} if draws_seed else {}
    said = {**drawn, **({"gen_length": 0} if body.is_infill else {}), **said, **own}
    try:
        given = structured(said, SamplingSettings)
    except UserInputError as error:
        raise refused(f"dlm: {error}", "dlm") from error
    settings = attrs.evolve(defaults, **{key: getattr(given, key) for key in said})
    # What the tokenizer knows (unused ids) stays suppressed.
    suppressed = tuple(dict.fromkeys((*defaults.suppress_tokens, *settings.suppress_tokens)))
    return attrs.evolve(settings, suppress_tokens=suppressed), said


def _rendering_of(session: Session) -> Rendering:
    """How conversations are written: as the model was fine-tuned here, or with the template it was published with."""
    if session.rendering is not None:
        return session.rendering
    if getattr(session.tokenizer, "chat_template", None):
        return ChatTemplateRendering(session.tokenizer, False)
    raise refused(
        "this model was not trained on conversations: use /v1/completions, or fine-tune it with mode: sft", "messages"
    )


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    turns: list[Turn] = []
    system: str | None = None
    for index, message in enumerate(messages):
        role = message.get("role")
        text = _text(message, f"messages[{index}]", may_be_empty=role == "assistant")
        if unknown := sorted(set(message) - {"role", "content", "name", "refusal"}):
            raise refused(f"messages[{index}].{unknown[0]} means nothing to this model: leave it out", "messages")
        if role in ("system", "developer"):
            if index:
                raise refused(f"messages[{index}]: only the first message may be the {role}'s", "messages")
            system = text
            continue
        expected = "assistant" if turns and turns[-1].role == "human" else "user"
        if role != expected:
            raise refused(f"messages[{index}].role must be {expected}: users and assistant take turns", "messages")
        turns.append(Turn("human", text) if role == "user" else gpt_turn(text))
    if not turns or turns[-1].role != "human":
        raise refused("the last message must be a user's: it is what is answered", "messages")
    return Conversation(turns=tuple(turns), system=system)


def _text(message: Mapping[str, Any], where: str, *, may_be_empty: bool) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str) or not (may_be_empty or content.strip()):
        raise refused(f"{where}.content must be a text, or parts of type text, and not empty", "messages")
    return content


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)
