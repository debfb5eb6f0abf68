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
    from fastcomb.config import show_config
    from fastcomb.decision import Above, Below
    from fastcomb.density import Density
    from fastcomb.mixture import Mixture
    from fastcomb.notice import BackendNotice
    from fastcomb.phenomena.barrier import Barrier, barrier
    from fastcomb.phenomena.diversity import Diversity, diversity
    from fastcomb.phenomena.robustness import Robustness, robustness
    from fastcomb.phenomena.transitivity import Transitivity, transitivity
    from fastcomb.program.capture import capture
    from fastcomb.program.ir import Program
    from fastcomb.rare import RareFraction, rare_fraction
    from fastcomb.sampler_text import parse_sampler
    from fastcomb.samplers import (
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
    from fastcomb.statistics.comparison import Comparison, compare
    from fastcomb.statistics.confidence_sequence import Precision
    from fastcomb.statistics.mean_estimate import MeanEstimate
    from fastcomb.statistics.means import antithetic_mean, stratified_mean
    from fastcomb.statistics.proportion import Interval, Proportion
    from fastcomb.stream import STREAM_VERSION
    from fastcomb.sweep.cluster import Ray
    from fastcomb.sweep.decided import Decided
    from fastcomb.sweep.evaluate import evaluate
    from fastcomb.sweep.result import Sweep
    from fastcomb.sweep.saved import merge, open_sweep
else:
    #: What type checkers read above: module → what it gives to this one; packages are themselves.
    _HOMES = {
        "rebasin": "",
        "similarity": "",
        "stitching": "",
        "config": "show_config",
        "decision": "Above Below",
        "density": "Density",
        "mixture": "Mixture",
        "notice": "BackendNotice",
        "phenomena.barrier": "Barrier barrier",
        "phenomena.diversity": "Diversity diversity",
        "phenomena.robustness": "Robustness robustness",
        "phenomena.transitivity": "Transitivity transitivity",
        "program.capture": "capture",
        "program.ir": "Program",
        "rare": "RareFraction rare_fraction",
        "sampler_text": "parse_sampler",
        "samplers": "Bernoulli Beta Constant Dirichlet Law Normal Sampler ScalarSampler Uniform",
        "statistics.comparison": "Comparison compare",
        "statistics.confidence_sequence": "Precision",
        "statistics.mean_estimate": "MeanEstimate",
        "statistics.means": "antithetic_mean stratified_mean",
        "statistics.proportion": "Interval Proportion",
        "stream": "STREAM_VERSION",
        "sweep.cluster": "Ray",
        "sweep.decided": "Decided",
        "sweep.evaluate": "evaluate",
        "sweep.result": "Sweep",
        "sweep.saved": "merge open_sweep",
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split() or [home]}

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = import_module(f"{__name__}.{home}")
        globals()[name] = value = found if name == home else getattr(found, name)
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
