#!/usr/bin/env bash
# mujoco 3.16.0 leaves a file MUJOCO_LOG.TXT in the working folder when it loads the half_cheetah.xml
# that gymnasium 1.4.0 ships; mujoco 3.15.0 does not. The file says that the attribute settotalmass
# is deprecated. Every process that makes HalfCheetah adds a line, wherever it was started.
#
# Seen with Python 3.11: 3.15.0 leaves no file; 3.16.0 leaves one that names settotalmass.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lines_left_by() { # lines_left_by MUJOCO
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install --quiet "mujoco==$1" gymnasium==1.4.0
  mkdir "$work/$1/empty"
  cd "$work/$1/empty"
  "$work/$1/bin/python" - 2>/dev/null <<'PYTHON'
import os
import gymnasium, mujoco

assets = os.path.join(os.path.dirname(gymnasium.__file__), "envs", "mujoco", "assets")
mujoco.MjModel.from_xml_path(os.path.join(assets, "half_cheetah.xml"))
PYTHON
  echo "mujoco $1 left: $(ls | tr '\n' ' ')"
  { cat MUJOCO_LOG.TXT 2>/dev/null || true; } | grep -c settotalmass || true
}

before=$(lines_left_by 3.15.0)
after=$(lines_left_by 3.16.0)
printf '%s\n' "$before" "$after"
[[ $(tail -n 1 <<<"$before") == 0 && $(tail -n 1 <<<"$after") -ge 1 ]]
