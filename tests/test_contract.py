"""What must not change unnoticed: the floors of the house, the public names, the command line, the state-dict keys."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from cyclopts import CycloptsError

import resvision
from resvision import zoo
from resvision.cli import app
from resvision.errors import ResvisionError
from resvision.models import ResNet

SOURCE = Path(resvision.__file__).parent
GOLDEN = Path(__file__).parent / "golden"

# A module imports only from floors below its own; within a floor, only from what stands before it here.
FLOORS = [
    ["errors", "files", "spec", "zoo", "cost", "listing", "preprocess", "recipe", "recipes", "target", "exits"],
    ["measure", "progress", "models", "data"],
    ["runtime", "adaptive", "evaluation", "classifier", "deployed", "importing"],
    ["training", "keras", "exporting"],
    ["efficiency", "search", "explain"],
    ["report"],
    ["inputs", "api", "printing", "cli", "__main__"],
]
NEVER_KNOW_EACH_OTHER = [
    *permutations(("models", "data"), 2),
    *permutations(("efficiency", "search", "explain"), 2),
    ("exporting", "training"),
    ("keras", "training"),
]
PLACE = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        room = relative.parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, ast.parse(path.read_text(), str(relative))


def imported_rooms(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "resvision":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("resvision."))


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in modules()} == set(PLACE)


def test_rooms_import_only_from_below() -> None:
    wrong = [
        f"{room} imports {other}"
        for room, tree in modules()
        for other in imported_rooms(tree)
        if other in PLACE and other != room and (PLACE[other] >= PLACE[room] or (room, other) in NEVER_KNOW_EACH_OTHER)
    ]
    assert wrong == []


def test_the_lowest_floor_knows_no_torch() -> None:
    code = "import sys; " + "; ".join(f"import resvision.{room}" for room in FLOORS[0])
    code += "; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_only_measure_holds_a_clock() -> None:
    holders = {
        room
        for room, tree in modules()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name in ("time", "datetime") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"))
    }
    assert holders == {"measure"}


def test_no_pickle_is_ever_read() -> None:
    for room, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "joblib", "dill"} & set(names), room
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, node.keywords), room  # which reads tensors alone
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.export.load":
                assert room == "exporting"  # of what it has just written, to verify it


def test_public_names() -> None:
    assert sorted(resvision.__all__) == [
        *("Classifier", "Preprocess", "Recipe", "ResNetSpec"),
        *("benchmark", "compress", "demo", "depth", "evaluate", "export", "import_weights", "list_models", "overfit"),
        *("predict", "study", "train", "tune_exits"),
    ]
    for name in resvision.__all__:
        assert getattr(resvision, name).__doc__
        assert callable(getattr(resvision, name))  # also where a room has the name of a verb, such as models
    with pytest.raises(AttributeError, match="nothing"):
        _ = resvision.nothing


def test_every_error_is_in_the_tree_at_the_top_of_the_file() -> None:
    errors = importlib.import_module("resvision.errors")
    names = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert [name for name in names if f"{name} " not in errors.__doc__] == []


def test_command_line_surface() -> None:
    surface = {}
    for verb in (name for name in app if not name.startswith("-")):
        arguments = app[verb].assemble_argument_collection(default_parameter=app.default_parameter)
        surface[verb] = sorted(name for argument in arguments for name in argument.names if name != "*")
    assert surface == json.loads((GOLDEN / "cli.json").read_text())


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page: blocks that begin with four spaces."""
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("    resvision "):
            yield re.split(r" +#| > ", line.strip())[0]


PAGES = [SOURCE.parents[1] / "README.md", *sorted((SOURCE.parents[1] / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_are_understood(page: Path) -> None:
    for command in commands(page):
        try:
            app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)
        except (CycloptsError, ResvisionError) as error:
            pytest.fail(f"{command}: {error}")


def test_the_readme_has_commands() -> None:
    assert len(list(commands(PAGES[0]))) > 10


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "cli"))
def test_state_dict_keys_and_shapes(name: str) -> None:
    state = ResNet(zoo.get(name)).state_dict()
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == golden
