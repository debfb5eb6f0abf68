"""Samplers as text, ``Uniform(low=-0.25, high=1.25, per='neuron')``, and back."""

from __future__ import annotations

import ast
from typing import Any

import scipy.stats

from fastcomb.sampling import samplers
from fastcomb.sampling.samplers import Sampler

_LAWS = ("Uniform", "Bernoulli", "Beta", "Normal", "Constant", "Dirichlet", "Law")


def parse_sampler(text: str) -> Sampler:
    """The sampler that ``text`` writes, as in Python; nothing else is evaluated.

    Args:
        text: a law of :mod:`fastcomb.sampling.samplers` with literal arguments, such as "Bernoulli(0.3)",
            "Uniform" for ``Uniform()``, or ``Law(dist=truncnorm(-1, 1, loc=0.5))`` with a distribution of
            :mod:`scipy.stats`. The ``repr`` of a sampler reads back as the same sampler.

    Raises:
        ValueError: the text is no such thing, or the law refuses its arguments.

    Example:
        >>> fc.parse_sampler("Uniform(-0.25, 1.25, per='neuron')")
        Uniform(per='neuron', bits=16, low=-0.25, high=1.25)
        >>> fc.parse_sampler(str(fc.Beta(2, 5))) == fc.Beta(2, 5)
        True
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        sampler = _built(tree, {name: getattr(samplers, name) for name in _LAWS})
    except (SyntaxError, TypeError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(
            f"{text!r} is not a sampler ({reason}); write one of {', '.join(_LAWS)} with its arguments, such "
            "as \"Uniform(-0.25, 1.25, per='neuron')\""
        ) from error
    assert isinstance(sampler, Sampler)
    return sampler


def _built(node: ast.expr, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("a call of a law is expected")
    name = node.func.id
    if name not in known:
        raise ValueError(f"unknown law {name!r}")
    args = [_value(argument, name) for argument in node.args]
    kwds = {str(keyword.arg): _value(keyword.value, name) for keyword in node.keywords}
    return known[name](*args, **kwds)


def _value(node: ast.expr, law: str) -> Any:
    if law == "Law" and isinstance(node, ast.Call):
        return _built(node, {n: getattr(scipy.stats, n) for n in _distributions()})
    return ast.literal_eval(node)


def _distributions() -> list[str]:
    generic = (scipy.stats.rv_continuous, scipy.stats.rv_discrete)
    return [name for name in dir(scipy.stats) if isinstance(getattr(scipy.stats, name), generic)]
