"""Where jobs are trained: chosen once, and said."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from iql_fast.support.errors import UserError
from iql_fast.sweeps.plan import Executor
from iql_fast.sweeps.sequence import InSequence
from iql_fast.sweeps.storage import Storage

On = Literal["auto", "ray", "sequence"]


@contextmanager
def opened(
    on: On,
    address: str | None,
    *,
    cores: int | None,
    gpus: float | None,
    on_gpu: bool,
    at_once: int | None,
    storage: Storage | None,
    logs: Path,
) -> Iterator[Executor]:
    """The executor; says in a line which it is, and why.

    Args:
        on: as asked for; auto is Ray where it is installed.
        address, cores, gpus, on_gpu, at_once, storage, logs: see ``OnRay``.

    Raises:
        UserError: it cannot be used.
    """
    because = ""
    if on == "auto":
        installed = importlib.util.find_spec("ray") is not None
        on = "ray" if installed else "sequence"
        because = "" if installed else ": Ray is not installed (pip install 'iql-fast[sweep]')"
    if on == "sequence":
        if address is not None:
            raise UserError(f"--address is of a Ray, but jobs go in sequence{because}.")
        print(f"jobs    one after the other, in this process{because}", flush=True)
        yield InSequence(cores, storage)
        return
    from iql_fast.sweeps.on_ray import OnRay

    with OnRay(
        address,
        cores=cores,
        gpus=gpus,
        on_gpu=on_gpu,
        at_once=at_once,
        storage=storage,
        logs=logs,
    ) as executor:
        with_gpus = f" and {executor.gpus:g} GPU(s)" if executor.gpus else ""
        print(
            f"jobs    {executor.slots()} at once on Ray ({address or 'this machine'}), each with "
            f"{executor.cores} core(s){with_gpus}",
            flush=True,
        )
        yield executor
