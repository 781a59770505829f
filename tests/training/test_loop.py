"""Training runs on small data: roles of the splits, stopping, repeating, interrupting and going on."""

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

import numpy as np
import pytest
import torch

from resvision import api
from resvision.classifier import Classifier
from resvision.data import sources
from resvision.data.pictures import DataSet, Split
from resvision.errors import DivergedError, Interrupted, RecipeError, RunError
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.training import RunFolder, roles
from resvision.training.checkpoint import load_checkpoint

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


def test_it_learns_and_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    made = api.train(stripes(128), validation=stripes(64, 1), epochs=6, out=tmp_path / "run", **FIXED)
    assert made.result["accuracy"] == 1.0
    files = {str(p.relative_to(made.folder)) for p in made.folder.rglob("*") if p.is_file()}
    assert files == {
        *("model.safetensors", "model.json", "result.json", "metrics.jsonl", "recipe.yaml", "data.json"),
        *("curves.png", "confusion.png", "README.md", "checkpoints/last.safetensors"),
    }
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


# ---- length and stopping ----


def test_max_steps_may_end_within_an_epoch(tmp_path: Path) -> None:
    made = api.train(stripes(128), validation=stripes(32, 1), max_steps=6, out=tmp_path / "run", **FIXED)
    assert (made.result["steps"], made.result["epochs"], made.result["stopped"]) == (6, 2, "steps")


def test_minutes_become_steps(tmp_path: Path) -> None:
    made = api.train(stripes(64), validation=stripes(32, 1), minutes=0.25, out=tmp_path / "run", **FIXED)
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


def test_with_train_and_test_a_part_of_train_chooses() -> None:
    data = three_splits()
    data = dataclasses.replace(data, splits={k: v for k, v in data.splits.items() if k != "val"})
    parts = roles.assign(data, Recipe(model="resnet8_cifar", size=8))
    assert (len(parts.train), len(parts.chooser or ()), parts.chooser_name) == (72, 8, "held")
    assert "8 of train are held back" in parts.describe()
    whole = roles.assign(data, Recipe(model="resnet8_cifar", size=8, holdout=0.0))
    assert (len(whole.train), whole.chooser, whole.watched) == (80, None, None)


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
    with pytest.raises(RecipeError, match="holdout=0 leaves nothing to choose by, and patience must choose"):
        Recipe(model="resnet8_cifar", size=8, holdout=0.0, patience=3)


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
    first = api.train(stripes(64), validation=stripes(32, 1), model="resnet8_cifar", minutes=0.3, out=tmp_path / "a")
    recipe = tmp_path / "a" / "recipe.yaml"
    second = api.train(stripes(64), validation=stripes(32, 1), recipe=recipe, out=tmp_path / "b")
    assert second.result["steps"] == first.result["steps"]
    assert recipe.read_text() == (tmp_path / "b" / "recipe.yaml").read_text()
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


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
    with pytest.raises(Interrupted, match="--resume") as caught:
        api.train(data, validation=validation, epochs=4, out=tmp_path / "cut", reporter=StopAt(step, number), **FIXED)
    assert caught.value.exit_status == 128 + number
    made = api.train(data, validation=validation, resume=tmp_path / "cut")
    assert made.result["steps"] == 12
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole, cut = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "cut"))
    for a, b in zip(whole, cut, strict=True):
        assert (a["epoch"], a["val_accuracy"]) == (b["epoch"], b["val_accuracy"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)


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


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import sys, numpy; from resvision import train; "
        "p = numpy.random.default_rng(0).integers(0, 255, (64, 8, 8), dtype='uint8'); "
        "train((p, [0, 1] * 32), model='resnet8_cifar', epochs=2, out=sys.argv[1], tensorboard=True, precision='fp32', "
        "channels_last=True, compile=False)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)
    read = (
        "import sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator; "
        "a = EventAccumulator(sys.argv[1]); a.Reload(); print([e.step for e in a.Scalars('train_loss')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", read, str(tmp_path / "run" / "tensorboard")], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[1, 2]"
