"""Phenomena of networks between networks: barriers, transitivity, robustness of the matching, diversity."""

from fastcomb.phenomena.barrier import Barrier, barrier
from fastcomb.phenomena.diversity import Diversity, diversity
from fastcomb.phenomena.robustness import Robustness, robustness
from fastcomb.phenomena.transitivity import Transitivity, transitivity
from fastcomb.result import Result

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
