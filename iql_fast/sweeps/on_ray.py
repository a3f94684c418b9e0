"""Jobs side by side, on a Ray of this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from iql_fast.support import digest
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError
from iql_fast.sweeps import datasets, jobs
from iql_fast.sweeps.jobs import Job, Outcome, Reached
from iql_fast.sweeps.plan import Plan
from iql_fast.sweeps.showing import Showing
from iql_fast.sweeps.storage import Storage

#: Times that a job is begun again whose process or node was lost.
RETRIES = 20
#: Seconds from one look at the jobs to the next, and from one word of a job to its next.
LOOK, WORD = 0.5, 1.0
#: Seconds that an address may take to answer.
ANSWER = 5.0
#: Seconds that jobs have to keep a checkpoint after Ctrl-C.
GRACE = 60.0


class OnRay:
    """An executor; to be used as a context manager.

    Args:
        address: of a cluster, ``HOST:PORT`` or ``auto`` for the one that this machine belongs to;
            None starts a Ray here and ends it again.
        cores: of each job; None: one.
        gpus: of each job; None: one where ``on_gpu`` and the cluster has some.
        on_gpu: whether the jobs' engine may be one for GPUs.
        at_once: jobs at most.
        storage: where nodes bring and find folders and data; None: at their own paths.
        logs: folder of what the jobs print.

    Raises:
        UserError: on entering: Ray is missing, the cluster does not answer, or no node has as much
            as a job is to have.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cores: int | None = None,
        gpus: float | None = None,
        on_gpu: bool = False,
        at_once: int | None = None,
        storage: Storage | None = None,
        logs: Path,
    ) -> None:
        self.address = address
        self.cores = cores or 1
        self.gpus = gpus
        self.on_gpu = on_gpu
        self.at_once = at_once
        self.storage = storage
        self.logs = logs

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = ray = imported()
        if self.address is not None:
            _require_answer(self.address)
        where: dict[str, Any] = {"address": self.address}
        if self.address is None:  # and not the cluster that RAY_ADDRESS names
            where = {
                "address": "local",
                "num_cpus": max(usable_cores(), self.cores),
                "include_dashboard": False,
            }
        try:
            ray.init(
                **where,
                namespace="iql_fast",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # ConnectionError, RuntimeError and others
            said = str(error).strip().split("\n")[0]
            if self.address is None:
                raise UserError(f"Ray does not start here ({said}).") from None
            raise UserError(
                f"--address {self.address} does not answer as a Ray ({said}). One that asks for a "
                "token wants RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN set here, too."
            ) from None
        self._require_room()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        # Its process may be killed as any other: it is begun again, and told all anew.
        self._board: Any = (
            ray.remote(_Board)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=affinity)
            .remote()
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def slots(self) -> int:
        """Jobs that have room at the same time."""
        room = sum(_room(node, self.cores, self.gpus or 0) for node in self._nodes())
        return min(room, self.at_once or room)

    def run(self, plan: Plan) -> None:
        """See ``Executor``."""
        running: dict[Any, Job] = {}
        stops: set[str] = set()
        began = time.monotonic()
        with Showing(plan.known, plan.seed_steps) as showing:
            try:
                while True:
                    self._begin(plan, running)
                    if not running:
                        return
                    self._look(plan, running, stops, showing)
            except KeyboardInterrupt:
                self._stop_all(running, stops)
                raise
            finally:
                if running:
                    showing.console.print(f"{time.monotonic() - began:.0f} s: {showing.summary()}")

    def _begin(self, plan: Plan, running: dict[Any, Job]) -> None:
        while len(running) < max(1, self.slots()) and (job := plan.next()) is not None:
            running[self._submit(job)] = job

    def _submit(self, job: Job) -> Any:
        placed = replace(
            job,
            options=jobs.placed(job.options, self.cores, shared=not self.gpus),
            folder=job.folder.absolute(),
        )
        url = None if self.storage is None else self.storage.url
        return (
            self._ray.remote(_train)
            .options(
                name=job.name,
                num_cpus=self.cores,
                num_gpus=self.gpus or 0,
                max_retries=RETRIES,
                retry_exceptions=False,
            )
            .remote(placed.flat(), self._board, url, str(self.logs.absolute()))
        )

    def _look(self, plan: Plan, running: dict[Any, Job], stops: set[str], showing: Showing) -> None:
        """Take notice of what has happened."""
        ended, _ = self._ray.wait(list(running), num_returns=1, timeout=LOOK)
        told = self._ray.get(self._board.exchange.remote(sorted(stops)))
        by_name = {job.name: job for job in running.values()}
        for name, flat in told.items():
            if (job := by_name.get(name)) is not None:
                where = Reached.from_flat(flat)
                showing.reached(job, where)
                if plan.reached(job, where):
                    stops.add(name)
        for reference in ended:
            job = running.pop(reference)
            outcome = self._outcome(reference, job)
            stops.discard(job.name)
            plan.ended(job, outcome)
            showing.known, showing.total = plan.known, plan.seed_steps
            showing.ended(job, outcome)
        showing.refresh()

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        try:
            outcome = Outcome(**self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            return Outcome("failed", f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            said = str(error).strip().split("\n")[0]
            return Outcome("failed", f"its process was lost {RETRIES + 1} times ({said})")
        if self.storage is not None:
            self.storage.fetch(job.name, job.folder)
            log = self.logs / f"{job.name}.log"
            if not log.exists():  # the job was trained on another machine
                self.storage.get_file(f"logs/{log.name}", log)
        return outcome

    def _stop_all(self, running: Mapping[Any, Job], stops: set[str]) -> None:
        """Have jobs keep a checkpoint of where they are."""
        stops |= {job.name for job in running.values()}
        self._ray.get(self._board.exchange.remote(sorted(stops)))
        self._ray.wait(list(running), num_returns=len(running), timeout=GRACE)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _require_room(self) -> None:
        """Settle what a job has; raise a ``UserError`` where no node has as much."""
        nodes = self._nodes()
        if self.gpus is None:
            self.gpus = 1.0 if self.on_gpu and any(node.get("GPU") for node in nodes) else 0.0
        if not any(_room(node, self.cores, self.gpus) for node in nodes):
            most = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
            raise UserError(
                f"A job is to have {self.cores} core(s) and {self.gpus:g} GPU(s), but the largest "
                f"node of Ray has {most.get('CPU', 0):g} and {most.get('GPU', 0):g}. Give jobs "
                "fewer (cores, gpus), or add nodes."
            )


class _Board:
    """Where jobs say how far they are, and read whether they are to stop: an actor."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self.stops: set[str] = set()

    def tell(self, name: str, where: dict[str, Any]) -> bool:
        """Of a job; whether it is to stop."""
        self.told[name] = where
        return name in self.stops

    def exchange(self, stops: list[str]) -> dict[str, dict[str, Any]]:
        """What was told since the last time; takes the names of those that are to stop."""
        told, self.told = self.told, {}
        self.stops = set(stops)
        return told


def _train(flat: dict[str, Any], board: Any, url: str | None, logs: str) -> dict[str, Any]:
    """A job, in a process of Ray's; the attributes of its ``Outcome``."""
    import ray

    job = Job.from_flat(flat)
    try:
        storage = None if url is None else Storage(url)
        if storage is not None:
            job = replace(job, folder=_scratch(storage.url) / job.name)
            if storage.newest(job.name) < 0:  # of another sweep that was brought to the same place
                shutil.rmtree(job.folder, ignore_errors=True)
        datasets.present(job.options, storage)
    except Exception as error:  # not all can be sent to another process
        return vars(jobs.failed(error))
    said, scored = 0.0, -1

    def tell(where: Reached) -> bool:
        nonlocal said, scored
        if time.monotonic() - said < WORD and len(where.scores) == scored:
            return False
        said, scored = time.monotonic(), len(where.scores)
        try:
            answer = board.tell.remote(job.name, where.flat())
            return bool(ray.get(answer, timeout=ANSWER))
        except ray.exceptions.RayError:  # nobody hears it: no reason to end what goes on
            return False

    log = Path(logs) / f"{job.name}.log"
    outcome = jobs.train(job, tell, storage, log)
    if storage is not None:
        storage.put_file(f"logs/{log.name}", log, replace=True)
        if outcome.kind == "finished":
            shutil.rmtree(job.folder, ignore_errors=True)
    return vars(outcome)


def _scratch(url: str) -> Path:
    """Where a node keeps the folders of runs that it brings to a storage."""
    own = os.environ.get("IQL_FAST_SCRATCH")
    root = Path(own) if own else Path(tempfile.gettempdir()) / f"iql_fast-{os.getuid()}"
    return root / digest.of_json(url)[:16]


def imported() -> Any:
    """Ray.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UserError(
            f"Ray is not installed ({error}): pip install 'iql-fast[sweep]', or train the jobs one "
            "after the other with --on sequence."
        ) from None
    return ray


def _room(node: Mapping[str, float], cores: int, gpus: float) -> int:
    """Jobs that a node has room for."""
    room = int(node.get("CPU", 0) // cores)
    if gpus >= 1:
        return min(room, int(node.get("GPU", 0) // gpus))
    return min(room, int(node.get("GPU", 0)) * int(1 / gpus)) if gpus else room


def _require_answer(address: str) -> None:
    """Raise a ``UserError`` where nothing listens at an address; Ray itself waits for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "/" in address or not colon or not port.isdigit():
        raise UserError(
            f"--address {address}: expected HOST:PORT, as `ray start --head` prints it, or auto."
        )
    try:
        socket.create_connection((host, int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address} does not answer ({error}). Start a Ray there with `ray start "
            "--head`, or leave --address out to use this machine alone."
        ) from None
