"""AntMaze's regenerated datasets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Width of the walker's inputs.
INPUTS = 27
#: Sign that makes a positive ankle angle lower the foot, of legs 1 to 4.
_ANKLE_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
#: The leg of each pair of motors, counted from 0.
_MOTOR_LEGS = np.array([3, 0, 1, 2])


class Frame:
    """States of N ants as the walker sees them: its direction straight ahead, its body too.

    A plane looks the same from all sides, and the ant the same from each of its legs. So the world
    is turned until the direction is +x, and legs are counted so that the body points within 45
    degrees of it: all that is to be learned is to walk ahead.

    Args:
        positions: ``[N, 15]``, qpos.
        velocities: ``[N, 14]``, qvel.
        directions: ``[N, 2]``, of any length above 0.
    """

    def __init__(
        self, positions: FloatArray, velocities: FloatArray, directions: FloatArray
    ) -> None:
        self._positions, self._velocities = positions, velocities
        self._heading = np.arctan2(directions[:, 1], directions[:, 0])
        w, x, y, z = positions[:, 3:7].T
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        self._quarters = np.rint((yaw - self._heading) / (np.pi / 2)).astype(int)

    def inputs(self) -> NDArray[np.float32]:
        """``[N, 27]``: height, quaternion, joint angles (hip and ankle a leg), the torso's velocity
        and spin, joint velocities; of the ant's 29 observations all but its place."""
        body = self._quarters * (np.pi / 2)
        legs = (np.arange(4) - self._quarters[:, None]) % 4
        qpos, qvel = self._positions, self._velocities
        columns = [
            qpos[:, 2:3],
            _turned_quaternion(qpos[:, 3:7], -self._heading, -body),
            _counted(qpos[:, 7:], legs),
            _turned(qvel[:, 0:3], -self._heading),
            _turned(qvel[:, 3:6], body),  # MuJoCo gives a free body's spin in the body's own axes
            _counted(qvel[:, 6:], legs),
        ]
        return np.concatenate(columns, 1).astype(np.float32)

    def actions(self, chosen: NDArray[np.floating]) -> FloatArray:
        """The ant's actions ``[N, 8]`` from the walker's ``[N, 8]``."""
        legs = (np.arange(4) + self._quarters[:, None]) % 4
        own = np.take_along_axis(chosen.reshape(-1, 4, 2), legs[..., None], 1).astype(np.float64)
        own[..., 1] *= _ANKLE_SIGNS
        return own[:, _MOTOR_LEGS].reshape(-1, 8)


def _counted(joints: FloatArray, legs: NDArray[np.int_]) -> FloatArray:
    """Joint values ``[N, 8]`` with the legs in another order and ankles of one sign."""
    values = joints.reshape(-1, 4, 2) * np.stack([np.ones(4), _ANKLE_SIGNS], 1)
    return np.take_along_axis(values, legs[..., None], 1).reshape(-1, 8)


def _turned(vectors: FloatArray, angles: FloatArray) -> FloatArray:
    """Vectors ``[N, 3]`` turned about z."""
    cosine, sine = np.cos(angles), np.sin(angles)
    x, y, z = vectors.T
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], 1)


def _turned_quaternion(
    quaternions: FloatArray, world: FloatArray, body: FloatArray
) -> FloatArray:
    """``turn(world) q turn(body)``, both about z, with a real part that is not negative."""
    w, x, y, z = quaternions.T
    plus, minus = (world + body) / 2, (world - body) / 2
    # About one axis, turns on both sides add for (w, z) and subtract for (x, y).
    w, z = np.cos(plus) * w - np.sin(plus) * z, np.cos(plus) * z + np.sin(plus) * w
    x, y = np.cos(minus) * x - np.sin(minus) * y, np.cos(minus) * y + np.sin(minus) * x
    sign = np.where(w < 0, -1.0, 1.0)
    return np.stack([w, x, y, z], 1) * sign[:, None]
