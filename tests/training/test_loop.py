"""Training runs on small data: roles of the splits, stopping, repeating, interrupting and going on."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import resvision
from resvision import api, inputs, recipes, zoo
from resvision.classifier import Classifier
from resvision.data import sources
from resvision.data.pictures import DataSet, Split
from resvision.data.reading import Batch
from resvision.errors import (
    DataError,
    DivergedError,
    Interrupted,
    MissingExtraError,
    RecipeError,
    RunError,
    StorageError,
)
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.report import plots
from resvision.training import RunFolder, engine, memory, optim, roles
from resvision.training.checkpoint import load_checkpoint
from resvision.training.history import State

FIXED: dict[str, Any] = {
    "model": "resnet8_cifar",
    "batch_size": 32,
    "precision": "fp32",
    "channels_last": True,
    "compile": False,
}


def stripes(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Noisy pictures of 8 x 8 with horizontal or vertical stripes: easy to learn, none like another."""
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 120, (count, 8, 8), dtype=np.uint8)
    labels = ["across" if i % 2 else "down" for i in range(count)]
    for picture, label in zip(pictures, labels, strict=True):
        (picture[::2] if label == "across" else picture[:, ::2])[:] += 100
    return pictures, labels


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Classifier.load(folder).network.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def three_splits() -> DataSet:
    whole = sources.from_arrays(stripes(160))
    split = whole.splits["train"]

    def part(start: int, stop: int) -> Split:
        return split.take(np.arange(start, stop))

    splits = {"train": part(0, 80), "val": part(80, 120), "test": part(120, 160)}
    return dataclasses.replace(whole, splits=splits)


# ---- a whole run ----


def test_it_learns_and_leaves_everything_in_its_folder(tmp_path: Path, drawn: None) -> None:
    made = api.train(stripes(128), validation=stripes(64, 1), epochs=6, out=tmp_path / "run", **FIXED)
    assert made.result["accuracy"] == 1.0
    files = {str(p.relative_to(made.folder)) for p in made.folder.rglob("*") if p.is_file()}
    assert files == {
        *("model.safetensors", "model.json", "result.json", "metrics.jsonl", "recipe.yaml", "data.json"),
        *("curves.png", "confusion.png", "README.md", "checkpoints/last.safetensors"),
    }
    assert all((made.folder / name).stat().st_size > 10_000 for name in ("curves.png", "confusion.png"))
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["val_accuracy"] == 1.0


def test_result_json_has_what_the_design_asks(tmp_path: Path) -> None:
    made = api.train(stripes(64), validation=stripes(32, 1), epochs=1, seed=5, out=tmp_path / "run", **FIXED)
    result = json.loads((made.folder / "result.json").read_text())
    assert result == made.result
    asked = (
        "model data classes split accuracy accuracy_ci95 loss ece epochs seconds images_per_second params macs seed "
    )
    asked += "device precision stopped versions"
    assert set(asked.split()) <= set(result)
    assert result["classes"] == ["across", "down"]
    assert (result["split"], result["seed"], result["stopped"], result["epochs"]) == ("val", 5, "epochs", 1)
    assert result["params"] == sum(p.numel() for p in made.classifier.network.parameters())


def test_the_saved_classifier_is_the_one_that_was_measured(tmp_path: Path) -> None:
    validation = stripes(64, 1)
    made = api.train(stripes(64), validation=validation, epochs=2, out=tmp_path / "run", **FIXED)
    again = api.evaluate(made.folder, validation)
    assert again["accuracy"] == made.result["accuracy"]
    assert again["nll"] == pytest.approx(made.result["loss"], abs=1e-6)


def test_adam(tmp_path: Path) -> None:
    made = api.train(stripes(128), validation=stripes(64, 1), epochs=6, optimizer="adam", out=tmp_path / "run", **FIXED)
    assert made.result["accuracy"] == 1.0
    assert RunFolder(made.folder).read_recipe().lr == 1e-3


# ---- recipes ----


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


MEASURED = {key: value for key, value in FIXED.items() if key not in ("model", "batch_size")}
MAY_BE_OPEN = {
    *("epochs", "max_steps", "minutes", "pretrained", "target_accuracy", "target_loss", "patience"),
    *("clip", "exits", "gate_rate", "first_size", "holdout", "keep"),
}


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_recipe_trains(tmp_path: Path, name: str) -> None:
    notes = Notes()
    made = api.train("digits", recipe=name, max_steps=3, out=tmp_path / "run", reporter=notes, **MEASURED)
    assert (made.result["steps"], made.result["stopped"]) == (3, "steps")
    assert math.isfinite(made.result["loss"])
    recorded = RunFolder(made.folder).read_recipe()
    filled = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(recorded)}
    assert {field for field, value in filled.items() if value is None} <= MAY_BE_OPEN
    assert (recorded.max_steps, recorded.steps, recorded.memory) == (3, 3, "full")
    assert made.classifier.provenance["recipe"] == dataclasses.asdict(recorded)
    if name == "auto":
        assert "recipe quick: does best within few epochs or minutes" in notes.lines
    again = api.train("digits", recipe=made.folder / "recipe.yaml", out=tmp_path / "again")
    assert same(weights(made.folder), weights(again.folder))


@pytest.mark.parametrize("name", ["quick", "small", "strong", "noisy", "plain"])
def test_recipes_learn(tmp_path: Path, name: str) -> None:
    fields = {**FIXED, "max_steps": 36, "balance": "none"}
    made = api.train(stripes(96), validation=stripes(64, 1), recipe=name, out=tmp_path / "run", **fields)
    assert made.result["accuracy"] > 0.9


