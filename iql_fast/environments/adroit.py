"""D4RL's Adroit: a hand of 24 joints turns a pen, hammers a nail, opens a door, moves a ball.

The model files are those of gymnasium-robotics, whose physics are D4RL's; its classes are not used:
three of them reward a palm far from the object (its sign is wrong in 1.2.1 to 1.4.2), and the pen's
neither ends when the pen falls nor lasts 100 steps. Here observation, start, reward, end and goal
are D4RL's (d4rl/hand_manipulation_suite/{pen,hammer,door,relocate}_v0.py), or those of the binary
tasks of AWAC and of IQL's fine-tuning.

Where bodies and sites are is read as D4RL reads it: from the last time step's forward pass, so one
time step (2 ms) behind qpos.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.environments import physics as mechanics
from iql_fast.environments.physics import Physics

Observation = NDArray[np.float64]
Action = NDArray[np.float32]
Vector = NDArray[np.float64]

FRAME_SKIP = 5  # of 0.002 s
#: m; at which two geoms of the files begin to touch. The hammer's board alone has 0 of its own.
MARGIN = 5e-4


class Adroit(gymnasium.Env[Observation, Action]):
    """What the four tasks share: the hand, its actuators, and the loop of an episode.

    An action in [-1, 1] is a joint's target as a share of its range; what lies outside is clipped.
    ``info`` holds ``goal_achieved``, whether the goal is met after this step.

    Args:
        physics: whose mechanics; see ``iql_fast.environments.physics``. The reward is D4RL's in
            both.
        binary: the reward is ``goal_achieved - 1`` and no episode ends early (AWAC's tasks).

    Raises:
        UserError: gymnasium-robotics is not installed, MuJoCo is refused, or the model file is
            missing or not the one expected.

    Attributes:
        model, data: MuJoCo's; this instance's own, since starts move bodies of the model.
    """

    file: ClassVar[str]
    sizes: ClassVar[tuple[int, int]]  # nq, nu
    observation_size: ClassVar[int]
    masses: ClassVar[Mapping[str, float]]  # kg, of the bodies that a task is about
    total_mass: ClassVar[float]

    def __init__(self, physics: Physics = "d4rl", binary: bool = False) -> None:
        self.physics = physics
        self.binary = binary
        self.model = copy.copy(self._compiled(physics))
        self.data = mujoco.MjData(self.model)
        size = self.observation_size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        low, high = self.model.actuator_ctrlrange.T
        self._middle, self._half_range = (low + high) / 2, (high - low) / 2
        # Each access to a field of MjData makes an array: keep them, and views of what is read.
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._find()

    @classmethod
    @functools.cache
    def _compiled(cls, physics: Physics) -> Any:
        """The task's model, once a process: to be copied, not changed."""
        path = mechanics.assets("gymnasium_robotics") / "adroit_hand" / cls.file
        model = mechanics.load(path)
        mechanics.require_model(model, str(path), *cls.sizes, cls.masses, cls.total_mass)
        # The position servos' gains, which the files leave to the program: wrist 10, fingers 1.
        for first, last, gain in (("A_WRJ1", "A_WRJ0", 10.0), ("A_FFJ3", "A_THJ0", 1.0)):
            low = _index(model, mujoco.mjtObj.mjOBJ_ACTUATOR, first)
            high = _index(model, mujoco.mjtObj.mjOBJ_ACTUATOR, last)
            model.actuator_gainprm[low : high + 1, :3] = gain, 0.0, 0.0
            model.actuator_biasprm[low : high + 1, :3] = 0.0, -gain, 0.0
        if mechanics.restores(physics):
            colliding = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
            mechanics.restore_margins(model, colliding, pair=MARGIN)
            mechanics.restore_colliders(model)
        return model

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's, and there are none
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode: the hand at rest in its own pose, the task's objects placed anew.

        Returns:
            The observation, and an empty ``info``.
        """
        super().reset(seed=seed)
        self._place(self._draw())
        return self._begin(self.model.qpos0, 0.0), {}

    def set_env_state(self, state: Mapping[str, Any]) -> Observation:
        """Put everything into a state, with nothing left of what was before, to replay from it.

        Args:
            state: ``qpos [nq]``, ``qvel [nv]`` and what the task's starts move, under the names of
                D4RL's ``infos/``: pen ``desired_orien [4]``; hammer ``board_pos [3]``; door
                ``door_body_pos [3]``; relocate ``obj_pos [3]``, where the ball lay at the
                episode's start, and ``target_pos [3]``.
        """
        self._place(state)
        return self._begin(state["qpos"], state["qvel"])

    def env_state(self) -> dict[str, NDArray[np.float64]]:
        """What ``set_env_state`` takes: what the solver remembers of its last step is not in it."""
        return {"qpos": self._qpos.copy(), "qvel": self._qvel.copy(), **self._placed()}

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold the joints' targets for 0.01 s.

        Args:
            action: ``[nu]``.

        Returns:
            Observation, reward, whether the episode is at its end, False (time limits are the
            caller's), ``info``.
        """
        clipped = np.minimum(np.maximum(action, -1.0), 1.0)
        self._ctrl[:] = self._middle + clipped * self._half_range
        mujoco.mj_step(self.model, self.data, nstep=FRAME_SKIP)
        reward, achieved, over = self._outcome()
        info = {"goal_achieved": achieved}
        if self.binary:
            return self._observation(), float(achieved) - 1.0, False, False, info
        return self._observation(), reward, over, False, info

    def _begin(self, qpos: NDArray[Any], qvel: NDArray[Any] | float) -> Observation:
        mujoco.mj_resetData(self.model, self.data)
        self._qpos[:] = qpos
        self._qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)
        return self._observation()

    def _site(self, name: str) -> Vector:
        """A view of where a site is, ``[3]``, in the world's frame, m."""
        return self.data.site_xpos[_index(self.model, mujoco.mjtObj.mjOBJ_SITE, name)]  # type: ignore[no-any-return]

    def _body(self, name: str) -> int:
        return _index(self.model, mujoco.mjtObj.mjOBJ_BODY, name)

    def _find(self) -> None:
        """Keep views of the places that observation and reward are made of."""
        raise NotImplementedError

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        """A random start, as ``_place`` takes it."""
        raise NotImplementedError

    def _place(self, state: Mapping[str, Any]) -> None:
        """Move the model's bodies to where a start has them."""
        raise NotImplementedError

    def _placed(self) -> dict[str, NDArray[np.float64]]:
        """Where they are."""
        raise NotImplementedError

    def _observation(self) -> Observation:
        raise NotImplementedError

    def _outcome(self) -> tuple[float, bool, bool]:
        """Reward, whether the goal is achieved, whether the episode is over."""
        raise NotImplementedError


