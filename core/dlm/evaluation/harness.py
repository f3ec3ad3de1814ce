"""Adapter for the lm-evaluation-harness (``lm_eval``, extra ``eval``): likelihoods, rolling perplexity, generation.

``python -m dlm.evaluation.harness`` has the harness's own command line with this model registered as ``dlm``; releases
that look for the entry-point group ``lm_eval.models`` find it by themselves.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import attrs
import torch
import torch.distributed as dist
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from dlm.config.eval_options import DEFAULT_BATCH_TOKENS, Method
from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import UserInputError
from dlm.evaluation.evaluate import open_model, versions
from dlm.evaluation.likelihood import (
    DesignedText,
    ScoredText,
    check_draws,
    design_of,
    score_texts,
    text_key,
    window_of,
    windows,
)
from dlm.evaluation.mask_designs import DrawNumbers
from dlm.evaluation.scoring import Scorer
from dlm.model.tokenizer import num_ids
from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session, TextTask
from dlm.sampling.texts import end_ids, text_of

logger = logging.getLogger(__name__)
_DEFAULT_GEN_TOKENS = 256
_OBEYED = ("until", "max_gen_toks", "max_new_tokens", "max_tokens", "temperature", "do_sample")


@register_model("dlm")
class DlmLM(TemplateLM):  # type: ignore[misc]
    """A diffusion language model as the harness asks it. Scores depend on the texts and the seed alone."""

    def __init__(
        self,
        pretrained: str,
        *,
        draws: int = 32,
        method: Method = "bound",
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        greedy: bool = True,
        gen_length: int | None = None,
        steps: int | None = None,
        block_length: int | None = None,
        remasking: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load a model.

        Args:
            pretrained: folder or name on the hub.
            draws, method, seed: as for ``dlm.log_likelihood``.
            batch_tokens: most positions in one forward of a likelihood.
            greedy: whether to find out if a continuation is what greedy decoding from left to right gives, which costs
                a row a token; without it the flag is False.
            gen_length, steps, block_length, remasking: of the sampler; None: the task's length, and the model's own.
            batch_size: answers that are written at once; 1 and ``auto``, which the harness passes by itself, mean 8.
            max_batch_size: not used.
        """
        super().__init__()
        check_draws(draws)
        is_one_of_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if is_one_of_several and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness's own command line says cuda:0 where nobody said anything
        # The harness hands over its own options beside the model's.
        self.session: Session = open_model(
            pretrained, dtype=None if dtype == "auto" else dtype, device=device, trust_remote_code=trust_remote_code
        )
        self.tokenizer = self.session.tokenizer
        self.scorer = Scorer.of(self.session.model, num_ids=num_ids(self.tokenizer), batch_tokens=batch_tokens)
        self._draws, self._method, self._seed, self._greedy = draws, method, seed, greedy
        self._gen_length = gen_length
        self._batch_size = max(int(str(batch_size)), 1) if str(batch_size).isdigit() and str(batch_size) != "1" else 8
        self._times: Counter[tuple[Any, ...]] = Counter()
        given = {"steps": steps, "block_length": block_length, "remasking": remasking}
        chosen = {name: value for name, value in given.items() if value is not None}
        made = settings_of(chosen)
        changes: dict[str, Any] = {name: getattr(made, name) for name in chosen}
        self._settings: SamplingSettings = attrs.evolve(self.session.settings, **changes)
        self._pretrained = pretrained
        if is_one_of_several and not dist.is_initialized():
            dist.init_process_group("nccl" if self.session.model.device.type == "cuda" else "gloo")

    # What several processes need: each takes its share of the requests, and the first gathers them.

    @property
    def device(self) -> torch.device:
        """Where tensors to be gathered lie."""
        place: torch.device = self.session.model.device
        return place

    @property
    def rank(self) -> int:
        """Number of this process."""
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return dist.get_world_size() if dist.is_initialized() else 1

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one after the other."""
        if not dist.is_initialized():
            return tensor
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.cat([each.reshape(-1) for each in gathered])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes, on one of them."""
        if not dist.is_initialized():
            return [obj]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        dist.gather_object(obj, gathered, dst=dst)
        return gathered

    def barrier(self) -> None:
        """Wait for all processes."""
        if dist.is_initialized():
            dist.barrier()

    # What the harness knows of the model.

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return end_ids(self.session.model, self.tokenizer)[0]

    @property
    def tokenizer_name(self) -> str:
        """For the cache of chat prompts."""
        return self._pretrained.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; names of special tokens mean the tokens, as in chat templates."""
        return list(self.tokenizer(string, add_special_tokens=bool(add_special_tokens))["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text the model was trained on."""
        rendered: str = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return rendered

    def get_model_info(self) -> dict[str, Any]:
        """What a reader needs to get the same numbers; goes into the results file."""
        return {
            "estimator": self._method,
            "draws": self._draws,
            "draw_seed": self._seed,
            "model_num_parameters": sum(each.numel() for each in self.session.model.parameters()),
            "dlm_versions": versions(),
        }

    # The three requests.

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        room = window_of(self.session.model.config, None)
        texts = [self._fitting(context, continuation, room) for _, context, continuation in requests]
        estimates, _ = score_texts(self.scorer, texts, method=self._method, draws=self._draws, seed=self._seed)
        answers = [(-each.value, greedy) for each, greedy in zip(estimates, self._are_greedy(texts), strict=True)]
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def _fitting(self, context: list[int], continuation: list[int], room: int) -> ScoredText:
        if len(continuation) >= room:
            raise UserInputError(f"a continuation of {len(continuation)} tokens exceeds the model's context of {room}")
        if len(context) + len(continuation) > room:
            logger.warning("a context of %d tokens is cut from the left to fit into %d", len(context), room)
            context = context[len(context) + len(continuation) - room :]
        return ScoredText.of_ids(context, continuation, self.scorer.blocks_from_start)

    def _are_greedy(self, texts: Sequence[ScoredText]) -> list[bool]:
        """Whether each text is what is most probable, token by token from left to right."""
        if not self._greedy:
            return [False] * len(texts)
        numbers = DrawNumbers.of_text(2)
        designed: list[DesignedText] = [design_of(self.scorer, each, "chain_rule", numbers, 0) for each in texts]
        scores = self.scorer.score([each.job for each in designed])
        return [bool(score.correct[each.job.scored].all()) for each, score in zip(designed, scores, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows where they are longer than the context."""
        room, answers = window_of(self.session.model.config, None), []
        for (text,) in [request.args for request in requests]:
            pieces = windows(self.tok_encode(text), room)
            scored = [ScoredText.of_ids(*piece, self.scorer.blocks_from_start) for piece in pieces if piece[1]]
            estimates, _ = score_texts(self.scorer, scored, method=self._method, draws=self._draws, seed=self._seed)
            answers.append(-sum(each.value for each in estimates))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answers[-1])
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each cut before the first of the task's ends."""
        answers: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda index: repr(sorted(requests[index].args[1].items())))
        for _, same in groupby(order, key=lambda index: repr(sorted(requests[index].args[1].items()))):
            indices = list(same)
            arguments = requests[indices[0]].args[1]
            some = [requests[index] for index in indices]
            texts = self._written([each.args[0] for each in some], [self._key(each) for each in some], arguments)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = cut(text, arguments.get("until"))
                self.cache_hook.add_partial("generate_until", requests[index].args, answers[index])
        return [answers[index] for index in range(len(requests))]

    def _key(self, request: Any) -> int:
        """What the randomness of an answer is keyed by: its prompt, and how often its document has asked it before.

        The place among the requests would not do: it depends on the number of processes.
        """
        name, document, prompt = getattr(request, "task_name", None), getattr(request, "doc_id", None), request.args[0]
        before = self._times[name, document, prompt]
        self._times[name, document, prompt] += 1
        return text_key([*prompt.encode("utf-8", "replace"), before]) & 0x7FFFFFFF

    def _written(self, prompts: Sequence[str], keys: Sequence[int], arguments: dict[str, Any]) -> list[str]:
        ignored = sorted(set(arguments) - set(_OBEYED))
        if ignored:
            logger.warning("generation arguments that mean nothing here: %s", ", ".join(ignored))
        room = window_of(self.session.model.config, None)
        asked = next((arguments[name] for name in _OBEYED[1:4] if name in arguments), _DEFAULT_GEN_TOKENS)
        length = min(self._gen_length or int(asked), room - 1)
        temperature = float(arguments.get("temperature") or 0.0) if arguments.get("do_sample", True) else 0.0
        session = attrs.evolve(
            self.session,
            settings=attrs.evolve(
                self._settings, gen_length=length, temperature=temperature, block_length=self._block(length)
            ),
        )
        tasks = []
        for key, prompt in zip(keys, prompts, strict=True):
            ids = self.tok_encode(prompt)
            if len(ids) + length > room:
                logger.warning("a prompt of %d tokens is cut from the left: %d are to be written", len(ids), length)
                ids = ids[len(ids) + length - room :]
            tasks.append(TextTask(prompt=prompt, ids=tuple(ids), is_infill=False, sample=0, key=key))
        texts = []
        for batch in session.batches(tasks, self._batch_size):
            *_, state = session.states(batch)
            texts += [text_of(self.tokenizer, each.ids, session.eos_ids) for each in session.results(batch, state)]
        return texts

    def _block(self, length: int) -> int | None:
        own = self._settings.block_length
        return None if own is None else min(own, length)


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """The text before the first of its ends; a single end may be given as a text."""
    ends = [until] if isinstance(until, str) else until or []
    places = [text.find(end) for end in ends if end and end in text]
    return text[: min(places)] if places else text


def run_tasks(model: str, tasks: Sequence[str], include_path: str | None, **options: Any) -> dict[str, Any]:
    """What ``lm_eval`` finds for a model on some tasks.

    Args:
        model: folder or name on the hub.
        tasks: names.
        include_path: folder with tasks of one's own; with it the harness's index, which takes seconds, is not built.
        **options: of :class:`DlmLM`.

    Raises:
        UserInputError: an unknown task.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path, include_defaults=include_path is None)
    unknown = [each for each in tasks if not manager.match_tasks([each])]
    if unknown:
        raise UserInputError(f"--harness-tasks: no task {unknown[0]!r} in {include_path or 'lm_eval'}")
    found: dict[str, Any] = simple_evaluate(
        model=DlmLM(model, **options), tasks=list(tasks), task_manager=manager, bootstrap_iters=0, log_samples=False
    )
    return {"results": found["results"], "model": found["config"]} if found else {}


def main() -> None:
    """The harness's own command line."""
    from lm_eval.__main__ import cli_evaluate

    run: Callable[[], None] = cli_evaluate
    run()


if __name__ == "__main__":
    main()
