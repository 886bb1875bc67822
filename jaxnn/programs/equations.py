"""Equations of programs (jaxprs): the programs inside them and the layers that they belong to.

A layer's equations carry its name as a `jax.named_scope`. The names around an equation, from the outermost program inwards,
are its scope; the names of the scope that belong to layers are the layer's path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxnn._jax import scope_names, subprograms
from jaxnn.core.layer import Spec

Scope = tuple[str, ...]

# Calls whose program can be evaluated in their place. Any other equation that is not a loop or a branch is one operation.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


def walk(jaxpr: Any, scope: Scope = ()) -> Iterator[tuple[Scope, Any]]:
    """Iterate over the equations of a program and of the programs inside it.

    Args:
        jaxpr: A jaxpr, such as `jax.make_jaxpr(f)(x).jaxpr`.
        scope: The names around it.

    Yields:
        The scope of an equation and the equation, in order; a call or loop comes before the equations inside it.

    Example:
        >>> import jax
        >>> program = jax.make_jaxpr(jax.jit(lambda x: x + 1.0))(2.0)
        >>> [eqn.primitive.name for _, eqn in walk(program.jaxpr)]
        ['jit', 'add']
    """
    for eqn in jaxpr.eqns:
        inner = scope + scope_names(eqn)
        yield inner, eqn
        for body, _ in subprograms(eqn):
            yield from walk(body, inner)


def equations_at(jaxpr: Any, address: tuple[int, ...]) -> list[Any]:
    """The equation at an address, preceded by the equations that contain it, the outermost first.

    Args:
        jaxpr: A jaxpr.
        address: The index of an equation, then the index of one of its programs, then the index of an equation in that
            program, and so on.

    Example:
        >>> import jax
        >>> program = jax.make_jaxpr(jax.jit(lambda x: x + 1.0))(2.0)
        >>> [eqn.primitive.name for eqn in equations_at(program.jaxpr, (0, 0, 0))]
        ['jit', 'add']
    """
    eqn = jaxpr.eqns[address[0]]
    return [eqn, *(equations_at(subprograms(eqn)[address[1]][0], address[2:]) if address[1:] else ())]


def layer_path(scope: Scope, spec: Spec) -> Scope:
    """The path of the layer that a scope belongs to; names that are not names of layers are skipped.

    Args:
        scope: The names around an equation.
        spec: The spec of the model.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> spec = nn.serial(nn.dense(2)).setup(jax.ShapeDtypeStruct((1, 3), jnp.float32))
        >>> layer_path(("my_scope", "dense", "matmul"), spec)
        ('dense',)
    """
    path: Scope = ()
    for name in scope:
        if name in spec.children:
            spec, path = spec.children[name], (*path, name)
    return path


def spec_at(spec: Spec, path: Scope) -> Spec:
    """The spec of the layer at a path.

    Args:
        spec: The spec of the model.
        path: The names of the layers from the model inwards.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> spec = nn.serial(nn.dense(2)).setup(jax.ShapeDtypeStruct((1, 3), jnp.float32))
        >>> spec_at(spec, ("dense",)).output.shape
        (1, 2)
    """
    for name in path:
        spec = spec.children[name]
    return spec
