"""Mixtures: the networks at the ends, and the virtual networks between them."""

from fastcomb.mixing.mixture import Mixture

__all__ = ["Mixture"]
