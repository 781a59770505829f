"""Data sets from what a person names: a built-in set, a folder, a CSV manifest, an archive, or arrays in memory."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeGuard

import numpy as np

from resvision.data import archives, images
from resvision.data.builtin import NAMES as BUILTIN_NAMES
from resvision.data.builtin import load as load_builtin
from resvision.data.download import Progress
from resvision.data.pictures import ArrayPictures, DataSet, File, FilePictures, Labels, Split, divide_at, listed
from resvision.errors import DataError, PictureError
from resvision.files import path_of, printable, storage

SPLIT_NAMES = {  # of folders, in small letters, and in manifests
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VALIDATION_FRACTION = 0.2  # of a set that comes without splits
MAX_ARCHIVE_BYTES = 4 << 30  # an archive is read into memory; a larger one should be unpacked

Arrays = tuple[Any, Sequence[int] | Sequence[str] | Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a CSV manifest.

    Args:
        path: picture files, relative to the manifest.
        label: class names.
        split: train, val or test, or true where a row is for validation; None takes the column `split` if there is one.
    """

    path: str = "path"
    label: str = "label"
    split: str | None = None


DEFAULT_COLUMNS = Columns()


def place_of(data: str | Path) -> str:
    """A built-in name as it is, and any other as a whole path: by it the same data are known however they are spelt."""
    return data if is_builtin(data) else str(path_of(data).resolve())


def is_builtin(data: object) -> TypeGuard[str]:
    """Whether it is the name of a built-in set; a `Path` always means a place."""
    return isinstance(data, str) and data in BUILTIN_NAMES


def spelt(data: str | Path) -> str:
    """How a command names the data: a path that reads like a built-in set begins with ./ there."""
    return f"./{data}" if not isinstance(data, str) and str(data) in BUILTIN_NAMES else str(data)


def load(data: str | Path, columns: Columns = DEFAULT_COLUMNS, progress: Progress | None = None) -> DataSet:
    """The data set that `data` names.

    Args:
        data: a built-in name (`builtin.NAMES`), a folder (`train|val|test/<class>/...` or `<class>/...`), a tar or zip
            archive of such a folder, or a CSV manifest.
        columns: of a manifest.
        progress: told about a download.

    Raises:
        DataError: nothing is there, or it cannot be used.
        DownloadError: a built-in set is not at hand and cannot be fetched.
    """
    if is_builtin(data):
        return load_builtin(data, progress)
    path = path_of(data)
    if not path.exists():
        raise DataError(
            f"there is no folder, file or built-in data set {str(data)!r}; built in are {', '.join(BUILTIN_NAMES)}"
            + (", whose names are text and no Path" if str(data) in BUILTIN_NAMES else "")
        )
    if path.is_dir():
        return _from_tree(spelt(data), *_walk(path))
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_manifest(path, columns)
    with storage(path):
        is_archive = archives.is_archive(path)
    if is_archive:
        return _from_tree(spelt(data), *_read_archive(path))
    raise DataError(f"{path}: neither a folder, a CSV manifest, nor a tar or zip archive")


def from_arrays(train: Arrays, validation: Arrays | None = None, classes: Sequence[str] | None = None) -> DataSet:
    """A data set from arrays in memory.

    Args:
        train: pictures, uint8 (N, H, W) or (N, H, W, C), and N labels: class names, or integers that index `classes`.
        validation: the same; without it a part of `train` is divided off.
        classes: names for integer labels; without them a class is named by its number.

    Raises:
        DataError: a wrong type, shape or length, or a label that is none or outside the classes.
    """
    given = {"train": train} if validation is None else {"train": train, "val": validation}
    if isinstance(classes, str):
        raise DataError(f"classes={classes!r}: give a list of names")
    if classes is None:
        names = {name: set(map(str, _labels(pair, name))) for name, pair in given.items()}
        _same_classes("arrays", names)
        classes = _in_order(names["train"])
    classes = tuple(map(str, classes))
    splits = {name: array_split(pair, classes, name) for name, pair in given.items()}
    return DataSet(name="arrays", classes=classes, splits=splits, method="given")


