"""A study's pictures (PNG and SVG) and its page, drawn from nothing but its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resvision.files import replacing, write_text
from resvision.report.plots import in_any_script, literal

# Okabe & Ito's colours, which can be told apart with any kind of colour vision.
ARM_COLOURS = {"plain": "#d55e00", "residual": "#0072b2"}
DEPTH_COLOURS = ("#009e73", "#56b4e9", "#e69f00", "#d55e00", "#cc79a7", "#0072b2", "#f0e442", "#000000")
INIT_TITLES = {"he": "He", "glorot": "Glorot", "torch": "PyTorch's default"}
NORM_TITLES = {"batch": "batch normalisation", "none": "no normalisation"}
LEVELS = 24  # contours of a landscape

Numbers = dict[str, Any]


@in_any_script()
def write(folder: Path, name: str, title: str, numbers: Numbers) -> None:
    """Writes NAME.png, NAME.svg and README.md into a study's folder."""
    figure = _DRAWINGS[name](numbers)
    for kind in ("png", "svg"):
        with replacing(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=150)
    write_text(
        folder / "README.md",
        f"# {title}\n\n    {numbers['command']}\n\n![{title}]({name}.svg)\n\n"
        f"{numbers['description'].strip()}\n\nAll numbers are in `numbers.json`.\n",
    )


def _degradation(numbers: Numbers) -> Figure:
    """Training and test error along the training, plain left and residual right, and the final error by depth."""
    depths = numbers["settings"]["depths"]
    colours = dict(zip(depths, DEPTH_COLOURS * len(depths), strict=False))
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    plain, residual, final = figure.subplots(1, 3)
    residual.sharey(plain)
    for axes, arm in ((plain, "plain"), (residual, "residual")):
        for depth in depths:
            own = [row for row in numbers["arms"] if (row["arm"], row["depth"]) == (arm, depth)]
            for row in own:
                if row["diverged"]:
                    begun = [(point["step"], point["train_error"]) for point in row["points"]]
                    what = f"{depth} layers, diverged at step {row['steps']}"
                    axes.plot(*np.array(begun).reshape(-1, 2).T, "x-", lw=0.8, color=colours[depth], label=what)
            runs = [{point["step"]: point for point in row["points"]} for row in own if not row["diverged"]]
            if not runs:
                continue
            steps = sorted(set.intersection(*map(set, runs)))
            for kind, style, width in (("train", "-", 2.0), ("test", "--", 1.2)):
                values = np.array([[run[step][f"{kind}_error"] for step in steps] for run in runs])
                label = f"{depth} layers" if kind == "train" else None
                axes.plot(steps, values.mean(axis=0), style, color=colours[depth], lw=width, label=label)
                if kind == "train":
                    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colours[depth], alpha=0.2)
        axes.set_title(f"{arm} networks")
        axes.set_xlabel("step")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.grid(alpha=0.3)
        axes.legend(*_with_styles(axes, {"training error": "-", "test error": "--"}), fontsize=9)
    plain.set_ylabel("error")
    plain.set_ylim(0, 1)
    for arm, colour in ARM_COLOURS.items():
        for kind, style in (("train", "o-"), ("test", "s--")):
            by_depth = {depth: numbers["summary"][arm][str(depth)][f"{kind}_error"] for depth in depths}
            measured = {depth: row for depth, row in by_depth.items() if row is not None}
            means = np.array([row["mean"] for row in measured.values()])
            ends = np.array([[min(row["values"]), max(row["values"])] for row in measured.values()]).reshape(-1, 2).T
            label = f"{arm}, {'training' if kind == 'train' else 'test'}"
            final.errorbar(
                [*measured], means, yerr=np.abs(ends - means), fmt=style, color=colour, capsize=3, ms=5, label=label
            )
    final.set_title("at the end, all seeds")
    final.set_xlabel("layers")
    final.set_xticks(depths)
    final.set_ylim(bottom=0)
    final.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    final.grid(alpha=0.3)
    final.legend(fontsize=9)
    return _titled(
        figure, numbers, "Deeper without the shortcut is worse" if numbers["degrades"] else "Error and depth"
    )


