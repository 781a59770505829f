"""The ledger of accuracies: what it skips, what it averages, and that the docs say what it holds."""

import copy
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def accuracy() -> Iterator[ModuleType]:
    """The script benchmarks/accuracy.py as a module."""
    specification = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["accuracy"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["accuracy"]


def test_the_docs_say_what_the_ledger_holds(accuracy: ModuleType) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for name, line in accuracy.summary(accuracy.ledger()).items():
        assert f"{100 * line['mean']:.2f}%" in text, name
        if line["seeds"] > 1:
            assert f"({100 * line['least']:.2f}, {100 * line['most']:.2f})" in text, name


def test_runs_on_other_devices_are_means_of_their_own(accuracy: ModuleType) -> None:
    row = next(row for row in accuracy.ledger() if row["line"] == "imagenette-5")
    rows = [
        row | {"seed": seed, "accuracy": value, "device": device, "created": str(seed)}
        for seed, (value, device) in enumerate([(0.5, "cpu (x)"), (0.6, "NVIDIA H200"), (0.8, "NVIDIA H200")])
    ]
    found = accuracy.summary(rows)
    assert {name: (line["mean"], line["seeds"]) for name, line in found.items()} == {
        "imagenette-5": (0.5, 1),
        "imagenette-5 (cuda)": (pytest.approx(0.7), 2),
    }


def test_what_is_there_is_not_run_again(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in accuracy.ledger() if row["line"] == "imagenette-5" and row["seed"] == 0)
    cases: list[tuple[str, str, int, bool]] = [
        ("cpu", row["device"], 0, True),
        ("cpu", row["device"], 1, False),
        ("cuda", row["device"], 0, False),
        ("cuda", "NVIDIA H200", 0, True),
        ("cpu", "NVIDIA H200", 0, False),
    ]
    for here, there, seed, expected in cases:
        monkeypatch.setattr(accuracy, "device", lambda here=here: type("Device", (), {"type": here}))
        assert accuracy.done(row | {"device": there}, "imagenette-5", seed) == expected
    assert not accuracy.done(row | {"fields": {"size": 64, "epochs": 5}}, "imagenette-5", 0)


def test_a_recipe_that_has_changed_is_run_again(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "device", lambda: type("Device", (), {"type": "cpu"}))
    newest = {row["line"]: row for row in accuracy.ledger() if row["device"].startswith("cpu")}
    changed = {name: accuracy.changed(row, accuracy.LINES[name]) for name, row in newest.items()}
    assert {name for name, fields in changed.items() if fields} == set(), "these lines want to be run again"
    row = newest["imagenette-5"]
    assert accuracy.done(row, "imagenette-5", row["seed"])
    quick = accuracy.RECIPES["quick"]
    monkeypatch.setitem(accuracy.RECIPES, "quick", lambda size: quick(size) | {"crop_scale": 0.2, "erase": 0.1})
    assert accuracy.changed(row, accuracy.LINES["imagenette-5"]) == ["crop_scale", "erase"]
    assert not accuracy.done(row, "imagenette-5", row["seed"])
    monkeypatch.setitem(accuracy.RECIPES, "quick", lambda size: {k: v for k, v in quick(size).items() if k != "warmup"})
    assert accuracy.changed(row, accuracy.LINES["imagenette-5"]) == ["warmup"]
    assert not accuracy.done(row | {"recipe": "plain"}, "imagenette-5", row["seed"])
    assert (
        accuracy.place("imagenette-5", 0)
        != accuracy.place("imagenette-5", 1)
        != accuracy.place("fashion-mnist-12min", 1)
    )


def test_growing_pictures_cost_less(accuracy: ModuleType) -> None:
    row = next(row for row in accuracy.ledger() if row["line"] == "imagenette-5")
    full = copy.deepcopy(row)
    del full["whole_recipe"]["first_size"]
    assert accuracy.training_macs(full) == pytest.approx(3 * row["macs"] * row["steps"] * 96)
    assert 0.75 < accuracy.training_macs(row) / accuracy.training_macs(full) < 0.95


def test_only_runs_of_one_recipe_are_averaged(accuracy: ModuleType) -> None:
    def row(seed: int, accuracy_: float, created: str, **recipe: Any) -> dict[str, Any]:
        made = copy.deepcopy(next(r for r in accuracy.ledger() if r["line"] == "imagenette-5"))
        made["whole_recipe"] |= recipe
        return made | {"seed": seed, "accuracy": accuracy_, "created": created}

    rows = [row(0, 0.5, "2026-01-01", lr=0.5), row(0, 0.8, "2026-01-02"), row(1, 0.9, "2026-01-03", compile=False)]
    found = accuracy.summary(rows)["imagenette-5"]
    assert (found["seeds"], found["left_out"], found["mean"]) == (2, 1, pytest.approx(0.85))
