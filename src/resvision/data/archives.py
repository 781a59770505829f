"""The members of a tar or zip archive, read into memory and never unpacked to disk."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from resvision.errors import DataError

MAX_MEMBER_BYTES = 256 << 20
PIECE_BYTES = 64 << 10

# What the readers raise over a damaged, truncated or encrypted archive, and over a compression that they do not know.
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError),
)


def is_archive(path: Path) -> bool:
    """Whether the content of a file is that of a tar (plain, gzip, bzip2, xz) or zip archive."""
    return tarfile.is_tarfile(path) or zipfile.is_zipfile(path)


def members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of an archive's members, None for a folder; symbolic links and devices are passed over.

    Raises:
        DataError: the archive is damaged anywhere, or a member is too large.
    """
    try:
        # A tar whose last member is a zip looks like that zip, too.
        yield from (_tar_members if tarfile.is_tarfile(path) else _zip_members)(path)
    except DAMAGED as error:
        raise DataError(f"{path}: the archive cannot be read ({' '.join(str(error).split())})") from error


def _zip_members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):  # the upper half holds the file mode of Unix
                continue
            with archive.open(info) as content:
                yield info.filename, None if info.is_dir() else _bounded(path, info.filename, content)


def _tar_members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                yield member.name, None
            elif member.isfile() or member.islnk():  # tar packs the second name of a file as a link to the first
                with suppress(KeyError):  # a link to what is not in the archive
                    content = archive.extractfile(member)
                    if content is None:  # a link to a folder
                        continue
                    yield member.name, _bounded(path, member.name, content)
        # tarfile takes a damaged header for the end of the archive, after which there are only zeros, and a gzip
        # file is checked only where it is read to its end.
        assert archive.fileobj is not None
        while rest := archive.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"a damaged header after {len(archive.getmembers())} members")


def _bounded(path: Path, name: str, file: IO[bytes]) -> bytes:
    """A member's content.

    In pieces: what the header says of the size may be a lie, and a reader takes as much memory as it is asked for.
    """
    data = bytearray()
    while piece := file.read(PIECE_BYTES):
        data += piece
        if len(data) > MAX_MEMBER_BYTES:
            raise DataError(f"{path}: the member {name!r} is larger than {MAX_MEMBER_BYTES >> 20} MB")
    return bytes(data)
