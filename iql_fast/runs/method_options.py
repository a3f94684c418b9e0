"""The options of the methods besides IQL: one for each setting that no other method shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from iql_fast import methods
from iql_fast.methods.base import Method, PerSeed
from iql_fast.support.errors import UserError

#: Settings that several methods have: one option each, whose default is the method's.
SHARED = (
    *("discount", "polyak", "batch_size", "hidden", "critics", "actor_dropout"),
    *("value_lr", "critic_lr", "actor_lr"),
)
#: Settings that follow from others.
_DERIVED = ("actor_schedule_steps",)


def own_settings(method: type[Method]) -> list[Field[Any]]:
    """The settings that a method alone has."""
    return [f for f in fields(method) if f.name not in (*SHARED, *_DERIVED)]


def option_of(method: str, setting: str) -> str:
    """The option of a method's own setting: its name in a record, with underscores. A name cannot
    begin with a digit, so that of ``10bc`` is another."""
    return f"{'top_bc' if method == '10bc' else method}_{setting}"


def per_seed_options(method: str) -> set[str]:
    """The options that take one value, or one for each seed."""
    cls = methods.get(method)
    own = {f.name for f in own_settings(cls)} if method != "iql" else set[str]()
    return {option_of(method, x) if x in own else x for x in cls.per_seed_names()}


def default_of(method: type[Method], setting: str) -> Any:
    """A setting's value where none is given; None where the method has no such setting."""
    if setting in method.unused:
        return None
    if setting == "usual_steps":
        return method.usual_steps
    for f in fields(method):
        if f.name == setting:
            return f.default if f.default is not MISSING else None
    return None


def values_by_method(setting: str) -> str:
    """Every method's value of a shared setting, for people: ``256; 100 for bcq``."""
    by_value: dict[str, list[str]] = {}
    for name in methods.NAMES:
        value = default_of(methods.get(name), setting)
        if value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            by_value.setdefault(shown, []).append(name)
    first, *others = sorted(by_value, key=lambda value: "iql" not in by_value[value])
    return "; ".join([first, *(f"{value} for {', '.join(by_value[value])}" for value in others)])


def options_of_others(method: str) -> set[str]:
    """The options of settings that only other methods have."""
    return {
        option_of(other, setting.name)
        for other in methods.NAMES
        if other not in (method, "iql")
        for setting in own_settings(methods.get(other))
    }


def given_for_others(values: Mapping[str, Any], method: str) -> str | None:
    """An option of another method's that was given, as it is spelled."""
    for other in methods.NAMES:
        for f in own_settings(methods.get(other)) if other not in (method, "iql") else ():
            option = option_of(other, f.name)
            if values[option] != _plain(f.default, per_seed=_is_per_seed(other, f.name)):
                return "--" + option.replace("_", "-")
    return None


def check_rewards(method: str, scale: float | None, shift: float | None) -> None:
    """Raise a ``UserError`` where rewards are to be changed for a method that takes none but the
    environment's."""
    if not methods.get(method).transforms_rewards and (scale, shift) != (None, None):
        raise UserError(
            f"--reward-scale, --reward-shift: --method {method} is asked for returns in the "
            f"environment's own rewards; --{method}-return-scale is what they are divided by."
        )


def learner(method: str, shared: Mapping[str, Any], own: Any, schedule: int) -> Method:
    """The method with its settings.

    Args:
        shared: those of ``SHARED``, completed.
        own: the group of options (``OwnSettings``).
        schedule: steps over which a rate falls, where the method has such a one.

    Raises:
        UserError: a value is out of its range.
    """
    cls = methods.get(method)
    names = {f.name for f in fields(cls)}
    values = {name: shared[name] for name in SHARED if name in names - cls.unused}
    values |= {f.name: getattr(own, option_of(method, f.name)) for f in own_settings(cls)}
    if "actor_schedule_steps" in names:
        values["actor_schedule_steps"] = schedule
    for name in values.keys() & set(cls.per_seed_names()):
        several = values[name]
        values[name] = several[0] if len(several) == 1 else tuple(several)
    try:
        return cls(**values)
    except ValueError as error:  # which begins with the setting's name
        name, _, rest = str(error).partition(" ")
        own_names = {f.name for f in own_settings(cls)}
        flag = option_of(method, name) if name in own_names else name
        raise UserError(f"--{flag.replace('_', '-')} {rest}.") from None


def _own_settings_class() -> type:
    """A dataclass with the own settings of all methods but IQL, whose are ``Algorithm``'s."""
    found = []
    for name in methods.NAMES:
        cls = methods.get(name)
        hints = get_type_hints(cls)
        for f in own_settings(cls) if name != "iql" else ():
            per_seed = _is_per_seed(name, f.name)
            kind = tuple[float, ...] if per_seed else hints[f.name]
            told = tyro.conf.arg(
                help=f"{cls.title}: {_described(cls, f.name)}",
                help_behavior_hint="(default: as said)" if f.default is None else None,
            )
            default = _plain(f.default, per_seed)
            found.append((option_of(name, f.name), Annotated[kind, told], field(default=default)))
    made = make_dataclass("OwnSettings", found, frozen=True)
    made.__doc__ = "Settings of single methods. Those that take several values take one a seed."
    made.__module__ = __name__
    return made


def _is_per_seed(method: str, setting: str) -> bool:
    return setting in methods.get(method).per_seed_names()


def _plain(value: Any, per_seed: bool) -> Any:
    return (float(value),) if per_seed and isinstance(value, PerSeed.__args__[0]) else value


def _described(cls: type[Method], setting: str) -> str:
    """What the class says of an attribute."""
    text = re.sub(r"\s+", " ", cls.__doc__ or "")
    names = [f.name for f in fields(cls)]
    after = "|".join(rf"{name}(?:, \w+)*: " for name in names) + "|Raises: |$"
    found = re.search(rf"(?:^| )(?:\w+, )*{setting}(?:, \w+)*: (.*?) ?(?={after})", text)
    return found[1].rstrip(".") if found else setting.replace("_", " ")


OwnSettings: Any = _own_settings_class()
