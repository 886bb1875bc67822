"""python -m jaxnn.reference FOLDER: write the reference as web pages, a page for each namespace, out of the docstrings."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

import jaxnn


def public(name: str = "jaxnn", module: ModuleType = jaxnn) -> dict[str, ModuleType]:
    """Return the namespaces as users see them: by the name they write, with what `__all__` names and nothing else.

    Args:
        name: how users write the module.
        module: where it is defined; it may import lazily.

    Returns:
        The module's copy, with everything imported, and those of the modules in it, by name.
    """
    seen = ModuleType(name, module.__doc__)
    seen.__dict__.update({member: getattr(module, member) for member in module.__all__}, __all__=module.__all__)
    found = {name: seen}
    for member, value in vars(seen).items():
        if isinstance(value, ModuleType):
            found |= public(f"{name}.{member}", value)
    return found


def write(folder: Path) -> None:
    """Write a page a namespace, an index and a search; it needs pdoc, of the extra `docs`.

    Args:
        folder: where to; it is made where it is missing.
    """
    import pdoc

    namespaces = public()
    pages: dict[str, Any] = {name: pdoc.doc.Module(module) for name, module in namespaces.items()}
    for name, page in pages.items():
        page.submodules = [inner for path, inner in pages.items() if path.rpartition(".")[0] == name]
        for variable in page.variables:  # a metric, an initializer
            variable.docstring = variable.default_value.__doc__

    pdoc.doc._remove_collections_abc = _short(namespaces)  # type: ignore[assignment]  # its last look at a type
    pdoc.render.configure(docformat="google", footer_text=f"jaxnn {jaxnn.__version__}")
    texts = {f"{name.replace('.', '/')}.html": pdoc.render.html_module(page, pages) for name, page in pages.items()}
    texts |= {"index.html": pdoc.render.html_index(pages), "search.js": pdoc.render.search_index(pages)}
    wide = "<style>@media (min-width: 770px) { main { width: calc(72rem + var(--sidebar-width)) } }</style></head>"
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("</head>", wide), encoding="utf-8")


def _short(namespaces: dict[str, ModuleType]) -> Callable[[str], str]:
    """Return the function that writes types by the names users know, where Python has where they are defined."""
    array_like = repr(jax.typing.ArrayLike).removeprefix("typing.Union[").removesuffix("]")
    names = {array_like: "ArrayLike", "jax.jaxlib._jax.Array": "jax.Array", "NoneType": "None"}
    names |= {"collections.abc.": "", "typing.": ""}
    for space, module in namespaces.items():
        kinds = {name: value for name, value in vars(module).items() if isinstance(value, type)}
        names |= {f"{kind.__module__}.{kind.__qualname__}": f"{space}.{name}" for name, kind in kinds.items()}

    def short(text: str) -> str:
        for long, name in names.items():
            text = text.replace(long, name)
        return re.sub(r"Union\[([^\[\]]*)\]", lambda union: union[1].replace(", ", " | "), text)

    return short


if __name__ == "__main__":
    write(Path(sys.argv[1]))
