"""Gates: blocks that are left out for pictures that do not need them."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import resvision
from resvision import zoo
from resvision.cost import branch_macs, cost
from resvision.errors import RecipeError, SpecError
from resvision.evaluation import gates
from resvision.exits import with_exits_and_gates
from resvision.models import ResNet
from resvision.models.layers import Gate
from resvision.recipe import Recipe
from resvision.training import losses
from resvision.training.run import read_recipe


def network(name: str, **changes: Any) -> ResNet:
    """A network whose gates are open for some pictures and closed for others."""
    torch.manual_seed(2)
    made = ResNet(dataclasses.replace(zoo.get(name), gates=True, **changes)).eval()
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape)
            value.add_(0.1 * (noise.abs() if "var" in key else noise))
    x = torch.randn(16, 3, 32, 32)
    with torch.no_grad():  # so that half of the pictures pass
        state = made.stem(x)
        for block in made.blocks():
            if block.plan.gated:
                block.gate.fc2.bias -= block.gate.logit(state).median()
            state = block.full(state, block.gate(state)) if block.plan.gated else block(state)
    return made


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact20_cifar", "resnet26d"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_leaving_out_computes_what_weighing_with_zero_does(name: str, activation: str) -> None:
    made = network(name, activation=activation)
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        state = made.stem(x)
        for block in made.blocks():
            state = block.full(state, block.gate(state)) if block.plan.gated else block(state)
        torch.testing.assert_close(made(x), made.head(state), rtol=1e-3, atol=1e-4)
        one_by_one = torch.cat([made(picture[None]) for picture in x])
        torch.testing.assert_close(made(x), one_by_one, rtol=1e-4, atol=1e-4)


def test_f_is_not_computed_for_pictures_that_pass_by() -> None:
    made = network("resnet20_cifar")
    seen: list[int] = []
    for block in made.blocks():
        if block.plan.gated:
            block.conv1.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    gates.reset(made)
    with torch.no_grad():
        made(torch.randn(16, 3, 32, 32))
    told = gates.report(made, 32)
    opened = [gate.open for gate in made.gates()]
    assert [n for n in opened if n] == seen
    assert any(0 < n < 16 for n in seen)
    assert told["rate"] == pytest.approx(sum(opened) / (16 * len(opened)))
    assert told["macs"] < told["macs_in_full"] == cost(made.spec, 32).macs


def test_only_blocks_that_keep_the_shape_have_a_gate() -> None:
    spec = dataclasses.replace(zoo.get("resnet20_cifar"), gates=True)
    assert [block.gated for block in spec.plan()] == [True] * 3 + [False, True, True] * 2
    assert cost(spec, 32).params == sum(p.numel() for p in ResNet(spec).parameters())
    assert sum(branch_macs(spec, 32)) < cost(spec, 32).macs
    with pytest.raises(SpecError, match=r"gate_rate=0\.5: no block of resnet14t keeps the shape"):
        with_exits_and_gates(zoo.get("resnet14t"), Recipe(model="resnet14t", size=64, gate_rate=0.5))
    for name in ("plain20_cifar", "revnet38_cifar"):
        with pytest.raises(SpecError, match="cannot leave out"):
            dataclasses.replace(zoo.get(name), gates=True)


def test_samples_follow_the_odds_and_pass_a_gradient() -> None:
    gate = Gate(4).train()
    torch.nn.init.zeros_(gate.fc2.weight)
    torch.nn.init.constant_(gate.fc2.bias, 1.0)
    torch.manual_seed(0)
    weights = gate(torch.randn(20_000, 4, 1, 1))
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    assert weights.mean().item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)
    gate.rate.backward()
    assert gate.fc2.bias.grad.item() > 0.05


def test_the_loss_asks_for_the_rate() -> None:
    made = [Gate(4), Gate(4)]
    made[0].rate, made[1].rate = torch.tensor(0.9), torch.tensor(0.5)
    loss = losses.with_gates(losses.cross_entropy(), made, rate=0.6)
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    total, _ = loss(lambda x: logits, torch.zeros(1), targets)
    assert total.item() == pytest.approx(torch.tensor(3.0).log().item() + 2 * (0.09 + 0.01) / 2)


def test_averages_and_exports_copy_a_network_that_has_just_trained(tmp_path: Path) -> None:
    """The gates hold the last batch's rate, with its gradient, and copies must not want that."""
    fields: dict[str, Any] = {"model": "resnet14_cifar", "recipe": "plain", "max_steps": 4, "workers": 0}
    made = resvision.train("digits", out=tmp_path / "a", gate_rate=0.5, ema=0.5, **fields)
    exported = resvision.export(made.classifier, "onnx", out=tmp_path)
    assert exported.file.is_file()
    copied = copy.deepcopy(made.classifier.network)
    assert all(float(gate.rate) == 1 for gate in copied.gates())


def test_gates_and_the_last_layer_alone(tmp_path: Path) -> None:
    """While the trunk does not learn no gate decides in training, and the loss must not hold rates of earlier steps."""
    fields: dict[str, Any] = {"recipe": "plain", "max_steps": 8, "workers": 0}
    base = resvision.train("digits", model="resnet14_cifar", gate_rate=0.6, out=tmp_path / "a", **fields)
    tuned = resvision.train("digits", pretrained=str(base.folder), head_first=0.5, out=tmp_path / "b", **fields)
    assert tuned.result["steps"] == 8
    assert read_recipe(tuned.folder / "recipe.yaml").gate_rate == 0.6  # which gates that learn on still have to keep to


def test_gates_do_not_go_into_a_frozen_trunk() -> None:
    with pytest.raises(RecipeError, match="freeze_trunk=True and gate_rate exclude each other"):
        Recipe(model="resnet20_cifar", size=8, pretrained="x", freeze_trunk=True, exits="auto", gate_rate=0.5)


def test_training_reaches_the_rate_and_repeats(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "model": "resnet20_cifar",
        "recipe": "plain",
        "epochs": 8,
        "precision": "fp32",
        "channels_last": True,
        "compile": False,
        "workers": 0,
        "gate_rate": 0.5,
    }
    first = resvision.train("digits", out=tmp_path / "a", **fields)
    told = first.result["gates"]
    assert 0.3 < told["rate"] < 0.75
    assert first.result["accuracy"] > 0.9
    second = resvision.train("digits", out=tmp_path / "b", **fields)
    state = second.classifier.network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.classifier.network.state_dict().items())
    evaluated = resvision.evaluate(tmp_path / "a", "digits")
    assert evaluated["gates"].items() >= told.items()
    assert set(evaluated["gates"]["measured"]) == {"1", "32"}
    for raced in evaluated["gates"]["measured"].values():
        assert 32 <= raced["pictures"] <= 300
        assert raced["times_as_fast"] == pytest.approx(raced["milliseconds_in_full"] / raced["milliseconds"])
    assert json.loads((tmp_path / "a" / "model.json").read_text())["spec"]["gates"] is True


def test_a_compiled_network_weighs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("resnet20_cifar")
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted = made(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        gates.reset(made)
        torch.testing.assert_close(made(x), wanted)
    assert all(gate.seen == 0 for gate in made.gates())


def test_overfitting_is_examined_without(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="leave out exits, gates and gate_rate"):
        resvision.overfit("digits", gate_rate=0.5, out=tmp_path / "x")
