"""An option's value from YAML, JSON or Python as the type that the option is annotated with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from iql_fast.support.errors import UserError


def typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """A value as that type: exact, though a whole number may stand as 1e6, and one number in place
    of several.

    Raises:
        UserError: it is of another type; names the option and ``where`` it stands.
    """
    kinds = (hint, *get_args(hint), *(part for kind in get_args(hint) for part in get_args(kind)))
    several = any(get_origin(kind) is tuple for kind in kinds) and isinstance(
        value, int | float | str
    )
    try:
        if isinstance(value, set | frozenset) or any(map(_is_huge, _numbers(value))):
            raise TypeError  # the first has no order; the second neither engine nor JSON can hold
        if isinstance(value, str) and Path not in kinds:
            value.encode()  # half a character, which only names of files may hold
        return msgspec.convert(
            [value] if several else value,
            hint,
            strict=not {int, float} & set(kinds),  # 1e6 is text in YAML and a float in JSON
            dec_hook=lambda kind, text: kind(text),  # paths
        )
    except (msgspec.ValidationError, TypeError, ValueError):
        raise UserError(
            f"{where}: {name} is {_shown(value)}; expected {_expected(hint)}."
        ) from None


def _numbers(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_huge(value: Any) -> bool:
    """Whether a number has more digits than Python prints, 4,300."""
    return isinstance(value, int) and value.bit_length() > 14_000


def _shown(value: Any) -> str:
    """A value in a message, as far as it can be printed: Python refuses to print a number of
    thousands of digits, which YAML can hold."""
    try:
        return ascii(value) if isinstance(value, str) else repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _expected(hint: Any) -> str:
    """What a value of that type is called."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple:
        count = "" if ... in parts else f"{len(parts)} "
        kinds = {int: "whole numbers", str: "names"}
        return f"{count}{kinds.get(parts[0], 'numbers')}"
    if parts:  # an option that may be left out
        return _expected(parts[0])
    return {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(
        hint, "text"
    )
