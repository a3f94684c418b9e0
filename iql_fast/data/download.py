"""Downloads of D4RL's files: resumed, checked, and quickly given up without a network."""

from __future__ import annotations

import functools
import hashlib
import os
from importlib import resources
from pathlib import Path

from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable

D4RL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
MIRROR = (
    "https://huggingface.co/datasets/imone/D4RL/resolve/9ed58d8a76c12f4c1cb5db51fa71389e703d2ec5/"
)
#: Folders of D4RL whose files the mirror holds, most of them, without the folder's name.
MIRRORED = ("gym_mujoco_v2/", "ant_maze_v2/", "hand_dapg_v1/")

CONNECT_TIMEOUT = 4.0  # seconds
READ_TIMEOUT = 20.0
CHUNK = 1 << 16  # bytes; what a broken connection loses at most


@functools.cache
def checksums() -> dict[str, tuple[int, str]]:
    """D4RL's file -> bytes and SHA-256, of those whose sums public repositories agree on."""
    text = resources.files("iql_fast.data").joinpath("d4rl_checksums.tsv").read_text()
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {file: (int(size), digest) for file, size, digest in rows[1:]}


def is_d4rls_own(path: Path) -> bool:
    """Whether a file is one that D4RL publishes, under whatever name it lies here."""
    if not path.is_file():
        return False
    size = path.stat().st_size
    digests = {digest for known, digest in checksums().values() if known == size}
    if not digests:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in digests


class DownloadFailed(Exception):
    """One address did not give the file; the message says why."""


def addresses(d4rl_file: str) -> list[str]:
    """Where a file of D4RL may be had, in order: D4RL's own address, then the mirror.

    The environment variable IQL_FAST_D4RL_URLS, a list separated by spaces of addresses of folders
    laid out as D4RL's, replaces both.
    """
    if own := os.environ.get("IQL_FAST_D4RL_URLS"):
        return [base.rstrip("/") + "/" + d4rl_file for base in own.split()]
    found = [D4RL + d4rl_file]
    if d4rl_file.startswith(MIRRORED):
        found.append(MIRROR + d4rl_file.partition("/")[2])
    return found


def download(
    d4rl_file: str,
    path: Path,
    *,
    checksum: tuple[int, str] | None = None,
    progress: bool = True,
    timeouts: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
) -> dict[str, str]:
    """Bring a file of D4RL to ``path``; returns its address and SHA-256.

    What arrives is kept beside ``path`` as ``.part``, so that a later call goes on where this one
    stopped, and takes the name ``path`` only when it is whole.

    Raises:
        UserError: no address gave the file; the message says why of each.
    """
    check_writable(path)
    checksum = checksum or checksums().get(d4rl_file)
    failures = []
    for url in addresses(d4rl_file):
        try:
            digest = _download_from(url, path, checksum, progress, timeouts)
        except DownloadFailed as failure:
            failures.append(f"{url}: {failure}")
        else:
            return {"url": url, "sha256": digest}
    raise UserError(
        f"{Path(d4rl_file).name} could not be downloaded. {'. '.join(failures)}. Check the network "
        f"and try again, or put the file at {path} yourself."
    )


def _download_from(
    url: str,
    path: Path,
    checksum: tuple[int, str] | None,
    progress: bool,
    timeouts: tuple[float, float],
) -> str:
    import requests

    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeouts) as response:
            if response.status_code == 416:  # nothing is left to send: check what is here
                expected: int | None = have
            else:
                if response.status_code not in (200, 206):
                    raise DownloadFailed(f"HTTP status {response.status_code} {response.reason}")
                resumed = response.status_code == 206 and response.headers.get(
                    "Content-Range", ""
                ).startswith(f"bytes {have}-")
                if response.status_code == 206 and not resumed:
                    part.unlink()
                    raise DownloadFailed("the server sent another range than the one asked for")
                have = have if resumed else 0
                length = response.headers.get("Content-Length")
                expected = have + int(length) if length is not None else None
                _receive(response, part, have, expected, progress, path.name)
    except requests.exceptions.RequestException as error:
        raise DownloadFailed(_reason(error)) from None
    except OSError as error:
        raise UserError(
            f"{part} cannot be written ({error.strerror or error}). Free some space, or set "
            "IQL_FAST_DATA to a folder on another disk."
        ) from None
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise DownloadFailed(
            f"the connection closed after {size} of {expected} bytes; the next try goes on there"
        )
    return _verify(part, path, size, checksum)


def _receive(
    response: object, part: Path, have: int, expected: int | None, progress: bool, label: str
) -> None:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar, open(part, "ab" if have else "wb") as out:
        task = bar.add_task(label, total=expected, completed=have)
        for chunk in response.iter_content(CHUNK):  # type: ignore[attr-defined]
            out.write(chunk)
            bar.advance(task, len(chunk))


def _verify(part: Path, path: Path, size: int, checksum: tuple[int, str] | None) -> str:
    """Check the whole file and give it its name; a wrong one is removed."""
    with open(part, "rb") as file:
        start = file.read(8)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum is not None and (size, digest) != checksum:
        part.unlink()
        raise DownloadFailed(
            f"its checksum is wrong ({size} bytes, SHA-256 {digest[:12]}..., expected "
            f"{checksum[0]} bytes, {checksum[1][:12]}...); it was removed"
        )
    if start != b"\x89HDF\r\n\x1a\n":
        part.unlink()
        raise DownloadFailed("what it sent is not an HDF5 file; it was removed")
    os.replace(part, path)
    return digest


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "it did not answer in time"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "it stopped sending; the next try goes on there"
    if "timed out" in str(error).lower():
        return "it stopped sending; the next try goes on there"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection closed early; the next try goes on there"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "no connection could be made"
    return str(error)
