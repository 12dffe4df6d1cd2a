"""How each trainer writes its sparse autoencoders: which tensors are what, and what its settings mean.

Checked against SAELens 6.54, overcomplete 0.3, dictionary_learning 0.1, saev's header schemas 0 to 5, and the sources
of ViT-Prisma and sparsify.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor
from torch.nn.functional import normalize

from contralens.checks import nearest, shown
from contralens.errors import InputError
from contralens.saes.contents import Contents, Found

_SAELENS = {
    "standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "batchtopk", "gated": "gated",
    "matryoshka_batchtopk": "batchtopk", "transcoder": "relu", "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip


def saelens(c: Contents) -> Found | None:
    """SAELens: cfg.json and sae_weights.safetensors, of its releases before and since 6.0."""
    if not c.has("d_sae") or "W_enc" not in c:
        return None
    architecture = c.setting("architecture", default="standard")
    before = c.setting("activation_fn_str", "activation_fn", default="relu")  # before 6.0
    known(c, "SAELens activation_fn", before, ("relu", "topk"))
    architecture = "topk" if architecture == "standard" and before == "topk" else architecture
    known(c, "SAELens architecture", architecture, _SAELENS)
    kind = c.kind or _SAELENS[architecture]
    norm, scale = normalisation(c)
    decoder, b_dec = c.tensor("W_dec"), c.tensor("b_dec")
    rescaled = bool(c.setting("rescale_acts_by_decoder_norm")) and decoder is not None
    subtract, crosses = bool(c.setting("apply_b_dec_to_input", default=True)), "transcoder" in architecture
    notes = places(c, ("metadata.hook_name", "hook_name", "hook_point"), ("metadata.hook_name_out", "hook_name_out"))
    if c.setting("reshape_activations") == "hook_z":
        notes.append("it was trained on the outputs of attention heads side by side, before they are projected")
    c.passed("metadata", "W_skip", "matryoshka_widths", "threshold_lr", "finetuning_scaling_factor")
    if (finetuned := c.tensor("scaling_factor")) is not None and decoder is not None:
        decoder = decoder * finetuned[:, None]
    gate = c.need("b_gate") if kind == "gated" else None
    if kind == "gated":
        c.passed("b_enc")
    return Found(
        "SAELens",
        c.need("W_enc"),
        c.need("b_mag") if kind == "gated" else c.tensor("b_enc"),
        None if crosses else b_dec,
        subtract=subtract and not crosses,
        kind=kind,
        decoder=None if crosses else decoder,
        k=c.setting("k", "activation_fn_kwargs.k"),
        threshold=c.tensor("threshold", "topk_threshold") if kind in ("jumprelu", "batchtopk") else None,
        gain=decoder.float().norm(dim=1) if rescaled and decoder is not None else None,
        gate=gate,
        magnitude=c.need("r_mag") if kind == "gated" else None,
        norm=norm,
        scale=scale,
        notes=notes,
    )


def prisma(c: Contents) -> Found | None:
    """ViT-Prisma: config.json and weights.pt; what config.json leaves out is Prisma's default, as is the layer norm."""
    if not c.has("layer_subtype", "cls_token_only", "vit_model_cfg", "use_patches_only") or "W_enc" not in c:
        return None
    architecture = c.setting("architecture", default="standard")
    known(c, "Prisma architecture", architecture, ("standard", "gated"))
    activation = c.setting("activation_fn_str", default="topk")
    known(c, "Prisma activation_fn_str", activation, ("relu", "topk"))
    if architecture == "gated" and activation == "topk":
        raise InputError(f"{c.name}: Prisma's gated autoencoder with topk is not read: pass the model itself")
    stated = not c.has("normalize_activations")
    norm, scale = normalisation(c, default="layer_norm")
    notes = [f"Prisma's default: activations are normalised by {norm}"] if stated else []
    crosses = bool(c.setting("is_transcoder"))
    layer, name = c.setting("hook_point_layer", default=9), c.setting("layer_subtype", default="ln2.hook_normalized")
    notes.append(f"it was trained on blocks.{layer}.{name}")
    if crosses:
        there, output = c.setting("out_hook_point_layer", default=9), c.setting("layer_out_subtype", default="")
        notes.append(_CROSSES.format(f"blocks.{layer}.{name}", f"blocks.{there}.{output or 'hook_mlp_out'}"))
    c.passed("W_skip", "b_dec_out", "transcoder_with_skip_connection", "out_hook_point_layer", "layer_out_subtype")
    c.passed("d_out", "hook_point_head_index", "vit_model_cfg")
    tokens = "cls" if c.setting("cls_token_only") else "patches" if c.setting("use_patches_only") else ""
    gated = architecture == "gated"
    if gated:
        c.passed("b_enc")  # Prisma has it and does not use it
    decoder = c.tensor("W_dec")
    return Found(
        "ViT-Prisma",
        c.need("W_enc"),
        c.need("b_mag") if gated else c.tensor("b_enc"),
        c.tensor("b_dec"),
        subtract=True,
        kind=c.kind or ("gated" if gated else activation),
        decoder=None if crosses else decoder,
        k=c.setting("activation_fn_kwargs.k", "k"),
        gate=c.need("b_gate") if gated else None,
        magnitude=c.need("r_mag") if gated else None,
        norm=norm,
        scale=scale,
        tokens=tokens,
        notes=notes,
    )


