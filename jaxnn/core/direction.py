"""Which way a monitored value is better, decided from its name: the one rule that callbacks, checkpoints and tables use."""

import re

# Losses of `nn.losses` whose names have none of the words below. `dice`, `jaccard` and `tversky` are left out: they also
# name the coefficients, which are one minus these losses, so neither direction is safe.
_OTHER_LOSSES = """
    binary_focal binary_sparsemax circle contrastive cosine_embedding ctc focal info_nce margin_ranking multi_margin
    multiclass_perceptron multilabel_margin multilabel_soft_margin perceptron quantile soft_margin sparsemax triplet_margin
"""

# Words, or words joined by underscores, that may stand anywhere in a name.
_SMALLER = """
    bce bits_per_byte bits_per_character bits_per_dim bpb bpc bpd brier ce cer cost cross_entropy crps deviance distance
    divergence ece eer error errors fid hinge huber ks log_cosh loss losses mae mape maxae medae mpjpe mse msle nll nmse
    nrmse perplexity pinball ppl regret risk rmse rmsle smape smooth_l1 wer xent
"""
_LARGER = """
    acc accuracy ap auc aucpr auprc auroc average_precision bleu chrf concordance correlation dice_coefficient elbo
    explained_variance f_beta fbeta gain iou jaccard_index kappa kendall likelihood map matthews mcc meteor miou mrr ndcg
    npv pearson ppv precision prauc psnr r2 r_squared recall return returns reward rewards roc rouge sensitivity sharpe
    similarity snr spearman specificity ssim success top_k tversky_index
"""
# A value that is described by its last word only: `accuracy_std` is not an accuracy, `loss_scale` not a loss.
_OTHER = {"change", "count", "difference", "drop", "factor", "gap", "scale", "std", "weight", "weights"}


def better(name: str, mode: str | None = None) -> str:
    """Say whether smaller or larger values of what is monitored are better.

    The direction follows from the whole words of the name, such as `loss`, `error` and `mse` for "min", `accuracy`, `auc`
    and `r2` for "max". Prefixes such as `val_`, numbers and unknown words do not matter. If words point both ways, the last
    one decides; a leading `neg` or `negative` reverses the direction.

    Args:
        name: The name of the value in a history or a table, such as "val_accuracy".
        mode: "min" or "max", which overrides the rule; None for the rule.

    Returns:
        "min" if smaller is better, "max" if larger is.

    Raises:
        ValueError: If the mode is neither, or the rule does not know the name.

    Example:
        >>> better("val_loss"), better("val_accuracy"), better("accuracy_loss"), better("speed", "max")
        ('min', 'max', 'min', 'max')
    """
    if mode is not None and mode not in ("min", "max"):
        raise ValueError(f'mode is {mode!r}, expected "min" or "max"')
    mode = mode or direction(name)
    if mode is None:
        raise ValueError(f'which way is better is not known for {name!r}: give mode="min" or mode="max"')
    return mode


def direction(name: str) -> str | None:
    """Return the direction that `better` reads from a name, or None for a name that the rule does not know.

    Args:
        name: The name of the value.

    Returns:
        "min", "max" or None.

    Example:
        >>> direction("val_rmse"), direction("learning_rate")
        ('min', None)
    """
    words = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    words = re.sub("^(val|valid|validation|train|training|test)_", "", words)
    reverse = re.match("(neg|negative)_", words) is not None
    words = words[words.index("_") + 1 :] if reverse else words
    plain = re.sub(r"_\d+$", "", words)
    if plain.rpartition("_")[2] in _OTHER:
        return None
    smaller = True if plain in _OTHER_LOSSES.split() else _is_smaller(words)
    return None if smaller is None else "min" if smaller != reverse else "max"


def _is_smaller(words: str) -> bool | None:
    """Return whether the last known word asks for smaller values. `score` decides where it is the only known word."""
    # At one end the longer match decides.
    found = [(match.end(), -match.start(), smaller) for smaller, text in _PATTERNS for match in text.finditer(words)]
    if found:
        return max(found)[2]
    return False if re.search(r"(?<![^_])scores?(?![^_])", words) else None


def _pattern(entries: str, *others: str) -> re.Pattern[str]:
    """Match an entry as whole words, with or without a number at its end (`acc5`); the longest entry first."""
    longest_first = sorted(entries.split(), key=len, reverse=True)
    return re.compile(rf"(?<![^_])({'|'.join([*others, *longest_first])})\d*(?![^_])")


_PATTERNS = ((True, _pattern(_SMALLER)), (False, _pattern(_LARGER, r"f_?\d+(?:_\d+)?")))
