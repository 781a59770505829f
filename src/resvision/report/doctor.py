"""The overfit doctor's picture (PNG and SVG) and its page, drawn from nothing but its numbers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from resvision.files import replacing, write_text
from resvision.report.plots import in_any_script, literal

# Okabe & Ito's colours, which can be told apart with any kind of colour vision.
TRAIN, HELD, BETTER, WORSE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#777777"
NAME = "overfit"
FOUND = {"yes": "**yes**", "unclear": "unclear", "no": "no"}
SUSPECTS_SHOWN = 20

Numbers = dict[str, Any]


@in_any_script()
def write(folder: Path, numbers: Numbers) -> None:
    """Writes overfit.png, overfit.svg and README.md into the folder of an examination."""
    figure = _figure(numbers)
    for kind in ("png", "svg"):
        with replacing(folder / f"{NAME}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=130)
    write_text(folder / "README.md", _page(numbers))


def _figure(numbers: Numbers) -> Figure:
    figure = Figure(figsize=(14, 9), layout="constrained")
    title = f"How {numbers['plan']['model']} overfits {numbers['settings']['data']}"
    figure.suptitle(literal(title), fontsize=14)
    (course, gap), (curve, remedies) = figure.subplots(2, 2)
    _course(course, numbers)
    _gap(gap, numbers)
    _curve(curve, numbers)
    _remedies(remedies, numbers)
    return figure


def _course(axes: Axes, numbers: Numbers) -> None:
    """Training and held-out loss along the baseline's training, and the moment of the least."""
    runs = numbers["course"]
    end = runs[0][-1]["step"]
    where = [point["step"] / end for point in runs[0]]
    for key, colour, label in (("train_loss", TRAIN, "training pictures"), ("loss", HELD, "held-out pictures")):
        values = np.array([[point[key] for point in run] for run in runs])
        axes.plot(where, values.mean(axis=0), "o-", ms=4, color=colour, label=label)
        axes.fill_between(where, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
    axes.axvline(numbers["turning"]["best"], color=GREY, ls=":", label="least held-out loss")
    axes.set(title="loss along the baseline's training", xlabel="part of the training", ylabel="loss (nats)")
    later = [point[key] for run in runs for point in run[1:] for key in ("train_loss", "loss")]
    axes.set_ylim(0, 1.2 * max(later, default=1.0))  # a training that begins wildly would make the rest a line
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _gap(axes: Axes, numbers: Numbers) -> None:
    """Accuracy on training, held-out and untouched pictures."""
    found, check, report = numbers["gap"], numbers["check"], numbers["report"]
    bars = [("training\n(not augmented)", found["train_accuracy"], TRAIN)]
    bars.append(("held out", found["held_accuracy"], HELD))
    if check["leaked"]:
        bars.append((f"{report},\nwith copies", check["with_leaked"], GREY))
    if "baseline" in check:
        bars.append((f"{report},\nuntouched", check["baseline"]["accuracy"], GREY))
    if "recommended" in check:
        bars.append((f"{report},\nrecommended", check["recommended"]["accuracy"], BETTER))
    names, values, colours = zip(*bars, strict=True)
    drawn = axes.bar(names, values, color=colours)
    axes.bar_label(drawn, [f"{value:.1%}" for value in values], fontsize=9)
    axes.set(title=f"accuracy: the baseline's gap is {100 * found['gap']:.1f} points", ylim=(0, 1.08))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(alpha=0.3, axis="y")


def _curve(axes: Axes, numbers: Numbers) -> None:
    """Held-out error by the number of training pictures, with the power law to twice as many."""
    curve = numbers["curve"]
    axes.set_xscale("log")
    if curve["points"]:
        axes.plot(
            [point["pictures"] for point in curve["points"]],
            [point["error"] for point in curve["points"]],
            "o",
            color=HELD,
            label="trainings",
        )
    title = "learning curve"
    if curve["exponent"] is not None:
        trained = {point["part"]: point["pictures"] for point in curve["points"]}
        fewest, all_of_them = min(trained.values()), numbers["pictures"]["train"]
        n, *errors = zip(*(row for row in curve["line"] if row[0] >= fewest / 2), strict=True)
        middle, low, high = np.minimum(errors, 1)  # more than all pictures cannot be wrong
        axes.plot(n, middle, color=GREY, label=f"power law, n^-{curve['exponent']:.2f}")
        axes.fill_between(n, low, high, color=GREY, alpha=0.2, label="95%")
        axes.axvline(all_of_them, color=GREY, ls=":", label="all training pictures")
        title += f": {100 * curve['gain']:+.1f} points with twice the pictures"
        marks = [*trained.values(), *(count for count in (all_of_them, 2 * all_of_them) if count <= 1.01 * n[-1])]
        axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
        axes.minorticks_off()
        axes.legend(fontsize=9)
    axes.set(title=title, xlabel="training pictures", ylabel="held-out error")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    axes.grid(alpha=0.3, which="both")


def _remedies(axes: Axes, numbers: Numbers) -> None:
    """What each remedy changes, with twice its standard error, and its seeds."""
    rows = numbers["remedies"][::-1]
    for place, row in enumerate(rows):
        colour = BETTER if row["difference"] > 0 else WORSE
        axes.errorbar(
            100 * row["difference"], place, xerr=200 * row["error"], fmt="o", color=colour, capsize=3, zorder=3
        )
        axes.plot([100 * seed for seed in row["seeds"]], [place] * len(row["seeds"]), "|", color=GREY, ms=8)
    axes.axvline(0, color=GREY, lw=1)
    axes.set_yticks(range(len(rows)), [f"{row['name']} ({row['sure']:.0%})" for row in rows])
    axes.set(
        title="remedies against the baseline (how sure each is better)",
        xlabel="points of held-out accuracy, with twice the standard error; bars are seeds",
    )
    axes.grid(alpha=0.3, axis="x")


def _page(numbers: Numbers) -> str:
    plan, settings = numbers["plan"], numbers["settings"]
    lines = [
        f"# How {plan['model']} overfits {settings['data']}",
        "",
        f"    {numbers['commands']['overfit']}",
        "",
        f"![the gap, the learning curve and the remedies]({NAME}.svg)",
        "",
        f"Trials: {plan['model']} at {plan['size']} px, {numbers['pictures']['pool']:,} of "
        f"{numbers['pictures']['train']:,} training pictures in {plan['folds']} parts, two of which train and one "
        f"judges; {plan['steps']:,} steps ({plan['epochs']:.1f} presentations) each, {plan['seeds']} seeds an arm. The "
        f"{numbers['report']} pictures chose nothing.",
        "",
        "| cause | found | evidence |",
        "|---|---|---|",
        *(f"| {f['cause']} | {FOUND[f['found']]} | {f['says']} |" for f in numbers["findings"]),
        "",
        *(f"{line}\n" for line in numbers["description"] if line not in {f["says"] for f in numbers["findings"]}),
        "| arm | held-out accuracy | the baseline's, same trials | difference | standard error | how sure | gap |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in numbers["remedies"]),
        "",
        "Train with it:",
        "",
        f"    {numbers['commands']['recommended']}",
        "",
    ]
    if suspects := numbers["labels"]["suspects"] if numbers["labels"]["found"] == "yes" else []:
        shown = [f"| {s['picture']} | {s['label']} | {s['seems']} | {s['margin']:.2f} |" for s in suspects]
        lines += ["Labels that are most surely wrong:", "", "| picture | label | seems | margin |", "|---|---|---|---|"]
        count = numbers["labels"]["suspected"]
        all_of_them = f"All {count:,}" if len(suspects) == count else f"The surest {len(suspects):,} of {count:,}"
        lines += [*shown[:SUSPECTS_SHOWN], "", f"{all_of_them} are in `suspects.csv`.", ""]
    if pairs := numbers["copies"]["listed"]:
        lines += ["Copies:", "", *(f"- {one} = {other}" for one, other in pairs[:SUSPECTS_SHOWN]), ""]
    return "\n".join([*lines, "All numbers are in `numbers.json`.", ""])


def _row(row: Numbers) -> str:
    accuracy = statistics.fmean(row["accuracy"]["values"])
    return (
        f"| {row['name']} | {accuracy:.1%} | {row['baseline_accuracy']:.1%} | "
        f"{100 * row['difference']:+.1f} | {100 * row['error']:.1f} | "
        f"{row['sure']:.0%} | {100 * row['gap']:.1f} |"
    )
