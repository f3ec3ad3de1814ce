"""What ``dlm run --dry-run`` prints: everything is built, nothing is written."""

from collections.abc import Collection

from dlm.config import LoadedConfig, run_components
from dlm.model.body_and_head import num_parameters
from dlm.training.assembly import assemble, build_accelerator, build_store
from dlm.training.engine import Engine
from dlm.training.memory_plan import DecoderShape, MemoryPlan, Setting, plan_memory
from dlm.training.model_and_noise import num_copies
from dlm.training.output_folder import OutputFolder
from dlm.training.parallel import second_models
from dlm.training.processes import close_group, on_main
from dlm.training.resuming import StartingPoint, check_same_run, starting_point
from dlm.training.run import refuse_code
from dlm.training.run_data import isolates_documents
from dlm.user_paths import user_path
from dlm_plugins.loss import NEEDS_PAIRS, NUM_DRAWS
from dlm_plugins.registry import Registry


def describe_run(
    loaded: LoadedConfig,
    *,
    allow_change: Collection[str] = (),
    trust_remote_code: bool = False,
    allow_code_execution: bool = False,
) -> str:
    """Resolved components, parameters, tokens a step, steps and start of a run; the main process of several says it.

    Args:
        loaded: the configuration.
        allow_change: as of :func:`dlm.training.run.run`, and so are the others.
        trust_remote_code: whether code from the model's folder may run.
        allow_code_execution: whether rewards may run code that the model writes.

    Raises:
        DlmError: As the run itself would, but where another one is at work in its output folder.
    """
    config = loaded.config
    if not allow_code_execution:
        refuse_code(loaded)
    if config.evaluation.at_end is not None:
        from dlm.evaluation.at_end import check_at_end  # evaluation builds on training

        check_at_end(loaded)
    accelerator = build_accelerator(config)
    is_main = accelerator.is_main_process  # which it cannot say once the group is closed
    folder, store = OutputFolder(user_path(config.training.output_dir)), build_store(config)
    resume = config.training.checkpoint.resume
    start = on_main(accelerator, lambda: starting_point(folder, store, resume), "the output folder")
    engine = assemble(loaded, accelerator, trust_remote_code=trust_remote_code, started=start.started)
    described = _describe(loaded, engine, start, allow_change)
    del engine  # what accelerate prepared, before the group is closed
    close_group(accelerator)
    return described if is_main else ""


def _describe(loaded: LoadedConfig, engine: Engine, start: StartingPoint, allow_change: Collection[str]) -> str:
    state, notes = check_same_run(engine, start, allow_change)
    config, registry = loaded.config, loaded.registry
    data, model = engine.data, engine.saver.objects.model
    num_all, num_trained = num_parameters(model)
    rows, per_epoch = data.loader.shape.rows_per_step, data.loader.steps_per_epoch
    lines = {
        "mode": config.training.mode,
        **_components(loaded, registry),
        "model": type(model).__name__,
        "parameters": f"{num_all:,}, of which {num_trained:,} are trained",
        "device": str(engine.accelerator.device),
        **({"processes": str(engine.parallel)} if engine.accelerator.num_processes > 1 else {}),
        "memory": str(_memory(loaded, engine)),
        "data": data.summary,
        "evaluation": "none" if engine.evaluation is None else engine.evaluation.summary,
        "rows per step": f"{rows}, at most {rows * config.dataset.max_length:,} tokens",
        "steps": f"{engine.num_steps:,}" + (f", {per_epoch:,} an epoch" if per_epoch else ""),
        "start": f"step {state.global_step:,}" + (f", from {start.checkpoint}" if start.checkpoint else ""),
        "output": f"{engine.saver.folder.path} (nothing was written)",
    }
    width = max(map(len, lines))
    return "\n".join(
        [
            *loaded.notes,
            *data.notes,
            *data.origin,
            *notes,
            *(f"{name:<{width}}  {value}" for name, value in lines.items()),
        ]
    )


def _memory(loaded: LoadedConfig, engine: Engine) -> MemoryPlan:
    """What each process will need, by arithmetic: an upper bound where rows are shorter than ``dataset.max_length``."""
    config, model = loaded.config, engine.saver.objects.model
    training, components = config.training, run_components(config, loaded.registry)
    copies, sides = num_copies(components), 1 + NEEDS_PAIRS.of(components.loss)
    rows = training.batch_size * sides * NUM_DRAWS.of(components.loss)
    width = copies * config.dataset.max_length
    weight_bytes = model.dtype.itemsize
    compute_bytes = weight_bytes if training.mixed_precision == "no" else 2
    # Who sees whom is a matrix for each row, but for flex_attention, and where everybody sees everybody.
    has_padding = rows > 1 and not config.dataset.pack
    hides = training.block_attention.enabled or copies > 1 or isolates_documents(config) or has_padding
    is_dense = hides and model.config._attn_implementation != "flex_attention"
    are_trained = list(second_models(config).values())
    setting = Setting(
        shard=engine.parallel.shard,
        replicate=engine.parallel.replicate,
        positions=rows * width,
        weight_bytes=weight_bytes,
        compute_bytes=compute_bytes,
        checkpointing=training.gradient_checkpointing,
        compiles=training.compile,
        accumulates=training.gradient_accumulation_steps > 1 or training.mode == "rl",
        mask_bytes=rows * width**2 * compute_bytes if is_dense else 0,
        frozen_copies=are_trained.count(False),
        trained_copies=are_trained.count(True),
        samples_alone=training.mode == "rl",
    )
    return plan_memory(DecoderShape.of(model), setting)


def _components(loaded: LoadedConfig, registry: Registry) -> dict[str, str]:
    config = loaded.config
    names = dict(run_components(config, registry).names)
    names["remasking"] = registry.entry_of(config.sampling.remasking).qualified_name
    names["optimizer"] = registry.entry_of(config.optim.optimizer).qualified_name
    return {kind.replace("_", " "): name for kind, name in names.items()}
