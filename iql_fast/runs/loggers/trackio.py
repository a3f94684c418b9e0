"""Trackio, in its local folder, or on the Space or the server that its own settings name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

from iql_fast.runs.loggers.base import PROJECT, Begun, Row, Told, silence
from iql_fast.support.errors import UserError


class Trackio:
    """See ``Tracker``. A run is known by its name there, so it is given one that no other has."""

    settles = 2.0  # a thread of its own writes every half second

    @staticmethod
    def check() -> str | None:
        """See ``Tracker``."""
        server = os.environ.get("TRACKIO_SERVER_URL", "")
        if os.environ.get("TRACKIO_SPACE_ID") or not server.startswith("http"):
            return None
        if "write_token=" not in server and not os.environ.get("TRACKIO_WRITE_TOKEN"):
            raise UserError(
                f"--log trackio: TRACKIO_SERVER_URL={server} takes no rows without a token. Set "
                "TRACKIO_WRITE_TOKEN, or leave out both to log to a local folder."
            )
        if why := silence(server.partition("?")[0]):
            return f"{why}; without TRACKIO_SERVER_URL it logs to a local folder"
        return None

    def abandon(self) -> None:
        pass  # its threads end with the process

    def begin(self, run: Told) -> Begun:
        name = run.before or f"{run.name}-{secrets.token_hex(3)}"
        goes_on = run.before is not None
        try:
            self._run = self._begun(name, run.settings, "must" if goes_on else "never")
        except ValueError:  # somebody removed it
            goes_on = False
            self._run = self._begun(name, run.settings, "never")
        return Begun(name, f"`trackio show --project {PROJECT}`, run {name}", goes_on)

    def _begun(self, name: str, settings: dict[str, Any], resume: str) -> Any:
        import trackio

        # No dashboard in a notebook's cell, which would begin a server.
        return trackio.init(PROJECT, name, resume=resume, config=settings, embed=False)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log(dict(row.values), step=row.step)

    def end(self, summary: Row | None) -> None:
        if summary is not None:
            self.rows([summary])
        self._run.finish()
