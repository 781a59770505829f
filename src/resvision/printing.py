"""What a person reads on stdout: tables, figures and what to do next; or one JSON document."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resvision.api import TrainingResult
    from resvision.exporting import Export
    from resvision.target import Format


def print_json(value: Any) -> None:
    """One document, which is all that stdout gets."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=not is_utf8, allow_nan=False))


def print_exits(adaptive: dict[str, Any], caption: str | None = None) -> None:
    """What early exits do with the pictures of an evaluation."""
    rows = adaptive["exits"]
    cells: list[list[Any]] = [
        [
            "end" if row is rows[-1] else place,
            "" if row["threshold"] is None else f"{row['threshold']:.3f}" if row["threshold"] <= 1 else "never",
            *(percent(row[key]) for key in ("share", "accuracy_of_leaving", "accuracy_of_all")),
            *(f"{row['milliseconds']:.2f}", "" if row["macs"] is None else f"{row['macs'] / 1e6:,.1f}"),
        ]
        for place, row in enumerate(rows, start=1)
    ]
    titles = [
        "exit",
        "threshold",
        "pictures that leave",
        "their accuracy",
        "accuracy of all",
        "ms until it",
        "MACs (M)",
    ]
    print_table(titles, cells, caption)
    if adaptive["together"]:
        print("each exit answers with those before it; in full stands for the network alone, without its exits")
    raced = adaptive["measured"]
    print(
        f"leaving early: accuracy {adaptive['accuracy']:.2%} in {raced['milliseconds']:.2f} ms a picture; in full: "
        f"{adaptive['accuracy_in_full']:.2%} in {raced['milliseconds_in_full']:.2f} ms "
        f"({raced['times_as_fast']:.2f} times as long; {raced['pictures']} pictures, one at a time)"
    )


