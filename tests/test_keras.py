"""Keras, both ways: the same logits as the torch network, training there, coming back, and what is refused."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resvision
from resvision import Classifier, Preprocess, ResNetSpec, cost, zoo
from resvision.cli import main
from resvision.data import sources
from resvision.data.images import to_input
from resvision.data.pictures import ArrayPictures
from resvision.errors import ClassifierError, InputError, MissingExtraError, SpecError, StorageError
from resvision.models import ResNet

pytest.importorskip("keras")

# NumPy's complaint about TensorFlow's arrays, at every look at a weight.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

from resvision import keras as both_ways  # noqa: E402
from resvision.keras.backend import keras  # noqa: E402

RGB = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"channels": 1, "mean": (0.3,), "std": (0.2,)}
SMALL = ResNetSpec(depths=(1, 1), widths=(8, 16), stem="cifar", num_classes=3)
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # of pictures that were divided by 255


def classifier(spec: ResNetSpec, size: int = 16, **changes: Any) -> Classifier:
    """A network whose norms have statistics, so that it computes something else with other ones."""
    torch.manual_seed(0)
    network = ResNet(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
        elif isinstance(module, torch.nn.Conv2d) and not module.weight.any():  # which began as zero
            torch.nn.init.kaiming_normal_(module.weight)
    preprocess = Preprocess(size=size, **(RGB if spec.in_channels == 3 else GREY))
    names = tuple(f"class {i}" for i in range(spec.num_classes))
    return Classifier(**{"network": network.eval(), "preprocess": preprocess, "classes": names, **changes})


def pictures(size: int, channels: int = 3, count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def logits(model: Any, squares: np.ndarray) -> np.ndarray:
    before = keras.Model(model.input, model.get_layer("fc").output)
    return np.asarray(before.predict_on_batch(squares))


# ---- the same function ----


@pytest.mark.parametrize(
    ("name", "size"),  # at even and at odd sizes padding goes wrong in different ways
    [("resnet18", 32), ("resnet34", 33), ("resnet50", 33), ("resnext50_32x4d", 32), ("resnet20_cifar", 32)],
)
def test_keras_computes_the_logits_and_probabilities_of_the_torch_network(name: str, size: int) -> None:
    made = classifier(replace(zoo.get(name), num_classes=10), size)
    model, squares = both_ways.to_keras(made), pictures(size)
    expected = made.logits(squares)
    np.testing.assert_allclose(logits(model, squares), expected, atol=1e-4, rtol=0)
    assert np.abs(expected).max() > 0.1
    scores = torch.from_numpy(expected).softmax(dim=1).numpy()
    np.testing.assert_allclose(model.predict_on_batch(squares), scores, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        *({"stem": "imagenet"}, {"stem": "deep"}, {"stem": "tiered"}, {"stem": "deep", "pool": "conv"}),
        *({"shortcut": "avg_project"}, {"shortcut": "pad"}, {"shortcut": "pad", "pad_side": "both"}),
        *({"shortcut": "avg_pad"}, {"shortcut": "none", "init": "he"}, {"order": "pre"}),
        {"order": "pre", "shortcut": "pad"},
        {"order": "pre", "shortcut": "avg_project"},
        {"order": "pre", "stem": "imagenet"},  # whose pooling meets negative values
        *({"activation": "silu", "stem": "imagenet"}, {"activation": "mish"}),
        *({"se_ratio": 0.25}, {"norm": "none", "init": "he"}, {"first_stride": 2}, {"in_channels": 1}),
        {"block": "bottleneck", "groups": 4, "base_width": 16},
        {"block": "bottleneck", "stride_on": "1x1", "stem_width": 12},
    ],
    ids=str,
)
def test_every_option_computes_the_same(changes: dict[str, Any]) -> None:
    spec, size = replace(SMALL, **changes), 15
    made = classifier(spec, size)
    model = both_ways.to_keras(made)
    squares = pictures(size, spec.in_channels)
    np.testing.assert_allclose(logits(model, squares), made.logits(squares), atol=1e-4, rtol=1e-5)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == cost.cost(spec, size).params


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (zoo.get("revnet38_cifar"), "reversible=True: Keras has no layer"),
        (replace(SMALL, experts=2), "experts=2: Keras has no layer"),
        (replace(SMALL, norm="none", init="skipinit"), "init='skipinit': Keras has no layer"),
        (replace(SMALL, activation="gelu"), "activation='gelu': Keras has no layer"),
    ],
)
def test_what_keras_has_no_layers_for_is_refused(spec: ResNetSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        both_ways.to_keras(classifier(spec))


# ---- building ----


def test_channels_double_and_size_halves_from_stage_to_stage() -> None:
    model = both_ways.resnet((32, 32, 3), 10, depth=18)
    shapes = [model.get_layer(f"layer{stage}.1.add").output.shape[1:] for stage in (1, 2, 3, 4)]
    assert shapes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
    assert model.output_shape == (None, 10)
    halved = both_ways.resnet((32, 32, 3), 10, depth=20, strides=2)
    assert halved.get_layer("layer1.2.add").output.shape[1:] == (16, 16, 16)
    large = both_ways.resnet((224, 224, 3), 1000)
    assert large.get_layer("conv1").kernel_size == (7, 7)
    assert large.get_layer("layer1.0.add").output.shape[1:] == (56, 56, 64)


@pytest.mark.parametrize(
    ("cardinality", "group"),
    [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)],  # Xie et al. 2016, table 2
)
def test_groups_are_as_wide_as_in_the_paper(cardinality: int, group: int) -> None:
    conv = both_ways.resnet((32, 32, 3), 10, depth=50, cardinality=cardinality).get_layer("layer1.0.conv2")
    assert (conv.groups, conv.filters) == (cardinality, cardinality * group)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 19}, "depth=19 is none of 18, 26, 34, 50, 101, 152, 200, and not 6n"),
        ({"cardinality": 32}, "cardinality=32 needs bottlenecks, and 18 layers are basic blocks"),
        ({"cardinality": 0}, "cardinality=0 must be a positive integer"),
        ({"depth": 164, "cardinality": 64}, "cardinality=64 leaves a group of the first stage less than one channel"),
        ({"strides": 3}, "strides=3 must be 1 or 2"),
        ({"input_shape": (None, None, 3)}, r"input_shape=\(None, None, 3\) must be"),
        ({"num_classes": 0}, "num_classes=0 must be"),
        ({"num_classes": 1}, "num_classes=1: a softmax of one is always 1; two classes are num_classes=2"),
    ],
)
def test_impossible_networks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        both_ways.resnet(**{"input_shape": (32, 32, 3), "num_classes": 10, **arguments})


def test_a_block_adds_its_input() -> None:
    x = keras.Input((9, 9, 4))
    block = keras.Model(x, both_ways.residual_block(x, 4))
    for layer in block.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    given = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(block.predict_on_batch(given), np.maximum(given, 0))  # F(x) is zero, x is not


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [15, 16])
def test_a_block_keeps_its_middle_in_place(kernel_size: int, stride: int, size: int) -> None:
    x = keras.Input((size, size, 3))
    same = both_ways.residual_block(x, 6, kernel_size, stride)
    assert same.shape[1:] == (-(-size // stride), -(-size // stride), 6)
    valid = both_ways.residual_block(x, 6, kernel_size, stride, "valid")
    assert valid.shape[1] == (size - kernel_size) // stride + 1 - (kernel_size - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters=0 must be a positive integer"),
        ({"kernel_size": 2}, "kernel_size=2 must be odd"),
        ({"padding": "full"}, "padding='full' is not one of same, valid"),
    ],
)
def test_impossible_blocks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        both_ways.residual_block(keras.Input((8, 8, 4)), **{"filters": 4, **arguments})
    with pytest.raises(SpecError, match=r"x has shape \(None, 8\)"):
        both_ways.residual_block(keras.Input((8,)), 4)


# ---- training there ----


def test_fit_learns_the_digits_and_comes_back() -> None:
    digits = sources.prepare(sources.load("digits"))
    squares, labels = {}, {}
    for name, split in digits.splits.items():
        assert isinstance(split.pictures, ArrayPictures)
        squares[name] = split.pictures.array.reshape(-1, 8, 8, 1)
        labels[name] = keras.utils.to_categorical(split.labels, 10)
    keras.utils.set_random_seed(0)
    model = both_ways.resnet((8, 8, 1), 10, depth=8)
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(squares["train"] / 255.0, labels["train"], batch_size=64, epochs=12, verbose=0)
    _, accuracy = model.evaluate(squares["val"] / 255.0, labels["val"], verbose=0)
    assert accuracy >= 0.97
    back = both_ways.from_keras(model, classes=digits.classes, preprocess={"mean": (0.0,), "std": (1.0,)})
    predicted = [digits.classes.index(str(p.label)) for p in back.predict(squares["val"])]
    assert np.mean(predicted == digits.splits["val"].labels) == pytest.approx(accuracy)


def test_grouped_convolutions_can_be_fitted() -> None:
    model = both_ways.resnet((8, 8, 3), 2, depth=11, cardinality=2)
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    before = model.get_layer("layer3.0.conv2").get_weights()[0]
    model.fit(pictures(8) / 255.0, keras.utils.to_categorical([0, 1, 0, 1], 2), verbose=0)
    assert (model.get_layer("layer3.0.conv2").get_weights()[0] != before).any()


# ---- coming back ----


def test_names_that_are_given_later_are_names(tmp_path: Path) -> None:
    numbered = classifier(SMALL, provenance={"named": False})
    both_ways.save(numbered, tmp_path / "model.keras")
    assert both_ways.from_keras(tmp_path / "model.keras").provenance["named"] is False
    named = both_ways.from_keras(tmp_path / "model.keras", classes=["a", "b", "c"])
    assert (named.classes, named.provenance["named"]) == (("a", "b", "c"), True)


def test_a_model_of_keras_remembers_the_name_that_it_is_given(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    both_ways.resnet((8, 8, 1), 10, depth=8).save(tmp_path / "own.keras")
    scaling = {"mean": (0.0,), "std": (1.0,)}
    made, _ = resvision.import_weights(
        tmp_path / "own.keras", model="resnet8_cifar", preprocess=scaling, out=tmp_path / "run"
    )
    assert Classifier.load(tmp_path / "run").provenance["model"] == made.provenance["model"] == "resnet8_cifar"


def test_a_classifier_survives_the_way_to_keras_and_back(tmp_path: Path) -> None:
    made = classifier(
        SMALL,
        preprocess=Preprocess(size=16, crop=0.9, interpolation="bicubic", **RGB),
        temperature=1.5,
        provenance={"data": "digits"},
        metrics={"accuracy": 0.5},
    )
    assert both_ways.save(made, tmp_path / "model.keras") <= 1e-5
    for back in (both_ways.from_keras(both_ways.to_keras(made)), both_ways.from_keras(tmp_path / "model.keras")):
        assert back.network.spec == made.network.spec
        assert (back.preprocess, back.classes) == (made.preprocess, made.classes)
        assert (back.provenance, back.metrics) == (made.provenance, made.metrics)
        assert back.temperature == pytest.approx(1.5)
        np.testing.assert_array_equal(back.logits(pictures(16)), made.logits(pictures(16)))


def test_the_file_needs_nothing_of_resvision(tmp_path: Path) -> None:
    made = classifier(SMALL)
    both_ways.save(made, tmp_path / "model.keras")
    np.save(tmp_path / "pictures.npy", pictures(16))
    code = (
        "import sys, keras, numpy as np; model = keras.saving.load_model('model.keras', safe_mode=True); "
        "assert not [name for name in sys.modules if name.startswith('resvision')]; "
        "np.save('scores.npy', model.predict(np.load('pictures.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    scores = torch.from_numpy(made.logits(pictures(16))).softmax(dim=1).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), scores, atol=1e-5)


def test_what_was_measured_before_further_training_is_not_kept() -> None:
    model = both_ways.to_keras(classifier(SMALL, metrics={"accuracy": 0.5}))
    model.get_layer("fc").set_weights([weight + 0.1 for weight in model.get_layer("fc").get_weights()])
    assert both_ways.from_keras(model).metrics == {}


def test_scaling_layers_tell_the_preprocessing(tmp_path: Path) -> None:
    network = both_ways.resnet((8, 8, 3), 3, depth=8)
    normalization = keras.layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.25, 0.16, 0.09])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *(keras.layers.Rescaling(1 / 255), normalization, keras.layers.RandomFlip("horizontal"), network),
        ]
    )
    model.save(tmp_path / "mine.keras")
    for given in (model, tmp_path / "mine.keras"):
        back = both_ways.from_keras(given)
        assert back.preprocess.mean == pytest.approx((0.5, 0.4, 0.3))
        assert back.preprocess.std == pytest.approx((0.5, 0.4, 0.3))
        assert back.classes == ("0", "1", "2")
    with pytest.raises(ClassifierError, match=r"computes .* off what this network computes"):
        both_ways.from_keras(model, preprocess={"mean": (0.0, 0.0, 0.0)})


def scaled_before() -> Any:
    """A model with scaling layers whose pictures were divided by 255 before they came to it."""
    normalization = keras.layers.Normalization(mean=0.5, variance=0.0625)
    network = both_ways.resnet((8, 8, 3), 3, depth=8)
    return keras.Sequential([keras.Input((8, 8, 3)), normalization, network], name="mine")


def test_scaling_in_a_model_and_before_it_is_stated_together() -> None:
    model, squares = scaled_before(), pictures(8)
    for stated, given in (
        ({"mean": [0.5] * 3, "std": [0.25] * 3}, squares / 255),
        ({"mean": np.full(3, 0.75), "std": np.full(3, 0.125)}, squares / 127.5 - 1),
    ):
        scores = torch.from_numpy(both_ways.from_keras(model, preprocess=stated).logits(squares)).softmax(dim=1)
        np.testing.assert_allclose(scores, model.predict_on_batch(given.astype(np.float32)), atol=1e-5)
    for others in (RAW, {"mean": [0.5] * 3, "std": [0.5] * 3}):  # by which its inputs would run from 0.5 to 0.75, ...
        with pytest.raises(ClassifierError, match=r"computes .* off what this network computes"):
            both_ways.from_keras(model, preprocess=others)


def test_scaling_layers_that_are_not_for_pixels_are_refused() -> None:
    with pytest.raises(
        ClassifierError, match=r"mine: its scaling layers are not for values 0\.\.255, .* std=0\.00098; "
    ) as refusal:
        both_ways.from_keras(scaled_before())
    assert "preprocess={'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.25, 0.25]}" in str(refusal.value)
    raw = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1.0), both_ways.resnet((8, 8, 3), 3, depth=8)]
    assert both_ways.from_keras(keras.Sequential(raw)).preprocess.std == pytest.approx([1 / 255] * 3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_networks_of_lower_precision_come_back(policy: str, tmp_path: Path) -> None:
    normalization = keras.layers.Normalization()
    normalization.adapt(pictures(8) / 255.0)
    keras.config.set_dtype_policy(policy)
    try:
        network = both_ways.resnet((8, 8, 3), 3, depth=8)
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), normalization, network])
        model.save(tmp_path / "mine.keras")
        back = both_ways.from_keras(model, classes=["a", "b", "c"])
        assert both_ways.from_keras(tmp_path / "mine.keras").preprocess == back.preprocess
        assert both_ways.save(back, tmp_path / "model.keras") <= 1e-5
        assert both_ways.to_keras(back).get_layer("conv1").compute_dtype == "float32"
        assert keras.config.dtype_policy().name == policy
        assert network.get_layer("conv1").dtype_policy.name == policy  # the model itself stays as it was
    finally:
        keras.config.set_dtype_policy("float32")
    assert back.preprocess.mean == pytest.approx((pictures(8) / 255.0).mean((0, 1, 2)), abs=1e-6)
    scores = torch.from_numpy(back.logits(pictures(8))).softmax(dim=1)
    np.testing.assert_allclose(model.predict_on_batch(pictures(8)), scores, atol=0.02)
    network.get_layer("layer1.0.act1").activation = keras.activations.silu
    with pytest.raises(ClassifierError, match=r"computes .* off what this network computes"):
        both_ways.from_keras(model)


def test_means_and_names_may_be_those_of_numpy(tmp_path: Path) -> None:
    x_train, y_train = pictures(8) / 255.0, np.array([3, 1, 2, 1])
    given = {"mean": x_train.mean((0, 1, 2)), "std": x_train.std((0, 1, 2))}
    model = both_ways.resnet((8, 8, 3), 3, depth=8)
    both_ways.from_keras(model, classes=np.unique(y_train), preprocess=given).save(tmp_path)
    back = Classifier.load(tmp_path)
    assert back.preprocess.mean == tuple(given["mean"].tolist())
    assert back.classes == ("1", "2", "3")
    with pytest.raises(ClassifierError, match=r"classes='abc': give a list of names"):
        both_ways.from_keras(model, classes="abc", preprocess=given)
    with pytest.raises(InputError, match=r"mean=\d+\.\d+ must be one of values in 0\.\.1: divide mean and std by 255"):
        both_ways.from_keras(model, preprocess={name: 255 * value for name, value in given.items()})


def test_a_home_is_found_for_writing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    both_ways.save(classifier(SMALL), "~/model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    both_ways.load("~/model.keras")


@pytest.mark.parametrize("arguments", [{"depth": 18}, {"depth": 11, "cardinality": 2}, {"depth": 8, "strides": 2}])
def test_the_spec_is_read_off_the_layers(arguments: dict[str, int]) -> None:
    model = both_ways.resnet((16, 16, 3), 4, **arguments)
    back = both_ways.from_keras(model, preprocess=RAW)
    squares = pictures(16)
    given = to_input(torch.from_numpy(squares), back.preprocess).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(logits(model, given), back.logits(squares), atol=1e-4)


def test_a_model_that_does_not_tell_its_scaling_is_refused() -> None:
    with pytest.raises(ClassifierError, match="how its pictures were scaled is not in it: give mean and std"):
        both_ways.from_keras(both_ways.resnet((8, 8, 3), 3, depth=8))


def test_another_network_is_refused() -> None:
    model = both_ways.to_keras(classifier(SMALL))
    with pytest.raises(ClassifierError, match=r"computes .* off what this network computes"):
        both_ways.from_keras(model, spec=replace(SMALL, order="post", activation="silu"))
    with pytest.raises(ClassifierError, match=r"layer1\.1\.conv1\.weight is missing"):
        both_ways.from_keras(model, spec=replace(SMALL, depths=(2, 1)))
    with pytest.raises(ClassifierError, match="size=32: resnet takes pictures of 16"):
        both_ways.from_keras(model, preprocess={"size": 32})
    x = keras.Input((8, 8, 3))
    with pytest.raises(ClassifierError, match=r"plain: not a network of resvision\.keras\.resnet"):
        both_ways.from_keras(keras.Model(x, keras.layers.Flatten()(x), name="plain"))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    broken = classifier(SMALL)
    torch.nn.init.constant_(broken.network.fc.weight, float("nan"))
    with pytest.raises(ClassifierError, match=r"m\.keras: the classifier holds weights that are not finite numbers"):
        both_ways.save(broken, tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []
    model = both_ways.to_keras(classifier(SMALL))
    model.get_layer("fc").set_weights([weight * np.nan for weight in model.get_layer("fc").get_weights()])
    with pytest.raises(ClassifierError, match=r"^resnet: holds weights that are not finite numbers$"):
        both_ways.from_keras(model)


def test_models_that_do_not_tell_their_pictures_are_refused() -> None:
    network = both_ways.resnet((8, 8, 3), 3, depth=8)

    class Wrapped(keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(name="wrapped")
            self.network = network

        def call(self, x: Any) -> Any:
            return self.network(x)

    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    for model in (
        Wrapped(),
        keras.Sequential([network.get_layer("fc")]),
        keras.Model(inputs, keras.layers.Add()(inputs)),
    ):
        with pytest.raises(ClassifierError, match=r"does not tell .*, or the network inside it"):
            both_ways.from_keras(model, preprocess=RAW)
    assert both_ways.from_keras(Wrapped().network, preprocess=RAW).classes == ("0", "1", "2")


# ---- files ----


def test_a_difference_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"more than 0\.0e\+00; not written"):
        both_ways.save(classifier(SMALL), tmp_path / "model.keras", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"model\.h5: Keras wants a name that ends in \.keras"):
        both_ways.save(classifier(SMALL), tmp_path / "model.h5")


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(StorageError, match=r"model\.keras: No such file"):
        both_ways.from_keras(path)
    path.write_text("nothing")
    with pytest.raises(ClassifierError, match=r"model\.keras: not a \.keras file"):
        both_ways.from_keras(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(ClassifierError, match=r"model\.keras: Keras cannot load it"):
        both_ways.from_keras(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    x = keras.Input((8, 8, 3))
    keras.Model(x, keras.layers.Lambda(lambda x: x)(x)).save(tmp_path / "lambda.keras")
    with pytest.raises(ClassifierError, match=r"lambda\.keras: Keras cannot load it .*only its own layers"):
        both_ways.from_keras(tmp_path / "lambda.keras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is version 2; this program reads 1"),
        ({"classes": "all"}, r"resvision\.json: classes='all': "),
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    both_ways.save(classifier(SMALL), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    entries["resvision.json"] = json.dumps(json.loads(entries["resvision.json"]) | change).encode()
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    with pytest.raises(InputError, match=message):
        both_ways.from_keras(tmp_path / "model.keras")


# ---- the page ----


def test_the_page_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = (pictures(32, count=8), np.arange(8)[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (few, few))
    page = (Path(__file__).parent.parent / "docs" / "keras.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["again"].classes == tuple(names["names"])
    assert names["difference"] <= 1e-5
    assert Classifier.load("runs/from-keras").preprocess.std == (1.0, 1.0, 1.0)


# ---- the command line, and what has to be installed ----


def test_import_takes_a_keras_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = classifier(SMALL)
    both_ways.save(made, tmp_path / "model.keras")
    with pytest.raises(SystemExit) as leaving:
        main(["import", str(tmp_path / "model.keras"), "--out", str(tmp_path / "run"), "--json"])
    assert leaving.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["classes"] == list(made.classes)
    np.testing.assert_array_equal(Classifier.load(tmp_path / "run").logits(pictures(16)), made.logits(pictures(16)))


def test_weights_that_do_not_tell_their_network_need_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["import", "weights.pth"], "weights.pth: weights do not tell their network: give its name with --model"),
        (["import", "model.keras", "--spec", "order=pre"], "give the name with --model"),
    ):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 2
        assert message in capsys.readouterr().err


def test_without_keras_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from resvision.errors import MissingExtraError\n"
        "try:\n    import resvision.keras\nexcept MissingExtraError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("resvision.keras needs the package tensorflow: pip install")
    assert issubclass(MissingExtraError, InputError)


def test_another_backend_is_refused_and_nothing_is_said_at_the_start() -> None:
    code = (
        "from resvision.errors import InputError\n"
        "try:\n    import resvision.keras\nexcept InputError as error:\n    print(error)"
    )
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(
            ["env", f"KERAS_BACKEND={name}", sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True
        )
        for name in ("torch", "tensorflow")
    ]
    (other, complaints), (usual, more) = (process.communicate() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert other.startswith("Keras runs on torch: set KERAS_BACKEND=tensorflow")
    assert usual == complaints == more == ""
