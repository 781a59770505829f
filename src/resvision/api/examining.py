"""Verbs that find something out by training: study, overfit, depth."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resvision import inputs
from resvision.api.experiments import folder_for, recorded_settings, stopping
from resvision.data import sources
from resvision.data.pictures import fingerprint
from resvision.data.statistics import facts
from resvision.errors import InputError, RecipeError
from resvision.explain.bench import Bench, Options
from resvision.explain.studies import STUDIES
from resvision.files import write_json, write_yaml
from resvision.inputs import Data
from resvision.measure import timestamp
from resvision.progress import Reporter
from resvision.recipe import LENGTHS, Recipe, typed
from resvision.report import doctor, frontier, pages, suspects
from resvision.runtime import versions
from resvision.search import depth as searching
from resvision.search import overfit as examination
from resvision.search.candidates import Candidate, enumerate_all
from resvision.search.costs import Limits
from resvision.training.ledger import LEDGER_FILE, Ledger


def study(
    name: str,
    data: str | Path = "digits",
    *,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """Does a short experiment that shows why residual networks work; leaves numbers, plots and a page in a folder.

    Args:
        name: "degradation", "gradients", "paths" or "landscape".
        data: as in `train`.
        columns: of a manifest.
        out: the folder; None takes the next number under runs/. A study that was stopped there goes on.
        reporter: told about the progress.
        **options: fields of `explain.bench.Options` in place of the study's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: there is no such study, or an option or the data cannot be used.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    reporter = reporter or Reporter()
    if name not in STUDIES:
        raise InputError(f"there is no study {name!r}: there are {', '.join(STUDIES)}")
    chosen = STUDIES[name]
    known = [field.name for field in dataclasses.fields(chosen.options)]
    if unknown := [option for option in options if option not in known]:
        raise InputError(f"a study has no option {unknown[0]!r}; it has {', '.join(known)}")
    wanted = dataclasses.replace(chosen.options, **typed(options, Options))
    if len(chosen.options.depths) == 1 != len(wanted.depths):
        raise RecipeError(f"depths={wanted.depths}: the study {name} takes one")
    dataset = inputs.dataset_of(data, None, None, columns, reporter)
    settings = {
        "study": name,
        "data": dataset.name,
        "fingerprint": fingerprint(dataset.classes, dataset.splits.values()),
        **dataclasses.asdict(wanted),
    }
    folder = folder_for(f"study-{name}", out)
    with stopping(folder):
        bench = Bench(dataset, wanted)
        ledger = Ledger(folder / LEDGER_FILE, settings)
        precision = ledger.once("precision", bench.fastest_precision)
        bench.recipe = dataclasses.replace(bench.recipe, precision=precision)
        train_split = bench.train_split
        reporter.note(f"{dataset.name}: {len(train_split):,} pictures of {bench.recipe.size} px train; in {folder}")
        found = chosen.run(bench, ledger, reporter.note)
        numbers = json.loads(json.dumps(found, allow_nan=False))
        numbers = {"settings": settings | {"size": bench.recipe.size, "precision": precision}, **numbers}
        asked = dataclasses.asdict(wanted) | {"size": bench.recipe.size, "depths": ",".join(map(str, wanted.depths))}
        numbers["command"] = inputs.command(f"study {name}", data, columns, asked)
        numbers = _saved(folder, numbers, chosen.describe(numbers))
        pages.write(folder, name, chosen.title, numbers)
    return numbers, folder


