"""What ``dlm run --dry-run`` prints: everything is built, nothing is written."""

from dlm.config import LoadedConfig, run_components
from dlm.training.assembly import assemble, build_accelerator
from dlm_plugins.registry import Registry


def describe(loaded: LoadedConfig, *, trust_remote_code: bool = False) -> str:
    """Resolved components, parameters, tokens a step and steps of a run.

    Raises:
        DlmError: As the run itself would.
    """
    config, registry = loaded.config, loaded.registry
    job = assemble(loaded, build_accelerator(config), trust_remote_code=trust_remote_code)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in job.objects.model.parameters()]
    num_trained, num_parameters = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
    rows, per_epoch = job.loader.shape.rows_per_step, job.loader.steps_per_epoch
    lines = {
        "mode": config.training.mode,
        **_components(loaded, registry),
        "model": type(job.objects.model).__name__,
        "parameters": f"{num_parameters:,}, of which {num_trained:,} are trained",
        "device": str(job.device),
        "data": job.data_summary,
        "evaluation": "none" if job.evaluation is None else job.evaluation.summary,
        "rows per step": f"{rows}, at most {rows * config.dataset.max_length:,} tokens",
        "steps": f"{job.num_steps:,}" + (f", {per_epoch:,} an epoch" if per_epoch else ""),
        "output": f"{job.folder.path} (nothing was written)",
    }
    width = max(map(len, lines))
    return "\n".join([*loaded.notes, *job.data_notes, *(f"{name:<{width}}  {value}" for name, value in lines.items())])


def _components(loaded: LoadedConfig, registry: Registry) -> dict[str, str]:
    config = loaded.config
    names = dict(run_components(config, registry).names)
    names["remasking"] = registry.entry_of(config.sampling.remasking).qualified_name
    names["optimizer"] = registry.entry_of(config.optim.optimizer).qualified_name
    return {kind.replace("_", " "): name for kind, name in names.items()}
