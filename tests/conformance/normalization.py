"""Cases of normalization."""

from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, first, last, normal, torch

F = torch.nn.functional
EPSILONS = st.sampled_from([1e-5, 1e-3, 0.1])


def shape_of(draw, least=1, most=4):
    """(batch, *space)."""
    return tuple(draw(st.integers(1, 4)) for _ in range(draw(st.integers(least, most))))


@st.composite
def batch_norm(draw):
    shape, training = shape_of(draw), draw(st.booleans())
    shape = (shape[0] + 1, *shape[1:])  # one value per channel has no variance
    momentum, epsilon = draw(st.sampled_from([0.9, 0.5, 0.0, 1.0])), draw(EPSILONS)
    layer = nn.batch_norm(momentum=momentum, epsilon=epsilon, use_scale=draw(st.booleans()), use_bias=draw(st.booleans()))

    def peer(p, state, x):
        running = [state[name].detach().clone() for name in ("mean", "var")]  # written to in place
        y = F.batch_norm(x.movedim(-1, 1), *running, p.get("scale"), p.get("bias"), training, 1 - momentum, epsilon)
        return y.movedim(1, -1), dict(zip(("mean", "var"), running, strict=True))

    return Case(layer, 3 * normal(*shape, draw(st.integers(1, 4))) + 1, peer, training)


@st.composite
def over_axes(draw, name):
    """PyTorch normalizes the last axes; other axes are moved there and back."""
    shape = (*shape_of(draw), draw(st.integers(2, 5)))
    axes = sorted(draw(st.sets(st.integers(1, len(shape) - 1), min_size=1)))
    epsilon = draw(EPSILONS)
    flags = {"use_scale": draw(st.booleans())} | ({"use_bias": draw(st.booleans())} if name == "layer_norm" else {})
    given = axes[0] if len(axes) == 1 and draw(st.booleans()) else tuple(i - len(shape) for i in axes)
    layer = getattr(nn, name)(axis=given, epsilon=epsilon, **flags)

    def peer(p, x):
        places = list(range(-len(axes), 0))
        affine = [p.get("scale"), p.get("bias")] if name == "layer_norm" else [p.get("scale")]
        normalized = getattr(F, name)(x.movedim(axes, places), [shape[i] for i in axes], *affine, epsilon)
        return normalized.movedim(places, axes)

    return Case(layer, 2 * normal(*shape) + 1, peer)


@st.composite
def unit_norm(draw):
    shape = (*shape_of(draw), draw(st.integers(2, 5)))
    axis, p = draw(st.integers(1, len(shape) - 1)), draw(st.sampled_from([1.0, 2.0, 3.0]))
    return Case(nn.unit_norm(axis=axis, p=p), normal(*shape), lambda params, x: F.normalize(x, p, axis))


@st.composite
def grouped(draw, name):
    shape = shape_of(draw, 1 if name == "group_norm" else 2)
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels, epsilon = groups * each, draw(EPSILONS)
    if shape[1:].count(1) == len(shape) - 1 and (name == "instance_norm" or each == 1):  # one value has no variance
        shape = (shape[0], 2, *shape[2:])
    flags = {flag: draw(st.booleans()) for flag in ("use_scale", "use_bias")}
    arguments = {"groups": groups} if name == "group_norm" else {}
    layer = getattr(nn, name)(**arguments, epsilon=epsilon, **flags)

    def peer(p, x):
        affine = {"weight": p.get("scale", torch.ones(channels)), "bias": p.get("bias", torch.zeros(channels))}
        affine = {name: value.double() for name, value in affine.items()} | {"eps": epsilon}
        return last(getattr(F, name)(first(x), *arguments.values(), **affine))

    return Case(layer, 2 * normal(*shape, channels) + 1, peer)


@st.composite
def local_response_norm(draw):
    size, shape = draw(st.integers(1, 6)), (*shape_of(draw, 2, 3), draw(st.integers(1, 6)))
    options = {
        "alpha": draw(st.sampled_from([1e-4, 1.0])),
        "beta": draw(st.sampled_from([0.75, 0.5])),
        "k": draw(st.sampled_from([1.0, 2.0])),
    }
    layer = nn.local_response_norm(size, **options)
    return Case(layer, normal(*shape), lambda p, x: last(F.local_response_norm(first(x), size, *options.values())))
