"""Write the API reference as web pages, one per namespace: `python -m jaxnn.reference [FOLDER]`, by default `reference`."""

import html
import inspect
import json
import re
import shutil
import sys
import typing
from collections.abc import Callable, Mapping
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
    """Write one page per namespace, guide and notebook, an index by topic and a search.

    README and notebooks are those of the clone in which the package lies; an installed package has none.

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
    topics = _topics(namespaces)
    order = [name for names in topics.values() for name in names]
    vars(namespaces["jaxnn"])["__all__"] = order + [name for name in jaxnn.__all__ if name not in order]
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
    kept = _Kept()
    guides = _guides(namespaces, kept)
    for name, text in guides.items():
        module = ModuleType(name, text)
        module.__dict__.update(__all__=[], __docformat__="markdown")
        pages[name] = pdoc.doc.Module(module)
    pdoc.render.configure(docformat="google", footer_text=f"jaxnn {jaxnn.__version__}")
    texts = {"search.js": kept.left_out(pdoc.render.search_index(pages))}
    for name, page in pages.items():
        pdoc.render.env.globals["math"] = "\\(" in kept.put_back(guides.get(name, ""))  # loads MathJax
        text = pdoc.render.html_module(page, pages).replace("Module Index", "Contents")
        if name in guides:
            text = kept.put_back(re.sub('<h1 class="modulename">.*?</h1>', "", text, flags=re.DOTALL))
            text = text.replace(f"<title>{name} API documentation", f"<title>jaxnn: {name.replace('_', ' ')}")
        if name == "jaxnn":
            text = _with_headings(text, topics)
        texts[f"{name.replace('.', '/')}.html"] = text.replace("</head>", _STYLE)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for picture in _CLONE.glob("notebooks/*.png"):
        shutil.copy(picture, folder)


_CLONE = Path(__file__).parents[1]
_STYLE = """<style>
@media (min-width: 770px) { main { width: calc(72rem + var(--sidebar-width)) } }
.pdoc pre, .pdoc .signature.multiline .param { white-space: pre-wrap; overflow-wrap: anywhere }
.pdoc img { max-width: 100% }
.pdoc .output { margin: 0 0 1rem 1rem; overflow-x: auto }
nav.pdoc li.topic, h2.topic { margin-top: 1.5rem; font-weight: bold }
</style></head>"""


class _Kept:
    """HTML that Markdown must not change: a call returns a word that stands for it until it is put back."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def __call__(self, piece: str) -> str:
        self._pieces.append(piece)
        return f"KEPT{len(self._pieces) - 1}KEPT"

    def put_back(self, text: str) -> str:
        return re.sub(r"<p>KEPT(\d+)KEPT</p>|KEPT(\d+)KEPT", lambda word: self._pieces[int(word[1] or word[2])], text)

    def left_out(self, text: str) -> str:
        return re.sub(r"KEPT\d+KEPT", "", text)


def _contents() -> str:
    return (Path(__file__).parent / "pages" / "contents.md").read_text(encoding="utf-8")


def _topics(namespaces: dict[str, ModuleType]) -> dict[str, list[str]]:
    """Return the names that users write as `nn.name` by topic, those of the table of contents."""
    topics: dict[str, list[str]] = {}
    seen = {name for name in jaxnn.__all__ if f"jaxnn.{name}" in namespaces}
    for topic, text in re.findall(r"^\| ([\w ]+) \| (.*) \|$", _contents(), re.MULTILINE):
        words = [word.removeprefix("nn.") for code in re.findall("`([^`]*)`", text) for word in code.split()]
        names = [word for word in words if word in jaxnn.__all__ and word not in seen]  # the first topic has it
        seen.update(names)
        if names:
            topics[topic] = names
    return topics


