"""MLflow, at the tracking URI that its own settings name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from iql_fast.runs.loggers.base import PROJECT, Begun, Row, Told, flat, silence

#: MLflow's own bounds of one request.
METRICS, PARAMETERS, CHARACTERS = 1000, 100, 6000


class Mlflow:
    """See ``Tracker``."""

    settles = 0.0

    @staticmethod
    def check() -> str | None:
        """See ``Tracker``."""
        import mlflow

        uri = mlflow.get_tracking_uri()
        if uri.startswith("http") and (why := silence(uri)):
            return f"{why}; MLFLOW_TRACKING_URI names another, such as sqlite:///mlflow.db"
        return None

    def abandon(self) -> None:
        pass  # its threads end with the process

    def begin(self, run: Told) -> Begun:
        import mlflow
        from mlflow.exceptions import MlflowException

        for name in ("alembic", "mlflow.store.db.utils"):  # a line for each step of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client: Any = mlflow.MlflowClient()
        found = None
        if run.before is not None:
            try:
                found = self._client.get_run(run.before)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if found is not None and found.info.lifecycle_stage != "active":
            found = None  # somebody removed it
        if found is None:
            self._id = self._created(run)
        else:
            self._id = str(found.info.run_id)
            self._client.update_run(self._id, "RUNNING")
        where = f"run {self._id} in {mlflow.get_tracking_uri()}"
        return Begun(self._id, where, found is not None)

    def _created(self, run: Told) -> str:
        from mlflow.entities import Param

        made = self._client.create_run(self._experiment(), run_name=run.name)
        identity = str(made.info.run_id)
        told = flat(run.settings).items()
        parameters = [Param(name, str(value)[:CHARACTERS]) for name, value in told]
        for some in _parts(parameters, PARAMETERS):
            self._client.log_batch(identity, params=some)
        return identity

    def _experiment(self) -> str:
        if (identity := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
            return identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def rows(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, x, now, row.step) for row in rows for name, x in row.values.items()]
        for some in _parts(metrics, METRICS):
            self._client.log_batch(self._id, metrics=some)

    def end(self, summary: Row | None) -> None:
        if summary is not None:
            self.rows([summary])
        self._client.set_terminated(self._id, "FINISHED" if summary is not None else "KILLED")


def _parts(things: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(things), most):
        yield things[first : first + most]
