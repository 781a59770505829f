"""The overfit doctor's lists, as CSV: the pictures that it suspects, and the data without what it would leave out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from resvision.data import sources
from resvision.data.pictures import DataSet, FilePictures
from resvision.files import replacing


def write(folder: Path, dataset: DataSet, numbers: dict[str, Any], left_out: dict[str, list[int]]) -> Path | None:
    """Writes suspects.csv and, of files on disk, cleaned.csv: a manifest without what a run should leave out.

    Args:
        folder: of the examination.
        dataset: what was examined.
        numbers: of the examination.
        left_out: by reason, the training pictures that the recommended run does without, as indices.

    Returns:
        The manifest; None if nothing is left out, or the pictures are no files.
    """
    rows = [[s["picture"], s["label"], s["seems"], s["margin"]] for s in numbers["labels"]["suspects"]]
    _write_csv(folder / "suspects.csv", ["picture", "label", "seems", "margin"], rows)
    without = {index for indices in left_out.values() for index in indices}
    prepared = sources.prepare(dataset)
    if not without or not all(isinstance(split.pictures, FilePictures) for split in prepared.splits.values()):
        return None
    rows = []
    for name, split in prepared.splits.items():
        assert isinstance(split.pictures, FilePictures)
        for index, (file, label) in enumerate(zip(split.pictures.files, split.labels.tolist(), strict=True)):
            if file.path is None:  # in an archive
                return None
            if name != "train" or index not in without:
                rows.append([str(file.path.resolve()), prepared.classes[label], name])
    _write_csv(folder / "cleaned.csv", ["path", "label", "split"], rows)
    return folder / "cleaned.csv"


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    with replacing(path) as temporary:  # names of files are bytes, and those of a manifest must be found again
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")
