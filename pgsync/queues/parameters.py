"""What a handler can be called with: read once from its signature, asked for each job."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Parameters"]

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a function that is called by keyword."""

    signature: inspect.Signature
    required: frozenset[str]
    known: frozenset[str]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Parameters:
        """Read the function's signature."""
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind in _BY_NAME]
        return cls(
            signature,
            frozenset(p.name for p in named if p.default is inspect.Parameter.empty),
            frozenset(p.name for p in named),
        )

    def check(self, args: dict[str, Any]) -> None:
        """Refuse what the function cannot be called with.

        Raises:
            TypeError: if an argument is missing or unknown, in the words of a call.
        """
        given = args.keys()
        # Binding takes ten times as long; it judges what is left, ``**extra`` among it.
        if not (self.required <= given <= self.known):
            self.signature.bind(**args)
