"""The captured network: an ordered list of known operations over named values and weights."""

from fastcomb.program.capture import CaptureError, capture
from fastcomb.program.example import example_inputs
from fastcomb.program.ir import Node, Program, Value, Weight

__all__ = ["CaptureError", "Node", "Program", "Value", "Weight", "capture", "example_inputs"]