class Pen(Adroit):
    """Turn a pen in the hand until it points as another one does, which hangs in the air.

    Observation 45: joints 24, the pen's place 3 and velocity 6, its axis 3, the target's axis 3,
    differences of place 3 and of axis 3. Action 24. D4RL's horizon is 100; an episode ends when the
    pen falls.
    """

    file = "adroit_pen.xml"
    sizes = (30, 24)
    observation_size = 45
    masses: ClassVar = {"forearm": 4.0, "palm": 0.3, "Object": 0.182038}
    total_mass = 65.8993

    def _find(self) -> None:
        self._target = self._body("target")
        self._pen, self._ball = self.data.xpos[self._body("Object")], self._site("eps_ball")
        self._top, self._bottom = self._site("object_top"), self._site("object_bottom")
        self._target_top, self._target_bottom = (
            self._site("target_top"),
            self._site("target_bottom"),
        )
        # Lengths do not change: bodies are rigid.
        mujoco.mj_forward(self.model, self.data)
        self._length = _distance(self._top, self._bottom)
        self._target_length = _distance(self._target_top, self._target_bottom)

    def _axes(self) -> tuple[Vector, Vector]:
        return (
            (self._top - self._bottom) / self._length,
            (self._target_top - self._target_bottom) / self._target_length,
        )

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        # Turned about x, then about the new y.
        a, b = (0.5 * self.np_random.uniform(-1.0, 1.0) for _ in range(2))
        quaternion = [
            math.cos(a) * math.cos(b),
            math.sin(a) * math.cos(b),
            math.cos(a) * math.sin(b),
            math.sin(a) * math.sin(b),
        ]
        return {"desired_orien": np.array(quaternion)}

    def _place(self, state: Mapping[str, Any]) -> None:
        self.model.body_quat[self._target] = state["desired_orien"]

    def _placed(self) -> dict[str, NDArray[np.float64]]:
        return {"desired_orien": self.model.body_quat[self._target].copy()}

    def _observation(self) -> Observation:
        axis, target_axis = self._axes()
        observation = np.empty(45)
        observation[:24] = self._qpos[:24]
        observation[24:27] = self._pen
        observation[27:33] = self._qvel[-6:]
        observation[33:36] = axis
        observation[36:39] = target_axis
        observation[39:42] = self._pen - self._ball
        observation[42:] = axis - target_axis
        return observation

    def _outcome(self) -> tuple[float, bool, bool]:
        axis, target_axis = self._axes()
        distance, similarity = _distance(self._pen, self._ball), float(axis @ target_axis)
        near, fallen = distance < 0.075, float(self._pen[2]) < 0.075
        achieved = near and similarity > 0.95
        reward = similarity - distance
        if near and similarity > 0.9:
            reward += 10.0
        if achieved:
            reward += 50.0
        if fallen:
            reward -= 5.0
        return reward, achieved, fallen