def test_unequal_classes_are_noticed(tmp_path: Path) -> None:
    pictures, labels = stripes(96)
    few = [i for i, label in enumerate(labels) if label == "down" or i % 8 == 1]
    data = pictures[few], [labels[i] for i in few]
    notes = Notes()
    made = api.train(data, validation=stripes(32, 1), max_steps=12, out=tmp_path / "run", reporter=notes, **FIXED)
    assert "balance=weights: the classes have 12 to 48 pictures" in notes.lines
    assert RunFolder(made.folder).read_recipe().balance == "weights"
    sampled = api.train(
        data, validation=stripes(32, 1), max_steps=12, balance="sampling", out=tmp_path / "sampled", **FIXED
    )
    assert RunFolder(sampled.folder).read_recipe().balance == "sampling"
    assert not same(weights(made.folder), weights(sampled.folder))


def test_a_learning_rate_is_found_and_recorded(tmp_path: Path) -> None:
    notes = Notes()
    fields = {"lr": "auto", "max_steps": 24, "optimizer": "sgd", **FIXED}
    made = api.train(stripes(96), validation=stripes(64, 1), out=tmp_path / "run", reporter=notes, **fields)
    found = RunFolder(made.folder).read_recipe().lr
    assert isinstance(found, float)
    assert any(line.startswith(f"lr={found:g}: the loss was lowest at ") for line in notes.lines)
    assert made.result["accuracy"] > 0.9
    given = api.train(stripes(96), validation=stripes(64, 1), out=tmp_path / "given", **{**fields, "lr": found})
    assert same(weights(made.folder), weights(given.folder))  # finding it changed nothing else


@pytest.mark.parametrize("share", [0.9, 1e3])
def test_memory_is_chosen_by_what_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    fields = {**FIXED, "model": "resnet56_cifar", "max_steps": 1, "memory": "auto"}
    spec = dataclasses.replace(zoo.get("resnet56_cifar"), num_classes=2, in_channels=1)
    needed = memory.step_bytes(spec, 8, 32, "full")
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: round(share * needed / memory.USABLE))
    made = api.train(stripes(96), validation=stripes(32, 1), out=tmp_path / "run", **fields)
    assert RunFolder(made.folder).read_recipe().memory == ("full" if share > 1 else "checkpoint")


def test_pictures_grow_from_epoch_to_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    plain = engine.Engine.step

    def step(self: engine.Engine, batch: Batch, optimizer: torch.optim.Optimizer, step: int = 0) -> Any:
        if step:  # those before the run are for its speed
            seen.append(tuple(batch.squares.shape[1:3]))
        return plain(self, batch, optimizer, step)

    monkeypatch.setattr(engine.Engine, "step", step)
    fields = {**FIXED, "batch_size": 16, "size": 96, "first_size": 32, "epochs": 5, "crop_scale": 0.5}
    made = api.train(stripes(32), validation=stripes(32, 1), out=tmp_path / "run", **fields)
    recipe = RunFolder(made.folder).read_recipe()
    expected = [optim.picture_size(recipe, 2 * epoch, 2) for epoch in range(5)]
    assert expected == [32, 64, 64, 96, 96]  # 32, 53, 75, 96
    assert seen == [(size, size) for size in expected for _ in range(2)]
    assert made.classifier.preprocess.size == 96
    seen.clear()
    made = api.train(stripes(32), validation=stripes(32, 1), out=tmp_path / "one", **{**fields, "epochs": 1})
    assert seen == [(96, 96)] * 2


def test_a_step_of_which_nothing_could_be_read_is_passed_over(tmp_path: Path) -> None:
    """Also before the run, where its speed is measured."""
    pictures, labels = stripes(16)
    for split, count in (("train", 16), ("val", 4)):
        for i in range(count):
            (tmp_path / split / labels[i]).mkdir(parents=True, exist_ok=True)
            path = tmp_path / split / labels[i] / f"{i}.png"
            Image.fromarray(np.kron(pictures[i], np.ones((10, 10), dtype=np.uint8))).save(path)
            if split == "train" and i < 12:
                path.write_bytes(path.read_bytes()[:200])  # the header can be read, the rest cannot
    fields = {**FIXED, "batch_size": 2, "epochs": 2, "max_bad": 0.8, "size": 8, "accumulate": 2, "crop_scale": 0.5}
    made = api.train(tmp_path, recipe="plain", out=tmp_path / "run", **fields)
    assert len(made.result["unreadable"]) == 12
    assert made.result["steps"] == 16


# ---- length and stopping ----


def test_max_steps_may_end_within_an_epoch(tmp_path: Path) -> None:
    made = api.train(stripes(128), validation=stripes(32, 1), max_steps=6, out=tmp_path / "run", **FIXED)
    assert (made.result["steps"], made.result["epochs"], made.result["stopped"]) == (6, 2, "steps")


def test_minutes_become_steps(tmp_path: Path) -> None:
    made = api.train(stripes(64), validation=stripes(32, 1), minutes=0.1, out=tmp_path / "run", **FIXED)
    recipe = RunFolder(made.folder).read_recipe()
    assert recipe.steps == made.result["steps"] > 10
    assert made.result["stopped"] == "minutes"


