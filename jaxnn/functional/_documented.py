"""Docstrings of values, such as metrics, which notebooks and the reference show instead of the class's docstring."""

import inspect
from typing import TypeVar

Value = TypeVar("Value")


def documented(value: Value, docstring: str) -> Value:
    """Set the docstring of a newly created instance of a frozen dataclass, and return the instance."""
    object.__setattr__(value, "__doc__", inspect.cleandoc(docstring))
    return value
