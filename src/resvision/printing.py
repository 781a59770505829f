"""What a person reads on stdout: tables, figures and what to do next; or one JSON document."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resvision.api import TrainingResult


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
        if rows and all(str(cells[row])[:1].isdigit() for cells in rows):
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
