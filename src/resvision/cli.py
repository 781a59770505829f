"""The command line: one short function a verb, which parses, calls the library, and prints."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from cyclopts import App, CycloptsError, Parameter, Token, UnusedCliTokensError, convert

from resvision import __version__
from resvision.errors import InputError, ResvisionError, Terminated, signal_of
from resvision.preprocess import Interpolation
from resvision.printing import (
    count,
    print_compression,
    print_evaluation,
    print_examination,
    print_exits,
    print_export,
    print_json,
    print_networks,
    print_predictions,
    print_runtimes,
    print_search,
    print_training,
    quoted,
)
from resvision.recipe import ADAPTIVE, Recipe
from resvision.target import Contract, ExportPrecision, Format, RuntimeChoice

if TYPE_CHECKING:
    from resvision.data.sources import Columns


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """The value of an option: cyclopts' own, which would round 128.7, of lists of numbers with commas between them."""
    if any(not token.value for token in tokens):
        what = tokens[0].keyword or "an argument"
        raise InputError(f"{what} is empty: perhaps a variable of the shell is not set; the current folder is .")
    kinds = (kind, *get_args(kind))
    if tuple[int, ...] in kinds or tuple[float, ...] in kinds:
        tokens = [token.evolve(value=part) for token in tokens for part in token.value.split(",")]
    if int in kinds or tuple[int, ...] in kinds:
        for token in tokens:
            if token.value.partition(".")[2].strip("0"):
                raise InputError(f"{token.keyword} {token.value} is no whole number")
    return convert(kind, tokens)


app = App(
    name="resvision",
    help="From a folder of pictures to a residual network that can be trusted, understood and deployed.",
    version=f"resvision {__version__}",
    version_flags=["--version"],
    help_format="plaintext",
    help_epilogue="Begin with: resvision demo",
    suppress_keyboard_interrupt=False,  # main() says what became of it
    default_parameter=Parameter(converter=_converted, negative_iterable=""),
)

if TYPE_CHECKING:

    class Hyperparameters:
        """Any field of a Recipe, None where it stays as it is."""

    class Examined(Hyperparameters):
        """Those of a recipe that is examined."""

    class Searched(Hyperparameters):
        """Those that a search leaves alone."""

else:

    def _options(name: str, without: tuple[str, ...]) -> type:
        """Every field of Recipe but some is an option, with the field's own description."""
        fields = [(field, kind | None, None) for field, kind in get_type_hints(Recipe).items() if field not in without]
        made = make_dataclass(name, fields, frozen=True)
        made.__doc__ = Recipe.__doc__
        made.__module__ = __name__  # without a home of its own it would pass for a builtin
        return made

    Hyperparameters = _options("Hyperparameters", ("steps",))  # which a run derives
    # Examinations and searches have minutes of their own and train the network alone, from scratch.
    LEFT_OUT = ("steps", "minutes", "pretrained", "head_first", "lr_decay", "freeze_norms", *ADAPTIVE)
    Examined = _options("Examined", LEFT_OUT)
    Searched = _options("Searched", (*LEFT_OUT, "model", "size"))

NO_CHANGES = Hyperparameters()
NOT_CHANGED = Examined()
LEFT_ALONE = Searched()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ManifestColumns:
    """The columns of a CSV manifest.

    Args:
        path_column: Manifest column of the picture files.
        label_column: Manifest column of the class names.
        split_column: Manifest column with train, val or test, or with true where a row is for validation.
    """

    path_column: str = "path"
    label_column: str = "label"
    split_column: str | None = None

    def parsed(self) -> Columns:
        """As the library takes them."""
        from resvision.data.sources import Columns

        return Columns(path=self.path_column, label=self.label_column, split=self.split_column)

    @classmethod
    def recorded(cls, run: Path) -> ManifestColumns:
        """Those that a run was begun with."""
        from resvision.training import RunFolder

        source = RunFolder(run).read_data()["source"] or {}
        return cls(**{f"{name}_column": value for name, value in source.get("columns", {}).items()})

    def named(self) -> str:
        """The options that were given, for a command that is printed."""
        given = {name: value for name, value in vars(self).items() if value != getattr(USUAL_COLUMNS, name)}
        return "".join(f" --{name.replace('_', '-')} {quoted(value)}" for name, value in given.items())


