"""Looking inside a model without running it, and pictures of a run."""

from jaxnn.inspect.diagram import Diagram, diagram
from jaxnn.inspect.summary import Row, Summary, summary

__all__ = ["Diagram", "Row", "Summary", "diagram", "summary"]
