#!/usr/bin/env bash
# Minari 0.5.4 stores the keys of a Dict observation space sorted. Gymnasium 1.4.0 keeps the order of
# a Dict that was made of keyword arguments, an OrderedDict or pairs, and flattens it in that order. So
# the space that a dataset gives back compares equal to the environment's, and still flattens the same
# observation to other numbers: whoever trains on flatten(dataset.observation_space, ...) and acts on
# FlattenObservation(env) reads permuted columns, without an error.
#
# Seen with Python 3.11: spaces equal, flattened [2, 1] in the environment and [1, 2] from the dataset.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "minari[hdf5]==0.5.4" gymnasium==1.4.0 pillow
export MINARI_DATASETS_PATH=$work/datasets
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import minari
import numpy as np
from gymnasium.spaces import Box, Dict, flatten
from minari.data_collector import EpisodeBuffer


def number():
    return Box(-9, 9, (1,), np.float32)


environments = Dict(position=number(), goal=number())
steps = {"position": np.full((3, 1), 2, np.float32), "goal": np.full((3, 1), 1, np.float32)}
episode = EpisodeBuffer(
    id=0,
    observations=steps,
    actions=np.zeros((2, 1), np.float32),
    rewards=[0.0, 0.0],
    terminations=[False, False],
    truncations=[False, True],
    infos={},
)
minari.create_dataset_from_buffers(
    "test/order-v0", buffer=[episode], observation_space=environments, action_space=number()
)
datasets = minari.load_dataset("test/order-v0").observation_space
observation = {"position": np.float32([2]), "goal": np.float32([1])}
acted = flatten(environments, observation).tolist()
trained = flatten(datasets, observation).tolist()
print(f"equal: {datasets == environments}; environment {acted}, dataset {trained}")
assert datasets == environments and acted == [2, 1] and trained == [1, 2]
PYTHON