def array_split(pair: Arrays, classes: Sequence[str], name: str) -> Split:
    """A split from pictures and labels in memory.

    Args:
        pair: pictures, uint8 (N, H, W) or (N, H, W, C), and N labels. A label is a class name; integers that are not
            all class names index `classes`.
        classes: the class names.
        name: for messages.

    Raises:
        DataError: a wrong type, shape or length, a label that is none or outside the classes, or integers of which it
            is not plain whether they are names.
    """
    values = _labels(pair, name)
    try:
        array = ArrayPictures(np.asarray(pair[0]), name)
    except ValueError as error:  # a ragged list
        raise DataError(f"{name}: pictures of different sizes cannot be one array; save them in a folder") from error
    if len(array) != len(values):
        raise DataError(f"{name}: {len(array)} pictures, but {len(values)} labels")
    if not values:
        raise DataError(f"{name}: holds no pictures")
    by_name = {str(label): i for i, label in enumerate(classes)}
    numbers = [v for v in values if isinstance(v, int)]
    has_text = len(numbers) < len(values)
    are_names = has_text or all(str(v) in by_name for v in values)
    indices = [by_name.get(str(v), v) for v in values] if are_names else values
    # Numbers that named their classes themselves are in order.
    if are_names and not has_text and list(by_name) != _in_order(set(by_name)) and max(numbers) < len(classes):
        raise DataError(
            f"{name}: labels such as {numbers[0]} may be names or places of the classes {listed(list(by_name))}: "
            "give names as text"
        )
    if unknown := {str(i) for i in indices if not (isinstance(i, int) and 0 <= i < len(classes))}:
        strangers = {str(v) for v in values} - by_name.keys()  # which keep the others from being names
        wrong = sorted(strangers if unknown & by_name.keys() else unknown)
        raise DataError(f"{name}: labels that no class has: {listed(wrong)}; the classes are {listed(list(by_name))}")
    return Split(array, np.array(indices, dtype=np.int64))


def _labels(pair: Arrays, name: str) -> list[str | int]:
    """The labels of arrays, each a text or an integer."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(f"{name}: give a pair (pictures, labels)")
    given = pair[1]  # of a list NumPy would make texts of all, of what is missing, too
    labels = np.asarray(given, dtype=object if isinstance(given, list | tuple) else None).reshape(-1).tolist()
    for place, label in enumerate(labels):
        label = labels[place] = label.item() if hasattr(label, "item") else label
        if isinstance(label, float) and label.is_integer():  # what a table makes of a column with gaps
            labels[place] = int(label)
        elif not isinstance(label, str | int) or label == "":
            raise DataError(f"{name}: picture {place} has the label {label!r}: give class names or whole numbers")
    return labels


def prepare(dataset: DataSet) -> DataSet:
    """The data set with a training split and at least one of "val" and "test": what is missing is divided off.

    Raises:
        DataError: there is one class, no training split, or a class has too few different pictures to be divided.
    """
    splits = dict(dataset.splits)
    if len(dataset.classes) < 2:
        raise DataError(
            f"{dataset.name}: only the class {dataset.classes[0]!r} was found; a classifier needs at least two "
            "(to evaluate one with these pictures: --split all)"
        )
    if "train" in splits and len(splits) > 1:
        return dataset
    whole = splits.get("train") or splits.get("all")
    if whole is None:
        raise DataError(f"{dataset.name}: there is no train split, only {', '.join(splits)}")
    known = {i: int(dataset.divided_at[c], 16) for i, c in enumerate(dataset.classes) if c in dataset.divided_at}
    try:
        train, val, greatest = divide_at(known, whole, VALIDATION_FRACTION, dataset.name)
    except DataError as error:
        whole_advice = "" if isinstance(whole.pictures, ArrayPictures) else " (to evaluate all of them: --split all)"
        raise DataError(f"{error}{whole_advice}") from error
    method = f"{VALIDATION_FRACTION:.0%} of each class for validation, by a hash of each picture's content"
    return replace(
        dataset,
        splits={"train": train, "val": val},
        method=_and_unused(method, dataset.unused),
        divided_at={dataset.classes[label]: f"{last:016x}" for label, last in greatest.items()},
    )


def pictures_below(folder: Path) -> list[Path]:
    """The pictures in a folder and in all that it holds, in sorted order.

    Raises:
        DataError: there are none.
    """
    below = [file.path for _, file in _walk(folder)[0] if file.path is not None and _may_be_picture(file)]
    if not below:
        raise DataError(f"{folder}: holds no pictures")
    return below


# ---- folders and archives: relative paths and files, wherever they come from ----


def _walk(root: Path) -> tuple[list[tuple[PurePosixPath, File]], set[PurePosixPath]]:
    """All files below a folder in sorted order, and all its folders, as paths relative to it."""
    files: list[tuple[PurePosixPath, File]] = []
    folders: set[PurePosixPath] = set()
    with storage(root):
        for path in sorted(_below(root)):
            relative = PurePosixPath(printable(path.relative_to(root).as_posix()))
            if any(part.startswith(".") for part in relative.parts):
                continue
            if path.is_dir():
                folders.add(relative)
            elif path.is_file():
                files.append((relative, File(str(relative), path=path)))
            elif path.is_symlink():
                if path.suffix.lower() not in (*images.EXTENSIONS, *images.OTHER_EXTENSIONS):
                    raise DataError(f"{path}: a link to what is not there; mend it, or remove it")
                files.append((relative, File(str(relative), path=path)))  # a picture that cannot be read
    return files, folders


def _below(root: Path) -> Iterator[Path]:
    """Everything below a folder, also behind links; not what leads back to where it comes from, nor what is hidden."""

    def refuse(error: OSError) -> None:  # a part of a class that cannot be read must not be left out without a word
        raise DataError(f"{error.filename}: {error.strerror}") from error

    behind = {root: {root.resolve()}}  # the real folders that lead to each one
    for place, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(place)
        way = behind.pop(here)
        kept = {name: (here / name).resolve() for name in folders if not name.startswith(".")}
        folders[:] = [name for name, real in kept.items() if real not in way]
        behind |= {here / name: way | {kept[name]} for name in folders}
        yield from (here / name for name in (*folders, *files))


def _read_archive(path: Path) -> tuple[list[tuple[PurePosixPath, File]], set[PurePosixPath]]:
    """The members of an archive, read into memory. Nothing is unpacked to disk, so no member's path can do harm."""
    contents: dict[PurePosixPath, bytes] = {}
    folders: set[PurePosixPath] = set()
    total = 0
    for name, data in archives.members(path):
        relative = PurePosixPath(printable(name))
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{path}: the member {name!r} points outside the archive; pack it again without that")
        # "." itself has no parts: an archive that was made from within the folder.
        if not relative.parts or any(part.startswith(".") or part == "__MACOSX" for part in relative.parts):
            continue
        folders.update(parent for parent in relative.parents if parent.parts)
        if data is None:
            folders.add(relative)
            continue
        # Of a member that was packed twice the last one counts, as where it is unpacked.
        total += len(data) - len(contents.get(relative, b""))
        if total > MAX_ARCHIVE_BYTES:
            raise DataError(f"{path}: holds more than {MAX_ARCHIVE_BYTES >> 30} GB; unpack it and give the folder")
        contents[relative] = data
    return [(relative, File(str(relative), data=data)) for relative, data in sorted(contents.items())], folders


