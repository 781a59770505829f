"""Recipe: what is refused, and what its file says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resvision.errors import InputError, RecipeError
from resvision.recipe import Recipe, make
from resvision.training.run import RunFolder


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
        ("seed", -1, f"at least 0 and below {2**63}"),
        ("seed", 2**63, f"at least 0 and below {2**63}"),
        ("head_first", 1.1, "at least 0 and at most 1"),
        ("lr_decay", 0.0, "above 0 and at most 1"),
        ("accumulate", 0, "at least 1"),
        ("repeats", 0, "at least 1"),
        ("first_size", 0, "at least 1 and at most 4096"),
        ("rest_lr", 0.0, "a number above 0"),
        ("clip", 0.0, "a number above 0"),
        ("clip", float("inf"), "a number above 0"),
        ("gce_q", 0.0, "above 0 and at most 1"),
        ("gce_q", 1.1, "above 0 and at most 1"),
        ("ema", 1.0, "at least 0 and below 1"),
        ("drop_path", 1.0, "at least 0 and below 1"),
        ("erase", 1.5, "at least 0 and at most 1"),
        ("mixup", -0.1, "at least 0"),
        ("cutmix", float("nan"), "at least 0"),
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
        ({"optimizer": "sdg"}, "optimizer='sdg' is not one of sgd, adam, adamw, lamb, muon"),
        ({"schedule": "step"}, "schedule='step' is not one of cosine, linear, onecycle, constant, steps"),
        ({"loss": "mse"}, "loss='mse' is not one of cross_entropy, bce, gce"),
        ({"balance": "yes"}, "balance='yes' is not one of none, weights, sampling"),
        ({"memory": None}, "memory=None is not one of full, checkpoint, auto"),
        ({"milestones": (0.5, 1.0)}, r"milestones=\(0\.5, 1\.0\) must lie between 0 and 1"),
        ({"accumulate": 3}, "accumulate=3 must divide batch_size=128"),
        ({"first_size": 9}, "first_size=9 must not be larger than size=8"),
        ({"first_size": 4, "shift": 1}, "first_size=4 and shift=1 exclude each other"),
        ({"repeats": 2, "balance": "sampling"}, "repeats=2 and balance='sampling' exclude each other"),
        ({"loss": "bce", "balance": "weights"}, "loss='bce' takes no class weights: use balance='sampling'"),
        ({"loss": "gce", "mixup": 0.2, "label_smoothing": 0.1}, "leave out mixup and label_smoothing"),
        ({"precision": "fp16"}, "precision='fp16' is not one of fp32, bf16"),
        ({"head_first": 0.2}, r"only pretrained weights go with head_first=0\.2: give --pretrained too"),
        ({"lr_decay": 0.5, "freeze_norms": True}, r"go with lr_decay=0\.5 and freeze_norms: give"),
        ({"spec": "pad_side=both"}, "spec='pad_side=both' must be a tuple of FIELD=VALUE, such as"),
        ({"spec": ("both",)}, "spec 'both': give FIELD=VALUE, such as shortcut=project"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**{"model": "resnet18", "size": 8, **changes})


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no field 'epoch'; did you mean 'epochs'"):
        make({"model": "resnet18", "size": 8, "epoch": 3})


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("lr", np.float64(0.05), 0.05),
        ("lr", torch.tensor(0.5), 0.5),
        ("epochs", np.int64(3), 3),
        ("flip", np.bool_(True), True),
        ("milestones", np.array([0.25, 0.5]), (0.25, 0.5)),
        ("spec", ["pad_side=both"], ("pad_side=both",)),
        ("pretrained", Path("runs/a"), "runs/a"),
        ("ema", 0, 0.0),
    ],
)
def test_numbers_of_numpy_become_pythons(field: str, given: Any, value: Any, tmp_path: Path) -> None:
    """As in a sweep over np.logspace, whose recipes are written to files."""
    recipe = make({"model": "resnet18", "size": 8, field: given})
    assert getattr(recipe, field) == value
    assert type(getattr(recipe, field)) is type(value)
    RunFolder(tmp_path).write_recipe(recipe)
    assert RunFolder(tmp_path).read_recipe() == recipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", "1", "epochs='1': Input should be a valid integer; this is text, so write 1$"),
        ("epochs", "auto", "epochs='auto': Input should be a valid integer"),
        ("epochs", 2.5, "epochs=2.5: Input should be a valid integer"),
        ("flip", "no", "flip='no': Input should be a valid boolean"),
        ("size", (128, 128), r"size=\[128, 128\]: Input should be a valid integer"),
        ("lr", "fast", "lr='fast': Input should be a valid number or 'auto'$"),
        ("milestones", (0.5, "1"), r"milestones\.1='1': Input should be a valid number; this is text, so write 1$"),
        ("lr", object(), "lr: <object object at .*> is neither text, a number nor a list of them"),
    ],
)
def test_values_of_another_type_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make({"model": "resnet18", "size": 8, field: value})


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    given = {"patience": 3, "weight_decay": 1e-5, "milestones": (0.25, 0.5), "spec": ("pad_side=both",)}
    for lr in (0.1, "auto"):
        recipe = Recipe(model="resnet18", size=8, lr=lr, **given)
        run.write_recipe(recipe)
        assert run.read_recipe() == recipe


def test_a_damaged_recipe_names_the_field(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.recipe_file.write_text("model: resnet18\nsize: large\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: size='large': Input should be a valid integer$"):
        run.read_recipe()
    for written, said in (
        ("lr: 1e-3", "lr='1e-3': Input should be a valid number or 'auto'; this is text, so write 0.001"),
        ("weight_decay: 1e-5", "weight_decay='1e-5': Input should be a valid number; this is text, so write 1.0e-05"),
        ("epoch: 3", "there is no field 'epoch'; did you mean 'epochs'?"),
        ("epochs: 2.5\nseed: x", "epochs=2.5: Input should be a valid integer (and 1 more)"),
    ):
        run.recipe_file.write_text(f"model: resnet18\nsize: 8\n{written}\n")
        with pytest.raises(InputError) as caught:
            run.read_recipe()
        assert str(caught.value) == f"{run.recipe_file}: {said}"
    run.recipe_file.write_text("size: 8\n")
    with pytest.raises(InputError, match=r"model is missing$"):
        run.read_recipe()
    run.recipe_file.write_text("model: [")
    with pytest.raises(InputError, match="not YAML"):
        run.read_recipe()
