"""Where the first non-finite value of a loss or gradient comes from: the layer, the operation, the samples.

The gradient of the loss is traced as `jax.grad` sees it and then evaluated by `nonfinite_trace`. From the loss, or from a
gradient if the loss is finite, the chain of non-finite values leads back to the equation that made the first one from finite
values. What no such chain reaches, such as the −∞ of a mask that a softmax turns into 0, is harmless and is not reported.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from jaxnn.core.layer import Layer, Spec, from_setup
from jaxnn.core.trees import paths
from jaxnn.programs.equations import equations_at
from jaxnn.programs.nonfinite_trace import Evaluator, Location, Origin, first_origin

_MODEL, _LOSS = "the model/", "the loss/"  # scopes; the slash keeps them apart from names of layers
_LIBRARIES = tuple(str(Path(m).parent) + os.sep for m in (jax.__file__, jaxlib.__file__, Path(__file__).parent))
_LIBRARIES += (contextlib.__file__, functools.__file__)  # files and folders that are not the user's own code

_INPUT_HINTS = {
    "parameters": "An earlier update made it non-finite: a gradient was not finite, or the learning rate too large.",
    "state": "An earlier training step made it non-finite.",
    "input": "Drop these samples or fill the values in.",
    "targets": "Drop these samples or fill the values in.",
}
_OPERATION_HINTS = {
    "log": "The logarithm needs a positive argument: keep it away from 0, or compute the logarithm together with its argument, "
    "as log_softmax, logsumexp and the losses from logits do.",
    "log1p": "log1p needs an argument above -1: keep it away from -1.",
    "div": "Keep the divisor away from 0: add a small constant, or normalize by max(size, epsilon).",
    "rem": "Keep the divisor away from 0.",
    "sqrt": "The square root needs an argument that is at least 0: a variance computed as a difference of squares can be "
    "negative.",
    "rsqrt": "Keep the argument above 0: add a small constant, an epsilon, to it.",
    "exp": "exp overflows above 88.7 in float32 and above 11.1 in float16: subtract the maximum first, or use softmax, "
    "logsumexp or softplus.",
    "pow": "A power of a negative number, a negative power of 0, or an overflow: keep the base positive and small.",
    "integer_pow": "A negative power of 0, or an overflow: keep the base away from 0, and small.",
}


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite value on the way to the loss or a gradient; its text describes it in a few sentences.

    Attributes:
        path: The layer, such as `"encoder/dense"`, with the number of the copy inside a `repeat`: `"body/3/dense"`; or the
            leaf of the parameters, the state or the batch (`"x"`, `"y/mask"`); or `"loss"`.
        phase: `"parameters"`, `"state"`, `"input"` or `"targets"` if an input of the training step is not finite; otherwise
            `"forward"` or `"loss"`, or `"backward"` if the loss is finite and a gradient is not.
        operation: The primitive that computed it, such as `"log"`; None for an input.
        kind: `"nan"`, or `"inf"` (of either sign) if there is no NaN.
        count: The number of non-finite values.
        size: The number of values.
        value: Their dtype and shape, such as `"float32[128, 10]"`.
        samples: Their indices in the batch; empty if the value has no axis of samples.
        step: The iteration of the layer's own loop, such as a recurrent layer's time step; None outside a loop.
        example: One of them as it was computed, such as `"log(0) = -inf"`, or the size of what it was computed from, such as
            `"values up to 3e+37"`; empty for an input.
        source: The line of the user's own code, `"file:line: text"`; empty if there is none.
        hint: How to fix it.

    Example:
        >>> print(NonFinite("logarithm", "forward", "log", "inf", 2, 4, "float32[2, 2]", samples=(1,), example="log(0) = -inf"))
        layer 'logarithm' (forward): log gives inf in 2 of 4 values, float32[2, 2], in sample 1 of the batch, as log(0) = -inf.
    """

    path: str
    phase: str
    operation: str | None
    kind: str
    count: int
    size: int
    value: str
    samples: tuple[int, ...] = ()
    step: int | None = None
    example: str = ""
    source: str = ""
    hint: str = ""

    def __str__(self) -> str:
        words = {"parameters": "parameter ", "input": "input ", "state": "state ", "targets": "targets "}
        where = "the loss" if self.path == "loss" and self.operation else f"{words.get(self.phase, 'layer ')}'{self.path}'"
        notes = [self.phase] if self.phase in ("forward", "backward") else []
        notes += [] if self.step is None else [f"step {self.step} of its loop"]
        where += f" ({', '.join(notes)})" if notes else ""
        verb = f": {self.operation} gives" if self.operation else " has"
        few = ", ".join(map(str, self.samples[:5])) + (f" and {len(self.samples) - 5} others" if self.samples[5:] else "")
        samples = f", in sample{'s' if self.samples[1:] else ''} {few} of the batch" if few else ""
        example = f", {'as' if ' = ' in self.example else 'from'} {self.example}" if self.example else ""
        first = f"{where}{verb} {self.kind} in {self.count:,} of {self.size:,} values, {self.value}{samples}{example}"
        source = f"; the line is {self.source}" if self.source else ""
        return f"{first}{source}. {self.hint}"


