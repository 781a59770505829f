"""What a person reads of searches, examinations and compressions: the table, the words, and the command to run next."""

from pathlib import Path
from typing import Any

import pytest

from resvision import printing

FOLDER = Path("runs/it's mine")


def test_a_search_prints_its_frontier_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"train_minutes": 2.0, "interval": [0.8, 0.9], "near": 0.5, "costs": {"latency_ms": 1.25, "memory_gb": 0.5}}
    numbers = {
        "candidates": [{"name": name, "accuracy": accuracy, **row} for name, accuracy in (("a", 0.81), ("b", 0.85))],
        "frontier": ["b", "a"],
        "settings": {"data": "digits"},
        "description": ["b is best."],
        "commands": {"recommended": "resvision train digits --model b"},
    }
    printing.print_search(numbers, FOLDER)
    said = capsys.readouterr().out
    assert "81.00%   80.0% to 90.0%" in said
    assert said.index(" b ") < said.index(" a ")
    assert said.endswith(
        f"Look at {FOLDER}/README.md and {FOLDER}/depth.png. Next:\n  resvision train digits --model b\n"
    )


def test_an_examination_prints_points_and_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    arm = {
        "name": "mixup",
        "accuracy": {"mean": 0.9},
        "baseline_accuracy": 0.888,
        "difference": 0.012,
        "error": 0.004,
        "sure": 0.99,
        "gap": 0.05,
    }
    numbers = {
        "remedies": [arm],
        "gap": {"held_accuracy": 0.887, "gap": 0.111},
        "settings": {"data": "digits"},
        "description": ["mixup helps."],
        "commands": {"recommended": "resvision train digits --mixup 0.2"},
    }
    printing.print_examination(numbers, FOLDER)
    words = capsys.readouterr().out.split()
    place = words.index("mixup")
    assert words[place : place + 7] == ["mixup", "90.00%", "88.80%", "+1.2", "0.4", "99%", "5.0"]
    place = words.index("baseline", place)
    assert words[place : place + 3] == ["baseline", "88.70%", "11.1"]
    assert words[-3:] == ["digits", "--mixup", "0.2"]


@pytest.mark.parametrize(
    ("kept", "reached", "verdict"),
    [
        (True, True, None),
        (True, False, "3 times as fast at 0.5 points less was not reached; this is the best that was."),
        (False, False, "That is more than 0.5 points and chance explain: the promise is not kept."),
    ],
)
def test_a_compression_says_whether_its_promise_is_kept(
    kept: bool, reached: bool, verdict: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    best: dict[str, Any] = {"network": "as it is", "runtime": "openvino int8", "milliseconds": 1.0, "speedup": 2.5}
    best |= {"accuracy": 0.9, "drop": 0.2, "error": 0.1, "promised": True}
    numbers = {
        "data": "digits",
        "goal": {"speedup": 3.0, "max_drop": 0.5, "batch_size": 4},
        "rungs": [best | {"runtime": "torch fp32", "promised": False}, best],
        "best": best,
        "reached": reached,
        "reported": {
            "pictures": 1000,
            "accuracy": 0.9,
            "original_accuracy": 0.902,
            "drop": 0.2,
            "error": 0.1,
            "kept": kept,
        },
    }
    printing.print_compression(numbers, FOLDER)
    said = capsys.readouterr().out
    assert "digits, the pictures that choose; 4 at once" in said
    assert [said.count(word) for word in ("taken", "too much")] == [1, 1]
    assert "accuracy 90.00% instead of 90.20% (-0.20 points, standard error 0.10), 2.50 times as fast." in said
    assert [line for line in said.splitlines() if "promise" in line or "reached" in line] == (
        [verdict] if verdict else []
    )
    assert said.endswith("""  resvision predict 'runs/it'"'"'s mine' PICTURE.jpg --runtime openvino\n""")
