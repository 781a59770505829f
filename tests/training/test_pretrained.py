"""Fine-tuning: where weights come from, what they are put into, and what learns when."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loop import FIXED, StopAt, same, stripes, weights

from resvision import api, zoo
from resvision.classifier import Classifier
from resvision.cli import main
from resvision.data.reading import Batch
from resvision.errors import ClassifierError, InputError, Interrupted, MissingExtraError, RecipeError
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.training import RunFolder, engine, optim, phases, pretrained
from resvision.training.losses import cross_entropy

CLASSES = ("across", "down")
STEPS = 12  # of three an epoch, with 96 pictures and batches of 32
TUNED: dict[str, Any] = {
    **{key: value for key, value in FIXED.items() if key != "model"},
    "max_steps": STEPS,
    "lr": 0.05,
    "head_first": 0.0,
    "lr_decay": 1.0,
}


def network(model: str = "resnet8_cifar", spec: tuple[str, ...] = (), classes: int = 5, channels: int = 1) -> ResNet:
    """A network whose every value matters, as if it had been trained; the same each time."""
    torch.manual_seed(3)
    made = ResNet(dataclasses.replace(zoo.variant(model, spec), num_classes=classes, in_channels=channels))
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape)
            value.add_(0.1 * (noise.abs() if "var" in key else noise))
    return made


def source(
    folder: Path,
    model: str = "resnet8_cifar",
    spec: tuple[str, ...] = (),
    classes: tuple[str, ...] = ("a", "b", "c", "d", "e"),
    preprocess: Preprocess | None = None,
) -> Path:
    """A classifier in a folder, as an import leaves it."""
    if preprocess is None:
        preprocess = Preprocess(size=8, channels=1, mean=(0.31,), std=(0.17,), interpolation="bicubic")
    made = network(model, spec, len(classes), preprocess.channels)
    provenance = {"imported": "it", "model": model, "spec": list(spec)}
    Classifier(network=made, preprocess=preprocess, classes=classes, provenance=provenance).save(folder)
    return folder


def tune(place: Path | str, out: Path, **fields: Any) -> api.TrainingResult:
    values = {**TUNED, "pretrained": str(place), "out": out, **fields}
    return api.train(stripes(96), validation=stripes(32, 1), **values)


def trunk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(RunFolder(folder).last_checkpoint)
    return {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


# ---- what a network begins with ----


def test_the_trunk_is_the_sources_and_the_last_layer_is_new(tmp_path: Path) -> None:
    found = pretrained.read(str(source(tmp_path / "a")))
    torch.manual_seed(0)
    new = ResNet(dataclasses.replace(found.spec, num_classes=2))
    last = new.fc.weight.clone()
    line = pretrained.fill(new, found, CLASSES)
    assert line == f"pretrained: resnet8_cifar from {tmp_path / 'a'}, with a new last layer"
    assert same(trunk(new.state_dict()), found.state)
    assert torch.equal(new.fc.weight, last)


def test_the_same_classes_keep_the_last_layer_and_all_figures(tmp_path: Path) -> None:
    """With a learning rate too small to move anything, the run reports what the source reported."""
    data, validation = stripes(96), stripes(64, 1)
    first = api.train(data, validation=validation, max_steps=6, out=tmp_path / "a", **FIXED)
    notes = Notes()
    again = api.train(
        data,
        validation=validation,
        out=tmp_path / "b",
        reporter=notes,
        **{**TUNED, "pretrained": str(tmp_path / "a"), "lr": 1e-30, "freeze_norms": True},
    )
    assert any(line.endswith("with its last layer, since the classes are the same") for line in notes.lines)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert (again.result["accuracy"], again.result["loss"]) == (first.result["accuracy"], first.result["loss"])
    found = pretrained.read(str(tmp_path / "a"))
    assert "with a new last layer" in pretrained.fill(ResNet(found.spec), found, CLASSES[::-1])


def test_gates_can_be_learned_by_a_network_that_has_none(tmp_path: Path) -> None:
    place = source(tmp_path / "a", "resnet20_cifar")
    made = tune(place, tmp_path / "b", gate_rate=0.5)
    assert made.classifier.network.spec.gates
    assert 0 < made.result["gates"]["rate"] <= 1
    again = tune(tmp_path / "b", tmp_path / "c")  # which has them, and needs no rate
    assert again.classifier.network.spec.gates


def test_classes_that_an_import_numbered_are_not_the_same(tmp_path: Path) -> None:
    """The digits are called 0 to 9, too."""
    save_file(network(classes=10).state_dict(), tmp_path / "w.safetensors")
    given: dict[str, Any] = {"model": "resnet8_cifar", "preprocess": {"mean": [0.5], "std": [0.5]}}
    numbers = tuple("0123456789")
    for name, classes in (("numbered", None), ("named", numbers)):
        api.import_weights(tmp_path / "w.safetensors", classes=classes, out=tmp_path / name, **given)
        found = pretrained.read(str(tmp_path / name))
        line = pretrained.fill(ResNet(found.spec), found, numbers)
        assert line.endswith("with a new last layer" if classes is None else "since the classes are the same")


def test_pictures_are_prepared_as_the_weights_expect_them(tmp_path: Path) -> None:
    """Grey pictures become RGB for a network that takes RGB, and the data's own mean is not used."""
    preprocess = Preprocess(size=12, crop=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="lanczos")
    source(tmp_path / "a", preprocess=preprocess)
    made = tune(tmp_path / "a", tmp_path / "b", max_steps=1)
    assert made.classifier.preprocess == preprocess
    assert f"Begun with the weights of `{tmp_path / 'a'}`" in (made.folder / "README.md").read_text()
    assert made.classifier.network.spec.in_channels == 3
    other = tune(tmp_path / "a", tmp_path / "c", max_steps=1, size=8, crop=1.0)
    assert other.classifier.preprocess == dataclasses.replace(preprocess, size=8, crop=1.0)


