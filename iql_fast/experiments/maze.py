"""Figure 2 of the paper: one-step policy evaluation and IQL on a toy maze.

Once in tables, where both methods end exactly at the values that the data determine, and once with
networks trained by an engine, both methods in one run: one-step evaluation is IQL with tau = 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iql_fast import engines
from iql_fast.data.dataset import Transitions
from iql_fast.data.transform import ACTION_MARGIN
from iql_fast.experiments import gridworld, networks
from iql_fast.experiments.expectiles import Array
from iql_fast.experiments.gridworld import Maze as Gridworld
from iql_fast.experiments.gridworld import Steps
from iql_fast.experiments.mdp import (
    FiniteMDP,
    deterministic,
    expectile_values,
    greedy,
    policy_evaluation,
    value_iteration,
)
from iql_fast.policies.acting import played
from iql_fast.support import output
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ONE_STEP, IQL = 0.5, 0.95


@dataclass
class Maze:
    """Figure 2: V*, one-step policy evaluation and IQL (tau = 0.95) on a U-shaped maze whose data
    are one optimal trajectory and 99 of random actions, in tables and with networks."""

    out: Path = Path("experiments")
    """folder of maze.png and maze.json"""
    seed: int = 0
    """of the data and of the networks"""
    steps: int = 10_000
    """training steps of the networks"""
    quick: bool = False
    """train the networks for a tenth of the steps: enough to see the picture, not to be judged"""
    engine: Literal["auto", "cuda", "cpu", "reference"] = "auto"
    """auto takes the fastest that works here"""
    threads: int = 0
    """CPU threads (0: all cores)"""

    def run(self) -> None:
        """Collect, solve, train, print, draw.

        Raises:
            UserError: an option is out of range, the engine cannot be used here, or the folder
                cannot be written.
        """
        for name, least in {"steps": 10, "seed": 0, "threads": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; expected at least {least}.")
        engine_name, _ = engines.choose(self.engine)
        out = output.Output(self.out, "maze")
        steps = self.steps // 10 if self.quick else self.steps

        maze = gridworld.parse()
        data = gridworld.collect(maze, np.random.default_rng(self.seed))
        optimal = value_iteration(maze.mdp()).v
        methods = [
            Method("optimal", optimal, greedy(maze.mdp(), optimal)),
            *tabular(maze, data),
            *by_networks(maze, data, engine_name, steps, self.seed, self.threads),
        ]
        report = {method.name: judge(maze, method) for method in methods}
        output.print_table(
            f"A maze of {maze.states} cells, {len(data):,} steps of data",
            ("", "V, start", "worst V", "decay", "reached", "worst policy"),
            [
                (
                    name,
                    f"{row['start_value']:.3f}",
                    f"{row['largest_value_error']:.2f}",
                    f"{row['decay']:.3f}",
                    f"{row['reaches_goal_from']}/{maze.states - 1}",
                    f"{row['largest_policy_loss']:.2f}",
                )
                for name, row in report.items()
            ],
        )
        print(
            "worst V: the largest |V - V*|; decay: what V is multiplied by with each move away from"
            "\nthe goal; reached: cells from which the policy reaches the goal; worst policy: the "
            "largest\nloss of return against the optimal policy over cells."
        )
        draw(out, maze, methods, report, data, {"seed": self.seed, "steps": steps,
                                                "engine": engine_name})  # fmt: skip


@dataclass(frozen=True)
class Method:
    """What a method says.

    Attributes:
        v: ``[S]``, its values; 0 at the goal.
        actions: ``[S]``, its greedy policy.
    """

    name: str
    v: Array
    actions: np.ndarray


def tabular(maze: Gridworld, data: Steps) -> list[Method]:
    """One-step evaluation and IQL in tables: exact minimisers of their losses on the data."""
    mdp = gridworld.empirical_mdp(maze, data)
    methods = []
    for name, tau in {"one-step": ONE_STEP, "IQL": IQL}.items():
        v = expectile_values(mdp, tau).v
        methods.append(Method(f"{name}, table", v, greedy(mdp, v)))
    return methods


def by_networks(
    maze: Gridworld, data: Steps, engine_name: str, steps: int, seed: int, threads: int
) -> list[Method]:
    """The same with networks, side by side in one run of an engine from equal initial weights.

    The greedy policy takes the action of the data with the largest Q, the smaller of the two
    critics'; beside it stands the policy that advantage-weighted regression extracts.
    """
    from rich.progress import track

    mdp = gridworld.empirical_mdp(maze, data)
    transitions, actions = as_transitions(maze, data)
    hyper = engines.Hyperparameters(
        expectile=(ONE_STEP, IQL),
        discount=gridworld.DISCOUNT,
        temperature=10.0,
        polyak=0.01,  # values have some twenty moves to travel
        value_lr=1e-3,
        critic_lr=1e-3,
        actor_lr=1e-3,
        actor_schedule_steps=0,
    )
    spec = engines.NetworkSpec(transitions.obs_dim, transitions.act_dim, (64, 64))
    engine = engines.create(engine_name, spec, hyper, transitions, (seed, seed), threads=threads)
    for part in track(range(100), f"{steps:,} training steps", transient=True):
        engine.run(steps * (part + 1) // 100 - engine.step)
    state, cells = engine.state_dict(), np.eye(maze.states)
    pairs = np.concatenate(
        [np.repeat(cells, len(actions), 0), np.tile(actions, (maze.states, 1))], 1
    )
    methods = []
    for i, name in enumerate(("one-step", "IQL")):
        v = networks.outputs(state, "value", i, cells)
        v[maze.goal] = 0.0
        q = networks.outputs(state, "target", i, pairs).min(0).reshape(maze.states, -1)
        best = np.where(mdp.support, q, -np.inf).argmax(1)
        methods.append(Method(f"{name}, networks", v, best))
        chosen = played(engine.policy(i), len(cells)).act(cells)
        extracted = (chosen @ actions.T).argmax(1)
        methods.append(Method(f"{name}, extracted", v, extracted))
    return methods


def as_transitions(maze: Gridworld, data: Steps) -> tuple[Transitions, Array]:
    """The data for an engine, and its four actions ``[4, 2]``.

    Observations are one-hot over cells, actions the move's direction within the engine's bounds.
    """
    cells = np.eye(maze.states, dtype=np.float32)
    actions = (gridworld.MOVES * (1 - ACTION_MARGIN)).astype(np.float32)
    arrived = data.next_state == maze.goal
    return Transitions(
        observations=cells[data.state],
        actions=actions[data.action],
        rewards=np.where(arrived, gridworld.REWARD, 0).astype(np.float32),
        masks=(~arrived).astype(np.float32),
        next_observations=cells[data.next_state],
    ), actions.astype(np.float64)


def judge(maze: Gridworld, method: Method) -> dict[str, Any]:
    """How far a method's values and policy are from the optimum."""
    mdp: FiniteMDP = maze.mdp()
    optimal = value_iteration(mdp).v
    attained = policy_evaluation(mdp, deterministic(method.actions, mdp.actions))
    return {
        "start_value": float(method.v[maze.start]),
        "largest_value_error": float(np.abs(method.v - optimal).max()),
        "rms_value_error": float(np.sqrt(np.mean((method.v - optimal) ** 2))),
        "decay": decay(maze, method.v),
        "reaches_goal_from": int(maze.reaches_goal(method.actions).sum()) - 1,  # the goal apart
        "largest_policy_loss": float((optimal - attained).max()),
        "values": method.v.tolist(),
        "actions": [gridworld.ACTIONS[a] for a in method.actions],
    }


