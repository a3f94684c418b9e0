"""Where a run takes place: in a new folder, or in the one that it began in."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from iql_fast.engines import Device, Engine, KernelChoice
from iql_fast.runs import checkpoint, completeness, folder
from iql_fast.runs.checkpoint import Checkpoint
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import last_step
from iql_fast.runs.schedule import Schedule
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json, written_beside

Seconds = dict[str, float]  # spent so far, by what on


class Place(Protocol):
    """A folder that is this process's alone while the block is being executed."""

    @property
    def engine_because(self) -> str | None:
        """Why ``engine_name`` answers what it does, where that is not the user's wish."""

    @property
    def kernels(self) -> KernelChoice | None:
        """Those that the engine has to compute with, where it has the choice."""

    @property
    def device(self) -> Device | None:
        """Where the engine ``"graph"`` of any method has to train, where it has the choice."""

    def engine_name(self, asked: str) -> str:
        """The engine to train on, or ``"auto"``, where the user asks for ``asked``."""

    def __enter__(self) -> Self:
        """Raises ``UserError`` where a run cannot take place here; leaves everything as it is."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def open(
        self, engine: Engine, record: dict[str, Any], options: TrainConfig
    ) -> tuple[RunFolder, Seconds]:
        """The folder ready for the loop, the engine at the step to go on from, and the seconds that
        the run has taken up to there.

        Args:
            record: of the run, for config.json.

        Raises:
            UserError: the folder cannot be written, or what it holds does not fit the run.
        """


class NewRun:
    """See ``Place``. The folder's former run, if it may be replaced, stays until ``open``."""

    engine_because = None
    kernels = None
    device = None

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path = path
        self.overwrite = overwrite
        self._stack = ExitStack()

    def engine_name(self, asked: str) -> str:
        return asked

    def __enter__(self) -> Self:
        folder.check(self.path, self.overwrite, 1 << 20)
        self._unlocked = not self.path.is_dir()
        if not self._unlocked:
            self._stack.enter_context(folder.lock(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(
        self, engine: Engine, record: dict[str, Any], options: TrainConfig
    ) -> tuple[RunFolder, Seconds]:
        state_bytes = sum(t.numel() * t.element_size() for t in engine.state_dict().values())
        needed = _needed_bytes(state_bytes, options) + record.get("met_bytes", 0)
        run = folder.create(self.path, self.overwrite, needed)
        if self._unlocked:
            self._stack.enter_context(folder.lock(self.path))
        write_json(run.config, record)
        return run, {}


class GrownRun(NewRun):
    """See ``Place``. A new run that has the first steps of another, whose folder stays as it is."""

    def __init__(self, path: Path, overwrite: bool, before: RunFolder) -> None:
        super().__init__(path, overwrite)
        self.before = before

    def open(
        self, engine: Engine, record: dict[str, Any], options: TrainConfig
    ) -> tuple[RunFolder, Seconds]:
        before = self.before.read_config()
        check_data(self.before.path, before["data"], record["data"])
        check_actions(self.before.path, before.get("action_bounds"), record["action_bounds"])
        last = checkpoint.load(self.before.checkpoints, options.updates)
        checkpoint.require_run(last.run, before, self.before.checkpoints, last.step)
        take_over(engine, last, self.before.checkpoints)
        record["goes_on_from"] = {"path": str(self.before.path.absolute()), "step": last.step}
        run, _ = super().open(engine, record, options)
        for table in ("metrics", "scores"):
            copied: Path = getattr(self.before, table)
            if copied.exists():
                with written_beside(getattr(run, table)) as partial:
                    partial.write_bytes(copied.read_bytes())
        # A run killed before its first checkpoint would begin without those steps.
        own = Checkpoint(last.step, engine.state_dict(), last.seconds, record["options_sha256"])
        checkpoint.save(run.checkpoints, own)
        return run, last.seconds


class ResumedRun:
    """See ``Place``. A run killed before its first checkpoint begins anew."""

    engine_because = "the run began with it"

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.before = run.read_config()
        self._stack = ExitStack()

    @property
    def kernels(self) -> KernelChoice | None:
        # Others may round differently, too.
        if (record := self.before.get("kernels")) is None:  # of an older run, or another engine
            return None
        try:
            return KernelChoice.from_record(record, "the run began with them")
        except ValueError as error:
            raise UserError(f"{self.run.config}: kernels is {error}") from None

    @property
    def device(self) -> Device:
        # What is older than the record of it was trained on the CPU.
        return "cuda" if self.before.get("device") == "cuda" else "cpu"

    def engine_name(self, asked: str) -> str:  # noqa: ARG002
        # Another engine rounds differently: the run would not end where it was to end.
        return str(self.before["engine"])

    def __enter__(self) -> Self:
        self._stack.enter_context(folder.lock(self.run.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(
        self, engine: Engine, record: dict[str, Any], options: TrainConfig
    ) -> tuple[RunFolder, Seconds]:  # fmt: skip
        check_data(self.run.path, self.before["data"], record["data"])
        check_actions(self.run.path, self.before.get("action_bounds"), record["action_bounds"])
        if not checkpoint.steps(self.run.checkpoints):
            self._check_rows(0, options)
            return self.run, {}
        last = checkpoint.load(self.run.checkpoints)
        checkpoint.require_run(last.run, self.before, self.run.checkpoints, last.step)
        self._check_rows(last.step, options)
        take_over(engine, last, self.run.checkpoints)
        return self.run, last.seconds

    def _check_rows(self, step: int, options: TrainConfig) -> None:
        """Raise a ``UserError`` where the tables go so far beyond the checkpoint that one must be
        missing: to go on would cut off what cannot be trained again."""
        tables = [path for path in (self.run.metrics, self.run.scores) if path.exists()]
        reached = max((last_step(path) for path in tables), default=0)
        # Rows are written before a checkpoint, which waits for evaluations that are open.
        ahead = options.records.checkpoint_interval + options.records.log_interval
        if options.evaluation.eval_episodes:
            ahead += 2 * (options.evaluation.eval_interval or 0)
        if self.run.summary.exists():
            self._check_finished(options)
            ahead, reached = 0, max(reached, options.total_steps)
        if reached > step + ahead:
            newest = f"the newest checkpoint is of step {step:,}" if step else "there is none"
            raise UserError(
                f"The tables in {self.run.path} go up to step {reached:,}, but {newest} in "
                "checkpoint/: going on would cut them. Bring back what is missing there; or begin "
                f"anew with --out {self.run.path} --overwrite."
            )

    def _check_finished(self, options: TrainConfig) -> None:
        """Raise a ``UserError`` where the tables of a finished run are not whole: its summary knows
        more than they do, and going on would write it anew."""
        scored = self.before["scoring"].get("environment") is not None
        schedule = Schedule(options, scored and bool(options.evaluation.eval_episodes))
        for table in (completeness.metrics, completeness.scores):
            if notes := table(self.run, schedule, options.total_steps).notes:
                raise UserError(
                    f"The run {self.run.path} has ended, and its tables are not as it wrote them: "
                    f"{notes[0]}. Its summary.json was left as it is. Bring back the rows."
                )


def take_over(engine: Engine, last: Checkpoint, checkpoints: Path) -> None:
    """Bring an engine to where a checkpoint is.

    Raises:
        UserError: it is of another engine's shape.
    """
    try:
        engine.load_state_dict(last.state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The checkpoint of step {last.step} in {checkpoints} does not fit the run's options "
            f"({error}). Bring back the run's own files."
        ) from None


def check_data(run: Path, before: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise a ``UserError`` where a run goes on with other data than it began with."""
    for name in ("title", "rows", "return_mean", "sha256"):
        # A record may be older than a digest.
        if name in before and found[name] != before[name]:
            raise UserError(
                f"The run {run} began on data whose {name} is {before[name]}, but the data found "
                f"now have {found[name]}. Bring back {before.get('path', 'the data')}."
            )


def check_actions(run: Path, before: Any, found: Any) -> None:
    """Raise a ``UserError`` where a run goes on with other bounds of its actions."""
    if found != before:
        raise UserError(
            f"The run {run} began with actions scaled by {before or '-1 and 1'}, but those of the "
            f"data found now are scaled by {found or '-1 and 1'}. Start a new run."
        )


def default_folder(task: str) -> Path:
    """Where a run goes whose user names no folder."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{task.replace('/', '-')}-{now}"


def _needed_bytes(state_bytes: int, options: TrainConfig) -> int:
    """Free space that a run needs: three checkpoints, and its tables."""
    rows = options.seeds * options.total_steps // options.records.log_interval
    return 3 * state_bytes + 1024 * rows + (4 << 20)
