"""Trackio, in its local folder, or on the Space or the server that its own settings name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from iql_fast.runs.loggers.base import PROJECT, Begun, Row, Told, silence


class Trackio:
    """See ``Tracker``. A run is known by its name there, so it is given one that no other has."""

    @staticmethod
    def check() -> str | None:
        """See ``Tracker``."""
        server = os.environ.get("TRACKIO_SERVER_URL", "")
        if os.environ.get("TRACKIO_SPACE_ID") or not server.startswith("http"):
            return None
        if why := silence(server.partition("?")[0]):
            return f"{why}; without TRACKIO_SERVER_URL it logs to a local folder"
        return None

    def begin(self, run: Told) -> Begun:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = run.before or f"{run.name}-{secrets.token_hex(3)}"
        known = {"config": run.settings, "embed": False}
        goes_on = run.before is not None
        try:
            self._run: Any = trackio.init(
                project, name, resume="must" if goes_on else "never", **known
            )
        except ValueError:  # somebody removed it
            goes_on = False
            self._run = trackio.init(project, name, **known)
        self._step = 0
        return Begun(name, f"`trackio show --project {project}`, run {name}", goes_on)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log(dict(row.values), step=row.step)
            self._step = max(self._step, row.step)

    def end(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            self._run.log(dict(summary), step=self._step)
        self._run.finish()
