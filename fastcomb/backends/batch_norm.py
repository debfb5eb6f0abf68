"""What to do with running statistics and other buffers, which mixing does not touch.

The running mean and variance of a BatchNorm layer describe the activations of the network they were
collected on. A combination of two networks has other activations, so a choice must be made:

- ``"recompute"`` collects them anew for every combination on calibration data (the usual cure; REPAIR,
  Jordan et al., ICLR 2023). Each batch of calibration data gives every layer its mean and unbiased
  variance, with the layers below normalised by that batch's own statistics; the running statistics are
  the plain averages over the batches, as :func:`torch.optim.swa_utils.update_bn` computes them. Tensors
  are one batch, a DataLoader gives its own batches. A layer that is called several times gets the average
  over its calls, as there; an InstanceNorm that tracks statistics is treated likewise.
- ``"lerp"`` interpolates the networks' with the sampler's mean.
- ``"a"`` keeps θ_A's.

Other buffers (masks, codebooks, the statistics of a frozen BatchNorm, the vectors of spectral norm) belong to
a network too. Where the networks have the same there is nothing to choose; where they differ, ``buffers=``
says which are used: ``"a"``, θ_A's, or ``"lerp"``, interpolated with the sampler's mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcomb.data.reading import calibration_batches
from fastcomb.mixing import Mixture
from fastcomb.mixing.endpoints import RUNNING_STATISTICS, same
from fastcomb.utils.inputs import Samples
from fastcomb.utils.state_dicts import few

CHOICES = ("recompute", "lerp", "a")
BUFFERS = ("a", "lerp")


@dataclass(frozen=True)
class Normalisation:
    """Choices made: fixed statistics and buffers for all combinations, or batches to recompute them on.

    Attributes:
        choice: "recompute", "lerp", "a", or None for a model that has no running statistics in use.
        fixed: statistics and other buffers by name where they are the same for all combinations, and not
            θ_A's.
        batches: calibration inputs, for "recompute".
        buffers: "a", "lerp", or None where the networks' buffers do not differ.
    """

    choice: str | None = None
    fixed: dict[str, Tensor] | None = None
    batches: tuple[Samples, ...] = ()
    buffers: str | None = None

    @staticmethod
    def choose(
        model: nn.Module, mixture: Mixture, choice: str | None, calibration: Any, buffers: str | None = None
    ) -> Normalisation:
        """Check the choices against the model and collect what they need.

        Raises:
            ValueError: a choice is missing, unknown, or lacks its data or statistics.
        """
        if buffers is not None and buffers not in BUFFERS:
            raise ValueError(f"buffers={buffers!r} is none of {', '.join(map(repr, BUFFERS))}")
        normalisation = Normalisation._statistics(model, mixture, choice, calibration)
        differ = _differing(model, mixture)
        if not differ:
            return normalisation
        if buffers is None:
            raise ValueError(
                f"the networks' buffers {_few(differ)} differ, and mixing touches parameters only; choose "
                'buffers="a" (theta_a\'s for all combinations) or buffers="lerp" (interpolated with the '
                "sampler's mean)"
            )
        fixed = dict(normalisation.fixed or {})
        if buffers == "lerp":
            rigid = [n for n in differ if not _mixable(mixture.a.carried[n])]
            if rigid:
                raise ValueError(
                    f'buffers="lerp": {_few(rigid)} are no floating-point numbers and cannot be '
                    'interpolated; choose buffers="a"'
                )
            fixed |= {name: _interpolated(mixture, name, "buffers") for name in differ}
        return dataclasses.replace(normalisation, fixed=fixed, buffers=buffers)

    @staticmethod
    def _statistics(
        model: nn.Module, mixture: Mixture, choice: str | None, calibration: Any
    ) -> Normalisation:
        """The choice for running statistics alone.

        Raises:
            ValueError: it is missing, unknown, or lacks its data or statistics.
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
                    "samples (a tensor, a dict, a Dataset or a DataLoader)"
                )
            return Normalisation(choice, batches=calibration_batches(calibration))
        if choice == "a":
            missing = [name for name in _names(layers) if name not in mixture.a.carried]
            if missing:
                raise ValueError(f'batch_norm="a": theta_a has no {missing[0]!r}')
            return Normalisation(choice, fixed={name: mixture.a.carried[name] for name in _names(layers)})
        return Normalisation(
            choice, fixed={name: _interpolated(mixture, name, "batch_norm") for name in _names(layers)}
        )