def print_table(titles: list[str], rows: list[list[Any]], caption: str | None = None) -> None:
    """A table; a column of numbers stands to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles, title=caption, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(titles))
    for row, column in enumerate(table.columns):
        told = [cell for cells in rows if (cell := str(cells[row]).lstrip("+-"))]  # what is empty or "-" is no text
        if told and all(cell[0].isdigit() for cell in told):
            column.justify = "right"
    for cells in rows:
        table.add_row(*map(str, cells))
    # A pipe has no width: then nothing is cut or wrapped.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as captured:  # Rich would end the program by itself where nobody reads on
        console.print(table, soft_wrap=not sys.stdout.isatty())
    print(captured.get(), end="")


def print_training(made: TrainingResult, as_json: bool, columns: str = "") -> None:
    """The figures of a run and what to do next; `columns` are the options that its manifest needs."""
    result = made.result
    if as_json:
        print_json({"run": str(made.folder), **result})
        return
    low, high = result["accuracy_ci95"]
    rows: list[list[Any]] = [
        ["network", f"{result['model']}, {result['params']:,} parameters"],
        [f"{result['split']} accuracy", f"{result['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})"],
        ["NLL, ECE (lower is better)", f"{result['loss']:.4f}, {result['ece']:.4f}"],
        [
            "trained",
            f"{count(result['epochs'], 'epoch')} in {result['seconds']:.0f} s, stopped by {result['stopped']}",
        ],
        ["speed", f"{result['images_per_second']:,.0f} pictures/s, {result['precision']}"],
        ["saved in", str(made.folder)],
    ]
    print_table(["", ""], rows, f"{result['data']}, {count(len(result['classes']), 'class', 'classes')}")
    print(f"Look at {made.folder / 'curves.png'} and {made.folder / 'confusion.png'}. Next:")
    print(f"  resvision evaluate {quoted(made.folder)} {quoted(result['data'])}{columns}")
    print(f"  resvision predict {quoted(made.folder)} PICTURE.jpg")
    if result["data"] == "digits":
        print("  resvision train YOUR_PICTURES/   (one folder per class)")


def print_networks(rows: list[dict[str, Any]]) -> None:
    """What networks cost."""
    titles = ["network", "layers", "classes", "px", "parameters", "MACs (M)", "activations (MB)"]
    cells: list[list[Any]] = [
        [
            *(r["name"], r["depth"], r["classes"], r["size"]),
            *(f"{r['params']:,}", f"{r['macs'] / 1e6:,.1f}", f"{r['activation_bytes'] / 1e6:,.2f}"),
        ]
        for r in rows
    ]
    print_table(
        titles, cells, f"one picture of {rows[0]['channels']} channels; activations in float32, kept for training"
    )


def print_examination(numbers: dict[str, Any], folder: Path) -> None:
    """What an examination of overfitting found, and what to do next."""
    rows: list[list[Any]] = [
        [
            row["name"],
            percent(row["accuracy"]["mean"]),
            percent(row["baseline_accuracy"]),
            f"{100 * row['difference']:+.1f}",
            f"{100 * row['error']:.1f}",
            f"{row['sure']:.0%}",
            f"{100 * row['gap']:.1f}",
        ]
        for row in numbers["remedies"]
    ]
    gap = numbers["gap"]
    rows.append(["baseline", percent(gap["held_accuracy"]), "", "", "", "", f"{100 * gap['gap']:.1f}"])
    titles = ["arm", "held-out accuracy", "the baseline's", "points", "standard error", "how sure", "gap"]
    print_table(titles, rows, f"{numbers['settings']['data']}: trials of equal length against the baseline")
    _print_recommended(numbers, folder / "overfit.png")


def print_search(numbers: dict[str, Any], folder: Path) -> None:
    """What a search for depth, width and size found, and what to do next."""
    candidates = {row["name"]: row for row in numbers["candidates"]}
    rows: list[list[Any]] = [_frontier_row(candidates[name]) for name in numbers["frontier"]]
    titles = ["frontier", "answer (ms)", "step (GB)", "training (min)", "accuracy", "95% interval", "near the best"]
    print_table(titles, rows, f"{numbers['settings']['data']}: none that costs less is expected to be more accurate")
    _print_recommended(numbers, folder / "depth.png")


def _print_recommended(numbers: dict[str, Any], picture: Path) -> None:
    """What was found in words, where to look, and the command that is recommended."""
    for line in numbers["description"]:
        print(line)
    print(f"Look at {picture.with_name('README.md')} and {picture}. Next:")
    print(f"  {numbers['commands']['recommended']}")


def _frontier_row(row: dict[str, Any]) -> list[Any]:
    low, high = row["interval"]
    return [
        *(row["name"], f"{row['costs']['latency_ms']:.1f}", f"{row['costs']['memory_gb']:.3g}"),
        *(f"{row['train_minutes']:.1f}", percent(row["accuracy"]), f"{low:.1%} to {high:.1%}", f"{row['near']:.0%}"),
    ]


def print_evaluation(result: dict[str, Any], run: Path) -> None:
    """The figures of an evaluation; of a run with early exits or gates also what these do."""
    low, high = result["accuracy_ci95"]
    print_table(
        ["class", "precision", "recall", "pictures"],
        [[n, percent(c["precision"]), percent(c["recall"]), c["pictures"]] for n, c in result["per_class"].items()],
        f"{result['data']}, split {result['split']}, {result['pictures']:,} pictures",
    )
    print(f"accuracy {result['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})")
    print(f"NLL {result['nll']:.4f}, ECE {result['ece']:.4f}")
    print(mistakes(result["confusion"], list(result["per_class"])))
    if "adaptive" in result:
        print_exits(result["adaptive"])
        if (run / "exits.png").is_file():
            print(f"Look at {run / 'exits.png'}.")
    if "gates" in result:
        told = result["gates"]
        part = f"{told['macs'] / 1e6:,.1f} of {told['macs_in_full'] / 1e6:,.1f} M multiply-adds a picture"
        print(f"gates: open for {told['rate']:.0%} of the pictures on average, {part}")
        for measured in told["measured"].values():
            print(
                f"  {measured['at_once']} at once: {measured['milliseconds']:.2f} ms a picture, with every block "
                f"{measured['milliseconds_in_full']:.2f} ms: {measured['times_as_fast']:.2f} times as fast"
            )


def print_predictions(results: list[dict[str, Any]], as_csv: bool) -> None:
    """The class of each picture, or why there is none, as a table or as CSV."""
    left = ["exit"] if any("exit" in r for r in results) else []  # at which exit of an adaptive network
    if as_csv:
        columns = ["path", "label", "score", *left, "error"]
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
        return
    cells: list[list[Any]] = [
        [
            *(r["path"], r.get("label", "-"), percent(r.get("score"))),
            *(r.get(column, "-") for column in left),
            r.get("error") or runners_up(r["top"]),
        ]
        for r in results
    ]
    print_table(["picture", "label", "score", *left, "then"], cells)


def print_export(made: Export, to: Format) -> None:
    """Which files were written, and how alike they answer."""
    found = made.verification
    print(f"{', '.join(str(file) for file in made.files)}: answers as the original in {found.runtime}")
    print(
        f"{count(found.pictures, 'picture')}: the same first class on {found.same_top1:.2%}, "
        f"{'probabilities' if to == 'keras' else 'logits'} differ by at most {found.largest_difference:.2g}"
    )
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy:.2%}, of the original {percent(found.original_accuracy)}")


def print_runtimes(result: dict[str, Any]) -> None:
    """How fast each runtime answers."""
    rows: list[list[Any]] = [
        [
            row["runtime"],
            spread(row["latency_ms"], ",.2f"),
            spread(row["pictures_per_second"], ",.0f"),
            *([percent(row["accuracy"])] if result["data"] is not None else []),
        ]
        for row in result["rows"]
    ]
    titles = ["runtime", "ms, one picture", "pictures/s, 32 at once"]
    if result["data"] is not None:
        titles.append(f"accuracy on {result['data']}, {result['split']}")
    print_table(titles, rows, f"{count(result['threads'], 'thread')}; median (least to most) of interleaved rounds")


def print_compression(numbers: dict[str, Any], folder: Path) -> None:
    """Which networks were tried, what came of the best one, and what to do next."""
    goal = numbers["goal"]
    rows: list[list[Any]] = [
        [
            *(rung["network"], rung["runtime"], f"{rung['milliseconds']:.2f}", f"{rung['speedup']:.2f}"),
            *(percent(rung["accuracy"]), f"{0 - rung['drop']:+.2f}", f"{rung['error']:.2f}"),
            "taken" if rung == numbers["best"] else "" if rung["promised"] else "too much",
        ]
        for rung in numbers["rungs"]
    ]
    titles = ["network", "runtime", "ms", "times as fast", "accuracy", "points", "standard error", ""]
    print_table(titles, rows, f"{numbers['data']}, the pictures that choose; {goal['batch_size']} at once")
    told, best = numbers["reported"], numbers["best"]
    print(
        f"On {told['pictures']:,} other pictures: accuracy {told['accuracy']:.2%} instead of "
        f"{told['original_accuracy']:.2%} ({0 - told['drop']:+.2f} points, standard error {told['error']:.2f}), "
        f"{best['speedup']:.2f} times as fast."
    )
    if not told["kept"]:
        print(f"That is more than {goal['max_drop']:g} points and chance explain: the promise is not kept.")
    elif not numbers["reached"]:
        asked = f"{goal['speedup']:g} times as fast at {goal['max_drop']:g} points less"
        print(f"{asked} was not reached; this is the best that was.")
    print(f"Saved in {folder}. Look at {folder / 'compress.png'}. Next:")
    runtime = "" if best["runtime"].startswith("torch") else f" --runtime {best['runtime'].split()[0]}"
    print(f"  resvision predict {quoted(folder)} PICTURE.jpg{runtime}")


def quoted(word: object) -> str:
    """A word of a command that is printed, as a shell takes it."""
    return shlex.quote(str(word))


def count(number: int, one: str, many: str = "") -> str:
    """A number of things, in words."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(value: float | None) -> str:
    """A part of 1, or a dash for what is not known."""
    return "-" if value is None else f"{value:.2%}"


def spread(values: dict[str, float], digits: str) -> str:
    """The median of some values with the least and the most; `digits` is a format."""
    return f"{values['median']:{digits}} ({values['least']:{digits}} to {values['most']:{digits}})"


def runners_up(top: list[dict[str, Any]]) -> str:
    """The classes behind the first, of a prediction."""
    return ", ".join(f"{t['label']} {t['score']:.1%}" for t in top[1:3])


def mistakes(confusion: list[list[int]], classes: list[str]) -> str:
    """The most frequent confusions, in words."""
    pairs = [
        (number, classes[i], classes[j])
        for i, row in enumerate(confusion)
        for j, number in enumerate(row)
        if i != j and number
    ]
    worst = sorted(pairs, reverse=True)[:3]
    if not worst:
        return "no mistakes"
    return "most frequent mistakes: " + ", ".join(
        f"{true} taken for {other} ({number})" for number, true, other in worst
    )