def test_target_loss(tmp_path: Path) -> None:
    made = api.train(stripes(128), validation=stripes(32, 1), epochs=50, target_loss=0.4, out=tmp_path / "run", **FIXED)
    assert made.result["stopped"] == "target"
    assert made.result["epochs"] < 50
    rows = RunFolder(made.folder).read_metrics()
    assert rows[-1]["train_loss"] <= 0.4 < rows[-2]["train_loss"]


def test_target_accuracy_is_judged_by_a_held_back_part(tmp_path: Path) -> None:
    made = api.train(
        stripes(128), validation=stripes(32, 1), epochs=50, target_accuracy=0.9, out=tmp_path / "run", **FIXED
    )
    rows = RunFolder(made.folder).read_metrics()
    assert made.result["stopped"] == "target"
    assert rows[-1]["held_accuracy"] >= 0.9
    assert all("val_accuracy" not in row for row in rows)  # what is reported is not looked at on the way


def test_patience_keeps_the_best_epoch(tmp_path: Path) -> None:
    pictures, _ = stripes(96)
    noise = np.random.default_rng(0).choice(["across", "down"], 96).tolist()  # nothing can be learned
    made = api.train((pictures, noise), validation=stripes(32, 1), epochs=50, patience=2, out=tmp_path / "run", **FIXED)
    rows = RunFolder(made.folder).read_metrics()
    held = [(row["held_accuracy"], -row["held_loss"]) for row in rows]
    assert made.result["stopped"] == "patience"
    assert made.result["epoch_kept"] == held.index(max(held)) + 1 == len(rows) - 2


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("sgd", r"the loss is (nan|inf) at step \d+: lower --lr, or use --precision fp32"),
        ("muon", r"the network gives logits that are not finite after step 2: lower --lr, or use"),  # norms hide it
    ],
)
def test_a_diverging_run_names_its_step(tmp_path: Path, optimizer: str, message: str) -> None:
    fields = {"epochs": 30, "lr": 1e30, "warmup": 0.0, "optimizer": optimizer, "schedule": "constant", **FIXED}
    with pytest.raises(DivergedError, match=message):
        api.train(stripes(64), validation=stripes(32, 1), out=tmp_path / "r", **fields)


# ---- roles ----


def test_a_test_split_is_reported_and_validation_chooses() -> None:
    parts = roles.assign(three_splits(), Recipe(model="resnet8_cifar", size=8))
    assert (parts.report_name, len(parts.report), parts.chooser_name, len(parts.chooser or ())) == (
        "test",
        40,
        "val",
        40,
    )
    assert parts.watched is not None
    assert parts.watched[0] == "val"


def test_with_train_and_test_a_part_of_train_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    few = roles.assign(data, Recipe(model="resnet8_cifar", size=8))
    assert (len(few.train), few.chooser) == (80, None)  # 8 pictures do not tell epochs apart
    monkeypatch.setattr(roles, "HOLDOUT_LEAST", 8)
    parts = roles.assign(data, Recipe(model="resnet8_cifar", size=8))
    assert (len(parts.train), len(parts.chooser or ()), parts.chooser_name) == (72, 8, "held")
    assert "8 of train are held back to choose the epoch (--holdout)" in parts.describe()
    whole = roles.assign(data, Recipe(model="resnet8_cifar", size=8, holdout=0.0))
    assert (len(whole.train), whole.chooser, whole.watched) == (80, None, None)


def test_what_chooses_is_unknown_to_a_network_of_ones_own(tmp_path: Path) -> None:
    """Unless its run held back the same part of the training split, half of the test split chooses."""
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    scratch = roles.assign(data, Recipe(model="resnet8_cifar", size=8, exits="1"))
    assert (scratch.report_name, scratch.chooser_name, len(scratch.train)) == ("test", "held", 72)
    recipe = Recipe(model="resnet8_cifar", size=8, exits="1", pretrained=str(tmp_path))
    theirs = RunFolder(tmp_path)
    record = scratch.record(data.name, {})
    for case in ({"held_back": None}, {"held_back": record["held_back"][:4]}, {"name": "others"}):
        theirs.write_data(record | case)
        parts = roles.assign(data, recipe)
        assert (len(parts.train), parts.report_name, len(parts.report)) == (80, "half of test", 20)
        assert (parts.chooser_name, len(parts.chooser or ())) == ("test", 20)
        said = "20 of test choose the epoch and the exits' thresholds, 20 of half of test are reported"
        assert said in parts.describe()
        again = roles.assign(data, dataclasses.replace(recipe, pretrained="gone"), parts.record(data.name, {}))
        assert again.fingerprint() == parts.fingerprint()  # which is resumed, whatever became of the weights
    theirs.write_data(record | {"source": {"data": str(tmp_path / "photos")}, "held_back": None})
    for spelt in ("photos", "photos/", "./photos", str(tmp_path / "photos")):  # they are the same pictures
        with contextlib.chdir(tmp_path):
            parts = roles.assign(
                dataclasses.replace(data, name=spelt), dataclasses.replace(recipe, exits=None, patience=2)
            )
        assert parts.report_name == "half of test", spelt
    theirs.write_data(record)
    same = roles.assign(data, recipe)
    assert same.fingerprint() == scratch.fingerprint()
    patient = dataclasses.replace(recipe, exits=None, patience=2)
    for case, chooser in (({}, "held"), ({"held_back": None}, "test"), ({"held_back": None, "name": "others"}, "held")):
        theirs.write_data(record | case)
        assert roles.assign(data, patient).chooser_name == chooser
    theirs.data_file.unlink()  # as where a network was made of another one
    (tmp_path / "model.json").write_text(json.dumps({"provenance": {"data": data.name}}))
    assert roles.assign(data, patient).chooser_name == "test"


