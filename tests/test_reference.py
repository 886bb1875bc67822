"""Every public name has what the reference promises: summary, arguments, result, errors and an example, formula and source."""

import ast
import doctest
import inspect
import re
import textwrap
import warnings
from functools import cache
from types import FunctionType, ModuleType

import pytest

from jaxnn.functional import activations
from jaxnn.reference import public, write

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
    """Whether we wrote it: optax's schedules are documented as optax documents them."""
    return (getattr(value, "__module__", None) or "").startswith("jaxnn.")


def code(value):
    """The Python function that is called in the end: under `jax.jit`, `jax.custom_jvp`, `functools.lru_cache`."""
    return inspect.unwrap(value)


def is_value(value):
    return not isinstance(value, type) and not isinstance(code(value), FunctionType)


def is_formula(space, name, value):
    """Whether a formula and its source are asked of it."""
    if space in ("jaxnn.losses", "jaxnn.metrics", "jaxnn.initializers", "jaxnn.schedules"):
        return not isinstance(value, type) and name not in ("as_metric", "mean")  # which turn losses into metrics
    return space == "jaxnn" and (name in activations.__all__ or value.__module__.startswith("jaxnn.layers."))


PUBLIC_CODE = {code(value) for members in PUBLIC.values() for value in members.values() if callable(value)}


@cache
def raises(function):
    """Whether a `raise` is in its text, or in that of a function of ours that it calls and that is not public itself."""
    if not isinstance(function, FunctionType) or not ours(function):
        return False
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    called = [function.__globals__.get(n.func.id) for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    helpers = {code(value) for value in called if callable(value)} - PUBLIC_CODE - {function}
    return any(isinstance(node, ast.Raise) for node in nodes) or any(map(raises, helpers))


def example(section):
    """Whether there is one to run: its own, or for what a function returns the function's."""
    maker = re.match(r"See `(\w+)`, ", section)
    if maker:
        [of_maker] = {members[maker[1]].__doc__ for members in PUBLIC.values() if maker[1] in members}
        return ">>> result" in of_maker
    return ">>>" in section


def gaps(space, name, value):
    """What the docstring of a public name lacks."""
    docstring = inspect.cleandoc(value.__doc__ or "")
    if isinstance(value, ModuleType) or not ours(value):
        return [] if docstring else ["docstring"]
    if is_value(value) and value.__doc__ == type(value).__doc__:
        return ["docstring of its own"]
    found, lacks = sections(docstring), []
    if not re.match(r".+[.:]$", docstring.partition("\n")[0]):
        lacks.append("summary line")
    if not example(found.get("Example", "")):
        lacks.append("Example")
    if isinstance(value, type):
        made = [] if issubclass(value, BaseException) else inspect.signature(value).parameters
        named = [name for name in made if not name.startswith("_")]
        if named != entries(found.get("Args", "")) + entries(found.get("Attributes", "")) and made:
            lacks.append(f"Args or Attributes {named}")
    elif not is_value(value):
        signature = inspect.signature(value)
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        named = [stars.get(parameter.kind, "") + parameter.name for parameter in signature.parameters.values()]
        if named != entries(found.get("Args", "")):
            lacks.append(f"Args {named}")
        if "Returns" not in found and signature.return_annotation not in (None, "None"):
            lacks.append("Returns")
        if "Raises" not in found and raises(code(value)):
            lacks.append("Raises")
    if is_formula(space, name, value):
        words = docstring.partition("\nArgs:")[0].partition("\nReturns:")[0].partition("\nExample:")[0]
        without_code = re.sub(r"`[^`]*`", "", words)
        lacks += ["formula"] * (not FORMULA.search(without_code)) + ["source"] * (not SOURCE.search(words))
    return lacks


@pytest.mark.parametrize("space", PUBLIC)
def test_every_public_name_is_documented(space):
    found = {name: gaps(space, name, value) for name, value in PUBLIC[space].items() if not isinstance(value, tuple)}
    assert not {name: lacks for name, lacks in found.items() if lacks}


def test_what_is_not_ours_is_optax_s_schedules():
    foreign = [
        (space, value.__module__.partition(".")[0])
        for space, members in PUBLIC.items()
        for value in members.values()
        if not isinstance(value, ModuleType | tuple) and not ours(value)
    ]
    assert set(foreign) == {("jaxnn.schedules", "optax")}
    assert len(foreign) == 14


def test_the_examples_of_values_are_true():
    """doctest looks at functions and classes only, and so at no metric and no initializer."""
    values = [value for members in PUBLIC.values() for value in members.values() if ours(value)]
    apart = [value for value in values if not inspect.isroutine(value) and not isinstance(value, type)]
    for value in apart:
        example = doctest.DocTestParser().get_doctest(value.__doc__, {}, repr(value), None, None)
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0
    assert len(apart) == 13


def test_a_gap_is_seen():
    def lacking(x, y):
        """Do something without an end"""
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
        assert "Union[" not in page or space == "jaxnn.data"
