"""Which MuJoCo computes what, and the edits that give back the mechanics of MuJoCo 2.0.

D4RL's data and its reference returns were made with MuJoCo 2.0. From the same model file a MuJoCo
of today computes other motion. Here, in one place and by version, stands what changed and how a
compiled model is edited so that the old mechanics come back. The functions edit in place, do
nothing where the installed MuJoCo needs nothing, and may be called once a model.

Numbers of items are those of MuJoCo's changelog (doc/changelog.rst) under the version named.

What has no undo: since 3.2.7 the depth of a sphere or capsule whose centre lies inside a box is
another (Adroit, when a finger is pressed deep into the palm); since 3.4.0 so is the distance of two
boxes (Kitchen: the kettle rests 0.23 mm differently). The constraint solver stops where it finds
itself near enough, and not at the same iteration in every version: in the hand, 3.11 to 3.16 differ
from 3.2.6, and 3.17 from 3.16, in fewer than 10 of 1,500 time steps, by up to 4e-5 in qvel, from
equal contacts. Of D4RL's 25 door demonstrations one parts by 0.03 for that under 3.17.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from iql_fast.support.errors import UserError
from iql_fast.tasks.catalogue import Physics

#: Before 3.2.3 the Python interface differs; 2.3.3 to 2.3.7 also miss contacts inside the margin.
OLDEST = (3, 2, 3)
#: The newest on which the replays of recorded data were seen to agree (tools/check_physics.py).
TESTED = (3, 17, 0)
#: Its solver is wrong: the ant's state differs by up to 0.6 after a few steps. 4.0.1 mends it.
REFUSED = ((4, 0, 0),)

_FROM_PIP = "pip install 'mujoco>=3.2.3,!=4.0.0'"


def mujoco_version() -> tuple[int, int, int]:
    """The installed MuJoCo as integers, so that 3.11 is newer than 3.5.

    What follows the third number (``3.3.8.dev1``, ``3.4.0rc1``) is ignored; a missing number is 0.
    """
    numbers = [int(digits) for digits in re.findall(r"\d+", mujoco.__version__)[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def require_mujoco() -> str | None:
    """Check the installed MuJoCo.

    Returns:
        None, or a sentence for the user: it is newer than any that was tried.

    Raises:
        UserError: it is too old, or one whose solver is wrong; the message says what to install.
    """
    version = mujoco_version()
    if version < OLDEST:
        raise UserError(
            f"MuJoCo {mujoco.__version__} is installed, but the environments need 3.2.3 or newer: "
            f"{_FROM_PIP}"
        )
    if version in REFUSED:
        raise UserError(
            f"MuJoCo {mujoco.__version__} is installed, whose solver computes wrong motion (mended "
            f"in 4.0.1): {_FROM_PIP}"
        )
    if version > TESTED:
        tested = ".".join(map(str, TESTED))
        return (
            f"MuJoCo {mujoco.__version__} is newer than {tested}, the newest whose motion was "
            "compared with D4RL's: python tools/check_physics.py compares it."
        )
    return None


# --- Model files -----------------------------------------------------------------------------


@functools.cache
def assets(package: Literal["gymnasium", "gymnasium_robotics"]) -> Path:
    """The folder of model files that a package ships.

    Returns:
        ``gymnasium/envs/mujoco/assets`` or ``gymnasium_robotics/envs/assets``.

    Raises:
        UserError: the package is not installed, or has no such folder.
    """
    inside = {"gymnasium": "envs/mujoco/assets", "gymnasium_robotics": "envs/assets"}[package]
    command = {
        "gymnasium": "pip install 'gymnasium[mujoco]'",
        "gymnasium_robotics": "pip install gymnasium-robotics",
    }[package]
    try:
        # Found without running the package, whose import takes seconds and registers much.
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"This environment's model files come with {package.replace('_', '-')}, which is not "
            f"installed: {command}"
        )
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise UserError(f"{package.replace('_', '-')} has no folder {folder}: {command}")
    return folder


def load(file: Path) -> Any:
    """Compile a model file, after ``require_mujoco``.

    Raises:
        UserError: the installed MuJoCo is refused, or the file is missing or cannot be compiled.
    """
    require_mujoco()
    try:
        with _quiet_compiler():
            return mujoco.MjModel.from_xml_path(os.fspath(file))
    except ValueError as error:  # MuJoCo says so of every fault, a missing file included
        raise UserError(f"MuJoCo {mujoco.__version__} cannot load {file}: {error}") from None


@contextmanager
def _quiet_compiler() -> Iterator[None]:
    """Keep MuJoCo from writing of ``settotalmass`` in the block.

    Newer versions call that attribute of half_cheetah.xml deprecated, at every load, on the
    terminal and in a file MUJOCO_LOG.TXT that they leave in the working folder. Other warnings
    become Python's.
    """
    others: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(
        lambda message: None if "settotalmass" in message else others.append(message)
    )
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
    for message in others:
        warnings.warn(f"MuJoCo: {message}", stacklevel=4)


def require_model(
    model: Any,
    name: str,
    nq: int,
    nu: int,
    masses: Mapping[str, float],
    total_mass: float | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Check that a model, as compiled and before any edit, is the one its environment is made for.

    Args:
        model: a ``mujoco.MjModel``.
        name: what to call it in the message, such as its file's path.
        nq: coordinates of position.
        nu: actuators.
        masses: kg, of some or all bodies, by name.
        total_mass: kg, of all bodies; not checked where None.
        tolerance: relative, for the masses.

    Raises:
        UserError: it differs; the message says in what.
    """
    faults = []
    if (model.nq, model.nu) != (nq, nu):
        faults.append(f"it has nq {model.nq} and nu {model.nu}, for {nq} and {nu}")
    for body, mass in masses.items():
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)
        if index < 0:
            faults.append(f"it has no body {body}")
        elif abs(model.body_mass[index] - mass) > tolerance * mass:
            faults.append(f"its body {body} weighs {model.body_mass[index]:.6g} kg, for {mass:.6g}")
    total = float(model.body_mass.sum())
    if total_mass is not None and abs(total - total_mass) > tolerance * total_mass:
        faults.append(f"its bodies weigh {total:.6g} kg, for {total_mass:.6g}")
    if faults:
        raise UserError(
            f"{name} is a model file that is not the one expected: {'; '.join(faults)}. Known to "
            "be right are those of gymnasium 1.4.0 and gymnasium-robotics 1.4.2."
        )


