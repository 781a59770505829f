"""Fetching a file: an interrupted download goes on where it stopped, and the checksum decides whether it is kept."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from resvision.errors import DownloadError
from resvision.files import alone, storage

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
ATTEMPTS = 3

Progress = Callable[[str, int, int | None], None]  # (file name, bytes so far, bytes in all where known)


def fetch(url: str, path: Path, md5: str, progress: Progress | None = None) -> None:
    """Downloads `url` to `path`. What has arrived stays in `path`.part until it is complete.

    Args:
        url: http or https address.
        path: where the file goes; its folder is made.
        md5: the checksum that the publisher states, in hexadecimal digits.
        progress: called after every chunk.

    Raises:
        DownloadError: the address cannot be reached, or what came has another checksum.
        StorageError: the file cannot be written.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        if not path.is_file():  # or another process has fetched it meanwhile
            _fetch(url, path, md5, progress)


def _fetch(url: str, path: Path, md5: str, progress: Progress | None) -> None:
    part = path.with_name(path.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _append(url, part, progress)
            break
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                raise DownloadError(
                    f"{url} cannot be fetched ({getattr(error, 'reason', error)}); put the file at {path}"
                ) from error
    with storage(part):
        digest = hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()
    if digest != md5:
        part.unlink()
        raise DownloadError(f"{url}: the checksum is {digest} instead of {md5}; put the right file at {path}")
    with storage(path):
        part.replace(path)


def _append(url: str, part: Path, progress: Progress | None) -> None:
    """Fetches what is missing of the file, beginning after the bytes that `part` already holds."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if done and error.code == 416:  # nothing is left to send: the part is complete, or no part of this file
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file again
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with storage(part):
            file = part.open("ab" if done else "wb")
        with file:
            while chunk := response.read(CHUNK_BYTES):
                with storage(part):
                    file.write(chunk)
                    file.flush()
                done += len(chunk)
                if progress is not None:
                    progress(part.stem, done, total)
        if total is not None and done < total:
            raise ConnectionError(f"the connection broke after {done} of {total} bytes")