class Hammer(Adroit):
    """Take the hammer and drive a nail into its board.

    Observation 46: joints 26 and the nail's depth 1, the hammer's velocity 6 cut to [-1, 1], palm
    3, the hammer's place 3 and Euler angles 3, the nail's head 3, force on it 1 cut to [-1, 1].
    Action 26. D4RL's horizon is 200.
    """

    file = "adroit_hammer.xml"
    sizes = (33, 26)
    observation_size = 46
    masses: ClassVar = {"palm": 0.3, "nail_board": 0.512, "nail": 0.0699, "Object": 0.253442}
    total_mass = 66.4165

    def _find(self) -> None:
        self._board, hammer = self._body("nail_board"), self._body("Object")
        self._hammer, self._rotation = self.data.xpos[hammer], self.data.xmat[hammer]
        self._palm, self._tool = self._site("S_grasp"), self._site("tool")
        self._nail, self._goal = self._site("S_target"), self._site("nail_goal")
        sensor = _index(self.model, mujoco.mjtObj.mjOBJ_SENSOR, "S_nail")
        address = int(self.model.sensor_adr[sensor])
        self._force = self.data.sensordata[address : address + 1]

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        place = self.model.body_pos[self._board].copy()
        place[2] = self.np_random.uniform(0.1, 0.25)
        return {"board_pos": place}

    def _place(self, state: Mapping[str, Any]) -> None:
        self.model.body_pos[self._board] = state["board_pos"]

    def _placed(self) -> dict[str, NDArray[np.float64]]:
        return {"board_pos": self.model.body_pos[self._board].copy()}

    def _observation(self) -> Observation:
        observation = np.empty(46)
        observation[:27] = self._qpos[:27]
        observation[27:33] = np.minimum(np.maximum(self._qvel[-6:], -1.0), 1.0)
        observation[33:36] = self._palm
        observation[36:39] = self._hammer
        observation[39:42] = _euler(self._rotation.tolist())
        observation[42:45] = self._nail
        observation[45] = min(max(float(self._force[0]), -1.0), 1.0)
        return observation

    def _outcome(self) -> tuple[float, bool, bool]:
        depth = _distance(self._nail, self._goal)  # that the nail still has to go
        reward = (
            -0.1 * _distance(self._palm, self._hammer)
            - _distance(self._tool, self._nail)
            - 10.0 * depth
            - 0.01 * math.sqrt(self._qvel @ self._qvel)
        )
        if self._hammer[2] > 0.04 and self._tool[2] > 0.04:
            reward += 2.0
        if depth < 0.02:
            reward += 25.0
        if depth < 0.01:
            reward += 75.0
        return reward, depth < 0.01, False


