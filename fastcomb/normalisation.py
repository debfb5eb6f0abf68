"""What to do with running statistics, which mixing does not touch.

The running mean and variance of a BatchNorm layer describe the activations of the network they were
collected on. A combination of two networks has other activations, so a choice must be made:

- ``"recompute"`` collects them anew for every combination on calibration data (the usual cure; REPAIR,
  Jordan et al., ICLR 2023). Each batch of calibration data gives every layer its mean and unbiased
  variance, with the layers below normalised by that batch's own statistics; the running statistics are
  the plain averages over the batches, as :func:`torch.optim.swa_utils.update_bn` computes them. Tensors
  are one batch, a DataLoader gives its own batches.
- ``"lerp"`` interpolates the networks' with the sampler's mean.
- ``"a"`` keeps θ_A's.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastcomb.endpoints import RUNNING_STATISTICS

if TYPE_CHECKING:
    from fastcomb.mixture import Mixture

CHOICES = ("recompute", "lerp", "a")


@dataclass(frozen=True)
class Normalisation:
    """A choice made: fixed statistics for all combinations, or batches to recompute them on.

    Attributes:
        choice: "recompute", "lerp", "a", or None for a model that has no running statistics in use.
        fixed: statistics by name where they are the same for all combinations.
        batches: calibration inputs, for "recompute".
    """

    choice: str | None = None
    fixed: dict[str, Tensor] | None = None
    batches: tuple[Tensor, ...] = ()

    @staticmethod
    def choose(model: nn.Module, mixture: Mixture, choice: str | None, calibration: Any) -> Normalisation:
        """Check the choice against the model and collect what it needs.

        Raises:
            ValueError: the choice is missing, unknown, or lacks its data or statistics.
        """
        if choice is not None and choice not in CHOICES:
            raise ValueError(f"batch_norm={choice!r} is none of {', '.join(map(repr, CHOICES))}")
        layers = [name for name, module in model.named_modules() if uses_running(module)]
        if not layers:
            return Normalisation()
        if choice is None:
            raise ValueError(
                f"the model normalises with running statistics ({layers[0] or 'itself'!r} and "
                f"{len(layers) - 1} more), which belong to no combination; choose "
                'batch_norm="recompute" (anew per combination on calibration=...), '
                "\"lerp\" (interpolate the networks' with the sampler's mean) or "
                '"a" (keep theta_a\'s)'
            )
        if choice == "recompute":
            if calibration is None:
                raise ValueError(
                    'batch_norm="recompute" needs calibration=: inputs, typically some hundred training '
                    "samples (a tensor, a Dataset or a DataLoader)"
                )
            return Normalisation(choice, batches=_inputs(calibration))
        means = [step.mean for step in mixture.steps] if choice == "lerp" else []
        if not all(map(math.isfinite, means)):
            raise ValueError(f'batch_norm="lerp" needs a sampler with a finite mean, not {mixture.sampler}')
        used = dict(itertools.islice(mixture.networks.items(), 1 + len(means)))
        fixed = {}
        for name in _statistics(layers):
            missing = [label for label, network in used.items() if name not in network.carried]
            if missing:
                raise ValueError(f"batch_norm={choice!r}: {missing[0]} has no {name!r}")
            value, *others = (n.carried[name].to(mixture.device, torch.float64) for n in used.values())
            for mean, other in zip(means, others, strict=True):
                value = value + mean * (other - value)
            fixed[name] = value
        return Normalisation(choice, fixed=fixed)


def uses_running(module: nn.Module) -> bool:
    """Whether the module normalises with running statistics in its present mode."""
    return (
        isinstance(module, nn.modules.batchnorm._NormBase)
        and module.running_mean is not None
        and not module.training
    )


@contextlib.contextmanager
def collecting(model: nn.Module) -> Iterator[list[str]]:
    """Let running statistics record one batch: within, each forward sets them to that batch's own.

    Yields the names of the statistics. The modules' modes are restored at the end.
    """
    layers = {name: module for name, module in model.named_modules() if uses_running(module)}
    before = {n: (m.momentum, m.num_batches_tracked) for n, m in layers.items()}
    try:
        for module in layers.values():
            module.training, module.momentum = True, 1.0
            module.num_batches_tracked = None
        yield _statistics(layers)
    finally:
        for name, module in layers.items():
            module.training = False
            module.momentum, module.num_batches_tracked = before[name]


def _statistics(layers: Iterable[str]) -> list[str]:
    """Names of the running statistics of these modules."""
    return [f"{layer}.{name}".lstrip(".") for layer in layers for name in RUNNING_STATISTICS]


def _inputs(calibration: Any) -> tuple[Tensor, ...]:
    if isinstance(calibration, np.ndarray):
        calibration = torch.from_numpy(calibration)
    if isinstance(calibration, Tensor):
        batches = [calibration]
    elif isinstance(calibration, DataLoader):
        batches = [_first(batch) for batch in calibration]
    elif isinstance(calibration, Dataset):
        samples = [_first(batch) for batch in DataLoader(calibration, batch_size=256)]
        batches = [torch.cat(samples)] if samples else []
    elif isinstance(calibration, (tuple, list)) and calibration and isinstance(calibration[0], Tensor):
        batches = [calibration[0]]
    else:
        raise TypeError(
            f"calibration is a {type(calibration).__name__}; pass a tensor of inputs, (x, y), a Dataset or "
            "a DataLoader"
        )
    if not batches or any(len(batch) == 0 for batch in batches):
        raise ValueError("calibration is empty; pass some hundred samples")
    return tuple(batches)


def _first(batch: Any) -> Tensor:
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(inputs, Tensor):
        raise TypeError(f"a calibration batch holds a {type(inputs).__name__}, not a tensor of inputs")
    return inputs
