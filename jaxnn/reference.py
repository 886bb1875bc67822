"""Write the API reference as web pages, one per namespace: `python -m jaxnn.reference [FOLDER]`, by default `reference`."""

import inspect
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import numpy.typing

import jaxnn


def public(name: str = "jaxnn", module: ModuleType = jaxnn) -> dict[str, ModuleType]:
    """Return the public namespaces by the names that users write, each with only the names in `__all__`.

    Args:
        name: The name of the module as users write it.
        module: The module; its members may be imported lazily.

    Returns:
        Copies of the module and of the modules in it, by name, with all members imported.
    """
    seen = ModuleType(name, module.__doc__)
    seen.__dict__.update({member: getattr(module, member) for member in module.__all__}, __all__=module.__all__)
    found = {name: seen}
    for member, value in vars(seen).items():
        if isinstance(value, ModuleType):
            found |= public(f"{name}.{member}", value)
    return found


def write(folder: Path) -> None:
    """Write one page per namespace, an index and a search.

    Args:
        folder: The output folder, created if it does not exist.

    Raises:
        ImportError: pdoc is not installed.
    """
    try:
        import pdoc
    except ImportError as error:
        raise ImportError("the reference requires pdoc: pip install pdoc") from error

    namespaces = public()
    for module in namespaces.values():  # functions that `jax.custom_jvp` and the like wrap
        vars(module).update({name: inspect.unwrap(vars(module)[name]) for name in module.__all__})
        for value in vars(module).values():  # the constructor of a named tuple cannot look up the names in its annotations
            if isinstance(value, type) and hasattr(value, "_fields"):
                value.__new__.__annotations__ = typing.get_type_hints(value)
    pages: dict[str, Any] = {name: pdoc.doc.Module(module) for name, module in namespaces.items()}
    for name, page in pages.items():
        page.submodules = [inner for path, inner in pages.items() if path.rpartition(".")[0] == name]
        for variable in page.variables:  # only metrics and initializers have their own docstrings
            value = variable.default_value
            variable.docstring = "" if value.__doc__ == type(value).__doc__ else inspect.cleandoc(value.__doc__)

    pdoc.doc._remove_collections_abc = _short(namespaces)  # type: ignore[assignment]  # the last function that pdoc applies to the text of a type
    pdoc.render.configure(docformat="google", footer_text=f"jaxnn {jaxnn.__version__}")
    for file in sorted((Path(__file__).parent / "pages").glob("*.md")):
        page = ModuleType(file.stem, file.read_text(encoding="utf-8"))
        page.__dict__["__all__"] = []
        pages[file.stem] = pdoc.doc.Module(page)
    texts = {f"{name.replace('.', '/')}.html": pdoc.render.html_module(page, pages) for name, page in pages.items()}
    texts |= {"index.html": pdoc.render.html_index(pages), "search.js": pdoc.render.search_index(pages)}
    wide = "<style>@media (min-width: 770px) { main { width: calc(72rem + var(--sidebar-width)) } }</style></head>"
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("</head>", wide), encoding="utf-8")


def _short(namespaces: dict[str, ModuleType]) -> Callable[[str], str]:
    """Return a function that replaces the defining module in the text of a type by the public name."""
    arrays = map(inspect.formatannotation, (jax.typing.ArrayLike, np.typing.ArrayLike))
    names = {union.removeprefix("Union[").removesuffix("]"): "ArrayLike" for union in arrays}
    names |= {"jax.jaxlib._jax.Array": "jax.Array", "NoneType": "None"}
    for space, module in namespaces.items():
        kinds = {name: value for name, value in vars(module).items() if isinstance(value, type)}
        names |= {f"{kind.__module__}.{kind.__qualname__}": f"{space}.{name}" for name, kind in kinds.items()}

    def short(text: str) -> str:
        for long, name in names.items():
            text = text.replace(long, name)
        text = re.sub(r"\b(collections\.abc|typing)\.", "", text)
        return re.sub(r"Union\[([^\[\]]*)\]", lambda union: union[1].replace(", ", " | "), text)

    return short


if __name__ == "__main__":
    folder = Path(*sys.argv[1:2] or ["reference"])
    write(folder)
    print(f"{folder}/index.html")
