"""The time of an experiment, over its stops."""

from pathlib import Path

import pytest

from resvision.errors import RunError
from resvision.search import clock
from resvision.training import ledger


def test_what_was_done_before_a_stop_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [100.0]
    for module in (clock, ledger):
        monkeypatch.setattr(module, "now", lambda: shown[0])

    def work() -> str:
        shown[0] += 5
        return "done"

    first = ledger.Ledger(tmp_path / "finished.jsonl", {})
    spare = clock.Clock(60, first)
    assert [first.once(key, work) for key in ("a", "b", "a")] == ["done"] * 3
    shown[0] += 2  # what is not finished when it is stopped
    assert spare.left() == 48
    shown[0] += 1000
    again = ledger.Ledger(tmp_path / "finished.jsonl", {})
    assert again.seconds == {"a": 5, "b": 5}
    spare = clock.Clock(60, again)
    assert again.once("a", work) == "done"
    assert spare.left() == 50


@pytest.mark.parametrize("text", ["", "[", "[1]\n", "{}\n3\n", '{}\n{"key": 1}\n', "[" * 100_000])
def test_a_damaged_ledger_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "finished.jsonl").write_text(text)
    with pytest.raises(RunError, match=r"finished\.jsonl: damaged, so that nothing can go on from it"):
        ledger.Ledger(tmp_path / "finished.jsonl", {})
