"""D4RL's Kitchen: a Franka arm, and four things in a kitchen to be put where they belong.

The scene is the one that gymnasium-robotics ships, with one edit that makes it D4RL's. Figures are
D4RL's own (Farama-Foundation/D4RL at 89141a6, ``d4rl/kitchen/kitchen_envs.py`` and below it
``kitchen_multitask_v0.py``, ``franka_robot.py``, ``franka_config.xml``); data and tasks are of
Gupta et al. 2019, "Relay Policy Learning".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.environments.physics import (
    assets,
    load,
    normalise_quaternion,
    require_model,
    restore_colliders,
    restore_margins,
    restores,
)
from iql_fast.support.errors import UserError
from iql_fast.tasks.catalogue import Physics

FloatArray = NDArray[np.float64]

#: Where each element's positions are in qpos, and where they belong (metres, radians).
ELEMENTS: Mapping[str, tuple[slice, tuple[float, ...]]] = {
    "bottom burner": (slice(11, 13), (-0.88, -0.01)),
    "top burner": (slice(15, 17), (-0.92, -0.01)),
    "light switch": (slice(17, 19), (-0.69, -0.05)),
    "slide cabinet": (slice(19, 20), (0.37,)),
    "hinge cabinet": (slice(20, 22), (0.0, 1.45)),
    "microwave": (slice(22, 23), (-0.75,)),
    "kettle": (slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
#: What a policy is scored on. The first two differ in their data, not here.
TASKS: Mapping[str, tuple[str, ...]] = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
#: Distance over an element's positions below which it counts as done.
DONE = 0.3
#: Physics steps of 0.002 s that one action lasts.
FRAME_SKIP = 40
#: Radians (the fingers: metres) a second of an action of 1, and seconds of an action.
SPEED, SECONDS = 2.0, 0.08
#: Range of the targets of the arm's seven joints and two fingers.
LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0])
HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04])
#: Half width of the uniform noise on each observed position: a tenth of the sensors' amplitude.
NOISE = 0.1 * np.concatenate(
    [
        np.full(9, 0.1),  # the robot
        np.full(2, 0.005),  # one knob and its burner
        np.full(6, 0.0005),  # three more
        np.full(3, 0.005),  # light, slide cabinet
        np.full(3, 0.1),  # hinge cabinet, microwave
        np.full(3, 0.005),  # the kettle's place
        np.full(3, 0.1),  # its quaternion, but for
        np.full(1, 0.005),  # the last number
    ]
)
#: qpos of every reset: the robot, the fixed things, the kettle.
START = np.array(
    [
        *(1.48388023e-01, -1.76848573e00, 1.84390296e00, -2.47685760e00, 2.60252026e-01),
        *(7.12533105e-01, 1.59515394e00, 4.79267505e-02, 3.71350919e-02),
        *(-2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05, -3.90842156e-06),
        *(-4.22629655e-05, 6.28065475e-05, 4.04984708e-05, 4.62730939e-04, -2.26906415e-04),
        *(-4.65501369e-04, -6.44129196e-03, -1.77048263e-03, 1.08009684e-03),
        *(-2.69397440e-01, 3.50383255e-01, 1.61944683e00),
        *(1.00618764e00, 4.06395120e-03, -6.62095997e-03, -2.68278933e-04),
    ]
)
#: Where the kettle's quaternion begins in qpos.
_KETTLE_QUATERNION = 26
#: Kilograms of some of the bodies of gymnasium-robotics' scene, and of all.
MASSES = {
    "panda0_link0": 2.91242,
    "panda0_leftfinger": 0.092706,
    "knob 2": 0.02,
    "slidelink": 0.34,
    "microdoorroot": 0.26,
    "kettleroot": 0.88,
}
TOTAL_MASS = 46.630002
#: Radius and half length of the pedestal under the robot.
_PEDESTAL = (0.12, 0.9)


@functools.cache
def model(physics: Physics = "d4rl") -> mujoco.MjModel:
    """The compiled scene, one a process: not to be changed.

    Args:
        physics: ``"gymnasium"`` leaves out the edits that make up for a newer MuJoCo.

    Raises:
        UserError: gymnasium-robotics is missing, MuJoCo is refused, or the scene is not the
            expected one.
    """
    folder = assets("gymnasium_robotics") / "kitchen_franka" / "kitchen_assets"
    path = folder / "kitchen_env_model.xml"
    compiled = load(path)
    require_model(compiled, str(path), 30, 9, MASSES, TOTAL_MASS)
    # In D4RL's scene the pedestal is only to be seen; here the arm would collide with it.
    cylinders = compiled.geom_type == int(mujoco.mjtGeom.mjGEOM_CYLINDER)
    pedestal = cylinders & np.isclose(compiled.geom_size[:, :2], _PEDESTAL).all(1)
    if pedestal.sum() != 1:
        raise UserError(f"{path} is a model file that is not the one expected: no pedestal in it.")
    compiled.geom_contype[pedestal] = 0
    compiled.geom_conaffinity[pedestal] = 0
    if restores(physics):
        # The arm's links have no margin and must get none: its hand would touch its fingers.
        restore_margins(compiled)
        restore_colliders(compiled)
    return compiled


class Kitchen(gymnasium.Env[FloatArray, NDArray[np.float32]]):
    """The reward of a step is the number of elements that were put right for the first time.

    Observations ``[60]``: qpos of the robot (9) and of the things (21) with the sensors' noise,
    and the goal (30; 0 where nothing is asked for). Actions ``[9]`` in [-1, 1]: velocities, held
    for 0.08 s. Whether an element is done is judged by the noisy observation. The episode ends
    when all four are; the horizon (280 steps) is the registration's.

    Args:
        task: ``"complete"``, ``"partial"`` or ``"mixed"``.
        physics: the mechanics that D4RL's data were made in, or those of the installed MuJoCo.
        noise: factor on the sensors' noise.

    Raises:
        UserError: no such task; or as ``model`` says.
    """

    def __init__(
        self, task: str = "partial", *, physics: Physics = "d4rl", noise: float = 1.0
    ) -> None:
        if task not in TASKS:
            raise UserError(f"Kitchen has no task {task!r}: {', '.join(TASKS)}.")
        self.tasks, self.physics = TASKS[task], physics
        self.model = model(physics)
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (60,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.goal = np.zeros(30)
        for name in self.tasks:
            where, value = ELEMENTS[name]
            self.goal[where] = value
        self.remaining = list(self.tasks)
        self._noise = noise * NOISE
        self._seen = START.copy()

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002  Gymnasium's signature; there are none
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode, always from the same state."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = START
        # The simulator of D4RL's data did this in place, before the first observation.
        normalise_quaternion(self.data.qpos, _KETTLE_QUATERNION)
        mujoco.mj_forward(self.model, self.data)
        self.remaining = list(self.tasks)
        return self._observation(), {}

    def step(self, action: NDArray[Any]) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """One action ``[9]``, cut to [-1, 1].

        Returns:
            As Gymnasium says; ``info["completed"]`` names the elements done in this step.
        """
        # A target for the motors' springs, from where the sensors saw the robot last.
        velocity = SPEED * np.clip(action, -1, 1)
        self.data.ctrl[:] = np.clip(self._seen[:9] + SECONDS * velocity, LOW, HIGH)
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        observation = self._observation()
        completed = [name for name in self.remaining if self._is_done(name)]
        self.remaining = [name for name in self.remaining if name not in completed]
        info = {"completed": completed}
        return observation, float(len(completed)), not self.remaining, False, info

    def _is_done(self, name: str) -> bool:
        where, _ = ELEMENTS[name]
        return float(np.linalg.norm(self._seen[where] - self.goal[where])) < DONE

    def _observation(self) -> FloatArray:
        # D4RL's sensors are noisy in velocity, too, which it does not show.
        self._seen = self.data.qpos + self._noise * self.np_random.uniform(-1, 1, 30)
        return np.concatenate((self._seen, self.goal))
