"""Re-basin: permuting the hidden units of one network so that it matches another."""

from fastcomb.rebasin.align import Alignment, align
from fastcomb.rebasin.symmetries import Group, Member, Symmetries, symmetries

__all__ = ["Alignment", "Group", "Member", "Symmetries", "align", "symmetries"]