def test_pictures_that_the_weights_know_do_not_choose_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    monkeypatch.setattr(roles, "HOLDOUT_LEAST", 8)
    scratch = Recipe(model="resnet8_cifar", size=8)
    whole = roles.assign(data, dataclasses.replace(scratch, holdout=0.0))
    RunFolder(tmp_path).write_data(whole.record(data.name, {}))
    recipe = dataclasses.replace(scratch, pretrained=str(tmp_path))
    parts = roles.assign(data, recipe)
    assert (len(parts.train), parts.chooser, len(parts.report)) == (80, None, 40)
    for recorded in (parts, roles.assign(data, scratch)):  # a run goes on as it was begun
        again = roles.assign(data, recipe, recorded.record(data.name, {}))
        assert again.fingerprint() == recorded.fingerprint()


def test_a_class_of_one_picture_cannot_be_held_back() -> None:
    data = three_splits()
    labels = data.splits["train"].labels
    one = data.splits["train"].take(np.array([np.argmin(labels), *np.flatnonzero(labels)]))
    data = dataclasses.replace(data, splits={"train": one, "test": data.splits["test"]})
    recipe = Recipe(model="resnet8_cifar", size=8, holdout=0.1)
    with pytest.raises(DataError, match=r"give the splits; or --holdout 0 holds nothing back$"):
        roles.assign(data, recipe)
    with pytest.raises(DataError, match=r"give the splits$"):  # stopping early needs a part
        roles.assign(data, dataclasses.replace(recipe, patience=2))


def test_a_split_without_a_role_is_named() -> None:
    parts = roles.assign(three_splits(), Recipe(model="resnet8_cifar", size=8, holdout=0.0))
    assert ", val is not used, " in parts.describe()
    assert "not used" not in roles.assign(three_splits(), Recipe(model="resnet8_cifar", size=8)).describe()


def test_looking_at_pictures_takes_a_tenth_of_the_time() -> None:
    data = three_splits()
    for train, val, most in ((400, 300, 120), (80, 300, 100), (400, 40, 40), (8000, 4000, 1000)):
        splits = {name: data.splits[name].take(np.arange(n) % 40) for name, n in (("train", train), ("val", val))}
        watched = roles.assign(dataclasses.replace(data, splits=splits), Recipe(model="resnet8_cifar", size=8)).watched
        assert watched is not None
        assert (watched[0], len(watched[1])) == ("val", most)


def test_with_train_and_validation_nothing_is_held_back_unless_it_must_choose() -> None:
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "test"})
    assert roles.assign(data, Recipe(model="resnet8_cifar", size=8)).chooser is None
    parts = roles.assign(data, Recipe(model="resnet8_cifar", size=8, patience=3))
    assert (parts.report_name, parts.chooser_name, len(parts.chooser or ())) == ("val", "held", 8)
    names = {parts.train.pictures.content(i) for i in range(len(parts.train))}
    assert parts.chooser is not None
    assert not names & {parts.chooser.pictures.content(i) for i in range(8)}


def test_choosing_without_anything_to_choose_by_is_refused() -> None:
    data, recipe = three_splits(), Recipe(model="resnet8_cifar", size=8, holdout=0.0)
    without_val = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    for fields, word in (({"patience": 3}, "patience"), ({"keep": "best"}, "keep=best"), ({"exits": "1"}, "exits")):
        with pytest.raises(RecipeError, match=f"holdout=0 leaves nothing to choose by, and {word} must choose"):
            roles.assign(without_val, dataclasses.replace(recipe, **fields))
        parts = roles.assign(data, dataclasses.replace(recipe, **fields))
        assert (parts.chooser_name, len(parts.chooser or ()), len(parts.train)) == ("val", 40, 80)
    assert roles.assign(data, recipe).chooser is None  # the last epoch is kept
    with pytest.raises(RecipeError, match=r"holdout=0\.3: .* has a val split, which chooses"):
        roles.assign(data, dataclasses.replace(recipe, holdout=0.3))


def test_where_the_last_epoch_is_kept_nothing_is_held_back_for_it() -> None:
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    parts = roles.assign(data, Recipe(model="resnet8_cifar", size=8, keep="last"))
    assert (len(parts.train), parts.chooser) == (80, None)


def test_a_hash_split_is_recorded(tmp_path: Path) -> None:
    made = api.train(stripes(100), epochs=1, out=tmp_path / "run", **FIXED)
    record = json.loads((made.folder / "data.json").read_text())
    assert len(record["validation"]) == record["counts"]["val"] == 20
    assert record["counts"]["train"] == 80


# ---- determinism, repeating, resuming ----


def test_the_same_run_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        api.train(stripes(96), validation=stripes(32, 1), epochs=2, out=tmp_path / name, **FIXED)
    api.train(stripes(96), validation=stripes(32, 1), epochs=2, seed=1, out=tmp_path / "c", **FIXED)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_recorded_recipe_repeats_the_run(tmp_path: Path) -> None:
    """Also when the first run measured its precision and turned minutes into steps."""
    first = api.train(stripes(64), validation=stripes(32, 1), model="resnet8_cifar", minutes=0.2, out=tmp_path / "a")
    recipe = tmp_path / "a" / "recipe.yaml"
    second = api.train(stripes(64), validation=stripes(32, 1), recipe=recipe, out=tmp_path / "b")
    assert second.result["steps"] == first.result["steps"]
    assert recipe.read_text() == (tmp_path / "b" / "recipe.yaml").read_text()
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_what_was_measured_gives_way_to_what_is_asked_for() -> None:
    """A recorded compile=True was the fastest then, and excludes memory='checkpoint', which a person wants now."""
    data = sources.from_arrays(stripes(64), stripes(32, 1), None)
    compiled = Recipe(model="resnet8_cifar", size=16, epochs=1, compile=True, memory="full")
    asked = inputs.recipe_of(data, compiled, {"memory": "checkpoint"}).recipe
    assert (asked.memory, asked.compile) == ("checkpoint", None)
    with pytest.raises(RecipeError, match="exclude each other"):
        inputs.recipe_of(data, compiled, {"memory": "checkpoint", "compile": True})