USUAL_COLUMNS = ManifestColumns()

JSON = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document on stdout.")]
Flag = Annotated[bool, Parameter(negative="")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb and leaves with its exit status: 0 done, 2 wrong input, 1 a fault of ours, 130/143 interrupted."""
    if sys.stdout is None or sys.stderr is None:  # closed by whoever began this program
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the program runs
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text, which must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with _terminating():
                app(arguments, exit_on_error=False, print_error=False)
        except SystemExit:  # with which every verb ends that is done
            sys.stdout.flush()  # what nobody reads must be noticed here, not at exit
            raise
    except UnusedCliTokensError as error:
        words = " ".join(map(quoted, error.unused_tokens or ()))
        _fail(f"what is {words} for? The verb takes fewer arguments (see --help); a name with blanks goes in quotes", 2)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()) + " (see --help)", 2)
    except ResvisionError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt as stop:
        _fail("stopped", 128 + signal_of(stop))
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is left goes nowhere, or Python complains of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 2)


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Lets SIGTERM end a verb by an exception, so that files which are half written are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked, and has nothing to tidy up
            os._exit(128 + number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, status: int) -> None:
    print(f"resvision: {message}", file=sys.stderr)
    sys.exit(status)


@app.command(help_epilogue="Example: resvision demo")
def demo(*, out: Path | None = None, as_json: JSON = False) -> None:
    """Train, evaluate and save a small network on handwritten digits, in less than a minute.

    Parameters
    ----------
    out
        Folder for the run; without it runs/demo-001, runs/demo-002, ...
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    made = api.demo(out=out, reporter=ConsoleReporter())
    print_training(made, as_json)


@app.command(help_epilogue="Example: resvision models resnet50 --classes 10 --size 128")
def models(
    name: str | None = None,
    /,
    *,
    classes: int | None = None,
    size: int | None = None,
    channels: int = 3,
    as_json: JSON = False,
) -> None:
    """List the networks: layers, parameters, multiply-adds and activation memory of one picture.

    Parameters
    ----------
    name
        One network, of a CIFAR family in any valid depth, such as resnet56_cifar or wrn28_10 (docs/models.md); without
        it one of each kind is listed.
    classes
        Classes at the end; by default 1000, or 10 for the CIFAR networks.
    size
        Height and width of the pictures, in pixels; by default 224, or 32 for the CIFAR networks.
    channels
        1 for grey pictures, 3 for colour.
    """
    from resvision.listing import list_models

    rows = list_models(name, classes=classes, size=size, channels=channels)
    if as_json:
        print_json(rows)
        return
    print_networks(rows)


@app.command(help_epilogue="Example: resvision train photos/ --model resnet18 --size 128 --epochs 5")
def train(
    data: str | None = None,
    /,
    *,
    recipe: str = "auto",
    hyperparameters: Annotated[Hyperparameters, Parameter(name="*")] = NO_CHANGES,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    resume: Path | None = None,
    tensorboard: Flag = False,
    as_json: JSON = False,
) -> None:
    """Train a network on DATA and save it, with all its figures, in a run folder.

    Parameters
    ----------
    data
        digits, fashion-mnist, cifar10, cifar100; a folder (train|val|test/<class>/... or <class>/...); a tar or zip
        archive of one; or a CSV manifest.
    recipe
        auto, quick, strong, noisy, small, paper, plain; or the folder or recipe.yaml of an earlier run, to repeat it.
        Other options replace single fields; those left out follow the recipe, and the run's recipe.yaml records them
        all.
    out
        Folder for the run; without it runs/train-001, runs/train-002, ...
    resume
        Go on with the interrupted run in this folder.
    tensorboard
        Also write TensorBoard's event files.
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    made = api.train(
        data,
        columns=columns.parsed(),
        recipe=recipe,
        out=out,
        resume=resume,
        tensorboard=tensorboard,
        reporter=ConsoleReporter(),
        **{name: value for name, value in vars(hyperparameters).items() if value is not None},
    )
    if resume is not None and data is None:
        columns = ManifestColumns.recorded(made.folder)
    print_training(made, as_json, columns.named())


@app.command(name="import", help_epilogue="Example: resvision import resnet50.pth --model resnet50 --classes names.txt")
def import_weights(
    file: Path,
    /,
    *,
    model: str | None = None,
    spec: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    classes: Path | None = None,
    size: int | None = None,
    crop: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: Interpolation | None = None,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Turn weights of torchvision, timm or a plain PyTorch script, or a Keras model, into a classifier, strictly.

    Parameters
    ----------
    file
        A state dict: .safetensors, or written by torch.save, of which only tensors are read; or a .keras file of
        resvision.keras, of which only Keras's own layers are loaded.
    model
        The network's name here, as `resvision models` lists it; a .keras file tells it.
    spec
        FIELD=VALUE in which the network differs from the one of that name, such as pad_side=both; may be given again.
    classes
        Text file with one class name a line, in the order of the logits; without it they are numbered, unless the file
        tells them.
    size
        Height and width of the network's input, in pixels.
    crop
        The part of the shorter side that the cut in the middle keeps.
    mean
        R,G,B that was subtracted in training, of values in 0..1.
    std
        R,G,B standard deviations by which was divided in training, of values in 0..1.
    interpolation
        Filter of the resize; without it bilinear for ImageNet networks.
    out
        Folder for the classifier; without it runs/import-001, runs/import-002, ...
    """
    from resvision import api
    from resvision.files import read_text

    given = {
        "size": size,
        "crop": crop,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
    }
    classifier, folder = api.import_weights(
        file,
        model=model,
        spec=spec,
        classes=None if classes is None else list(filter(None, map(str.strip, read_text(classes).splitlines()))),
        preprocess={name: value for name, value in given.items() if value is not None},
        out=out,
    )
    if as_json:
        named = classifier.provenance.get("model") or classifier.provenance.get("recipe", {}).get("model")
        print_json({"run": str(folder), "model": named, "classes": list(classifier.classes)})
        return
    if classifier.provenance.get("named") is False:
        print("the classes are numbered: give their names with --classes", file=sys.stderr)
    classes_here = count(len(classifier.classes), "class", "classes")
    print(f"{model or file.name} with {classes_here} is saved in {folder}. Next:")
    print(f"  resvision predict {quoted(folder)} PICTURE.jpg")


@app.command(help_epilogue="Example: resvision study degradation fashion-mnist --out study/")
def study(
    name: str,
    data: str = "digits",
    /,
    *,
    depths: tuple[int, ...] | None = None,
    seeds: int | None = None,
    pictures: int | None = None,
    size: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Show by a short experiment why residual networks work: numbers, plots and a page.

    Parameters
    ----------
    name
        degradation: training and test error of plain and residual networks as they get deeper.
        gradients: how large they are at every block, with and without shortcut and normalisation.
        paths: a trained network without some of its blocks, or with others in their place.
        landscape: the loss around a trained network.
    data
        As in `resvision train`.
    depths
        Layers, with commas between them, such as 8,20,56; the CIFAR networks have 6n+2.
    seeds
        How often each network is trained.
    pictures
        At most so many of the training pictures.
    size
        Height and width in pixels; by default the pictures' own, at most 32.
    steps
        Optimiser steps of each training.
    batch_size
        Pictures a step.
    lr
        Peak learning rate.
    out
        Folder; one that holds the same study, stopped before its end, goes on. Without it runs/study-NAME-001, ...
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    given = {
        "depths": depths,
        "seeds": seeds,
        "pictures": pictures,
        "size": size,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
    }
    options = {option: value for option, value in given.items() if value is not None}
    numbers, folder = api.study(name, data, columns=columns.parsed(), out=out, reporter=ConsoleReporter(), **options)
    if as_json:
        print_json({"folder": str(folder), **numbers})
        return
    print(numbers["description"])
    print(f"Look at {folder / 'README.md'}, {folder / name}.png and {folder / name}.svg.")


@app.command(help_epilogue="Example: resvision overfit photos/ --minutes 10")
def overfit(
    data: str,
    /,
    *,
    minutes: float = 10.0,
    recipe: str = "auto",
    hyperparameters: Annotated[Examined, Parameter(name="*")] = NOT_CHANGED,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Find out why a network overfits DATA: measure the causes, try remedies, and check the best one once.

    Parameters
    ----------
    data
        As in `resvision train`.
    minutes
        Minutes that the examination may take; smaller networks, pictures and sets stand in for those that would take
        longer.
    recipe
        As in `resvision train`, like the options below: what is examined.
    out
        Folder; one that holds the same examination, stopped before its end, goes on. Without it runs/overfit-001, ...
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    numbers, folder = api.overfit(
        data,
        minutes=minutes,
        columns=columns.parsed(),
        recipe=recipe,
        out=out,
        reporter=ConsoleReporter(),
        **{name: value for name, value in vars(hyperparameters).items() if value is not None},
    )
    if as_json:
        print_json({"folder": str(folder), **numbers})
        return
    print_examination(numbers, folder)


@app.command(help_epilogue="Example: resvision depth photos/ --latency-ms 8 --minutes 15")
def depth(
    data: str,
    /,
    *,
    latency_ms: float | None = None,
    train_minutes: float | None = None,
    memory_gb: float | None = None,
    minutes: float = 15.0,
    models: str | None = None,
    sizes: tuple[int, ...] | None = None,
    widths: tuple[float, ...] | None = None,
    recipe: str = "auto",
    hyperparameters: Annotated[Searched, Parameter(name="*")] = LEFT_ALONE,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Find which depth, width and picture size to take for DATA: what they cost here, and what they would reach.

    Parameters
    ----------
    data
        As in `resvision train`.
    latency_ms
        At most so many milliseconds to answer one picture; without it there is no limit.
    train_minutes
        Minutes for which the network will be trained; without it as long as the recipe usually does.
    memory_gb
        At most so much memory for a training step, in GB (10^9 bytes); without it there is no limit.
    minutes
        Minutes that the search may take.
    models
        Names from `resvision models`, with commas between them, in place of the usual ones.
    sizes
        Height and width of the pictures, in pixels, with commas between them, such as 96,128.
    widths
        Factors by which the models' channels are multiplied, with commas between them, such as 0.5,1.
    recipe
        As in `resvision train`, like the options below: what all candidates follow.
    out
        Folder; one that holds the same search, stopped before its end, goes on. Without it runs/depth-001, ...
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    numbers, folder = api.depth(
        data,
        minutes=minutes,
        latency_ms=latency_ms,
        train_minutes=train_minutes,
        memory_gb=memory_gb,
        models=None if models is None else [name.strip() for name in models.split(",")],
        sizes=sizes,
        widths=widths,
        columns=columns.parsed(),
        recipe=recipe,
        out=out,
        reporter=ConsoleReporter(),
        **{name: value for name, value in vars(hyperparameters).items() if value is not None},
    )
    if as_json:
        print_json({"folder": str(folder), **numbers})
        return
    print_search(numbers, folder)


@app.command(help_epilogue="Example: resvision evaluate runs/train-001 photos/ --split test")
def evaluate(
    run: Path,
    data: str,
    /,
    *,
    split: str | None = None,
    runtime: RuntimeChoice | None = None,
    columns: ManifestColumns = USUAL_COLUMNS,
    as_json: JSON = False,
) -> None:
    """Measure a trained network on a split of DATA.

    Parameters
    ----------
    run
        The run folder, or an exported .onnx or .xml file.
    data
        As in `resvision train`.
    split
        train, val or test, without it test, else val; or all, every picture of a set without splits. Of such a set only
        the 20% that training would hold back are measured without it.
    runtime
        Of a run folder: torch; onnx or openvino, exported into it before; or auto, the fastest of them here.
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    result = api.evaluate(run, data, split=split, columns=columns.parsed(), runtime=runtime, reporter=ConsoleReporter())
    if as_json:
        print_json(result)
        return
    print_evaluation(result, run)


@app.command(name="exits", help_epilogue="Example: resvision exits runs/train-001 photos/ --max-drop 1")
def tune_exits(
    run: Path,
    data: str,
    /,
    *,
    max_drop: float | None = None,
    budget: float | None = None,
    latency_ms: float | None = None,
    split: str | None = None,
    runtime: RuntimeChoice | None = None,
    columns: ManifestColumns = USUAL_COLUMNS,
    as_json: JSON = False,
) -> None:
    """Choose anew when pictures leave a network with early exits: on half of a split, measured on the other half.

    Parameters
    ----------
    run
        The run folder of a network that was trained with --exits; the new thresholds are saved in it.
    data
        As in `resvision train`.
    max_drop
        Percentage points of accuracy that leaving early may cost; 0.5 if no limit is given.
    budget
        The part of the whole network's time that may be taken, above 0 and at most 1, such as 0.5.
    latency_ms
        Milliseconds per picture that may be taken on average, one picture at a time.
    split
        train, val, test, or all; without it val, else test. Its pictures must not have trained.
    runtime
        Whose answers and times are judged: torch; onnx or openvino, exported into the run before; or auto.
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    limits = {"max_drop": max_drop, "budget": budget, "latency_ms": latency_ms}
    reporter = ConsoleReporter()
    _, result = api.tune_exits(
        run, data, **limits, split=split, columns=columns.parsed(), runtime=runtime, reporter=reporter
    )
    if as_json:
        print_json(result)
        return
    print_exits(result["adaptive"], f"{result['data']}, {result['split']}, {result['pictures']:,} pictures")
    print(f"The thresholds are saved in {run}. Look at {run / 'exits.png'}.")


@app.command(help_epilogue="Example: resvision predict runs/train-001 photo.jpg holiday/*.png")
def predict(
    run: Path,
    paths: list[Path],
    /,
    *,
    top: int = 5,
    deadline_ms: float | None = None,
    runtime: RuntimeChoice | None = None,
    as_json: JSON = False,
    as_csv: Annotated[
        bool, Parameter(name="--csv", negative="", help="Print CSV with a header: path, label, score, error.")
    ] = False,
) -> None:
    """Classify pictures. One that cannot be read is named with its error, and the rest go on.

    Parameters
    ----------
    run
        The run folder, or an exported .onnx or .xml file.
    paths
        Picture files, or folders whose pictures are all taken.
    top
        How many of the most probable classes --json names for each picture; the table has at most three.
    deadline_ms
        Milliseconds for the network's work on a picture, of a network with early exits: the best answer within them.
    runtime
        Of a run folder: torch; onnx or openvino, exported into it before; or auto, the fastest of them here.
    """
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other: give one")
    from resvision import api
    from resvision.progress import ConsoleReporter

    predictions = api.predict(run, paths, top=top, deadline_ms=deadline_ms, runtime=runtime, reporter=ConsoleReporter())
    results = [r.to_dict() for r in predictions]
    if as_json:
        print_json(results)
        return
    print_predictions(results, as_csv)


@app.command(help_epilogue="Example: resvision export runs/train-001 --format onnx --out model.onnx")
def export(
    run: Path,
    /,
    *,
    to: Annotated[Format, Parameter(name="--format")],
    contract: Contract = "A",
    precision: ExportPrecision = "fp32",
    data: str | None = None,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Write a network as a file that runs without this program, once it answers there as it does here.

    Parameters
    ----------
    run
        The run folder.
    to
        onnx; openvino (.xml and .bin); torch (.pt2 of torch.export); or keras.
    contract
        What the file takes. A: uint8 squares that the caller has cut and resized to the network's size, any number at
        once. B: one uint8 picture of any size, which the file itself cuts and resizes (not for keras).
    precision
        fp32; bf16, half as large; or int8, which needs --data. The last two are of ONNX and OpenVINO.
    data
        As in `resvision train`: its training part calibrates int8, its test or validation part is compared on.
    out
        The file, or a folder for it; without it RUN/runtimes, where the other verbs find ONNX and OpenVINO by
        contract A.
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    given = columns.parsed()
    reporter = ConsoleReporter()
    made = api.export(
        run, to, contract=contract, precision=precision, data=data, columns=given, out=out, reporter=reporter
    )
    if as_json:
        print_json({"file": str(made.file), "files": list(map(str, made.files)), **made.verification.to_dict()})
        return
    print_export(made, to)


@app.command(help_epilogue="Example: resvision benchmark runs/train-001 --data photos/")
def benchmark(
    run: Path,
    /,
    *,
    data: str | None = None,
    split: str | None = None,
    columns: ManifestColumns = USUAL_COLUMNS,
    threads: int | None = None,
    compiled: Flag = False,
    as_json: JSON = False,
) -> None:
    """Measure how fast a network answers by PyTorch, ONNX Runtime and OpenVINO.

    Parameters
    ----------
    run
        The run folder. Exports in it are used; those that are missing are made for the time being, int8 only with data.
    data
        As in `resvision train`: its training part calibrates int8, and the accuracy of each is measured on it.
    split
        train, val or test, without it test, else val; or all, every picture of a set without splits.
    threads
        Processor threads that each runtime may use; without it as many as PyTorch does.
    compiled
        Also try torch.compile, which takes a minute or so.
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    result = api.benchmark(
        run, data, split=split, columns=columns.parsed(), threads=threads, compiled=compiled, reporter=ConsoleReporter()
    )
    if as_json:
        print_json(result)
        return
    print_runtimes(result)


@app.command(help_epilogue="Example: resvision compress runs/train-001 photos/ --speedup 3 --max-drop 0.5")
def compress(
    run: Path,
    data: str,
    /,
    *,
    speedup: float = 2.0,
    max_drop: float = 0.5,
    minutes: float = 10.0,
    batch_size: int = 1,
    columns: ManifestColumns = USUAL_COLUMNS,
    out: Path | None = None,
    as_json: JSON = False,
) -> None:
    """Make a trained network several times faster at hardly less accuracy, both measured on this machine.

    Parameters
    ----------
    run
        The run folder; it stays as it is.
    data
        As in `resvision train`, with the classes of the run.
    speedup
        How many times as fast as the run in float32 by PyTorch it shall be; above 1.
    max_drop
        Percentage points of accuracy that this may cost.
    minutes
        Minutes of teaching smaller networks, if runtimes alone are not fast enough; where one loses too much, a milder
        one is taught as long again.
    batch_size
        Pictures at once whose time counts.
    out
        Folder for the new classifier; without it runs/compress-001, runs/compress-002, ...
    """
    from resvision import api
    from resvision.progress import ConsoleReporter

    numbers, folder = api.compress(
        run,
        data,
        speedup=speedup,
        max_drop=max_drop,
        minutes=minutes,
        batch_size=batch_size,
        columns=columns.parsed(),
        out=out,
        reporter=ConsoleReporter(),
    )
    if as_json:
        print_json({"folder": str(folder), **numbers})
        return
    print_compression(numbers, folder)
