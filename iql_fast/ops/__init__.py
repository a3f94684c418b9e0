"""The kernels for use in other torch trainers; nothing else of this package is needed with them.

Every function takes ``native=False`` to compute in plain torch instead, which gives the same
results. Where the extension is missing they all do (a warning says so once).
"""

from iql_fast.ops import batching as _batching  # noqa: F401  registers what vmap does
from iql_fast.ops.adam import FusedAdam
from iql_fast.ops.ensemble import EnsembleMLP
from iql_fast.ops.losses import (
    awr_loss,
    awr_weights,
    expectile_loss,
    gaussian_awr_loss,
    twin_q_loss,
)
from iql_fast.ops.polyak import polyak_update_
from iql_fast.ops.sampling import sample_batch

__all__ = [
    "EnsembleMLP",
    "FusedAdam",
    "awr_loss",
    "awr_weights",
    "expectile_loss",
    "gaussian_awr_loss",
    "polyak_update_",
    "sample_batch",
    "twin_q_loss",
]
