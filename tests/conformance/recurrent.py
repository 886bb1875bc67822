"""Cases of recurrent layers: PyTorch's modules, and where it has none a loop of its operations."""

import numpy as np
from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, first, last, normal, torch

F = torch.nn.functional


def sequence(draw, features=None):
    """(batch, time, features), sometimes of one sample or one step, sometimes padded at its end."""
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    x = normal(batch, time, *(features or [draw(st.integers(1, 4))]))
    if not draw(st.booleans()):
        return x
    lengths = np.array([draw(st.integers(1, time)) for _ in range(batch)])
    return x, np.arange(time) < lengths[:, None]


def weights(kind, p, end=""):
    """Our parameters of one direction under PyTorch's names. Its second bias is zero except for the GRU's recurrent bias."""
    bias = p["bias"]
    recurrent_bias = torch.zeros_like(bias)
    if kind == "gru":
        recurrent_bias = torch.cat([recurrent_bias[: -len(p["recurrent_bias"])], p["recurrent_bias"]])
    tensors = {"weight_ih": p["kernel"].T, "weight_hh": p["recurrent_kernel"].T, "bias_ih": bias, "bias_hh": recurrent_bias}
    tensors |= {"weight_hr": p["projection"].T} if "projection" in p else {}
    return {f"{name}_l0{end}": tensor for name, tensor in tensors.items()}


@st.composite
def module(draw, kinds, both=False):
    """rnn, lstm or gru: whole or padded, every step or the last one, from zero or from a given carry."""
    kind = draw(st.sampled_from(kinds))
    features, x = draw(st.integers(1, 4)), sequence(draw)
    options = {"return_sequences": draw(st.booleans())}
    theirs = {}
    if kind == "rnn":
        theirs = {"nonlinearity": draw(st.sampled_from(["tanh", "relu"]))}
        options |= {"activation": getattr(nn, theirs["nonlinearity"])}
    projection = draw(st.integers(1, features - 1)) if kind == "lstm" and features > 1 and draw(st.booleans()) else None
    if projection:
        options, theirs = options | {"projection": projection}, {"proj_size": projection}
    stateful = draw(st.booleans())
    layer = getattr(nn, kind)(features, stateful=stateful, **options)
    parts, n_in = ("h", "c") if kind == "lstm" else ("h",), (x[0] if isinstance(x, tuple) else x).shape[-1]
    peer_module = getattr(torch.nn, kind.upper())(n_in, features, batch_first=True, bidirectional=both, **theirs).double()

    def run(p, state, x):
        """The outputs of all steps, and the last carry of each direction."""
        sides = [("forward", ""), ("backward", "_reverse")]
        tensors = {k: v for side, end in sides for k, v in weights(kind, p[side], end).items()} if both else weights(kind, p)
        carry = None
        if state:
            carry = [torch.stack([state[side][part] for side, _ in sides] if both else [state[part]]) for part in parts]
            carry = tuple(carry) if kind == "lstm" else carry[0]
        x, mask = x if isinstance(x, tuple) else (x, None)
        if mask is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        y, carry = torch.func.functional_call(peer_module, tensors, (x, carry))
        carry = carry if kind == "lstm" else (carry,)
        if mask is not None:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=mask.shape[1])
        after = [dict(zip(parts, one, strict=True)) for one in zip(*(c.unbind() for c in carry), strict=True)]
        if not options["return_sequences"]:
            y = torch.cat([each["h"] for each in after], -1)
        elif mask is not None:
            y = (y, mask)
        return y, dict(zip(("forward", "backward"), after, strict=True)) if both else after[0]

    layer = nn.bidirectional(layer) if both else layer
    return Case(layer, x, run if stateful else lambda p, x: run(p, None, x)[0])


@st.composite
def stack(draw, kind):
    """Several layers in sequence, PyTorch's `num_layers`."""
    features, n, x = draw(st.integers(1, 4)), draw(st.integers(2, 3)), normal(2, draw(st.integers(1, 5)), 3)
    layer = nn.serial(**{f"layer_{i}": getattr(nn, kind)(features) for i in range(n)})
    peer_module = getattr(torch.nn, kind.upper())(3, features, n, batch_first=True).double()

    def peer(p, x):
        named = [(name, i) for i in range(n) for name in weights(kind, p[f"layer_{i}"])]
        tensors = {name.replace("_l0", f"_l{i}"): weights(kind, p[f"layer_{i}"])[name] for name, i in named}
        return torch.func.functional_call(peer_module, tensors, (x,))[0]

    return Case(layer, x, peer)