def test_weights_of_a_file(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.th")
    save_file({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "w.safetensors")
    for name in ("w.th", "w.safetensors"):
        made = tune(tmp_path / name, tmp_path / f"of-{name}", model="resnet8_cifar", head_first=1.0)
        assert same(trunk(state), trunk(made.classifier.network.state_dict()))
    assert made.classifier.preprocess.mean == pytest.approx([stripes(96)[0].mean() / 255], abs=1e-4)  # the data's
    with pytest.raises(RecipeError, match=r"w\.th: a file of weights does not say which network it is: give --model"):
        tune(tmp_path / "w.th", tmp_path / "none")


# ---- other networks than their name says ----


def test_a_network_that_differs_from_its_name_is_built_and_recorded(tmp_path: Path) -> None:
    source(tmp_path / "a", spec=("pad_side=both",))
    made = tune(tmp_path / "a", tmp_path / "b", max_steps=1)
    assert made.classifier.network.spec.pad_side == "both"
    recipe = RunFolder(made.folder).read_recipe()
    assert (recipe.model, recipe.spec) == ("resnet8_cifar", ("pad_side=both",))
    assert recipe.pretrained == str(tmp_path / "a")
    again = tune(tmp_path / "b", tmp_path / "c", max_steps=1)  # a run as the source
    assert again.classifier.network.spec.pad_side == "both"


def test_any_training_takes_a_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--model resnet8_cifar --spec shortcut=project --spec init=zero_gamma --max-steps 1 --precision fp32"
    with pytest.raises(SystemExit) as leaving:
        main(["train", "digits", *options.split(), "--no-compile", "--channels-last", "--out", str(tmp_path / "a")])
    assert leaving.value.code in (0, None)
    classifier = Classifier.load(tmp_path / "a")
    assert "layer2.0.downsample.0.weight" in classifier.network.state_dict()
    assert classifier.network.spec.init == "zero_gamma"
    assert classifier.provenance["recipe"]["spec"] == ["shortcut=project", "init=zero_gamma"]
    with pytest.raises(InputError, match="spec: there is no field 'short_cut'"):
        api.train(stripes(32), spec=("short_cut=project",), out=tmp_path / "b", **FIXED)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "resnet20_cifar"},
            "go with model='resnet8_cifar', not 'resnet20_cifar': leave out --model, or take",
        ),
        ({"spec": ("pad_side=both",)}, "go with spec='', not 'pad_side=both': leave out --spec"),
        ({"channels": 3}, "go with channels=1, not 3: leave out --channels, or take others"),
    ],
)
def test_weights_of_another_network_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    source(tmp_path / "a")
    with pytest.raises(RecipeError, match=re.escape(message)):
        tune(tmp_path / "a", tmp_path / "b", **fields)
    assert not (tmp_path / "b").exists()
    agreeing = {"model": "resnet8_cifar", "spec": ("pad_side=end",), "channels": 1}
    assert pretrained.read(str(tmp_path / "a"), **agreeing).model == "resnet8_cifar"


