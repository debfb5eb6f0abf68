"""The captured network: an ordered list of known operations over named values and weights."""

from fastcomb.program.capture import CaptureError, capture
from fastcomb.program.example import example_inputs
from fastcomb.program.fold import folded
from fastcomb.program.ir import Node, Program, Value, Weight
from fastcomb.program.layers import Layer, find, layers
from fastcomb.program.private import cold_copy, private_copy
from fastcomb.program.samples import check_apart, dependence
from fastcomb.program.slices import SeveredError, between

__all__ = [
    "CaptureError",
    "Layer",
    "Node",
    "Program",
    "SeveredError",
    "Value",
    "Weight",
    "between",
    "capture",
    "check_apart",
    "cold_copy",
    "dependence",
    "example_inputs",
    "find",
    "folded",
    "layers",
    "private_copy",
]