def _guides(namespaces: dict[str, ModuleType], kept: _Kept) -> dict[str, str]:
    """Return the guides as Markdown, by name: the index, the README, `jaxnn/pages` and the notebooks."""
    pages = {file.stem: file.read_text(encoding="utf-8") for file in sorted((Path(__file__).parent / "pages").glob("*.md"))}
    contents = pages.pop("contents").splitlines()
    notebooks = {file.stem: _notebook(file, kept) for file in sorted(_CLONE.glob("notebooks/*.ipynb"))}
    if notebooks:
        pages = {"readme": (_CLONE / "README.md").read_text(encoding="utf-8"), **pages}

    files = {space.replace("jaxnn", "nn", 1): f"{space.replace('.', '/')}.html" for space in namespaces}
    members = {short: namespaces[space].__all__ for short, space in zip(files, namespaces, strict=True)}
    addresses = {f"{short}.{name}": f"{files[short]}#{name}" for short, names in members.items() for name in names} | files
    addresses |= {word: f"{name}.html" for name in notebooks for word in (name, f"{name}.ipynb")}

    def row(text: str) -> str:
        """Link the names in a row of the contents, which are those of the namespaces in it and of `nn`."""
        known = dict(addresses)
        for short in ["nn", *(short for short in files if f"`{short}`" in text)]:
            known |= {name: addresses[f"{short}.{name}"] for name in members[short]}
        return _linked(text, known)

    lists = {"Guides": [f"[{name.replace('_', ' ')}]({name}.html)" for name in pages]}
    lists |= {"Notebooks": [f"[{name.replace('_', ' ')}]({name}.html)" for name in notebooks]}
    lists |= {"Namespaces": [_linked(f"`{short}`", addresses) for short in files]}
    index = [
        contents[0],
        *(f"\n{name}: {' · '.join(links)}" for name, links in lists.items() if links),
        *map(row, contents[1:]),
    ]
    others = {name: _linked(text, addresses) for name, text in {**pages, **notebooks}.items()}
    return {"index": "\n".join(index)} | {name: _moved(text) for name, text in others.items()}


def _linked(text: str, addresses: Mapping[str, str]) -> str:
    """Return Markdown with links from the words in code to their addresses."""

    def links(code: re.Match) -> str:
        words = code[1].split(" ") if code[1] else []
        if not any(word in addresses for word in words):
            return code[0]
        return " ".join(f"[`{word}`]({addresses[word]})" if word in addresses else f"`{word}`" for word in words)

    return re.sub(r"```.*?```|`([^`\n]+)`", links, text, flags=re.DOTALL)


def _moved(text: str) -> str:
    """Return Markdown of the README with the addresses that its links have in the reference."""
    text = re.sub(r"\(jaxnn/pages/(\w+)\.md\)", r"(\1.html)", text).replace("(contents.html)", "(index.html)")
    return text.replace("(notebooks/", "(")


def _notebook(file: Path, kept: _Kept) -> str:
    """Return a notebook as Markdown, with formulas and outputs kept as HTML."""

    def formula(match: re.Match) -> str:
        return kept(f"\\[{html.escape(match[1])}\\]" if match[1] else f"\\({html.escape(match[2])}\\)")

    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", formula, source, flags=re.DOTALL))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = {
                kind: "".join(content) for kind, content in output.get("data", {"text/plain": output.get("text", "")}).items()
            }
            if "image/png" in data:
                shown = f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
            else:
                shown = data.get("text/html") or f"<pre>{html.escape(data['text/plain'].rstrip())}</pre>"
            parts.append(kept(f'<div class="output">{shown}</div>'))
    return "\n\n".join(parts)


def _with_headings(page: str, topics: dict[str, list[str]]) -> str:
    """Return the page of `jaxnn` with a heading before the first name of each topic, in the page and in its navigation."""
    for topic, (first, *_) in topics.items():
        page = page.replace(f'<section id="{first}">', f'<h2 class="topic">{topic}</h2>\n<section id="{first}">', 1)
        page = re.sub(rf'<li>\s*<a class="\w+" href="#{first}">', rf'<li class="topic">{topic}</li>\g<0>', page, count=1)
    return page


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
