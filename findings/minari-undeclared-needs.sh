#!/usr/bin/env bash
# minari[hdf5] 0.5.4 needs two packages that it does not bring. Its HDF5 storage imports Pillow, images
# or not: without it no HDF5 dataset can be written or read. And its DataCollector records nothing
# without jax: reset works, and the first step raises an ImportError that asks for minari[create]. To
# store the same episode with create_dataset_from_buffers takes Pillow and no jax.
#
# Seen with Python 3.11: ModuleNotFoundError of PIL; with Pillow, ImportError of jax at the first step,
# and one episode stored without.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "minari[hdf5]==0.5.4" gymnasium==1.4.0
export MINARI_DATASETS_PATH=$work/datasets
if "$work/venv/bin/python" -c 'from minari.dataset._storages.hdf5_storage import HDF5Storage' 2>"$work/said"; then
  echo "HDF5 storage needs no Pillow any more" && exit 1
fi
tail -n 1 "$work/said" && grep -q "No module named 'PIL'" "$work/said"
"$work/venv/bin/pip" install --quiet pillow
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

env = gymnasium.make("MountainCarContinuous-v0")
collector = minari.DataCollector(env, data_format="hdf5")
collector.reset(seed=0)
try:
    collector.step(np.zeros(1, np.float32))
except ImportError as error:
    print("ImportError:", error)
    assert "jax" in str(error)
else:
    raise SystemExit("the collector needs no jax any more")

observation, _ = env.reset(seed=0)
following, reward, *_ = env.step(np.zeros(1, np.float32))
episode = EpisodeBuffer(
    id=0,
    observations=np.stack([observation, following]),
    actions=np.zeros((1, 1), np.float32),
    rewards=[float(reward)],
    terminations=[False],
    truncations=[True],
    infos={},
)
dataset = minari.create_dataset_from_buffers("test/car-v0", buffer=[episode], env=env)
print("stored without jax:", dataset.total_episodes, "episode")
assert dataset.total_episodes == 1
PYTHON
