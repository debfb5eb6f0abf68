"""Fractions of combinations too small for plain sampling, by subset simulation."""

from fastcomb.rare.fraction import rare_fraction
from fastcomb.rare.result import RareFraction

__all__ = ["RareFraction", "rare_fraction"]
