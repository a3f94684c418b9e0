"""Repeats recorded motion under several MuJoCos, each in a temporary environment, and tables it.

    python tools/check_physics.py [--versions 3.2.3 3.2.6 3.11.0 newest] [--random 60]
                                  [--door-human FILE.hdf5]

Installs mujoco, gymnasium, gymnasium-robotics, numpy and h5py for each version (no torch), and
prints the largest differences from tests/data: D4RL's door demonstrations, episodes of hand_dapg's
policies, single steps of the hopper; and those of ants that know the walls near them alone from
ants in the whole maze. Fails where one is larger than the tests allow.

--random N: returns of N episodes of uniformly random actions, whose means are D4RL's reference
minima, in standard errors from them. Hopper is left out: no random policy returns D4RL's -20.27,
since every step pays about 1.
--door-human FILE: all 25 demonstrations of D4RL's door-human file with v1's flags (timeouts on each
demonstration's last row) and infos/{qpos,qvel,door_body_pos}, instead of the three in tests/data.
--here: the installed MuJoCo only, in this environment.
--write-hopper-steps: make tests/data/hopper_steps.npz anew with MuJoCo 3.4.0, the last before
margins were summed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

VERSIONS = ["3.2.3", "3.2.6", "3.11.0", "newest"]
PACKAGES = ["gymnasium>=1.0,<2", "gymnasium-robotics==1.4.2", "numpy", "h5py"]
REFUSED = {"4.0.0"}  # as in iql_fast/environments/physics.py, which needs MuJoCo to be imported
EXACT = (3, 2, 6)  # the last version with the contacts of 2.0 wherever a finger may be
HOPPER_VERSION = "3.4.0"
#: The largest differences that pass: of an episode's observations and rewards, of a hopper's step.
EPISODE_LIMIT, HOPPER_LIMIT = 1e-5, 1e-12
#: Tasks whose reference minimum is the return of random actions.
RANDOM_TASKS = ["pen", "hammer", "door", "relocate", "walker2d", "halfcheetah"]


# --- In an environment with one MuJoCo


def figures(random_episodes: int, door_human: Path | None) -> dict[str, Any]:
    """What is measured under the installed MuJoCo, as JSON holds it."""
    import mujoco

    from iql_fast.environments import physics
    from tests import replays

    note = physics.require_mujoco()
    result: dict[str, Any] = {"mujoco": mujoco.__version__, "note": note or ""}
    for name, make in replays.RECORDINGS.items():
        environment, episodes = make(), replays.recorded(name)
        if name == "door_human":
            if door_human is not None:
                episodes = demonstrations(door_human)
            steps = None
        else:
            steps = None if physics.mujoco_version() <= EXACT else 8
        each = [replays.difference(environment, episode, steps) for episode in episodes]
        result[name] = {
            "episodes": len(each),
            "first": steps,
            "observation": max(worst.observation for worst in each),
            "reward": max(worst.reward for worst in each),
            "within": sum(max(worst) < EPISODE_LIMIT for worst in each),
        }
    result["hopper"] = replays.hopper_difference()
    result["maze"] = replays.maze_difference("large").largest
    if random_episodes:
        result["random"] = {task: random_returns(task, random_episodes) for task in RANDOM_TASKS}
    return result


def demonstrations(path: Path) -> list[Any]:
    """All episodes of a file like D4RL's door-human-v1."""
    import h5py
    import numpy as np

    from tests import replays

    with h5py.File(path) as file:
        columns = [file[key][()] for key in ("observations", "actions", "rewards")]
        starts = {key: file[f"infos/{key}"][()] for key in ("qpos", "qvel", "door_body_pos")}
        ends = np.flatnonzero(file["timeouts"][()]) + 1
    return [
        replays.Episode(
            {key: values[begin] for key, values in starts.items()},
            *(column[begin:end] for column in columns),
        )
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def random_returns(task: str, episodes: int) -> dict[str, float]:
    """Mean and standard error of the returns of random actions, and D4RL's reference minimum."""
    import gymnasium
    import numpy as np

    import iql_fast.environments  # noqa: F401 - registers them
    from iql_fast.tasks import catalogue

    suffix = "v2" if task in ("walker2d", "halfcheetah") else "v0"
    environment = gymnasium.make(f"iql_fast/{task}-{suffix}")
    rng = np.random.default_rng(0)
    returns = []
    for episode in range(episodes):
        environment.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            action = rng.uniform(-1.0, 1.0, environment.action_space.shape)
            _, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return {
        "mean": float(np.mean(returns)),
        "error": float(np.std(returns, ddof=1) / np.sqrt(episodes)),
        "minimum": float(catalogue.ENVIRONMENTS[task].min_score),
    }


# --- Over versions


def newest() -> str:
    """The newest MuJoCo that pip offers and that is not refused."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "mujoco"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    offered = re.search(r"Available versions: (.*)", listing)
    if offered is None:
        raise SystemExit(f"pip named no versions of mujoco:\n{listing}")
    return next(name for name in offered[1].split(", ") if name not in REFUSED)


def in_environment(version: str, arguments: list[str]) -> str:
    """Run this program under a MuJoCo of its own; what it prints."""
    with tempfile.TemporaryDirectory(prefix=f"mujoco-{version}-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", f"mujoco=={version}", *PACKAGES], check=True
        )
        return subprocess.run(
            [python, __file__, "--here", *arguments],
            check=True, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "MUJOCO_GL": "disable"},
        ).stdout  # fmt: skip


def table(measured: list[dict[str, Any]]) -> str:
    """The figures of every version, as Markdown."""
    lines = ["| MuJoCo | recorded | compared | within 1e-5 | observations | rewards |"]
    lines.append("|---|---|---|---|---|---|")
    for result in measured:
        for name in ("door_human", "door_expert", "relocate_expert"):
            row = result[name]
            rows = f"first {row['first']} rows" if row["first"] else "every row"
            lines.append(
                f"| {result['mujoco']} | {name} | {rows} | {row['within']} of {row['episodes']} | "
                f"{row['observation']:.1e} | {row['reward']:.1e} |"
            )
        lines.append(f"| {result['mujoco']} | hopper, 1 step | | | {result['hopper']:.1e} | |")
        lines.append(f"| {result['mujoco']} | ants in a maze | | | {result['maze']:.1e} | |")
    if any("random" in result for result in measured):
        lines += ["", "| MuJoCo | random actions | return | D4RL | standard errors apart |"]
        lines.append("|---|---|---|---|---|")
    for result in measured:
        for task, row in result.get("random", {}).items():
            apart = (row["mean"] - row["minimum"]) / row["error"]
            lines.append(
                f"| {result['mujoco']} | {task} | {row['mean']:.2f} +- {row['error']:.2f} | "
                f"{row['minimum']:.2f} | {apart:+.1f} |"
            )
    return "\n".join([*lines, *(result["note"] for result in measured if result["note"])])


def too_large(result: dict[str, Any], whole_file: bool) -> bool:
    """Whether a version's differences are larger than the tests allow.

    Args:
        whole_file: the demonstrations are all 25, some of which multiply the rounding of their
            recorded starts: of those only the rewards are held to the limit times 10.
    """
    for name in ("door_human", "door_expert", "relocate_expert"):
        row = result[name]
        if name == "door_human" and whole_file:
            if row["reward"] >= 10 * EPISODE_LIMIT:
                return True
        elif row["within"] < row["episodes"]:
            return True
    return bool(result["hopper"] >= HOPPER_LIMIT or result["maze"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--door-human", type=Path, metavar="FILE")
    parser.add_argument("--here", action="store_true")
    parser.add_argument(
        "--json", action="store_true", help="with --here: the figures, for programs"
    )
    parser.add_argument("--write-hopper-steps", action="store_true")
    arguments = parser.parse_args()

    if arguments.write_hopper_steps:
        if not arguments.here:
            in_environment(HOPPER_VERSION, ["--write-hopper-steps"])
            return 0
        from tests import replays

        replays.write_hopper_steps()
        return 0

    if arguments.here:
        measured = [figures(arguments.random, arguments.door_human)]
        if arguments.json:
            print(json.dumps(measured[0]))
            return 0
    else:
        options = ["--json", "--random", str(arguments.random)]
        if arguments.door_human:
            options += ["--door-human", str(arguments.door_human.resolve())]
        versions = [newest() if name == "newest" else name for name in arguments.versions]
        measured = []
        for version in versions:
            print(f"MuJoCo {version} ...", file=sys.stderr, flush=True)
            measured.append(json.loads(in_environment(version, options)))
    print(table(measured))
    failed = [each["mujoco"] for each in measured if too_large(each, bool(arguments.door_human))]
    if failed:
        print(f"Differences larger than the tests allow: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
