"""The authors' settings, by family of tasks, and which of them fit data that are none of theirs."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Family = Literal["locomotion", "antmaze", "kitchen", "adroit", "adroit-binary", "neutral"]

#: Where the authors' settings depart from the defaults of ``Hyperparameters``. ``neutral`` is for
#: data of no family of the paper's: its commonest values, no dropout, rewards as they are. Those of
#: ``adroit-binary`` are in the paper's appendix on fine-tuning, where the authors' code has none.
PRESETS: dict[Family, dict[str, Any]] = {
    "locomotion": {"expectile": 0.7, "temperature": 3.0, "actor_dropout": 0.0},
    "antmaze": {"expectile": 0.9, "temperature": 10.0, "actor_dropout": 0.0},
    "kitchen": {"expectile": 0.7, "temperature": 0.5, "actor_dropout": 0.1},
    "adroit": {"expectile": 0.7, "temperature": 0.5, "actor_dropout": 0.1},
    "adroit-binary": {"expectile": 0.8, "temperature": 3.0, "actor_dropout": 0.0},
    "neutral": {"expectile": 0.7, "temperature": 3.0, "actor_dropout": 0.0},
}
#: (episodes, interval) of the authors' evaluation.
EVALUATION: dict[Family, tuple[int, int]] = {
    "locomotion": (10, 5_000),
    "antmaze": (100, 100_000),
    "kitchen": (10, 5_000),
    "adroit": (10, 5_000),
    "adroit-binary": (10, 5_000),
    "neutral": (10, 5_000),
}
#: Updates on the dataset before those in the environment, where the paper took others than a
#: method's usual number (its appendix on fine-tuning).
OFFLINE_STEPS: dict[Family, int] = {"adroit-binary": 25_000}

#: Words of a dataset's name that tell its family.
_WORDS: tuple[tuple[str, Family], ...] = (
    ("antmaze", "antmaze"),
    ("kitchen", "kitchen"),
    ("mujoco", "locomotion"),
    ("halfcheetah", "locomotion"),
    ("hopper", "locomotion"),
    ("walker2d", "locomotion"),
    ("d4rl/pen/", "adroit"),
    ("d4rl/hammer/", "adroit"),
    ("d4rl/door/", "adroit"),
    ("d4rl/relocate/", "adroit"),
)


class Preset(NamedTuple):
    """A family's settings, and why they were taken."""

    family: Family
    because: str


def of_name(name: str) -> Preset:
    """The preset that fits a dataset of this name."""
    for word, family in _WORDS:
        if word in name.lower():
            return Preset(family, f"{word!r} is in the dataset's name")
    return Preset("neutral", "the data are of no family of the paper's; --preset names one")


def values_of(setting: str) -> str:
    """Every family's value of a setting, for people: ``0.9 for antmaze, 0.7 for the others``."""
    families: dict[float, list[str]] = {}
    for family, preset in PRESETS.items():
        families.setdefault(preset[setting], []).append(family)
    most = max(families, key=lambda value: len(families[value]))
    parts = [f"{v:g} for {', '.join(names)}" for v, names in families.items() if v != most]
    return ", ".join((*parts, f"{most:g} for the others"))