def _unwrapped(
    files: list[tuple[PurePosixPath, File]], folders: set[PurePosixPath]
) -> tuple[list[tuple[PurePosixPath, File]], set[PurePosixPath]]:
    """What archives often hold, unpacked or not: one folder that holds everything, and perhaps a licence beside it."""
    while len(tops := {r.parts[0] for r, _ in files if len(r.parts) > 1}) == 1 and _nested(folders, *tops):
        top = PurePosixPath(*tops)
        files = [(PurePosixPath(*r.parts[1:]) if len(r.parts) > 1 else r, file) for r, file in files]
        folders = {folder.relative_to(top) for folder in folders if folder.is_relative_to(top) and folder != top}
    return files, folders


def _nested(folders: Iterable[PurePosixPath], top: str) -> bool:
    return top.lower() not in SPLIT_NAMES and any(
        len(folder.parts) > 1 and folder.parts[0] == top for folder in folders
    )


def _from_tree(name: str, files: list[tuple[PurePosixPath, File]], folders: set[PurePosixPath]) -> DataSet:
    """Reads `train|val|test/<class>/...` or `<class>/...` out of relative paths."""
    files, folders = _unwrapped(files, folders)
    found = [(relative, file) for relative, file in files if _may_be_picture(file)]
    pictures = [(relative, file) for relative, file in found if len(relative.parts) > 1]
    loose = [file.name for relative, file in found if len(relative.parts) == 1]
    tops = sorted({folder.parts[0] for folder in folders})
    # "train" may also be a class of vehicles: then its pictures lie directly in it.
    nested = {folder.parts[0] for folder in folders if len(folder.parts) > 1}
    split_tops = [top for top in tops if top.lower() in SPLIT_NAMES]
    if training := [top for top in split_tops if SPLIT_NAMES[top.lower()] == "train" and top in nested]:
        classes = {
            top: {folder.parts[1] for folder in folders if len(folder.parts) > 1 and folder.parts[0] == top}
            for top in split_tops
        }
        _same_classes(name, classes, training[0])
        groups: dict[str, list[tuple[str, File]]] = {}
        for top in split_tops:  # "val" and "valid" side by side are one split
            own = [(r.parts[1], f) for r, f in pictures if r.parts[0] == top and len(r.parts) > 2]
            groups.setdefault(SPLIT_NAMES[top.lower()], []).extend(own)
        others = [top for top in tops if top not in split_tops]
        loose += [
            file.name for relative, file in pictures if relative.parts[0] in split_tops and len(relative.parts) == 2
        ]
        return _assemble(name, sorted(classes[training[0]]), groups, "given by folders", (*others, *loose))
    if split_tops == tops and nested.issuperset(tops) and tops:
        packed = any(file.data is not None for _, file in files)
        way = f"unpack it, and give its {tops[0]} with" if packed else str(PurePath(name, tops[0]))
        raise DataError(
            f"{name}: has {listed(tops)} with class folders in them, but no train (to evaluate: {way} --split all)"
        )
    if not tops:
        content = f"{len(files)} files, but no class folders" if files else "nothing"
        raise DataError(f"{name}: holds {content}; expected <class>/PICTURE or train|val|test/<class>/PICTURE")
    return _assemble(name, tops, {"all": [(r.parts[0], f) for r, f in pictures]}, "none", tuple(loose))