def decay(maze: Gridworld, v: Array) -> float:
    """What V is multiplied by with every move away from the goal: a line fitted to log V over the
    cells whose value is above a hundredth of the reward; NaN where fewer than two are."""
    distance = maze.distances()
    known = (distance > 0) & (v > gridworld.REWARD / 100)
    if len(set(distance[known])) < 2:
        return float("nan")
    return float(np.exp(np.polyfit(distance[known], np.log(v[known]), 1)[0]))


# The picture.


def draw(
    out: output.Output,
    maze: Gridworld,
    methods: list[Method],
    report: dict[str, Any],
    data: Steps,
    settings: dict[str, Any],
) -> None:
    """The paper's four panels, and below them the same with networks."""
    by_name = {method.name: method for method in methods}
    figure = output.new_figure(18, 8.5)
    axes = figure.subplots(2, 4)
    draw_maze(axes[0, 0], maze, data)
    maps = {
        (0, 1): ("optimal", "V* and the optimal policy"),
        (0, 2): ("one-step, table", "One-step policy evaluation"),
        (0, 3): ("IQL, table", f"IQL, $\\tau$ = {IQL}"),
        (1, 2): ("one-step, extracted", "One-step, networks, extracted policy"),
        (1, 3): ("IQL, extracted", "IQL, networks, extracted policy"),
    }
    for place, (name, title) in maps.items():
        image = draw_values(axes[place], maze, by_name[name], title, report[name])
    figure.colorbar(image, ax=[*axes[0, 1:], *axes[1, 2:]], label="V(s)", shrink=0.7)
    draw_decay(axes[1, 0], maze, methods)
    draw_policies(axes[1, 1], maze, methods)
    out.write(figure, settings | {"cells": maze.cells.tolist(), "methods": report})


