"""Built-in noise schedules by name: the mask rate p(t), from t = 0 (clean) to t = 1 (all masked)."""

from collections.abc import Mapping

from dlm_builtin_plugins.schedules.cosine import CosineSchedule
from dlm_builtin_plugins.schedules.power import PowerSchedule
from dlm_builtin_plugins.schedules.sigmoid import SigmoidSchedule
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins import NoiseSchedule

COMPONENTS: Mapping[str, type[NoiseSchedule]] = {
    "uniform": UniformSchedule,
    "cosine": CosineSchedule,
    "power": PowerSchedule,
    "sigmoid": SigmoidSchedule,
}
