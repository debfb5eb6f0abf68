"""How the networks of a measurement are evaluated: once chosen, the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fastcomb.data.samples import DATA_BUDGET, Data
from fastcomb.functional import Mixture
from fastcomb.mixing.endpoints import Theta, structure
from fastcomb.program import private_copy
from fastcomb.program.choose import Output
from fastcomb.rebasin import Alignment, Method, align
from fastcomb.sampling.samplers import Constant, Sampler
from fastcomb.statistics.density import Array
from fastcomb.sweep import Sweep, evaluate
from fastcomb.sweep.measures import UserLoss
from fastcomb.utils.inputs import Samples, ready
from fastcomb.utils.state_dicts import restore, unwrapped


class Options(TypedDict, total=False):
    """Keyword arguments that are handed to :func:`fastcomb.evaluate`, which explains them."""

    model: nn.Module | None
    loss: str | UserLoss
    batch_norm: str | None
    calibration: Any
    buffers: str | None
    accuracy: str | UserLoss | None
    output: Output | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    backend: str
    data_budget: int


@dataclass(frozen=True)
class Evaluation:
    """Evaluates networks on one data set in one way.

    Attributes:
        data: as :func:`fastcomb.evaluate` takes it; read once where it fits in memory.
        options: of the evaluation.
        example: the first two inputs.
    """

    data: Any
    options: Options
    example: Samples

    @staticmethod
    def of(data: Any, options: Options, *thetas: Theta) -> Evaluation:
        """Read the data once, and find the module that mappings and files are weights of."""
        samples = Data(data, options.get("data_budget", DATA_BUDGET))
        if samples.in_memory:
            data = samples.first(samples.samples)
        calibration = options.get("calibration")
        if isinstance(calibration, DataLoader):  # a shuffled one gives every network the same batches
            batches: Any = list(calibration)
            calibration = DataLoader(batches, batch_size=None, collate_fn=_as_they_are)
        model = structure(options.get("model"), *thetas)
        if model is None:
            raise ValueError("all networks are weights without a module; pass model= to say how to run them")
        example = ready(samples.first()[0], torch.device("cpu"))
        return Evaluation(data, {**options, "model": model, "calibration": calibration}, example)

    @property
    def model(self) -> nn.Module:
        """The module that all networks are weights of."""
        model = self.options["model"]
        assert model is not None
        return model

    def sweep(self, a: Theta, b: Theta, sampler: Sampler, n: int = 1, seed: int = 0) -> Sweep:
        """Combinations 0 to n − 1; raises KeyboardInterrupt unless all were evaluated."""
        sweep = evaluate(a, b, sampler, data=self.data, n=n, seed=seed, progress=False, **self.options)
        if not sweep.complete:
            raise KeyboardInterrupt
        return sweep

    def own(self, *thetas: Theta) -> Array:
        """Loss and accuracy [2, networks] of the networks themselves.

        Each has its own running statistics, or those recomputed for it with ``batch_norm="recompute"``.
        """
        return means([self.sweep(theta, theta, Constant(0.0, per="model")) for theta in thetas])

    def module(self, theta: Theta) -> nn.Module:
        """A network as a module."""
        if isinstance(theta, nn.Module):
            return unwrapped(theta)
        module = private_copy(self.model)
        restore(module, Mixture(theta, theta, Constant(0.0), model=module)[0])
        return module

    def align(
        self, a: nn.Module, b: Theta, method: Method, data: Any, seed: int, progress: bool | None
    ) -> Alignment:
        """Align b to a; ``data`` are those that the method needs, of ``matching_data=``.

        Raises:
            ValueError: it needs data and there are none.
        """
        if method.needs_data and data is None:
            raise ValueError(f"method={method.name!r} compares the networks on inputs; pass matching_data=")
        options: Any = {"output": self.options.get("output"), "seed": seed, "progress": progress}
        return align(a, b, method, data=data, example=self.example, **options)


def _as_they_are(batch: Any) -> Any:
    return batch


def means(sweeps: list[Sweep]) -> Array:
    """Mean loss and accuracy [2, sweeps], in float64."""
    return np.array([[s.loss.mean(dtype=float), s.accuracy.mean(dtype=float)] for s in sweeps]).T
