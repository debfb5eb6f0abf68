"""Work on tensors of the same shapes, recorded as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

#: Graphs that are kept; each holds memory.
_KEPT = 8


class Replay:
    """A function of tensors, without host synchronisation, run as a CUDA graph on CUDA devices.

    On other devices it is simply called, and so it is for the first arguments of new shapes, since many come
    only once; the second ones are recorded. A graph reads and writes its own memory: arguments are copied in,
    the result is copied out.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._graphs: dict[Hashable, _Graph | None] = {}

    def __call__(self, *arguments: Tensor, key: Hashable = None) -> Tensor:
        """The function's result.

        Args:
            *arguments: tensors on one device.
            key: what else the function depends on.
        """
        known = (key, tuple((t.shape, t.stride(), t.dtype) for t in arguments))
        if arguments[0].device.type != "cuda" or known not in self._graphs:
            if len(self._graphs) == _KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[known] = None
            return self._function(*arguments)
        graph = self._graphs[known] or _Graph(self._function, arguments)
        self._graphs[known] = graph
        return graph(arguments)


class _Graph:
    """A function recorded with arguments like these."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
        self._inputs = [argument.clone() for argument in arguments]
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(arguments[0].device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels for memory aligned like this are loaded before the recording
            function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
            self._result = function(*self._inputs)

    def __call__(self, arguments: tuple[Tensor, ...]) -> Tensor:
        for mine, given in zip(self._inputs, arguments, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._result.clone()