def locate_nonfinite(
    objective: Callable[..., jax.Array], model: Layer, params: Any, state: Any, batch: Any, key: jax.Array | None, spec: Spec
) -> NonFinite | None:
    """Find the first non-finite value in an objective or in its gradient with respect to the parameters.

    Args:
        objective: The function `objective(model, params, state, batch, key) -> scalar`; it may call `model.apply` more than
            once.
        model: The model.
        params: The parameters, with respect to which the gradient is taken.
        state: The model's state.
        batch: A pytree of arrays with one entry per sample; the first two entries of a tuple are called x and y.
        key: The key, or None.
        spec: `model.setup` of the model's input, which tells names of layers from other names.

    Returns:
        A `NonFinite`, or None if the objective and its gradient are finite.

    Example:
        >>> import jaxnn as nn
        >>> model = nn.serial(nn.dense(2), logarithm=jnp.log)
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
        >>> x = jnp.array([[1.0, 1.0], [0.0, 0.0]])
        >>> def objective(model, params, state, batch, key):
        ...     return model.apply(params, state, batch)[0].sum()
        >>> spec = model.setup(jax.ShapeDtypeStruct(x.shape, x.dtype))
        >>> locate_nonfinite(objective, model, params, {}, x, None, spec).path
        'logarithm'
    """

    def apply(params, state, x, *, key, training):
        with jax.named_scope(_MODEL):
            return model.apply(params, state, x, key=key, training=training)

    def scoped(params, state, batch, key):
        with jax.named_scope(_LOSS):
            return objective(from_setup(model.setup, apply, model.name), params, state, batch, key)

    def trace(batch):
        return jax.make_jaxpr(jax.value_and_grad(scoped))(params, state, batch, key)

    params, state, batch = jax.tree.map(jnp.asarray, (params, state, batch))
    batch_size = next((leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.ndim), 0)
    evaluator = Evaluator(batch_size)
    with jax.debug_nans(False), jax.debug_infs(False):
        program = trace(batch)
        inputs = [evaluator.input(leaf, phase, path) for phase, path, leaf in _leaves(params, state, batch)]
        inputs += [evaluator.input(leaf, "key", "key") for leaf in jax.tree.leaves(key)]
        value, *gradients = evaluator.run(program.jaxpr, program.consts, inputs, Location(), stop_at_first=True)
    origin = first_origin(gradients if value.is_finite else [value])
    if origin is None:
        return None
    kind, count, size, type_, indices = origin.extent
    if not origin.operation:
        phase, path = map(str, origin.location.names)
        samples = indices.get(0, ()) if phase in ("input", "targets") else ()
        return NonFinite(path, phase, None, kind, count, size, type_, samples, hint=_INPUT_HINTS[phase])
    path, step = _layer(origin.location.names, spec, model.name)
    phase = "backward" if value.is_finite else "loss" if path == "loss" else "forward"
    samples = _samples(origin, program.jaxpr, functools.partial(trace, _doubled(batch, batch_size)))
    source, hint = _source(origin.location), _hint(origin, phase)
    return NonFinite(path, phase, origin.operation, kind, count, size, type_, samples, step, origin.example, source, hint)


def _leaves(params: Any, state: Any, batch: Any) -> Iterator[tuple[str, str, Any]]:
    """Phase, path and array of each input of the program except the key, in the program's order."""
    for phase, tree in (("parameters", params), ("state", state)):
        yield from ((phase, path, leaf) for path, leaf in paths(tree).items())
    if not isinstance(batch, tuple):
        yield from (("input", path, leaf) for path, leaf in paths(batch).items())
        return
    for i, part in enumerate(batch):
        phase, name = (("input", "x"), ("targets", "y"))[i] if i < 2 else ("input", str(i))
        yield from ((phase, f"{name}/{path}".rstrip("/"), leaf) for path, leaf in paths(part).items())


