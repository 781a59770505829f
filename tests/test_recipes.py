"""Recipes by name: what each holds, what follows the data, and what gives way to a field that is asked for."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from resvision import inputs, recipes, zoo
from resvision.data import statistics
from resvision.data.builtin import load as builtin
from resvision.errors import RecipeError, SpecError
from resvision.recipe import Recipe, make
from resvision.recipes import DataFacts

PHOTOS = DataFacts(
    pictures=10_000, side=224, channels=3, flip=True, smallest_class=900, largest_class=1_100, usual_class=1_000
)
DIGITS = DataFacts(
    pictures=1_438, side=8, channels=1, flip=False, smallest_class=140, largest_class=147, usual_class=144
)
CIFAR = DataFacts(
    pictures=50_000, side=32, channels=3, flip=True, smallest_class=5_000, largest_class=5_000, usual_class=5_000
)
FEW = dataclasses.replace(PHOTOS, pictures=500, smallest_class=40, largest_class=60, usual_class=50)
UNEQUAL = dataclasses.replace(PHOTOS, smallest_class=300, largest_class=1_100)


def chosen(name: str = "auto", facts: DataFacts = PHOTOS, **given: Any) -> Recipe:
    return recipes.choose(name, facts, given).recipe


def reasons(name: str = "auto", facts: DataFacts = PHOTOS, hub: bool = False, **given: Any) -> str:
    return "; ".join(recipes.choose(name, facts, given, hub=hub).reasons)


# ---- what a recipe holds ----


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("facts", [PHOTOS, CIFAR, DIGITS, FEW, UNEQUAL], ids=lambda f: f"{f.pictures} of {f.side} px")
def test_every_recipe_is_complete_for_all_kinds_of_pictures(name: str, facts: DataFacts) -> None:
    recipe = chosen(name, facts)
    assert zoo.variant(recipe.model, recipe.spec)
    assert (recipe.size, recipe.channels, recipe.flip) == (min(facts.side, 128), facts.channels, facts.flip)
    assert sum(getattr(recipe, length) is not None for length in ("epochs", "max_steps", "minutes")) == 1
    small = facts.side <= 64
    assert (recipe.shift > 0, recipe.crop_scale < 1, recipe.crop) == (small, not small, 1.0 if small else 0.875)


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("side", [1, 2, 15, 64, 65, 300])
def test_every_recipe_fits_pictures_of_any_size(name: str, side: int) -> None:
    assert chosen(name, dataclasses.replace(PHOTOS, side=side)).size == (side if side <= 64 else 128)
    assert chosen(name, size=side).size == side


def test_networks_follow_the_pictures() -> None:
    assert (chosen("quick").model, chosen("quick").spec) == ("resnet18d", ("activation=silu",))
    assert (chosen("quick", CIFAR).model, chosen("quick", CIFAR).spec) == ("resnet14_cifar", recipes.WIDE)
    assert (chosen("quick", DIGITS).model, chosen("quick", DIGITS).spec) == ("resnet20_cifar", ())
    assert chosen("strong", CIFAR).spec == ()
    assert (chosen("strong").model, chosen("strong").first_size) == ("resnet50d", 64)
    assert chosen("strong", CIFAR).model == "wrn16_4"  # wrn28_10 would take ten times as long
    assert chosen("strong", DIGITS).model == "resnet20_cifar"
    assert (chosen("paper").model, chosen("plain").model) == ("resnet18", "resnet18")
    assert [chosen("quick", facts).shift for facts in (CIFAR, DIGITS)] == [2, 1]


def test_the_recipe_of_the_paper_is_that_of_the_paper() -> None:
    """He et al. 2015, sections 3.4 and 4.2."""
    small = chosen("paper", CIFAR)
    assert (small.optimizer, small.lr, small.momentum, small.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert (small.batch_size, small.max_steps, small.shift, small.flip) == (128, 64_000, 4, True)
    assert (small.schedule, small.milestones, small.warmup) == ("steps", (0.5, 0.75), 0.0)  # 32,000 and 48,000
    large = chosen("paper")
    assert (large.batch_size, large.epochs, large.lr, large.crop_scale) == (256, 90, 0.1, 0.08)
    assert [round(part * 90) for part in large.milestones] == [30, 60]


def test_strong_regularises_in_many_ways() -> None:
    strong = chosen("strong")
    assert strong.epochs == 80
    assert strong.trivial_augment
    assert min(strong.mixup, strong.cutmix, strong.erase, strong.drop_path, strong.ema) > 0


def test_an_unknown_recipe_and_an_unknown_field_are_named() -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe 'fast': there are auto, quick, .*, or give a recipe"):
        chosen("fast")
    with pytest.raises(RecipeError, match="no field 'epoch'; did you mean 'epochs'"):
        chosen("quick", epoch=3)
    with pytest.raises(SpecError, match="there is no network 'resnet19'"):
        chosen("strong", model="resnet19")


# ---- what auto chooses, and why ----


def test_auto_chooses_by_the_pictures_and_the_length() -> None:
    assert "recipe quick: takes the least time" in reasons()
    assert "recipe quick: does best within few epochs or minutes" in reasons(epochs=5)
    assert chosen() == chosen("quick")
    assert "recipe small: the median class has 50 training pictures, fewer than 100" in reasons(facts=FEW)
    assert chosen(facts=FEW) == chosen("small", FEW)
    assert "recipe strong: 40 epochs are long enough" in reasons(epochs=40)
    assert chosen(epochs=40) == chosen("strong", epochs=40)
    assert chosen(epochs=39) == chosen("quick", epochs=39)
    assert "recipe small" in reasons(facts=FEW, epochs=100)
    rare = dataclasses.replace(PHOTOS, smallest_class=40)  # one small class makes no small set
    assert chosen(facts=rare, epochs=40).model == "resnet50d"
    assert chosen(max_steps=6_000).model == "resnet50d"
    assert "recipe strong: 6,000 steps, about 58 epochs, are long enough" in reasons(max_steps=6_000)
    assert chosen(max_steps=3_000).model == "resnet18d"
    assert "recipe plain: the weights are pretrained" in reasons(facts=FEW, pretrained="x", epochs=100)


def test_minutes_are_long_where_the_machine_is_fast_enough() -> None:
    def asked(minutes: float, epochs: float) -> str:
        choice = recipes.choose("auto", PHOTOS, {"minutes": minutes}, strong_epochs=lambda: epochs)
        return "; ".join(choice.reasons)

    assert "recipe strong: 60 minutes, about 45 epochs here, are long enough" in asked(60, 45.0)
    assert "recipe quick" in asked(60, 39.0)
    assert "recipe quick" in asked(0.5, 1e9)  # not even looked at: no machine does 40 epochs of 10,000 in half a minute


def test_auto_says_which_network_and_size_it_takes() -> None:
    assert "model resnet18d: the recipe's network for photographs" in reasons()
    assert "size 128 px: the usual one; they have about 224" in reasons()
    assert "size 32 px: their own" in reasons(facts=CIFAR)
    assert "model " not in reasons(model="resnet34")
    assert "size " not in reasons(size=96)
    assert "size " not in reasons("quick")


def test_a_few_pictures_point_to_pretrained_weights_where_these_can_be_had() -> None:
    hint = "few pictures: weights of a larger set often do better, such as resvision train --pretrained hf:timm/"
    assert hint in reasons(facts=FEW, hub=True)
    assert hint in reasons("quick", FEW, hub=True)
    for facts, hub, given in (
        (FEW, False, {}),
        (PHOTOS, True, {}),
        (dataclasses.replace(FEW, side=32), True, {}),
        (FEW, True, {"pretrained": "x"}),
    ):
        assert hint not in reasons(facts=facts, hub=hub, **given)


def test_unequal_classes_weigh_the_same() -> None:
    assert chosen(facts=UNEQUAL).balance == "weights"
    assert "balance=weights: the classes have 300 to 1,100 pictures" in reasons(facts=UNEQUAL)
    assert chosen(facts=dataclasses.replace(UNEQUAL, smallest_class=400)).balance == "none"  # less than three times
    # A loss without class weights; wrong labels do not tell the sizes; what is asked for stays.
    assert chosen(facts=UNEQUAL, loss="bce").balance == "sampling"
    assert "balance=sampling" in reasons(facts=UNEQUAL, loss="gce")
    assert chosen("noisy", UNEQUAL).balance == "none"
    assert chosen(facts=UNEQUAL, balance="none").balance == "none"
    assert "balance" not in reasons(facts=UNEQUAL, balance="none")
    assert chosen(facts=UNEQUAL, balance="sampling").balance == "sampling"
    assert chosen(facts=UNEQUAL, repeats=2).balance == "weights"
    assert chosen(facts=UNEQUAL, repeats=2, loss="bce").balance == "none"


def test_the_default_length_follows_the_number_of_pictures() -> None:
    assert chosen("quick", CIFAR).epochs == 10
    assert chosen("quick", DIGITS).epochs == 69  # 22 steps an epoch
    assert chosen("quick", dataclasses.replace(DIGITS, pictures=100)).epochs == 100
    assert chosen("quick", dataclasses.replace(PHOTOS, pictures=6400)).epochs == 23  # 66 steps an epoch
    assert "epochs=15: none were asked for (--epochs, --minutes)" in reasons("quick")


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("length", [{"epochs": 3}, {"max_steps": 7}, {"minutes": 2.0}])
def test_a_length_that_is_given_replaces_that_of_the_recipe(name: str, length: dict[str, Any]) -> None:
    for facts in (PHOTOS, CIFAR):
        recipe = chosen(name, facts, **length)
        lengths = {field: getattr(recipe, field) for field in ("epochs", "max_steps", "minutes")}
        assert {field: value for field, value in lengths.items() if value is not None} == length


# ---- what gives way to a field that is asked for ----


def test_fields_replace_those_of_the_recipe() -> None:
    recipe = chosen("quick", lr=0.3, size=32, momentum=0.5)
    assert (recipe.lr, recipe.size, recipe.model, recipe.momentum) == (0.3, 32, "resnet14_cifar", 0.5)
    assert chosen("quick", shift=4).crop_scale == 1
    assert chosen("quick", CIFAR, crop_scale=0.5).shift == 0
    assert (chosen("strong", shift=4).first_size, chosen("strong", shift=4).shift) == (None, 4)
    assert (chosen("quick", CIFAR, first_size=16).shift, chosen("quick", CIFAR, first_size=16).first_size) == (0, 16)


def test_another_network_does_not_take_over_the_fields_of_the_recipes_own() -> None:
    assert chosen("quick", model="resnet50").spec == ()
    assert chosen("quick", model="resnet50", spec=("activation=mish",)).spec == ("activation=mish",)


def test_pairs_of_a_spec_change_the_recipes_own_network() -> None:
    assert chosen("quick", spec=("shortcut=project",)).spec == ("activation=silu", "shortcut=project")
    assert chosen("quick", spec=("activation=relu",)).spec == ("activation=relu",)
    wide = chosen("quick", CIFAR, spec=("activation=relu",))
    assert (wide.model, set(wide.spec)) == ("resnet14_cifar", {*recipes.WIDE, "activation=relu"} - {"activation=silu"})


@pytest.mark.parametrize(
    "given", [{"model": "plain18"}, {"model": "revnet104"}, {"spec": ("shortcut=none", "init=he")}], ids=str
)
def test_networks_that_cannot_leave_out_branches_keep_them(given: dict[str, Any]) -> None:
    assert chosen("strong", **given).drop_path == 0
    assert f"drop_path=0: {chosen('strong', **given).model} has no branches" in reasons("strong", **given)
    assert chosen("strong", **given, drop_path=0.1).drop_path == 0.1  # which the network will refuse


def test_another_optimizer_brings_its_own_rates() -> None:
    recipe = chosen("quick", optimizer="adam")
    assert (recipe.lr, recipe.weight_decay) == (1e-3, 0.0)
    recipe = chosen("plain", optimizer="muon")
    assert (recipe.lr, recipe.rest_lr) == (0.05, 0.05)
    recipe = chosen("paper", optimizer="lamb")  # whose batches are four times as large as the rates are for
    assert (recipe.lr, recipe.weight_decay, recipe.batch_size) == (0.01, 0.02, 256)
    assert chosen("quick", optimizer="adamw", lr=7.0).lr == 7.0
    with pytest.raises(RecipeError, match="optimizer='sdg' is not one of sgd"):
        chosen("quick", optimizer="sdg")


def test_learning_rates_follow_the_batch_size() -> None:
    """In proportion for SGD, by the root for the others, whose steps do not grow with the gradient."""
    assert chosen("plain", CIFAR, batch_size=256).lr == pytest.approx(0.4)
    assert "lr=0.4: scaled from batches of 64 to 256" in reasons("plain", CIFAR, batch_size=256)
    quick = chosen("quick", CIFAR, batch_size=512)
    assert (quick.lr, quick.rest_lr) == (pytest.approx(0.14), pytest.approx(0.4))
    assert chosen("quick", CIFAR, batch_size=32).lr == pytest.approx(0.035)
    assert chosen("quick", CIFAR, batch_size=256, optimizer="adam").lr == 1e-3
    assert chosen("quick", CIFAR, batch_size=256, optimizer="adamw").lr == pytest.approx(4e-3)
    assert chosen("quick", CIFAR, batch_size=256, lr=0.3).lr == 0.3
    assert chosen("quick", CIFAR, batch_size=256, lr="auto").lr == "auto"
    assert chosen("quick", CIFAR, batch_size=128) == chosen("quick", CIFAR)
    # A batch is never larger than the set.
    assert chosen("plain", DIGITS, batch_size=100_000) == dataclasses.replace(
        chosen("plain", DIGITS, batch_size=1_438), batch_size=100_000
    )
    for size in (0, -3):
        with pytest.raises(RecipeError, match=f"batch_size={size} must be at least 1"):
            chosen("quick", batch_size=size)


def test_mixed_labels_replace_the_loss_for_noisy_sets() -> None:
    assert (chosen("noisy").loss, chosen("noisy").label_smoothing) == ("gce", 0.0)
    for asked in ({"mixup": 0.2}, {"label_smoothing": 0.1}, {"cutmix": 1.0}, {"balance": "weights"}):
        assert chosen("noisy", **asked).loss == "cross_entropy"
        assert f"loss=cross_entropy: the recipe's gce excludes {next(iter(asked))}" in reasons("noisy", **asked)
    assert chosen("noisy", loss="bce", mixup=0.2).loss == "bce"
    assert chosen("noisy", mixup=0.0).loss == "gce"
    strong = chosen("strong", loss="gce")
    assert (strong.loss, strong.mixup, strong.cutmix, strong.label_smoothing) == ("gce", 0.0, 0.0, 0.0)
    assert "mixup=0, cutmix=0, label_smoothing=0: gce wants whole labels" in reasons("strong", loss="gce")
    told = reasons("quick", shift=4)
    assert "crop_scale=1, first_size=none: pictures are either shifted, or cropped or grown, and shift is asked" in told
    assert "shift=0: pictures are either shifted, or cropped or grown, and crop_scale is asked for" in reasons(
        "quick", CIFAR, crop_scale=0.5
    )
    assert "and first_size is asked for" in reasons("quick", CIFAR, first_size=16)
    assert "either shifted" not in reasons("quick", CIFAR, shift=4)
    assert "lr=0.001, weight_decay=0: usual of adam" in reasons("quick", optimizer="adam", epochs=5)
    assert "usual of" not in reasons("quick", optimizer="muon", epochs=5)
    with pytest.raises(RecipeError, match="loss='gce' wants whole labels: leave out mixup"):
        chosen("noisy", loss="gce", mixup=0.2)


# ---- pretrained weights ----


def test_pretrained_weights_bring_their_size_and_a_learning_rate() -> None:
    usual = {"size": 224, "crop": 0.95, "channels": 3}
    given: dict[str, Any] = {"pretrained": "x", "model": "resnet50"}
    tuned = recipes.choose("auto", PHOTOS, given, usual).recipe
    assert (tuned.model, tuned.size, tuned.crop, tuned.channels, tuned.lr) == ("resnet50", 224, 0.95, 3, 0.1)
    assert tuned.crop_scale < 1
    assert chosen(pretrained="x", freeze_norms=True).lr == 0.01
    asked = recipes.choose("auto", PHOTOS, {"pretrained": "x", "size": 128, "lr": 7.0}, usual).recipe
    assert (asked.size, asked.lr) == (128, 7.0)
    assert chosen(pretrained="x", optimizer="adam").lr == 1e-3


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_pretrained_weights_are_moved_by_sgd_whatever_the_recipe(name: str) -> None:
    """The rates for fine-tuning are SGD's, for batches of 64; one of Muon so high would wipe the weights out."""
    for freeze_norms, rate in ((False, 0.1), (True, 0.01)):
        recipe = chosen(name, pretrained="x", freeze_norms=freeze_norms)
        assert recipe.optimizer == "sgd"
        assert recipe.lr == pytest.approx(rate * recipe.batch_size / 64)
    assert chosen(name, pretrained="x", optimizer="muon").optimizer == "muon"
    assert chosen(name, pretrained="x", optimizer="muon").lr <= 0.1


