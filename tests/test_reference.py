"""Every public name is documented: summary, arguments, result, errors and an example; formula and source where they apply."""

import ast
import doctest
import inspect
import re
import textwrap
import warnings
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from jaxnn.functional import activations
from jaxnn.reference import _topics, public, write

PUBLIC = {space: {name: getattr(module, name) for name in module.__all__} for space, module in public().items()}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):\n((?:    .*\n|\n)*)", re.MULTILINE)
FORMULA = re.compile(r"[=Σ√‖→]|[^\s] [−+·] [^\s]|\w/\(|max\(|log |[NU][(\[]")  # also N(0, σ²) and U[0, 1)
SOURCE = re.compile(
    r"[A-Z]\w+.{0,60}\b(19|20)\d\d\b"  # "(He et al. 2015)", "He et al. (2015)"
    r"|[Tt]eaching notes|jax\.(nn|numpy|scipy|lax|random|image)|optax|PyTorch|Keras|TensorFlow|scikit-learn|SciPy|NumPy"
)


def sections(docstring):
    return {match[1]: textwrap.dedent(match[2]) for match in SECTION.finditer(docstring + "\n")}


def entries(section):
    return re.findall(r"^(\S+?):", section, re.MULTILINE)


def ours(value):
    """Return whether the value is defined in jaxnn; optax's schedules keep optax's documentation."""
    return (getattr(value, "__module__", None) or "").startswith("jaxnn.")


def code(value):
    """Return the Python function under `jax.jit`, `jax.custom_jvp` or `functools.lru_cache`."""
    return inspect.unwrap(value)


def is_value(value):
    return not isinstance(value, type) and not isinstance(code(value), FunctionType)


def is_formula(space, name, value):
    """Return whether the docstring must contain a formula and its source."""
    if space in ("jaxnn.losses", "jaxnn.metrics", "jaxnn.initializers", "jaxnn.schedules"):
        return not isinstance(value, type) and name not in ("as_metric", "mean")  # these turn losses into metrics
    return space == "jaxnn" and (name in activations.__all__ or value.__module__.startswith("jaxnn.layers."))


PUBLIC_CODE = {code(value) for members in PUBLIC.values() for value in members.values() if callable(value)}


