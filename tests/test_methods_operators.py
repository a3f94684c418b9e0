"""What holds for methods whatever they learn: over the operators they are what they are in plain
torch, seeds do not depend on each other, and a state that is loaded goes on."""

from __future__ import annotations

import numpy as np
import pytest

from iql_fast.methods.bc import BC
from iql_fast.methods.iql import IQL
from iql_fast.methods.td3_bc import TD3BC

from . import test_methods_awac_cql as saturating
from . import test_methods_td3_bc as plain
from .plain_nets import assert_close_in_size, assert_equal, trained
from .test_methods_awac_cql import AWAC_PER_SEED, CQL_PER_SEED, awac, cql
from .test_methods_td3_bc import (
    BC_PER_SEED,
    IQL_HYPER,
    IQL_NETWORK,
    IQL_PER_SEED,
    SEEDS,
    SMALL,
    TD3_BC_PER_SEED,
)

CASES = {
    "td3_bc": TD3BC(**SMALL),
    "bc": BC(**SMALL, actor_schedule_steps=20),
    "iql": IQL(**SMALL, actor_schedule_steps=20),
    "iql-dropout": IQL(**IQL_HYPER, **IQL_NETWORK),
    "awac-jaxrl": awac("jaxrl"),
    "awac-rlkit": awac("rlkit"),
    "cql": cql(False),
    "cql-lagrange": cql(True),
}
PER_SEED = {
    "td3_bc": TD3BC(**SMALL, **TD3_BC_PER_SEED),
    "bc": BC(**SMALL, **BC_PER_SEED, actor_schedule_steps=20),
    "iql": IQL(**IQL_HYPER, **IQL_NETWORK, **IQL_PER_SEED),
    "awac-jaxrl": awac("jaxrl", **AWAC_PER_SEED),
    "awac-rlkit": awac("rlkit", **AWAC_PER_SEED),
    "cql-lagrange": cql(True, **CQL_PER_SEED),
}
METHODS = pytest.mark.parametrize("method", CASES.values(), ids=CASES)


def engine_of(method, *arguments, **more):
    kind = saturating if method.name in ("awac", "cql") else plain
    return kind.engine_of(method, *arguments, **more)


@METHODS
@pytest.mark.parametrize("seeds", [(3,), SEEDS])
def test_operators_compute_what_plain_torch_does(method, seeds):
    """In fp32 five steps of Adam amplify rounding, which is 6e-8, by up to a thousand."""
    for precision, tolerance in (("fp64", 1e-9), ("fp32", 2e-4)):
        native, torchs = (engine_of(method, seeds, precision, native=x) for x in (True, False))
        for _ in range(5):
            found, expected = native.run(1), torchs.run(1)
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, tolerance, tolerance, err_msg=name)
        assert_close_in_size(native, torchs, tolerance)


@pytest.mark.parametrize("method", PER_SEED.values(), ids=PER_SEED)
def test_operators_compute_what_plain_torch_does_with_settings_of_each_seed(method):
    native, torchs = (trained(engine_of(method, native=x), 5) for x in (True, False))
    assert_close_in_size(native, torchs, 1e-9)


@METHODS
def test_a_seed_does_not_depend_on_the_others(method):
    """Bit for bit with the operators; torch's products round by their number and by where they lie
    in memory."""
    alone = trained(engine_of(method, (3,), "fp32", native=True), 6)
    among = trained(engine_of(method, (3, 8, 1), "fp32", native=True), 6)
    assert_equal(alone, among, seed=0)
    alone, among = (trained(engine_of(method, seeds), 6) for seeds in ((3,), (3, 8, 1)))
    others = among.state_dict()
    for name, tensor in alone.state_dict().items():
        if name != "step":
            np.testing.assert_allclose(others[name][0], tensor[0], 1e-9, 1e-12, err_msg=name)


@METHODS
@pytest.mark.parametrize("native", [False, True])
def test_a_state_that_is_loaded_goes_on(method, native):
    whole = trained(engine_of(method, SEEDS, "fp32", native), 3)  # between a policy's updates
    resumed = engine_of(method, SEEDS, "fp32", native)
    resumed.load_state_dict(whole.state_dict())
    assert_equal(trained(whole, 4), trained(resumed, 4))