class Door(Adroit):
    """Undo a latch and open a door.

    Observation 39: joints 27, the latch's angle 1 and the door's 1, palm 3, handle 3, palm - handle
    3, open 1 (1 beyond 1 rad, else -1). Action 28. D4RL's horizon is 200.
    """

    file = "adroit_door.xml"
    sizes = (30, 28)
    observation_size = 39
    masses: ClassVar = {"palm": 0.3, "frame": 7.85398, "door": 2.43455, "latch": 3.53743}
    total_mass = 79.4072

    def _find(self) -> None:
        self._frame = self._body("frame")
        self._palm, self._handle = self._site("S_grasp"), self._site("S_handle")

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        low, high = (-0.3, 0.25, 0.252), (-0.2, 0.35, 0.35)
        place = [self.np_random.uniform(*ends) for ends in zip(low, high, strict=True)]
        return {"door_body_pos": np.array(place)}

    def _place(self, state: Mapping[str, Any]) -> None:
        self.model.body_pos[self._frame] = state["door_body_pos"]

    def _placed(self) -> dict[str, NDArray[np.float64]]:
        return {"door_body_pos": self.model.body_pos[self._frame].copy()}

    def _observation(self) -> Observation:
        observation = np.empty(39)
        observation[:27] = self._qpos[1:28]  # but not how far the arm is from its base
        observation[27], observation[28] = self._qpos[29], self._qpos[28]
        observation[29:32] = self._palm
        observation[32:35] = self._handle
        observation[35:38] = self._palm - self._handle
        observation[38] = 1.0 if self._qpos[28] > 1.0 else -1.0
        return observation

    def _outcome(self) -> tuple[float, bool, bool]:
        angle = float(self._qpos[28])
        reward = (
            -0.1 * _distance(self._palm, self._handle)
            - 0.1 * (angle - 1.57) ** 2
            - 1e-5 * float(self._qvel @ self._qvel)
        )
        if angle > 0.2:
            reward += 2.0
        if angle > 1.0:
            reward += 8.0
        if angle > 1.35:
            reward += 10.0
        return reward, angle >= 1.35, False


class Relocate(Adroit):
    """Pick up a ball and carry it to a place in the air.

    Observation 39: joints 30, palm - ball 3, palm - target 3, ball - target 3. Action 30. D4RL's
    horizon is 200.
    """

    file = "adroit_relocate.xml"
    sizes = (36, 30)
    observation_size = 39
    masses: ClassVar = {"forearm": 4.0, "palm": 0.3, "Object": 0.179594}
    total_mass = 65.7608

    def _find(self) -> None:
        self._object = self._body("Object")
        self._ball = self.data.xpos[self._object]
        self._palm, self._target = self._site("S_grasp"), self._site("target")
        self._target_site = _index(self.model, mujoco.mjtObj.mjOBJ_SITE, "target")

    def _draw(self) -> dict[str, NDArray[np.float64]]:
        uniform = self.np_random.uniform
        ball = self.model.body_pos[self._object].copy()
        ball[:2] = uniform(-0.15, 0.15), uniform(-0.15, 0.3)
        target = [uniform(-0.2, 0.2), uniform(-0.2, 0.2), uniform(0.15, 0.35)]
        return {"obj_pos": ball, "target_pos": np.array(target)}

    def _place(self, state: Mapping[str, Any]) -> None:
        self.model.body_pos[self._object] = state["obj_pos"]
        self.model.site_pos[self._target_site] = state["target_pos"]

    def _placed(self) -> dict[str, NDArray[np.float64]]:
        return {
            "obj_pos": self.model.body_pos[self._object].copy(),
            "target_pos": self.model.site_pos[self._target_site].copy(),
        }

    def _observation(self) -> Observation:
        observation = np.empty(39)
        observation[:30] = self._qpos[:30]
        observation[30:33] = self._palm - self._ball
        observation[33:36] = self._palm - self._target
        observation[36:] = self._ball - self._target
        return observation

    def _outcome(self) -> tuple[float, bool, bool]:
        left = _distance(self._ball, self._target)
        reward = -0.1 * _distance(self._palm, self._ball)
        if self._ball[2] > 0.04:  # lifted
            reward += 1.0 - 0.5 * _distance(self._palm, self._target) - 0.5 * left
        if left < 0.1:
            reward += 10.0
        if left < 0.05:
            reward += 20.0
        return reward, left < 0.1, False


def _distance(a: Vector, b: Vector) -> float:
    difference = a - b
    return math.sqrt(difference @ difference)


def _euler(m: list[float]) -> tuple[float, float, float]:
    """Angles (rad) of turns about x, the new y and the new z that make a rotation matrix, given
    as its nine numbers row by row; the first is 0 where y's turn is a right angle."""
    across = math.hypot(m[5], m[8])
    if across < 4 * np.finfo(np.float64).eps:
        return 0.0, math.atan2(m[2], across), math.atan2(m[3], m[4])
    return math.atan2(-m[5], m[8]), math.atan2(m[2], across), math.atan2(-m[1], m[0])


def _index(model: Any, kind: Any, name: str) -> int:
    return int(mujoco.mj_name2id(model, kind, name))
