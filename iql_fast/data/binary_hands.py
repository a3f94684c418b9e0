"""The data of the binary hands, which a user brings: demonstrations, and rows of cloned policies.

AWAC's authors published them as pickled arrays, ``HAND2_sparse.npy`` and ``HAND_bc_sparse4.npy``.
A pickle runs what it likes when it is read, so none is read here; ``docs/data.md`` has the lines
that turn both into one file of plain arrays, to be run wherever a user trusts them to run.

They are understood as RLPD reads them (``rlpd/data/binary_datasets.py``), which trained on them as
IQL's authors did: all masks are 1, and a trajectory ends at a row that is flagged terminal or whose
s' is not the next row's s.
"""

from __future__ import annotations

from pathlib import Path

from iql_fast.data import own
from iql_fast.support.errors import UserError
from iql_fast.tasks.catalogue import Task


def read(path: Path, task: Task) -> own.Read:
    """Read and check a file of a binary task's.

    Raises:
        UserError: as ``own.read``; or a reward is neither -1 nor 0.
    """
    sizes = task.environment
    found = own.read(path, sizes.obs_dim, sizes.act_dim, sizes.horizon, endless=True)
    rewards = found.transitions.rewards
    wrong = (rewards != 0) & (rewards != -1)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: 'rewards' is {rewards[row]:g} in transition {row} ({int(wrong.sum())} such), "
            f"but those of {task.name} are 0 where the goal is met and -1 elsewhere. Other rewards "
            "of the same hand are those of another task (`python -m iql_fast.data list`)."
        )
    return found


def missing(task: Task, place: Path) -> str:
    """What to say where nobody has brought the data of a task.

    Args:
        place: where they would have been found.
    """
    hand = task.name.partition("-")[0]
    return (
        f"There are no data for {task.name}: AWAC's authors published them as pickles "
        f"({hand}2_sparse.npy, {hand}_bc_sparse4.npy), which are neither downloaded nor read here. "
        'Turn them into an .npz ("Binary hands" in docs/data.md has the few lines) and name it '
        f"with --dataset FILE, or put it at {place}, where every command finds it."
    )
