"""Figures of steps: into the sums of an epoch, in order, none lost, and without waiting for an accelerator."""

import math
from collections import deque

import pytest
import torch

from resvision.errors import DivergedError
from resvision.training import figures
from resvision.training.engine import StepResult
from resvision.training.figures import Arriving, Figures, Sums

HERE = torch.device("cpu")
THERE = torch.device("meta")  # any that is not the processor; the tensors of these tests stay here all the same


def result(loss: float, correct: int) -> StepResult:
    return StepResult(torch.tensor(loss), torch.tensor(correct))


class Mark:
    """Stands where the device's own mark would: it says when the device has come so far."""

    def __init__(self) -> None:
        self.passed = False
        self.waited = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.waited = not self.passed


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> deque[Mark]:
    made: deque[Mark] = deque()

    def mark(where: torch.device) -> Mark:
        made.append(Mark())
        return made[-1]

    monkeypatch.setattr(figures, "_mark", mark)
    return made


def test_on_the_processor_each_step_comes_at_once() -> None:
    arriving = Arriving(HERE)
    assert arriving.take() == []
    arriving.put(7, 32, result(0.5, 20))
    assert arriving.take() == [Figures(7, 32, 0.5, 20)]
    assert arriving.take(wait=True) == []


def test_on_an_accelerator_figures_leave_in_pieces_and_nothing_waits_for_them(marks: deque[Mark]) -> None:
    arriving = Arriving(THERE)
    for number in range(1, figures.TOGETHER):
        arriving.put(number, 10, result(number / 4, number))
        assert arriving.take() == []
    assert not marks  # nothing has left
    for number in range(figures.TOGETHER, 2 * figures.TOGETHER + 1):
        arriving.put(number, 10, result(number / 4, number))
    first, second = marks
    assert arriving.take() == []
    first.passed = True
    assert [f.number for f in arriving.take()] == list(range(1, figures.TOGETHER + 1))
    assert arriving.take() == []
    assert not first.waited
    assert not second.waited
    arriving.put(41, 3, result(1.5, 2))
    rest = arriving.take(wait=True)
    assert second.waited
    assert [f.number for f in rest] == list(range(figures.TOGETHER + 1, 42))
    assert rest[-1] == Figures(41, 3, 1.5, 2)
    assert all(f.loss == f.number / 4 and f.correct == f.number for f in rest[:-1])


def test_what_has_come_later_waits_for_what_has_not(marks: deque[Mark]) -> None:
    arriving = Arriving(THERE)
    for number in range(2 * figures.TOGETHER):
        arriving.put(number, 1, result(0.0, 0))
    marks[1].passed = True
    assert arriving.take() == []
    marks[0].passed = True
    assert [f.number for f in arriving.take()] == list(range(2 * figures.TOGETHER))


def test_sums_are_weighted_by_pictures() -> None:
    sums = Sums(seconds=2.0)
    sums.add([Figures(1, 30, 1.0, 10), Figures(2, 10, 3.0, 10)])
    loss, accuracy, speed = sums.means()
    assert (loss, accuracy, speed) == (pytest.approx(1.5), pytest.approx(0.5), pytest.approx(20.0))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_step(loss: float) -> None:
    with pytest.raises(DivergedError, match=r"at step 1,234: lower --lr"):
        Sums().add([Figures(1, 1, 0.5, 0), Figures(1234, 1, loss, 0)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator to wait for")
def test_a_step_never_waits_for_an_accelerator() -> None:
    from resvision.data.loader import TrainingBatches
    from resvision.data.pictures import ArrayPictures, Split
    from resvision.data.readable import BadPictures
    from resvision.models import ResNet
    from resvision.preprocess import Preprocess
    from resvision.recipe import Recipe
    from resvision.training import engine, losses, optim
    from resvision.zoo import variant

    where = torch.device("cuda")
    recipe = Recipe(
        model="resnet8_cifar",
        size=16,
        channels=3,
        batch_size=8,
        workers=0,
        shift=2,
        flip=True,
        erase=0.5,
        cutmix=1.0,
        mixup=0.2,
        optimizer="muon",
        precision="bf16",
        channels_last=True,
        compile=False,
        memory="full",
        steps=48,
        clip=1.0,
    )
    pictures = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8).numpy()
    split = Split(ArrayPictures(pictures, "made"), torch.arange(64).numpy() % 10)
    preprocess = Preprocess(size=16)
    batches = TrainingBatches(split, recipe, preprocess, BadPictures(0), 16, where=where)
    network = ResNet(variant("resnet8_cifar", ())).to(where)
    made = engine.build(network, recipe, losses.build(recipe), preprocess)
    optimizer = optim.build(network, recipe)
    arriving = Arriving(where)
    for epoch in range(6):
        torch.cuda.set_sync_debug_mode("error" if epoch else "default")  # the first one chooses kernels
        for step, batch in enumerate(batches.epoch(epoch)):
            arriving.put(step, 8, made.step(batch, optimizer, step))
            arriving.take()
    torch.cuda.set_sync_debug_mode("default")
    assert len(arriving.take(wait=True)) > 0