def _interpolated(mixture: Mixture, name: str, option: str) -> Tensor:
    """A buffer of the networks, interpolated with the sampler's mean in float64."""
    means = [step.mean for step in mixture.steps]
    if not all(map(math.isfinite, means)):
        raise ValueError(f'{option}="lerp" needs a sampler with a finite mean, not {mixture.sampler}')
    missing = [label for label, network in mixture.networks.items() if name not in network.carried]
    if missing:
        raise ValueError(f'{option}="lerp": {missing[0]} has no {name!r}')
    buffers = [network.carried[name] for network in mixture.networks.values()]
    wide = torch.complex128 if buffers[0].is_complex() else torch.float64
    value, *others = (buffer.to(mixture.device, wide) for buffer in buffers)
    for mean, other in zip(means, others, strict=True):
        value = other if mean == 1 else value + mean * (other - value)
    interpolated: Tensor = value.to(buffers[0].dtype)
    return interpolated


def _differing(model: nn.Module, mixture: Mixture) -> list[str]:
    """Names of the model's buffers, other than statistics of its normalisations, that networks differ in."""
    statistics = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name in (*RUNNING_STATISTICS, "num_batches_tracked")
    }
    differing = []
    for name, _ in model.named_buffers():
        buffers = [n.carried[name] for n in mixture.networks.values() if name in n.carried]
        if name not in statistics and any(not same(buffers[0], other) for other in buffers[1:]):
            differing.append(name)
    return differing


def _mixable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _few(names: list[str]) -> str:
    return few(list(map(repr, names)))


def uses_running(module: nn.Module) -> bool:
    """Whether the module normalises with running statistics in its present mode."""
    return (
        isinstance(module, nn.modules.batchnorm._NormBase)
        and module.running_mean is not None
        and not module.training
    )


class Calls:
    """How often each normalisation is called in a pass, while running statistics are collected.

    Attributes:
        statistics: names of the running statistics.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.statistics = _names(layers)
        self._made = dict.fromkeys(layers, 0)

    def begin(self) -> None:
        """Before a pass."""
        self._made = dict.fromkeys(self._made, 0)

    def count(self, layer: str) -> int:
        """One more call of a layer; how many that makes."""
        self._made[layer] += 1
        return self._made[layer]

    def of(self, statistic: str) -> int:
        """Calls, in the last pass, of the layer that a statistic belongs to."""
        return self._made[statistic.rpartition(".")[0]]


@contextlib.contextmanager
def collecting(model: nn.Module) -> Iterator[Calls]:
    """Let running statistics record one batch: within, each pass sets them to that batch's own.

    A layer that is called several times in a pass gets the average over its calls. The modules' modes are
    restored at the end.
    """
    layers = {name: module for name, module in model.named_modules() if uses_running(module)}
    calls = Calls(layers)
    before = {n: (m.momentum, m.num_batches_tracked) for n, m in layers.items()}
    hooks = []

    def watch(layer: str) -> Any:
        def hook(module: Any, _: Any) -> None:
            module.momentum = 1 / calls.count(layer)

        return hook

    try:
        for name, module in layers.items():
            module.training, module.momentum = True, 1.0
            module.num_batches_tracked = None
            hooks.append(module.register_forward_pre_hook(watch(name)))
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in layers.items():
            module.training = False
            module.momentum, module.num_batches_tracked = before[name]


def _names(layers: Iterable[str]) -> list[str]:
    """Names of the running statistics of these modules."""
    return [f"{layer}.{name}".lstrip(".") for layer in layers for name in RUNNING_STATISTICS]
