"""The package as folders: what may import what, and how large a folder and a file may be.

A folder holds three to nine files and folders. In a folder of plug-ins (foundation/registry.py) each plug-in is a file
that nobody needs to read for the others, so any number is allowed, and only the files that they share are counted.

An exception is an entry of a list here. Each list holds exactly what is found, so that it can only shrink: a new
exception fails, and so does an entry that is no longer needed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import stablequant
from stablequant.foundation import registry

ROOT = Path(stablequant.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = (  # from the top down: a folder imports only what stands below it
    "",
    "cli",
    "api",
    "report",
    "workflows",
    "quantization.training",
    "quantization.training.quantizers",
    "quantization.planners",
    "quantization.search",
    "evaluation",
    "speech",
    "models.checkpoint",
    "models",
    "engines.onednn",
    "engines.onednn.operators",
    "engines",
    "models.families",
    "models.tasks",
    "quantization.rounding",
    "quantization.ranges",
    "quantization.observation",
    "quantization.plan",
    "quantization.weight_formats",
    "quantization.numerics",
    "speech.layouts",
    "speech.audio_files",
    "foundation.options",
    "foundation",
)
UPWARD: set[tuple[str, str]] = set()  # (file, folder above it)
IN_FUNCTIONS: set[tuple[str, str]] = {
    ("report/page.py", "report.panels"),
}  # (file, module of ours): imports that only run later
CIRCLES: set[str] = set()  # modules that import each other, by whatever way
LONG: set[str] = set()  # more than MOST_LINES
SIZES: dict[str, int] = {}  # folders with fewer or more than three to nine things
PLUGINS = {place.replace(".", "/"): set(registry.names(kind)) for kind, place in registry.FOLDERS.items()}
MOST_LINES = 400
MOST_FOLDERS = 9


def name_of(path: Path) -> str:
    """The dotted name within the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def folder_of(module: str) -> str:
    """The folder that a module lies in; a file at the top counts as one of its own."""
    if MODULES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or (module if module in LAYERS else "")


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """The modules of ours that some code imports; what only type checkers see, or runs late, ties as well."""
    package = (ROOT.name, *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1],) if node.level else ()
            base = (*base, *([node.module] if node.module else []))
            names = [".".join((*base, alias.name)) for alias in node.names]
        else:
            continue
        for name in names:
            yield from filter(None, [known(name)])


def known(name: str) -> str | None:
    """The module of ours that a dotted name means or lies in."""
    top, _, rest = name.partition(".")
    if top != ROOT.name:
        return None
    return rest if rest in MODULES else rest.rpartition(".")[0]


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_a_folder_imports_only_what_stands_below_it():
    assert {folder_of(module) for module in MODULES} <= set(LAYERS) | {"quantization"}
    rank = {name: place for place, name in enumerate(LAYERS)}
    upward = {
        (path.relative_to(ROOT).as_posix(), theirs)
        for path, tree in TREES.items()
        for theirs in map(folder_of, imports(path, tree))
        if theirs != (ours := folder_of(name_of(path))) and rank[theirs] <= rank[ours]
    }
    assert upward == UPWARD


def test_the_rule_finds_every_kind_of_import():
    path = ROOT / "quantization" / "plan" / "some.py"
    code = """
from ...models import checkpoint
from ...engines.onednn.operators.modules import IntegerModule
def late():
    from ..search import session
    import stablequant.cli.main
"""
    found = {"models.checkpoint", "engines.onednn.operators.modules", "quantization.search.session", "cli.main"}
    assert set(imports(path, ast.parse(code))) == found


def test_imports_stand_at_the_top_of_a_file():
    """Only the command line waits with them, so that --help answers at once."""
    late = {
        (path.relative_to(ROOT).as_posix(), module)
        for path, tree in TREES.items()
        if folder_of(name_of(path)) != "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for module in imports(path, node)
    }
    assert late == IN_FUNCTIONS


def test_no_modules_import_each_other():
    arrows = {name: set(imports(path, TREES[path])) - {name} for name, path in MODULES.items() if name}
    reach = {name: reached(name, arrows) for name in arrows}
    assert {name for name in arrows if name in reach[name]} == CIRCLES


def reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """Everything that a module imports, and what that imports."""
    found, waiting = set(), list(arrows[start])
    while waiting:
        if (name := waiting.pop()) not in found and name:
            found.add(name)
            waiting += arrows[name]
    return found


def test_files_are_short():
    long = {path.relative_to(ROOT).as_posix() for path in FILES if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == LONG


def test_a_folder_holds_three_to_nine_things():
    sizes = {}
    for folder in {path.parent for path in FILES} - {ROOT}:
        name, ignored = folder.relative_to(ROOT).as_posix(), {"__init__", "__pycache__"}
        inside = [each for each in folder.iterdir() if each.stem not in ignored | PLUGINS.get(name, set())]
        sizes[name] = sum(each.is_dir() or each.suffix == ".py" for each in inside)
    fewest = {name: 0 if name in PLUGINS else 3 for name in sizes}
    assert {name: size for name, size in sizes.items() if not fewest[name] <= size <= 9} == SIZES


def test_the_package_opens_on_few_folders():
    assert sum((each / "__init__.py").is_file() for each in ROOT.iterdir()) <= MOST_FOLDERS
