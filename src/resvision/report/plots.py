"""curves.png, confusion.png, exits.png, compress.png: epochs, mistakes, early exits and compression as pictures."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resvision.files import replacing

TRAIN, HELD = "#4c72b0", "#dd8452"
# Fonts with the characters of Chinese, Japanese and Korean, as systems bring them along.
WIDE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "PingFang HK", "Hiragino Sans GB", "Arial Unicode MS"),
)
MOST_NUMBERS = 20  # classes up to which every cell of the confusion matrix shows its count
MOST_NAMES = 50  # classes up to which the axes show their names

SPLIT_TITLES = {"held": "held-back part of train", "val": "validation", "test": "half of test"}


@contextlib.contextmanager
def in_any_script() -> Iterator[None]:
    """Lets plots show names in every script that the machine has a font for; what it has none for are boxes."""
    installed = {font.name for font in fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def literal(text: str) -> str:
    """A name for a plot: of two dollars matplotlib would make a formula."""
    return text.replace("$", r"\$")


@in_any_script()
def curves(path: Path, history: list[dict[str, Any]], title: str) -> None:
    """Loss and accuracy by epoch, training and the split that was watched.

    Args:
        path: of the PNG.
        history: rows of metrics.jsonl.
        title: above the plot.
    """
    watched = next((name for name in SPLIT_TITLES if f"{name}_loss" in history[0]), None)
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(literal(title))
    left, right = figure.subplots(1, 2)
    for axes, kind in ((left, "loss"), (right, "accuracy")):
        _line(axes, history, f"train_{kind}", "training (augmented)", TRAIN)
        if watched is not None:
            _line(axes, history, f"{watched}_{kind}", SPLIT_TITLES[watched], HELD)
        axes.set_xlabel("epoch")
        axes.set_ylabel(kind)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    _save(figure, path)


def _line(axes: Axes, history: list[dict[str, Any]], key: str, label: str, colour: str) -> None:
    marker = "o" if len(history) <= 30 else None
    axes.plot(
        [row["epoch"] for row in history], [row[key] for row in history], marker=marker, ms=3, label=label, color=colour
    )


@in_any_script()
def confusion(path: Path, counts: list[list[int]], classes: tuple[str, ...], title: str) -> None:
    """The confusion matrix: rows are true classes, columns predicted ones, colours shares of the row."""
    matrix = np.array(counts)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.5 * len(classes), 5, 16))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, format=PercentFormatter(xmax=1), shrink=0.8, label="share of the true class")
    axes.set_title(literal(title))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= MOST_NAMES:
        names = [literal(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    if len(classes) <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


@in_any_script()
def exits(path: Path, adaptive: dict[str, Any], title: str) -> None:
    """Accuracy against time, for every choice of thresholds that none beats, with the one that is used.

    Args:
        path: of the PNG.
        adaptive: what an evaluation says of the exits.
        title: above the plot.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(literal(title))
    left, right = figure.subplots(1, 2)
    curve, rows = adaptive["curve"], adaptive["exits"]
    times = [row["milliseconds"] for row in rows]
    left.plot([p["milliseconds"] for p in curve], [p["accuracy"] for p in curve], color=TRAIN, label="leaving early")
    left.plot(times, [row["accuracy_of_all"] for row in rows], "s", color="gray", label="all at one exit")
    full = (adaptive["milliseconds_in_full"], adaptive["accuracy_in_full"])
    left.plot(*full, "D", color="black", label="in full")
    used = "the thresholds in use"
    left.plot([adaptive["milliseconds"]], [adaptive["accuracy"]], "o", ms=9, color=HELD, label=used)
    left.set_xlabel("milliseconds a picture, one at a time")
    left.set_ylabel("accuracy")
    left.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    left.set_xlim(left=0)
    left.grid(alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)  # where it hides no mark
    names = [f"exit {place}" for place in range(1, len(rows))] + ["end"]
    bars = right.bar(names, [row["share"] for row in rows], color=TRAIN)
    right.bar_label(bars, [f"{row['share']:.0%}\n{time:.1f} ms" for row, time in zip(rows, times, strict=True)])
    right.set_ylabel("pictures that leave there")
    right.set_ylim(0, 1.15 * max(row["share"] for row in rows))
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    _save(figure, path)


@in_any_script()
def ladder(path: Path, numbers: dict[str, Any]) -> None:
    """Accuracy against speed for every rung of a compression, with what was asked for.

    Args:
        path: of the PNG.
        numbers: what compress.json holds.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    rungs, goal = numbers["rungs"], numbers["goal"]
    for index, network in enumerate(dict.fromkeys(rung["network"] for rung in rungs)):
        mine = [rung for rung in rungs if rung["network"] == network]
        speeds, accuracies = [r["speedup"] for r in mine], [r["accuracy"] for r in mine]
        errors = [r["error"] / 100 for r in mine]
        axes.errorbar(speeds, accuracies, errors, fmt="o", capsize=3, color=f"C{index}", label=network)
        for rung in mine:
            axes.annotate(
                rung["runtime"], (rung["speedup"], rung["accuracy"]), (5, 4), textcoords="offset points", fontsize=8
            )
    best = numbers["best"]
    axes.plot([best["speedup"]], [best["accuracy"]], "o", ms=14, mfc="none", mew=2, color="black", label="taken")
    axes.axvline(goal["speedup"], color="gray", ls=":", label=f"{goal['speedup']:g} times as fast")
    least = rungs[0]["accuracy"] - goal["max_drop"] / 100
    axes.axhline(least, color="gray", ls="--", label=f"{goal['max_drop']:g} points less")
    axes.set_xlabel(f"times as fast as the original by PyTorch in float32, {goal['batch_size']} at once")
    axes.set_ylabel("accuracy on the pictures that choose")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(literal(f"{numbers['from']} on {numbers['data']}"))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