def test_sweeps_over_arrays_train(tmp_path: Path) -> None:
    for number, lr in enumerate(np.logspace(-2, -1, 2)):
        fields = {**FIXED, "max_steps": np.int64(1), "lr": lr}
        made = api.train(stripes(64), validation=stripes(32, 1), out=tmp_path / str(number), **fields)
        assert RunFolder(made.folder).read_recipe().lr == pytest.approx(float(lr))


def test_only_what_was_begun_can_be_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(RunError, match=r"photos exists already: give another --out$"):
        RunFolder.create(tmp_path / "photos", "train")
    (tmp_path / "photos" / "recipe.yaml").write_text("")
    with pytest.raises(RunError, match=r"give another --out, or go on with --resume .*photos$"):
        RunFolder.create(tmp_path / "photos", "train")


def test_a_recorded_recipe_counts_its_epochs_anew(tmp_path: Path) -> None:
    fields = {**FIXED, "batch_size": 16, "lr": 0.1}
    first = api.train(stripes(64), validation=stripes(32, 1), recipe="plain", epochs=2, out=tmp_path / "a", **fields)
    assert first.result["steps"] == 8
    recipe, notes = tmp_path / "a" / "recipe.yaml", Notes()
    more = api.train(stripes(160), validation=stripes(32, 1), recipe=recipe, out=tmp_path / "b")
    assert (more.result["steps"], more.result["epochs"]) == (20, 2)
    larger = api.train(
        stripes(64), validation=stripes(32, 1), recipe=recipe, batch_size=32, out=tmp_path / "c", reporter=notes
    )
    assert larger.result["steps"] == 4
    assert RunFolder(tmp_path / "c").read_recipe().lr == pytest.approx(0.2)
    assert "lr=0.2: scaled from batches of 16 to 32" in notes.lines


