"""Weights & Biases, online or offline as its own settings say."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from iql_fast.runs.loggers.base import PROJECT, Begun, Row, Told, silence
from iql_fast.support.errors import UserError

#: Of a row that says which step it is of; wandb's own counter only goes up, but scores come after
#: later rows of metrics.
STEP = "step"
#: Seconds that an upload may take at the end; what is not sent then lies in wandb's own folder.
FINISH = 45.0
#: Seconds that its process has at the exit of this one, where it did not finish in time.
LEAVE = 5.0


class Wandb:
    """See ``Tracker``."""

    settles = 10.0  # its own process writes every few seconds

    @staticmethod
    def check() -> str | None:
        """See ``Tracker``. Without a key wandb would ask for one on the terminal."""
        import wandb

        settings = wandb.setup().settings
        if settings.mode == "disabled":
            return "nothing is logged, since wandb is disabled (WANDB_MODE)"
        if settings.mode not in ("online", "shared"):
            return None
        if not _has_key(settings):
            raise UserError(
                f"--log wandb: there is no API key for {settings.base_url}. Run `wandb login`, set "
                "WANDB_API_KEY, or log to a local folder with WANDB_MODE=offline."
            )
        if why := silence(str(settings.base_url)):
            return f"{why}; WANDB_MODE=offline logs to a local folder"
        return None

    def abandon(self) -> None:
        """Python's exit waits for wandb's own process, and that for the server."""
        threading.Thread(target=_end_own_process, daemon=True).start()

    def begin(self, run: Told) -> Begun:
        import wandb

        own, environment = wandb.setup().settings, os.environ
        chosen: dict[str, Any] = {
            "silent": True,  # its lines would fall into the progress bar
            "console": environment.get("WANDB_CONSOLE", "off"),
            "finish_timeout": float(environment.get("WANDB_FINISH_TIMEOUT", FINISH)),
        }
        self._run: Any = wandb.init(
            project=own.project or PROJECT,
            name=own.run_name or run.name,
            id=run.before,
            resume="allow",
            config=run.settings,
            reinit="create_new",  # whatever run the calling program has stays as it is
            settings=wandb.Settings(**chosen),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        offline = bool(self._run.offline)
        # The folders of an offline run that was resumed are synced one after the other.
        goes_on = run.before is not None and (offline or bool(self._run.resumed))
        if offline:
            folder = Path(self._run.dir).parent
            return Begun(self._run.id, f"offline; `wandb sync {folder}` uploads it", goes_on)
        return Begun(self._run.id, str(self._run.url or self._run.name), goes_on)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({**row.values, STEP: row.step})

    def end(self, summary: Row | None) -> None:
        if summary is not None:
            self._run.summary.update(summary.values)
        self._run.finish(exit_code=0 if summary is not None else 1)


def _has_key(settings: Any) -> bool:
    """Whether wandb finds a key by itself: in the environment, in .netrc or in its settings.

    Raises:
        UserError: it finds one that cannot be one.
    """
    try:
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib.wbauth import authenticate_session
    except ImportError:  # of another version: what all of them know
        return bool(os.environ.get("WANDB_API_KEY") or settings.api_key)
    asked = {"host": settings.base_url, "source": "--log", "prompt": False}
    try:
        return authenticate_session(**asked, update_session=False) is not None
    except AuthenticationError as error:
        raise UserError(f"--log wandb: {error} Run `wandb login`.") from None


def _end_own_process() -> None:
    """End wandb's process soon after this one has come to its end; what was not uploaded lies in
    wandb's folder."""
    threading.main_thread().join()
    time.sleep(LEAVE)
    for process in _own_processes("wandb-core"):
        os.kill(process, signal.SIGKILL)


def _own_processes(name: str) -> list[int]:
    """Those of that name that this process started (on Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            stat = (folder / "stat").read_text()
            own_name, rest = stat[stat.index("(") + 1 :].rsplit(")", 1)
            if own_name == name and int(rest.split()[1]) == os.getpid():
                found.append(int(folder.name))
    return found
