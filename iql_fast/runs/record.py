"""What a run's record has to hold, and as what: people edit it, and other programs write it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from iql_fast.environments.scoring import Scoring

#: Of float32.
LARGEST = float(np.finfo(np.float32).max)

Test = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _count(value: Any) -> bool:
    return _whole(value) and value >= 1


def _number(value: Any) -> bool:
    return type(value) is float or _whole(value)


def _single(value: Any) -> bool:
    """What float32 holds."""
    return _number(value) and abs(value) <= LARGEST


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(test: Test, length: int | None = None) -> Test:
    """Of a list of one or more, or of that many."""

    def fits(value: Any) -> bool:
        right = isinstance(value, list) and value and length in (None, len(value))
        return bool(right) and all(map(test, value))

    return fits


def _part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _text(value[0]) and _count(value[1])


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _scores(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _policy(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    kind = value.get("kind", "mlp")  # of before there were others
    if kind == "mlp":
        return _text(value.get("net")) and _count(value.get("parts"))
    if kind == "sequence":
        counts = all(_count(value.get(name)) for name in ("context", "heads"))
        numbers = _single(value.get("target_return")) and _single(value.get("return_scale"))
        return _text(value.get("net")) and counts and numbers and value["return_scale"] > 0
    nets = all(_text(value.get(role)) for role in ("maker", "critic"))
    if kind == "decoded":
        numbers = all(_list_of(_number)(value.get(name)) for name in ("phi", "latent_clip"))
        return nets and _text(value.get("mover")) and numbers and _count(value.get("samples"))
    bounds = _list_of(_number, 2)(value.get("log_std_range"))
    return kind == "gaussian" and nets and bounds and _count(value.get("samples"))


def _two(right: Callable[[float, float], bool]) -> Test:
    """Of two lists of numbers, of which each pair is right."""
    lists = _list_of(_list_of(_single), 2)
    return lambda value: lists(value) and all(map(right, value[0], value[1]))


def _reference(value: Any) -> bool:
    return _list_of(_single, 2)(value) and bool(value[0] < value[1])


#: What whoever reads a record takes from it, and what that has to be.
REQUIRED: dict[str, tuple[Test, str]] = {
    "options.task": (_text, "a text"),
    "options.seed": (_whole, "a whole number"),
    "options.seeds": (_count, "a positive number"),
    "options.steps": (_count, "a positive number"),
    "data.title": (_text, "a text"),
    "scoring.environment": (_or_none(_text), "a text or null"),
    "scoring.reference": (_or_none(_reference), "two numbers, the first the lower, or null"),
    "data.origin": (_text, "a text"),
    "data.return_mean": (_or_none(_number), "a number or null"),
}
OPTIONAL: dict[str, tuple[Test, str]] = {
    "data.rows": (_count, "a positive number"),
    "data.reward_scale": (_number, "a number"),
    "data.reward_shift": (_number, "a number"),
    "data.sha256": (_text, "a text"),
    "versions": (_texts, "an object of texts"),
    "scoring.note": (_text, "a text"),
    "scoring.horizon": (_whole, "a whole number"),
    "scoring.published": (_scores, "an object of numbers"),
    "scoring.physics": (_text, "a text"),
    "scoring.measure": (lambda value: value in ("return", "success"), "return or success"),
    "observation_scaling": (
        _or_none(_two(lambda _, scale: scale > 0)),
        "a list of means and one of positive scales, or null",
    ),
    "action_bounds": (
        _or_none(_two(lambda low, high: low < high)),
        "two lists of numbers, those of the first the lower, or null",
    ),
    "policy": (_or_none(_policy), "an object with what its kind of policy consists of, or null"),
    "observation_layout": (_or_none(_list_of(_part)), "a list of [path, size] or null"),
}


def fault(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record whose ``options``, ``data`` and ``scoring`` are objects."""
    for path, (fits, expected) in (REQUIRED | OPTIONAL).items():
        *parents, name = path.split(".")
        node: Any = record
        for parent in parents:
            node = node[parent]
        if name not in node:
            if path in REQUIRED:
                return f"{path!r} is missing"
        elif not fits(node[name]):
            return f"{path!r} is {str(node[name])[:60]}; expected {expected}"
    known = {field.name for field in dataclasses.fields(Scoring)}
    if unknown := sorted(record["scoring"].keys() - known):
        return f"'scoring' holds {unknown[0]!r}, which this version does not know"
    return None
