"""The clock, and files that are whole or not there."""

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from resvision import measure
from resvision.errors import InputError, StorageError
from resvision.files import printable, read_json, replacing, write_json


def test_seconds_counts_calls() -> None:
    calls: list[int] = []
    times = measure.seconds(lambda: calls.append(1), repeats=3, warmup=2)
    assert (len(times), len(calls)) == (3, 5)
    assert all(taken >= 0 for taken in times)


def test_a_limit_ends_the_repeats_but_leaves_one() -> None:
    assert len(measure.seconds(lambda: sum(range(200_000)), repeats=1000, warmup=0, limit=0.0)) == 1


def test_rounds_take_turns() -> None:
    calls: list[str] = []
    both = {"a": lambda number: calls.append("a"), "b": lambda number: calls.append("b")}
    times = measure.interleaved(both, [1, 2], warmup=1)
    # Each twice in a round, of which the second counts.
    assert calls[:2] == ["a", "b"]
    assert [sorted(calls[start : start + 4]) for start in (2, 6)] == [["a", "a", "b", "b"]] * 2
    assert calls[2::2] == calls[3::2]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert all(len(values) == 1 for values in measure.interleaved(both, [0] * 9, limit=0.0).values())


def test_everybody_follows_everybody() -> None:
    calls: list[str] = []
    measure.interleaved({name: partial(lambda name, _: calls.append(name), name) for name in "abcd"}, [0] * 40)
    behind = {(first, second) for first, second in pairwise(calls) if first != second}
    assert behind == set(permutations("abcd", 2))


def test_the_first_call_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes right behind another function is slower."""
    clock, last = 0.0, ""

    def function(name: str, given: int) -> None:
        nonlocal clock, last
        clock += 2.0 if last == name else 20.0
        last = name

    monkeypatch.setattr(measure, "now", lambda: clock)
    both = {name: partial(function, name) for name in "ab"}
    assert measure.interleaved(both, [0] * 3) == {"a": [2.0] * 3, "b": [2.0] * 3}


def test_every_round_is_given_to_everybody() -> None:
    seen: dict[str, list[str]] = {"a": [], "b": []}
    ways = {name: found.append for name, found in seen.items()}
    times = measure.interleaved(ways, ["x", "y", "z"], settle=False)
    assert seen["a"] == seen["b"] == ["x", "x", "y", "z"]  # behind one of the first
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}


def test_peak_memory_grows() -> None:
    """In a process of its own, which has not held much yet."""
    code = (
        "from resvision import measure; before = measure.peak_memory_bytes(); "
        "block = bytearray(b'1') * (before + (64 << 20)); print(before, len(block), measure.peak_memory_bytes())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, block, after = map(int, result.stdout.split())
    assert after >= block > before > 0


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="half-way"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half-way")
    assert read_json(path) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing\.json: No such file"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "file").write_text("{")
    with pytest.raises(InputError, match="file: not JSON"):
        read_json(tmp_path / "file")
    with pytest.raises(StorageError, match=r"a\.json: File exists"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_names_that_are_no_text_are_written_and_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "a.json", {"path": name, "other": "é"})
    assert read_json(tmp_path / "a.json") == {"path": name, "other": "é"}
    assert printable(name) == r"caf\xe9.png"
    assert printable("é/猫.png") == "é/猫.png"