def test_the_rate_of_the_rest_follows_the_batch_also_beside_a_rate_that_is_given() -> None:
    large = chosen("quick", lr="auto", batch_size=960)
    assert (large.lr, large.rest_lr) == ("auto", pytest.approx(0.6))
    assert "rest_lr=0.6: scaled from batches of 96 to 960" in reasons("quick", lr="auto", batch_size=960)
    assert chosen("quick", lr=0.5, rest_lr=0.2, batch_size=960).rest_lr == 0.2


def test_another_optimiser_for_a_recorded_recipe_brings_its_own_rates() -> None:
    quick = dataclasses.replace(chosen("quick", CIFAR, epochs=3), steps=100)
    for name, values in recipes.OPTIMIZERS.items():
        other = recipes.for_optimizer(dataclasses.replace(quick, batch_size=64), name)
        assert (other.optimizer, other.lr, other.weight_decay) == (name, values["lr"], values["weight_decay"])
    assert recipes.for_optimizer(quick, "sgd").lr == pytest.approx(0.2)  # of batches of 128
    assert recipes.for_optimizer(quick, "adam").lr == 1e-3


def test_a_recorded_recipe_is_followed_as_one_by_name() -> None:
    digits = builtin("digits")
    quick = inputs.recipe_of(digits, "quick", {"epochs": 3}).recipe
    asked = inputs.recipe_of(digits, quick, {"optimizer": "adam"})
    assert (asked.recipe.lr, asked.recipe.weight_decay) == (1e-3, 0.0)
    assert asked.reasons == ("lr=0.001, weight_decay=0: usual of adam",)
    given = inputs.recipe_of(digits, quick, {"optimizer": "sgd", "lr": 0.3, "weight_decay": 0.1})
    assert (given.recipe.lr, given.recipe.weight_decay, given.reasons) == (0.3, 0.1, ())
    wide = inputs.recipe_of(digits, dataclasses.replace(quick, spec=("first_stride=2",)), {"model": "resnet8_cifar"})
    assert wide.recipe.spec == ()


