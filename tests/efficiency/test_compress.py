"""Compression: the ladder on a small network, from the command line to the classifier that comes out."""

import dataclasses
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import resvision
from resvision import zoo
from resvision.classifier import Classifier
from resvision.cli import main
from resvision.cost import cost
from resvision.data.loader import EvaluationBatches
from resvision.data.sources import load, prepare
from resvision.deployed import open_file
from resvision.efficiency import compress, ladder, prune
from resvision.efficiency.compress import run
from resvision.efficiency.ladder import Goal, Parts, paired_drop
from resvision.errors import ClassifierError, DataError, InputError, Interrupted, RecipeError, RunError
from resvision.exits import ExitRule
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.target import Target
from resvision.training import losses
from resvision.training.ledger import LEDGER_FILE, Ledger

FIELDS: dict[str, Any] = {
    "model": "resnet20_cifar",
    "recipe": "plain",
    "epochs": 12,
    "precision": "fp32",
    "channels_last": True,
    "compile": False,
    "workers": 0,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress") / "run"
    resvision.train("digits", out=folder, **FIELDS)
    return folder


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at here is far from even, so that a short race tells it."""
    monkeypatch.setattr(ladder, "ROUND_SECONDS", 1.0)
    monkeypatch.setattr(ladder, "RACE_SECONDS", 0.2)
    monkeypatch.setattr("resvision.exporting.export.CALIBRATION_PICTURES", 60)


def test_the_drop_is_paired() -> None:
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:4] = False
    after[95] = True
    drop, error = paired_drop(before, after)
    assert drop == pytest.approx(3.0)
    differences = np.array([1] * 4 + [-1] + [0] * 95)
    assert error == pytest.approx(100 * differences.std(ddof=1) / 10)
    assert paired_drop(before, before) == (0.0, 0.0)
    thousand = np.arange(1000)
    assert paired_drop(thousand >= 0, thousand >= 7)[0] == 0.7  # and so it keeps to --max-drop 0.7


def test_the_original_teaches() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    targets = torch.arange(6) % 4
    loss = losses.distilled(losses.cross_entropy(), lambda x: theirs, weight=0.75, temperature=2.0)
    total, logits = loss(lambda x: mine, torch.zeros(1), targets)
    assert torch.equal(logits, mine)
    kl = ((theirs / 2).softmax(1) * ((theirs / 2).log_softmax(1) - (mine / 2).log_softmax(1))).sum(1).mean()
    assert total.item() == pytest.approx((0.25 * F.cross_entropy(mine, targets) + 0.75 * 4 * kl).item(), rel=1e-5)


def test_a_compressed_run_is_a_classifier(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    arguments = ["compress", trained, "digits", "--speedup", "1.2", "--max-drop", "3", "--out", out, "--json"]
    with pytest.raises(SystemExit) as leaving:
        main([str(a) for a in arguments])
    assert leaving.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reached"]
    assert told["best"]["speedup"] >= 1.2
    assert {rung["runtime"] for rung in told["rungs"]} == {
        *("torch fp32", "onnx fp32", "onnx int8", "openvino fp32", "openvino bf16", "openvino int8")
    }
    assert all(rung["promised"] == (rung["drop"] <= 3) for rung in told["rungs"])
    assert json.loads((out / "compress.json").read_text())["best"] == told["best"]
    assert (out / "compress.png").stat().st_size > 10_000
    # The network is the original's, and its fastest form gives the accuracy that was reported.
    before, after = Classifier.load(trained), Classifier.load(out)
    assert after.network.spec == before.network.spec
    runtime = told["best"]["runtime"].split()[0]
    assert runtime in ("onnx", "openvino")
    measured = resvision.evaluate(out, "digits", runtime=runtime)
    pictures = told["reported"]["pictures"]
    assert measured["pictures"] > pictures
    assert abs(measured["accuracy"] - told["reported"]["accuracy"]) < 0.03
    assert after.provenance["compressed"]["from"] == str(trained)
    # The file tells of itself, not of the original.
    [file] = [path for path in (out / "runtimes").iterdir() if path.suffix in (".onnx", ".xml")]
    opened = open_file(file)
    assert opened.metrics == {"split": "reported", "accuracy": told["reported"]["accuracy"]}
    assert opened.temperature == after.temperature


def test_a_network_that_cannot_be_made_smaller_gives_the_best_that_was(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "WAYS", ())
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    goal = Goal(speedup=4, max_drop=1, minutes=0.1, batch_size=1)
    plain = Classifier.load(trained)
    plain.network = ResNet(dataclasses.replace(plain.network.spec, shortcut="none")).eval()
    said: list[str] = []
    best, rungs, reported = run(plain, parts, goal, tmp_path, ledger(tmp_path / "plain"), said.append)
    assert rungs == [best]
    assert best.network == "as it is"
    assert reported["drop"] == 0
    assert "left as it is: a plain network cannot be pruned" in said[-1]

    def broken(network: ResNet, *_: Any) -> ResNet:
        with torch.no_grad():
            network.fc.weight.fill_(float("nan"))
        return network

    monkeypatch.setattr(compress, "taught", broken)
    for _ in range(2):  # the second time by what the ledger holds
        best, rungs, _ = run(Classifier.load(trained), parts, goal, tmp_path, ledger(tmp_path / "nan"), said.append)
        assert rungs == [best]
    assert [line for line in said if "diverged" in line] == ["the teaching diverged: what came of it is left out"] * 2


def test_smaller_networks_are_made_and_taught(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch alone, with so many pictures at once that the network's size decides."""
    monkeypatch.setattr(ladder, "WAYS", ())
    classifier = Classifier.load(trained)
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    said: list[str] = []
    goal = Goal(speedup=1.4, max_drop=100, minutes=0.1, batch_size=128)
    best, rungs, reported = run(classifier, parts, goal, tmp_path / "exports", ledger(tmp_path), said.append)
    assert any("taught by the original" in line for line in said)
    small, large = (cost(c.network.spec, 8).macs for c in (best.classifier, classifier))
    assert small < 0.8 * large
    assert best.speedup > 1.1
    assert reported["accuracy"] > 0.8
    assert [rung.network for rung in rungs] == ["as it is", best.network]
    batches = EvaluationBatches(parts.tuning, classifier.preprocess, 0)
    right = np.concatenate([best.classifier.session(b.squares).argmax(1) == b.labels.numpy() for b in batches])
    assert right.mean() == pytest.approx(best.accuracy)


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / LEDGER_FILE, {}, "a compression")


