"""The names under which Gymnasium makes the environments of the paper's tasks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Registration(NamedTuple):
    """An environment class, as ``module:class`` below this package so that nothing is imported
    before one is made, its horizon in steps, and the arguments that make it this environment."""

    entry_point: str
    horizon: int
    arguments: dict[str, Any] = {}  # noqa: RUF012 - shared, and never changed


#: By what follows ``iql_fast/`` in an id. Every class takes ``physics="d4rl"`` or ``"gymnasium"``.
REGISTRATIONS = {
    "hopper-v2": Registration("locomotion:Hopper", 1000),
    "walker2d-v2": Registration("locomotion:Walker2d", 1000),
    "halfcheetah-v2": Registration("locomotion:HalfCheetah", 1000),
    "pen-v0": Registration("adroit:Pen", 100),
    "hammer-v0": Registration("adroit:Hammer", 200),
    "door-v0": Registration("adroit:Door", 200),
    "relocate-v0": Registration("adroit:Relocate", 200),
    "pen-binary-v0": Registration("adroit:Pen", 100, {"binary": True}),
    "door-binary-v0": Registration("adroit:Door", 200, {"binary": True}),
    "relocate-binary-v0": Registration("adroit:Relocate", 200, {"binary": True}),
}


def register() -> None:
    """Tell Gymnasium of every environment; again is harmless."""
    import gymnasium

    for name, (entry_point, horizon, arguments) in REGISTRATIONS.items():
        if f"iql_fast/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"iql_fast/{name}",
                f"iql_fast.environments.{entry_point}",
                max_episode_steps=horizon,
                kwargs=dict(arguments),
            )
