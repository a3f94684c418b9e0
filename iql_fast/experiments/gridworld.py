"""The toy maze of the paper's figure 2: the MDP, the data, and the MDP that the data describe.

A U-shaped maze. A move that is blocked by a wall leaves the agent where it is; with probability
0.25 the agent moves in a uniformly random direction instead of the one it chose. Entering the goal
is rewarded by 10 and ends the episode, everything else by 0. The data: one trajectory of the
optimal policy and 99 of uniformly random actions, all from the start. The maze's size, the discount
and the length of a trajectory are this file's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iql_fast.experiments.expectiles import Array
from iql_fast.experiments.mdp import FiniteMDP, deterministic, greedy, value_iteration

LAYOUT = """
###########
#S........#
#.........#
#########.#
#########.#
#.........#
#G........#
###########
"""
#: (down, right) of each action: up, right, down, left.
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
ACTIONS = ("up", "right", "down", "left")
CHANCE = 0.25
REWARD = 10.0
DISCOUNT = 0.95
#: Steps after which a trajectory of the data is cut.
HORIZON = 200
RANDOM_TRAJECTORIES = 99


@dataclass(frozen=True)
class Maze:
    """A maze of cells; S cells, four actions.

    Attributes:
        walls: ``[height, width]``.
        cells: ``[S, 2]``, (row, column) of each cell that is not wall.
        start, goal: cells.
        moved: ``[S, 4]``, the cell that a move leads to when chance does not interfere.
    """

    walls: np.ndarray
    cells: np.ndarray
    start: int
    goal: int
    moved: np.ndarray

    @property
    def states(self) -> int:
        return len(self.cells)

    def as_map(self, values: Array) -> Array:
        """Values ``[S]`` as ``[height, width]``, NaN at walls."""
        grid = np.full(self.walls.shape, np.nan)
        grid[tuple(self.cells.T)] = values
        return grid

    def mdp(self) -> FiniteMDP:
        """The true MDP; its behaviour policy is uniform."""
        S, A = self.moved.shape
        intended = np.eye(S)[self.moved]  # [S, A, S]
        transition = (1 - CHANCE) * intended + CHANCE * intended.mean(1, keepdims=True)
        terminal = np.arange(S) == self.goal
        reward = np.broadcast_to(np.where(terminal, REWARD, 0.0), (S, A, S)).copy()
        transition[self.goal], reward[self.goal] = np.eye(S)[self.goal], 0.0
        return FiniteMDP(transition, reward, np.full((S, A), 1 / A), DISCOUNT, terminal)

    def distances(self) -> np.ndarray:
        """Moves ``[S]`` from each cell to the goal on the shortest way."""
        far = np.where(np.arange(self.states) == self.goal, 0, self.states)
        for _ in range(self.states):
            far = np.minimum(far, 1 + far[self.moved].min(1))
        return far

    def reaches_goal(self, actions: np.ndarray) -> np.ndarray:
        """Whether following ``actions`` ``[S]`` leads from each cell to the goal, ``[S]``, where
        chance does not interfere."""
        at = np.arange(self.states)
        for _ in range(self.states):
            at = np.where(at == self.goal, at, self.moved[at, actions[at]])
        return np.asarray(at == self.goal)


def parse(layout: str = LAYOUT) -> Maze:
    """A maze from a drawing: ``#`` wall, ``S`` start, ``G`` goal, ``.`` free."""
    rows = np.array([list(row) for row in layout.split()])
    walls = rows == "#"
    cells = np.argwhere(~walls)
    index = np.full(rows.shape, -1)
    index[tuple(cells.T)] = np.arange(len(cells))
    target = index[tuple(np.moveaxis(cells[:, None] + MOVES, -1, 0))]  # [S, 4], -1 at walls
    moved = np.where(target < 0, np.arange(len(cells))[:, None], target)
    start, goal = (int(index[tuple(np.argwhere(rows == mark)[0])]) for mark in "SG")
    return Maze(walls, cells, start, goal, moved)


@dataclass(frozen=True)
class Steps:
    """Logged steps in a maze, all ``[N]``: the trajectory's number, cells and the action."""

    trajectory: np.ndarray
    state: np.ndarray
    action: np.ndarray
    next_state: np.ndarray

    def __len__(self) -> int:
        return len(self.state)


def collect(maze: Maze, rng: np.random.Generator) -> Steps:
    """The data: the optimal policy once, then uniformly random actions 99 times."""
    mdp = maze.mdp()
    optimal = deterministic(greedy(mdp, value_iteration(mdp).v), mdp.actions)
    policies = [optimal] + [mdp.behaviour] * RANDOM_TRAJECTORIES
    rows = []
    for number, policy in enumerate(policies):
        at = maze.start
        for _ in range(HORIZON):
            action = rng.choice(mdp.actions, p=policy[at])
            to = rng.choice(mdp.states, p=mdp.transition[at, action])
            rows.append((number, at, action, to))
            at = to
            if at == maze.goal:
                break
    return Steps(*np.array(rows).T)


def empirical_mdp(maze: Maze, steps: Steps) -> FiniteMDP:
    """The MDP that the data describe: frequencies of actions and next states.

    IQL's losses (equations 5 and 6) on the data are minimised by its ``expectile_values``. Cells in
    which no step was logged count as terminal, with value 0.
    """
    counts = np.zeros((*maze.moved.shape, maze.states))
    np.add.at(counts, (steps.state, steps.action, steps.next_state), 1)
    taken = counts.sum(-1)  # [S, A]
    visits = taken.sum(-1)  # [S]
    return FiniteMDP(
        transition=counts / np.maximum(taken, 1)[:, :, None],
        reward=maze.mdp().reward,
        behaviour=taken / np.maximum(visits, 1)[:, None],
        discount=DISCOUNT,
        terminal=visits == 0,
    )
