"""What decides the results of a combination, checked once: it can be run here or sent elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from fastcomb import backends
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.criterion import Criterion
from fastcomb.data.samples import Data
from fastcomb.functional import Mixture
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Theta
from fastcomb.program import choose, cold_copy, private_copy
from fastcomb.sampling.samplers import Sampler
from fastcomb.sampling.stream import STREAM_VERSION
from fastcomb.statistics.sequential_decision import Decide
from fastcomb.sweep import criteria, identity, losses, own_networks
from fastcomb.sweep.job import Job
from fastcomb.sweep.measures import UserLoss
from fastcomb.utils import digest
from fastcomb.utils.dtypes import dtype_name
from fastcomb.utils.inputs import Samples, arguments, ready
from fastcomb.utils.notice import notify


@dataclass(frozen=True, eq=False)
class Experiment:
    """A mixture, and how its combinations are evaluated.

    Attributes:
        mixture, module, normalisation, data: what is run, and on what.
        loss: what the user gave, read by :func:`fastcomb.sweep.criteria.read`.
        metrics: further measures by name, as the user gave them.
        dtype: compute dtype.
        backend: wanted backend, "auto" for the fastest.
        decide: question to answer instead of measuring, or None.
        accuracy: as the user gave it.

    What the module returns was chosen by ``output=`` (:mod:`fastcomb.program.choose`).
    """

    mixture: Mixture
    module: nn.Module
    normalisation: Normalisation
    data: Data
    loss: Criterion | UserLoss
    metrics: Mapping[str, UserLoss]
    dtype: torch.dtype
    backend: str
    decide: Decide | None = None
    accuracy: str | UserLoss | None = None

    @staticmethod
    def of(
        theta_a: Theta,
        theta_b: Theta | Sequence[Theta],
        sampler: Sampler,
        *,
        data: Any,
        model: nn.Module | None,
        seed: int,
        loss: str | UserLoss,
        metrics: Mapping[str, UserLoss] | None,
        batch_norm: str | None,
        calibration: Any,
        device: torch.device | None,
        dtype: torch.dtype | None,
        backend: str,
        data_budget: int,
        decide: Decide | None = None,
        accuracy: str | UserLoss | None = None,
        buffers: str | None = None,
        output: choose.Output | None = None,
    ) -> Experiment:
        """Check what :func:`fastcomb.evaluate` was given; it explains the arguments and what is raised."""
        asked = criteria.read(loss)
        losses.check_accuracy(accuracy)
        measures = losses.named(metrics or {})
        if decide is not None and not isinstance(decide, Decide):
            raise TypeError(f"decide is a {type(decide).__name__}; pass Below(metric, level) or Above(…)")
        if decide is not None and measures:
            raise ValueError("metrics= are means over all samples, which decide= does not take; drop one")
        thetas = endpoints.labelled(theta_a, theta_b)
        structure = endpoints.structure(model, *thetas.values())
        if structure is None:
            raise ValueError("all thetas are weights without a module; pass model= to say how to run them")
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(
                f"dtype={dtype!r} is not a floating-point dtype; pass torch.float32, torch.bfloat16, …"
            )
        backends.check_name(backend)
        mixture = Mixture(theta_a, theta_b, sampler, seed, model=structure)
        mixture = mixture.to(device or mixture.device)
        samples = Data(data, data_budget, criteria.ignored(asked))
        some = samples.first(own_networks.CHECKED)[0]
        some = ready(some, mixture.device, mixture.dtype if mixture.uniform else None)
        args, kwargs = arguments(some)
        module = cold_copy(private_copy(structure).to(mixture.device).eval(), *args, **kwargs)
        module = returning(module, some, output, loss)
        normalisation = Normalisation.choose(module, mixture, batch_norm, calibration, buffers)
        dtype = dtype or mixture.dtype
        samples.check_range(dtype)
        own_networks.check(thetas, mixture, module, some, dtype)
        return Experiment(
            mixture, module, normalisation, samples, asked, measures, dtype, backend, decide, accuracy
        )

    def start(self, device: torch.device | None = None) -> Job:
        """Ready to run, on ``device`` or where the mixture is."""
        mixture = self.mixture.to(device or self.mixture.device)
        module = self.module.to(mixture.device)
        x, y = self.data.first()
        runner, output, chunk, coupled = backends.start(
            self.backend,
            mixture,
            module,
            dtype=self.dtype,
            normalisation=self.normalisation,
            x=x,
            samples=self.data.samples,
            in_memory=self.data.in_memory,
        )
        target = y.to(mixture.device)
        scores = losses.scores(self.loss, self.accuracy, self.metrics, output, target, self.data)
        functions = {"loss": self.loss, "accuracy": self.accuracy, **self.metrics}
        joint = [n for n, f in functions.items() if callable(f) and losses.together(f, output, target)]
        if coupled or joint:
            chunk = self._together(joint)
        names = ("loss", "accuracy", *self.metrics)
        if self.decide:
            names = (f"{self.decide.metric}_estimate", "samples", "holds")
        cast = self.dtype if mixture.uniform or self.dtype != mixture.dtype else None
        return Job(runner, module, self.data.to(mixture.device, cast), scores, chunk, names)

    def _together(self, joint: Sequence[str]) -> int:
        """Samples to hand over at a time where they influence one another: all of them.

        Args:
            joint: measures in which they do; none where it is the network.

        Raises:
            ValueError: they cannot be handed over together.
        """
        what = f"in {', '.join(joint)}" if joint else f"in {type(self.module).__name__}"
        cause = f"samples influence one another {what}, so results depend on which are evaluated together"
        if not self.data.in_memory:
            raise ValueError(f"{cause}; raise data_budget= to evaluate all of them as one batch")
        if self.decide:
            raise ValueError(f"{cause}; decide= looks at a few samples at a time, so leave it out")
        notify(f"{cause}: all {self.data.samples} are evaluated as one batch")
        return self.data.samples

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON has it: two experiments with the same identity have the same."""
        mixture = self.mixture
        tables, rules, draw = mixture.law_arguments
        law = digest.Digest().text(repr(rules), repr(draw[2:])).add(tables)
        kind = type(self.module)
        output = choose.chosen(self.module)
        chosen = {
            "output": None if output is None else identity.of_output(output.given),
            "accuracy": None if self.accuracy is None else identity.of_function(self.accuracy),
            "buffers": self.normalisation.buffers,
        }
        return {choice: value for choice, value in chosen.items() if value is not None} | {
            "fastcomb": version("fastcomb"),
            "stream": STREAM_VERSION,
            "networks": {
                label: digest.of_tensors(network.tensors()) for label, network in mixture.networks.items()
            },
            "model": {
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "sha256": identity.of_module(self.module),
            },
            "sampler": {"law": repr(mixture.sampler), "sha256": law.hex},
            "seed": mixture.seed,
            "data": {"samples": self.data.samples, "sha256": self.data.digest()},
            "loss": str(self.loss) if isinstance(self.loss, Criterion) else identity.of_function(self.loss),
            "metrics": {name: identity.of_function(metric) for name, metric in self.metrics.items()},
            "dtype": dtype_name(self.dtype),
            "decide": self.decide and self.decide.record,
            "batch_norm": {
                "choice": self.normalisation.choice,
                "calibration": list(map(digest.of_samples, self.normalisation.batches)),
            },
        }


def returning(module: nn.Module, x: Samples, output: choose.Output | None, loss: str | UserLoss) -> nn.Module:
    """A private copy that returns what a loss takes: one tensor, or for a callable all that there is."""
    own = callable(loss) and not isinstance(loss, nn.modules.loss._Loss)
    return choose.choose(module, x, output, default="result" if own else "obvious")
