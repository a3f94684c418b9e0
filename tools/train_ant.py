"""Train the ant that AntMaze's regenerated datasets are walked by.

    python tools/train_ant.py train --out FOLDER --minutes 60
    python tools/train_ant.py measure --policies FOLDER/*.safetensors

D4RL's walker is a soft actor-critic (Haarnoja et al. 2018) that was trained to reach goals on an
open plane. This does the same in the restored physics, with half of its ants in a maze's corridors,
where most falls happen. It learns fast for one reason: the plane and the ant are symmetric, so that
``iql_fast.data.antmaze.Frame`` turns every state into one in which the goal lies ahead. What is
learned is one gait, on mirrored copies of the experience, too.

Training that is killed goes on from ``FOLDER/checkpoint.pt`` and its replay buffer,
``FOLDER/replay.bin``.

The policy that ships has 1,383,872 steps, the last 719,000 of them at a rate of 2e-4. The first
435,000 did not yet hold the body's direction: an ant that turns as it walks, as the first walker of
this project did, makes data from which IQL learned to reach 4% of medium-play's goals in 150,000
steps, in place of 26%.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import mujoco
import numpy as np
import torch
from sac import Learner, Replay, keep, resumed
from torch import Tensor

from iql_fast.data import antmaze as datasets
from iql_fast.data import behaviour_policy
from iql_fast.data.antmaze import INPUTS, NOISE, Frame
from iql_fast.environments import antmaze

#: Steps of 0.1 s from one goal to the next, and from one start to the next.
GOAL_STEPS, EPISODE_STEPS = 100, 300
#: Of the goals' distances, in metres (D4RL, ``goal_reaching_env.py``).
GOAL_DISTANCE = 10.0
#: Rewards are metres a second towards the goal, as far as this. Faster is not asked for: ants that
#: fall are the data's largest fault.
FAST = 1.2
#: What a step upright is worth, what a fall costs, and a unit of squared action.
UPRIGHT, FALL, EFFORT = 0.2, 60.0, 0.01
#: What a step costs on the way to a fall: a torso that lies on its side.
TILTED = 0.5
#: What a step costs at which the body is turned by 45 degrees: a quarter of the most that it can
#: cost. An ant that turns as it walks shows each gait in all directions, and data of it are hard to
#: learn from.
TURNED = 0.5
#: Of the ants that walk in a maze; corridors are as wide in all of them.
LAYOUT = "medium"
#: Left and right change places: where each number of a state and of an action comes from, and its
#: sign. Hips turn the other way, ankles do not; spin is a pseudo-vector.
_LEGS, _LEG_SIGNS = [6, 7, 4, 5, 2, 3, 0, 1], [-1, 1] * 4
MIRROR = {
    INPUTS: (
        [0, 1, 2, 3, 4, *(5 + i for i in _LEGS), *range(13, 19), *(19 + i for i in _LEGS), 27, 28],
        [1, 1, -1, 1, -1, *_LEG_SIGNS, 1, -1, 1, -1, 1, -1, *_LEG_SIGNS, 1, -1],
    ),
    8: (_LEGS, _LEG_SIGNS),
}
MIRROR = {width: tuple(torch.tensor(part) for part in pair) for width, pair in MIRROR.items()}


def mirrored(rows: Tensor) -> Tensor:
    """The mirror images of states or actions in the walker's frame."""
    order, signs = MIRROR[rows.shape[1]]
    return rows[:, order] * signs


def turned_by(qpos: np.ndarray) -> float:
    """Radians by which the body is turned about the vertical, from its place at the start."""
    w, x, y, z = qpos[3:7]
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _in_maze(ant: int) -> bool:
    return ant % 2 == 1


