"""What a run consists of where it learns from rewards (mode rl): the law of rollouts, rewards, reference, held-out."""

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import LoadedConfig, RunConfig, run_components
from dlm.config.rl_section import START
from dlm.data.conversations.prompt_rows import PromptRows
from dlm.diffusion.cross_entropy import SamplingLaw
from dlm.diffusion.policy_objective import PolicyObjective
from dlm.diffusion.vocabulary import Vocabulary
from dlm.sampling.resolve import resolve
from dlm.sampling.texts import ends_of, for_tokenizer, pad_id_of
from dlm.training.answers import Answering, Judge
from dlm.training.engine import Engine
from dlm.training.evaluation import Sampler
from dlm.training.held_out_answers import HeldOutAnswers, PromptSampler, closing_words
from dlm.training.model_and_noise import build_objective
from dlm.training.policy_step import PolicyStep
from dlm.training.reference_model import build_reference
from dlm.training.rollouts import Rollouts
from dlm.training.step import TrainingStep
from dlm.training.value_model import build_value_model


def build_policy_objective(
    model: PreTrainedModel,
    loaded: LoadedConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    device: torch.device,
    *,
    trust_remote_code: bool = False,
) -> PolicyObjective:
    """As :func:`build_objective`, under the law of the rollouts, with the reference that the loss keeps to."""
    config = loaded.config

    def build(model: PreTrainedModel, config: RunConfig) -> PolicyObjective:
        return _under_law(model, attrs.evolve(loaded, config=config), tokenizer, vocabulary)

    objective, name = build(model, config), config.rl.reference
    if name is not None:
        objective.reference = build_reference(
            objective,
            config,
            tokenizer,
            loaded.registry,
            name=None if name == START else name,
            build=build,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    return objective


def _under_law(
    model: PreTrainedModel, loaded: LoadedConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> PolicyObjective:
    """Log-probabilities under the law that the rollouts are drawn by."""
    config = loaded.config
    components = run_components(config, loaded.registry)
    resolved = resolve(
        model,
        torch.zeros((1, 1), dtype=torch.long),
        for_tokenizer(attrs.evolve(config.sampling, gen_length=None, block_length=None), model, tokenizer),
        None,
    )
    excluded = torch.cat((torch.tensor([resolved.mask_id]), resolved.suppressed))
    law = SamplingLaw(temperature=resolved.temperature, excluded=excluded)
    return build_objective(model, config, components, vocabulary, cls=PolicyObjective, law=law)


def learn_from_rewards(engine: Engine, loaded: LoadedConfig, vocabulary: Vocabulary) -> None:
    """Let an engine that is put together take its steps on rollouts, and evaluate by answering held-out prompts."""
    config, objects, step = loaded.config, engine.saver.objects, engine.step
    training, rl, rows = config.training, config.rl, engine.data.loader.rows  # type: ignore[union-attr]
    assert isinstance(step, TrainingStep)
    assert isinstance(rows, PromptRows)
    answering = Answering(
        accelerator=engine.accelerator, model=objects.model, objective=step.objective, tokenizer=objects.tokenizer
    )
    may_end = bool(ends_of(config.sampling, objects.model, objects.tokenizer)) and config.sampling.eos != "suppress"
    judge = Judge(rewards=rl.rewards, overlong_is_worthless=may_end and rl.overlong == "zero")
    value_model = None if rl.value is None else build_value_model(rl.value, objects, step, loaded, vocabulary)
    rollouts = Rollouts(
        accelerator=engine.accelerator,
        answering=answering,
        judge=judge,
        rows=rows,
        advantage=rl.advantage,
        settings=config.sampling,
        curriculum=rl.curriculum,
        group_size=rl.group_size,
        batch_size=training.batch_size,
        skip_even_groups=rl.skip_even_groups,
        mask_overlong=may_end and rl.overlong == "mask",
        blocks_from_start=training.block_attention.enabled and training.block_attention.origin == "document",
        pad_id=pad_id_of(objects.tokenizer),
        seed=training.seed,
        value_model=value_model,
    )
    engine.step = PolicyStep(
        training_step=step,
        rollouts=rollouts,
        forward_process=step.forward_process,
        num_updates=rl.updates_per_rollout,
        reference=engine.accelerator.unwrap_model(step.objective).reference,
        value_model=value_model,
    )
    held_out = None
    if engine.data.evaluation is not None:
        held_out = HeldOutAnswers(
            accelerator=engine.accelerator,
            answering=answering,
            judge=judge,
            batches=engine.data.evaluation,
            settings=config.sampling,
            seed=training.seed,
        )
    assert isinstance(engine.sampler, Sampler)
    engine.evaluation, engine.sampler = held_out, PromptSampler(sampler=engine.sampler, held_out=held_out)
    engine.closing_words = closing_words
