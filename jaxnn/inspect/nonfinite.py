"""Where the first value that is not finite comes from: the layer, the operation, the samples.

The gradient of the loss is traced as `jax.grad` sees it and then evaluated one equation at a time. Each value that is not
finite remembers the values it was made from, so that from the loss, or from a gradient if the loss is finite, the way back
leads to the equation that made it from finite values. What no such way reaches, such as the −∞ of a mask that a softmax
turns into 0, is harmless and not reported.
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

from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.trees import abstract, paths
from jaxnn.programs.evaluation import Evaluation, Origin, Place, bodies, finite, first

_MODEL, _LOSS = "the model/", "the loss/"  # scopes: no layer's name has a slash
_FOREIGN = tuple(str(Path(m).parent) + os.sep for m in (jax.__file__, jaxlib.__file__, Path(__file__).parent))
_FOREIGN += (contextlib.__file__, functools.__file__)

_STARTED = {
    "parameters": "An earlier step made it so, by a gradient that was not finite or too large a learning rate.",
    "state": "An earlier step made it so.",
    "input": "Drop these samples or fill the values in.",
    "targets": "Drop these samples or fill the values in.",
}
_DOMAINS = {
    "log": "The logarithm takes what is above 0: keep its argument away from 0, or compute the logarithm as one with what is "
    "inside, as log_softmax, logsumexp and the losses from logits do.",
    "log1p": "log1p takes what is above -1: keep its argument away from it.",
    "div": "Keep the divisor away from 0: add a small constant, or normalise by max(size, epsilon).",
    "rem": "Keep the divisor away from 0.",
    "sqrt": "The square root takes what is not below 0: a variance as a difference of squares can come out negative.",
    "rsqrt": "Keep the argument above 0: add a small constant, an epsilon, to it.",
    "exp": "exp overflows above 88.7 in float32, above 11.1 in float16: subtract the maximum before, or use softmax, "
    "logsumexp or softplus.",
    "pow": "A power of a negative number, a negative power of 0, or one that overflows: keep the base positive and small.",
    "integer_pow": "A negative power of 0, or one that overflows: keep the base away from 0, and small.",
}


@dataclass(frozen=True)
class NonFinite:
    """The first value that is not finite on the way to the loss or a gradient; its text says it in a few sentences.

    Attributes:
        path: the layer, such as `"encoder/dense"`, with the number of the copy inside a `repeat`: `"body/3/dense"`; or the
            leaf of the parameters, the state or the batch (`"x"`, `"y/mask"`); or `"loss"`.
        phase: `"parameters"`, `"state"`, `"input"` or `"targets"` if it was there from the start; else `"forward"` or
            `"loss"`, and `"backward"` if the loss is finite and a gradient is not.
        operation: the primitive that made it, such as `"log"`; None if it was there from the start.
        kind: `"nan"`, or `"inf"` (of either sign) if there is no NaN.
        count: how many values are not finite,
        size: of how many.
        value: their type and shape, such as `"float32[128, 10]"`.
        samples: their indices in the batch; empty where the value has no axis of samples.
        step: the step of the layer's own loop, such as a recurrent layer's time step; None outside a loop.
        example: one of them as it was computed, such as `"log(0) = -inf"`, or the size of what it was computed from, such as
            `"values up to 3e+37"`; empty if it was there from the start.
        source: the line in the user's own code, `"file:line: text"`; empty if there is none.
        hint: how to mend it.

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
        what = {"parameters": "parameter ", "input": "input ", "state": "state ", "targets": "targets "}.get(
            self.phase, "layer "
        )
        where = "the loss" if self.path == "loss" and self.operation else f"{what}'{self.path}'"
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


