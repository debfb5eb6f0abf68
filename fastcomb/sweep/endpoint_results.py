"""Loss and accuracy of the networks themselves, beside which those of their combinations stand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fastcomb.backends.batch_norm import Normalisation
from fastcomb.functional import Mixture
from fastcomb.sampling.samplers import Constant
from fastcomb.sweep.experiment import Experiment


@dataclass(frozen=True)
class EndpointResult:
    """What one of a sweep's networks scores by itself.

    Attributes:
        label: "theta_a" and "theta_b", or "theta_b[0]", ….
        loss, accuracy: means over the samples, as the sweep measures them; NaN where accuracy has no
            meaning.
    """

    label: str
    loss: float
    accuracy: float


def endpoint_results(experiment: Experiment) -> tuple[EndpointResult, ...]:
    """Evaluate the networks of an experiment as it evaluates combinations.

    Each has its own buffers and running statistics, or with ``batch_norm="recompute"`` recomputed ones.
    """
    results = []
    for label, network in experiment.mixture.networks.items():
        alone = Mixture(network, network, Constant(0.0, per="model"), model=experiment.module)
        alone = alone.to(experiment.mixture.device)
        normalisation = experiment.normalisation
        chosen = (
            Normalisation(normalisation.choice, batches=normalisation.batches)
            if normalisation.batches
            else Normalisation.choose(experiment.module, alone, normalisation.choice and "a", None)
        )
        single = dataclasses.replace(
            experiment, mixture=alone, normalisation=chosen, metrics={}, decide=None, backend="auto"
        )
        ((_, columns),) = single.start().run(0, 1)
        results.append(EndpointResult(label, float(columns["loss"][0]), float(columns["accuracy"][0])))
    return tuple(results)
