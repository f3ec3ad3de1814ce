"""What a run consists of, put together: precision (bf16, fp16), model, data, noise, objective, optimizer."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import accelerate
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import LoadedConfig, RunConfig, config_to_mapping, dump_config, run_components
from dlm.data.file_identity import identity_of_files
from dlm.diffusion.forward_process import ForwardProcess
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.vocabulary import Vocabulary
from dlm.errors import UserInputError
from dlm.model.checkpoint_sources import resolve_source
from dlm.sampling.texts import check_prompts
from dlm.training.agreement import check_agreement
from dlm.training.checkpoint_contents import TrainingObjects
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.console import TrainingConsole
from dlm.training.engine import Engine
from dlm.training.evaluation import Evaluation, Sampler
from dlm.training.model_and_noise import (
    build_forward_process,
    build_model_and_weights,
    build_objective,
    build_random_length,
    build_tokenizer,
    build_vocabulary,
    choose_attention,
    for_evaluation,
)
from dlm.training.optimisation import build_scheduler, depends_on_num_steps, parameter_groups, warn_of_lost_updates
from dlm.training.output_folder import OutputFolder
from dlm.training.parallel import (
    Plan,
    build_model_for,
    bytes_of_whole_copy,
    check_mesh,
    check_rollouts,
    distribute,
    make_plan,
    refuse_foreign_sharding,
    second_models,
)
from dlm.training.processes import (
    check_launch,
    check_launch_settings,
    group_options,
    is_launched,
    meeting,
    on_all,
    watch_waits,
)
from dlm.training.randomness import seed_everything, use_deterministic
from dlm.training.resuming import ANEW, LATEST
from dlm.training.run_data import PreparedData, prepare_data
from dlm.training.run_identity import CLOCK, OPTIMIZER, flatten, identity_of
from dlm.training.saver import Saver
from dlm.training.step import TrainingStep
from dlm.training.weights import Weights
from dlm.user_paths import user_path
from dlm_plugins.attention_bias import bias_at_end
from dlm_plugins.loss import FIGURES
from dlm_plugins.structuring import unstructure

if TYPE_CHECKING:
    from dlm.training.meta_model import Build, Contents


def build_accelerator(config: RunConfig) -> Accelerator:
    """accelerate, as the run file and the launcher say; it averages nothing over micro-steps itself.

    Raises:
        UserInputError: A launcher started several processes, and accelerate would let each train alone; it was told
            otherwise than the run file says; or the device has no fp16.
        LostProcessError: The others cannot be reached.
    """
    training = config.training
    # accelerate keeps the precision of the first Accelerator of a process for ever; a run brings its own.
    AcceleratorState._reset_state()
    refuse_foreign_sharding()
    check_launch_settings(training)
    with meeting(training.parallel.timeout_seconds):
        accelerator = Accelerator(
            # Without being told, accelerate does not look for other processes where there is only the CPU.
            cpu=is_launched() and not torch.accelerator.is_available(),
            mixed_precision=training.mixed_precision,
            log_with=list(config.logging.trackers) or None,
            project_dir=user_path(training.output_dir),
            step_scheduler_with_optimizer=False,
            # Said, because the environment is asked otherwise: steps are accumulated and layers compiled here.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
            kwargs_handlers=[
                group_options(training.parallel.timeout_seconds),
                # Gradients lie in the buckets that DDP sends: without micro-steps each process would hold them twice.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
    watch_waits(accelerator, training.parallel.timeout_seconds)
    check_launch(accelerator)
    check_mesh(training.parallel, accelerator.num_processes)
    if training.mixed_precision == "fp16" and accelerator.scaler is None:
        # accelerate would train in float32 without a word.
        raise UserInputError(
            f"training.mixed_precision: fp16 does not work on {accelerator.device.type}; use bf16, or no"
        )
    return accelerator


def build_store(config: RunConfig) -> CheckpointStore:
    """The checkpoints of the output folder."""
    checkpoint = config.training.checkpoint
    pinned = None if checkpoint.resume in (None, LATEST, ANEW) else user_path(checkpoint.resume)
    return CheckpointStore(user_path(config.training.output_dir) / "checkpoints", checkpoint.keep_last, pinned)


def assemble(
    loaded: LoadedConfig,
    accelerator: Accelerator,
    *,
    trust_remote_code: bool = False,
    started: datetime | None = None,
) -> Engine:
    """Build everything a run needs. Nothing is written.

    Args:
        loaded: the configuration.
        accelerator: of :func:`build_accelerator`.
        trust_remote_code: whether code from the model's folder may run.
        started: when the run was first started; None: now.

    Raises:
        DlmError: Model, tokenizer or data cannot be used.
    """
    config, registry = loaded.config, loaded.registry
    check_agreement(accelerator, dict(flatten(config_to_mapping(config, registry))))
    _own_randomness(config, accelerator)
    tokenizer = on_all(accelerator, lambda: build_tokenizer(config), "the others to read the tokenizer")
    # Before the data: what is wrong with the model is said within seconds, and tokenizing may take an hour.
    build = partial(build_model_and_weights, config, tokenizer, registry, trust_remote_code=trust_remote_code)
    plan, (model, weights, contents) = _shared_model(config, accelerator, build)
    components = run_components(config, registry)
    choose_attention(config, model, components, accelerator.device)
    data = _same_data(config, tokenizer, accelerator, started)
    _note_reasoning(config, model, data)
    vocabulary = build_vocabulary(tokenizer, model.config.mask_token_id)
    num_steps = config.training.max_steps or (config.training.num_epochs or 0) * (data.loader.steps_per_epoch or 0)
    process = build_forward_process(config, components, registry, vocabulary, num_steps)
    objective = _objective(
        model.train(), loaded, tokenizer, vocabulary, accelerator, trust_remote_code=trust_remote_code
    )
    prepared = distribute(objective, model, plan, accelerator, contents)
    facts = {**weights.facts(), **objective.facts()}
    objects = _training_objects(loaded, accelerator, model, weights, tokenizer, data, num_steps, facts)
    engine = Engine(
        accelerator=accelerator,
        data=data,
        step=_training_step(config, data, objects, prepared, process),
        evaluation=_evaluation(config, data, accelerator, prepared, process),
        sampler=_sampler(config, objects, prepared),
        saver=_saver(config, objects, plan),
        console=TrainingConsole(num_steps=num_steps, is_main=accelerator.is_main_process),
        num_steps=num_steps,
        logging_every=config.logging.every_steps,
        evaluate_every=config.evaluation.eval_every_steps,
        save_every=config.training.checkpoint.every_steps,
        parallel=plan,
        way_on=_way_on(config.training.checkpoint.resume),
    )
    if config.training.mode == "rl":
        from dlm.training import rl_assembly  # only where there are rollouts

        rl_assembly.learn_from_rewards(engine, loaded, vocabulary)
    return engine


def _same_data(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator, started: datetime | None
) -> PreparedData:
    """The data, read by each process at its own pace: where hosts share no cache, each tokenizes for itself."""
    data = on_all(accelerator, lambda: prepare_data(config, tokenizer, accelerator, started), "the others to read data")
    check_agreement(accelerator, {"dataset, fingerprint of what was read": data.fingerprint})
    return data


def _objective(
    model: PreTrainedModel,
    loaded: LoadedConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    accelerator: Accelerator,
    *,
    trust_remote_code: bool,
) -> DiffusionObjective:
    """What the mode learns: the data, or rewards, or preferences beside a reference."""
    mode = loaded.config.training.mode
    if mode not in ("rl", "preference"):
        return build_objective(model, loaded.config, run_components(loaded.config, loaded.registry), vocabulary)

    def beside_a_second_model() -> DiffusionObjective:
        parts = (model, loaded, tokenizer, vocabulary, accelerator.device)
        if mode == "rl":
            from dlm.training.rl_assembly import build_policy_objective  # only where there are rollouts

            return build_policy_objective(*parts, trust_remote_code=trust_remote_code)
        from dlm.training.preference_assembly import build_preference_objective  # only where there are preferences

        return build_preference_objective(*parts, trust_remote_code=trust_remote_code)

    return on_all(accelerator, beside_a_second_model, "the others to load a second model")


def _training_objects(
    loaded: LoadedConfig,
    accelerator: Accelerator,
    model: PreTrainedModel,
    weights: Weights,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
    num_steps: int,
    facts: Mapping[str, object],
) -> TrainingObjects:
    """What checkpoints hold, with optimizer and learning rates, once the model is where it is trained."""
    config = loaded.config
    optimizer = config.optim.optimizer.build(parameter_groups(model))
    warn_of_lost_updates(optimizer)
    return TrainingObjects(
        accelerator=accelerator,
        model=model,
        weights=weights,
        tokenizer=tokenizer,
        scheduler=build_scheduler(config.optim, optimizer, num_steps),
        optimizer=accelerator.prepare(optimizer),
        config_text=dump_config(config, loaded.registry),
        identity=_identity(loaded, data, facts, accelerator, optimizer),
        base=config.model.name_or_path,
    )


def _own_randomness(config: RunConfig, accelerator: Accelerator) -> None:
    deterministic = config.training.deterministic
    use_deterministic(accelerator.device.type == "cpu" if deterministic == "auto" else deterministic)
    seed_everything(config.training.seed)


def _shared_model(
    config: RunConfig, accelerator: Accelerator, build: "Build"
) -> "tuple[Plan, tuple[PreTrainedModel, Weights, Contents | None]]":
    """How the processes share the model, and the model, built for that."""
    name = config.model.name_or_path
    if name is not None:
        _check_same_model(name, accelerator)
    plan = make_plan(config.training.parallel, accelerator, lambda: bytes_of_whole_copy(build(empty_with={})[0]))
    if plan.shards:
        _refuse_second_models(config)
        if config.training.mode == "rl":
            check_rollouts(build(empty_with={})[0], accelerator)
    return plan, build_model_for(plan, build, name, accelerator)


def _check_same_model(name: str, accelerator: Accelerator) -> None:
    """See that a folder holds the same model on each host: shards of one with shards of another would make a third."""

    def identity() -> str:
        source, is_folder = resolve_source(name)
        files = sorted(Path(source).glob("*.json")) + sorted(Path(source).glob("*.safetensors")) if is_folder else []
        return identity_of_files(files) if files else source

    found = on_all(accelerator, identity, "the others to look at the model")
    check_agreement(accelerator, {"model.name_or_path, digest of its files": found})


def _refuse_second_models(config: RunConfig) -> None:
    """See that no process needs another model beside its shard.

    Raises:
        UserInputError: One does.
    """
    # Preferences ask a reference within the forward pass, with adapters too.
    asking = "mode preference" if config.training.mode == "preference" else next(iter(second_models(config)), None)
    if asking is not None:
        raise UserInputError(
            f"training.parallel.shard: {asking} means a second model, which is not sharded yet; set shard to 1, so "
            "that each process holds all of both"
        )


def _note_reasoning(config: RunConfig, model: PreTrainedModel, data: PreparedData) -> None:
    """Whoever samples asks for reasoning where answers were trained with it."""
    if config.training.mode in ("sft", "preference"):
        model.config.prompt_thinking = data.has_reasoning


def _saver(config: RunConfig, objects: TrainingObjects, plan: Plan) -> Saver:
    return Saver(
        objects=objects,
        folder=OutputFolder(user_path(config.training.output_dir)),
        store=build_store(config),
        sharded={"single": False, "sharded": True, "auto": plan.shards}[config.training.checkpoint.format],
    )


def _way_on(resume: str | None) -> str:
    same = "run the same command again"
    return same if resume == LATEST else f"{same} with training.checkpoint.resume={LATEST}"


def _training_step(
    config: RunConfig, data: PreparedData, objects: TrainingObjects, objective: nn.Module, process: ForwardProcess
) -> TrainingStep:
    # Tokens in pre-training, answers in fine-tuning.
    counted_per_row = config.dataset.max_length if config.training.mode == "pretrain" else 1
    return TrainingStep(
        accelerator=objects.accelerator,
        objective=objective,
        forward_process=process,
        random_length=build_random_length(config),
        optimizer=objects.optimizer,
        scheduler=objects.scheduler,
        max_grad_norm=config.training.max_grad_norm,
        seed=config.training.seed,
        typical_normaliser=float(data.loader.shape.rows_per_step * counted_per_row),
        figure_names=FIGURES.of(config.training.loss_impl),
    )


def _evaluation(
    config: RunConfig, data: PreparedData, accelerator: Accelerator, objective: nn.Module, process: ForwardProcess
) -> Evaluation | None:
    if data.evaluation is None:
        return None
    return Evaluation(
        accelerator=accelerator,
        objective=objective,
        forward_process=for_evaluation(process),
        batches=data.evaluation,
        num_rows=len(data.evaluation.loader.rows),
        summary=data.evaluation.summary(),
        figure_names=FIGURES.of(config.training.loss_impl),
    )


def _sampler(config: RunConfig, objects: TrainingObjects, objective: nn.Module) -> Sampler:
    prompts = tuple(config.evaluation.sample_prompts)
    try:
        check_prompts(objects.model, objects.tokenizer, prompts, config.sampling)
    except UserInputError as error:
        raise UserInputError(f"evaluation.sample_prompts cannot be continued: {error}") from error
    return Sampler(
        model=objects.model,
        objective=objective,
        tokenizer=objects.tokenizer,
        prompts=prompts,
        settings=config.sampling,
    )


def _identity(
    loaded: LoadedConfig,
    data: PreparedData,
    of_models: Mapping[str, object],
    accelerator: Accelerator,
    optimizer: Optimizer,
) -> dict[str, object]:
    config = loaded.config
    facts: dict[str, object] = {
        "data_fingerprint": data.fingerprint,
        CLOCK: data.clock,
        **of_models,
        "num_processes": accelerator.num_processes,
        OPTIMIZER: f"{type(optimizer).__module__}.{type(optimizer).__name__}",
        "num_threads": torch.get_num_threads(),
        "device": accelerator.device.type,
        "plugin_versions": {plugin.name: plugin.version for plugin in loaded.registry.plugins},
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, accelerate)},
    }
    bias = run_components(config, loaded.registry).attention_bias
    if depends_on_num_steps(config.optim) or bias_at_end(bias) != bias:
        facts |= {"training": {"max_steps": config.training.max_steps, "num_epochs": config.training.num_epochs}}
    if config.training.mode == "rl":
        facts |= {"rollouts": unstructure(loaded.registry, config.sampling)}  # elsewhere it only shows samples
    return identity_of(config_to_mapping(config, loaded.registry), facts)