def restores(physics: Physics) -> bool:
    """Whether an environment is to make the edits below.

    Raises:
        UserError: ``physics`` is none of the two.
    """
    if physics not in get_args(Physics):
        raise UserError(f"physics is {physics!r}, for one of {', '.join(get_args(Physics))}.")
    return physics == "d4rl"


# --- Contacts --------------------------------------------------------------------------------


def restore_margins(
    model: Any, geoms: ArrayLike | None = None, *, pair: float | None = None
) -> None:
    """Make contacts begin at the distance at which they began in MuJoCo 2.0.

    Since 3.5.0 (item 12) the margin of two geoms is the sum of theirs; before, it was the larger
    one. The same for their gap. With half of it each, the sum is what the larger was, if both have
    the same; two geoms whose margins differ cannot be put right by this. Explicit pairs
    (``model.pair_margin``) never changed, and are left alone. Nothing is done before 3.5.0.

    Args:
        model: a ``mujoco.MjModel``, edited.
        geoms: indices or a mask of geoms; all where None.
        pair: m; the margin that any two of these geoms had, of which each gets half even if its
            own is 0 (right where a geom of margin 0 meets none but geoms with one). None halves
            what each has.
    """
    if mujoco_version() < (3, 5, 0):
        return
    chosen: Any = slice(None) if geoms is None else np.asarray(geoms)
    model.geom_gap[chosen] *= 0.5
    model.geom_margin[chosen] = 0.5 * (model.geom_margin[chosen] if pair is None else pair)


def restore_colliders(model: Any) -> None:
    """Let convex geoms collide as before 3.3: by libccd, with one point of contact.

    Since 3.3.0 (the changelog's first item of note) the native convex collider is the default, and
    since 3.8.0 it returns several points. Each has a flag that turns it off. Hands and kitchens
    (meshes, boxes, cylinders, ellipsoids) are touched by it; robots of capsules on a plane are not.

    Args:
        model: a ``mujoco.MjModel``, edited.
    """
    version = mujoco_version()
    if version >= (3, 3, 0):
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
    if version >= (3, 8, 0):  # before, it was a flag to enable, off by default
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MULTICCD)


# --- Capsules --------------------------------------------------------------------------------


