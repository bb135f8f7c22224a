"""The shape of the house: arrows run down only, rooms on one floor keep apart, and the front door is light."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "residyn"

# The floors of docs/architecture, ground first. A room is a module or package directly below `residyn`.
FLOORS = (
    ("errors", "results", "provenance", "counting", "csvtext", "arrays", "display", "placing"),
    ("state", "step", "branch", "interpolation"),
    ("schemes", "roots", "gradients"),
    ("flow", "compiled", "interpolation"),
    ("analysis", "statistics"),
    ("audit", "training", "testing", "compat"),
    ("inverse", "dynamics", "quantum", "protein", "graph", "nets", "robust", "transfer", "calibrate"),
    ("atlas",),
    ("report", "schemas"),
    ("cli", "__main__"),
)
DOMAINS = FLOORS[6]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# Upward arrows that are meant, each inside a function: (module, room above).
MEANT = {
    ("residyn.step", "gradients"),  # Stack's default gradient mode
    ("residyn.audit.auditing", "report"),  # an audit writes its own page
}

# What comes with the core's own dependencies; anything else loaded by `import residyn` belongs to an extra.
OPTIONAL = {
    "PIL", "accelerate", "dask", "distributed", "gemmi", "jinja2", "joblib", "matplotlib", "mlxtend", "nibabel", "nilearn", "pandas", "pyscf", "ray",
    "skimage", "sklearn", "statsmodels", "tifffile", "torchdiffeq", "transformers",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package, by dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("residyn", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Modules of residyn that a file imports when it runs; those inside functions only if `lazy`."""
    names: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                inner = {f"{child.module}.{alias.name}" for alias in child.names}
                names.update(name if name in MODULES else child.module for name in inner)
            walk(child)

    walk(ast.parse(path.read_text("utf-8")))
    return {name for name in names if name.partition(".")[0] == "residyn"}


def room(module: str) -> str:
    """The room a module lies in; empty for the root itself."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_room_has_a_floor(module):
    assert room(module) in FLOOR or module == "residyn", f"{module} is new: give its room a floor in this test"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"residyn"}))
def test_arrows_run_down_only(module):
    for target in imports(MODULES[module], lazy=True) - {"residyn"}:
        here, there = room(module), room(target)
        if (module, there) not in MEANT:
            assert FLOOR[there] <= FLOOR[here], f"{module} imports {target}, which lies above it"
        if here in DOMAINS and there in DOMAINS:
            assert here == there, f"{module} imports {target}: domain packages never import each other"


def test_meant_exceptions_are_still_needed_and_lazy():
    for module, above in MEANT:
        if module in MODULES:
            assert above in {room(name) for name in imports(MODULES[module], lazy=True)}
            assert above not in {room(name) for name in imports(MODULES[module], lazy=False)}


def test_no_import_cycles():
    # A package's __init__ gathers its modules, and so does the root: edges to a package's own ancestors are not counted.
    graph = {
        module: {target for target in imports(path, lazy=False) if not f"{module}.".startswith(f"{target}.")}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_root_offers_at_most_forty_names():
    import residyn

    assert len(residyn.__all__) <= 40


def test_lazy_names_agree_with_what_type_checkers_see():
    import residyn

    tree = ast.parse(MODULES["residyn"].read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == residyn._HOME
    assert set(residyn.__all__) == set(seen)


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys; print(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_loads_no_optional_package():
    code = "import residyn\nfor name in residyn.__all__:\n    getattr(residyn, name)"
    assert not loaded_by(code) & OPTIONAL


def test_import_alone_does_not_load_torch():
    assert not loaded_by("import residyn, residyn.cli, residyn.report, residyn.atlas") & {"torch", "numpy", *OPTIONAL}
