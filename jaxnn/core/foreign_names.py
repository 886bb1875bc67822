"""The names here of what other libraries call otherwise, for the error of an attribute that does not exist."""

import re
from collections.abc import Iterable

# In lower case, without underscores, the number of dimensions, and the endings "layer", "loss" and "score".
_LAYERS = {
    "linear": "nn.dense",
    "sequential": "nn.serial",
    "module": "nn.Layer",
    "model": "nn.Layer",
    "embed": "nn.embedding",
    "convtranspose": "nn.conv_transpose",
    "maxpooling": "nn.max_pool",
    "averagepooling": "nn.avg_pool",
    "globalaveragepooling": "nn.global_avg_pool",
    "globalmaxpooling": "nn.global_max_pool",
    "unflatten": "nn.reshape",
    "simplernn": "nn.rnn",
    "optimizedlstmcell": "nn.lstm",
    "lstmcell": "nn.lstm",
    "grucell": "nn.gru",
    "multiheadattention": "nn.attention",
    "multiheaddotproductattention": "nn.attention",
    "transformerencoder": "nn.transformer_block",
    "batchnormalization": "nn.batch_norm",
    "layernormalization": "nn.layer_norm",
    "groupnormalization": "nn.group_norm",
    "checkpoint": "nn.remat",
    "adam": "optax.adam",
    "adamw": "optax.adamw",
    "sgd": "optax.sgd",
    "rmsprop": "optax.rmsprop",
    "jit": "jax.jit",
    "vmap": "jax.vmap",
    "grad": "jax.grad",
}
_LOSSES = {
    "sparsecategoricalcrossentropy": "nn.losses.cross_entropy",
    "categoricalcrossentropy": "nn.losses.cross_entropy",
    "softmaxcrossentropy": "nn.losses.cross_entropy",
    "softmaxcrossentropywithintegerlabels": "nn.losses.cross_entropy",
    "crossentropy": "nn.losses.cross_entropy",
    "nll": "nn.losses.cross_entropy",
    "bcewithlogits": "nn.losses.binary_cross_entropy",
    "bce": "nn.losses.binary_cross_entropy",
    "binarycrossentropy": "nn.losses.binary_cross_entropy",
    "sigmoidbinarycrossentropy": "nn.losses.binary_cross_entropy",
    "meansquarederror": "nn.losses.mse",
    "squarederror": "nn.losses.mse",
    "mse": "nn.losses.mse",
    "l2": "nn.losses.mse",
    "meanabsoluteerror": "nn.losses.mae",
    "mae": "nn.losses.mae",
    "l1": "nn.losses.mae",
    "huber": "nn.losses.huber",
    "kldiv": "nn.losses.kl_divergence",
    "ctc": "nn.losses.ctc",
}
_METRICS = {
    "f1": "nn.metrics.f1",
    "fbeta": "nn.metrics.f_beta",
    "accuracy": "nn.metrics.accuracy",
    "categoricalaccuracy": "nn.metrics.accuracy",
    "sparsecategoricalaccuracy": "nn.metrics.accuracy",
    "auc": "nn.metrics.roc_auc",
    "auroc": "nn.metrics.roc_auc",
    "matthewscorrcoef": "nn.metrics.matthews",
    "rootmeansquarederror": "nn.metrics.rmse",
    "meansquarederror": "nn.metrics.mse",
    "meanabsoluteerror": "nn.metrics.mae",
}
_INITIALIZERS = {
    "glorot": "nn.initializers.glorot_uniform",
    "xavier": "nn.initializers.xavier_uniform",
    "he": "nn.initializers.he_normal",
    "kaiming": "nn.initializers.kaiming_normal",
}
_SCHEDULES = {
    "exponentiallr": "nn.schedules.exponential_decay",
    "steplr": "nn.schedules.piecewise_constant_schedule",
    "multisteplr": "nn.schedules.piecewise_constant_schedule",
    "cosineannealinglr": "nn.schedules.cosine_decay_schedule",
    "cosinedecay": "nn.schedules.cosine_decay_schedule",
    "cosineannealingwarmrestarts": "nn.schedules.cosine_restarts",
    "onecyclelr": "nn.schedules.cosine_onecycle_schedule",
    "cycliclr": "nn.schedules.cyclic",
}
_TABLES = {
    "nn": _LOSSES | _METRICS | _LAYERS,
    "nn.losses": _LOSSES,
    "nn.metrics": _METRICS,
    "nn.initializers": _INITIALIZERS,
    "nn.schedules": _SCHEDULES,
}
_OF_A_LAYER = {
    "summary": "nn.summary(model, x)",
    "fit": "nn.fit(model, (x, y), ...)",
    "compile": "nn.fit(model, (x, y), loss=..., optimizer=...)",
    "evaluate": "nn.evaluate(result, (x, y))",
    "predict": "nn.predict(result, x)",
    "parameters": "params, state = model.init(key, x)",
    "state_dict": "params, state = model.init(key, x)",
    "weights": "params, state = model.init(key, x)",
    "get_weights": "params, state = model.init(key, x)",
    "forward": "model.apply(params, state, x)",
    "train": "model.apply(params, state, x, key=key, training=True)",
    "eval": "model.apply(params, state, x), which is inference by default",
    "save": "nn.io.save(params, path)",
}


def no_attribute(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error of a name that a module lacks, with the name here of what other libraries call so.

    Args:
        module: The module as users write it, such as `"nn.losses"`.
        name: The name that was asked for.
        known: The public names of the module.

    Example:
        >>> no_attribute("nn", "Conv2d", ["conv"])
        AttributeError("nn has no attribute 'Conv2d': it is nn.conv")
        >>> no_attribute("nn", "Linear", ["linear"])
        AttributeError("nn has no attribute 'Linear': it is nn.dense")
    """
    here = name_here(module, name, known)
    return AttributeError(f"{module} has no attribute {name!r}" + (f": it is {here}" if here else ""))


def name_here(module: str, name: str, known: Iterable[str]) -> str | None:
    """What users write for a name of another library, such as `"nn.losses.mse"` for `"mean_squared_error"`, if it is known.

    Args:
        module: The module as users write it, such as `"nn.losses"`.
        name: The name.
        known: The public names of the module.
    """
    plain = _plain(name)
    return _TABLES.get(module, {}).get(plain) or next((f"{module}.{own}" for own in known if _plain(own) == plain), None)


def no_method(name: str) -> AttributeError:
    """The error of an attribute that a `Layer` lacks.

    Example:
        >>> no_method("summary")
        AttributeError("a Layer has no attribute 'summary': write nn.summary(model, x)")
    """
    here = _OF_A_LAYER.get(name)
    return AttributeError(f"a Layer has no attribute {name!r}" + (f": write {here}" if here else ""))


def _plain(name: str) -> str:
    return re.sub(r"([123]d)?(layer|loss|score)?([123]d)?$", "", name.replace("_", "").lower())