def one_less(network: ResNet) -> ResNet:
    return prune.without_block(network, prune.removable(network)[0])


def test_a_stopped_climb_goes_on_with_what_was_taught(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C behind the teaching: the same command teaches nothing again, and leaves an ordinary classifier."""
    monkeypatch.setattr(ladder, "WAYS", ())
    out = tmp_path / "small"
    monkeypatch.setattr(compress, "cut", lambda _, best, __: one_less(best.classifier.network))
    taken = cycle([1.0, 0.5])  # of the network as it is, and of the smaller one
    monkeypatch.setattr(ladder, "interleaved", lambda *_, **__: {"original": [1.0], "torch fp32": [next(taken)]})
    goal = {"speedup": 1.4, "max_drop": 100, "minutes": 0.1, "batch_size": 128, "out": out}

    def stop(before: ResNet, after: ResNet) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compress, "taught", lambda network, *_: network)
        patched.setattr(compress.prune, "said", lambda *_: "smaller")
        patched.setattr(ladder.Ladder, "report", stop)
        with pytest.raises(Interrupted, match=f"--out {out} goes on"):
            resvision.compress(trained, "digits", **goal)
    weights = (out / "taught" / "1" / "model.safetensors").read_bytes()

    def never(*_: Any) -> ResNet:
        raise AssertionError("taught again")

    monkeypatch.setattr(compress, "taught", never)
    with pytest.raises(RunError, match="another goal: give another --out"):
        resvision.compress(trained, "digits", **goal | {"speedup": 1.5})
    numbers, folder = resvision.compress(trained, "digits", **goal)
    assert folder == out
    assert next(rung["network"] for rung in numbers["rungs"]) == "as it is"
    assert len(numbers["rungs"]) == 2
    assert sorted(path.name for path in out.iterdir()) == [
        *("compress.json", "compress.png", "model.json", "model.safetensors")
    ]
    assert numbers["best"] == numbers["rungs"][1]
    assert (numbers["from"], numbers["data"]) == (str(trained), "digits")
    assert (out / "model.safetensors").read_bytes() == weights
    with pytest.raises(RunError, match="exists already"):
        resvision.compress(trained, "digits", **goal)


def test_a_cut_that_loses_too_much_is_tried_half_as_far(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times and drops are made up here: four times cheaper loses too much, twice does not."""
    monkeypatch.setattr(ladder, "WAYS", ())
    taken, drops = iter([1.0, 0.25, 0.5]), iter([(0.0, 0.1), (9.0, 0.1), (0.2, 0.1), (0.3, 0.1)])
    monkeypatch.setattr(ladder, "interleaved", lambda *_, **__: {"original": [1.0], "torch fp32": [next(taken)]})
    monkeypatch.setattr(ladder, "paired_drop", lambda before, after: next(drops))
    monkeypatch.setattr(compress, "MOST_AT_ONCE", 8.0)
    monkeypatch.setattr(compress, "taught", lambda network, *_: network)
    wanted: list[float] = []

    def cut(_: Any, best: ladder.Rung, times: float) -> ResNet:
        wanted.append(times)
        network = one_less(best.classifier.network)
        return network if len(wanted) == 2 else one_less(network)

    monkeypatch.setattr(compress, "cut", cut)
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    goal = Goal(speedup=4 / compress.MARGIN, max_drop=1, minutes=1, batch_size=1)
    said: list[str] = []
    best, rungs, reported = run(Classifier.load(trained), parts, goal, tmp_path, ledger(tmp_path), said.append)
    assert wanted == [pytest.approx(4), pytest.approx(2)]
    assert [(rung.speedup, rung.promised) for rung in rungs] == [(1, True), (4, False), (2, True)]
    assert best is rungs[2]
    assert reported["kept"]
    assert "half as far once more" in "".join(said)


def test_the_same_cut_is_not_taught_twice(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what loses too much in float is not taught in 8 bits."""
    monkeypatch.setattr(ladder, "WAYS", (Target(format="openvino", precision="int8"),))
    taken = {"original": [1.0], "torch fp32": [0.9], "openvino int8": [0.5]}
    monkeypatch.setattr(ladder, "interleaved", lambda ways, *_, **__: {name: taken[name] for name in ways})
    drops = iter([(0.0, 0.1), (0.0, 0.1), (9.0, 0.1), (9.0, 0.1), (0.0, 0.1)])
    monkeypatch.setattr(ladder, "paired_drop", lambda before, after: next(drops))
    taught: list[ResNet] = []
    monkeypatch.setattr(compress, "taught", lambda network, *_: taught.append(network) or network)
    monkeypatch.setattr(compress, "cut", lambda _, best, __: one_less(best.classifier.network))
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    said: list[str] = []
    (tmp_path / "exports").mkdir()
    goal = Goal(speedup=3, max_drop=1, minutes=1, batch_size=1)
    classifier = Classifier.load(trained)
    best, rungs, _ = run(classifier, parts, goal, tmp_path / "exports", ledger(tmp_path), said.append)
    assert len(taught) == 1
    assert sum("was taught before" in line for line in said) == 1
    assert not any("8 bits lose too much" in line for line in said)
    assert best is rungs[1]


def test_8_bits_that_lose_too_much_are_learned(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an export in 8 bits loses and how long it takes is made up here, and the teaching is real."""
    monkeypatch.setattr(ladder, "WAYS", (Target(format="openvino", precision="int8"),))
    taken = {"original": [1.0], "torch fp32": [1.0], "openvino int8": [0.5]}
    monkeypatch.setattr(ladder, "interleaved", lambda ways, *_, **__: {name: taken[name] for name in ways})
    classifier = Classifier.load(trained)
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    drops = iter([(0.0, 0.1), (9.0, 0.1), (0.0, 0.1), (0.2, 0.1), (0.0, 0.1)])
    monkeypatch.setattr(ladder, "paired_drop", lambda before, after: next(drops))
    said: list[str] = []
    goal = Goal(speedup=1.05, max_drop=1, minutes=0.2, batch_size=1)
    (tmp_path / "exports").mkdir()
    best, rungs, _ = run(classifier, parts, goal, tmp_path / "exports", ledger(tmp_path), said.append)
    assert [(rung.network, rung.runtime, rung.promised) for rung in rungs] == [
        ("as it is", "torch fp32", True),
        ("as it is", "openvino int8", False),
        ("as it is, taught in 8 bits", "torch fp32", True),
        ("as it is, taught in 8 bits", "openvino int8", True),
    ]
    assert best is rungs[3]
    assert best.speedup == 2.0
    assert any("rounded weights for 0.1 minutes" in line for line in said)
    assert best.classifier.network.spec == classifier.network.spec
    assert abs(rungs[2].accuracy - rungs[0].accuracy) < 0.03
    assert rungs[3].accuracy > 0.9
    before, after = (c.network.state_dict()["conv1.weight"] for c in (classifier, best.classifier))
    assert not torch.equal(before, after)


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_pictures_that_cannot_be_read_are_named_first(trained: Path, tmp_path: Path) -> None:
    """Before anything is measured or taught: without them it would be another question, and no climb goes on."""
    source = load("digits").splits["all"]
    for index in range(60):
        for split in ("train", "val", "test"):
            folder = tmp_path / "data" / split / str(source.labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (8, 8), source.pictures.content(index)).save(folder / f"{index}.png")
    broken = next((tmp_path / "data" / "test").rglob("*.png"))
    whole = broken.read_bytes()
    notes = Notes()
    for damaged in (b"no picture", whole[:60]):  # of the second the header can be read
        broken.write_bytes(damaged)
        with pytest.raises(DataError, match=f"1 unreadable.*{broken.name}"):
            resvision.compress(trained, tmp_path / "data", out=tmp_path / "small", reporter=notes)
        assert not any("times as fast" in line for line in notes.lines)


def test_what_cannot_be_taught_ends_the_climb_and_keeps_what_was_found(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "WAYS", ())

    def refused(*_: Any) -> ResNet:
        raise RecipeError("1 pictures at once need about 2 GB")

    monkeypatch.setattr(compress, "taught", refused)
    monkeypatch.setattr(compress, "cut", lambda _, best, __: one_less(best.classifier.network))
    said: list[str] = []
    splits = prepare(load("digits")).splits
    parts = Parts(train=splits["train"], tuning=splits["val"], reported=splits["val"])
    goal = Goal(speedup=4, max_drop=1, minutes=1, batch_size=1)
    best, rungs, _ = run(Classifier.load(trained), parts, goal, tmp_path, ledger(tmp_path), said.append)
    assert rungs == [best]
    assert any("is not taught: 1 pictures at once need about 2 GB" in line for line in said)
    assert not any(key.startswith("taught") for key in ledger(tmp_path).done)  # there may be room when it goes on


@pytest.mark.parametrize(
    ("goal", "best"),
    [(2.0, "openvino bf16"), (5.4, "openvino bf16"), (5.7, "openvino int8"), (9.0, "openvino bf16")],
)
def test_of_what_is_about_as_fast_the_most_accurate_is_taken(goal: float, best: str) -> None:
    """Unless only the fastest is as fast as is wanted."""

    def rung(runtime: str, speedup: float, accuracy: float, *, promised: bool = True) -> ladder.Rung:
        return ladder.Rung(
            network="",
            classifier=None,
            target=None,
            file=None,
            seconds=1.0,
            drop=0,
            error=0,
            runtime=runtime,
            speedup=speedup,
            accuracy=accuracy,
            promised=promised,
        )

    climbed = object.__new__(ladder.Ladder)
    climbed.goal = Goal(speedup=goal, max_drop=1, minutes=1, batch_size=1)
    climbed.rungs = [
        *(rung("torch fp32", 1.0, 0.9), rung("openvino int8", 5.7, 0.86), rung("openvino bf16", 5.5, 0.87)),
        *(rung("openvino fp32", 4.0, 0.88), rung("onnx int8", 6.0, 0.5, promised=False)),
    ]
    assert climbed.best().runtime == best


def test_early_exits_come_afterwards(tmp_path: Path) -> None:
    network = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=2, exits=(1,)))
    rule = ExitRule(temperatures=(1.0, 1.0), thresholds=(0.9,), seconds=(1e-3, 1e-3))
    Classifier(network=network, preprocess=Preprocess(size=8), classes=("a", "b"), exits=rule).save(tmp_path)
    with pytest.raises(ClassifierError, match="has early exits; train without them, compress that, and add exits to"):
        resvision.compress(tmp_path, "digits", out=tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_gates_are_refused(tmp_path: Path) -> None:
    """Which blocks a picture goes through is not to be seen from one picture, nor what they cost."""
    network = ResNet(dataclasses.replace(zoo.get("resnet14_cifar"), num_classes=2, gates=True))
    Classifier(network=network, preprocess=Preprocess(size=8), classes=("a", "b")).save(tmp_path)
    with pytest.raises(ClassifierError, match="has gates; train without them"):
        resvision.compress(tmp_path, "digits", out=tmp_path / "small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exits": (1,)}, "has early exits; train without"),
        ({"experts": 2}, "has conditional convolutions"),
    ],
)
def test_a_network_is_refused_for_what_it_is(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """An import has exits without a rule by which pictures leave."""
    network = ResNet(dataclasses.replace(zoo.get("resnet14_cifar"), num_classes=2, **changes))
    Classifier(network=network, preprocess=Preprocess(size=8), classes=("a", "b")).save(tmp_path)
    with pytest.raises(ClassifierError, match=message):
        resvision.compress(tmp_path, "digits", out=tmp_path / "small")


def test_data_must_show_every_class(trained: Path, tmp_path: Path) -> None:
    """What is not seen would be pruned away, and nobody would know."""
    pictures = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        (tmp_path / "few" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "few" / str(number % 3) / f"{number}.png")
    with pytest.raises(DataError, match=r"few: has no pictures of 3, 4, 5, 6, 7 and 2 more, which .*run knows"):
        resvision.compress(trained, tmp_path / "few", out=tmp_path / "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speedup": 1.0}, "speedup=1.0 must be above 1"),
        ({"speedup": float("inf")}, "speedup=inf must be above 1, and at most 1000"),
        ({"max_drop": -1.0}, "max_drop=-1.0 must be points of accuracy, from 0 to 100"),
        ({"max_drop": float("inf")}, "max_drop=inf must be points of accuracy, from 0 to 100"),
        ({"minutes": 0.0}, "minutes=0.0 must be above 0"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_goals_must_make_sense(trained: Path, change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resvision.compress(trained, "digits", **change)