def _gradients(numbers: Numbers) -> Figure:
    """Rows: gradient and signal, with and without norm; columns: initialisations; logarithmic, block by block."""
    figure = Figure(figsize=(13, 12), layout="constrained")
    kinds = list(product(("batch", "none"), ("gradient", "signal")))
    grid = figure.subplots(len(kinds), len(INIT_TITLES), sharex=True, squeeze=False)
    for row, (norm, what) in enumerate(kinds):
        for column, init in enumerate(INIT_TITLES):
            axes = grid[row, column]
            for arm, colour in ARM_COLOURS.items():
                own = [r for r in numbers["rows"] if (r["norm"], r["init"], r["arm"]) == (norm, init, arm)]
                for when, style in (("initial", "-"), ("trained", "--")):
                    runs = [_relative(what, r[when][what]) for r in own if r[when] is not None]
                    values = np.ma.masked_invalid(np.array(runs))
                    if not values.count():
                        continue
                    blocks = np.arange(1, values.shape[1] + 1)
                    median = np.ma.median(values, axis=0)  # type: ignore[no-untyped-call]
                    axes.plot(blocks, median, style, color=colour, lw=2)
                    if when == "initial":
                        axes.fill_between(blocks, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0.1), max(high, 10))  # what keeps its size looks flat
            axes.axhline(1, color="grey", lw=0.8)
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(f"{INIT_TITLES[init]} initialisation")
            if row == len(kinds) - 1:
                axes.set_xlabel("block, from the input to the output")
            if column == 0:
                axes.set_ylabel(f"{what}\n{NORM_TITLES[norm]}")
    handles = [Line2D([], [], color=colour, lw=2, label=arm) for arm, colour in ARM_COLOURS.items()]
    steps = numbers["settings"]["steps"]
    handles += [
        Line2D([], [], color="black", ls=style, label=label)
        for style, label in (("-", "at initialisation"), ("--", f"after {steps} steps"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return _titled(
        figure, numbers, f"Every block of networks of {numbers['depth']} layers, relative to where it sets out"
    )


def _relative(what: str, values: list[float | None]) -> list[float]:
    """Relative to the value of the block where it sets out: a gradient of the last, a signal of the first.

    NaN, which leaves a gap, where one of them is zero or not finite.
    """
    begin = values[-1 if what == "gradient" else 0]
    return [np.nan if not v or not begin else v / begin for v in values]


def _paths(numbers: Numbers) -> Figure:
    """Error without one block, without several, in another order; and the lengths of the paths that matter."""
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    (single, deleted), (reordered, lengths) = figure.subplots(2, 2)
    for arm, colour in ARM_COLOURS.items():
        own = [row for row in numbers["rows"] if row["arm"] == arm and not row["diverged"]]
        if not own:
            continue
        blocks = [row["block"] + 1 for row in own[0]["single"]]
        values = np.array([[row["error"] for row in run["single"]] for run in own])
        single.plot(blocks, values.mean(axis=0), "o-", ms=4, color=colour, label=arm)
        single.fill_between(blocks, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
        single.axhline(numbers["summary"][arm]["error"]["mean"], color=colour, ls=":", lw=1.2)
        for axes, key, place in ((deleted, "deleted", "blocks"), (reordered, "reordered", "kendall_tau")):
            where = np.array([statistics.fmean(run[key][i][place] for run in own) for i in range(len(own[0][key]))])
            values = np.array([[row["mean"] for row in run[key]] for run in own])
            turn = where.argsort()  # random swaps may bring an order nearer to the first one
            where, values = where[turn], values[:, turn]
            axes.plot(where, values.mean(axis=0), "o-", ms=4, color=colour, label=arm)
            axes.fill_between(where, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
    for axes, title, label in (
        (single, "one block deleted (dotted: none)", "block deleted"),
        (deleted, "several blocks deleted", "blocks deleted"),
        (reordered, "blocks in another order", "rank correlation with the trained order (Kendall's tau)"),
    ):
        axes.set(title=title, xlabel=label, ylabel="test error", ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend()
    reordered.invert_xaxis()
    summary = numbers["summary"]
    if "share" in summary:
        measured = next(row["paths"] for row in numbers["rows"] if row.get("paths"))
        count = [row["paths"] / 2 ** summary["blocks"] for row in measured]
        places = range(len(count))
        lengths.bar(places, count, color="#bbbbbb", label="of all paths")
        lengths.bar(places, summary["share"], color=ARM_COLOURS["residual"], alpha=0.75, label="of the gradient")
        lengths.legend()
    lengths.set(title="length of the paths through the residual network", xlabel="blocks on the path", ylabel="share")
    for axes in (deleted, lengths):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lengths.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    return _titled(figure, numbers, f"Networks of {numbers['depth']} layers taken apart")


def _landscape(numbers: Numbers) -> Figure:
    """Contours above, surfaces below, plain left and residual right, with the same colours and levels."""
    axis = np.array(numbers["axis"])
    first = {row["arm"]: row for row in reversed(numbers["rows"])}  # of seed 0
    surfaces = {arm: np.array(row["surface"]) for arm, row in first.items() if not row["diverged"]}
    low = max(1e-3, min((float(surface.min()) for surface in surfaces.values()), default=0.0))
    high = max(10 * low, min(1e3, max((float(surface.max()) for surface in surfaces.values()), default=0.0)))
    scale = LogNorm(low, high)
    levels = np.geomspace(low, high, LEVELS)
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.05))
    for column, arm in enumerate(ARM_COLOURS):
        flat = figure.add_subplot(grid[0, column])
        flat.set(title=f"{arm} network", xlabel="first direction", ylabel="second direction", aspect="equal")
        if arm not in surfaces:
            flat.text(0.5, 0.5, f"diverged at step {first[arm]['steps']}", ha="center", transform=flat.transAxes)
            continue
        surface = surfaces[arm].clip(low, high)
        flat.contourf(axis, axis, surface, levels=levels, norm=scale, cmap="viridis")
        flat.contour(axis, axis, surface, levels=levels, norm=scale, colors="white", linewidths=0.4)
        flat.plot(0, 0, "+", color="white", ms=12, mew=2)
        solid = figure.add_subplot(grid[1, column], projection="3d")
        x, y = np.meshgrid(axis, axis)
        solid.plot_surface(x, y, np.log10(surface), facecolors=_colours(scale, surface), rstride=1, cstride=1)
        solid.set(zlabel="log10 of the loss", zlim=(np.log10(low), np.log10(high)))
    figure.colorbar(ScalarMappable(scale, "viridis"), cax=figure.add_subplot(grid[:, 2]), label="loss (nats)")
    return _titled(figure, numbers, f"The loss around trained networks of {numbers['depth']} layers (seed 0)")


def _colours(scale: LogNorm, surface: Any) -> Any:
    return ScalarMappable(scale, "viridis").to_rgba(surface)


def _with_styles(axes: Axes, styles: dict[str, str]) -> tuple[list[Any], list[str]]:
    """The legend's entries, and what the kinds of line mean."""
    handles, labels = axes.get_legend_handles_labels()
    handles = [*handles, *(Line2D([], [], color="grey", ls=style) for style in styles.values())]
    return handles, [*labels, *styles]


def _titled(figure: Figure, numbers: Numbers, title: str) -> Figure:
    settings = numbers["settings"]
    seeds = "1 seed" if settings["seeds"] == 1 else f"{settings['seeds']} seeds"
    figure.suptitle(literal(f"{title}: {settings['data']}, {seeds}"), fontsize=14)
    return figure


_DRAWINGS: dict[str, Callable[[Numbers], Figure]] = {
    "degradation": _degradation,
    "gradients": _gradients,
    "paths": _paths,
    "landscape": _landscape,
}
