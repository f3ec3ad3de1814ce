"""Turn a pretrained autoregressive decoder into a masked-diffusion language model.

Importing ``dlm`` registers the model type ``qwen3llada`` with the Auto classes of transformers.
"""

from importlib.metadata import version

from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM, Qwen3LLadaModel
from dlm.model.convert import ConversionReport, convert
from dlm.model.loading import load_model as load
from dlm.sampling import GenerateOutput, generate, iter_generate
from dlm.training.run import RunResult, run

__version__ = version("dlm")

__all__ = [
    "ConversionReport",
    "GenerateOutput",
    "Qwen3LLadaConfig",
    "Qwen3LLadaForMaskedLM",
    "Qwen3LLadaModel",
    "RunResult",
    "convert",
    "generate",
    "iter_generate",
    "load",
    "run",
]
