"""Sweeps: evaluating ranges of combinations on data."""

from fastcomb.sweep.cluster import Ray
from fastcomb.sweep.decided import Decided
from fastcomb.sweep.evaluate import evaluate
from fastcomb.sweep.result import Sweep
from fastcomb.sweep.saved import merge, open_sweep

__all__ = ["Decided", "Ray", "Sweep", "evaluate", "merge", "open_sweep"]
