"""The depth search's picture (PNG and SVG) and its page, drawn from nothing but its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from resvision.files import replacing, write_text
from resvision.report.plots import in_any_script, literal
from resvision.search.costs import UNITS

# Okabe & Ito's colours, which can be told apart with any kind of colour vision.
FRONTIER, BEST, GREY = "#0072b2", "#d55e00", "#999999"
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
NAME = "depth"
CURVES = len(COLOURS)  # candidates whose learning curves are drawn
AXES = {"latency_ms": "time of an answer to one picture (ms)", "memory_gb": "memory of a training step (GB)"}

Numbers = dict[str, Any]


@in_any_script()
def write(folder: Path, numbers: Numbers) -> None:
    """Writes depth.png, depth.svg and README.md into the folder of a search."""
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    figure.suptitle(literal(f"Depth, width and picture size for {numbers['settings']['data']}"), fontsize=14)
    frontier, curves = figure.subplots(1, 2, width_ratios=(3, 2))
    _frontier(frontier, numbers)
    _curves(curves, numbers)
    for kind in ("png", "svg"):
        with replacing(folder / f"{NAME}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=130)
    write_text(folder / "README.md", _page(numbers))


def _trained(numbers: Numbers) -> list[Numbers]:
    """The candidates that were trained, the most accurate first."""
    return sorted((row for row in numbers["candidates"] if row["trained"]), key=lambda row: -row["accuracy"])


def _frontier(axes: Axes, numbers: Numbers) -> None:
    """Expected accuracy against the cost, with 95% intervals; the frontier is joined, and the recommendation named."""
    axis, best = numbers["axis"], numbers["recommended"]["name"]
    rows = {row["name"]: row for row in _trained(numbers)}
    for name, row in rows.items():
        on = name in numbers["frontier"]
        colour = BEST if name == best else FRONTIER if on else GREY
        accuracy, (low, high) = row["accuracy"], row["interval"]
        errors = [[max(0.0, accuracy - low)], [max(0.0, high - accuracy)]]
        axes.errorbar(
            row["costs"][axis],
            accuracy,
            yerr=errors,
            fmt="*" if name == best else "o",
            ms=14 if name == best else 6,
            color=colour,
            capsize=3,
            zorder=3 if on else 2,
        )
        if on or name == best:
            # A narrow line beside the point, away from its error bar.
            axes.annotate(
                name.replace(" at ", "\n"),
                (row["costs"][axis], accuracy),
                xytext=(7, -4),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                va="top",
            )
    joined = [rows[name] for name in numbers["frontier"]]
    axes.plot(
        [row["costs"][axis] for row in joined],
        [row["accuracy"] for row in joined],
        color=FRONTIER,
        lw=1.2,
        zorder=1,
        label="frontier: none that costs less is more accurate",
    )
    if limit := numbers["settings"]["limits"][axis]:
        axes.axvline(limit, color="black", ls=":", label=f"limit, {limit:g}")
    axes.set(title="expected accuracy after full training, with 95% intervals", xlabel=AXES[axis], xscale="log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="best")


def _curves(axes: Axes, numbers: Numbers) -> None:
    """The proxies of the best candidates, and their curves to the end of the full training."""
    for row, colour in zip(_trained(numbers)[:CURVES], COLOURS, strict=False):
        part, middle, low, high = zip(*row["line"], strict=True)
        axes.plot(part, middle, color=colour, label=row["name"])
        axes.fill_between(part, low, high, color=colour, alpha=0.12)
        done = row["trainings"]
        axes.plot([d["part"] for d in done], [d["accuracy"] for d in done], "o", color=colour, ms=5)
    axes.axvline(1.0, color="black", ls=":")
    axes.set(title="learning curves of the best", xlabel="part of the full training", xscale="log")
    axes.xaxis.set_major_formatter(lambda part, _: f"{100 * part:.3g}%")  # from a thousandth to all of it
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9, loc="upper left")


def _page(numbers: Numbers) -> str:
    plan = numbers["plan"]
    best = next(row for row in numbers["candidates"] if row["name"] == numbers["recommended"]["name"])
    rungs = "; ".join(rung["says"] for rung in plan["rungs"])
    other = [row for row in numbers["candidates"] if not row["trained"]]
    lines = [
        f"# Depth, width and picture size for {numbers['settings']['data']}",
        "",
        f"    {numbers['commands']['depth']}",
        "",
        f"![the frontier of accuracy against cost, and the learning curves]({NAME}.svg)",
        "",
        *(f"{line}\n" for line in numbers["description"]),
        "Train it:",
        "",
        f"    {numbers['commands']['recommended']}",
        "",
        f"Proxies trained on {plan['fitted']:,} of {plan['available']:,} training pictures and were judged on "
        f"{plan['held']:,} others, in {plan['precision']}: {rungs}.",
        "",
        "| candidate | answer (ms) | step (GB) | training (min) | epochs | accuracy | 95% interval | "
        "near the best | frontier |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(row, numbers["frontier"], row is best) for row in _trained(numbers)),
        "",
    ]
    if other:
        lines += ["Not trained:", "", "| candidate | answer (ms) | step (GB) | why |", "|---|---|---|---|"]
        lines += [
            f"| {row['name']} | {row['costs']['latency_ms']:.1f} | {row['costs']['memory_gb']:.3g} | {_why(row)} |"
            for row in other
        ]
        lines.append("")
    return "\n".join([*lines, "All numbers are in `numbers.json`.", ""])


def _row(row: Numbers, frontier: list[str], best: bool) -> str:
    costs, (low, high) = row["costs"], row["interval"]
    name = f"**{row['name']}**" if best else row["name"]
    return (
        f"| {name} | {costs['latency_ms']:.1f} | {costs['memory_gb']:.3g} | {row['train_minutes']:.1f} | "
        f"{row['epochs']:.1f} | {row['accuracy']:.1%} | {low:.1%} to {high:.1%} | {row['near']:.0%} | "
        f"{'yes' if row['name'] in frontier else ''} |"
    )


def _why(row: Numbers) -> str:
    if row["breaks"]:
        return "needs " + " and ".join(f"{need:.3g} {UNITS[limit]}" for limit, need in row["breaks"].items())
    return "no time for it"