def test_every_weight_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = network().state_dict()
    state["extra"] = state.pop("layer3.0.conv2.weight")
    state["layer1.0.bn1.bias"] = torch.zeros(3)
    state["fc.weight"] = torch.zeros(9, 9)  # the last layer may be anything
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ClassifierError) as caught:
        tune(tmp_path / "w.safetensors", tmp_path / "b", model="resnet8_cifar")
    assert str(caught.value) == (
        f"{tmp_path / 'w.safetensors'}: not the weights of resnet8_cifar: layer3.0.conv2.weight is missing; "
        "extra is unexpected; layer1.0.bn1.bias is (3,) instead of (16,)"
    )
    for place, message in (
        (tmp_path / "gone", "there is no such folder or file"),
        (tmp_path, "there is no classifier"),
    ):
        with pytest.raises(InputError, match=message):
            tune(place, tmp_path / "b")


def test_a_classifier_without_a_name_wants_one(tmp_path: Path) -> None:
    preprocess = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))
    Classifier(network=network(classes=2), preprocess=preprocess, classes=CLASSES).save(tmp_path / "a")
    with pytest.raises(RecipeError, match="does not say which network it is: give --model"):
        pretrained.read(str(tmp_path / "a"))
    assert pretrained.read(str(tmp_path / "a"), model="resnet8_cifar").spec.num_classes == 2


# ---- what learns when ----


def test_until_its_end_the_first_phase_leaves_all_but_the_last_layer_alone(tmp_path: Path) -> None:
    """Weights and running statistics, bit for bit; one step later all of them have moved."""
    source(tmp_path / "a")
    before = trunk(weights(tmp_path / "a"))
    for stop in (6, 7):
        with pytest.raises(Interrupted):
            tune(tmp_path / "a", tmp_path / f"{stop}", head_first=0.5, reporter=StopAt(stop))
        now = checkpoint(tmp_path / f"{stop}")
        moved = {key for key, value in before.items() if not torch.equal(value, now[key])}
        assert moved == (set() if stop == 6 else set(before))
    momenta = [key for key in load_file(RunFolder(tmp_path / "6").last_checkpoint) if key.startswith("optimizer.")]
    assert len(momenta) == 2  # of the last layer's weight and bias


def test_only_the_last_layer_has_gradients_in_the_first_phase() -> None:
    made, recipe = network(), Recipe(model="resnet8_cifar", size=8, pretrained="x", head_first=0.5, steps=4)
    for step, learning in ((0, 2), (1, 2), (2, len(list(made.parameters()))), (3, len(list(made.parameters())))):
        phases.begin(made, recipe, step)
        made(torch.zeros(2, 1, 8, 8)).sum().backward()
        assert sum(p.grad is not None for p in made.parameters()) == learning
        assert made.bn1.training == (step >= 2)
        made.zero_grad(set_to_none=True)


