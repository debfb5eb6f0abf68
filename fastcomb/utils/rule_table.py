"""Tables of rules by operation, which functions are entered into where they are written."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

Rule = TypeVar("Rule", bound=Callable[..., Any])


def registering(table: MutableMapping[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that enters a function under the names that it is given: ``@rule("add", "sub")``."""

    def rule(*operations: str) -> Callable[[Rule], Rule]:
        def register(function: Rule) -> Rule:
            table.update(dict.fromkeys(operations, function))
            return function

        return register

    return rule