def restore_capsules(model: Any, total_mass: float | None = None) -> None:
    """Give every body that has a capsule the mass and inertia that MuJoCo 2.0 gave it.

    Since 2.1.1 ("capsule inertia is exact") a capsule of radius r and half length h counts as what
    it is; before, as a cylinder of radius r and length 2h + r. That holds for the whole body: its
    mass, centre of mass and principal axes follow from its geoms, of one density. What depends on
    inertia (inverse weights, sub-tree masses, accelerations of actuators) is computed again.

    Args:
        model: a ``mujoco.MjModel`` whose bodies' inertia comes from their geoms, edited.
        total_mass: kg; where the file says ``settotalmass`` (half_cheetah: 14), all bodies are
            scaled to it.

    Raises:
        UserError: a body with a capsule has inertia that does not follow from its geoms.
    """
    capsules = model.geom_type == int(mujoco.mjtGeom.mjGEOM_CAPSULE)
    bodies = np.unique(model.geom_bodyid[capsules])
    for body in bodies[model.body_mass[bodies] > 0]:  # not the world's
        _restore_body(model, int(body))
    if total_mass is not None:
        scale = total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _restore_body(model: Any, body: int) -> None:
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    geoms = range(first, first + count)
    now = [_unit_geom(model, geom, exact=True) for geom in geoms]
    then = [_unit_geom(model, geom, exact=False) for geom in geoms]
    density = float(model.body_mass[body]) / sum(volume for volume, _ in now)

    # Only if the compiled inertia is what the geoms say can the old one be had from them.
    _, expected = _combined(model, geoms, now)
    moments = np.sort(np.linalg.eigvalsh(density * expected))
    if not np.allclose(moments, np.sort(model.body_inertia[body]), rtol=1e-5):
        name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, body)
        raise UserError(
            f"The inertia of the body {name} does not follow from its geoms at one density: this "
            "is a model file that is not the one expected."
        )

    model.body_mass[body] = density * sum(volume for volume, _ in then)
    if count == 1:  # the geom's own frame, as MuJoCo has it, stays
        model.body_inertia[body] = density * then[0][1]
        return
    centre, inertia = _combined(model, geoms, then)
    moments, axes, orientation = np.zeros(3), np.zeros(9), np.zeros(4)
    mujoco.mju_eig3(moments, axes, orientation, density * inertia.ravel())
    model.body_ipos[body], model.body_iquat[body] = centre, orientation
    model.body_inertia[body] = moments
    # Shortcuts of MuJoCo's for frames that coincide, which now may not.
    model.body_sameframe[body] = 0
    model.geom_sameframe[first : first + count] = 0


def _unit_geom(model: Any, geom: int, exact: bool) -> tuple[float, NDArray[np.float64]]:
    """Volume (m^3) of a geom and its moments of inertia ``[3]`` at density 1, in its own frame.

    Args:
        exact: a capsule as it is, not the cylinder of MuJoCo 2.0.
    """
    kind = int(model.geom_type[geom])
    x, y, z = (float(size) for size in model.geom_size[geom])
    if kind == int(mujoco.mjtGeom.mjGEOM_CAPSULE) and exact:
        r, length = x, 2 * y
        cylinder, ball = np.pi * r**2 * length, 4 / 3 * np.pi * r**3
        # The caps are halves of a ball, whose centres of mass lie 3/8 r beyond the cylinder's ends.
        side = cylinder * (3 * r**2 + length**2) / 12
        side += ball * (0.4 * r**2 + length**2 / 4 + 3 / 8 * length * r)
        return cylinder + ball, np.array(
            [side, side, cylinder * r**2 / 2 + 0.4 * ball * r**2], dtype=np.float64
        )
    if kind in (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER)):
        r = x
        length = 2 * y + (r if kind == int(mujoco.mjtGeom.mjGEOM_CAPSULE) else 0.0)
        volume = np.pi * r**2 * length
        side = volume * (3 * r**2 + length**2) / 12
        return volume, np.array([side, side, volume * r**2 / 2])
    if kind == int(mujoco.mjtGeom.mjGEOM_SPHERE):
        volume = 4 / 3 * np.pi * x**3
        return volume, np.full(3, 0.4 * volume * x**2)
    squares = np.array([y**2 + z**2, x**2 + z**2, x**2 + y**2])
    if kind == int(mujoco.mjtGeom.mjGEOM_BOX):
        return 8 * x * y * z, 8 * x * y * z * squares / 3
    if kind == int(mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        volume = 4 / 3 * np.pi * x * y * z
        return volume, volume * squares / 5
    raise UserError(
        f"A body with a capsule has a geom of type {kind} as well, whose inertia is unknown: this "
        "is a model file that is not the one expected."
    )


def _combined(
    model: Any, geoms: range, parts: list[tuple[float, NDArray[np.float64]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre of mass ``[3]`` of a body's geoms, and their inertia ``[3, 3]`` about it, both along
    the body's axes."""
    volumes = np.array([volume for volume, _ in parts])
    places = np.array([model.geom_pos[geom] for geom in geoms])
    centre = volumes @ places / volumes.sum()
    inertia = np.zeros((3, 3))
    for geom, (volume, moments), place in zip(geoms, parts, places, strict=True):
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        turn, arm = rotation.reshape(3, 3), place - centre
        inertia += turn @ np.diag(moments) @ turn.T
        inertia += volume * (arm @ arm * np.eye(3) - np.outer(arm, arm))  # parallel axes
    return centre, inertia


# --- Quaternions -----------------------------------------------------------------------------


def normalise_quaternion(qpos: NDArray[np.float64], start: int) -> None:
    """Give ``qpos[start:start + 4]`` length 1, in place.

    Since 3.2.0 (item on ``mj_normalizeQuat``) a forward pass leaves qpos as it is; before, it
    normalised the quaternions of free and ball joints there, so that the first observation after a
    reset showed them with length 1. To be called between setting qpos and observing, in every
    version.
    """
    qpos[start : start + 4] /= np.linalg.norm(qpos[start : start + 4])
