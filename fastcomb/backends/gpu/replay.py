"""Work on tensors of the same shapes, recorded once as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

#: Graphs that are kept; each holds memory.
_KEPT = 8


class Replay:
    """A function of tensors, without host synchronisation, run as a CUDA graph on CUDA devices.

    On other devices it is simply called. A graph reads and writes its own memory: arguments are copied in,
    the result is copied out.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, *arguments: Tensor, key: Hashable = None) -> Tensor:
        """The function's result.

        Args:
            *arguments: tensors on one device.
            key: what else the function depends on.
        """
        if arguments[0].device.type != "cuda":
            return self._function(*arguments)
        known = (key, tuple((t.shape, t.stride(), t.dtype) for t in arguments))
        if known not in self._graphs:
            if len(self._graphs) == _KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[known] = self._recorded(arguments)
        graph, inputs, result = self._graphs[known]
        for mine, given in zip(inputs, arguments, strict=True):
            mine.copy_(given)
        graph.replay()
        return result.clone()

    def _recorded(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [given.clone() for given in arguments]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles kernels and fills caches, which recording cannot
            self._function(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._function(*inputs)
        return graph, inputs, result
