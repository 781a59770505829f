"""The search for depth: its candidates, what they cost, and whole searches of a few seconds."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resvision
from resvision import cost, zoo
from resvision.cli import main
from resvision.data import sources
from resvision.errors import DataError, InputError, RecipeError, ResvisionError, RunError, SpecError
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.recipes import for_batch
from resvision.search import costs, depth
from resvision.search.candidates import PHOTO_MODELS, Candidate, enumerate_all
from resvision.search.costs import Costs, Limits
from resvision.search.halving import Entrant, first_rung
from resvision.training.ledger import Ledger

# ---- candidates ----


def test_small_pictures_have_cifar_networks_at_their_own_size() -> None:
    found = enumerate_all(32, 32, ())
    assert len(found) == 15
    assert {candidate.size for candidate in found} == {32}
    wide = next(candidate for candidate in found if candidate.name == "resnet20_cifar x4 at 32 px")
    assert wide.spec == ("widths=[64,128,256]",)
    assert wide.network(10, 1).widths == (64, 128, 256)
    assert wide.network(10, 1).in_channels == 1


def test_photographs_have_sizes_that_they_can_fill() -> None:
    halved = enumerate_all(32, 32, ("first_stride=2",))  # with as many multiply-adds
    assert {candidate.width for candidate in halved} == {2.0, 4.0, 8.0}
    found = enumerate_all(128, 224, ("activation=silu",))
    assert {(c.model, c.size) for c in found} == {(m, s) for m in PHOTO_MODELS for s in (96, 128, 160)}
    assert len({candidate.name for candidate in found}) == len(found) == 24
    half = next(candidate for candidate in found if candidate.name == "resnet50d x0.5 at 96 px")
    assert half.network(10, 3).widths == (32, 64, 128, 256)
    assert half.network(10, 3).activation == "silu"
    assert {candidate.size for candidate in enumerate_all(128, 130, ())} == {96, 128}
    assert {candidate.size for candidate in enumerate_all(70, 70, ())} == {70}


def test_lists_of_ones_own() -> None:
    found = enumerate_all(32, 32, ("widths=[16,24,32]",), ["wrn16_2", "resnet8_cifar"], [24, 32], [1.0, 0.5])
    assert len(found) == 8
    assert found[-1].spec == ("widths=[8,16,16]",)
    # A recorded recipe may have other widths than the model's own, so that these are said, too.
    named = enumerate_all(32, 32, ("activation=silu",), ["resnet8_cifar"], [32], [1.0], explicit=True)
    assert [candidate.spec for candidate in named] == [("activation=silu", "widths=[16,32,64]")]
    with pytest.raises(SpecError, match="there is no network 'resnet21'"):
        enumerate_all(32, 32, (), ["resnet21"])
    with pytest.raises(InputError, match="widths: 0 must be a factor above 0"):
        enumerate_all(32, 32, (), None, None, [0.0])
    with pytest.raises(InputError, match="models: the list is empty"):
        enumerate_all(32, 32, (), [])


# ---- costs ----

PREPROCESS = Preprocess(size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
RECIPE = Recipe(model="resnet8_cifar", size=32, epochs=1, precision="fp32", batch_size=64)


def measured(name: str, limits: Limits | None = None) -> Costs:
    spec = replace(zoo.get(name), num_classes=10)
    return costs.restored(costs.measure(spec, RECIPE, PREPROCESS, limits or Limits(), 1.0))


def test_a_deeper_network_costs_more() -> None:
    torch.set_num_threads(1)
    shallow, deep = measured("resnet8_cifar"), measured("resnet56_cifar")
    for field in (
        "params",
        "macs",
        "memory_gb",
        "answer_gb",
        "latency_ms",
        "batch_ms",
        "step_seconds",
        "least_minutes",
    ):
        assert 0 < getattr(shallow, field) < getattr(deep, field), field
    assert shallow.step_seconds is not None
    assert shallow.batch_ms is not None
    assert shallow.picture_seconds == pytest.approx(shallow.step_seconds / 64)
    assert shallow.least_minutes == pytest.approx(costs.LEAST_STEPS * shallow.step_seconds / 60)
    assert shallow.latency_ms < shallow.batch_ms < 64 * shallow.latency_ms
    assert shallow.answer_gb > 4 * cost.cost(zoo.get("resnet8_cifar"), 32).params / 1e9


def test_what_breaks_a_limit_is_not_measured_further() -> None:
    torch.set_num_threads(1)
    found = measured("resnet8_cifar", Limits(latency_ms=1e-3))
    assert found.step_seconds is None
    assert found.broken(Limits(latency_ms=1e-3)) == {"latency_ms": found.latency_ms}


def test_limits() -> None:
    some = Costs(params=1, macs=1, memory_gb=2, answer_gb=1, latency_ms=5, picture_seconds=1e-3, least_minutes=0.5)
    assert some.broken(Limits()) == {}
    assert some.broken(Limits(latency_ms=5, train_minutes=0.5, memory_gb=2)) == {}
    assert some.broken(Limits(latency_ms=4, train_minutes=0.4, memory_gb=1)) == {
        "latency_ms": 5,
        "train_minutes": 0.5,
        "memory_gb": 2,
    }
    larger = replace(some, latency_ms=7.0, memory_gb=1.0)
    said = costs.nearest([("a", some), ("b", larger)], Limits(latency_ms=4, memory_gb=1))
    assert said.startswith("latency_ms=4: no candidate is within it; b comes nearest and needs 7 ms an answer.")
    with pytest.raises(InputError, match="latency_ms=-1 must be above 0 and finite"):
        Limits(latency_ms=-1)


def entrant(size: int, pace: float, pictures: float = 1e5) -> Entrant:
    return Entrant(
        candidate=Candidate(model="resnet8_cifar", spec=(), width=1, size=size),
        recipe=RECIPE,
        costs=Costs(params=1, macs=1, memory_gb=1, answer_gb=1, latency_ms=1, picture_seconds=pace),
        pictures=pictures,
    )


def test_with_minutes_a_slower_network_sees_fewer_pictures() -> None:
    candidate = Candidate(model="resnet8_cifar", spec=(), width=1, size=32)
    recipe = replace(RECIPE, epochs=None, minutes=2.0)
    slow, fast = (
        Entrant.of(candidate, recipe, replace(entrant(32, 1.0).costs, picture_seconds=pace), 1000)
        for pace in (0.1, 0.01)
    )
    assert (slow.pictures, fast.pictures) == (1050, 10500)  # of 1,200 and 12,000: a run keeps an eighth back
    assert slow.seconds == fast.seconds == 105
    assert Entrant.of(candidate, RECIPE, slow.costs, 1000).pictures == 1000


def test_little_time_trains_some_of_the_candidates_evenly(tmp_path: Path) -> None:
    entrants = [entrant(size, 1e-4 * size) for size in range(20, 0, -1)]
    assert first_rung(entrants, 1e6, Ledger(tmp_path / "a", {})) == list(range(20))
    some = first_rung(entrants, 60, Ledger(tmp_path / "b", {}))
    assert 3 < len(some) < 12
    assert some[-1] == 19
    assert max(np.diff(some)) <= 2 * min(np.diff(some))
    assert first_rung(entrants, -5, Ledger(tmp_path / "c", {})) == [17, 18, 19]
    dear = [entrant(99, 1.0), *entrants]
    assert 0 not in first_rung(dear, 600, Ledger(tmp_path / "d", {}))


def test_rates_follow_the_batch_of_a_short_training() -> None:
    assert for_batch(replace(RECIPE, optimizer="sgd", lr=0.1), 16).lr == 0.025
    muon = for_batch(replace(RECIPE, optimizer="muon", lr=0.1, rest_lr=0.1), 16)
    assert (muon.lr, muon.rest_lr, muon.batch_size) == (0.05, 0.025, 16)
    assert for_batch(replace(RECIPE, optimizer="adam", lr=0.1), 16).lr == 0.1


# ---- whole searches ----

FEW: dict[str, Any] = {"models": ["resnet8_cifar", "resnet14_cifar"], "widths": [1.0, 2.0]}


def digits() -> tuple[Any, Any]:
    split = sources.load("digits").splits["all"]
    return np.stack(
        [split.pictures.pixels(i, Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))) for i in range(len(split))]
    ), split.labels


def command(out: Path) -> list[str]:
    words = "depth digits --minutes 0.15 --train-minutes 20 --models resnet8_cifar,resnet14_cifar --widths 1,2 --json"
    return [sys.executable, "-m", "resvision", *words.split(), "--out", str(out)]


def test_a_search_that_is_killed_goes_on_and_its_command_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = tmp_path / "search"
    first = subprocess.Popen(command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger = out / "finished.jsonl"
    begin = time.monotonic()
    while not (ledger.is_file() and "training 0" in ledger.read_text()):
        assert first.poll() is None
        assert time.monotonic() - begin < 60
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = ledger.read_text().splitlines()
    second = subprocess.run(command(out), env=environment, capture_output=True, text=True, check=True)
    numbers = json.loads(second.stdout)
    assert ledger.read_text().splitlines()[: len(before)] == before
    assert numbers == {"folder": str(out)} | json.loads((out / "numbers.json").read_text())
    trained = [row for row in numbers["candidates"] if row["trained"]]
    assert len(numbers["candidates"]) == 4
    assert len(trained) >= 2
    for row in trained:
        assert 0 < row["interval"][0] <= row["accuracy"] <= row["interval"][1] <= 1
        assert row["train_minutes"] == pytest.approx(17.5)  # without the eighth that a run keeps back
        assert row["line"][-1][0] == 1
    assert sum(row["sure"] for row in trained) == pytest.approx(1, abs=0.01)
    best = numbers["recommended"]["name"]
    assert best == max(trained, key=lambda row: row["accuracy"])["name"]
    page = (out / "README.md").read_text()
    assert numbers["commands"]["recommended"] in page
    assert all(line in page for line in numbers["description"])
    with Image.open(out / "depth.png") as picture:
        assert picture.width > 1000
    assert "</svg>" in (out / "depth.svg").read_text()
    words = shlex.split(numbers["commands"]["recommended"])
    assert words[:3] == ["resvision", "train", "digits"]
    place = words.index("--minutes")
    assert words[place : place + 2] == ["--minutes", "20"]
    words[place : place + 2] = ["--max-steps", "2"]
    torch.set_num_threads(1)
    with pytest.raises(SystemExit) as leaving:
        main([*words[1:], "--out", str(tmp_path / "run"), "--json"])
    assert leaving.value.code == 0
    row = next(row for row in trained if row["name"] == best)
    assert json.loads(capsys.readouterr().out)["params"] == row["costs"]["params"]


def test_without_limits_the_frontier_is_looked_for(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    array, labels = digits()
    data: dict[str, Any] = {"data": (array[:600], labels[:600]), "validation": (array[600:900], labels[600:900])}
    numbers, folder = resvision.depth(**data, **FEW, minutes=0.05, epochs=2, recipe="plain", out=tmp_path / "a")
    rows = {row["name"]: row for row in numbers["candidates"]}
    prices = [rows[name]["costs"]["latency_ms"] for name in numbers["frontier"]]
    accuracies = [rows[name]["accuracy"] for name in numbers["frontier"]]
    assert prices == sorted(prices)
    assert accuracies == sorted(accuracies)
    assert numbers["recommended"]["name"] in numbers["frontier"]
    assert not numbers["limited"]
    assert all(row["epochs"] == 2 for row in rows.values() if row["trained"])
    assert "--epochs 2" in numbers["commands"]["recommended"]
    assert numbers["commands"]["depth"].startswith(
        "resvision depth DATA --minutes 0.05 --models resnet8_cifar,resnet14"
    )
    with pytest.raises(RunError, match="holds a search with another minutes: give another --out"):
        resvision.depth(**data, **FEW, minutes=0.06, epochs=2, recipe="plain", out=folder)


def test_mistakes_are_named(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    with pytest.raises(InputError, match=r"no candidate is within it; resnet8_cifar at 8 px comes nearest and needs"):
        resvision.depth(
            "digits", latency_ms=1e-4, minutes=0.01, models=["resnet8_cifar"], widths=[1], out=tmp_path / "a"
        )
    with pytest.raises(InputError, match="minutes=0 must be above 0 and finite"):
        resvision.depth("digits", minutes=0)
    with pytest.raises(InputError, match="model and size: are searched for; say which with models and sizes"):
        resvision.depth("digits", model="resnet8_cifar", size=8)
    with pytest.raises(InputError, match="widths: inf must be a factor above 0 and at most 64"):
        resvision.depth("digits", widths=[float("inf")])
    for adaptive in ({"spec": ("gates=true",)}, {"spec": ("exits=[1]",)}, {"exits": "auto"}, {"gate_rate": 0.5}):
        with pytest.raises(ResvisionError, match=r"without (early exits and gates|--gate-rate)"):
            resvision.depth("digits", out=tmp_path / "e", **adaptive)
    with pytest.raises(RecipeError, match="lr=auto: trials train from scratch at a given rate"):
        resvision.depth("digits", lr="auto", out=tmp_path / "b")
    with pytest.raises(RecipeError, match="train_minutes and epochs both say how long to train"):
        resvision.depth("digits", epochs=2, train_minutes=1, out=tmp_path / "c")
    with pytest.raises(SpecError, match="there is no network 'resnet9_cifar'"):
        resvision.depth("digits", models="resnet9_cifar")
    with pytest.raises(InputError, match="minutes=inf must be above 0 and finite"):
        resvision.depth("digits", minutes=float("inf"))
    with pytest.raises(InputError, match="latency_ms=inf must be above 0 and finite"):
        resvision.depth("digits", latency_ms=float("inf"))
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    few = (pictures, ["a", "a", "a", "a", "b"])
    with pytest.raises(DataError, match="the class b has one training picture; a second one must judge"):
        resvision.depth(few, validation=(pictures[3:], ["a", "b"]), minutes=0.05, out=tmp_path / "d")
    assert not (tmp_path / "b").exists()


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["depth"], "DATA"),
        (["depth", "nowhere"], "there is no folder"),
        (["depth", "digits", "--latency-ms", "-3"], "latency_ms=-3 must be above 0 and finite"),
        (["depth", "digits", "--sizes", "8.5"], "8.5 is no whole number"),
        (["depth", "digits", "--models", "resnet9_cifar"], "there is no network 'resnet9_cifar'"),
        (["depth", "digits", "--model", "resnet8_cifar"], "--model"),
    ):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 2
        assert said.lower() in capsys.readouterr().err.lower()


def test_the_words_follow_the_numbers() -> None:
    costs_of = {"latency_ms": 4.0, "batch_ms": 60.0, "memory_gb": 0.5}
    row = {
        "name": "a",
        "breaks": {},
        "trained": True,
        "costs": costs_of,
        "interval": [0.8, 0.9],
        "accuracy": 0.85,
        "near": 0.9,
        "sure": 0.7,
        "epochs": 3.0,
        "train_minutes": 5.0,
        "trainings": [{"part": 0.25}],
    }
    other = row | {"name": "b", "accuracy": 0.82}
    out = {"name": "c", "breaks": {"latency_ms": 9.0}, "trained": False}
    numbers = {"candidates": [row, other, out], "recommended": {"name": "a"}, "limited": True}
    numbers |= {"settings": {"minutes": 2.0}, "seconds": 125.0}
    text = " ".join(depth.describe(numbers))
    assert "3 candidates: 1 cost more than is allowed, 2 were trained" in text
    assert "Recommended: a. Trained in full (3.0 epochs, about 5.0 minutes) it should reach 85.0% (95% interval" in text
    assert "Next: b, 82.0%." in text
    assert "longest proxies saw 25%" in text
    assert "cheapest" not in text
    assert "The search took" not in text
    assert "The search took 3.0 minutes in place of 2:" in " ".join(depth.describe(numbers | {"seconds": 180.0}))
    assert "cheapest" in " ".join(depth.describe(numbers | {"limited": False}))