class Grounds:
    """Ants that walk towards goals: half of them on planes, half through mazes as the data's do.

    On a plane a goal moves every ten seconds. In a maze the generator's waypoints lead to it, along
    walls that the ant does not see: it learns to stay on its feet there.
    """

    def __init__(self, ants: int, generator: np.random.Generator) -> None:
        self.plane, self.maze = antmaze.model(None), antmaze.simulator(LAYOUT)
        models = self.plane, self.maze.model
        self.data = [mujoco.MjData(models[_in_maze(i)]) for i in range(ants)]
        self.generator = generator
        self.goals = np.zeros((ants, 2))
        self.ways = np.zeros((ants, 2))  # what progress is measured to: the goal, or a waypoint
        self.jitter = np.zeros(ants)
        # Their ends are spread over time.
        self.steps = generator.integers(0, EPISODE_STEPS, ants)
        for i in range(ants):
            self._start(i)

    def _start(self, i: int) -> None:
        data = self.data[i]
        antmaze.start(data, self.generator)
        yaw = 0.4 * self.generator.standard_normal()
        turn, turned = np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]), np.empty(4)
        mujoco.mju_mulQuat(turned, turn, data.qpos[3:7])
        data.qpos[3:7] = turned
        if _in_maze(i):
            data.qpos[:2] = self._place()
        # Half of the ants aim at places that are shaken, as the data's waypoints are.
        self.jitter[i] = 0.5 * self.generator.integers(2)
        self._draw_goal(i)

    def _place(self) -> np.ndarray:
        """Anywhere in the maze."""
        cells = datasets.free_cells(LAYOUT)
        cell = cells[self.generator.integers(len(cells))]
        return np.maximum(antmaze.centre(LAYOUT, cell) + self.generator.uniform(0, 1, 2), 0)

    def _draw_goal(self, i: int) -> None:
        if _in_maze(i):
            self.goals[i] = self._place()
            return
        angle = self.generator.uniform(0, 2 * np.pi)
        distance = GOAL_DISTANCE * self.generator.uniform()
        offset = distance * np.array([math.cos(angle), math.sin(angle)])
        self.goals[i] = self.data[i].qpos[:2] + offset

    def frames(self) -> Frame:
        positions = np.array([data.qpos for data in self.data])
        velocities = np.array([data.qvel for data in self.data])
        shake = self.generator.uniform(-1, 1, (len(positions), 2)) * self.jitter[:, None]
        aims = self.goals + shake
        for i, (place, goal) in enumerate(zip(positions[:, :2], self.goals, strict=True)):
            self.ways[i] = goal
            if _in_maze(i):
                way = datasets.waypoint(LAYOUT, place.tolist(), goal, self.generator)
                aims[i] = self.ways[i] = way
        return Frame(positions, velocities, aims - positions[:, :2])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Frame]:
        """Torques ``[ants, 8]``: rewards, ends that are terminal ``[ants]``, progress in m/s, and
        the frames of the states reached (before those that ended start anew)."""
        rewards, progress = np.empty((2, len(self.data)))
        terminal = np.zeros(len(self.data), bool)
        for i, data in enumerate(self.data):
            before = math.dist(data.qpos[:2], self.ways[i])
            data.ctrl[:] = antmaze.TORQUE * actions[i]
            if _in_maze(i):
                self.maze.step(data, data.qpos, antmaze.FRAME_SKIP)
            else:
                mujoco.mj_step(self.plane, data, antmaze.FRAME_SKIP)
            progress[i] = 10.0 * (before - math.dist(data.qpos[:2], self.ways[i]))
            upright = 1 - 2 * (data.qpos[4] ** 2 + data.qpos[5] ** 2)
            terminal[i] = upright < 0
            rewards[i] = min(progress[i], FAST) - EFFORT * float(actions[i] @ actions[i])
            rewards[i] += -FALL if terminal[i] else UPRIGHT - TILTED * (1 - upright)
            rewards[i] -= TURNED * min(abs(turned_by(data.qpos)) / (np.pi / 4), 2) ** 2
        reached = self.frames()
        self.steps += 1
        for i in range(len(self.data)):
            if terminal[i] or self.steps[i] >= EPISODE_STEPS:
                self.steps[i] = 0
                self._start(i)
            elif self.steps[i] % GOAL_STEPS == 0:
                self._draw_goal(i)
        return rewards, terminal, progress, reached


def batch(replay: Replay, rows: int) -> list[Tensor]:
    """Transitions, half of them as their mirror images."""
    states, actions, rewards, masks, following = replay.batch(rows)
    half = rows // 2
    for tensor in (states, actions, following):
        tensor[:half] = mirrored(tensor[:half])
    return [states, actions, rewards, masks, following]


