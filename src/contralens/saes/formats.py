"""The forms in which sparse autoencoders are stored: each trainer's (`sae_trainers`), and those known by their tensors.

OpenAI's and MSAE's are checked against the sources of openai/sparse_autoencoder and WolodjaZ/MSAE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from contralens.checks import blaming
from contralens.errors import InputError
from contralens.saes import trainers as trainers
from contralens.saes.contents import Contents, Found

_KINDS = {
    "relu": "relu", "standard": "relu", "vanilla": "relu", "topk": "topk", "top_k": "topk", "jumprelu": "jumprelu",
    "jump_relu": "jumprelu", "batchtopk": "batchtopk", "batch_topk": "batchtopk", "batch_top_k": "batchtopk",
    "matryoshka": "batchtopk", "matryoshka_batchtopk": "batchtopk", "gated": "gated",
}  # fmt: skip
_MEAN = ("activation_mean", "activations_mean", "act_mean", "input_mean", "data_mean", "mean_center", "mean", "center")
_STD = ("activation_std", "activations_std", "act_std", "input_std", "data_std", "std")


def plain(c: Contents) -> Found | None:
    """Tensors by the usual names W_enc (D,N), b_enc, W_dec, b_dec, threshold, k, and settings by the usual names."""
    if "W_enc" not in c:
        return None
    encoder, bias = c.need("W_enc"), c.tensor("b_enc", "latent_bias")
    decoder, b_dec, pre = c.tensor("W_dec"), c.tensor("b_dec"), c.tensor("pre_bias")
    if bias is not None and encoder.shape[1] != len(bias) == encoder.shape[0]:
        encoder = encoder.T
    count, kind, notes = c.count("k", "top_k", "topk", "activation_fn_kwargs.k"), _kind(c), []
    threshold = c.tensor("threshold") if kind in (None, "jumprelu", "batchtopk") else None
    if "threshold" in c and threshold is None and (c.kind or kind == "topk"):
        c.passed("threshold")
        notes.append(f"its threshold is not used, since its kind is {kind}")
    if kind is None and "b_gate" in c:
        kind = "gated"
    elif kind is None:
        kind = "relu"
        if threshold is not None and threshold.numel() > 1:
            kind = "jumprelu"
        elif count is not None or threshold is not None:
            kind = None if count is not None and threshold is not None else "topk" if count is not None else "jumprelu"
    gated = kind == "gated"
    usual = (b_dec is not None and kind != "jumprelu") or pre is not None
    subtract = bool(c.setting("apply_b_dec_to_input", default=usual))
    if pre is not None:
        b_dec = pre  # the decoder's own bias, if there is one, is added after decoding
    elif b_dec is not None and not c.has("apply_b_dec_to_input"):
        done = "" if subtract else "not "
        notes.append(f"b_dec is {done}subtracted from activations, as is usual for {kind or 'it'}")
    if "W_skip" in c or "b_dec_out" in c:
        notes.append("its tensors are those of a transcoder: the target's layer must be the one that it reads")
        c.passed("W_skip", "b_dec_out")
        decoder = None
    center, std = (_each(c.tensor(*names), len(encoder)) for names in (_MEAN, _STD))
    if center is not None or std is not None:
        notes.append("activations are standardised first by the file's own mean and standard deviation")
    norm, scale = trainers.normalisation(c)
    turned = decoder is not None and encoder.shape[0] != encoder.shape[1] == decoder.shape[-1]
    return Found(
        "tensors by the usual names",
        encoder,
        c.need("b_mag") if gated else bias,
        b_dec,
        subtract=subtract,
        kind=kind,
        decoder=decoder.T if decoder is not None and turned else decoder,
        could_be=("topk", "batchtopk"),
        k=count,
        threshold=threshold,
        gate=c.need("b_gate") if gated else None,
        magnitude=c.need("r_mag") if gated else None,
        norm=norm,
        scale=scale,
        center=center,
        std=std,
        notes=notes,
    )


def _each(tensor: Tensor | None, inputs: int) -> Tensor | None:
    """One number as (D)."""
    return tensor.expand(inputs).clone() if tensor is not None and not tensor.dim() else tensor


def _kind(c: Contents) -> str | None:
    """The kind that the user or the settings say."""
    names = ("architecture", "activation_fn_str", "activation_fn", "activation", "kind", "sae_type")
    said = [str(c.setting(name)).lower() for name in names if c.setting(name) is not None]
    for name in said:
        trainers.known(c, "the kind", name, _KINDS)
    kinds = [_KINDS[name] for name in said]
    special = [kind for kind in kinds if kind != "relu"]  # "gated" beside the activation "relu" is gated
    return c.kind or next(iter(special or kinds), None)


def openai(c: Contents) -> Found | None:
    """OpenAI's: pre_bias, latent_bias, the activation by its name; TopK goes with a layer norm there."""
    if "encoder.weight" not in c or not ("latent_bias" in c or "pre_bias" in c):
        return None
    stated, k = c.setting("activation"), c.count("k", "top_k", "activation_state_dict.k", "activation.k")
    post = c.setting("activation_state_dict.postact_fn", "activation.postact_fn", default="ReLU")
    trainers.known(c, "OpenAI's activation", stated or "TopK", ("ReLU", "TopK"))
    trainers.known(c, "OpenAI's postact_fn", post, ("ReLU", "Identity"))
    weight, out = c.need("encoder.weight"), c.tensor("decoder.weight")
    c.passed("decoder.linear.weight")  # tied: the encoder's own
    return Found(
        "OpenAI",
        weight.T,
        c.tensor("latent_bias"),
        c.tensor("pre_bias"),
        subtract="pre_bias" in c,
        kind=c.kind or (stated.lower() if stated else "topk" if k is not None else None),
        decoder=out.T if out is not None else weight,
        could_be=("topk", "relu"),
        k=k,
        signed=post == "Identity",
        norm="layer_norm" if c.setting("normalize", default=stated == "TopK") else "none",
    )