def overfit(
    data: Data,
    *,
    minutes: float = 10.0,
    validation: sources.Arrays | None = None,
    classes: Sequence[str] | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    recipe: Recipe | str | Path = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], Path]:
    """Finds out how and why a recipe overfits, tries remedies, and checks the best one on pictures that chose nothing.

    Args:
        data: as in `train`.
        minutes: that it may take; the trials are planned from them.
        validation: a pair of arrays that chooses nothing.
        classes: the names of integer labels in arrays.
        columns: of a manifest.
        recipe: as in `train`; what is examined.
        out: the folder; None takes the next number under runs/. An examination that was stopped there goes on.
        reporter: told about the progress.
        **fields: any field of `Recipe`, in place of the recipe's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: the data or the recipe cannot be used.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    reporter = reporter or Reporter()
    if not 0 < minutes < math.inf:
        raise InputError(f"minutes={minutes} must be above 0 and finite")
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    made = inputs.recipe_of(dataset, recipe, fields)
    chosen = made.recipe
    inputs.refuse_untried(chosen)
    for reason in made.reasons:
        reporter.note(reason)
    settings = {
        "overfit": dataset.name,
        "minutes": minutes,
        "pictures": {name: len(split) for name, split in dataset.splits.items()},
        "fingerprint": fingerprint(dataset.classes, dataset.splits.values()),
        "recipe": dataclasses.asdict(chosen),
    }
    folder = folder_for("overfit", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "an examination")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes; examined in {folder}")
    with stopping(folder):
        found = examination.run(dataset, chosen, minutes, ledger, reporter.note)
        left_out = found.pop("left_out")
        numbers = {"settings": settings | {"data": dataset.name}, **found}
        cleaned = suspects.write(folder, dataset, numbers, left_out)
        mended = cleaned if numbers["recommended"]["cleaned"] else None
        own = _by_name(made.base, folder) | fields
        numbers["commands"] = {
            "overfit": inputs.command("overfit", data, columns, {"minutes": f"{minutes:g}"}, own),
            "baseline": inputs.command("train", data, columns, own),
            "recommended": inputs.command(
                "train",
                data if mended is None else mended,
                columns if mended is None else sources.DEFAULT_COLUMNS,
                inputs.replaced(own, numbers["recommended"]["options"]),
            ),
        }
        numbers = _saved(folder, numbers, examination.describe(numbers))
        doctor.write(folder, numbers)
    return numbers, folder


def depth(
    data: Data,
    *,
    minutes: float = 15.0,
    latency_ms: float | None = None,
    train_minutes: float | None = None,
    memory_gb: float | None = None,
    models: str | Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    widths: Sequence[float] | None = None,
    validation: sources.Arrays | None = None,
    classes: Sequence[str] | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    recipe: Recipe | str | Path = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], Path]:
    """Finds which depth, width and picture size to take, for what they cost on this machine.

    Args:
        data: as in `train`.
        minutes: that the search may take.
        latency_ms: most milliseconds of the answer to one picture.
        train_minutes: how long the network will be trained; None trains as long as the recipe usually does.
        memory_gb: most memory of a training step, in 10^9 bytes.
        models: a name from the zoo, or several, in place of the usual ones.
        sizes: of the pictures, in pixels, in place of the usual ones.
        widths: factors of the models' widths in place of the usual ones.
        validation: a pair of arrays that chooses nothing.
        classes: the names of integer labels in arrays.
        columns: of a manifest.
        recipe: as in `train`; all candidates follow it.
        out: the folder; None takes the next number under runs/. A search that was stopped there goes on.
        reporter: told about the progress.
        **fields: any field of `Recipe` but model, size and minutes, in place of the recipe's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: the data or the recipe cannot be used, or no candidate is within the limits.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    reporter = reporter or Reporter()
    if not 0 < minutes < math.inf:
        raise InputError(f"minutes={minutes} must be above 0 and finite")
    if searched := [name for name in ("model", "size") if name in fields]:
        raise InputError(
            f"{' and '.join(searched)}: are searched for; say which with {' and '.join(s + 's' for s in searched)}"
        )
    if train_minutes is not None and (lengths := [name for name in LENGTHS if fields.get(name) is not None]):
        raise RecipeError(f"train_minutes and {' and '.join(lengths)} both say how long to train: give one of them")
    models = (models,) if isinstance(models, str) else models  # whose letters are no models
    limits = Limits(latency_ms=latency_ms, train_minutes=train_minutes, memory_gb=memory_gb)
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    lasting = fields if train_minutes is None else fields | {"minutes": train_minutes}
    if recipe == "auto" and isinstance(recorded := recorded_settings(out).get("base"), str):
        recipe = recorded  # which was chosen by a measurement
    made = inputs.recipe_of(dataset, recipe, lasting)
    base = made.recipe
    inputs.refuse_untried(base)
    for reason in made.reasons:
        reporter.note(reason)
    # The recipe's own widths are of its own network.
    spec = tuple(pair for pair in base.spec if "spec" in fields or not pair.startswith("widths="))
    side, has_widths = facts(dataset).side, spec != base.spec
    candidates = enumerate_all(base.size, side, spec, models, sizes, widths, explicit=has_widths)

    def recipe_of(candidate: Candidate) -> Recipe:
        return inputs.recipe_of(dataset, made.base, lasting | inputs.options_of(candidate)).recipe

    settings = {
        "depth": dataset.name,
        "minutes": minutes,
        "limits": dataclasses.asdict(limits),
        "base": made.base if isinstance(made.base, str) else None,
        "candidates": [dataclasses.asdict(candidate) for candidate in candidates],
        "pictures": {name: len(split) for name, split in dataset.splits.items()},
        "fingerprint": fingerprint(dataset.classes, dataset.splits.values()),
        "recipe": dataclasses.asdict(base),
    }
    folder = folder_for("depth", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "a search")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes, {len(candidates)} candidates; searched in {folder}")
    lists = {"models": models, "sizes": sizes, "widths": widths}
    asked = {
        name: ",".join(value if isinstance(value, str) else f"{value:g}" for value in values)
        for name, values in lists.items()
        if values is not None
    }
    length = {} if train_minutes is None else {"minutes": f"{train_minutes:g}"}
    within = {name: f"{limit:g}" for name, limit in dataclasses.asdict(limits).items() if limit is not None}
    with stopping(folder):
        found = searching.run(dataset, candidates, recipe_of, limits, minutes, ledger, reporter.note)
        own = _by_name(made.base, folder) | fields
        numbers = {"settings": settings | {"data": dataset.name}, "base": str(own["recipe"]), **found}
        best = next(candidate for candidate in candidates if candidate.name == numbers["recommended"]["name"])
        numbers["commands"] = {
            "depth": inputs.command("depth", data, columns, {"minutes": f"{minutes:g}"}, within, asked, own),
            "recommended": inputs.command("train", data, columns, own | length | inputs.options_of(best)),
        }
        numbers = _saved(folder, numbers, searching.describe(numbers))
        frontier.write(folder, numbers)
    return numbers, folder


def _saved(folder: Path, numbers: dict[str, Any], description: Any) -> dict[str, Any]:
    """What an experiment found, as numbers.json holds it from now on."""
    numbers |= {"description": description, "created": timestamp(), "versions": versions()}
    write_json(folder / "numbers.json", numbers)
    saved: dict[str, Any] = json.loads(json.dumps(numbers, allow_nan=False))
    return saved


def _by_name(base: Recipe | str | Path, folder: Path) -> dict[str, Any]:
    """The recipe of an experiment as an option of a command, for which "auto" might choose another one."""
    if isinstance(base, Recipe):
        file = folder / "recipe.yaml"
        write_yaml(file, dataclasses.asdict(base))
        return {"recipe": file}
    return {"recipe": base}