def test_a_reported_picture_that_cannot_be_decoded_costs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, labels = stripes(32)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "data" / ("train" if index < 24 else "test") / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(picture, np.ones((10, 10), dtype=np.uint8))).save(folder / f"{index}.png")
    whole = sorted((tmp_path / "data" / "test").rglob("*.png"))[0]
    content = whole.read_bytes()
    whole.write_bytes(content[:200])  # the header can be read, the rest cannot
    fields = {**FIXED, "batch_size": 8, "epochs": 1, "size": 8, "holdout": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr("resvision.data.loader.MEMORY_BYTES", 0)  # so many that they are not kept, and not read before
        again = f"resvision train --resume {tmp_path / 'a'} then measures what was trained"
        with pytest.raises(DataError, match=f"{whole.name}.*an evaluation leaves nothing out.*{again}"):
            api.train(tmp_path / "data", recipe="plain", out=tmp_path / "a", **fields)
    whole.write_bytes(content)
    assert resvision.evaluate(tmp_path / "a", tmp_path / "data")["pictures"] == 8
    assert api.train(resume=tmp_path / "a").result["pictures"] == {"train": 24, "test": 8}
    for damaged in (content[:200], b""):
        whole.write_bytes(damaged)
        begun = Notes()
        with pytest.raises(DataError, match=f"{whole.name}.*an evaluation leaves nothing out"):  # before all work
            api.train(tmp_path / "data", recipe="plain", out=tmp_path / "b", reporter=begun, **fields)
        assert not any("steps of" in line for line in begun.lines)


class StopAt(Reporter):
    """Sends this process a signal, as Ctrl-C does, after a number of steps."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.at, self.number = step, number

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if done == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("step", "number"), [(5, signal.SIGINT), (6, signal.SIGTERM), (2, signal.SIGINT)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(tmp_path: Path, step: int, number: int) -> None:
    """Three steps an epoch: within an epoch and at its end."""
    data, validation = stripes(96), stripes(32, 1)
    api.train(data, validation=validation, epochs=4, out=tmp_path / "whole", **FIXED)
    with pytest.raises(Interrupted, match="resume=") as caught:
        api.train(data, validation=validation, epochs=4, out=tmp_path / "cut", reporter=StopAt(step, number), **FIXED)
    assert caught.value.exit_status == 128 + number
    made = api.train(data, validation=validation, resume=tmp_path / "cut")
    assert made.result["steps"] == 12
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole, cut = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "cut"))
    for a, b in zip(whole, cut, strict=True):
        assert (a["epoch"], a["val_accuracy"]) == (b["epoch"], b["val_accuracy"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)


EVERYTHING: dict[str, Any] = {
    "trivial_augment": True,
    "flip": True,
    "erase": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "drop_path": 0.3,
    "ema": 0.9,
    "clip": 1.0,
    "accumulate": 2,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize(
    "fields",
    [
        {**EVERYTHING, "optimizer": "muon"},
        {**EVERYTHING, "optimizer": "lamb", "memory": "checkpoint"},
        {**EVERYTHING, "optimizer": "adamw", "loss": "bce", "repeats": 2, "keep": "best", "holdout": 0.3},
        {"optimizer": "sgd", "balance": "sampling", "loss": "gce", "ema": 0.5, "schedule": "steps", "lr": "auto"},
        {"optimizer": "muon", "first_size": 8, "size": 32, "crop_scale": 0.5},
    ],
    ids=["muon", "lamb", "adamw", "sgd", "growing"],
)
@pytest.mark.parametrize("step", [4, 6])
def test_an_interrupted_run_goes_on_with_everything_that_is_random_or_averaged(
    tmp_path: Path, fields: dict[str, Any], step: int
) -> None:
    """Within an epoch and at its end, bit for bit: weights, their average, metrics."""
    data, validation = stripes(96), stripes(32, 1)
    fields = {"max_steps": 11, **FIXED, **fields}
    if "holdout" in fields:
        data = stripes(137)  # of which as many are left
    api.train(data, validation=validation, out=tmp_path / "whole", **fields)
    with pytest.raises(Interrupted):
        api.train(data, validation=validation, out=tmp_path / "cut", reporter=StopAt(step), **fields)
    made = api.train(data, validation=validation, resume=tmp_path / "cut")
    assert made.result["steps"] == 11
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole, cut = (load_file(RunFolder(tmp_path / name).last_checkpoint) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert same(whole, cut)
    rows = [RunFolder(tmp_path / name).read_metrics() for name in ("whole", "cut")]
    for a, b in zip(*rows, strict=True):
        assert [key for key in a if "accuracy" in key and a[key] != b[key]] == []
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)


def test_what_is_evaluated_and_kept_is_the_average(tmp_path: Path) -> None:
    validation = stripes(64, 1)
    made = api.train(stripes(96), validation=validation, max_steps=9, ema=0.9, out=tmp_path / "run", **FIXED)
    tensors = load_file(RunFolder(made.folder).last_checkpoint)
    kept = weights(made.folder)
    assert same({key: tensors[f"average.{key}"] for key in kept}, kept)
    assert not same({key: tensors[f"model.{key}"] for key in kept}, kept)
    row = RunFolder(made.folder).read_metrics()[-1]
    assert row["val_accuracy"] == made.result["accuracy"]
    assert row["val_loss"] == pytest.approx(made.result["loss"], rel=1e-5)
    assert api.evaluate(made.folder, validation)["nll"] == pytest.approx(made.result["loss"], abs=1e-6)
    plain = api.train(stripes(96), validation=validation, max_steps=9, ema=0.0, out=tmp_path / "plain", **FIXED)
    # An average follows the weights and changes nothing of them.
    assert same({key: tensors[f"model.{key}"] for key in kept}, weights(plain.folder))
    assert not [key for key in load_file(RunFolder(plain.folder).last_checkpoint) if key.startswith("average.")]


def test_what_a_network_may_know_and_chooses_all_the_same_is_said(tmp_path: Path) -> None:
    api.train("digits", epochs=1, holdout=0.0, out=tmp_path / "first", **FIXED)
    notes = Notes()
    fields = {"pretrained": tmp_path / "first", "exits": "1", "freeze_trunk": True, "epochs": 1}
    given = {key: value for key, value in FIXED.items() if key != "model"}
    api.train("digits", holdout=0.1, out=tmp_path / "second", reporter=notes, **fields, **given)
    assert any("held back" in line and "may know them: rather leave out --holdout" in line for line in notes.lines)
    api.train("digits", epochs=1, holdout=0.1, out=tmp_path / "third", **FIXED)
    alike = Notes()
    again = fields | {"pretrained": str(tmp_path / "third")}
    api.train("digits", holdout=0.1, out=tmp_path / "fourth", reporter=alike, **again, **given)
    assert any("held back" in line for line in alike.lines)
    assert not any("may know them" in line for line in alike.lines)


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        api.train(stripes(96), epochs=4, out=tmp_path / "run", reporter=StopAt(2), **FIXED)
    with pytest.raises(RunError, match="the data have changed"):
        api.train(stripes(64), resume=tmp_path / "run")
    with pytest.raises(RecipeError, match="leave out lr"):
        api.train(stripes(96), resume=tmp_path / "run", lr=0.2)
    with pytest.raises(RunError, match="arrays in memory"):
        api.train(resume=tmp_path / "run")


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.append(api.train(stripes(64), epochs=1, out=tmp_path / "run", **FIXED))
    )
    thread.start()
    thread.join()
    assert math.isfinite(made[0].result["loss"])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    network = torch.nn.Linear(1, 1)
    with pytest.raises(RunError, match="there is no checkpoint"):
        load_checkpoint(path, network)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match="not a checkpoint of this run"):
        load_checkpoint(path, network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
    for strange in ("optimizer.7.momentum_buffer", "optimizer.x.momentum_buffer", "optimizer."):
        save_file(tensors | {strange: torch.zeros(1)}, path, metadata={"progress": "{}"})
        with pytest.raises(RunError, match="not a checkpoint of this run"):
            load_checkpoint(path, network, optimizer)
    save_file(tensors, path, metadata={"progress": "[" * 100_000})
    with pytest.raises(RunError, match="not a checkpoint of this run"):
        load_checkpoint(path, network)
    for progress in ({}, {"sums": {}, "strange": 1}, {"sums": {"strange": 1}}):
        with pytest.raises(RunError, match="the checkpoint is not of a run of this program"):
            State.restored(progress)


def test_a_picture_that_is_cut_off_is_named_before_the_first_epoch(tmp_path: Path) -> None:
    """Its header is whole; an evaluation would notice only when an epoch was done."""
    array, labels = stripes(80)
    for index, (picture, label) in enumerate(zip(array, labels, strict=True)):
        folder = tmp_path / "data" / ("val" if index >= 60 else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).resize((32, 32)).save(folder / f"{index}.png")
    cut_off = next((tmp_path / "data" / "val").rglob("*.png"))
    cut_off.write_bytes(cut_off.read_bytes()[:200])
    steps: list[int] = []

    class Counts(Reporter):
        def step(self, done: int, *_: float) -> None:
            steps.append(done)

    with pytest.raises(DataError, match=cut_off.name):
        api.train(tmp_path / "data", epochs=3, out=tmp_path / "run", reporter=Counts(), **FIXED)
    assert steps == []
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_leaves_the_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise OSError("Python.h: no such file")

    monkeypatch.setattr(engine, "_compiled", failing)
    for name in ("COMPILE_FROM_SECONDS", "COMPILE_FROM_SECONDS_CUDA"):
        monkeypatch.setattr(engine, name, 0.0)
    monkeypatch.setattr(engine, "can_compile", lambda _: True)
    said: list[str] = []

    class Listens(Reporter):
        def note(self, text: str) -> None:
            said.append(text)

    fields = {key: value for key, value in FIXED.items() if key != "compile"}
    made = api.train(stripes(64), epochs=1, out=tmp_path / "run", reporter=Listens(), **fields, lr=0.1)
    assert made.result["epochs"] == 1
    assert any("torch.compile fails here (OSError)" in line for line in said)
    monkeypatch.setattr(engine, "can_compile", lambda _: False)
    with pytest.raises(RecipeError, match="compile=True: there is no C\\+\\+ compiler"):
        api.train(stripes(64), epochs=1, out=tmp_path / "other", compile=True, **fields)


def test_what_goes_on_with_arrays_is_a_call(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_data({"source": {}})
    assert run.goes_on().startswith("resvision.train(..., resume=")
    run.write_data({"source": {"data": "digits"}})
    assert run.goes_on() == f"resvision train --resume {tmp_path}"


def test_a_run_that_has_ended_is_not_gone_on_with(tmp_path: Path) -> None:
    made = api.train(stripes(64), epochs=1, out=tmp_path / "r", **FIXED)
    with pytest.raises(RunError, match=f"has ended.*--pretrained {made.folder} begins with what it learnt"):
        api.train(stripes(64), resume=made.folder)


@pytest.mark.parametrize("stops", [KeyboardInterrupt(), StorageError("disk: no space left")])
def test_what_stops_the_plots_leaves_the_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: BaseException
) -> None:
    def stop(*_: Any) -> None:
        raise stops

    monkeypatch.setattr(plots, "confusion", stop)
    notes = Notes()
    expected = (
        pytest.raises(Interrupted, match="holds the classifier and its figures")
        if isinstance(stops, KeyboardInterrupt)
        else contextlib.nullcontext()
    )
    with expected:
        api.train(stripes(64), epochs=1, out=tmp_path / "r", reporter=notes, **FIXED)
    assert ("not all plots could be written: disk: no space left" in notes.lines) == isinstance(stops, StorageError)
    assert Classifier.load(tmp_path / "r").metrics["accuracy"] >= 0


def test_weights_that_are_not_finite_make_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is watched, so that nothing before the end looks at what the last step did to the weights."""
    step = engine.Engine.step

    def breaks(self: Any, *arguments: Any) -> Any:
        made = step(self, *arguments)
        with torch.no_grad():
            self.network.fc.weight.fill_(math.nan)
        return made

    monkeypatch.setattr(engine.Engine, "step", breaks)
    root = picture_folder(tmp_path / "set")
    (root / "val").rename(root / "test")
    with pytest.raises(DivergedError, match="weights are not finite after step 1: lower --lr"):
        api.train(root, out=tmp_path / "r", max_steps=1, **FIXED | {"batch_size": 4})
    assert not (tmp_path / "r" / "model.json").exists()


def test_a_missing_package_is_named_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="--tensorboard"):
        api.train(stripes(64), epochs=1, out=tmp_path / "run", tensorboard=True, **FIXED)
    assert not (tmp_path / "run").exists()


