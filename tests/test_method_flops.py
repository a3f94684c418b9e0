"""A method's step does the matrix products that it needs, and no others."""

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

from bench import method_flops, methods
from iql_fast import methods as known
from iql_fast.engines.generic import GenericEngine

from .conftest import random_transitions


@pytest.mark.parametrize("name", [name for name in method_flops.NAMES if name != "dt"])
def test_a_step_does_what_it_needs(name):
    """Counted by torch over two steps, since TD3+BC's policy is trained in every other one."""
    settings = {"bc_steps": 0} if name == "cql" else {}
    method = known.get(name)(batch_size=8, hidden=(16, 24), **settings)
    engine = GenericEngine(method, random_transitions(100), [0])
    with FlopCounterMode(display=False) as counter:
        engine.run(2)
    assert counter.get_total_flops() == 2 * method_flops.needed(method, 11, 3)


def test_the_benchmark_of_methods_measures(capsys, tmp_path):
    asked = ["--names", "bc", "--threads", "1", "--rounds", "2", "--window", "0.05"]
    methods.main([*asked, "--rows", "2000", "--json", str(tmp_path / "found.json")])
    assert "BC" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert (found["method"], found["threads"]) == ("bc", 1)
    assert found["lowest"] <= found["steps_per_second"] <= found["highest"]
    expected = found["steps_per_second"] / found["floor_steps_per_second"]
    assert found["to_floor"] == pytest.approx(expected)