def test_what_a_measurement_leaves_behind_moves_nothing() -> None:
    """Gradients of zero, with which an optimiser would still decay what does not learn."""
    made, recipe = network(), Recipe(model="resnet8_cifar", size=8, pretrained="x", head_first=0.5, steps=4)
    phases.learn(made, recipe, trunk=True)
    made(torch.zeros(2, 1, 8, 8)).sum().backward()
    made.zero_grad(set_to_none=False)
    phases.begin(made, recipe, 0)
    assert [name for name, p in made.named_parameters() if p.grad is not None] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb", "muon"])
@pytest.mark.parametrize("stop", [2, 6, 8])
def test_an_interrupted_run_goes_on_in_the_phase_it_was_in(tmp_path: Path, optimizer: str, stop: int) -> None:
    """Bit for bit: within the first phase, at its end, and after it; the source is not needed again."""
    source(tmp_path / "a")
    fields = {"head_first": 0.5, "lr_decay": 0.5, "optimizer": optimizer, "weight_decay": 0.01}
    tune(tmp_path / "a", tmp_path / "whole", **fields)
    with pytest.raises(Interrupted):
        tune(tmp_path / "a", tmp_path / "cut", reporter=StopAt(stop), **fields)
    (tmp_path / "a").rename(tmp_path / "gone")
    api.train(stripes(96), validation=stripes(32, 1), resume=tmp_path / "cut")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert Classifier.load(tmp_path / "cut").preprocess == Classifier.load(tmp_path / "whole").preprocess


def test_a_recorded_recipe_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source(tmp_path / "a").parent)
    tune("a", tmp_path / "b", head_first=0.25, lr_decay=0.5)
    monkeypatch.chdir(tmp_path / "b")
    recipe = tmp_path / "b" / "recipe.yaml"
    api.train(stripes(96), validation=stripes(32, 1), recipe=recipe, out=tmp_path / "c")
    assert recipe.read_text() == (tmp_path / "c" / "recipe.yaml").read_text()
    assert same(weights(tmp_path / "b"), weights(tmp_path / "c"))


def test_frozen_norms_stay_as_they_were(tmp_path: Path) -> None:
    source(tmp_path / "a", model="preact8_cifar")
    tune(tmp_path / "a", tmp_path / "b", freeze_norms=True, head_first=0.25, weight_decay=0.1)
    before, after = trunk(weights(tmp_path / "a")), trunk(weights(tmp_path / "b"))
    stayed = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert stayed == {key for key in before if ".bn" in key or key.startswith("norm.")}


def test_a_whole_network_can_be_trained_on_afterwards(tmp_path: Path) -> None:
    made = tune(source(tmp_path / "a"), tmp_path / "b", max_steps=2, head_first=1.0, freeze_norms=True)
    assert all(parameter.requires_grad for parameter in made.classifier.network.parameters())


