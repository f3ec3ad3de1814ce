"""Built-in maskings by name: which positions are corrupted, given the mask rate p."""

from collections.abc import Mapping

from dlm_builtin_plugins.maskings.all import FullMasking
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.complementary import ComplementaryMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_builtin_plugins.maskings.semi_ar import SemiAutoregressiveMasking, TwoStageMasking
from dlm_builtin_plugins.maskings.trace import TraceMasking
from dlm_plugins import Masking

COMPONENTS: Mapping[str, type[Masking]] = {
    "all": FullMasking,
    "bernoulli": BernoulliMasking,
    "complementary": ComplementaryMasking,
    "contiguous": ContiguousMasking,
    "semi_ar": SemiAutoregressiveMasking,
    "trace": TraceMasking,
    "two_stage": TwoStageMasking,
}