def draw_maze(axes: Axes, maze: Gridworld, data: Steps) -> None:
    """Walls, start and goal, and how often the data visit each cell."""
    visits = np.bincount(data.state, minlength=maze.states).astype(float)
    visits[maze.goal] = (data.next_state == maze.goal).sum()
    background(axes, maze)
    for (row, column), count in zip(maze.cells, visits, strict=True):
        axes.text(
            column, row + 0.1, f"{count:.0f}", ha="center", va="center", fontsize=7, color="0.35"
        )
    for cell, mark in ((maze.start, "start"), (maze.goal, "goal")):
        row, column = maze.cells[cell]
        axes.text(column, row - 0.27, mark, ha="center", va="center", fontsize=8, weight="bold")
    axes.set_title("The maze, and steps of the data in each cell", fontsize=11)


def background(axes: Axes, maze: Gridworld) -> None:
    """Walls dark, no ticks."""
    shade = np.where(maze.walls, 0.25, np.nan)
    axes.imshow(shade, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def draw_values(axes: Axes, maze: Gridworld, method: Method, title: str, row: Any) -> Any:
    """A map of values with the greedy policy as arrows."""
    background(axes, maze)
    values = method.v.copy()
    values[maze.goal] = np.nan
    image = axes.imshow(maze.as_map(values), vmin=0, vmax=gridworld.REWARD, cmap="viridis")
    arrows = [s for s in range(maze.states) if s != maze.goal]
    down, right = 0.7 * gridworld.MOVES[method.actions[arrows]].T
    rows, columns = maze.cells[arrows].T
    reaches = maze.reaches_goal(method.actions)[arrows]
    axes.quiver(
        columns, rows, right, down,
        angles="xy", scale_units="xy", scale=1, pivot="mid", width=0.01,
        color=np.where(reaches, "white", "red"),
    )  # fmt: skip
    goal_row, goal_column = maze.cells[maze.goal]
    axes.text(goal_column, goal_row, "goal", ha="center", va="center", fontsize=8, weight="bold")
    reached = f"goal reached from {row['reaches_goal_from']} of {maze.states - 1} cells"
    if not reaches.all():
        reached += " (red: not)"
    axes.set_title(f"{title}\n{reached}", fontsize=11)
    return image


def draw_decay(axes: Axes, maze: Gridworld, methods: list[Method]) -> None:
    """Mean value against the distance from the goal."""
    from matplotlib.ticker import MaxNLocator

    distance = maze.distances()
    far = np.arange(1, distance.max() + 1)
    for method, style in zip(shown(methods), STYLES, strict=True):
        means = np.array([method.v[distance == d].mean() for d in far])
        means[means <= 0] = np.nan  # networks err; a logarithm has no place for it
        axes.plot(far, means, label=method.name, **style)
    axes.set(
        title="Values far from the goal",
        xlabel="moves to the goal",
        ylabel="V(s), mean over cells",
        yscale="log",
        ylim=(1e-3, 20),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_policies(axes: Axes, maze: Gridworld, methods: list[Method]) -> None:
    """What the greedy policies attain in the true MDP."""
    from matplotlib.ticker import MaxNLocator

    mdp, distance = maze.mdp(), maze.distances()
    far = np.arange(1, distance.max() + 1)
    for method, style in zip(shown(methods), STYLES, strict=True):
        attained = policy_evaluation(mdp, deterministic(method.actions, mdp.actions))
        axes.plot(far, [attained[distance == d].mean() for d in far], label=method.name, **style)
    axes.set(
        title="What the policies attain",
        xlabel="moves to the goal",
        ylabel="discounted return, mean over cells",
        ylim=(0, None),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


STYLES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linewidth": 4, "alpha": 0.3},
    {"color": "C3"},
    {"color": "C0"},
    {"color": "C3", "linestyle": "--", "marker": "."},
    {"color": "C0", "linestyle": "--", "marker": "."},
)


def shown(methods: list[Method]) -> list[Method]:
    """Of the networks, the policies that they are trained for: the extracted ones."""
    return [method for method in methods if not method.name.endswith("networks")]
