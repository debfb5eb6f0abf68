"""Re-basin: permuting the hidden units of one network so that it matches another."""

from fastcomb.rebasin.activations import ActivationMatching
from fastcomb.rebasin.align import align, align_all
from fastcomb.rebasin.alignment import Alignment, load
from fastcomb.rebasin.controls import Identity, Random
from fastcomb.rebasin.frank_wolfe import FrankWolfe
from fastcomb.rebasin.method import Method
from fastcomb.rebasin.perturb import perturb
from fastcomb.rebasin.repair import repair
from fastcomb.rebasin.sinkhorn import Sinkhorn
from fastcomb.rebasin.ste import StraightThrough
from fastcomb.rebasin.symmetries import Group, Matching, Member, Symmetries, symmetries
from fastcomb.rebasin.weights import WeightMatching

__all__ = [
    "ActivationMatching",
    "Alignment",
    "FrankWolfe",
    "Group",
    "Identity",
    "Matching",
    "Member",
    "Method",
    "Random",
    "Sinkhorn",
    "StraightThrough",
    "Symmetries",
    "WeightMatching",
    "align",
    "align_all",
    "load",
    "perturb",
    "repair",
    "symmetries",
]
