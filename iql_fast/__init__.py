"""Fast, trustworthy training of Implicit Q-Learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from iql_fast.runs.trained import TrainedPolicy, TrainedSequence

__version__ = "0.1.0"


def load_policy(
    run: str | Path, *, seed: int | None = None, checkpoint: int | None = None
) -> TrainedPolicy | TrainedSequence:
    """The policy that a run has trained: a function from observations to mean actions, both in the
    environment's own units, ``[O]`` to ``[A]`` or ``[N, O]`` to ``[N, A]``. It needs no torch.

    The Decision Transformer's acts by the whole of an episode: ``reset(target_return)`` begins one,
    and ``observe(reward)`` tells it what each action brought, of one observation at a time.

    Args:
        run: the run's folder.
        seed: of the training (default: the run's first).
        checkpoint: step of the checkpoint (default: the last).

    Raises:
        iql_fast.support.errors.UserError: the folder holds no run, or no such seed or checkpoint.
    """
    from pathlib import Path

    from iql_fast.runs import trained

    return trained.load(Path(run), seed, checkpoint)