def saev(c: Contents) -> Found | None:
    """saev: a line of JSON, then the tensors."""
    if not any(name.startswith("saev.") for name in c.settings):
        return None
    schema = c.setting("saev.schema", default=0)
    known(c, "saev schema", schema, range(6))
    cfg = "saev.cfg." if schema else "saev."
    stated = c.setting(f"{cfg}activation.cls") or (c.setting("saev.cls", default="Relu") if schema else "Relu")
    c.passed("saev.cls", "saev.commit", "saev.lib", f"{cfg}normalize_w_dec", f"{cfg}remove_parallel_grads")
    c.passed(f"{cfg}reinit_enc_dec_tranpose", f"{cfg}activation.params.key", f"{cfg}activation.params.kind")
    cls = "Relu" if stated == "SparseAutoencoderConfig" else stated
    kinds = {"Relu": "relu", "TopK": "topk", "BatchTopK": "batchtopk"}
    known(c, "saev activation", cls, kinds)
    threshold, kind, notes = c.tensor("activation.threshold"), kinds[cls], []
    if kind == "batchtopk" and threshold is None:
        kind = "topk"
        notes.append("saev's BatchTopK of this age has no threshold: the k largest of each token are kept")
    if schema == 0:
        notes.append("saev without schema: the decoder's bias is subtracted first, as the code did that trained it")
    return Found(
        f"saev, schema {schema}",
        c.need("W_enc"),
        c.tensor("b_enc"),
        c.tensor("b_dec"),
        subtract=schema == 0,
        kind=kind,
        decoder=c.tensor("W_dec"),
        k=c.setting(f"{cfg}activation.params.top_k", f"{cfg}top_k"),
        threshold=threshold,
        signed=True,
        notes=notes,
    )


_OVERCOMPLETE = {
    "SAE": "relu", "TopKSAE": "topk", "RATopKSAE": "topk", "BatchTopKSAE": "batchtopk", "JumpSAE": "jumprelu",
    "RAJumpSAE": "jumprelu",
}  # fmt: skip


