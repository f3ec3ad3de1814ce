"""Built-in maskings by name: which positions are corrupted, given the mask rate p."""

from collections.abc import Mapping

from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_plugins import Masking

COMPONENTS: Mapping[str, type[Masking]] = {
    "bernoulli": BernoulliMasking,
    "contiguous": ContiguousMasking,
}
