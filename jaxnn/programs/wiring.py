"""Which layer's output another takes: read off the program that a model traces to, so that any wiring is seen."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import Literal

from jaxnn.core.layer import Layer, Spec
from jaxnn.core.trees import abstract
from jaxnn.inspect.summary import layer_path
from jaxnn.kernels.forms import definitions
from jaxnn.programs.costs import MOVES, Scope, flops_of, names_of
from jaxnn.programs.evaluation import bodies

INPUT, OUTPUT = "·input", "·output"  # no layer's name begins with a dot in the middle
_SIGNS = {"add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "dot_general": "matmul", "concatenate": "concat"}

_THROUGH = (MOVES - {"concatenate"}) | {"convert_element_type"}  # what is not drawn between layers


@dataclass
class Wiring:
    """The inside of a block.

    Attributes:
        nodes: the layers by name, and what the block computes between them, in the order in which they run; the text of the
            latter, such as `"+"`, and None for a layer.
        edges: from a node or `INPUT` to a node or `OUTPUT`.
    """

    nodes: dict[str, str | None] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def connect(self, start: str, end: str) -> None:
        """Add an edge that is not there yet."""
        if start != end and (start, end) not in self.edges:
            self.edges.append((start, end))


def wirings(model: Layer, spec: Spec, x: Any) -> dict[Scope, Wiring]:
    """The wiring of every block of a model, by path."""
    params, state = abstract((spec.params, spec.state))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def trace(training: bool) -> Any:
        def run(params, state, x, key):
            return model.apply(params, state, x, key=key, training=training)[0]

        return jax.make_jaxpr(run)(params, state, x, key).jaxpr

    with definitions():
        try:
            jaxpr = trace(training=True)
        except ValueError:  # statistics of a batch of one
            jaxpr = trace(training=False)
    flow = _Flow(spec)
    before, after = len(jax.tree.leaves((params, state))), len(jax.tree.leaves(x))
    given = [frozenset({(INPUT,)}) if before <= i < before + after else frozenset() for i in range(len(jaxpr.invars))]
    for makers in flow.run(jaxpr, given, ()):
        flow.feed(makers, (OUTPUT,))
    return flow.result()


class _Flow:
    """Each value's makers: the paths of the layers, or of the own nodes of blocks, that it comes from."""

    def __init__(self, spec: Spec):
        self._spec = spec
        self._edges: dict[tuple[Scope, Scope], None] = {}
        self._operations: dict[Scope, Counter] = {}  # of the own nodes
        self._own: dict[tuple[Scope, frozenset], Scope] = {}

    def run(self, jaxpr: Any, given: list[frozenset], scope: Scope) -> list[frozenset]:
        makers = dict(zip(jaxpr.invars, given, strict=True))

        def read(v: Any) -> frozenset:
            return frozenset() if isinstance(v, Literal) else makers.get(v, frozenset())

        for eqn in jaxpr.eqns:
            inside, inputs, programs = scope + names_of(eqn), [read(v) for v in eqn.invars], [b for b, _ in bodies(eqn)]
            path, node = layer_path(inside, self._spec), None
            if len(programs) == 1 and len(programs[0].invars) == len(inputs) and self._at(path).children:
                outputs = self.run(programs[0], inputs, inside)
            else:
                whole = frozenset().union(*inputs)
                node = self._node(path, eqn, whole)
                outputs = [whole if node is None else frozenset({node})] * len(eqn.outvars)
                if node is not None:
                    self.feed(whole, node)
            makers |= zip(eqn.outvars, outputs, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def feed(self, makers: frozenset, node: Scope) -> None:
        """An edge from each maker to the node."""
        self._edges |= {(maker, node): None for maker in sorted(makers) if maker != node}

    def _at(self, path: Scope) -> Spec:
        spec = self._spec
        for name in path:
            spec = spec.children[name]
        return spec

    def _node(self, path: Scope, eqn: Any, inputs: frozenset) -> Scope | None:
        """Where an equation belongs: its layer; in a block a node for all that has the same makers; None if it only moves."""
        if not self._at(path).children:
            return path if inputs or not path else None
        if eqn.primitive.name in _THROUGH or not inputs:
            return None
        sources = frozenset(source for maker in inputs for source in self._sources(path, maker))
        if (path, sources) not in self._own:
            self._own[path, sources] = (*path, f"·{len(self._own)}")
            self._operations[self._own[path, sources]] = Counter()
        node = self._own[path, sources]
        self._operations[node][eqn.primitive.name] += max(flops_of(eqn), 1)
        return node

    def _sources(self, path: Scope, maker: Scope) -> frozenset:
        """The layers that an own node of the same block was made from; anything else is its own source."""
        for (block, sources), node in self._own.items():
            if node == maker and block == path:
                return sources
        return frozenset({maker[: len(path) + 1]})

    def result(self) -> dict[Scope, Wiring]:
        """The edges at each block: between its nodes, and from its input and to its output."""
        blocks: dict[Scope, Wiring] = {}
        self._fill(self._spec, (), blocks)
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

    def _fill(self, spec: Spec, path: Scope, blocks: dict[Scope, Wiring]) -> None:
        if not spec.children:
            return
        nodes: dict[str, str | None] = dict.fromkeys(spec.children)
        nodes |= {node[-1]: _label(counts) for node, counts in self._operations.items() if node[:-1] == path}
        blocks[path] = Wiring(nodes)
        if spec.kind == "serial":  # also past layers that do nothing
            chain = [INPUT, *spec.children, OUTPUT]
            blocks[path].edges = list(itertools.pairwise(chain))
        for name, child in spec.children.items():
            self._fill(child, (*path, name), blocks)


def _label(counts: Counter) -> str:
    return " · ".join(_SIGNS.get(name, name.replace("_", " ")) for name, _ in counts.most_common(3))