def overcomplete(c: Contents) -> Found | None:
    """overcomplete: the state dictionary of an SAE whose encoder is one linear layer, with or without batch norm."""
    if not any(key.startswith("dictionary.") for key in c.tensors):
        return None
    atoms, multiplier = c.tensor("dictionary._weights"), c.tensor("dictionary.multiplier")
    notes = []
    made_by = str(c.setting("dictionary.normalization", default="normalize_l2")).rpartition(".")[2]
    if atoms is not None:
        known(c, "overcomplete's normalization", made_by, ("normalize_l2", "normalize_identity"))
        atoms = atoms.float() if made_by == "normalize_identity" else normalize(atoms.float(), dim=1)
        atoms = atoms * (1 if multiplier is None else multiplier.float().exp())
        if not c.has("dictionary.normalization"):
            notes.append("overcomplete's dictionary is used with unit length, as by default")
    c.passed("dictionary.C", "dictionary.W", "dictionary.Relax")  # archetypal: they make the decoder only
    encoder, bias = _linear(c, atoms)
    thresholds, learned = c.tensor("thresholds"), c.tensor("running_threshold")
    kind = None if thresholds is None else "jumprelu"
    if whole := c.setting("class name"):  # pickled whole, not as a state dictionary
        known(c, "overcomplete's class", whole, _OVERCOMPLETE)
        kind = _OVERCOMPLETE[whole]
        for name in ("encoder.output_activation", "encoder.final_activation"):
            known(c, name, str(c.setting(name, default="ReLU")).rpartition(".")[2], ("ReLU",))
        c.passed("encoder.hidden_activation", "encoder.norm_layer", "bandwidth", "threshold_momentum", "kernel_fn")
    return Found(
        "overcomplete",
        encoder,
        bias,
        None,
        subtract=False,
        kind=c.kind or kind,
        decoder=atoms,
        could_be=("topk", "relu", "batchtopk"),
        k=c.setting("top_k"),
        threshold=learned if thresholds is None else thresholds.float().exp(),
        at_threshold=True,
        notes=notes,
    )


