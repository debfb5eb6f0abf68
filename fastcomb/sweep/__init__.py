"""Sweeps: evaluating ranges of combinations on data."""

from fastcomb.sweep.evaluate import evaluate
from fastcomb.sweep.result import Sweep

__all__ = ["Sweep", "evaluate"]
