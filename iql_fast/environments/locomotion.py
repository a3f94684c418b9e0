"""D4RL's Hopper, Walker2d and HalfCheetah: one leg, two legs, and a planar cheetah, run forward.

Observation, reward, start and end are those of Gymnasium's ``-v4`` (equal to the ``-v2`` of D4RL's
data); the mechanics are MuJoCo 2.0's (``physics="d4rl"``) or, from the same model files, those of
the installed MuJoCo (``physics="gymnasium"``), with which an episode equals Gymnasium's bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.environments import physics as mechanics
from iql_fast.tasks.catalogue import Physics

Observation = NDArray[np.float64]
Action = NDArray[np.float32]


class Locomotion(gymnasium.Env[Observation, Action]):
    """A robot in the plane that is paid for speed, forward, and pays for effort.

    The observation is qpos without the place along the track, then qvel. An action is a torque for
    each joint as a share of the strongest, in [-1, 1]; MuJoCo clips what lies outside, but its cost
    counts. ``info`` holds ``x_position`` (m) and ``x_velocity`` (m/s, the mean of the step).

    Args:
        physics: whose mechanics; see ``iql_fast.environments.physics``.

    Raises:
        UserError: the installed MuJoCo is refused, or Gymnasium's model file is missing or not the
            one expected.

    Attributes:
        model, data: MuJoCo's. The model belongs to all instances of a process and is not changed.
    """

    file: ClassVar[str]
    sizes: ClassVar[tuple[int, int]]  # nq, nu
    masses: ClassVar[Mapping[str, float]]  # kg, as today's MuJoCo compiles the file
    total_mass: ClassVar[float | None] = None  # kg, where the file scales the bodies to it
    frame_skip: ClassVar[int]
    control_cost: ClassVar[float]
    noise: ClassVar[float]  # at the start
    fastest: ClassVar[float] = np.inf  # velocities in the observation are cut to this

    def __init__(self, physics: Physics = "d4rl") -> None:
        self.physics = physics
        self.model = self._compiled(physics)
        self.data = mujoco.MjData(self.model)
        size = self.model.nq - 1 + self.model.nv
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self._dt = self.model.opt.timestep * self.frame_skip
        # Each access to a field of MjData makes an array: keep them.
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._pose = self._qpos[1:]

    @classmethod
    @functools.cache
    def _compiled(cls, physics: Physics) -> Any:
        """The robot's model, once a process."""
        path = mechanics.assets("gymnasium") / cls.file
        model = mechanics.load(path)
        mechanics.require_model(model, str(path), *cls.sizes, cls.masses)
        if mechanics.restores(physics):
            mechanics.restore_margins(model)  # the hopper's 0.001; the others have none
            mechanics.restore_capsules(model, cls.total_mass)
        return model

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's, and there are none
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode near the model's own pose.

        Returns:
            The observation, and an empty ``info``.
        """
        super().reset(seed=seed)
        nq = self.model.nq
        qpos = self.model.qpos0 + self.np_random.uniform(-self.noise, self.noise, nq)
        return self.set_state(qpos, self._first_qvel()), {}

    def set_state(self, qpos: NDArray[Any], qvel: NDArray[Any]) -> Observation:
        """Put the robot into a state, with nothing left of what it did before.

        Args:
            qpos: ``[nq]``, m and rad.
            qvel: ``[nv]``, m/s and rad/s.
        """
        mujoco.mj_resetData(self.model, self.data)
        self._qpos[:] = qpos
        self._qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)
        return self._observation()

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold the torques for ``frame_skip`` time steps of MuJoCo.

        Args:
            action: ``[nu]``.

        Returns:
            Observation, reward, whether the robot fell, False (time limits are the caller's),
            ``info``.
        """
        before = float(self._qpos[0])
        self._ctrl[:] = action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        after = float(self._qpos[0])
        velocity = (after - before) / self._dt
        # In the action's precision, as Gymnasium does it.
        effort = self.control_cost * np.add.reduce(np.square(action))
        healthy, bonus = self._health()
        info = {"x_position": after, "x_velocity": velocity}
        return self._observation(), velocity + bonus - float(effort), not healthy, False, info

    def _observation(self) -> Observation:
        """``[nq - 1 + nv]``"""
        observation = np.concatenate((self._pose, self._qvel))
        if self.fastest != np.inf:
            velocities = self._qvel.tolist()  # faster to look through than an array
            if not (min(velocities) >= -self.fastest and max(velocities) <= self.fastest):
                cut = observation[len(self._pose) :]
                np.clip(cut, -self.fastest, self.fastest, out=cut)
        return observation

    def _first_qvel(self) -> NDArray[np.float64]:
        velocities: NDArray[np.float64]
        velocities = self.np_random.uniform(-self.noise, self.noise, self.model.nv)
        return velocities

    def _health(self) -> tuple[bool, float]:
        """Whether the robot stands, and its reward for that (paid for the fall's step, too)."""
        raise NotImplementedError


class Hopper(Locomotion):
    """D4RL's hopper: observation 11, action 3, 0.008 s a step."""

    file = "hopper.xml"
    sizes = (6, 3)
    masses: ClassVar = {"torso": 3.66519, "thigh": 4.05789, "leg": 2.78136, "foot": 5.31557}
    frame_skip = 4
    control_cost = 1e-3
    noise = 5e-3
    fastest = 10.0

    def _health(self) -> tuple[bool, float]:
        state = self._qpos.tolist() + self._qvel.tolist()
        height, angle = state[1], state[2]
        moderate = all(-100.0 < value < 100.0 for value in state[2:])
        return height > 0.7 and -0.2 < angle < 0.2 and moderate, 1.0


class Walker2d(Locomotion):
    """D4RL's walker2d: observation 17, action 6, 0.008 s a step."""

    file = "walker2d.xml"
    sizes = (9, 6)
    masses: ClassVar = {
        **{"torso": 3.66519, "thigh": 4.05789, "leg": 2.78136, "foot": 3.16673},
        **{"thigh_left": 4.05789, "leg_left": 2.78136, "foot_left": 3.16673},
    }
    frame_skip = 4
    control_cost = 1e-3
    noise = 5e-3
    fastest = 10.0

    def _health(self) -> tuple[bool, float]:
        height, angle = self._qpos[1:3].tolist()
        return 0.8 < height < 2.0 and -1.0 < angle < 1.0, 1.0


class HalfCheetah(Locomotion):
    """D4RL's halfcheetah: observation 17, action 6, 0.05 s a step; it never ends by falling."""

    file = "half_cheetah.xml"
    sizes = (9, 6)
    masses: ClassVar = {
        **{"torso": 6.25021, "bthigh": 1.54351, "bshin": 1.58744, "bfoot": 1.09540},
        **{"fthigh": 1.43808, "fshin": 1.20084, "ffoot": 0.884523},
    }
    total_mass = 14.0
    frame_skip = 5
    control_cost = 0.1
    noise = 0.1

    def _first_qvel(self) -> NDArray[np.float64]:
        velocities: NDArray[np.float64] = self.np_random.standard_normal(self.model.nv)
        return self.noise * velocities

    def _health(self) -> tuple[bool, float]:
        return True, 0.0
