"""Training: settings, batches, the loop, several processes, the search for settings."""

from lightgcn.training.config import PRESETS, Preset, TrainConfig, preset, save_preset
from lightgcn.training.trainer import TrainResult, fit, train
from lightgcn.training.tuning import TuneResult, tune

__all__ = [
    "PRESETS",
    "Preset",
    "TrainConfig",
    "TrainResult",
    "TuneResult",
    "fit",
    "preset",
    "save_preset",
    "train",
    "tune",
]
