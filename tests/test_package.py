"""The package as a whole: the cost of its import, its public names, and which modules may import which."""

import ast
import functools
import operator
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as nn

ROOT = Path(nn.__file__).parent


def test_importing_jaxnn_costs_little_on_top_of_jax_and_optax():
    """In modules and in CPU time of the process (measured: 6% and 10%).

    The garbage collector is off: its pass over everything that JAX made, 50 ms, would count for whoever triggers it.
    """
    program = (
        "import gc, sys, time; gc.disable(); import jax, optax\n"
        "modules, seconds = len(sys.modules), time.process_time(); import jaxnn\n"
        "print(len(sys.modules) / modules - 1, time.process_time() / seconds - 1)"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert all(float(modules) < 0.1 for modules, _ in runs)
    assert min(float(seconds) for _, seconds in runs) < 0.2


def test_importing_jaxnn_imports_none_of_the_extras():
    program = (
        "import sys, jax, optax; before = set(sys.modules); import jaxnn\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    brought = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert brought <= {"jaxnn", "jax", "jaxlib", "optax", "numpy"}


def test_every_public_name_exists_and_is_documented():
    for name in nn.__all__:
        value = getattr(nn, name)
        assert getattr(value, "__doc__", None), name
    assert len(set(nn.__all__)) == len(nn.__all__)


def test_every_name_in_the_readme_exists():
    """In the examples and in the tables of names, those of the reference's pages included."""
    pages = [ROOT.parent / "README.md", *sorted((ROOT / "pages").glob("*.md"))]
    names = set(re.findall(r"\bnn((?:\.[A-Za-z_]\w*)+)", "".join(page.read_text(encoding="utf-8") for page in pages)))
    assert len(names) > 30
    for name in names:
        operator.attrgetter(name[1:])(nn)


# What each room may import, besides itself. A room is a folder or a module directly in jaxnn/; "nn" is the public face.
ALLOWED = {
    "_jax": "",
    "compiled": "_jax core kernels",
    "core": "_jax",
    "disk_cache": "_jax",
    "functional": "_jax core",
    "kernels": "_jax core functional",
    "layers": "_jax core functional kernels",
    "models": "nn core functional layers",
    "programs": "_jax core",
    "problem": "_jax compiled core functional kernels",
    "autodiff": "_jax compiled core problem programs",
    "distributed": "_jax core",
    "plots": "",
    "inspect": "_jax autodiff compiled core functional kernels plots problem programs",
    "io": "_jax core programs",
    "train": "_jax compiled core functional kernels problem programs distributed io plots",
    "population": "_jax compiled core functional kernels problem programs distributed io plots train",
    "data": "_jax core",
    "estimators": "nn",
}
ANYTHING = {"nn", "__main__", "cli", "reference"}
LAZY = {("train", "io"), ("train", "plots"), ("population", "io"), ("population", "plots")}  # only inside functions


def module_name(file: Path) -> str:
    parts = ("jaxnn", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    return (module.split(".") + ["nn"])[1] if module != "jaxnn" else "nn"


def statements(node: ast.AST, lazy: bool = False):
    """Every node of a module with whether it is inside a function; blocks under `if TYPE_CHECKING` are left out."""
    for child in ast.iter_child_nodes(node):
        only_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        for part in child.orelse if only_types else [child]:
            inside = lazy or isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield part, inside
            yield from statements(part, inside)


def longest_module(name: str) -> str:
    """The module that a dotted name is or lies in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def imports(module: str, tree: ast.AST):
    """The modules of jaxnn that a module imports, each with whether inside a function."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node, lazy in statements(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].strip("_") in ("import_module", "import"):
            target = node.args[0]
            if isinstance(target, ast.Constant):
                names = [target.value]
            else:  # computed from a table of names: every string in the file that names a module
                strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
                names = [f"jaxnn.{string}" for string in sorted(strings) if f"jaxnn.{string}" in MODULES]
        for name in names:
            if name.split(".")[0] == "jaxnn":
                yield longest_module(name), lazy


@functools.cache
def graph() -> dict[str, set[tuple[str, bool]]]:
    return {module: set(imports(module, ast.parse(file.read_text("utf-8")))) for module, file in MODULES.items()}


def test_every_room_is_in_the_table():
    assert {room(module) for module in MODULES} <= {*ALLOWED, *ANYTHING}


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name):
    """In every subfolder, inside functions too."""
    allowed = {name, *ALLOWED[name].split()}
    edges = [(m, target, lazy) for m, targets in graph().items() if room(m) == name for target, lazy in sorted(targets)]
    wrong = [f"{m} imports {target}" for m, target, _ in edges if room(target) not in allowed]
    early = [f"{m} imports {t} at once" for m, t, lazy in edges if (name, room(t)) in LAZY and not lazy]
    assert not wrong + early, "\n".join(["", *wrong, *early])


def test_no_circle_of_imports():
    """Between modules, inside functions too; the public face, which re-exports everything, is left out."""
    left = {module: {target for target, _ in targets} - {module, "jaxnn"} for module, targets in graph().items()}
    del left["jaxnn"]
    while leaves := [module for module, targets in left.items() if not targets]:
        for module in leaves:
            del left[module]
        for targets in left.values():
            targets.difference_update(leaves)
    while roots := set(left) - set().union(*left.values()):  # these only lead to a circle
        for module in roots:
            del left[module]
    assert not left, "in or between circles:" + "".join(f"\n{m} -> {', '.join(sorted(t))}" for m, t in left.items())


def test_the_package_is_marked_as_typed():
    assert (ROOT / "py.typed").exists()