def test_a_few_pictures_in_parts_of_more_than_one(tmp_path: Path) -> None:
    """13 pictures in 4 parts are 4, 3, 3 and 3; features of 1 x 1 want two at least."""
    pictures = np.random.default_rng(0).integers(0, 256, (13, 32, 32), dtype=np.uint8)
    made = api.train(
        (pictures, ["a", "b"] * 6 + ["a"]),
        validation=(pictures[:4], ["a", "b"] * 2),
        recipe="plain",
        size=32,
        accumulate=4,
        max_steps=1,
        out=tmp_path / "run",
        **FIXED | {"model": "resnet18", "batch_size": 128},
    )
    assert made.result["steps"] == 1


def test_a_batch_of_which_too_few_can_be_read_is_passed_over(tmp_path: Path) -> None:
    """One picture of 1 x 1 features says nothing to a batch norm; two of four parts' pictures go as one part."""
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    for index, picture in enumerate(np.kron(pictures, np.ones((1, 3, 3), dtype=np.uint8))):
        for split in ("train", "val"):
            path = tmp_path / "data" / split / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    for index in (0, 1, 2, 3, 4, 5, 6):  # their headers can be read, the rest cannot
        path = tmp_path / "data" / "train" / "ab"[index % 2] / f"{index:02}.png"
        path.write_bytes(path.read_bytes()[:200])
    fields = FIXED | {"model": "resnet18", "batch_size": 4, "accumulate": 2, "epochs": 6, "max_bad": 0.9, "size": 32}
    made = api.train(tmp_path / "data", recipe="plain", out=tmp_path / "run", **fields)
    assert len(made.result["unreadable"]) == 7
    assert made.result["steps"] == 18
    assert math.isfinite(made.result["loss"])


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import sys, numpy; from resvision import train; "
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator; "
        "p = numpy.random.default_rng(0).integers(0, 255, (64, 8, 8), dtype='uint8'); "
        "train((p, [0, 1] * 32), model='resnet8_cifar', epochs=2, out=sys.argv[1], tensorboard=True, precision='fp32', "
        "channels_last=True, compile=False); a = EventAccumulator(sys.argv[1] + '/tensorboard'); a.Reload(); "
        "print([e.step for e in a.Scalars('train_loss')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[2, 4]"


