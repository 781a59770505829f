"""ResNetSpec and its plan."""

import dataclasses
from typing import Any

import pytest
import torch

from resvision import zoo
from resvision.errors import InputError, SpecError
from resvision.files import parse
from resvision.models import ResNet
from resvision.spec import ResNetSpec

SMALL: dict[str, Any] = {"depths": (1, 1), "widths": (4, 8), "num_classes": 3}


def test_plan_of_a_basic_network() -> None:
    first, second = ResNetSpec(**SMALL).plan()
    assert (first.name, first.in_channels, first.out_channels, first.stride) == ("layer1.0", 4, 4, 1)
    assert (second.name, second.in_channels, second.out_channels, second.stride) == ("layer2.0", 4, 8, 2)
    assert first.shortcut == "identity"
    assert first.downsample is None
    assert second.shortcut == "project"
    assert second.downsample is not None
    assert (second.downsample.kernel_size, second.downsample.stride) == (1, 2)


def test_the_first_stage_may_have_a_stride() -> None:
    first, second = ResNetSpec(**SMALL, first_stride=2).plan()
    assert (first.stride, first.shortcut, second.stride) == (2, "project", 2)


def test_plan_of_a_bottleneck_with_cardinality() -> None:
    block = ResNetSpec(depths=(1,), widths=(64,), block="bottleneck", groups=32, base_width=4).plan()[0]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size, c.groups) for c in block.convs]
    assert shapes == [(64, 128, 1, 1), (128, 128, 3, 32), (128, 256, 1, 1)]  # Xie et al. 2016, table 1
    assert block.shortcut == "project"  # 64 to 256 channels at stride 1


@pytest.mark.parametrize(("shortcut", "init"), [("pad", "zero_gamma"), ("none", "he")])
def test_shortcuts_without_weights(shortcut: Any, init: Any) -> None:
    blocks = ResNetSpec(**SMALL, shortcut=shortcut, init=init).plan()
    assert all(block.downsample is None for block in blocks)
    assert blocks[1].shortcut == shortcut
    assert blocks[0].shortcut == ("none" if shortcut == "none" else "identity")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (1,)}, "depths=(1,) and widths=(4, 8) must name the same number"),
        ({"depths": ()}, "depths=() must be a tuple of positive integers"),
        ({"widths": (4, 0)}, "widths=(4, 0) must be a tuple of positive integers"),
        ({"block": "double"}, "block='double' is not one of basic, bottleneck"),
        ({"groups": 2}, "a basic block takes only 1, 64 and '3x3'"),
        ({"num_classes": 0}, "num_classes=0 must be a positive integer"),
        ({"in_channels": True}, "in_channels=True must be a positive integer"),
        ({"shortcut": "none"}, 'use init="he"'),
        ({"shortcut": "none", "init": "skipinit", "norm": "none"}, 'use init="he"'),
        ({"norm": "none"}, 'use init="skipinit" or init="fixup"'),
        ({"init": "fixup"}, 'use norm="none"'),
        ({"init": "fixup", "norm": "none", "order": "pre"}, 'init="fixup" needs order="post"'),
        ({"reversible": True}, "a reversible network needs order='pre' and a shortcut"),
        ({"reversible": True, "order": "pre", "widths": (4, 7)}, "widths=7: a reversible network divides"),
        ({"experts": 0}, "experts=0 must be a positive integer"),
        ({"first_stride": 3}, "first_stride=3 must be 1 or 2"),
        ({"stem": "deep", "widths": (1, 8)}, "widths=(1, 8): the first convolution of stem='deep' would have no"),
        ({"stem": "tiered", "widths": (2, 8)}, "no channels; give the first stage at least 3, or a stem_width"),
        ({"block": "bottleneck", "base_width": 15}, "base_width=15: the 3x3 convolutions of widths=(4, 8) would have"),
        (
            {"block": "bottleneck", "base_width": 16, "reversible": True, "order": "pre"},
            "would have no channels; give at least base_width=32, or wider stages",
        ),
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        ResNetSpec(**{**SMALL, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "deep", "widths": (2, 8)},
        {"stem": "tiered", "widths": (3, 8)},
        {"stem": "tiered", "widths": (2, 8), "stem_width": 8},
        {"block": "bottleneck", "base_width": 16},
        {"block": "bottleneck", "base_width": 32, "reversible": True, "order": "pre"},
        {"block": "bottleneck", "base_width": 1, "inner": ((1, 1), (1, 1))},
    ],
)
def test_the_narrowest_specs_can_be_built(changes: dict[str, Any]) -> None:
    spec = ResNetSpec(**{**SMALL, **changes})
    assert ResNet(spec).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        *(("resnet18", 18), ("resnet50", 50), ("resnet152", 152), ("resnet20_cifar", 20), ("resnet1202_cifar", 1202)),
        *(("revnet38_cifar", 38), ("revnet164_cifar", 164), ("revnet104", 104), ("seresnet164_cifar", 164)),
    ],
)
def test_depth_is_the_number_in_the_name(name: str, depth: int) -> None:
    assert zoo.get(name).depth == depth