def msae(c: Contents) -> Found | None:
    """MSAE: pre_bias, latent_bias and matrices; what it says of activation and normalisation is in the file's name."""
    if "encoder" not in c or not ("latent_bias" in c or "pre_bias" in c):
        return None
    said = re.match(r"\d+_\d+_([A-Za-z]+?)(?:_(\d+))?(?:_[UR]W)?_(True|False)_(True|False)_", Path(c.name).name)
    kind, k, signed, notes = None, None, False, ["MSAE's soft cap is not applied: it changes no ranking"]
    if said:
        kinds = {"ReLU": "relu", "JumpReLU": "jumprelu", "TopK": "topk", "TopKReLU": "topk"}
        trainers.known(c, "MSAE activation", said[1], kinds)
        kind, k, signed = kinds[said[1]], int(said[2]) if said[2] else None, said[1] == "TopK"
        if said[4] == "True":
            raise InputError(f"{c.name}: MSAE with normalised activations is not read: pass the model itself")
    log_threshold, encoder = c.tensor("activation.log_threshold"), c.need("encoder")
    if (center := c.tensor("mean_center")) is not None and not center.dim():
        center = None if float(center) == 0 else center
    c.passed("target_norm")
    factor = c.setting("scaling_factor", default=1.0)
    decoder = c.tensor("decoder")
    return Found(
        "MSAE",
        encoder,
        c.tensor("latent_bias"),
        c.tensor("pre_bias"),
        subtract="pre_bias" in c,
        kind=c.kind or kind,
        decoder=encoder.T if decoder is None else decoder,
        could_be=("topk", "relu", "jumprelu"),
        k=k,
        threshold=None if log_threshold is None else log_threshold.float().exp(),
        signed=signed,
        center=center,
        scale=float(factor),
        notes=notes,
    )


FORMATS: dict[str, Callable[[Contents], Found | None]] = {
    "ViT-Prisma": trainers.prisma,
    "SAELens": trainers.saelens,
    "saev": trainers.saev,
    "overcomplete": trainers.overcomplete,
    "OpenAI": openai,
    "MSAE": msae,
    "dictionary_learning": trainers.dictionary_learning,
    "sparsify": trainers.sparsify,
    "plain": plain,
}
"""Forms by name, asked in this order; each gives None for what is not its own."""


def find(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    name: str,
    kind: str | None = None,
    ignore: Collection[str] = (),
) -> Found:
    """What tensors and settings say, by the first form that knows them.

    Raises:
        InputError: no form knows them, or one of them may change the latents and is not used.
    """
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    for form in FORMATS.values():
        contents = Contents(tensors, settings, name, kind)
        with blaming(f"{name}: its tensors and settings make no sparse autoencoder"):
            found = form(contents)
        if found is None:
            continue
        if found.encoder.dim() != 2:
            raise InputError(f"{name}: the encoder must be a matrix; got shape {tuple(found.encoder.shape)}")
        contents.check_widths(found.encoder.shape[0], found.encoder.shape[1], ignore)
        found.notes += contents.unused(found.what, ignore)
        return found
    some = ", ".join(list(tensors)[:4]) or "nothing"
    raise InputError(
        f"{name} is not a sparse autoencoder in a known form ({', '.join(FORMATS)}); it holds {some}: name the tensors "
        "W_enc (D,N), b_enc, b_dec, or pass the model itself"
    )
