"""Downloads from a server on this machine: whole, broken off, resumed, and wrong."""

import contextlib
import gc
import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from resvision.data import download
from resvision.data.download import ATTEMPTS, fetch
from resvision.errors import DownloadError

MIB = 1 << 20
CONTENT = np.random.default_rng(0).integers(0, 256, 2 * MIB + MIB // 2, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and which ranges it was asked for."""

    content: bytes = CONTENT
    ranges: bool = True
    status: int = 200
    breaks: list[int] = field(default_factory=list)  # bytes after which the connection breaks, request by request
    how: str = "closes"  # or "resets", or "stalls"
    arrived: threading.Event = field(default_factory=threading.Event)  # set by the client; awaited before a break
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        wanted = self.headers["Range"]
        site.asked.append(wanted)
        if site.status != 200:
            self.send_error(site.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges else 0
        if start and start >= len(site.content):
            self.send_error(416)
            return
        body = site.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        self.end_headers()
        if site.breaks:
            body = body[: site.breaks.pop(0)]
            self.wfile.write(body)
            self.wfile.flush()
            self.break_off()
        else:
            with contextlib.suppress(OSError):  # a client that has seen enough hangs up
                self.wfile.write(body)

    def break_off(self) -> None:
        if self.site.how == "closes":
            return
        self.site.arrived.wait(5)
        self.site.arrived.clear()
        if self.site.how == "resets":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
        else:
            self.site.arrived.wait(5)  # nothing more comes until the client asks anew


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    handler = type("SiteHandler", (Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}/set.tar.gz"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.arrived.set()
        server.shutdown()
        thread.join()
    gc.collect()  # a connection that was left open is reported here, by the test that left it


def test_a_file_is_fetched(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "sets" / "new" / "set.tar.gz"
    fetch(site.url, path, MD5)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert site.asked == [None]


def test_progress_counts_the_bytes(site: Site, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    fetch(site.url, tmp_path / "set.tar.gz", MD5, lambda *now: told.append(now))
    total = len(CONTENT)
    assert told == [("set.tar.gz", done, total) for done in (MIB, 2 * MIB, total)]


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.breaks = [1000, 5000]
    told: list[tuple[str, int, int | None]] = []
    fetch(site.url, tmp_path / "set.tar.gz", MD5, lambda *now: told.append(now))
    assert site.asked == [None, "bytes=1000-", "bytes=6000-"]
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert [done for _, done, _ in told] == [1000, 6000, 6000 + MIB, 6000 + 2 * MIB, len(CONTENT)]
    assert {total for _, _, total in told} == {len(CONTENT)}


@pytest.mark.parametrize("how", ["resets", "stalls"])
def test_a_connection_that_fails_half_way_is_tried_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    site.how, site.breaks = how, [MIB + 1000]
    fetch(site.url, tmp_path / "set.tar.gz", MD5, lambda *now: site.arrived.set())
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert site.asked[0] is None
    assert len(site.asked) == 2
    assert site.asked[1] is not None
    assert int(site.asked[1].removeprefix("bytes=").removesuffix("-")) >= MIB


def test_what_has_arrived_is_kept_for_the_next_time(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "set.tar.gz"
    site.breaks = [1000] * ATTEMPTS
    with pytest.raises(DownloadError, match="the connection broke after 3000 of 2621440 bytes") as caught:
        fetch(site.url, path, MD5)
    assert str(caught.value).startswith(f"{site.url} cannot be fetched (")
    assert str(caught.value).endswith(f"; put the file at {path}")
    assert [file.name for file in tmp_path.iterdir()] == ["set.tar.gz.part"]
    assert (tmp_path / "set.tar.gz.part").read_bytes() == CONTENT[:3000]
    fetch(site.url, path, MD5)
    assert site.asked[ATTEMPTS:] == ["bytes=3000-"]
    assert path.read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["set.tar.gz"]


def test_a_part_that_another_process_left_is_completed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:MIB])
    told: list[tuple[str, int, int | None]] = []
    fetch(site.url, tmp_path / "set.tar.gz", MD5, lambda *now: told.append(now))
    assert site.asked == [f"bytes={MIB}-"]
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert told == [("set.tar.gz", done, len(CONTENT)) for done in (2 * MIB, len(CONTENT))]


def test_a_part_that_is_complete_is_taken_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT)
    fetch(site.url, tmp_path / "set.tar.gz", MD5)
    assert site.asked == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["set.tar.gz"]


def test_a_server_without_ranges_sends_the_whole_file_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.breaks = [MIB]
    told: list[tuple[str, int, int | None]] = []
    fetch(site.url, tmp_path / "set.tar.gz", MD5, lambda *now: told.append(now))
    assert site.asked == [None, f"bytes={MIB}-"]
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT
    assert [done for _, done, _ in told] == [MIB, MIB, 2 * MIB, len(CONTENT)]
    assert {total for _, _, total in told} == {len(CONTENT)}


@pytest.mark.parametrize("left", [b"", b"an older version of the file", CONTENT + b"more"])
def test_a_wrong_checksum_leaves_nothing(site: Site, tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "set.tar.gz"
    if left:
        path.with_name("set.tar.gz.part").write_bytes(left)  # which the rest of the file does not fit
    else:
        site.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match=rf"the checksum is [0-9a-f]{{32}} instead of {MD5}; put the right file at"):
        fetch(site.url, path, MD5)
    assert list(tmp_path.iterdir()) == []
    site.content = CONTENT
    fetch(site.url, path, MD5)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden")])
def test_a_file_that_is_not_there_is_asked_for_once(site: Site, tmp_path: Path, status: int, reason: str) -> None:
    site.status = status
    path = tmp_path / "set.tar.gz"
    with pytest.raises(DownloadError) as caught:
        fetch(site.url, path, MD5)
    assert str(caught.value) == f"{site.url} cannot be fetched ({reason}); put the file at {path}"
    assert site.asked == [None]
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/set.tar.gz"
        with pytest.raises(DownloadError) as caught:
            fetch(url, tmp_path / "set.tar.gz", MD5)
    assert str(caught.value).startswith(f"{url} cannot be fetched (")
    assert "refused" in str(caught.value)
    assert str(caught.value).endswith(f"; put the file at {tmp_path / 'set.tar.gz'}")
    assert caught.value.exit_status == 2
    assert list(tmp_path.iterdir()) == []


def test_two_that_want_the_same_file_fetch_it_once(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    failed: list[Exception] = []

    def wanted() -> None:
        try:
            fetch(site.url, path, MD5)
        except Exception as error:
            failed.append(error)

    both = [threading.Thread(target=wanted) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not failed
    assert path.read_bytes() == CONTENT
    assert site.asked == [None]
    assert list(tmp_path.iterdir()) == [path]
