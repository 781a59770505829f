"""Files: written whole or not at all, read with their types checked, one clear line when something is wrong."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import reprlib
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resvision.errors import ClassifierError, InputError, StorageError

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")


def printable(name: str) -> str:
    r"""The name of a file as text: bytes that are no UTF-8, as in old archives, as \xe9, so that names stay apart."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def path_of(given: str | os.PathLike[str]) -> Path:
    """A path as a person gives it, in which ~ is the home.

    Raises:
        InputError: it is empty, which would mean the current folder.
    """
    if given == "":
        raise InputError("an empty text was given for a path: perhaps a variable is not set; the current folder is .")
    return Path(given).expanduser()


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the operating system says of `path` (disk full, no permission) into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once the block ends well: a reader never sees half a file.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time work in a folder, where the system has such locks; Windows has others."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with storage(folder):
        opened = os.open(folder, os.O_RDONLY)  # the folder is there anyway, and a file would be left behind
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all; bytes of a file's name that are none as JSON escapes them."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def to_json(value: Any) -> str:
    """The text of one JSON document. A NaN is refused, since JSON has none."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes what `to_json` gives."""
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """Reads one JSON document.

    Raises:
        StorageError: the file cannot be read.
        InputError: it is not JSON.
    """
    with storage(path):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error


def read_text(path: Path) -> str:
    """Reads UTF-8, with or without a byte order mark.

    Raises:
        StorageError: the file cannot be read.
        InputError: it is not UTF-8.
    """
    with storage(path):
        data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_yaml(path: Path) -> Any:
    """Reads one YAML document of plain values.

    Raises:
        StorageError: the file cannot be read.
        InputError: it is not YAML.
    """
    import yaml  # here, so that the command line's --help does not wait for it

    with storage(path):
        text = path.read_bytes()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def write_yaml(path: Path, value: Any) -> None:
    """Writes one YAML document, keys in the order given."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def parse_version(kind: type[T], value: Any, where: str, form: str, version: int) -> T:
    """What `parse` gives of a document that says its format and version.

    These are looked at first, since a newer version may have fields that this program does not know.

    Raises:
        ClassifierError: format or version is another.
        InputError: as in `parse`.
    """
    if isinstance(value, dict) and (value.get("format", form), value.get("version", version)) != (form, version):
        told = f"is {value.get('format')} version {value.get('version')}"
        raise ClassifierError(f"{where}: {told}; this program reads {form} version {version}")
    return parse(kind, value, where)


def plain(value: Any) -> Any:
    """What JSON has no word for as what it has: arrays, tensors and their numbers as lists and numbers, paths as text.

    Raises:
        TypeError: it is none of these.
    """
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is neither text, a number nor a list of them")


def parse(kind: type[T], value: Any, where: str) -> T:
    """`value`, from a file or a caller, as the dataclass `kind`: every type checked, no unknown field let through.

    Raises:
        InputError: a field is missing, unknown or of the wrong type; `where`, the field and its value are named.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    closed = with_config(ConfigDict(extra="forbid"))(kind)
    try:
        # Strict, but by way of JSON, whose lists may become tuples.
        return TypeAdapter(closed).validate_json(json.dumps(value, default=plain), strict=True)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error
    except ValidationError as error:
        raise InputError(f"{where}: {fault(error, known=getattr(kind, '__dataclass_fields__', ()))}") from error


def fault(error: ValidationError, *within: str, known: Collection[str] = ()) -> str:
    """What a validator found first: the field, its value, and what that should be.

    Args:
        error: of the validator.
        within: the field whose value it was given.
        known: the fields of what it was given, of which the nearest to an unknown one is named.
    """
    errors = error.errors()
    kind, value, place = errors[0]["type"], errors[0]["input"], (*within, *errors[0]["loc"])
    alike = errors[:1]
    if len(place) > 1 and isinstance(place[-1], str) and kind != "missing":
        # Where a value may be of several types each of them complains, its own name behind the field's.
        alike = [e for e in errors if (*within, *e["loc"])[:-1] == place[:-1] and e["input"] == value]
        place = place[:-1] if len(alike) > 1 else place
    field = ".".join(map(str, place)) or "document"
    more = f" (and {len(errors) - len(alike)} more)" if len(errors) > len(alike) else ""
    if kind == "missing":
        return f"{field} is missing{more}"
    if kind == "unexpected_keyword_argument":
        meant = nearest(field, known) if len(place) == 1 else ""  # `known` are the fields of the outermost
        return f"there is no field {field!r}{meant}{more}"
    told = " or ".join(e["msg"].removeprefix("Input should be " if index else "") for index, e in enumerate(alike))
    shown = f"={reprlib.repr(value)}" if place else ""
    return f"{field}{shown}: {told}{_as_number(value, {e['type'] for e in alike})}{more}"


def nearest(name: str, known: Collection[str]) -> str:
    """What to say of a name that does not exist: the nearest of those that do, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _as_number(value: Any, kinds: set[str]) -> str:
    """How to write a text that was meant as a number, such as 1e-3 in YAML, which wants 1.0e-3 there."""
    if not isinstance(value, str) or not kinds & {"int_type", "float_type"}:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number) or not (number.is_integer() or "float_type" in kinds):
        return ""
    import yaml

    written = yaml.safe_dump(int(number) if number.is_integer() else number).split()[0]
    return f"; this is text, so write {written}"
