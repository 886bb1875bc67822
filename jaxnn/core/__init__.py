"""The contract of a layer and the combinators that compose layers; imports no other part of jaxnn."""
