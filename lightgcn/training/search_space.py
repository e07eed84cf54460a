"""The settings that `tune` searches, a line per setting."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightgcn.training.config import PRESETS, Preset

# Trials before the Gaussian process takes over: presets, then draws at random.
STARTUP_TRIALS = 8
# Batch sizes that give more steps per epoch are left out, if there are larger ones.
_MOST_STEPS = 400


@dataclass(frozen=True)
class Dimension:
    """A setting to search: one of ``choices`` (ordered, if numbers), or a number from ``low`` to
    ``high``.

    ``at_random`` fixes the value for the trials that are drawn at random; None for any value.
    ``start`` is a value of a range that is not rounded.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    at_random: Any = None
    start: float | None = None

    def including(self, value: Any) -> Dimension:
        """Return the dimension, widened to hold the start; a ValueError if it cannot."""
        if self.log and value <= 0:
            raise ValueError(
                f"start: {self.name} is {value}, but a search multiplies it: start with a positive "
                f"number, or fix it (fixed=[{self.name!r}])"
            )
        if not self.choices:
            low, high = min(self.low, value), max(self.high, value)
            return replace(self, low=low, high=high, start=value)
        if value in self.choices:
            return self
        return replace(self, choices=tuple(sorted((*self.choices, value), key=_order)))

    def holds(self, value: Any) -> bool:
        """Return whether a value is in the dimension."""
        return value in self.choices if self.choices else self.low <= value <= self.high

    def encode(self, value: Any) -> Any:
        """Return a value for the sampler: the index of an ordered choice, else the value."""
        return self.choices.index(value) if self._is_ordered else value

    def decode(self, value: Any) -> Any:
        """Return the value that `encode` encoded; numbers of a range are rounded to 3 digits."""
        if self.choices:
            return self.choices[value] if self._is_ordered else value
        if value == self.start:
            return value
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def distribution(self) -> Any:
        """Return Optuna's distribution of the encoded values."""
        from optuna import distributions

        if self._is_ordered:
            return distributions.IntDistribution(0, len(self.choices) - 1)
        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    @property
    def _is_ordered(self) -> bool:
        return any(isinstance(choice, int | float) for choice in self.choices)


SPACE = (
    Dimension("loss", ("softmax", "bpr"), at_random="softmax"),
    Dimension("num_layers", (0, 1, 2, 3, 4)),
    Dimension("embedding_dim", (32, 64, 128, 256)),
    Dimension("normalization", ("symmetric", "mean")),
    Dimension("init", ("xavier", "normal", "spectral")),
    Dimension("init_std", low=2e-3, high=0.2, log=True),
    Dimension("learning_rate", low=3e-4, high=1e-2, log=True),
    Dimension("batch_size", (128, 512, 2048, 8192, 16384, 32768)),
    Dimension("temperature", low=0.05, high=0.5, log=True),
    Dimension("negative_weight", low=0.6, high=1.1),
    Dimension("block_size", (512, 1024, 2048, 4096)),
    Dimension(
        "popularity_prior", (0.0, 0.03, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, None)
    ),
    Dimension("item_knn", (0, 10, 20, 50, 200)),
    Dimension("item_knn_weight", low=0.05, high=0.8, log=True),
    Dimension("time_decay", (0.0, 0.5, 1.0, 2.0)),
    Dimension("time_decay_weight", low=0.1, high=1.5, log=True),
    Dimension("l2", (0.0, 1e-5, 1e-4, 1e-3)),
)


def search_space(
    start: Preset, num_edges: int, *, max_dim: int, fixed: Collection[str] = ()
) -> tuple[Dimension, ...]:
    """Return the dimensions for ``num_edges`` train edges, without ``fixed`` ones.

    Each contains the value of the start."""
    return tuple(
        _fitted(dimension, num_edges, max_dim).including(start.flat()[dimension.name])
        for dimension in SPACE
        if dimension.name not in fixed
    )


def _fitted(dimension: Dimension, num_edges: int, max_dim: int) -> Dimension:
    choices = dimension.choices
    if dimension.name == "embedding_dim":
        choices = tuple(width for width in choices if width <= max_dim) or (max_dim,)
    elif dimension.name == "batch_size":
        some = tuple(size for size in choices if num_edges / _MOST_STEPS <= size <= num_edges)
        choices = some or (min(choices, key=lambda size: abs(math.log(size / num_edges))),)
    return replace(dimension, choices=choices)


def first_trials(space: Sequence[Dimension], start: Preset) -> list[dict[str, Any]]:
    """Return the values of the start, and of each preset that lies in the space."""
    trials = [{dimension.name: start.flat()[dimension.name] for dimension in space}]
    for preset in PRESETS.values():
        values = {dimension.name: preset.flat()[dimension.name] for dimension in space}
        if values not in trials and all(
            dimension.holds(values[dimension.name]) for dimension in space
        ):
            trials.append(values)
    return trials


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log, and its warning that the sampler is experimental (version 4)."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _order(value: Any) -> float:
    """Sort key: numbers by size, None last (a batch size of all edges; no popularity prior)."""
    return math.inf if value is None else value


def require_optuna() -> None:
    """Raise a ValueError with the install command if Optuna is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError('tune needs Optuna: pip install "lightgcn[tune]"') from error