def find_nonfinite(
    model: Any,
    params: Any,
    state: Any,
    batch: tuple[Any, Any],
    *,
    loss: Callable[[Any, Any], jax.Array],
    key: jax.Array | None = None,
    training: bool = True,
) -> NonFinite | None:
    """Find the first value that is not finite in the loss of a batch or in its gradient with respect to the parameters.

    Every operation is computed by itself, which takes seconds and can round otherwise than a compiled step does. What is
    infinite by intention, such as a mask's −∞, is reported only if the loss or a gradient is not finite for it.

    Args:
        model: the model.
        params: its parameters.
        state: its state.
        batch: `(x, y)`, one entry a sample along the leading axes.
        loss: `loss(predictions, y) -> scalar`.
        key: the key of the step, for layers that draw random numbers.
        training: as the model is called.

    Returns:
        A `NonFinite`, or None if the loss and all gradients are finite.

    Raises:
        ValueError: if the model or the loss does not take the batch.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(2), logarithm=jnp.log)
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
        >>> x, y = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2))
        >>> found = find_nonfinite(model, params, {}, (x, y), loss=nn.losses.mse)
        >>> found.path, found.phase, found.example, found.samples
        ('logarithm', 'forward', 'log(0) = -inf', (1,))
    """

    def objective(model, params, state, batch, key):
        x, y = batch
        return loss(model.apply(params, state, x, key=key, training=training)[0], y)

    model = as_layer(model)
    return locate(objective, model, params, state, batch, key, model.setup(abstract(batch[0])))


def first_nonfinite_path(tree: Any) -> str | None:
    """The path of the first leaf that has a NaN or an infinite value, looked for on the host.

    Args:
        tree: a pytree of arrays.

    Returns:
        A path such as `"dense/kernel"`, the empty one for a tree that is one array; None if all are finite.

    Example:
        >>> first_nonfinite_path({"dense": {"bias": float("inf"), "kernel": 1.0}})
        'dense/bias'
    """
    return next((path for path, leaf in paths(tree).items() if not finite(leaf)), None)


def locate(
    objective: Callable[..., jax.Array], model: Layer, params: Any, state: Any, batch: Any, key: jax.Array | None, spec: Spec
) -> NonFinite | None:
    """`find_nonfinite` for any `objective(model, params, state, batch, key) -> scalar`.

    Args:
        objective: the function whose value and gradient are looked at; it calls `model.apply` as often as it likes.
        model: the model.
        params: what the gradient is taken with respect to.
        state: the model's state.
        batch: any pytree of arrays with one entry a sample; the first two entries of a tuple are called x and y.
        key: the key, or None.
        spec: `model.setup` of its input, which tells the names of layers from other names.

    Returns:
        As `find_nonfinite`.
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
    size = next((leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.ndim), 0)
    run = Evaluation(size)
    with jax.debug_nans(False), jax.debug_infs(False):
        program = trace(batch)
        given = [run.given(leaf, phase, path) for phase, path, leaf in _leaves(params, state, batch)]
        inputs = [*given, *(run.given(leaf, "key", "key") for leaf in jax.tree.leaves(key))]
        value, *gradients = run.run(program.jaxpr, program.consts, inputs, Place(), need_first=True)
    origin = first(gradients if value.finite else [value])
    if origin is None:
        return None
    if not origin.operation:
        phase, path = map(str, origin.place.names)
        samples = origin.rows.get(0, ()) if phase in ("input", "targets") else ()
        return NonFinite(path, phase, None, *origin.what, samples, hint=_STARTED[phase])
    path, step = _layer(origin.place.names, spec, model.name)
    phase = "backward" if value.finite else "loss" if path == "loss" else "forward"
    samples = _samples(origin, program.jaxpr, functools.partial(trace, _doubled(batch, size)))
    return NonFinite(
        path, phase, origin.operation, *origin.what, samples, step, origin.example, _source(origin.place), _hint(origin, phase)
    )


def _leaves(params: Any, state: Any, batch: Any) -> Iterator[tuple[str, str, Any]]:
    """Phase, path and array of everything the program is given but the key, in its order."""
    for phase, tree in (("parameters", params), ("state", state)):
        yield from ((phase, path, leaf) for path, leaf in paths(tree).items())
    if not isinstance(batch, tuple):
        yield from (("input", path, leaf) for path, leaf in paths(batch).items())
        return
    for i, part in enumerate(batch):
        phase, name = (("input", "x"), ("targets", "y"))[i] if i < 2 else ("input", str(i))
        yield from ((phase, f"{name}/{path}".rstrip("/"), leaf) for path, leaf in paths(part).items())


def _layer(names: tuple[str | int, ...], spec: Spec, own: str) -> tuple[str, int | None]:
    """The path of the layer in which an equation stands, and the step of a loop in there."""
    markers = [i for i, name in enumerate(names) if name in (_MODEL, _LOSS)]
    start = markers[-1] if markers else -1
    path: list[str] = []
    step, copies = None, spec.kind == "repeat"
    for name in names[start + 1 :]:
        if isinstance(name, int):
            path, step, copies = ([*path, str(name)], step, False) if copies else (path, name, False)
        elif name in spec.children:  # other names are not those of layers
            spec = spec.children[name]
            path, step, copies = [*path, name], None, spec.kind == "repeat"
    return ("loss" if markers and names[start] == _LOSS else "/".join(path) or own), step


def _doubled(batch: Any, size: int) -> Any:
    def struct(leaf):
        return jax.ShapeDtypeStruct((2 * size, *leaf.shape[1:]) if leaf.shape[:1] == (size,) else leaf.shape, leaf.dtype)

    return jax.tree.map(struct, batch)


def _samples(origin: Origin, program: Any, doubled: Callable[[], Any]) -> tuple[int, ...]:
    """Which samples are not finite: the axis of samples is the one that is twice as long for twice the batch."""
    try:
        here, there = (_equations(jaxpr, origin.place.address) for jaxpr in (program, doubled().jaxpr))
    except Exception:  # a model or a loss that takes this batch size alone, or another program for another size
        return ()
    if [eqn.primitive for eqn in here] != [eqn.primitive for eqn in there]:
        return ()
    ours, theirs = (eqns[-1].outvars[origin.output].aval.shape for eqns in (here, there))
    axes = [i for i, (m, n) in enumerate(zip(ours, theirs, strict=True)) if m != n]
    return origin.rows.get(axes[0], ()) if len(axes) == 1 else ()


def _equations(jaxpr: Any, address: tuple[int, ...]) -> list[Any]:
    """The equation at an address, after those around it."""
    eqn = jaxpr.eqns[address[0]]
    return [eqn, *(_equations(bodies(eqn)[address[1]][0], address[2:]) if address[1:] else ())]


def _source(place: Place) -> str:
    """The innermost line of the user's own code that led to an equation."""
    lines = (_own_line(traceback, function) for traceback, function in reversed(place.trail) if traceback is not None)
    return next((line for line in lines if line), "")


