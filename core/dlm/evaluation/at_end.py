"""``evaluation.at_end``: evaluate the model a run has ended with; one line says the figures, or what went wrong."""

import shlex
import sys
from collections.abc import Callable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from dlm.config import LoadedConfig, config_to_mapping
from dlm.config.eval_options import EvalOptions
from dlm.data.source_records import Source
from dlm.data.sources import load_source
from dlm.evaluation.evaluate import Items, evaluate, new_report, open_model, weights_digest
from dlm.evaluation.report import report_in, write_report
from dlm.training.output_folder import REPORT_PAGE, OutputFolder


def check_at_end(loaded: LoadedConfig) -> None:
    """Read what the evaluation will ask, so that a file that is missing is found before anything is trained.

    Raises:
        DataError: one that is not there, or a row in it that is not as it should be.
    """
    options = loaded.config.evaluation.at_end
    if options is None:
        return
    Items.read(options)
    if options.data is not None:
        load_source(options.data)


def evaluate_at_end(
    loaded: LoadedConfig,
    folder: OutputFolder,
    say: Callable[[str], None],
    *,
    device: str,
    trust_remote_code: bool = False,
) -> None:
    """Write the report of the final model into the output folder, unless it is there.

    Nothing that goes wrong here ends the run, whose model is written. Of several processes the main one calls this
    alone, once they have parted: nobody waits for it.

    Args:
        loaded: the configuration; nothing is done where ``evaluation.at_end`` is null.
        folder: of the run.
        say: takes each line for the user.
        device: where the run has trained.
        trust_remote_code: whether code from the model's folder may run.
    """
    if loaded.config.evaluation.at_end is None:
        return
    try:
        say(_evaluated(loaded, folder, device=device, trust_remote_code=trust_remote_code))
    except KeyboardInterrupt:
        say(_failed("interrupted", folder))
        raise
    except Exception as error:  # whatever it is, the run is done
        say(_failed(str(error).partition("\n")[0] or type(error).__name__, folder))


def _failed(reason: str, folder: OutputFolder) -> str:
    return (
        f"evaluation.at_end failed ({reason}); the model is whole: "
        f"dlm eval --model {shlex.quote(str(folder.final))} evaluates it"
    )


def _evaluated(loaded: LoadedConfig, folder: OutputFolder, **loading: Any) -> str:
    options = loaded.config.evaluation.at_end
    assert options is not None
    asked = _asked(loaded, folder.final)
    page = folder.path / REPORT_PAGE
    if page.exists() and (report_in(folder.path) or {}).get("asked") == asked:
        return f"evaluated before, with the same weights and settings: {page}"
    name = str(folder.final)
    found = evaluate(name, open_model(name, **loading), options)
    report = new_report(str(folder.path), shlex.join(["dlm", *sys.argv[1:]]), options)
    report |= {"asked": asked, "models": [found.results]}
    notes = [*found.results["data"]["notes"], *write_report(folder.path, report, folder.path)]
    likelihood = found.results["likelihood"]
    figures = [f"{likelihood['nats_per_token']['value']:.4g} nats a token"]
    if "bits_per_byte" in likelihood:
        figures.append(f"{likelihood['bits_per_byte']['value']:.4g} bits a byte")
    for section in ("questions", "answers"):
        metrics = found.results.get(section, {}).get("metrics", {})
        figures += [f"{name} {each['value']:.4g}" for name, each in list(metrics.items())[:1]]
    return "; ".join([f"evaluated: {', '.join(figures)}: {page}", *notes])


def _asked(loaded: LoadedConfig, final: Path) -> dict[str, Any]:
    """What the report depends on: as long as it is the same, so is the report."""
    written = config_to_mapping(loaded.config, loaded.registry)
    options = loaded.config.evaluation.at_end
    assert options is not None
    return {
        "weights_sha256": weights_digest(final),
        "evaluation": written["evaluation"],
        "sampling": written["sampling"],
        "files": _contents_of(options),
    }


def _contents_of(options: EvalOptions) -> dict[str, str]:
    """By option, what the content of its data set is known by: every byte of local files."""
    given = {name: getattr(options, name) for name in ("data", "questions", "answers", "preferences")}
    return {name: _content_of(load_source(value)) for name, value in given.items() if value is not None}


def _content_of(source: Source) -> str:
    digest = sha256(source.identity.encode())
    for path in source.files:
        with path.open("rb") as file:
            digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()