def _may_be_picture(file: File) -> bool:
    """Whether a file is meant as a picture: by its extension or, where that is another, by its content."""
    if file.name.lower().endswith((*images.EXTENSIONS, *images.OTHER_EXTENSIONS)):
        return True
    try:
        if not images.may_be_picture(file.head()):  # a film is not read to its end
            return False
        images.read_header(file.read(), file.name)
    except PictureError:
        return False
    return True


def _same_classes(name: str, classes: dict[str, set[str]], training: str = "train") -> None:
    train = classes[training]
    for split, found in classes.items():
        lacks, adds = sorted(train - found), sorted(found - train)
        if lacks or adds:
            parts = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"adds {listed(adds)}"] * bool(adds)
            raise DataError(f"{name}: the classes of {split} differ from those of train: it {' and '.join(parts)}")


def _assemble(
    name: str,
    classes: list[str],
    groups: dict[str, list[tuple[str, File]]],
    method: str,
    unused: tuple[str, ...] = (),
) -> DataSet:
    index = {label: i for i, label in enumerate(classes)}
    splits = {}
    for split_name, rows in groups.items():
        labels: Labels = np.array([index[label] for label, _ in rows], dtype=np.int64)
        splits[split_name] = Split(FilePictures(tuple(file for _, file in rows)), labels)
    method = _and_unused(method, unused)
    return DataSet(name=name, classes=tuple(classes), splits=splits, method=method, unused=unused)


def _and_unused(method: str, unused: tuple[str, ...]) -> str:
    return method + (f" ({listed(list(unused))} beside them: not used)" if unused else "")


# ---- manifests ----


def _from_manifest(path: Path, columns: Columns) -> DataSet:
    with storage(path):
        content = path.read_bytes()
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as spreadsheets write it
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig", errors="surrogateescape")  # names of files are bytes
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text ({error}); save it as UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return _from_rows(path, rows, columns)
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not CSV ({error}); is a quote left open?") from error


def _from_rows(path: Path, rows: csv.DictReader[str], columns: Columns) -> DataSet:
    rows.fieldnames = found = [name.strip() for name in rows.fieldnames or ()]
    if not found:
        raise DataError(f"{path}: has no header line; give one with the columns, such as path,label")
    split_column = columns.split or ("split" if "split" in found else None)
    for option, column in (("path", columns.path), ("label", columns.label), ("split", split_column)):
        if column is None:
            continue
        if column not in found:
            raise DataError(
                f"{path}: there is no column {column!r}; it has {listed(found, 12)}. Name it with --{option}-column"
            )
        if found.count(column) > 1:
            raise DataError(f"{path}: two columns are called {column!r}; rename the one that is not meant")
    groups: dict[str, list[tuple[str, File]]] = {}
    for row in rows:
        line = rows.line_num
        if any(row.get(None, ())):  # where csv puts what has no column
            raise DataError(f"{path}, line {line}: has more fields than the header; put names with commas in quotes")
        name, label = row[columns.path], (row[columns.label] or "").strip()  # a blank makes no other class
        if not name or not label:
            raise DataError(f"{path}, line {line}: the column {columns.label if name else columns.path} is empty")
        split = "all" if split_column is None else _split_name(row[split_column], path, line)
        groups.setdefault(split, []).append((printable(label), File(printable(name), path=path.parent / name)))
    if not groups:
        raise DataError(f"{path}: holds no rows")
    classes = {split: {label for label, _ in members} for split, members in groups.items()}
    if "train" in classes:
        _same_classes(str(path), classes)
    method = "none" if split_column is None else f"given by the column {split_column}"
    return _assemble(str(path), _in_order(set().union(*classes.values())), groups, method)


def _split_name(value: str | None, path: Path, line: int) -> str:
    word = (value or "").strip().lower()
    if word in SPLIT_NAMES:
        return SPLIT_NAMES[word]
    if word in ("true", "false", "1", "0"):  # a column such as is_valid
        return "val" if word in ("true", "1") else "train"
    raise DataError(f"{path}, line {line}: the split {value!r} is not train, val or test")


def _in_order(classes: set[str]) -> list[str]:
    """Class names sorted, numbers by their value."""
    numbers = all(name.isdecimal() for name in classes)
    return sorted(classes, key=(lambda name: (int(name), name)) if numbers else None)