def _own_line(traceback: Any, function: str | None) -> str:
    """The line between the equation and our call, or the jitted function, which may have been traced for another call."""
    own = None
    for frame in traceback.frames:
        if own is None and not frame.file_name.startswith(_FOREIGN):
            own = frame
        if frame.file_name == __file__ or frame.function_name.rpartition(".")[2] == function:
            break
    else:
        return ""
    return f"{own.file_name}:{own.line_num}: {linecache.getline(own.file_name, own.line_num).strip()}" if own else ""


def _hint(origin: Origin, phase: str) -> str:
    kind, _, _, value = origin.what
    dtype = jnp.dtype(value.partition("[")[0])
    arguments = origin.example.partition(" = ")[0]
    if origin.meant:
        if phase == "loss":
            return "The loss is made so for a target that it has no meaning for, such as a label that is no class."
        return (
            f"A constant {kind} was put there by intention, as a mask is; what comes after it does not keep it from the loss."
        )
    if "inf" in arguments:
        return (
            "Infinities that were put there by intention meet, as in the softmax of a row that is masked as a whole: "
            "mask with jnp.finfo(dtype).min, or leave such rows out."
        )
    if phase == "backward" and (kind == "nan" or origin.operation in _DOMAINS):
        return (
            "The loss is finite and its derivative is not, as that of sqrt, norm or a power at 0, or of the branch that a "
            "where leaves out: keep the argument where the derivative is finite, as f(jnp.where(good, x, 1)) does, or add "
            "a small constant to it."
        )
    if origin.operation in _DOMAINS:
        return _DOMAINS[origin.operation]
    largest = float(jnp.finfo(dtype).max)
    if largest < 1e30:
        return f"The largest number of {dtype} is {largest:.3g}: compute in bfloat16 or float32, as nn.dtype_policy does."
    return (
        f"The largest number of {dtype} is {largest:.3g}: a lower learning rate, clipped gradients, normalised data or a "
        "normalisation layer keep values small."
    )