@cache
def raises(function):
    """Return whether the function, or a private function of jaxnn that it calls, contains a `raise`."""
    if not isinstance(function, FunctionType) or not ours(function):
        return False
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    called = [function.__globals__.get(n.func.id) for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    helpers = {code(value) for value in called if callable(value)} - PUBLIC_CODE - {function}
    return any(isinstance(node, ast.Raise) for node in nodes) or any(map(raises, helpers))


def example(section):
    """Return whether the section has an example that runs, or refers to that of the function that returns such a value."""
    function = re.match(r"See `(\w+)`, ", section)
    if function:
        [docstring] = {members[function[1]].__doc__ for members in PUBLIC.values() if function[1] in members}
        return ">>> result" in docstring
    return ">>>" in section and "+SKIP" not in section


def lacking(function, found):
    """Return the required sections that are missing, or whose entries differ from the signature."""
    signature, lacks = inspect.signature(function), []
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    named = [stars.get(p.kind, "") + p.name for p in signature.parameters.values() if p.name != "self"]
    if named != entries(found.get("Args", "")):
        lacks.append(f"Args {named}")
    if "Returns" not in found and signature.return_annotation not in (None, "None"):
        lacks.append("Returns")
    if "Raises" not in found and raises(code(function)):
        lacks.append("Raises")
    return lacks


def methods(kind):
    """Yield the public methods that the class itself defines, without functions that are defaults of fields."""
    for name in vars(kind):
        method = getattr(kind, name)
        if not name.startswith("_") and inspect.isroutine(method) and method.__qualname__ == f"{kind.__name__}.{name}":
            yield name, method


def gaps(space, name, value):
    """Return what the docstring of a public name lacks."""
    docstring = inspect.cleandoc(value.__doc__ or "")
    if isinstance(value, ModuleType) or not ours(value):
        return [] if docstring else ["docstring"]
    if is_value(value) and value.__doc__ == type(value).__doc__:
        return ["its own docstring"]
    found, lacks = sections(docstring), []
    if not re.match(r".+[.:]$", docstring.partition("\n")[0]):
        lacks.append("summary line")
    if not example(found.get("Example", "")):
        lacks.append("Example")
    if isinstance(value, type):
        parameters = [] if issubclass(value, BaseException) else inspect.signature(value).parameters
        named = [name for name in parameters if not name.startswith("_")]
        arguments, attributes = (entries(found.get(title, "")) for title in ("Args", "Attributes"))
        if parameters and named not in (arguments, arguments + attributes):
            lacks.append(f"Args or Attributes {named}")
        for method_name, method in methods(value):
            lacks += [f"{method_name}: {lack}" for lack in lacking(method, sections(inspect.getdoc(method) or ""))]
    elif not is_value(value):
        lacks += lacking(value, found)
    if is_formula(space, name, value):
        words = re.split(r"\n(?:Args|Returns|Raises|Example):\n", docstring)[0]
        without_code = re.sub(r"`[^`]*`", "", words)
        lacks += ["formula"] * (not FORMULA.search(without_code)) + ["source"] * (not SOURCE.search(words))
    return lacks


@pytest.mark.parametrize("space", PUBLIC)
def test_every_public_name_is_documented(space):
    found = {name: gaps(space, name, value) for name, value in PUBLIC[space].items() if not isinstance(value, tuple)}
    assert not {name: lacks for name, lacks in found.items() if lacks}


def test_the_foreign_names_are_schedules_of_optax():
    foreign = [
        (space, value.__module__.partition(".")[0])
        for space, members in PUBLIC.items()
        for value in members.values()
        if not isinstance(value, ModuleType | tuple) and not ours(value)
    ]
    assert set(foreign) == {("jaxnn.schedules", "optax")}
    assert len(foreign) == 9


def test_the_examples_of_values_run():
    """`doctest` collects functions and classes only, so it finds no metric and no initializer."""
    values = [value for members in PUBLIC.values() for value in members.values() if ours(value)]
    values = [value for value in values if not inspect.isroutine(value) and not isinstance(value, type)]
    for value in values:
        example = doctest.DocTestParser().get_doctest(value.__doc__, {}, repr(value), None, None)
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0
    assert len(values) == 13


def test_gaps_are_found():
    def lacking(x, y):
        """Do something without a full stop"""
        if x:
            raise ValueError

    lacking.__module__ = "jaxnn.layers.lacking"
    assert gaps("jaxnn", "lacking", lacking) == [
        "summary line",
        "Example",
        "Args ['x', 'y']",
        "Returns",
        "Raises",
        "formula",
        "source",
    ]


@pytest.mark.slow
def test_the_pages_are_written_without_a_warning(tmp_path):
    pytest.importorskip("pdoc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path)
    for space, members in PUBLIC.items():
        page = (tmp_path / f"{space.replace('.', '/')}.html").read_text(encoding="utf-8")
        shown = [name for name, value in members.items() if not isinstance(value, ModuleType)]
        assert [name for name in shown if f'id="{name}"' not in page] == []
        assert "Union[" not in page
    names = re.findall(r'<section id="(\w+)"', (tmp_path / "jaxnn.html").read_text(encoding="utf-8"))
    assert {"fit", "evaluate", "predict"} == set(names[:3])
    guides = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html") if path.stem != "jaxnn"}
    notebooks = {path.stem for path in Path(__file__).parents[1].glob("notebooks/*.ipynb")}
    assert {"index", "readme", "training", "measured", "other_libraries"} | notebooks == set(guides)
    for name, page in guides.items():
        page = page[page.index("<main") : page.index("</main>")]
        assert not re.search(r"KEPT\d+KEPT", page), name  # the letters alone may be those of a picture
        for address in set(re.findall(r'href="([^"#]+\.html)', page)):
            assert (tmp_path / address).exists(), (name, address)
    assert r"\[" in guides["objectives"] and "data:image/png" in guides["quickstart"] and "MathJax" in guides["teaching_notes"]


def test_the_contents_name_everything():
    contents = _topics(public())
    named = [name for names in contents.values() for name in names]
    assert set(named) == {name for name, value in PUBLIC["jaxnn"].items() if not isinstance(value, ModuleType)}
    assert len(named) == len(set(named))
    assert [names[0] for names in contents.values()][:3] == ["fit", "Layer", "serial"]
