"""Plots are drawn whatever the classes and folders are called."""

from pathlib import Path

import pytest
from PIL import Image

from resvision.report import plots


@pytest.mark.parametrize("names", [("under_$50_to_$100", "over $100"), ("a_b^c", r"back\slash"), ("猫", "$")])
def test_names_are_no_formulas(tmp_path: Path, names: tuple[str, str]) -> None:
    plots.confusion(tmp_path / "c.png", [[3, 1], [0, 2]], names, f"pictures of {names[0]} and {names[1]}")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300


def test_the_split_that_chooses_is_drawn(tmp_path: Path) -> None:
    drawn = {}
    for watched in ("test", "other"):
        rows = [
            {"epoch": n, "train_loss": 1 / n, "train_accuracy": 0.5}
            | {f"{watched}_loss": 0.9, f"{watched}_accuracy": 0.6}
            for n in (1, 2, 3)
        ]
        plots.curves(tmp_path / "curves.png", rows, "exits chosen by half of a split")
        drawn[watched] = (tmp_path / "curves.png").read_bytes()
    assert drawn["test"] != drawn["other"]
