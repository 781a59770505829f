"""Recipe: what is refused, and what the defaults are."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from resvision import recipe as recipes
from resvision import zoo
from resvision.errors import InputError, RecipeError
from resvision.recipe import DataFacts, Recipe
from resvision.training.run import RunFolder

PHOTOS = DataFacts(pictures=10_000, side=224, channels=3, flip=True)
DIGITS = DataFacts(pictures=1_438, side=8, channels=1, flip=False)
CIFAR = DataFacts(pictures=50_000, side=32, channels=3, flip=True)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("epochs", 0, "at least 1"),
        ("size", -1, "at least 1 and at most 4096"),
        ("lr", float("nan"), "a number above 0"),
        ("lr", float("inf"), "a number above 0"),
        ("minutes", 0.0, "a number above 0"),
        ("target_accuracy", 1.1, "above 0 and at most 1"),
        ("crop_scale", 0.0, "above 0 and at most 1"),
        ("warmup", 1.0, "at least 0 and below 1"),
        ("label_smoothing", -0.1, "at least 0 and below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("shift", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("head_first", 1.1, "at least 0 and at most 1"),
        ("lr_decay", 0.0, "above 0 and at most 1"),
    ],
)
def test_values_out_of_range_are_named(field: str, value: Any, rule: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**{"model": "resnet18", "size": 8, field: value})
    assert str(caught.value) == f"{field}={value} must be {rule}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1, "max_steps": 1}, "epochs and max_steps both say how long to train"),
        ({"shift": 8}, "shift=8 must be smaller than size=8"),
        ({"shift": 1, "crop_scale": 0.5}, "both move the picture"),
        ({"optimizer": "sdg"}, "optimizer='sdg' is not one of sgd, adam"),
        ({"precision": "fp16"}, "precision='fp16' is not one of fp32, bf16"),
        ({"holdout": 0.0, "keep": "best"}, "keep=best must choose"),
        ({"head_first": 0.2}, r"only pretrained weights go with head_first=0\.2: give --pretrained too"),
        ({"lr_decay": 0.5, "freeze_norms": True}, r"go with lr_decay=0\.5 and freeze_norms: give"),
        ({"spec": "pad_side=both"}, "spec='pad_side=both' must be a tuple of FIELD=VALUE, such as"),
        ({"spec": ("both",)}, r"spec=\('both',\) must be a tuple of FIELD=VALUE"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**{"model": "resnet18", "size": 8, **changes})


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no field 'epoch'; did you mean 'epochs'"):
        recipes.default(PHOTOS, {"epoch": 3})


def test_defaults_follow_the_pictures() -> None:
    photos, digits, cifar = (recipes.default(facts, {}) for facts in (PHOTOS, DIGITS, CIFAR))
    assert (photos.model, photos.size, photos.channels, photos.flip) == ("resnet18", 128, 3, True)
    assert (cifar.model, cifar.size, cifar.shift, cifar.crop_scale) == ("resnet20_cifar", 32, 2, 1.0)
    assert (digits.size, digits.channels, digits.shift, digits.flip) == (8, 1, 0, False)
    assert photos.crop_scale < 1
    assert photos.shift == 0


def test_default_length() -> None:
    assert recipes.default(CIFAR, {}).epochs == 10
    assert recipes.default(DIGITS, {}).epochs == 69  # 22 steps an epoch
    assert recipes.default(dataclasses.replace(DIGITS, pictures=100), {}).epochs == 100
    assert recipes.default(dataclasses.replace(PHOTOS, pictures=6400), {}).epochs == 15  # 100 steps an epoch
    assert recipes.default(PHOTOS, {"minutes": 2.0}).epochs is None


def test_fields_replace_the_defaults() -> None:
    chosen = recipes.default(PHOTOS, {"lr": 0.3, "size": 32, "model": "resnet34"})
    assert (chosen.lr, chosen.size, chosen.model) == (0.3, 32, "resnet34")
    assert recipes.default(PHOTOS, {"shift": 4}).crop_scale == 1
    assert recipes.default(CIFAR, {"crop_scale": 0.5}).shift == 0
    assert (recipes.default(PHOTOS, {"optimizer": "adam"}).lr, recipes.default(PHOTOS, {}).optimizer) == (1e-3, "sgd")


def test_pretrained_weights_bring_their_size_and_a_learning_rate() -> None:
    usual = {"size": 224, "crop": 0.95, "channels": 3}
    tuned = recipes.default(PHOTOS, {"pretrained": "x", "model": "resnet50"}, usual)
    assert (tuned.model, tuned.size, tuned.crop, tuned.channels, tuned.lr) == ("resnet50", 224, 0.95, 3, 0.1)
    assert tuned.crop_scale < 1
    assert recipes.default(PHOTOS, {"pretrained": "x", "freeze_norms": True}).lr == 0.01
    given = {"pretrained": "x", "size": 128, "lr": 7.0}
    assert (recipes.default(PHOTOS, given, usual).size, recipes.default(PHOTOS, given, usual).lr) == (128, 7.0)
    assert recipes.default(PHOTOS, {"pretrained": "x", "optimizer": "adam"}).lr == 1e-3


def test_the_recipes_name_networks_that_exist() -> None:
    for recipe in (recipes.demo(), recipes.default(PHOTOS, {}), recipes.default(CIFAR, {})):
        assert zoo.get(recipe.model)


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    recipe = recipes.default(PHOTOS, {"patience": 3, "weight_decay": 1e-5})
    run.write_recipe(recipe)
    assert run.read_recipe() == recipe


def test_a_damaged_recipe_names_the_field(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.recipe_file.write_text("model: resnet18\nsize: large\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: size: Input should be a valid integer"):
        run.read_recipe()
    run.recipe_file.write_text("model: [")
    with pytest.raises(InputError, match="not YAML"):
        run.read_recipe()