def _layer(names: tuple[str | int, ...], spec: Spec, model_name: str) -> tuple[str, int | None]:
    """The path of the layer of an equation, and the iteration of a loop in that layer."""
    markers = [i for i, name in enumerate(names) if name in (_MODEL, _LOSS)]
    start = markers[-1] if markers else -1
    path: list[str] = []
    step, is_repeat = None, spec.kind == "repeat"
    for name in names[start + 1 :]:
        if isinstance(name, int):
            path, step, is_repeat = ([*path, str(name)], step, False) if is_repeat else (path, name, False)
        elif name in spec.children:  # other names are not names of layers
            spec = spec.children[name]
            path, step, is_repeat = [*path, name], None, spec.kind == "repeat"
    return ("loss" if markers and names[start] == _LOSS else "/".join(path) or model_name), step


def _doubled(batch: Any, batch_size: int) -> Any:
    """The shapes of a batch twice as large."""

    def struct(leaf):
        shape = (2 * batch_size, *leaf.shape[1:]) if leaf.shape[:1] == (batch_size,) else leaf.shape
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(struct, batch)


def _samples(origin: Origin, program: Any, trace_doubled: Callable[[], Any]) -> tuple[int, ...]:
    """The samples that are not finite; the axis of samples is the one that is twice as long for a batch twice as large."""
    try:
        eqns, doubled = (equations_at(jaxpr, origin.location.address) for jaxpr in (program, trace_doubled().jaxpr))
    except Exception:  # the model or loss accepts this batch size only, or traces to another program for another size
        return ()
    if [eqn.primitive for eqn in eqns] != [eqn.primitive for eqn in doubled]:
        return ()
    shape, doubled_shape = (chain[-1].outvars[origin.output].aval.shape for chain in (eqns, doubled))
    axes = [i for i, (m, n) in enumerate(zip(shape, doubled_shape, strict=True)) if m != n]
    return origin.extent.indices.get(axes[0], ()) if len(axes) == 1 else ()


def _source(location: Location) -> str:
    """The innermost line of the user's own code that led to an equation."""
    lines = (_own_line(traceback, function) for traceback, function in reversed(location.trail) if traceback is not None)
    return next((line for line in lines if line), "")


def _own_line(traceback: Any, function: str | None) -> str:
    """The user's line between the equation and the call in this file.

    The search ends at the jitted function around the equation, since the traceback outside of it may belong to another call.
    """
    own = None
    for frame in traceback.frames:
        if own is None and not frame.file_name.startswith(_LIBRARIES):
            own = frame
        if frame.file_name == __file__ or frame.function_name.rpartition(".")[2] == function:
            break
    else:
        return ""
    return f"{own.file_name}:{own.line_num}: {linecache.getline(own.file_name, own.line_num).strip()}" if own else ""


def _hint(origin: Origin, phase: str) -> str:
    kind, dtype = origin.extent.kind, jnp.dtype(origin.extent.type.partition("[")[0])
    arguments = origin.example.partition(" = ")[0]
    if origin.is_intended:
        if phase == "loss":
            return "The loss returns it for a target that it is not defined for, such as a label that is not a class."
        return f"It comes from a constant {kind} of the program, as of a mask, which nothing after it keeps out of the loss."
    if "inf" in arguments:
        return (
            "Intended infinities meet, as in the softmax of a row that is masked completely: mask with "
            "jnp.finfo(dtype).min, or leave such rows out."
        )
    if phase == "backward" and (kind == "nan" or origin.operation in _OPERATION_HINTS):
        return (
            "The loss is finite and its derivative is not, as for sqrt, norm or a power at 0, or for the branch that "
            "jnp.where does not select: keep the argument where the derivative is finite, as f(jnp.where(good, x, 1)) "
            "does, or add a small constant to it."
        )
    if origin.operation in _OPERATION_HINTS:
        return _OPERATION_HINTS[origin.operation]
    largest = float(jnp.finfo(dtype).max)
    if largest < 1e30:
        return f"The largest number of {dtype} is {largest:.3g}: compute in bfloat16 or float32, see nn.dtype_policy."
    return (
        f"The largest number of {dtype} is {largest:.3g}: a lower learning rate, clipped gradients, normalized data or a "
        "normalization layer keep values small."
    )
