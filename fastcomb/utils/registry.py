"""Methods by name: what ``method="weights", rounds=3`` stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

Method = TypeVar("Method")


class Registry(Generic[Method]):
    """Classes of one kind by the name that each has.

    Args:
        kind: their base class.
        classes: frozen dataclasses with a class attribute ``name``; their fields are the method's options.
    """

    def __init__(self, kind: type[Method], classes: Iterable[Any]) -> None:
        self._kind = kind
        self._classes: dict[str, Any] = {one.name: one for one in classes}

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._classes)

    def resolve(self, method: str | Method, options: Mapping[str, Any]) -> Method:
        """The method by its name and options, or itself.

        Raises:
            TypeError: it is neither a name nor a method.
            ValueError: unknown name or option, or options beside a method that has its own.
        """
        if isinstance(method, self._kind):
            if options:
                raise ValueError(f"options {', '.join(options)} belong into {type(method).__name__}(...)")
            return method
        if not isinstance(method, str):
            raise TypeError(f"method is a {type(method).__name__}; pass a name or a {self._kind.__name__}")
        if method not in self._classes:
            raise ValueError(f"method={method!r} is none of {', '.join(map(repr, self._classes))}")
        method_class = self._classes[method]
        known = {field.name for field in dataclasses.fields(method_class)}
        for name in options:
            if name not in known:
                has = f"has {', '.join(sorted(known))}" if known else "has none"
                raise ValueError(f"method={method!r} has no option {name!r}; it {has}")
        resolved: Method = method_class(**options)
        return resolved
