#!/usr/bin/env bash
# HDF5 2.0.0 (h5py 3.16.0) narrows doubles to float32 by another rule where they are stored in the
# other byte order: a double half way between two floats is rounded up, where the same number stored
# in this machine's order, and NumPy, round it to the float whose last bit is 0, as IEEE 754 does. So
# the same logged numbers, read with astype(float32), come out different by how a file was written.
#
# Seen with Python 3.11, NumPy 2.4.6, on x86-64: 1 + 2^-24 is 1.0 from "<f8" and 1.0000001 from ">f8".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet h5py==3.16.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import h5py
import numpy as np

half_way = np.array([1 + 2.0**-24])
with h5py.File("doubles.h5", "w") as file:
    file["little"], file["big"] = half_way.astype("<f8"), half_way.astype(">f8")
with h5py.File("doubles.h5") as file:
    read = {name: float(file[name].astype(np.float32)[0]) for name in ("little", "big")}
print(h5py.version.hdf5_version, read, "NumPy:", float(half_way.astype(np.float32)[0]))
up = float(np.float32(1) + np.float32(2.0**-23))
own, other = ("little", "big") if sys.byteorder == "little" else ("big", "little")
assert (read[own], read[other]) == (1.0, up), "CHANGED"
PYTHON
