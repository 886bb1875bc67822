"""Which layers read the output of which: taken from the program that a model traces to, so that any wiring is seen."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxnn._jax import is_literal, scope_names, subprograms
from jaxnn.core.layer import Layer, Spec
from jaxnn.core.primitives import definitions
from jaxnn.core.trees import abstract
from jaxnn.programs.costs import MOVES, flops_of
from jaxnn.programs.equations import Scope, layer_path, spec_at

INPUT, OUTPUT = "·input", "·output"  # the dot keeps them apart from names of layers
_SYMBOLS = {"add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "dot_general": "matmul", "concatenate": "concat"}
_NOT_SHOWN = (MOVES - {"concatenate"}) | {"convert_element_type"}  # primitives that get no node between layers


@dataclass
class Wiring:
    """The inside of a block as a graph.

    Attributes:
        nodes: The layers by name, and the operations that the block computes between them, in the order in which they run.
            The value is the text of such an operation, such as `"+"`, and None for a layer.
        edges: Pairs from a node or `INPUT` to a node or `OUTPUT`.
    """

    nodes: dict[str, str | None] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def connect(self, start: str, end: str) -> None:
        """Add an edge unless it exists."""
        if start != end and (start, end) not in self.edges:
            self.edges.append((start, end))


def wirings(model: Layer, spec: Spec, x: Any) -> dict[Scope, Wiring]:
    """The wiring of each block of a model, by path.

    Args:
        model: The model.
        spec: Its spec, `model.setup(x)`.
        x: The shapes and dtypes of a batch.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model, x = nn.residual(nn.dense(3)), jax.ShapeDtypeStruct((2, 3), jnp.float32)
        >>> wirings(model, model.setup(x), x)[()].nodes
        {'dense': None, '·0': '+'}
    """
    params, state = abstract((spec.params, spec.state))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def trace(training: bool) -> Any:
        def run(params, state, x, key):
            return model.apply(params, state, x, key=key, training=training)[0]

        return jax.make_jaxpr(run)(params, state, x, key).jaxpr

    with definitions():
        try:
            jaxpr = trace(training=True)
        except ValueError:  # a layer refuses to train on this batch, as batch_norm does on a single sample
            jaxpr = trace(training=False)
    flow = _Flow(spec)
    before, after = len(jax.tree.leaves((params, state))), len(jax.tree.leaves(x))
    sources = [frozenset({(INPUT,)}) if before <= i < before + after else frozenset() for i in range(len(jaxpr.invars))]
    for makers in flow.run(jaxpr, sources, ()):
        flow.add_edges(makers, (OUTPUT,))
    return flow.result()


class _Flow:
    """The makers of each value: the paths of the layers, or of blocks' own operations, that it was computed from."""

    def __init__(self, spec: Spec):
        self._spec = spec
        self._edges: dict[tuple[Scope, Scope], None] = {}
        self._operations: dict[Scope, Counter] = {}  # the primitives of each node of a block's own operations
        self._nodes: dict[tuple[Scope, frozenset], Scope] = {}  # those nodes, by block and the layers they depend on

    def run(self, jaxpr: Any, sources: list[frozenset], scope: Scope) -> list[frozenset]:
        """The makers of the outputs of a program, from those of its inputs."""
        makers = dict(zip(jaxpr.invars, sources, strict=True))

        def lookup(v: Any) -> frozenset:
            return frozenset() if is_literal(v) else makers.get(v, frozenset())

        for eqn in jaxpr.eqns:
            inner, inputs = scope + scope_names(eqn), [lookup(v) for v in eqn.invars]
            path, bodies = layer_path(inner, self._spec), [body for body, _ in subprograms(eqn)]
            is_block = bool(spec_at(self._spec, path).children)
            if is_block and len(bodies) == 1 and len(bodies[0].invars) == len(inputs):
                outputs = self.run(bodies[0], inputs, inner)
            else:
                union = frozenset().union(*inputs)
                node = self._node(path, eqn, union)
                outputs = [union if node is None else frozenset({node})] * len(eqn.outvars)
                if node is not None:
                    self.add_edges(union, node)
            makers |= zip(eqn.outvars, outputs, strict=True)
        return [lookup(v) for v in jaxpr.outvars]

    def add_edges(self, makers: frozenset, node: Scope) -> None:
        """Add an edge from each maker to the node."""
        self._edges |= {(maker, node): None for maker in sorted(makers) if maker != node}

    def _node(self, path: Scope, eqn: Any, inputs: frozenset) -> Scope | None:
        """The node of an equation: its layer, or in a block one node for all that depends on the same layers.

        None for what only moves values.
        """
        if not spec_at(self._spec, path).children:
            return path if inputs or not path else None
        if eqn.primitive.name in _NOT_SHOWN or not inputs:
            return None
        layers = frozenset(layer for maker in inputs for layer in self._layers(path, maker))
        if (path, layers) not in self._nodes:
            self._nodes[path, layers] = (*path, f"·{len(self._nodes)}")
            self._operations[self._nodes[path, layers]] = Counter()
        node = self._nodes[path, layers]
        self._operations[node][eqn.primitive.name] += max(flops_of(eqn), 1)
        return node

    def _layers(self, path: Scope, maker: Scope) -> frozenset:
        """The layers that a node of the same block's own operations depends on; any other maker depends on itself."""
        for (block, layers), node in self._nodes.items():
            if node == maker and block == path:
                return layers
        return frozenset({maker[: len(path) + 1]})

    def result(self) -> dict[Scope, Wiring]:
        """The edges of each block: between its nodes, from its input and to its output."""
        blocks: dict[Scope, Wiring] = {}
        self._add_block(self._spec, (), blocks)
        for start, end in self._edges:
            common = 0
            while start[common : common + 1] == end[common : common + 1]:
                common += 1
            if start[common:] and end[common:]:
                outer = blocks.get(start[:common])
                if outer is not None:
                    outer.connect(start[common], end[common])
            for depth in range(common + 1, len(end)):
                blocks[end[:depth]].connect(INPUT, end[depth])
            for depth in range(common + 1, len(start)):
                blocks[start[:depth]].connect(start[depth], OUTPUT)
        return blocks

    def _add_block(self, spec: Spec, path: Scope, blocks: dict[Scope, Wiring]) -> None:
        if not spec.children:
            return
        nodes: dict[str, str | None] = dict.fromkeys(spec.children)
        nodes |= {node[-1]: _label(counts) for node, counts in self._operations.items() if node[:-1] == path}
        blocks[path] = Wiring(nodes)
        if spec.kind == "serial":  # its chain is known, even where a layer computes nothing
            chain = [INPUT, *spec.children, OUTPUT]
            blocks[path].edges = list(itertools.pairwise(chain))
        for name, child in spec.children.items():
            self._add_block(child, (*path, name), blocks)


def _label(counts: Counter) -> str:
    return " · ".join(_SYMBOLS.get(name, name.replace("_", " ")) for name, _ in counts.most_common(3))