def steps(way: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state after two steps of the last layer and two of all, norms frozen or not."""
    made = network(classes=2, channels=3)
    fields = {"pretrained": "x", "head_first": 0.5, "steps": 4, "lr": 1e-3, "precision": "fp32", "channels_last": True}
    recipe = Recipe(model="resnet8_cifar", size=16, **{**fields, **way})
    built = engine.build(made, recipe, cross_entropy(), Preprocess(size=16))
    optimizer = optim.build(made, recipe)
    squares = torch.randint(0, 256, (8, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for step in range(4):
        phases.begin(made, recipe, step)
        optim.set_step(optimizer, recipe, step)
        built.step(Batch(squares, torch.arange(8) % 2), optimizer)
    return made.state_dict()


@pytest.mark.parametrize("freeze_norms", [False, True])
def test_a_checkpointed_step_computes_the_same(freeze_norms: bool) -> None:
    plain, checkpointed = (steps({"memory": way, "freeze_norms": freeze_norms}) for way in ("full", "checkpoint"))
    for key, value in checkpointed.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.skipif(not engine.can_compile(network()), reason="no C++ compiler is installed")
@pytest.mark.filterwarnings("ignore")  # the compiler warns of what it does itself
def test_a_compiled_step_computes_the_same() -> None:
    """The network is compiled once a phase."""
    plain, compiled = (steps({"compile": way}) for way in (False, True))
    for key, value in compiled.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-5)


# ---- the hub ----

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architecture": "resnet10t",
    "num_classes": 5,
    "num_features": 512,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "c3_in1k",
        "input_size": [3, 64, 64],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "num_classes": 5,
        "pool_size": [2, 2],
        "first_conv": "conv1.0",
        "classifier": "fc",
    },
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What lies on the hub: a network of timm as timm uploads it, and some that cannot be used."""
    file = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(network("resnet10t", channels=3).state_dict(), file)
    config = json.dumps(CONFIG).encode()
    return {
        "timm/resnet10t.x": {"config.json": config, "model.safetensors": file.read_bytes()},
        "old/pickled": {"config.json": config, "pytorch_model.bin": b"a pickle"},
        "vision/transformer": {"config.json": b'{"architecture": "vit_base_patch16_224"}'},
        "near/miss": {"config.json": b'{"architecture": "resnet50s"}'},
        "other/library": {"config.json": b'{"architectures": ["ResNetForImageClassification"]}'},
        "strange/arguments": {"config.json": json.dumps({**CONFIG, "model_args": {"output_stride": 8}}).encode()},
    }


@pytest.fixture
def hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the hub does: its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            assert match is not None
            name, revision, file = match.groups()
            content = repositories.get(name, {}).get(file)
            if name == "closed/door":
                self.fail("", 403)
            elif name not in repositories:
                self.fail("RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.fail("RevisionNotFound")
            elif content is None:
                self.fail("EntryNotFound")
            else:
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

        do_GET = do_HEAD  # noqa: N815 - the server's own name for it

        def fail(self, code: str, status: int = 404) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


READ = """
import dataclasses, json, sys
from resvision.errors import ResvisionError
from resvision.training import pretrained
for place in sys.argv[1:]:
    try:
        found = pretrained.read(place)
        answer = [found.place, found.model, found.spec.num_classes, dataclasses.asdict(found.preprocess)]
        answer.append(float(sum(value.double().sum() for value in found.state.values())))
    except ResvisionError as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


def read_from_hub(cache: Path, places: list[str], **environment: str) -> list[list[Any]]:
    """What `pretrained.read` says of places, in a process with a hub of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), **environment}
    command = [sys.executable, "-c", READ, *places]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_network_of_the_hub(hub: tuple[str, list[str]], repositories: Any, tmp_path: Path) -> None:
    """It is downloaded, pinned to its commit, and found again without the network."""
    address, asked = hub
    preprocess = Preprocess(size=64, crop=0.95, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic")
    described = json.loads(json.dumps(dataclasses.asdict(preprocess)))
    expected = [f"hf:timm/resnet10t.x@{COMMIT}", "resnet10t", 5, described]
    places = ["hf:timm/resnet10t.x", f"hf:timm/resnet10t.x@{COMMIT}"]
    answers = read_from_hub(tmp_path, places, HF_ENDPOINT=address)
    total = sum(value.double().sum().item() for value in trunk(network("resnet10t", channels=3).state_dict()).values())
    assert [answer[:4] for answer in answers] == [expected, expected]
    assert [answer[4] for answer in answers] == pytest.approx([total, total])
    asked.clear()
    assert read_from_hub(tmp_path, places, HF_HUB_OFFLINE="1", HF_ENDPOINT=address) == answers
    assert asked == []


def test_what_the_hub_does_not_have_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    expected = {
        "hf:nobody/nothing": "DownloadError: config.json lies in a repository that does not exist or is private",
        "hf:timm/resnet10t.x@v2": "DownloadError: config.json is not there in this revision",
        "hf:old/pickled": f"DownloadError@{COMMIT}: model.safetensors is not in this repository, and pickled weights",
        "hf:vision/transformer": f"SpecError@{COMMIT}: there is no network 'vit_base_patch16_224'",
        "hf:near/miss": f"SpecError@{COMMIT}: there is no network 'resnet50s'; did you mean resnet50",
        "hf:other/library": f"InputError@{COMMIT}: config.json names no architecture",
        "hf:strange/arguments": f"SpecError@{COMMIT}: is resnet10t with another output_stride",
        "hf:closed/door": "DownloadError: config.json is not in the cache, and http",
        "hf:not a name": "InputError: give hf:OWNER/NAME or hf:OWNER/NAME@REVISION",
    }
    answers = read_from_hub(tmp_path, list(expected), HF_ENDPOINT=address)
    for (place, wanted), (kind, message) in zip(expected.items(), answers, strict=True):
        error, _, rest = wanted.partition("Error")
        assert kind == f"{error}Error"
        assert message.startswith(f"{place}{rest}"), message
        assert "\n" not in message
    assert not [path for path in asked if "pytorch_model" in path]


def test_offline_the_cache_of_the_library_is_enough(repositories: Any, tmp_path: Path) -> None:
    """Laid out as the library lays it out; what is not there is one line."""
    folder = tmp_path / "hub" / "models--timm--resnet10t.x"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name, content in repositories["timm/resnet10t.x"].items():
        (snapshot / name).write_bytes(content)
    found, missing = read_from_hub(tmp_path, ["hf:timm/resnet10t.x", "hf:timm/resnet50.x"], HF_HUB_OFFLINE="1")
    assert found[:3] == [f"hf:timm/resnet10t.x@{COMMIT}", "resnet10t", 5]
    assert missing[0] == "DownloadError"
    assert missing[1] == (
        "hf:timm/resnet50.x: config.json is not in the cache, and HF_HUB_OFFLINE is set: unset it, or fetch it once "
        "where there is a network"
    )


@pytest.mark.slow  # the library tries again for half a minute
def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    [(kind, message)] = read_from_hub(tmp_path, ["hf:timm/resnet10t.x"], HF_ENDPOINT="http://127.0.0.1:9")
    assert kind == "DownloadError"
    assert message.startswith(
        "hf:timm/resnet10t.x: config.json is not in the cache, and http://127.0.0.1:9 does not give it ([Errno"
    )


def test_training_from_the_command_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = hub
    options = "--pretrained hf:timm/resnet10t.x --size 32 --max-steps 2 --precision fp32 --channels-last --no-compile"
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": address}
    command = [sys.executable, "-m", "resvision", "train", "digits", *options.split(), "--out", "run", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert json.loads(result.stdout)["model"] == "resnet10t"
    assert f"pretrained: resnet10t from hf:timm/resnet10t.x@{COMMIT}, with a new last layer" in result.stderr
    made = Classifier.load(tmp_path / "run")
    assert made.provenance["recipe"]["pretrained"] == f"hf:timm/resnet10t.x@{COMMIT}"
    assert (made.preprocess.size, made.preprocess.crop, made.preprocess.mean) == (32, 0.95, (0.5, 0.4, 0.3))


def test_timm_writes_what_is_read_here(torchvision_operators: None, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnetv2_18", pretrained=False, num_classes=4, in_chans=1).eval()
    cache = tmp_path / "hub" / "models--me--mine"
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    timm.models.save_for_hf(theirs, snapshot, safe_serialization=True)
    [(place, model, classes, preprocess, _)] = read_from_hub(tmp_path, [f"hf:me/mine@{COMMIT}"], HF_HUB_OFFLINE="1")
    assert (place, model, classes, preprocess["channels"]) == (f"hf:me/mine@{COMMIT}", "resnetv2_18", 4, 1)
    assert len(preprocess["mean"]) == 1


def test_without_the_librarys_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"needs the package huggingface_hub: pip install .*\[hub\]"):
        pretrained.read("hf:timm/resnet50.a1_in1k")
