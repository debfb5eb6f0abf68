"""Measurements made of sweeps: barriers, transitivity, robustness, diversity, comparisons, cheaper means."""

from fastcomb.analysis.barrier import Barrier, barrier
from fastcomb.analysis.diversity import Diversity, diversity
from fastcomb.analysis.robustness import Robustness, robustness
from fastcomb.analysis.transitivity import Transitivity, transitivity
from fastcomb.utils.result import Result

__all__ = [
    "Barrier",
    "Diversity",
    "Result",
    "Robustness",
    "Transitivity",
    "barrier",
    "diversity",
    "robustness",
    "transitivity",
]