def _linear(c: Contents, atoms: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The encoder (D,N) and its bias: one linear layer, tied to the dictionary or not, or one with a batch norm."""
    keys = {key.removeprefix("encoder.") for key in c.tensors if key.startswith("encoder.")}
    if keys in ({"weight"}, {"weight", "bias"}):
        return c.need("encoder.weight").T, c.tensor("encoder.bias")
    tied = {key for key in keys if key.startswith("tied_to.")}
    if tied and keys - tied <= {"bias"} and atoms is not None:
        c.passed(*(f"encoder.{key}" for key in tied))
        return atoms.T, c.tensor("encoder.bias")
    linear, norm = {"final_block.0.weight", "final_block.0.bias"}, "final_block.1."
    if not linear <= keys or any(not key.startswith(norm) for key in keys - linear):
        raise InputError(f"{c.name}: this encoder of overcomplete is not one linear layer: pass the model itself")
    weight, bias = c.need("encoder.final_block.0.weight").float(), c.need("encoder.final_block.0.bias").float()
    if keys - linear:
        if f"{norm}running_var" not in keys:
            raise InputError(
                f"{c.name}: overcomplete's layer norm after the encoder is not read: pass the model itself"
            )
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, shift = (c.need(f"encoder.{norm}{part}").float() for part in parts)
        gain = gain / (var + 1e-5).sqrt()
        weight, bias = weight * gain[:, None], (bias - mean) * gain + shift
    return weight.T, bias


_LEARNED = {
    "AutoEncoder": "relu", "AutoEncoderNew": "relu", "AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk", "JumpReluAutoEncoder": "jumprelu", "GatedAutoEncoder": "gated",
}  # fmt: skip


def dictionary_learning(c: Contents) -> Found | None:
    """dictionary_learning: ae.pt, better with its config.json beside it, or the backup of a training run."""
    whole = c.setting("class name")  # of one that was pickled whole
    stated = str(c.setting("trainer.dict_class", "dict_class", default=whole if whole in _LEARNED else ""))
    pair = "encoder.weight" in c and "decoder.weight" in c and "latent_bias" not in c and "pre_bias" not in c
    if not pair and not (stated and "W_enc" in c) and not ("group_sizes" in c and "W_enc" in c):
        return None
    if stated:
        known(c, "dictionary_learning class", stated, _LEARNED)
        kind: str | None = _LEARNED[stated]
    elif "decoder_bias" in c:
        kind = "gated"
    else:
        kind = "batchtopk" if "group_sizes" in c else None if "k" in c else "relu"
    kind = c.kind or kind
    factor, steps = c.setting("norm_factor", "trainer.norm_factor"), c.setting("step")
    scale = 1 / float(factor) if factor and steps is not None else 1.0  # final files have it folded into the biases
    b_dec = c.tensor("b_dec", "bias", "decoder_bias")
    c.passed("decoder.bias", "group_sizes", "trainer", "config")
    if kind == "topk":
        c.passed("threshold")  # estimated in training, used by BatchTopK only
    weight, out = c.tensor("encoder.weight"), c.tensor("decoder.weight")
    gated = kind == "gated"
    return Found(
        "dictionary_learning",
        weight.T if weight is not None else c.need("W_enc"),
        c.need("mag_bias") if gated else c.tensor("encoder.bias", "b_enc"),
        b_dec,
        subtract=b_dec is not None and stated != "JumpReluAutoEncoder",
        kind=kind,
        decoder=out.T if out is not None else c.tensor("W_dec"),
        could_be=("topk", "batchtopk"),
        k=c.count("k", "trainer.k"),
        threshold=c.tensor("threshold") if kind in (None, "batchtopk", "jumprelu") else None,
        gate=c.need("gate_bias") if gated else None,
        magnitude=c.need("r_mag") if gated else None,
        scale=scale,
        notes=["the backup of a training run: activations are divided by its norm_factor"] if scale != 1 else [],
    )


def sparsify(c: Contents) -> Found | None:
    """EleutherAI's sparsify: cfg.json and sae.safetensors."""
    if "encoder.weight" not in c or "decoder.weight" in c or not ("W_dec" in c or c.has("expansion_factor")):
        return None
    known(c, "sparsify activation", c.setting("activation", default="topk"), ("topk",))
    if c.setting("signed"):
        raise InputError(f"{c.name}: sparsify's signed = true is not read: pass the model itself")
    crosses = bool(c.setting("transcode"))
    decoder = c.tensor("W_dec")
    c.passed("W_skip", "skip_connection", "multi_topk", "normalize_decoder")
    return Found(
        "sparsify",
        c.need("encoder.weight").T,
        c.tensor("encoder.bias"),
        c.tensor("b_dec"),
        subtract=not crosses,
        kind=c.kind or "topk",
        decoder=None if crosses else decoder,
        k=c.setting("k"),
        notes=[_CROSSES.format("the input of a module", "its output")] if crosses else [],
    )


_CROSSES = "a transcoder: its latents read {} and write {}; the target's layer must give the former"


def places(c: Contents, read: tuple[str, ...], written: tuple[str, ...]) -> list[str]:
    """Notes on the layer that it was trained on, and of a transcoder on the one that it writes."""
    source, output = c.setting(*read), c.setting(*written)
    notes = [f"it was trained on {source}"] if source else []
    if "transcoder" in str(c.setting("architecture", default="")):
        notes.append(_CROSSES.format(source or "one layer", output or "another"))
    return notes


def normalisation(c: Contents, default: str = "none") -> tuple[str, float | None]:
    """How activations were normalised (`autoencoders.NORMS`) and scaled, in SAELens' words; a scale of None is open."""
    norm = c.setting("normalize_activations", default=default)
    norm = {True: "expected_average_only_in", False: "none", "": "none"}.get(norm, norm)  # before SAELens 6.0
    if norm != "expected_average_only_in":
        c.passed("activation_scaler")
        return norm, 1.0
    return "none", c.setting("activation_scaler.scaling_factor")


def known(c: Contents, what: str, value: object, names: Collection[object]) -> None:
    """Refuse a value that is not read, by name."""
    if value not in names:
        hint = nearest(value, [str(name) for name in names])
        raise InputError(
            f"{c.name}: {what} {shown(value)} is not read{hint} (known: {', '.join(str(name) for name in names)}): "
            "pass the model itself"
        )