def picture_folder(root: Path, count: int = 24) -> Path:
    """Stripes as files, two classes, half as many in val."""
    for split, number in (("train", count), ("val", count // 2)):
        for index, (pixels, label) in enumerate(zip(*stripes(number, seed=len(split)), strict=True)):
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(folder / f"{index:03d}.png")
    return root


def test_a_class_that_loses_all_of_its_pictures_is_an_error(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "set")
    one = next((root / "train").iterdir())
    for file in one.iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"no training picture of {one.name} can be read; 12 unreadable"):
        api.train(root, out=tmp_path / "r", epochs=1, max_bad=0.9, **FIXED)


def test_pictures_that_an_earlier_part_of_the_run_skipped_are_reported(tmp_path: Path) -> None:
    """Whole headers and broken bodies show when they are decoded, here before the stop and after it no more."""
    root = picture_folder(tmp_path / "set")
    for file in root.rglob("*.png"):  # too large to be held in memory from the beginning
        Image.open(file).resize((80, 80)).save(file)
    broken = next((root / "train").rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    fields = FIXED | {"model": "resnet18", "spec": ("widths=[8,8,8,8]",), "batch_size": 12, "size": 32}
    with pytest.raises(Interrupted, match="stopped after step"):
        api.train(root, out=tmp_path / "r", epochs=2, max_bad=0.1, reporter=StopAt(2), **fields)
    broken.write_bytes(whole)
    made = api.train(resume=tmp_path / "r")
    assert made.result["unreadable"] == {str(broken.relative_to(root)): ANY}


def test_resuming_with_other_readable_pictures_is_refused(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "set")
    broken = next((root / "train").rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    fields = FIXED | {"batch_size": 4, "epochs": 3, "max_bad": 0.5}
    with pytest.raises(Interrupted, match="stopped after step"):
        api.train(root, out=tmp_path / "r", reporter=StopAt(2), **fields)
    broken.write_bytes(whole)
    name = str(broken.relative_to(root))
    with pytest.raises(RunError, match=f"other training pictures can be read than .*{name}.*make them what they were"):
        api.train(resume=tmp_path / "r")
    broken.write_bytes(b"no picture")
    assert api.train(resume=tmp_path / "r").result["unreadable"] == {name: ANY}


def test_a_signal_at_the_very_end_stops_before_the_last_evaluation(tmp_path: Path) -> None:
    fields = FIXED | {"max_steps": 3, "reporter": StopAt(3, signal.SIGTERM)}
    with pytest.raises(Interrupted, match="stopped after step 3") as stopped:
        api.train(stripes(64), validation=stripes(32, 1), out=tmp_path / "r", **fields)
    assert stopped.value.exit_status == 143
    made = api.train(stripes(64), validation=stripes(32, 1), resume=tmp_path / "r")
    assert made.result["steps"] == 3


def test_where_the_data_are_now_is_remembered(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "set")
    rows = [f"{file.relative_to(root)},{file.parent.name},{file.parts[-3]}" for file in sorted(root.rglob("*.png"))]
    (root / "all.csv").write_text("\n".join(["file,label,split", *rows]))
    columns = sources.Columns(path="file", label="label", split="split")
    fields = FIXED | {"batch_size": 4, "epochs": 3}
    with pytest.raises(Interrupted):
        api.train(root / "all.csv", columns=columns, out=tmp_path / "r", reporter=StopAt(2), **fields)
    moved = root.rename(tmp_path / "moved") / "all.csv"
    with pytest.raises(Interrupted):  # with the columns that it began with
        api.train(moved, resume=tmp_path / "r", reporter=StopAt(4))
    assert api.train(resume=tmp_path / "r").result["epochs"] == 3


def test_validation_beside_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation= goes with arrays in memory"):
        api.train(picture_folder(tmp_path / "set"), validation=stripes(8), out=tmp_path / "r")
    with pytest.raises(DataError, match="classes= goes with arrays in memory"):
        api.train("digits", classes=["a", "b"], out=tmp_path / "r")


def test_a_recipe_must_say_how_long() -> None:
    with pytest.raises(RecipeError, match="does not say how long to train: give epochs, minutes or max_steps"):
        api.train("digits", recipe=Recipe(model="resnet8_cifar", size=8))
    with pytest.raises(RecipeError, match="steps follow from the length"):
        api.train("digits", steps=100)
