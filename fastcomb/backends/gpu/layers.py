"""The layers of a Program that Triton's kernels run, each with what its kernel takes in."""

from __future__ import annotations

from fastcomb.backends.epilogue import Epilogue, is_mixed, match_epilogue
from fastcomb.program import Node, Program

_ACTIVATIONS = ("relu", "gelu", "gelu tanh", "silu")


def match_layers(program: Program, *, norms: bool) -> dict[str, Epilogue]:
    """Layers with their epilogues by name, in the Program's order.

    Args:
        program: the network.
        norms: whether batch norms may be taken in; not while their statistics are collected.
    """
    order = {name: at for at, name in enumerate(program.value_shapes)}
    taken = ("batch_norm",) if norms else ()

    def matched(node: Node) -> Epilogue:
        def there(name: str) -> bool:
            return order[name] <= order[node.name] and program.value_shapes[name] == node.shape

        return match_epilogue(program, node, norms=taken, residual=there, activations=_ACTIVATIONS)

    return {node.name: matched(node) for node in program if _is_layer(node)}


def _is_layer(node: Node) -> bool:
    """Whether the kernels run it: mixed weights, one group of channels, padding in numbers."""
    if node.op not in ("linear", "conv2d"):
        return False
    plain = node.op == "linear" or (
        node.arguments["groups"] == 1 and not isinstance(node.arguments["padding"], str)
    )
    return is_mixed(node) and plain
