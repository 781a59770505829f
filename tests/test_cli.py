"""The command line as a person meets it: what is printed where, exit statuses, and one clear line for every mistake."""

import csv
import dataclasses
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from resvision import __version__, api, printing, zoo
from resvision.classifier import Classifier
from resvision.cli import app, main
from resvision.data.builtin import load as builtin
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import ConsoleReporter
from resvision.training.run import RunFolder

FAST = ["--model", "resnet8_cifar", "--precision", "fp32", "--channels-last", "--no-compile", "--batch-size", "16"]


def run(*arguments: str | Path) -> int:
    """The exit status of one command, in this process."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "resvision", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def write_pictures(folder: Path, classes: dict[str, int], split: str = "") -> None:
    """Digits of the package as PNG files, one folder a class."""
    split_of = builtin("digits").splits["all"]
    for digit, (name, count) in enumerate(classes.items()):
        (folder / split / name).mkdir(parents=True)
        chosen = np.flatnonzero(split_of.labels == digit)[:count]
        for index in chosen.tolist():
            picture = Image.frombytes("L", (8, 8), split_of.pictures.content(index))
            picture.save(folder / split / name / f"{index}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder, {"zero": 60, "one": 60}, "train")
    write_pictures(folder, {"zero": 20, "one": 20}, "val")
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", data, "--epochs", "6", "--seed", "1", "--out", out, *FAST) == 0
    return out


# ---- help and start ----


def test_help_does_not_import_torch() -> None:
    code = "import sys; from resvision.cli import main\ntry: main(sys.argv[1:])\n"
    code += "except SystemExit: pass\nprint('torch' in sys.modules, 'numpy' in sys.modules)"
    for arguments in ([], ["--help"], ["train", "--help"], ["--version"]):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "False False"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    run("--version")
    assert capsys.readouterr().out.strip() == f"resvision {__version__}"


@pytest.mark.parametrize("verb", [name for name in app if not name.startswith("-")])
def test_every_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    assert f"Example: resvision {verb}" in capsys.readouterr().out
    for argument in app[verb].assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help or argument.name == "*", f"{argument.name} is not described"


# ---- models ----


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["resnet50"]["params"] == 25_557_032
    assert (rows["resnet20_cifar"]["params"], rows["resnet20_cifar"]["size"]) == (269_722, 32)
    assert run("models", "resnet26_cifar", "--classes", "5", "--size", "16", "--channels", "1", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["depth"], row["classes"], row["size"], row["channels"]) == (26, 5, 16, 1)
    assert run("models") == 0
    assert "25,557,032" in capsys.readouterr().out


# ---- the main path ----


def test_train_evaluate_predict(data: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((trained / "result.json").read_text())["accuracy"] >= 0.9
    capsys.readouterr()
    assert run("evaluate", trained, data, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["split"], result["pictures"]) == ("val", 40)
    assert result["accuracy"] == json.loads((trained / "result.json").read_text())["accuracy"]
    assert set(result["per_class"]) == {"zero", "one"}
    assert np.array(result["confusion"]).sum() == 40
    assert run("evaluate", trained, data, "--split", "train") == 0
    assert "120 pictures" in capsys.readouterr().out


def test_any_field_of_a_recipe_is_an_option(data: Path, tmp_path: Path, capsys: Any) -> None:
    options = "--recipe plain --max-steps 2 --lr auto --memory auto --optimizer muon --schedule steps --milestones 0.3"
    options += " --milestones 0.6 --loss gce --gce-q 0.5 --balance sampling --clip 1 --ema 0.9 --trivial-augment"
    options += " --erase 0.25 --drop-path 0.1 --accumulate 2 --no-flip"
    assert run("train", data, *options.split(), "--out", tmp_path / "run", *FAST) == 0
    assert "lr=" in capsys.readouterr().err
    recipe = RunFolder(tmp_path / "run").read_recipe()
    assert isinstance(recipe.lr, float)
    assert (recipe.memory, recipe.optimizer, recipe.milestones) == ("full", "muon", (0.3, 0.6))
    assert (recipe.loss, recipe.gce_q, recipe.balance, recipe.clip) == ("gce", 0.5, "sampling", 1.0)
    assert (recipe.ema, recipe.erase, recipe.drop_path, recipe.accumulate) == (0.9, 0.25, 0.1, 2)
    assert (recipe.trivial_augment, recipe.flip) == (True, False)
    recorded = tmp_path / "run" / "recipe.yaml"
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    for place, again in ((recorded, tmp_path / "again"), (recorded.parent, tmp_path / "of the folder")):
        assert run("train", data, "--recipe", place, "--out", again) == 0
        assert (again / "model.safetensors").read_bytes() == weights


def test_train_json_is_one_document(data: Path, tmp_path: Path) -> None:
    result = process("train", data, "--epochs", "1", "--out", tmp_path / "run", "--json", *FAST)
    assert result.returncode == 0
    document = json.loads(result.stdout)
    assert document["run"] == str(tmp_path / "run")
    assert "epoch   1/1" in result.stderr


def test_predict_prints_what_is_asked(data: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    good = next((data / "val" / "zero").iterdir())
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    assert run("predict", trained, good, text, data / "val" / "one", "--json", "--top", "1") == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == 22
    assert results[0]["path"] == str(good)
    assert results[0]["label"] == "zero"
    assert 0.5 < results[0]["score"] <= 1
    assert len(results[0]["top"]) == 1
    assert results[1] == {"path": str(text), "error": results[1]["error"]}
    assert "not a picture" in results[1]["error"]
    assert run("predict", trained, good, text, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["path"], row["label"], bool(row["error"])) for row in rows] == [
        (str(good), "zero", False),
        (str(text), "", True),
    ]
    assert run("predict", trained, good) == 0
    assert "zero" in capsys.readouterr().out


def test_predict_alone_agrees_with_the_library(data: Path, trained: Path, capsys: Any) -> None:
    path = next((data / "val" / "one").iterdir())
    assert run("predict", trained, path, "--json") == 0
    [printed] = json.loads(capsys.readouterr().out)
    [prediction] = api.predict(trained, path)
    assert printed == json.loads(json.dumps(prediction.to_dict()))


def test_export_and_use(data: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("export", trained, "--format", "onnx", "--out", tmp_path / "m.onnx") == 0
    assert "m.onnx: answers as the original in onnxruntime" in capsys.readouterr().out
    assert run("evaluate", tmp_path / "m.onnx", data, "--json") == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy == json.loads((trained / "result.json").read_text())["accuracy"]
    result = process("export", trained, "--format", "openvino", "--precision", "int8", "--data", data, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["pictures"], document["original_accuracy"]) == (40, accuracy)
    assert [Path(file).name for file in document["files"]] == ["model-A-int8.bin", "model-A-int8.xml"]
    picture = next((data / "val" / "zero").iterdir())
    assert run("predict", trained, picture, "--runtime", "openvino", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["label"] == "zero"
    assert run("benchmark", trained, "--threads", "1") == 0
    printed = capsys.readouterr()
    assert "openvino int8" in printed.out
    assert "exporting: onnx fp32" in printed.err


def test_runs_are_numbered(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "train-007").mkdir(parents=True)
    assert run("train", data, "--max-steps", "1", *FAST) == 0
    assert run("train", data, "--max-steps", "1", *FAST) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["train-007", "train-008", "train-009"]


def test_the_demo_keeps_its_promise(tmp_path: Path) -> None:
    """Side by side, on a thread each."""
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "resvision", "demo", "--out", str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one) as first:
        second = process("demo", "--out", tmp_path / "b", "--json", env=one)
        said, progress = first.communicate()
    assert (first.returncode, second.returncode) == (0, 0), progress + second.stderr
    assert "Next:" in said
    assert json.loads(second.stdout)["accuracy"] >= 0.985
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


# ---- signals ----


def test_ctrl_c_is_one_line_whatever_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path, data: Path
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resvision.api.evaluate", stop)
    assert run("evaluate", trained, data) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "resvision: stopped"


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell lets what it runs in the background ignore Ctrl-C, and so would the processes of a test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_an_experiment_tidy_up(
    trained: Path, data: Path, tmp_path: Path, number: int, status: int
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "it's smaller"
    scratch.mkdir()
    command = [sys.executable, "-m", "resvision", "compress", trained, data, "--speedup", "100", "--out", out]
    with subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}
    ) as running:
        assert running.stderr is not None
        deadline = time.monotonic() + 120
        while not any(names for _, _, names in os.walk(scratch)):  # the first ladder begins to write its exports
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.send_signal(number)
        rest = running.stderr.read()
        assert running.wait(timeout=60) == status
    assert rest.splitlines()[-1] == f"resvision: stopped; the same command with --out {shlex.quote(str(out))} goes on"
    assert "Traceback" not in rest
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(data: Path, tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-m", "resvision", "train", data, "--epochs", "2000", "--out", tmp_path / "run", *FAST]
    # A session of its own, and the signal to all of it, as a terminal sends Ctrl-C to the workers, too.
    with subprocess.Popen(
        [*map(str, command), "--workers", "2", "--crop-scale", "0.5"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("epoch   2/"):
                os.killpg(running.pid, number)
                break
        rest = running.stderr.read()
        assert running.wait(timeout=60) == status
    assert f"go on with: resvision train --resume {tmp_path / 'run'}" in rest.splitlines()[-1]
    assert "Traceback" not in rest
    recipe = RunFolder(tmp_path / "run")
    done = len(recipe.read_metrics())
    recipe.write_recipe(recipe.read_recipe().__class__(**{**vars(recipe.read_recipe()), "steps": (done + 1) * 7}))
    assert run("train", "--resume", tmp_path / "run") == 0
    assert len(recipe.read_metrics()) == done + 1


# ---- mistakes: one clear line, status 2 ----


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a wrong command prints."""
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert lines[-1].startswith("resvision: ")
    assert "Traceback" not in printed.err
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "there is no folder, file or built-in data set 'nowhere'; built in are digits"),
        (["train"], "no data were given"),
        (["train", "digits", "--model", "resnet19"], "there is no network 'resnet19'; did you mean resnet18"),
        (["train", "digits", "--model", "resnet19_cifar"], "the nearest are resnet14_cifar and resnet20_cifar"),
        (["train", "digits", "--epochs", "-1"], "epochs=-1 must be at least 1"),
        (["train", "digits", "--epochs", "two"], '"two"'),
        (["train", "digits", "--epochs", "0.9"], "--epochs 0.9 is no whole number"),
        (["train", "digits", "--seed", "1.5"], "--seed 1.5 is no whole number"),
        (["models", "resnet18", "--size", "128.7"], "--size 128.7 is no whole number"),
        (["predict", "nowhere", "a.jpg", "--top", "1.9"], "--top 1.9 is no whole number"),
        (["depth", "digits", "--sizes", "8,x"], 'Invalid value for --sizes: unable to convert "x" into int'),
        (["depth", "digits", "--models", "resnet8_cifar, resnet9_cifar"], "there is no network 'resnet9_cifar'"),
        (["depth", "digits", "--train-minutes", "5", "--epochs", "3"], "train_minutes and epochs both say how long"),
        (["train", "digits", "--milestones", "0.5,1.5"], "milestones=(0.5, 1.5) must lie between 0 and 1"),
        (["train", "digits", "--spec", "both", "--spec", "gates=true"], "spec 'both': give FIELD=VALUE"),
        (["train", "digits", "--spec", "pad_sides=end"], "there is no field 'pad_sides'; did you mean 'pad_side'?"),
        (
            ["train", "digits", "--label-column", "zzz"],
            "digits: only a manifest (.csv, .tsv) has columns: leave out --label",
        ),
        (["train", "digits", "--epochs", "1", "--minutes", "1"], "epochs and minutes both say how long to train"),
        (["train", "digits", "--lr", "0"], "lr=0.0 must be a number above 0"),
        (["train", "digits", "--batch-size", "0"], "batch_size=0 must be at least 1"),
        (["train", "digits", "--size", "100000"], "size=100000"),
        (["train", "digits", "--optimizer", "sdg"], "sgd"),
        (["train", "digits", "--epoch", "3"], "--epoch"),
        (["train", "digits", "--recipe", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["train", "digits", "--recipe", "nosuch"], "there is no recipe 'nosuch': there are auto, quick, strong,"),
        (["train", "digits", "--recipe", "nosuch/recipe"], "nosuch/recipe: No such file"),
        (["train", "digits", "--recipe", "strong", "--model", "resnet19"], "there is no network 'resnet19'"),
        (["train", "digits", "--lr", "fast"], '"fast"'),
        (["train", "digits", "--batch-size", "-3"], "batch_size=-3 must be at least 1"),
        (
            ["train", "digits", "--model", "plain20_cifar", "--drop-path", "0.1"],
            "drop_path=0.1: a plain network cannot leave out its branches",
        ),
        (
            ["train", "digits", "--model", "revnet38_cifar", "--drop-path", "0.1"],
            "drop_path=0.1: a reversible network cannot leave out its branches",
        ),
        (
            ["train", "digits", "--model", "resnet18", "--size", "32", "--batch-size", "1"],
            "one picture of 32 px at a time has features of 1 x 1, which a batch norm cannot learn from",
        ),
        (
            ["train", "digits", "--minutes", "0.001", "--recipe", "plain"],
            "minutes=0.001: getting ready and the last evaluation take",
        ),
        (["train", "--resume", "nowhere"], "nowhere: there is no run to go on with"),
        (["trian", "digits"], "trian"),
        (["models", "resnet"], "there is no network 'resnet'"),
        (["models", "--size", "-5"], "size=-5 must be a positive"),
        (["models", "--classes", "0"], "num_classes=0 must be a positive"),
        (["predict", "nowhere", "a.jpg"], "nowhere: there is no classifier here"),
        (["evaluate", "nowhere", "digits"], "nowhere: there is no classifier here"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in mistake(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []  # a mistake leaves no run folder behind


@pytest.mark.parametrize("verb", ["train", "evaluate", "exits", "compress", "overfit", "depth", "study"])
def test_columns_go_with_manifests_alone(verb: str, data: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Every verb asks for its data at the same place."""
    monkeypatch.chdir(tmp_path)
    spec = zoo.variant("resnet8_cifar", ["exits=[1]"] if verb == "exits" else [])
    network = ResNet(dataclasses.replace(spec, num_classes=2))
    Classifier(network=network, preprocess=Preprocess.plain(8, 3), classes=("zero", "one")).save(tmp_path / "made")
    first = {"train": [], "study": ["paths"], "overfit": [], "depth": []}.get(verb, ["made"])
    line = mistake(capsys, verb, *first, data, "--path-column", "file", "--split-column", "part")
    said = "only a manifest (.csv, .tsv) has columns: leave out --path-column and --split-column"
    assert line == f"resvision: {data}: {said}"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("verb", ["overfit", "depth"])
def test_what_cannot_be_tried_is_refused_before_there_is_a_folder(
    verb: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(verb, "digits", "--lr", "auto") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "resvision: lr=auto: trials train from scratch at a given rate; leave it out"
    assert " in runs" not in said


def test_whole_numbers_and_lists_are_taken_as_they_are_written() -> None:
    def given(line: str) -> Any:
        return app.parse_args(line.split(), print_error=False, exit_on_error=False)[1].arguments

    assert given("models resnet18 --size 128.0 --classes 0x10") == {"name": "resnet18", "size": 128, "classes": 16}
    for line in ("0.5,0.75", "0.5 --milestones 0.75"):
        assert given(f"train digits --milestones {line}")["hyperparameters"].milestones == (0.5, 0.75)
    found = given("depth digits --sizes 8,16 --widths 0.5,1 --models a,b")
    assert (found["sizes"], found["widths"], found["models"]) == ((8, 16), (0.5, 1.0), "a,b")
    assert given("train digits --spec depths=[1,2] --spec gates=true")["hyperparameters"].spec == (
        *("depths=[1,2]", "gates=true"),
    )


def test_mistakes_in_the_data(tmp_path: Path, capsys: Any) -> None:
    write_pictures(tmp_path / "one", {"zero": 5})
    assert "only the class 'zero' was found" in mistake(capsys, "train", tmp_path / "one")
    write_pictures(tmp_path / "empty", {"zero": 5, "one": 5, "two": 0})
    assert "there is no picture of two" in mistake(capsys, "train", tmp_path / "empty")
    write_pictures(tmp_path / "differ", {"zero": 5, "one": 5}, "train")
    write_pictures(tmp_path / "differ", {"zero": 5, "uno": 5}, "val")
    line = mistake(capsys, "train", tmp_path / "differ")
    assert "the classes of val differ from those of train: it lacks one and adds uno" in line
    (tmp_path / "nothing").mkdir()
    assert "holds nothing" in mistake(capsys, "train", tmp_path / "nothing")


def test_unreadable_pictures(data: Path, tmp_path: Path, capsys: Any) -> None:
    write_pictures(tmp_path, {"zero": 40, "one": 40}, "train")
    write_pictures(tmp_path, {"zero": 10, "one": 10}, "val")
    (tmp_path / "train" / "zero" / "text.jpg").write_text("no picture")
    short = ["--max-steps", "1", "--out", tmp_path / "run", *FAST]
    line = mistake(capsys, "train", tmp_path, *short, "--max-bad", "0")
    assert "1 unreadable: train/zero/text.jpg (not a picture of a known format" in line
    assert run("train", tmp_path, *short, "--max-bad", "0.02") == 0
    assert "skipped train/zero/text.jpg" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "run" / "result.json").read_text())["unreadable"]) == ["train/zero/text.jpg"]
    (tmp_path / "train" / "zero" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    again = ["--max-steps", "1", "--out", tmp_path / "again", *FAST]
    line = mistake(capsys, "train", tmp_path, *again, "--max-bad", "0.015")  # one may be, and two are
    assert "train/zero/IMG_1.HEIC (not a picture of a known format" in line
    (tmp_path / "val" / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    line = mistake(capsys, "evaluate", tmp_path / "run", tmp_path)
    assert "val/one/broken.png" in line
    assert "an evaluation leaves nothing out" in line


def test_a_folder_without_pictures(trained: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "manual.pdf").write_text("no picture")
    assert f"{tmp_path}: holds no pictures" in mistake(capsys, "predict", trained, tmp_path)


def test_a_run_folder_that_exists(data: Path, trained: Path, capsys: Any) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    line = mistake(capsys, "train", data, "--out", trained, *FAST)
    assert line.endswith(f"{trained} exists already: give another --out")
    assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}


def test_evaluating_unknown_classes_or_splits(trained: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    write_pictures(tmp_path, {"zero": 5, "two": 5})
    line = mistake(capsys, "evaluate", trained, tmp_path)
    assert "has classes that the classifier does not know: two" in line
    line = mistake(capsys, "evaluate", trained, data, "--split", "test")
    assert "there is no split 'test'; there are train, val" in line


def test_evaluating_what_has_no_training_part(trained: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    """Pictures of one class, and a manifest of test pictures."""
    write_pictures(tmp_path, {"zero": 5})
    assert run("evaluate", trained, tmp_path, "--split", "all", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 5
    assert "only the class 'zero' was found" in mistake(capsys, "train", tmp_path, *FAST)
    files = sorted((data / "val").rglob("*.png"))
    rows = [f"{file},{file.parent.name},test" for file in files]
    (tmp_path / "test.csv").write_text("\n".join(["path,label,split", *rows]))
    for options in ((), ("--split", "test"), ("--split", "all")):
        assert run("evaluate", trained, tmp_path / "test.csv", "--json", *options) == 0
        assert json.loads(capsys.readouterr().out)["pictures"] == len(files)


def test_a_full_disk(data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the operating system refuses to write on."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    result = process("train", data, "--max-steps", "1", "--out", tmp_path / "run", *FAST, preexec_fn=limit)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"resvision: {tmp_path / 'run' / 'checkpoints'}")
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.safetensors"))  # no half of a file is left


def test_a_folder_that_cannot_be_made(data: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in mistake(capsys, "train", data, "--out", tmp_path / "file" / "run", *FAST)
    assert "exists already" in mistake(capsys, "train", data, "--out", tmp_path / "file", *FAST)


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
def test_a_reader_that_leaves_early_is_no_error(form: list[str]) -> None:
    """Nothing is said, and the status is 0, also of what fits into one write."""
    command = [sys.executable, "-m", "resvision", "models", *form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0
    assert said == b""


def test_a_run_that_nobody_watches_any_more_goes_on(data: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "resvision",
        "train",
        str(data),
        "--max-steps",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    with subprocess.Popen([*command, *FAST], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        assert process.wait() == 0
    assert (tmp_path / "run" / "result.json").is_file()


def test_codes_of_emoji_in_names_are_names(capsys: Any) -> None:
    printing.print_table(["picture"], [["a:dog:1.jpg"]])
    assert "a:dog:1.jpg" in capsys.readouterr().out
    ConsoleReporter().note("skipped a:dog:1.jpg")
    assert "a:dog:1.jpg" in capsys.readouterr().err


def test_names_of_classes_are_trimmed(tmp_path: Path, capsys: Any) -> None:
    made = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=2))
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("cat \n\n  dog\n")
    options = ["--model", "resnet8_cifar", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    arguments = ["import", tmp_path / "w.safetensors", *options, "--classes", tmp_path / "names.txt", "--json"]
    with pytest.raises(SystemExit):
        main([str(a) for a in [*arguments, "--out", tmp_path / "run"]])
    assert json.loads(capsys.readouterr().out)["classes"] == ["cat", "dog"]