def train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    learner = Learner(
        INPUTS,
        8,
        rate=arguments.learning_rate,
        discount=arguments.discount,
        polyak=0.01,
        hidden=arguments.hidden,
    )
    checkpoint = out / "checkpoint.pt"
    replay = Replay(out / "replay.bin", 1_000_000, INPUTS, 8)
    begun, spent = resumed(checkpoint, learner, replay)
    steps = begun
    grounds = Grounds(arguments.ants, generator)
    frames = grounds.frames()
    began = reported = time.monotonic()
    sums = np.zeros(4)
    while spent + time.monotonic() - began < 60 * arguments.minutes:
        inputs = frames.inputs()
        if replay.written < arguments.warmup:
            chosen = generator.uniform(-1, 1, (arguments.ants, 8)).astype(np.float32)
        else:
            with torch.no_grad():
                chosen = learner.sample(torch.from_numpy(inputs))[0].numpy()
        noisy = np.clip(chosen + NOISE * generator.standard_normal(chosen.shape), -1, 1)
        rewards, terminal, progress, reached = grounds.step(frames.actions(noisy))
        replay.add(inputs, chosen, rewards, ~terminal, reached.inputs())
        frames = grounds.frames()
        steps += arguments.ants
        sums += (progress.sum(), rewards.sum(), terminal.sum(), arguments.ants)
        if replay.written >= arguments.warmup:
            for _ in range(arguments.updates):
                learner.update(*batch(replay, 256))
        if time.monotonic() - reported > 60:
            reported = time.monotonic()
            seconds = spent + reported - began
            line = {
                "minutes": round(seconds / 60, 1), "steps": steps,
                "speed": round(sums[0] / sums[3], 3), "reward": round(sums[1] / sums[3], 3),
                "falls_per_1000": round(1000 * sums[2] / sums[3], 2),
                "alpha": round(math.exp(learner.log_alpha.item()), 4),
            }  # fmt: skip
            sums[:] = 0
            print(json.dumps(line), flush=True)
            with open(out / "progress.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            keep(checkpoint, learner, replay, steps, seconds)
            learner.write_policy(
                out / f"{steps:08d}.safetensors",
                env="AntMaze's ant on a plane and in a maze, MuJoCo 2.0's physics",
                steps=str(steps),
                seed=str(arguments.seed),
            )


def measure(arguments: argparse.Namespace) -> None:
    """What datasets of these policies would be like, by episodes in the mazes."""
    for path in arguments.policies:
        policy = behaviour_policy.load(path)
        for name in arguments.datasets:
            keys = [(arguments.seed, datasets.stream(name), i) for i in range(arguments.episodes)]
            rows = datasets.EPISODE_ROWS
            walks = datasets.walk(datasets.recipe(name), policy, keys, rows)
            columns = datasets.columns(name, 0, rows * len(keys), iter(walks))
            print(path.name, name, datasets.summary(columns), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    learning = commands.add_parser("train", help="train, or go on training")
    learning.set_defaults(run=train)
    learning.add_argument("--out", required=True, type=Path, help="folder of the training")
    learning.add_argument("--minutes", type=float, default=60, help="training altogether")
    learning.add_argument("--ants", type=int, default=16, help="ants side by side")
    learning.add_argument("--updates", type=int, default=4, help="updates a step of all ants")
    learning.add_argument("--warmup", type=int, default=5_000, help="steps of random actions")
    learning.add_argument("--learning-rate", type=float, default=5e-4)
    learning.add_argument("--hidden", type=int, default=256, help="units a layer")
    learning.add_argument("--discount", type=float, default=0.98)
    learning.add_argument("--seed", type=int, default=0)
    measuring = commands.add_parser("measure", help="what datasets of a policy are like")
    measuring.set_defaults(run=measure)
    measuring.add_argument("--policies", required=True, type=Path, nargs="+")
    measuring.add_argument(
        "--datasets", nargs="+", default=["antmaze-umaze-v2", "antmaze-medium-play-v2"]
    )
    measuring.add_argument("--episodes", type=int, default=24)
    measuring.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
