"""RunFolder: where a run keeps its files, and the rule that no run ever overwrites another."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resvision.errors import RunError
from resvision.files import parse, path_of, read_json, read_yaml, storage, write_json, write_text, write_yaml
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, out: str | Path | None, verb: str) -> RunFolder:
        """A new folder: `out`, or the next free number, such as runs/train-003.

        Raises:
            RunError: `out` exists and holds something.
            StorageError: the folder cannot be made.
        """
        if out is not None:
            path = path_of(out)
            with storage(path):
                is_taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
            if is_taken:
                begun = verb == "train" and cls(path).recipe_file.exists() and not cls(path).result_file.exists()
                go_on = f", or go on with --resume {shlex.quote(str(path))}" if begun else ""
                raise RunError(f"{path} exists already: give another --out{go_on}")
            with storage(path):
                path.mkdir(parents=True, exist_ok=True)
            return cls(path)
        number = max((_number(path, verb) for path in RUNS.glob(f"{verb}-*")), default=0)
        with storage(RUNS):
            RUNS.mkdir(parents=True, exist_ok=True)
            while True:  # another process may take the same number
                number += 1
                path = RUNS / f"{verb}-{number:03d}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                return cls(path)

    def goes_on(self) -> str:
        """What goes on with a run that has begun: a command, or where its pictures were arrays a call."""
        if not self.read_data()["source"]:
            return f"resvision.train(..., resume={str(self.path)!r}) with the same arrays"
        return f"resvision train --resume {shlex.quote(str(self.path))}"

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            RunError: there is none.
        """
        run = cls(path_of(path))
        if not run.recipe_file.is_file():
            raise RunError(f"{run.path}: there is no run to go on with ({run.recipe_file.name} is missing)")
        return run

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Removes the folder if the block fails before it has put anything there: a mistake leaves no trace."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # it is not empty
                self.path.rmdir()
                if self.path.parent == RUNS:
                    RUNS.rmdir()
            raise

    @property
    def recipe_file(self) -> Path:
        """The recipe with everything filled in that was measured or derived."""
        return self.path / "recipe.yaml"

    @property
    def data_file(self) -> Path:
        """Which data the run uses, their preprocessing, and which pictures were held back."""
        return self.path / "data.json"

    @property
    def result_file(self) -> Path:
        """The figures of the finished run."""
        return self.path / "result.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def last_checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best_checkpoint(self) -> Path:
        """The state after the best epoch."""
        return self.path / "checkpoints" / "best.safetensors"

    def read_recipe(self) -> Recipe:
        """The recipe that the run recorded."""
        return read_recipe(self.recipe_file)

    def write_recipe(self, recipe: Recipe) -> None:
        """Records the recipe."""
        write_yaml(self.recipe_file, dataclasses.asdict(recipe))

    def read_data(self) -> dict[str, Any]:
        """What `write_data` recorded."""
        data: dict[str, Any] = read_json(self.data_file)
        return data

    def read_preprocess(self) -> Preprocess:
        """The preprocessing that `write_data` recorded."""
        return parse(Preprocess, self.read_data().get("preprocess"), f"{self.data_file}: preprocess")

    def write_data(self, data: dict[str, Any]) -> None:
        """Records which data the run uses, and their preprocessing."""
        write_json(self.data_file, data)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Writes all epochs so far, so that a resumed run leaves no epoch twice."""
        write_text(self.metrics_file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """What `write_metrics` wrote."""
        with storage(self.metrics_file):
            return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file.

    Raises:
        InputError: it is none.
    """
    return parse(Recipe, read_yaml(path), str(path))


def _number(path: Path, verb: str) -> int:
    digits = path.name.removeprefix(f"{verb}-")
    return int(digits) if digits.isdecimal() else 0
