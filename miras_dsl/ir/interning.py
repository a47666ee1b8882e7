"""Equal nodes are the same object, and a node computes its axes once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from .axes import Axes


class Interned(type):
    """Makes ``Class(fields…)`` return the one object with these fields, as long as anyone holds it."""

    _table: ClassVar[WeakValueDictionary[tuple[Any, ...], Any]] = WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        key = (cls, *(getattr(made, f.name) for f in fields(made)))
        return Interned._table.setdefault(key, made)


class Cached:
    """The slot in which `cached` keeps the axes of a node."""

    __slots__ = ("_axes",)


def cached(compute: Callable[[Any], Axes]) -> property:
    """A property that is computed at its first use.  Operands are shared, so computing axes anew at
    every use would take exponential time in the depth of a formula."""

    def get(node: Any) -> Axes:
        try:
            return node._axes
        except AttributeError:
            object.__setattr__(node, "_axes", compute(node))
            return node._axes

    return property(get, doc=compute.__doc__)
