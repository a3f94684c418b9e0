"""A film of an episode: MuJoCo's renderer, in a process of its own.

MuJoCo decides when it is imported how it draws, so that another way can be tried in another process
only.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.environments import workers
from iql_fast.policies.acting import Acting, played
from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

#: Ending of a film -> Pillow's name of its format. The second is a twentieth of the size.
FORMATS = {".gif": "GIF", ".webp": "WEBP"}
#: Ways of drawing, in the order in which they are tried: two that need no screen, and a window's.
WAYS = ("egl", "osmesa", "glfw")
SIZE = (240, 320)  # pixels, height and width
MOST_FRAMES = 300


def write(
    path: Path,
    environment: str,
    horizon: int,
    policy: Acting,
    key: tuple[int, int, int],
    most_frames: int = MOST_FRAMES,
) -> float:
    """Film one episode of the policy's mean actions; returns the episode's return.

    Args:
        path: a ``.gif`` or ``.webp``.
        environment: see ``workers.environment``.
        horizon: steps after which the episode is cut.
        key: seeds the episode, as in ``episodes.run_episodes``.
        most_frames: a longer episode leaves out frames.

    Raises:
        UserError: another ending, or no way of drawing works here; says why of each.
    """
    check(path)
    asked = os.environ.get("MUJOCO_GL")
    failures = []
    for way in (asked,) if asked else WAYS:
        try:
            frames, total, seconds = _in_own_process(
                way, environment, horizon, policy, key, most_frames
            )
        except BrokenProcessPool:
            failures.append(f"{way}: the process that drew died")
        except Exception as error:
            failures.append(f"{way}: {type(error).__name__}: {error}".strip())
        else:
            _save(path, frames, seconds)
            return total
    raise UserError(
        f"The episode cannot be drawn here ({'; '.join(failures)}). Without a screen MuJoCo needs "
        "EGL (Debian's libegl1 and libgl1-mesa-dri) or OSMesa (libosmesa6); MUJOCO_GL names one."
    )


def check(path: Path) -> None:
    """Raise a ``UserError`` where a film cannot be called that."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"A film is a {' or '.join(FORMATS)}; {path} has another ending.")


def _in_own_process(way: str, *arguments: Any) -> tuple[list[np.ndarray], float, float]:
    settings = {"MUJOCO_GL": way, "PYOPENGL_PLATFORM": way if way in ("egl", "osmesa") else ""}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: value for name, value in settings.items() if value})
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_shoot, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shoot(
    environment: str,
    horizon: int,
    policy: Acting,
    key: tuple[int, int, int],
    most_frames: int,
) -> tuple[list[np.ndarray], float, float]:
    """Frames ``[H, W, 3]``, the return, and the seconds of the episode between two frames."""
    import mujoco

    from iql_fast.environments.antmaze import AntMaze

    env = workers.environment(environment)
    observation, _ = env.reset(seed=workers.seed_of(key))
    data = env.unwrapped.data

    def scene() -> Any:
        """The model and the data to be drawn."""
        whole = isinstance(env.unwrapped, AntMaze)
        return env.unwrapped.scene() if whole else (env.unwrapped.model, data)

    model, _ = scene()
    renderer = mujoco.Renderer(model, *SIZE)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    if model.njnt and model.jnt_type[0] in (0, 2):  # a robot that walks away: follow it
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        camera.trackbodyid = int(model.jnt_bodyid[0])
    every = max(1, -(-horizon // most_frames))
    start, total, steps = data.time, 0.0, 0
    frames = []
    player = played(policy, 1)
    for steps in range(1, horizon + 1):
        if (steps - 1) % every == 0:
            renderer.update_scene(scene()[1], camera)
            frames.append(renderer.render())
        observation, reward, terminal, _, _ = env.step(player.act(observation[None])[0])
        player.observe(np.array([reward]))
        total += float(reward)
        if terminal:
            break
    renderer.update_scene(scene()[1], camera)
    frames.append(renderer.render())
    return frames, total, every * (data.time - start) / max(steps, 1)


def _save(path: Path, frames: list[np.ndarray], seconds: float) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    with written_beside(path) as partial:
        pictures[0].save(
            partial,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=pictures[1:],
            duration=max(20, round(1000 * seconds)),  # ms; viewers slow down shorter ones
            loop=0,
        )
