"""Downloads from a local server that misbehaves in every way it is asked to."""

import hashlib
import http.server
import re
import threading
import time

import pytest

from iql_fast.data import download
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, write_hdf5

NAME = "gym_mujoco_v2/hopper_medium-v2.hdf5"


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; the first folder of the address says how."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, manner):
        return f"http://127.0.0.1:{self.server_port}/{manner}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        manner, content = self.path.split("/")[1], self.server.content
        wanted = self.headers.get("Range")
        self.server.requests.append((manner, wanted))
        if manner == "forbidden":
            self.send_error(403)
            return
        start = 0
        if wanted and manner != "rangeless":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        body = content[start:]
        if manner == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if manner == "page":
            body = b"<html>Please log in</html>"
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if manner == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if manner == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(3)
            return
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path):
    served = Server(write_hdf5(tmp_path / "served.hdf5", d4rl_columns(10_000)).read_bytes())
    yield served
    served.shutdown()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    checksum = (len(server.content), hashlib.sha256(server.content).hexdigest())

    def run(*manners, check=True):
        monkeypatch.setenv("IQL_FAST_D4RL_URLS", " ".join(server.url(m) for m in manners))
        path = tmp_path / "got.hdf5"
        # Files that no list of checksums knows are still checked for being HDF5.
        known = {"checksum": checksum} if check else {}
        name = NAME if check else "kitchen/unknown.hdf5"
        return path, download.download(name, path, progress=False, timeouts=(1, 1), **known)

    return run


def resumed_at(server):
    """The first byte that the last request asked for."""
    return int(server.requests[-1][1].removeprefix("bytes=").rstrip("-"))


def test_whole(fetch, server):
    path, record = fetch("fine")
    assert path.read_bytes() == server.content
    assert record["sha256"] == hashlib.sha256(server.content).hexdigest()


@pytest.mark.parametrize("manner", ["truncate", "stall"])
def test_what_broke_off_is_resumed(fetch, server, manner):
    path, _ = fetch(manner, "fine")
    assert path.read_bytes() == server.content
    assert resumed_at(server) == pytest.approx(len(server.content) // 2, abs=download.CHUNK)


def test_a_later_call_resumes(fetch, server, tmp_path):
    with pytest.raises(UserError, match="next try goes on there"):
        fetch("truncate")
    assert not (tmp_path / "got.hdf5").exists()
    path, _ = fetch("fine")
    assert path.read_bytes() == server.content
    assert resumed_at(server) == pytest.approx(len(server.content) // 2, abs=download.CHUNK)


def test_a_server_without_ranges_starts_over(fetch, server):
    path, _ = fetch("truncate", "rangeless")
    assert path.read_bytes() == server.content


def test_a_whole_part_is_recognised(fetch, server, tmp_path):
    (tmp_path / "got.hdf5.part").write_bytes(server.content)
    path, _ = fetch("fine")
    assert path.read_bytes() == server.content


def test_a_cache_that_is_a_file_is_said_before_a_byte_is_asked_for(server, monkeypatch, tmp_path):
    monkeypatch.setenv("IQL_FAST_D4RL_URLS", server.url("whole"))
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        download.download(NAME, tmp_path / "cache" / "got.hdf5", progress=False)
    assert server.requests == []


def test_the_mirror_steps_in(fetch, server):
    path, record = fetch("forbidden", "fine")
    assert path.read_bytes() == server.content
    assert "/fine/" in record["url"]


def test_corruption_is_found_and_removed(fetch, tmp_path):
    with pytest.raises(UserError, match=r"403.*checksum is wrong"):
        fetch("forbidden", "corrupt")
    assert not list(tmp_path.glob("got.hdf5*"))


def test_a_login_page_is_no_dataset(fetch, tmp_path):
    with pytest.raises(UserError, match="not an HDF5 file"):
        fetch("page", check=False)
    assert not list(tmp_path.glob("got.hdf5*"))


def test_no_server_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("IQL_FAST_D4RL_URLS", "http://127.0.0.1:9/x http://127.0.0.1:9/y")
    start = time.monotonic()
    with pytest.raises(UserError, match="no connection could be made"):
        download.download(NAME, tmp_path / "got.hdf5", progress=False)
    assert time.monotonic() - start < 5


def test_addresses():
    assert download.addresses(NAME) == [download.D4RL + NAME, download.MIRROR + NAME.split("/")[1]]
    assert download.addresses("ant_maze_v2/x.hdf5")[1:] == [download.MIRROR + "x.hdf5"]
    assert download.addresses("hand_dapg_v1/x.hdf5")[1:] == [download.MIRROR + "x.hdf5"]
    assert len(download.addresses("kitchen/x.hdf5")) == 1


def test_checksums_of_d4rls_files():
    known = download.checksums()
    assert all(size > 0 and re.fullmatch("[0-9a-f]{64}", digest) for size, digest in known.values())
    files = {catalogue.get(name).d4rl_file: name for name in catalogue.names()}
    without = {name for file, name in files.items() if file and file not in known}
    assert without == {
        "antmaze-medium-play-v2",
        *(f"relocate-{kind}-v0" for kind in ("human", "cloned", "expert")),
        *(f"relocate-{kind}-v1" for kind in ("human", "expert")),
    }


def test_a_file_that_is_not_d4rls_is_refused(server, tmp_path, monkeypatch):
    """By the sums that come with the package, without being told one."""
    monkeypatch.setenv("IQL_FAST_D4RL_URLS", server.url("good"))
    with pytest.raises(UserError, match="bytes"):
        download.download("kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
                          tmp_path / "kitchen.hdf5", progress=False)  # fmt: skip
    assert not (tmp_path / "kitchen.hdf5").exists()
