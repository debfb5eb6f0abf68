"""Similarity of networks: of what their layers represent, and of what they predict."""

from fastcomb.similarity.cka import linear_cka, linear_cka_matrix

__all__ = ["linear_cka", "linear_cka_matrix"]
