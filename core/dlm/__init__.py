"""The library (``import dlm``): make a pretrained decoder a masked-diffusion LM, train it, and generate with it.

Importing ``dlm`` registers the model type ``qwen3llada`` with the Auto classes of transformers.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm.evaluation.likelihood import LogLikelihood, Perplexity, log_likelihood, perplexity
    from dlm.interop.convert import ConversionReport, convert
    from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM, Qwen3LLadaModel
    from dlm.model.load_model import load_model as load
    from dlm.sampling import GenerateOutput, generate, iter_generate
    from dlm.training.run import RunResult, run

__version__ = version("dlm")

__all__ = [
    "ConversionReport",
    "GenerateOutput",
    "LogLikelihood",
    "Perplexity",
    "Qwen3LLadaConfig",
    "Qwen3LLadaForMaskedLM",
    "Qwen3LLadaModel",
    "RunResult",
    "convert",
    "generate",
    "iter_generate",
    "load",
    "log_likelihood",
    "perplexity",
    "run",
]

# Imported when they are first asked for: the training engine alone takes seconds, and `dlm validate` needs none of it.
_LATER = {
    "Qwen3LLadaConfig": ("dlm.model", "Qwen3LLadaConfig"),
    "Qwen3LLadaForMaskedLM": ("dlm.model", "Qwen3LLadaForMaskedLM"),
    "Qwen3LLadaModel": ("dlm.model", "Qwen3LLadaModel"),
    "ConversionReport": ("dlm.interop.convert", "ConversionReport"),
    "convert": ("dlm.interop.convert", "convert"),
    "load": ("dlm.model.load_model", "load_model"),
    "GenerateOutput": ("dlm.sampling", "GenerateOutput"),
    "generate": ("dlm.sampling", "generate"),
    "iter_generate": ("dlm.sampling", "iter_generate"),
    "LogLikelihood": ("dlm.evaluation.likelihood", "LogLikelihood"),
    "Perplexity": ("dlm.evaluation.likelihood", "Perplexity"),
    "log_likelihood": ("dlm.evaluation.likelihood", "log_likelihood"),
    "perplexity": ("dlm.evaluation.likelihood", "perplexity"),
    "RunResult": ("dlm.training.run", "RunResult"),
    "run": ("dlm.training.run", "run"),
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    found: object = getattr(import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


# The command makes its options of what is in here, and its help should not wait for torch; it has a use for the model
# type where it loads models, which imports `dlm.model` anyway.
if "dlm_cli.main" not in sys.modules:
    import_module("dlm.model")