def test_a_spec_survives_json() -> None:
    spec = zoo.get("resnext50_32x4d")
    assert parse(ResNetSpec, dataclasses.asdict(spec), "here") == spec


def test_a_damaged_spec_names_the_field() -> None:
    values = dataclasses.asdict(zoo.get("resnet18"))
    with pytest.raises(InputError, match=r"model\.json: num_classes='10': .*integer"):
        parse(ResNetSpec, values | {"num_classes": "10"}, "model.json")
    with pytest.raises(InputError, match=r"model\.json: there is no field 'colour'"):
        parse(ResNetSpec, values | {"colour": 1}, "model.json")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean resnet50"):
        zoo.get("resnet5O")
    with pytest.raises(SpecError, match="resnet20_cifar and resnet26_cifar"):
        zoo.get("resnet21_cifar")
    with pytest.raises(SpecError, match="resnet8_cifar"):
        zoo.get("resnet2_cifar")
    with pytest.raises(SpecError, match="`resvision models` lists them"):
        zoo.get("zzz")


# ---- networks that differ from their name ----


def test_a_variant_and_its_differences_are_each_others_inverse() -> None:
    pairs = ("depths=[3, 4, 6, 4]", "shortcut=avg_project", "se_ratio=1e-05")
    spec = zoo.variant("resnet50", pairs)
    assert spec == dataclasses.replace(zoo.get("resnet50"), depths=(3, 4, 6, 4), shortcut="avg_project", se_ratio=1e-5)
    assert zoo.differences("resnet50", spec) == pairs
    assert zoo.differences("resnet50", dataclasses.replace(spec, num_classes=3, in_channels=1)) == pairs
    for name in ("wrn28_10", "resnetrs50", "resnext50_32x4d", "plain18"):
        other = dataclasses.replace(zoo.get(name), num_classes=1000)
        assert zoo.variant("resnet50", zoo.differences("resnet50", other)) == other
    assert zoo.variant("resnet50") == zoo.get("resnet50")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("pad_side", "spec 'pad_side': give FIELD=VALUE, such as pad_side=both"),
        ("num_classes=3", "spec 'num_classes=3': num_classes follows from the data or the weights, so leave it out"),
        ("pad_size=both", "spec: there is no field 'pad_size'; did you mean 'pad_side'?"),
        ("pad_side=left", "spec: pad_side='left': Input should be 'end' or 'both'"),
        ("depths=3", "spec: depths=3: Input should be a valid array"),
        ("shortcut=none", 'init="zero_gamma" with shortcut="none"'),
    ],
)
def test_mistakes_in_a_variant_are_named(pair: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        zoo.variant("resnet50", [pair])
    assert message in str(caught.value)