def normalized(x, scale, bias=None):
    return F.layer_norm(x, x.shape[-1:], scale, bias)


def peephole_lstm(p, x, h, c):
    s = normalized(x @ p["kernel"], p["kernel_scale"]) + normalized(h @ p["recurrent_kernel"], p["recurrent_scale"]) + p["bias"]
    i, f, g, o = s.chunk(4, -1)
    p_i, p_f, p_o = p["peephole"]
    c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
    return (o + p_o * c).sigmoid() * normalized(c, p["cell_scale"], p["cell_bias"]).tanh(), c


def gru_before(p, x, h, c):
    (r, z, n), (u_r, u_z, u_n) = (x @ p["kernel"] + p["bias"]).chunk(3, -1), p["recurrent_kernel"].chunk(3, -1)
    r, z = (r + h @ u_r).sigmoid(), (z + h @ u_z).sigmoid()
    return (1 - z) * (n + (r * h) @ u_n).tanh() + z * h, c


def minimal_gru(p, x, h, c):
    (f, n), (u_f, u_n) = (x @ p["kernel"] + p["bias"]).chunk(2, -1), p["recurrent_kernel"].chunk(2, -1)
    f = (f + h @ u_f).sigmoid()
    return (1 - f) * h + f * (n + (f * h) @ u_n).tanh(), c


def ind_rnn(p, x, h, c):
    return (x @ p["kernel"] + p["bias"] + p["recurrent_kernel"] * h).relu(), c


def conv_lstm(p, x, h, c):
    convolve = {3: F.conv1d, 4: F.conv2d}[x.ndim]

    def convolved(x, kernel):
        return last(convolve(first(x), kernel.movedim((-1, -2), (0, 1)), padding="same"))

    i, f, g, o = (convolved(x, p["kernel"]) + convolved(h, p["recurrent_kernel"]) + p["bias"]).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


CELLS = {
    "gru": (gru_before, lambda n, **options: nn.gru(n, reset_after=False, **options)),
    "lstm": (peephole_lstm, lambda n, **options: nn.lstm(n, peephole=True, normalize=True, **options)),
    "minimal_gru": (minimal_gru, nn.minimal_gru),
    "ind_rnn": (ind_rnn, nn.ind_rnn),
    "conv_lstm": (conv_lstm, None),
}


@st.composite
def loop(draw, kind):
    """At padded steps the carry is unchanged and the output is zero."""
    cell, make = CELLS[kind]
    features, stateful, every = draw(st.integers(2, 4)), draw(st.booleans()), draw(st.booleans())
    options = {"stateful": stateful, "return_sequences": every}
    if kind == "conv_lstm":
        size = tuple(draw(st.sampled_from([1, 3])) for _ in range(draw(st.integers(1, 2))))
        layer = nn.conv_lstm(features, size, **options)
        x = sequence(draw, (*(draw(st.integers(1, 4)) for _ in size), 2))
    else:
        layer, x = make(features, **options), sequence(draw)

    def peer(p, state, x):
        x, mask = x if isinstance(x, tuple) else (x, None)
        shape = (len(x), *x.shape[2:-1], features)
        h, c = (state[part] if part in state else x.new_zeros(shape) for part in ("h", "c"))
        outputs = []
        for t in range(x.shape[1]):
            new_h, new_c = cell(p, x[:, t], h, c)
            valid = torch.tensor(True) if mask is None else mask[:, t].reshape(-1, *(1,) * (len(shape) - 1))
            h, c = torch.where(valid, new_h, h), torch.where(valid, new_c, c)
            outputs.append(torch.where(valid, h, 0))
        y = h if not every else torch.stack(outputs, 1)
        return y if mask is None or not every else (y, mask), {part: {"h": h, "c": c}[part] for part in state}

    return Case(layer, x, peer if stateful else lambda p, x: peer(p, {}, x)[0])
