"""fastcomb: evaluates millions of combinations of two neural networks.

``evaluate`` is the main job; ``Mixture`` the sequence of networks behind it; the samplers say how the
mixing coefficients are drawn; ``rebasin.align`` permutes one network to match another; ``barrier``,
``transitivity``, ``robustness`` and ``diversity`` measure what is between them; ``compare``,
``antithetic_mean``, ``stratified_mean`` and ``rare_fraction`` answer what a plain sweep answers poorly.

Everything is imported when it is first asked for (PEP 562), because torch alone takes seconds.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcomb import rebasin, similarity, stitching
    from fastcomb.analysis.barrier import Barrier, barrier
    from fastcomb.analysis.comparison import Comparison, compare
    from fastcomb.analysis.diversity import Diversity, diversity
    from fastcomb.analysis.mean_estimate import MeanEstimate
    from fastcomb.analysis.robustness import Robustness, robustness
    from fastcomb.analysis.transitivity import Transitivity, transitivity
    from fastcomb.analysis.variance_reduction import antithetic_mean, stratified_mean
    from fastcomb.functional import Mixture
    from fastcomb.kernels.config import show_config
    from fastcomb.program.capture import capture
    from fastcomb.program.ir import Program
    from fastcomb.rare import RareFraction, rare_fraction
    from fastcomb.sampling.parse import parse_sampler
    from fastcomb.sampling.samplers import (
        Bernoulli,
        Beta,
        Constant,
        Dirichlet,
        Law,
        Normal,
        Sampler,
        ScalarSampler,
        Uniform,
    )
    from fastcomb.sampling.stream import STREAM_VERSION
    from fastcomb.statistics.confidence_sequence import Precision
    from fastcomb.statistics.density import Density
    from fastcomb.statistics.proportion import Interval, Proportion
    from fastcomb.statistics.sequential_decision import Above, Below
    from fastcomb.sweep.cluster import Ray
    from fastcomb.sweep.decided import Decided
    from fastcomb.sweep.evaluate import evaluate
    from fastcomb.sweep.result import Sweep
    from fastcomb.sweep.saved import merge, open_sweep
    from fastcomb.utils.notice import BackendNotice
else:
    #: What type checkers read above: module → what it gives to this one; packages are themselves.
    _HOMES = {
        "rebasin": "",
        "similarity": "",
        "stitching": "",
        "analysis.barrier": "Barrier barrier",
        "analysis.comparison": "Comparison compare",
        "analysis.diversity": "Diversity diversity",
        "analysis.mean_estimate": "MeanEstimate",
        "analysis.robustness": "Robustness robustness",
        "analysis.transitivity": "Transitivity transitivity",
        "analysis.variance_reduction": "antithetic_mean stratified_mean",
        "kernels.config": "show_config",
        "functional": "Mixture",
        "program.capture": "capture",
        "program.ir": "Program",
        "rare": "RareFraction rare_fraction",
        "sampling.parse": "parse_sampler",
        "sampling.samplers": "Bernoulli Beta Constant Dirichlet Law Normal Sampler ScalarSampler Uniform",
        "sampling.stream": "STREAM_VERSION",
        "statistics.confidence_sequence": "Precision",
        "statistics.density": "Density",
        "statistics.proportion": "Interval Proportion",
        "statistics.sequential_decision": "Above Below",
        "sweep.cluster": "Ray",
        "sweep.decided": "Decided",
        "sweep.evaluate": "evaluate",
        "sweep.result": "Sweep",
        "sweep.saved": "merge open_sweep",
        "utils.notice": "BackendNotice",
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split() or [home]}

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{home}")
        globals()[name] = value = module if name == home else getattr(module, name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__version__ = version("fastcomb")

__all__ = [
    "STREAM_VERSION",
    "Above",
    "BackendNotice",
    "Barrier",
    "Below",
    "Bernoulli",
    "Beta",
    "Comparison",
    "Constant",
    "Decided",
    "Density",
    "Dirichlet",
    "Diversity",
    "Interval",
    "Law",
    "MeanEstimate",
    "Mixture",
    "Normal",
    "Precision",
    "Program",
    "Proportion",
    "RareFraction",
    "Ray",
    "Robustness",
    "Sampler",
    "ScalarSampler",
    "Sweep",
    "Transitivity",
    "Uniform",
    "antithetic_mean",
    "barrier",
    "capture",
    "compare",
    "diversity",
    "evaluate",
    "merge",
    "open_sweep",
    "parse_sampler",
    "rare_fraction",
    "rebasin",
    "robustness",
    "show_config",
    "similarity",
    "stitching",
    "stratified_mean",
    "transitivity",
]
