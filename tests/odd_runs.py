"""A small run's files, and JSON that somebody has changed: for hypothesis (``tests/test_fuzz.py``)
and for the fuzzer (``tools/fuzz.py``)."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from iql_fast import engines
from iql_fast.runs import config
from iql_fast.support import digest

from .conftest import random_transitions
from .layouts import Choose

#: What stands where something else belongs.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e300, 10**30, 2**63, math.nan, math.inf),
    *("", "x", "1", "\u0663", "\ud800", "\x00", "nan", "a" * 300, "..", "~nobody"),
    *([], {}, [1], [[1]], [None], ["x"], {"a": 1}, {"step": 1}, [1, 2, 3], [0.5, 0.25]),
)


def edited(choose: Choose, content: Any) -> Any:
    """JSON with some things gone, or replaced by odd ones."""
    content = copy.deepcopy(content)
    for _ in range(choose.whole(0, 3)):
        node = content
        while keys := list(node) if isinstance(node, dict) else list(range(len(node))):
            key = choose.among(keys)
            if isinstance(node[key], dict | list) and choose.among((True, False)):
                node = node[key]
                continue
            if choose.among((False, False, True)):
                del node[key]
            else:
                node[key] = copy.deepcopy(choose.among(ODD))
            break
    return content


class SmallRun(NamedTuple):
    """What a run of 200 steps holds, of two seeds, two observations and an action.

    Attributes:
        record: of config.json.
        told: of the checkpoint's state.json.
        state: bytes of its state.safetensors.
    """

    record: dict[str, Any]
    told: dict[str, Any]
    state: bytes

    def write(self, folder: Path) -> Path:
        """The run's folder."""
        inside = folder / "checkpoint" / "000000200"
        inside.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.record))
        (inside / "state.safetensors").write_bytes(self.state)
        (inside / "state.json").write_text(json.dumps(self.told))
        return folder


def small_run() -> SmallRun:
    import torch
    from safetensors.torch import save

    arguments = ["--dataset", "d.hdf5", "--hidden", "4", "--seeds", "2", "--steps", "200"]
    options = config.completed(config.parse(arguments))
    data, hyper = random_transitions(9, 2, 1), options.hyperparameters()
    engine = engines.create("reference", options.network(2, 1), hyper, data, options.seed_list)
    state = save(engine.state_dict() | {"step": torch.tensor(200)})
    flat = config.flat(options)
    record = {
        "options": flat,
        "options_sha256": digest.of_json(flat),
        "engine": "cpu",
        "data": {"title": "d", "origin": "file", "path": "d.hdf5", "rows": 9, "return_mean": 1.0},
        "scoring": {"environment": None, "note": "", "horizon": 9, "reference": [0.0, 1.0]}
        | {"published": {}, "physics": "gymnasium", "measure": "return"},
        "observation_scaling": [[0.0, 0.0], [1.0, 1.0]],
        "action_bounds": [[-1.0], [2.0]],
        "observation_layout": [["a", 1], ["b", 1]],
    }
    seconds = {"training": 1.5, "evaluation": 0.0}
    sha256 = hashlib.sha256(state).hexdigest()
    told = {"format": 2, "step": 200, "sha256": sha256, "seconds": seconds}
    return SmallRun(record, told, state)