def test_facts_are_of_the_pictures_that_will_train() -> None:
    """1,797 digits come without splits, of which a fifth is held back."""
    found = statistics.facts(builtin("digits"))
    assert found.pictures == pytest.approx(0.8 * 1797, abs=5)
    assert found.usual_class == pytest.approx(0.8 * 179, abs=3)


@pytest.mark.parametrize("fields", [{"lr": "auto"}, {"gate_rate": 0.5}, {"exits": "auto"}, {"accumulate": 64}], ids=str)
def test_minutes_go_with_everything(fields: dict[str, Any]) -> None:
    """Where minutes are given, a step of `strong` is timed, which needs neither a rate nor exits nor gates."""
    made = inputs.recipe_of(builtin("digits"), "auto", {"minutes": 0.5, **fields})
    assert made.recipe.minutes == 0.5
    assert {name: getattr(made.recipe, name) for name in fields} == fields


def test_the_demo_is_fixed() -> None:
    demo = recipes.demo()
    assert zoo.get(demo.model)
    decided = (demo.precision, demo.channels_last, demo.compile, demo.memory, demo.workers, demo.epochs)
    assert decided == ("fp32", True, False, "full", 0, 40)


def test_the_table_in_the_docs_says_what_recipes_set() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    [table] = re.findall(r"(\| \| `quick` .*?)\n\n", text, re.DOTALL)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    names = [name.strip("`") for name in head[1:]]
    assert sorted(names) == sorted(recipes.RECIPES)
    made = [make(recipes.RECIPES[name](128) | {"size": 128}) for name in names]
    for option, *cells in rows:
        values = [getattr(recipe, option.strip("`").removeprefix("--").replace("-", "_")) for recipe in made]
        expected = ["" if value in (None, 0) else value if isinstance(value, str) else f"{value:g}" for value in values]
        told = [cell.removesuffix(", SiLU").strip("`").replace("10 to 100", "") for cell in cells]
        assert told == expected, option
    assert len(rows) == 16


def test_growing_pictures_follow_the_size_of_a_recorded_recipe() -> None:
    photographs = dataclasses.replace(make(recipes.quick(224) | {"size": 224, "epochs": 1}), channels=3)
    assert photographs.first_size == 168
    digits = builtin("digits")
    assert inputs.recipe_of(digits, photographs, {"size": 96}).recipe.first_size == 72
    assert inputs.recipe_of(digits, photographs, {"size": 96, "first_size": 48}).recipe.first_size == 48
    assert inputs.recipe_of(digits, photographs, {"epochs": 2}).recipe.first_size == 168
