"""A run over sparse latents is evaluated like any other, and never through the whole matrix (I,N)."""

from __future__ import annotations

import pytest
import torch
from colour_case import COLOURS, ColourEncoder, colour_target, paint_folder
from safetensors.torch import save_file

from contralens import label
from contralens.data.store import Table
from contralens.evaluation import measuring
from contralens.evaluation.evaluate import evaluate
from contralens.math.activation_sources import SparseActivations
from contralens.math.null_neurons import fake_activations
from contralens.models.sae_target import sae

EVERYTHING = {
    "metrics": "simulation,cosy,fade,audit", "fdr": 0.05, "fakes": 60, "stability": 4, "meanings": True,
    "gamma": "neuron", "concepts": 2,
}  # fmt: skip


def made_sparse():
    latents = colour_target()
    latents.sparse, latents.fingerprint = True, "a" * 32
    return latents


@pytest.fixture(scope="module")
def evaluations(case, tmp_path_factory):
    """The same evaluation of a run kept dense and of one kept sparse, the second while no dense rows may be read."""
    root = tmp_path_factory.mktemp("sparse")
    labels = paint_folder(root / "labels", 64, 3, nested=True)
    found, read = {}, Table.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "BLOCK_BYTES", 40_000)  # several blocks of neurons
        for kind, network in (("dense", colour_target), ("sparse", made_sparse)):
            run = label(
                network(), case / "probe", ColourEncoder(), list(COLOURS), k=10, cache=root,
                scorers=["semanticlens", "lookalike", "csp"],
            )  # fmt: skip
            if kind == "sparse":
                patch.setattr(
                    Table, "rows", lambda self, some: pytest.fail("dense") if self.sparse else read(self, some)
                )
            for name, images in (("folder", labels), ("retrieved", None)):
                found[kind, name] = evaluate(
                    run, judge=ColourEncoder(1.5), heldout=case / "other", target=network(), encoder=ColourEncoder(),
                    source=case / "probe", cache=root, images=images, **EVERYTHING,
                )  # fmt: skip
    return found


@pytest.mark.parametrize("name", ["folder", "retrieved"])
def test_sparse_and_dense_runs_get_the_same_numbers(evaluations, name) -> None:
    dense, sparse = (evaluations[kind, name] for kind in ("dense", "sparse"))
    assert sparse.values.num_rows == dense.values.num_rows > 100
    for one, other in zip(sparse.values.to_pylist(), dense.values.to_pylist(), strict=True):
        assert one.pop("value") == pytest.approx(other.pop("value"), nan_ok=True), one
        assert one == other
    assert sparse.verdicts.to_pylist() == dense.verdicts.to_pylist()
    for key in ("sigmoid", "sanity", "gamma", "chance", "stability"):
        assert sparse.manifest[key] == dense.manifest[key], key


def test_fakes_of_sparse_latents_are_those_of_the_matrix() -> None:
    a = torch.rand(50, 7, generator=torch.Generator().manual_seed(1))
    a[a < 0.5] = 0
    for kind in ("permuted", "mixture"):
        found = fake_activations(SparseActivations.of(a), 9, seed=3, kind=kind, neurons=[1, 4, 6])
        assert torch.equal(found, fake_activations(a, 9, seed=3, kind=kind, neurons=[1, 4, 6]))


def test_faithfulness_of_latents_in_the_network(run, case, settings, tmp_path) -> None:
    """An autoencoder that copies each channel to a latent, in another order, is as faithful as the channels are."""
    order = torch.tensor([3, 0, 7, 5, 8, 1, 4, 2, 6])
    copies = {"W_enc": torch.eye(9)[:, order], "b_enc": torch.zeros(9), "W_dec": 2 * torch.eye(9)[order]}
    twice = {**copies, "W_enc": 0.5 * copies["W_enc"]}  # the decoder makes up for it
    save_file({name: tensor.contiguous() for name, tensor in twice.items()}, tmp_path / "sae.safetensors")
    latents = sae(colour_target(), tmp_path / "sae.safetensors", pooling="mean")
    made = label(
        latents, case / "probe", ColourEncoder(), list(COLOURS), k=10, cache=case / "cache", scorers=["semanticlens"]
    )
    asked = {"metrics": "faithfulness", "scorers": ["semanticlens"], "classes": COLOURS}
    plain = evaluate(run, **asked, **settings)
    found = evaluate(made, **asked, **{**settings, "target": latents})
    for metric in ("faithfulness", "ablation"):
        before, after = plain.value(metric, "semanticlens"), found.value(metric, "semanticlens")
        assert {int(order[n]): value for n, value in after.items()} == pytest.approx(before, abs=1e-5)
    assert min(found.value("ablation", "semanticlens").values()) > 0.3
