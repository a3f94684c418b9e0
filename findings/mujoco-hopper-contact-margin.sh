#!/usr/bin/env bash
# The same Hopper-v4 of gymnasium 1.4.0 is another robot under mujoco 3.5.0 than under 3.4.0. Every
# geom of its hopper.xml has a margin of 0.001 m; two of them now begin to touch at the sum of their
# margins, where it was the larger one, so contacts begin twice as far away. Neither the id, nor its
# version, nor a warning says so, and a policy's score moves by as much as 26 points of 100.
#
# Seen with Python 3.11: includemargin 0.001 under 3.4.0 and 0.002 under 3.5.0, and velocities that
# differ by more than 0.01 within 200 steps of the same actions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() { # run MUJOCO: the contacts' margin, and the velocities after each step
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install --quiet "mujoco==$1" gymnasium==1.4.0 imageio packaging
  MUJOCO_GL=disable "$work/$1/bin/python" -W ignore - <<'PYTHON'
import gymnasium
import numpy as np

env = gymnasium.make("Hopper-v4").unwrapped
env.reset(seed=0)
generator = np.random.default_rng(0)
margins, velocities = set(), []
for _ in range(200):
    env.step(generator.uniform(-0.3, 0.3, 3))
    data = env.data
    margins |= {round(float(data.contact[i].includemargin), 6) for i in range(data.ncon)}
    velocities += data.qvel.tolist()
print(sorted(margins))
print(*velocities)
PYTHON
}

run 3.4.0 >"$work/older.txt" 2>/dev/null
run 3.5.0 >"$work/newer.txt" 2>/dev/null
python3 - "$work/older.txt" "$work/newer.txt" <<'PYTHON'
import sys

(old_margin, old), (new_margin, new) = (open(path).read().splitlines() for path in sys.argv[1:])
difference = max(abs(float(a) - float(b)) for a, b in zip(old.split(), new.split()))
print(f"includemargin {old_margin} under 3.4.0, {new_margin} under 3.5.0; velocities differ by {difference:.3g}")
sys.exit(not (old_margin == "[0.001]" and new_margin == "[0.002]" and difference > 0.01))
PYTHON
