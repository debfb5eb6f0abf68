"""Where a sweep's combinations come from, so that they can be rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from fastcomb.backends.torch_reference import TorchReference
from fastcomb.digest import Digest
from fastcomb.mixture import Mixture
from fastcomb.normalisation import Normalisation
from fastcomb.program import private_copy
from fastcomb.sampler_text import parse_sampler
from fastcomb.sweep.experiment import Job
from fastcomb.sweep.networks import load_networks
from fastcomb.sweep.run import Run


class Origin(Protocol):
    """What a combination's number stands for."""

    @property
    def mixture(self) -> Mixture:
        """The sequence of networks."""

    def rebuild(self, index: int) -> nn.Module:
        """A combination as a module, with the running statistics that it ran with."""


@dataclass(frozen=True)
class Ran(Origin):
    """What ran in this process."""

    job: Job

    @property
    def mixture(self) -> Mixture:
        return self.job.runner.mixture

    def rebuild(self, index: int) -> nn.Module:
        return _rebuilt(self.job.module, self.mixture, self.job.runner.statistics(index), index)


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

    @cached_property
    def mixture(self) -> Mixture:
        experiment = self.run.manifest.experiment
        first, *others = load_networks(self.run.networks).values()
        sampler = parse_sampler(experiment["sampler"]["law"])
        return Mixture(first, others if len(others) > 1 else others[0], sampler, experiment["seed"])

    def rebuild(self, index: int) -> nn.Module:
        if self.model is None:
            raise ValueError(
                f"a run keeps weights, not code; pass the module: open_sweep({str(self.run.path)!r}, model=…)"
            )
        return _rebuilt(self.model, self.mixture, self._reference.statistics(index), index)

    @cached_property
    def _reference(self) -> TorchReference:
        assert self.model is not None
        experiment = self.run.manifest.experiment
        module = private_copy(self.model).eval()
        choice, buffers = experiment["batch_norm"]["choice"], experiment.get("buffers")
        normalisation = Normalisation.choose(module, self.mixture, choice, self.calibration, buffers)
        found = [Digest().add(batch).hex for batch in normalisation.batches]
        if found != experiment["batch_norm"]["calibration"]:
            raise ValueError("calibration= is not what the run was calibrated on; pass the same inputs")
        dtype = getattr(torch, experiment["dtype"])
        return TorchReference(self.mixture, module, dtype=dtype, normalisation=normalisation)


def _rebuilt(module: nn.Module, mixture: Mixture, statistics: Any, index: int) -> nn.Module:
    module = private_copy(module).eval()
    module.load_state_dict(mixture[index])
    for name, buffer in module.named_buffers():
        if name in statistics:
            buffer.copy_(statistics[name])
    return module
