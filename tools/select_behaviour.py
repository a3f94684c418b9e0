"""Choose the behaviour policies of the regenerated datasets from the snapshots of a training.

    python tools/select_behaviour.py --env hopper --snapshots FOLDER

measures what each snapshot's stochastic policy returns, picks those whose returns are nearest to
D4RL's datasets, and writes ``iql_fast/data/behaviour/``. ``medium-replay`` is a mixture of
snapshots up to the medium one, their shares tilted until the mean trajectory return is D4RL's.
``--kinds`` leaves the other datasets of the environment as they are: a medium policy and an expert
may come from trainings of their own.

    python tools/select_behaviour.py --env hopper --shipped

measures the policies that the package ships again, as after a change of the simulator, tilts the
shares of the mixture anew, and writes what comes out.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from iql_fast.data import behaviour_policy, regenerate
from iql_fast.environments import workers
from iql_fast.tasks import catalogue

#: Mean trajectory return and rows of D4RL's -v2 datasets.
D4RL = {
    "hopper": {
        "random": (18, 1_000_000),
        "medium": (1422, 1_000_000),
        "medium-replay": (467, 402_000),
        "expert": (3511, 1_000_000),
    },
    "halfcheetah": {
        "random": (-288, 1_000_000),
        "medium": (4770, 1_000_000),
        "medium-replay": (3093, 202_000),
        "expert": (10656, 1_000_000),
    },
    "walker2d": {
        "random": (2, 1_000_000),
        "medium": (2852, 1_000_000),
        "medium-replay": (682, 302_000),
        "expert": (4920, 1_000_000),
    },
}
KINDS = ("random", "medium", "medium-replay", "expert")
MEDIUM_EXPERT = {"hopper": 2089, "halfcheetah": 7713, "walker2d": 3887}
REPLAY_POLICIES = 8
#: Snapshots measured again for medium and for expert, and with how many episodes.
CANDIDATES = 4
CANDIDATE_EPISODES = 80


def gym_id(env_name: str) -> str:
    """The environment of an environment's datasets, in D4RL's physics."""
    return catalogue.get(f"{env_name}-medium-v2").environment_id("d4rl")


def measure(arguments: tuple[str, Path, int, float]) -> tuple[float, float, float]:
    """Mean return, its standard deviation and mean length over episodes of a snapshot."""
    env_name, snapshot, episodes, noise = arguments
    environment = catalogue.ENVIRONMENTS[env_name]
    env = workers.environment(gym_id(env_name))
    policy = behaviour_policy.load(snapshot, noise)
    trajectories = [
        regenerate.roll_out(env, policy, environment.horizon, (12345, i)) for i in range(episodes)
    ]
    returns = [float(t.rewards.sum(dtype=np.float64)) for t in trajectories]
    lengths = [len(t.rewards) for t in trajectories]
    return float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths))


def tilted_shares(
    returns: np.ndarray, lengths: np.ndarray, target: float
) -> tuple[np.ndarray, float]:
    """Shares of rows ``exp(tilt * i)`` whose mean trajectory return is nearest to the target."""
    places = np.linspace(-1, 1, len(returns))

    def mean(tilt: float) -> tuple[np.ndarray, float]:
        shares = np.exp(tilt * places)
        shares /= shares.sum()
        trajectories = shares / lengths
        return shares, float((trajectories * returns).sum() / trajectories.sum())

    candidates = [mean(tilt) for tilt in np.linspace(-12, 12, 2401)]
    return min(candidates, key=lambda c: abs(c[1] - target))


def export(snapshot: Path, name: str) -> str:
    """Copy a snapshot into the package in float16; its name there."""
    with safe_open(snapshot, "numpy") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key).astype(np.float16) for key in file.keys()}  # noqa: SIM118  not a dict
    path = regenerate.BEHAVIOUR / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)
    return name


def measure_shipped(env: str, episodes: int, workers: int | None) -> None:
    """Write what the shipped policies return now into the manifest, a mixture tilted anew.

    Args:
        episodes: of each policy.
    """
    path = regenerate.BEHAVIOUR / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    names = [name for name in manifest if name.startswith(f"{env}-")]
    policies = sorted(
        {
            (part["policy"], part.get("noise", 1.0))
            for name in names
            for part in manifest[name]["parts"]
            if part["policy"] != "uniform"
        }
    )
    jobs = [
        (env, regenerate.BEHAVIOUR / f"{policy}.safetensors", episodes, noise)
        for policy, noise in policies
    ]
    with ProcessPoolExecutor(workers) as pool:
        measured = dict(zip(policies, pool.map(measure, jobs), strict=True))
    for (policy, noise), (mean, spread, length) in measured.items():
        print(f"{policy} x {noise}: return {mean:.1f} +- {spread:.1f}, length {length:.1f}")
    for name in names:
        entry = manifest[name]
        parts = [part for part in entry["parts"] if part["policy"] != "uniform"]
        if not parts:
            continue
        found = np.array([measured[part["policy"], part.get("noise", 1.0)] for part in parts])
        rows = np.array([part["rows"] for part in parts], dtype=float)
        if name.endswith("-medium-replay-v2"):
            shares, _ = tilted_shares(found[:, 0], found[:, 2], entry["d4rl_mean_return"])
            rows = (D4RL[env]["medium-replay"][1] * shares).round(-2)
            for part, count in zip(parts, rows, strict=True):
                part["rows"] = int(count)
            entry["parts"] = [part for part in parts if part["rows"] > 0]
        trajectories = rows / found[:, 2]
        mean = float((trajectories * found[:, 0]).sum() / trajectories.sum())
        entry["mean_return"] = round(mean, 1)
        print(f"{name}: mean return {mean:.1f}, D4RL's {entry['d4rl_mean_return']}")
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", required=True, choices=list(D4RL))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--snapshots", type=Path, help="folder of snapshots to choose from")
    source.add_argument("--shipped", action="store_true", help="measure what is shipped again")
    parser.add_argument("--episodes", type=int, default=20, help="episodes to measure each with")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        help="datasets to choose policies for (default: all; medium-expert follows from its parts)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th snapshot only")
    parser.add_argument(
        "--noise", type=float, default=1.0, help="factor on the policies' standard deviation"
    )
    arguments = parser.parse_args()
    env, targets = arguments.env, D4RL[arguments.env]
    if arguments.shipped:
        measure_shipped(env, arguments.episodes, arguments.workers)
        return

    kinds, noise = set(arguments.kinds), arguments.noise

    snapshots = sorted(arguments.snapshots.glob("*.safetensors"))[:: arguments.every]
    jobs = [(env, snapshot, arguments.episodes, noise) for snapshot in snapshots]
    with ProcessPoolExecutor(arguments.workers) as pool:
        measured = np.array(list(pool.map(measure, jobs)))
        # Few episodes find the candidates; many tell them apart.
        near: set[int] = set()
        for kind in ("medium", "expert"):
            distance = np.abs(measured[:, 0] - targets[kind][0])
            near |= set(np.argsort(distance)[:CANDIDATES].tolist())
        again = sorted(near)
        jobs = [(env, snapshots[i], CANDIDATE_EPISODES, noise) for i in again]
        measured[again] = list(pool.map(measure, jobs))
    for snapshot, (mean, spread, length) in zip(snapshots, measured, strict=True):
        print(f"{snapshot.stem}  return {mean:8.1f} +- {spread:7.1f}  length {length:6.1f}")

    path = regenerate.BEHAVIOUR / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    returns, lengths = measured[:, 0], measured[:, 2]

    def entry(kind: str, parts: list[dict[str, Any]], mean: float, d4rl: float) -> None:
        rounded = {"parts": parts, "mean_return": round(mean, 1), "d4rl_mean_return": d4rl}
        manifest[f"{env}-{kind}-v2"] = rounded
        print(f"{env}-{kind}: mean return {mean:.1f}, D4RL's {d4rl}")

    def part(name: str, rows: int) -> dict[str, Any]:
        scaled = {} if noise == 1 or name == "uniform" else {"noise": noise}
        return {"policy": name, "rows": rows, **scaled}

    def nearest(kind: str) -> int:
        return min(again, key=lambda i: abs(returns[i] - targets[kind][0]))

    if "random" in kinds:
        environment = catalogue.ENVIRONMENTS[env]
        uniform = behaviour_policy.UniformPolicy(environment.act_dim)
        instance = workers.environment(gym_id(env))
        random_returns = [
            regenerate.roll_out(instance, uniform, environment.horizon, (54321, i)).rewards.sum()
            for i in range(200)
        ]
        target, rows = targets["random"]
        entry("random", [part("uniform", rows)], float(np.mean(random_returns)), target)

    medium = nearest("medium")
    if "medium" in kinds:
        target, rows = targets["medium"]
        name = export(snapshots[medium], f"{env}-medium")
        entry("medium", [part(name, rows)], returns[medium], target)
    if "expert" in kinds:
        expert = nearest("expert")
        target, rows = targets["expert"]
        name = export(snapshots[expert], f"{env}-expert")
        entry("expert", [part(name, rows)], returns[expert], target)
    if "medium-replay" in kinds:
        target, rows = targets["medium-replay"]
        chosen = np.unique(np.linspace(0, medium, REPLAY_POLICIES).round().astype(int))
        shares, mean = tilted_shares(returns[chosen], lengths[chosen], target)
        replay = [
            part(export(snapshots[i], f"{env}-replay-{k}"), int(round(rows * share, -2)))
            for k, (i, share) in enumerate(zip(chosen, shares, strict=True))
        ]
        entry("medium-replay", [p for p in replay if p["rows"] > 0], mean, target)

    # The mean over trajectories: equal rows of each part, so more trajectories of the shorter.
    parts = [manifest[f"{env}-{kind}-v2"]["parts"][0] for kind in ("medium", "expert")]
    both = np.array(
        [
            measure(
                (
                    env,
                    regenerate.BEHAVIOUR / f"{p['policy']}.safetensors",
                    CANDIDATE_EPISODES,
                    p.get("noise", 1.0),
                )
            )
            for p in parts
        ]
    )
    mean = float((both[:, 0] / both[:, 2]).sum() / (1 / both[:, 2]).sum())
    entry("medium-expert", parts, mean, MEDIUM_EXPERT[env])
    path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
