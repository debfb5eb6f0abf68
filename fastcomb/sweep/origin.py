"""Where a sweep's combinations come from, so that they can be rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from fastcomb.backends import Backend
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.criterion import Criterion
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.functional import Mixture
from fastcomb.program import private_copy
from fastcomb.program.choose import unhooked
from fastcomb.sampling.parse import parse_sampler
from fastcomb.sweep.endpoint_results import EndpointResult, endpoint_results
from fastcomb.sweep.experiment import Experiment
from fastcomb.sweep.job import Job
from fastcomb.sweep.networks import load_networks
from fastcomb.sweep.run import Run
from fastcomb.utils.digest import of_samples
from fastcomb.utils.state_dicts import restore


class Origin(Protocol):
    """What a combination's number stands for."""

    @property
    def mixture(self) -> Mixture:
        """The sequence of networks."""

    @property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        """What the networks score by themselves; empty where that is not known."""

    @property
    def loss(self) -> str:
        """What the loss is called; "" for a callable."""

    def rebuild(self, index: int) -> nn.Module:
        """A combination as a module, with the running statistics that it ran with."""


@dataclass(frozen=True, eq=False)
class Ran:
    """What ran in this process. Copied or sent elsewhere, it goes without data and backend.

    Attributes:
        mixture: the sequence of networks.
        module, normalisation, dtype: how they ran.
        loss: what it is called; "" for a callable.
        experiment: what to evaluate the networks themselves with; gone from copies.
        runner: the backend; gone from copies, which work out statistics on the reference.
    """

    mixture: Mixture
    module: nn.Module
    normalisation: Normalisation
    dtype: torch.dtype
    loss: str
    experiment: Experiment | None
    runner: Backend | None

    @staticmethod
    def of(experiment: Experiment, job: Job) -> Ran:
        """What a job runs, with the mixture where the backend has it."""
        runner = job.runner
        mixture = experiment.mixture.to(runner.mixture.device)
        loss = str(experiment.loss) if isinstance(experiment.loss, Criterion) else ""
        return Ran(mixture, job.module, experiment.normalisation, experiment.dtype, loss, experiment, runner)

    @cached_property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        """What the networks score by themselves, evaluated when first asked for or when this is copied."""
        return endpoint_results(self.experiment) if self.experiment else ()

    def rebuild(self, index: int) -> nn.Module:
        """A combination as a module, with statistics from the backend or, in copies, the reference."""
        runner = self.runner or TorchReference(
            self.mixture, self.module, dtype=self.dtype, normalisation=self.normalisation
        )
        return _rebuilt(self.module, self.mixture, runner.statistics(index), index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "endpoints": self.endpoints, "experiment": None, "runner": None}


@dataclass(frozen=True)
class Saved(Origin):
    """What a run's folder says; read when it is asked for.

    Args:
        run: the folder.
        model: the module that the networks are weights of, or None if it is not known.
        calibration: inputs, for runs whose running statistics were recomputed.
    """

    run: Run
    model: nn.Module | None
    calibration: Any

    @property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        """What the networks score by themselves, as the manifest has it; empty until a sweep has ended."""
        return self.run.manifest.endpoints

    @property
    def loss(self) -> str:
        """What the loss is called, as the manifest has it; "" for a callable."""
        loss = self.run.manifest.experiment["loss"]
        return loss if isinstance(loss, str) else ""

    @cached_property
    def mixture(self) -> Mixture:
        """The sequence of the networks that the run keeps, with its sampler and seed."""
        experiment = self.run.manifest.experiment
        first, *others = load_networks(self.run.networks).values()
        sampler = parse_sampler(experiment["sampler"]["law"])
        return Mixture(first, others if len(others) > 1 else others[0], sampler, experiment["seed"])

    def rebuild(self, index: int) -> nn.Module:
        """A combination as a module, with statistics from the reference.

        Raises:
            ValueError: no module was given, or other calibration inputs than the run's.
        """
        if self.model is None:
            raise ValueError(
                f"a run keeps weights, not code; pass the module: open_sweep({str(self.run.path)!r}, model=…)"
            )
        return _rebuilt(self.model, self.mixture, self._reference.statistics(index), index)

    @cached_property
    def _reference(self) -> TorchReference:
        """What works out statistics for ``rebuild``, on the calibration inputs that the run had."""
        assert self.model is not None
        experiment = self.run.manifest.experiment
        module = private_copy(self.model).eval()
        choice, buffers = experiment["batch_norm"]["choice"], experiment.get("buffers")
        normalisation = Normalisation.choose(module, self.mixture, choice, self.calibration, buffers)
        digests = list(map(of_samples, normalisation.batches))
        if digests != experiment["batch_norm"]["calibration"]:
            raise ValueError("calibration= is not what the run was calibrated on; pass the same inputs")
        dtype = getattr(torch, experiment["dtype"])
        return TorchReference(self.mixture, module, dtype=dtype, normalisation=normalisation)


def _rebuilt(module: nn.Module, mixture: Mixture, statistics: Any, index: int) -> nn.Module:
    module = unhooked(private_copy(module).eval())
    restore(module, mixture[index])
    for name, buffer in module.named_buffers():
        if name in statistics:
            buffer.copy_(statistics[name])
    return module
