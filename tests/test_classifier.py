"""Classifier: what goes in comes out again, predictions, and what is refused."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from resvision import Classifier, Preprocess, ResNetSpec, api
from resvision.errors import ClassifierError, InputError, PictureError
from resvision.models import ResNet

CLASSES = ("cat", "dog", "emu")


def classifier(**changes: Any) -> Classifier:
    torch.manual_seed(0)
    spec = ResNetSpec(depths=(1, 1), widths=(4, 8), stem="cifar", shortcut="pad", num_classes=3)
    network = ResNet(spec).eval()
    torch.nn.init.normal_(network.fc.weight)
    return Classifier(**{"network": network, "preprocess": Preprocess(size=8), "classes": CLASSES, **changes})


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)


def test_save_and_load(tmp_path: Path) -> None:
    made = classifier(temperature=1.5, provenance={"data": "digits"}, metrics={"accuracy": 0.5})
    made.save(tmp_path / "a")
    again = Classifier.load(tmp_path / "a")
    for field in ("preprocess", "classes", "temperature", "provenance", "metrics"):
        assert getattr(again, field) == getattr(made, field)
    assert again.network.spec == made.network.spec
    assert again.predict(pictures(4)) == made.predict(pictures(4))


def test_scores_are_probabilities() -> None:
    made = classifier()
    batch = pictures(3)[:, :8, :8]
    exponentials = np.exp(made.logits(batch).astype(np.float64))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    for prediction, row in zip(made.predict(batch), expected, strict=True):
        assert [label for label, _ in prediction.top] == [CLASSES[i] for i in np.argsort(-row)]
        assert [score for _, score in prediction.top] == pytest.approx(sorted(row, reverse=True))
        assert (prediction.label, prediction.score) == prediction.top[0]


def test_temperature_flattens_the_scores() -> None:
    sharp, flat = classifier(), classifier(temperature=10.0)
    for a, b in zip(sharp.predict(pictures(8)), flat.predict(pictures(8)), strict=True):
        assert a.label == b.label
        assert a.score is not None
        assert b.score is not None
        assert 1 / 3 < b.score < a.score


def test_every_kind_of_picture_gives_the_same(tmp_path: Path) -> None:
    made, array = classifier(), pictures(1)[0]
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = made.predict(array)[0]
    for given in (path, str(path), Image.open(path), tensor, array[None], tensor[None], [array], (p for p in [path])):
        result = made.predict(given)[0]
        assert (result.label, result.top) == (expected.label, expected.top)
    assert made.predict([path])[0].path == str(path)
    assert [p.path for p in made.predict([array, array])] == ["picture 0", "picture 1"]


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    made, many = classifier(), pictures(70)  # more than one batch
    together = made.predict(many)
    assert len(together) == 70
    for alone, one in zip(many, together, strict=True):
        prediction = made.predict(alone)[0]
        assert prediction.label == one.label
        assert prediction.score == pytest.approx(one.score, rel=1e-5)


def test_grey_batches() -> None:
    torch.manual_seed(0)
    spec = ResNetSpec(depths=(1,), widths=(4,), stem="cifar", num_classes=3, in_channels=1)
    preprocess = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))
    made = Classifier(network=ResNet(spec).eval(), preprocess=preprocess, classes=CLASSES)
    assert len(made.predict(np.zeros((5, 9, 9), dtype=np.uint8))) == 5
    assert len(made.predict(np.zeros((9, 9), dtype=np.uint8))) == 1
    assert len(made.predict(np.zeros((9, 9, 3), dtype=np.uint8))) == 1
    assert len(made.predict(np.zeros((3, 9, 9), dtype=np.uint8))) == 3
    for several in (1, 2, 3, 5):  # a tensor's channels come first, however many pictures there are
        assert len(made.predict(torch.zeros(several, 1, 9, 9, dtype=torch.uint8))) == several


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.zeros((3, 9, 9), dtype=np.uint8),
            r"array of shape \(3, 9, 9\) may be a picture with its channels first",
        ),
        (torch.zeros(9, 9, 3, dtype=torch.uint8), r"has shape \(9, 9, 3\): give a tensor \(H, W\) or \(C, H, W\)"),
        (torch.zeros(20, 9, 9, dtype=torch.uint8), r"has shape \(20, 9, 9\): give a tensor"),
        (np.zeros((2, 9, 9, 2), dtype=np.uint8), r"has shape \(9, 9, 2\): give an array"),
        (np.uint8(3), "uint8 is no picture"),
        (None, "NoneType is no picture"),
        (3, "int is no picture"),
        (b"content", "bytes is no picture"),
        (io.BytesIO(b"content"), "BytesIO is no picture"),
        ({"a.png": 1}, "dict is no picture"),
        ("", "an empty text was given for a path"),
        ([""], "an empty text was given for a path"),
        ([None], "is a NoneType: give a path"),
        (Image.new("RGB", (0, 5)), "has no pixels"),
    ],
)
def test_what_are_no_pictures_is_said(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classifier().predict(given)


@pytest.mark.parametrize("options", [{"top": 2.5}, {"top": None}, {"top": "3"}, {"deadline_ms": "5"}])
def test_options_of_another_type(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))}={next(iter(options.values()))!r} must be a"):
        classifier().predict(pictures(1), **options)


def test_logits_are_only_of_squares() -> None:
    made = classifier()
    squares = np.zeros((2, made.preprocess.size, made.preprocess.size, 3), dtype=np.uint8)
    squares.flags.writeable = False
    assert made.logits(squares).shape == (2, 3)
    for wrong in (squares.astype(np.float32), squares[0], squares[:, 1:], squares[..., :1], torch.zeros(2, 3, 8, 8)):
        with pytest.raises(InputError, match=r"give uint8 of shape \(N, \d+, \d+, 3\)"):
            made.logits(wrong)


def test_top_k() -> None:
    assert [len(p.top) for k in (1, 2, 9) for p in classifier().predict(pictures(1), top=k)] == [1, 2, 3]
    with pytest.raises(InputError, match="top=0"):
        classifier().predict(pictures(1), top=0)


def test_bad_pictures_are_named_and_the_rest_go_on(tmp_path: Path) -> None:
    made, good = classifier(), pictures(1)[0]
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    results = list(made.predictions([good, text, tmp_path / "missing.png", good.astype(np.float32), good]))
    assert [r.label is not None for r in results] == [True, False, False, False, True]
    assert [r.error for r in results[1:4]] == [
        "not a picture of a known format (JPEG, PNG, WEBP, AVIF, GIF, BMP, TIFF, PPM): convert it",
        "cannot be read (No such file or directory)",
        "holds float32: give uint8 values in 0..255",
    ]
    assert results[1].to_dict() == {"path": str(text), "error": results[1].error}
    # Pillow decodes when the pixels are wanted: what is cut off is only noticed then.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    cut_off = Image.open(io.BytesIO((tmp_path / "whole.jpg").read_bytes()[:1500]))
    [first, second] = made.predictions([cut_off, good])
    assert first.error is not None
    assert first.error.startswith("cannot be decoded (")
    assert second.label is not None
    with pytest.raises(PictureError, match=r"text\.jpg"):
        made.predict([good, text])


def test_web_addresses_are_not_fetched() -> None:
    for address in ("https://example.org/cat.jpg", Path("http://example.org/cat.jpg")):
        [result] = classifier().predictions([address])
        assert result.error == "is a web address: fetch the picture first, and give the file"


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ClassifierError, match="2 different class names for a network of 3 classes"):
        classifier(classes=("a", "b"))
    with pytest.raises(ClassifierError, match="2 different class names for a network of 3 classes"):
        classifier(classes=("a", "b", "b"))
    with pytest.raises(ClassifierError, match="gives 1 channels, the network takes 3"):
        classifier(preprocess=Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,)))
    with pytest.raises(ClassifierError, match="temperature=0"):
        classifier(temperature=0)


def test_names_of_classes_are_text(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="class name 1 is a int: names are text"):
        classifier(classes=(1, 2, 3))
    with pytest.raises(ClassifierError, match=r"class name .*7.* is a int64: names are text"):
        classifier(classes=tuple(np.unique([7, 8, 9])))


def test_what_cannot_be_written_ruins_nothing(tmp_path: Path) -> None:
    classifier().save(tmp_path)
    other = classifier(metrics={"accuracy": math.nan})
    torch.nn.init.zeros_(other.network.fc.weight)
    with pytest.raises(ValueError, match="JSON"):
        other.save(tmp_path)
    assert Classifier.load(tmp_path).predict(pictures(2)) == classifier().predict(pictures(2))


def test_a_home_is_found_for_writing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = classifier()
    made.save("~/run")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    assert (tmp_path / "run" / "model.json").is_file()
    assert Classifier.load("~/run").predict("~/a.png")[0].top == made.predict(pictures(1))[0].top


# ---- folders of pictures ----


def test_a_folder_stands_for_its_pictures(tmp_path: Path) -> None:
    made, squares = classifier(), pictures(3)
    (tmp_path / "photos" / "below").mkdir(parents=True)
    files = [tmp_path / "photos" / name for name in ("a.png", "b.png", "below/c.png")]
    for square, file in zip(squares, files, strict=True):
        Image.fromarray(square).save(file)
    (tmp_path / "photos" / "notes.pdf").write_text("no picture")
    expected = made.predict(files)
    folder = tmp_path / "photos"
    for given in (folder, str(folder), [folder], iter([folder])):
        assert list(api.predict(made, given)) == pytest.approx(expected)
    assert made.predict(str(folder)) == made.predict(iter([folder])) == expected
    mixed = list(api.predict(made, [files[2], folder, squares[0]]))
    assert [p.path for p in mixed] == [str(files[2]), *map(str, files), "picture 4"]


@pytest.mark.parametrize("names", [[], ["manual.pdf"]])
def test_a_folder_without_pictures_is_a_mistake(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("no picture")
    with pytest.raises(InputError, match=f"^{tmp_path}: holds no pictures$"):
        api.predict(classifier(), tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: holds no pictures$"):
        classifier().predict(tmp_path)


# ---- folders that are not what they say ----


def change(folder: Path, **values: Any) -> None:
    header = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(header | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    classifier().save(tmp_path)
    return tmp_path


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"model\.json is missing"):
        Classifier.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="an empty text was given for a path"):
        Classifier.load("")


def test_a_run_that_has_not_ended_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ClassifierError, match=f"the run has not ended: resvision train --resume {tmp_path}"):
        Classifier.load(tmp_path)


def test_a_header_that_is_nested_without_end(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"model\.json: not JSON \(maximum recursion depth"):
        Classifier.load(folder)


def test_no_field_of_the_outermost_is_meant_by_a_nested_one(folder: Path) -> None:
    preprocess = json.loads((folder / "model.json").read_text())["preprocess"]
    change(folder, preprocess=preprocess | {"antialias": True})
    with pytest.raises(InputError, match=r"there is no field 'preprocess\.antialias'$"):
        Classifier.load(folder)


def test_changed_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ClassifierError, match=r"not the weights that model\.json was written with"):
        Classifier.load(folder)


@pytest.mark.parametrize("kind", ["names", "shapes", "types"])
def test_weights_of_another_network(folder: Path, kind: str) -> None:
    import hashlib

    path = folder / "model.safetensors"
    state = load_file(path)
    if kind == "names":
        state["extra"] = state.pop("fc.bias")
    elif kind == "shapes":
        state["fc.weight"] = torch.zeros(3, 9)
    else:
        state["fc.weight"] = state["fc.weight"].half()
    save_file(state, path)
    change(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    message = {"names": "extra and 1 more differ", "shapes": r"fc\.weight is .*\(3, 9\)", "types": "float16"}[kind]
    with pytest.raises(ClassifierError, match=message):
        Classifier.load(folder)


def test_a_header_that_asks_for_more_than_the_weights_hold(folder: Path) -> None:
    spec = json.loads((folder / "model.json").read_text())["spec"]
    change(folder, spec=spec | {"widths": [1 << 20] * 2})  # whose convolutions would take terabytes
    with pytest.raises(ClassifierError, match=r"[\d,]+ bytes are too few for its [\d,]{16,} parameters"):
        Classifier.load(folder)
    change(folder, spec=spec | {"depths": [1 << 40, 1]})
    with pytest.raises(InputError, match="more than 100,000 blocks"):
        Classifier.load(folder)


def test_weights_that_are_not_finite_answer_nothing(folder: Path) -> None:
    made = classifier()
    with torch.no_grad():
        made.network.fc.bias[0] = math.nan
    with pytest.raises(ClassifierError, match="the network's answers are not finite numbers"):
        made.predict([np.zeros((9, 9, 3), np.uint8)])
    made.save(folder)
    with pytest.raises(ClassifierError, match=r"model\.safetensors: holds weights that are not finite numbers"):
        Classifier.load(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    import hashlib

    path = folder / "model.safetensors"
    torch.save(classifier().network.state_dict(), path)
    change(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ClassifierError, match="not a safetensors file"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2, "colour": 1}, "is resvision-classifier version 2; this program reads"),
        ({"format": "other"}, "is other version 1"),
        ({"classes": ["cat", "dog"]}, "2 different class names"),
        ({"temperature": "warm"}, "temperature='warm': Input should be a valid number"),
        ({"colour": 1}, "there is no field 'colour'"),
    ],
)
def test_headers_that_are_wrong(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(InputError, match=message):
        Classifier.load(folder)


def test_a_header_that_is_no_json(folder: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Classifier.load(folder)


def test_a_spec_that_does_not_fit_the_weights(folder: Path) -> None:
    """A wrong spec must never load silently."""
    header = json.loads((folder / "model.json").read_text())
    change(folder, spec=header["spec"] | {"depths": [1, 2]})
    with pytest.raises(ClassifierError, match="not the weights of this network"):
        Classifier.load(folder)


def test_arrays_have_no_splits() -> None:
    squares = np.zeros((4, 9, 9, 3), np.uint8)
    with pytest.raises(InputError, match="split='val': arrays have no splits; leave it out"):
        api.evaluate(classifier(), (squares, [0, 1, 2, 0]), split="val")
