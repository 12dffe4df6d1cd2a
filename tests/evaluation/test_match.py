"""Runs matched neuron by neuron: a permuted copy, a network with a planted concept, other images, other layers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import contralens
from contralens.bench.altered import permuted, retrained
from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.data.matchings import STATUSES
from contralens.errors import InputError
from contralens.world.encoder import preprocess

PLANTED = 8


def with_dim_light():
    return retrained(1, "lighting", "dim", PLANTED)


@pytest.fixture(scope="module")
def labeled(world_run):
    """A function that labels a network, or a layer of world 1, on the images of the shared run, or on others."""
    root = world_run.path.parent

    def run(net, images="w", layer="block3", **more):
        if not isinstance(net, str):
            net = contralens.target(net, layer=layer, preprocess=preprocess)
        else:
            more["layer"] = layer
        return contralens.label(
            net, root / images / "images", "world", root / "w" / "vocabulary.txt", k=8,
            scorers=["csp"], cache=root / "cache", confidence=False, **more,
        )  # fmt: skip

    return run, root / "cache"


def test_a_permuted_copy_is_matched_whole(world_run, labeled) -> None:
    label, cache = labeled
    order = torch.randperm(64, generator=torch.Generator().manual_seed(4))
    copy = label(permuted(1, order.tolist()))
    for way in ({}, {"null": "permuted"}, {"by": "exemplars"}):
        found = contralens.match(world_run, copy, cache=cache, fakes=200, **way)
        alive = found.manifest["one"]["compared"]
        assert found.counts == {**dict.fromkeys(STATUSES, 0), "kept": alive}, way
        assert {int(order[other]): one for one, other in found.partners.items()} == {n: n for n in found.partners}
    assert found.partner_of(int(order[3])) == 3
    assert {row["status"] for row in found.rows()} == {"kept"}
    with pytest.raises(InputError, match="did you mean renamed"):
        found.rows("renam")


def test_a_planted_concept_shows_as_new_neurons(world_run, labeled) -> None:
    label, cache = labeled
    found = contralens.match(world_run, label(with_dim_light()), cache=cache, fakes=200)
    new = found.rows("new")
    assert {row["other"] for row in new} >= set(range(PLANTED - 1))
    assert all(row["one"] is None for row in new)
    kept = set(range(PLANTED, 64))
    assert {n: other for n, other in found.partners.items() if n in kept and other in kept}.items() >= {
        (n, n) for n in kept if n in found.partners and found.partners[n] == n
    }
    assert found.counts["kept"] >= 54
    assert "dim light" in found.manifest["labels_new"]
    assert sum(row["other_label"] in ("dim light", "bright light") for row in new) >= 4
    lost = found.rows("merged") + found.rows("gone")
    assert {row["one"] for row in lost} == set(range(PLANTED))
    for row in found.rows("merged"):
        assert row["correlation"] >= found.manifest["threshold"] - 1e-6
    best = [row for row in found.best.to_pylist() if row["run"] == "other"]
    assert len(best) == found.manifest["other"]["compared"]
    assert sum(row["matches"] for row in best) == 64 - len(new)
    assert len(repr(found)) < 250


def test_other_images_are_matched_by_exemplars(world_run, labeled) -> None:
    label, cache = labeled
    write_world(world_run.path.parent / "others", 1, 120, seed=6)
    other = label("world:1", "others")
    found = contralens.match(world_run, other, cache=cache, fakes=200)
    assert (found.manifest["by"], found.manifest["images"]) == ("exemplars", 0)
    assert "share 0 images" in found.manifest["notes"][0]
    right = np.mean([one == two for one, two in found.partners.items()])
    assert right > 0.3, "chance is 1 in 64; neurons of one meaning are mistaken for each other"
    with pytest.raises(InputError, match="share 0 images"):
        contralens.match(world_run, other, cache=cache, by="activations")


def test_layers_are_matched_and_the_command_says_so(world_run, labeled) -> None:
    label, cache = labeled
    root = world_run.path.parent
    label("world:1", layer="block2", out=root / "earlier")
    asked = ["match", str(root / "earlier"), str(world_run.path), "--cache", str(cache), "--fakes", "100"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "block2 (" in shown.output
    assert "a neuron of the other run without a match in the one" in shown.output
    told = json.loads(CliRunner().invoke(app, [*asked, "--json", "--null", "permuted"]).output)
    assert told["counts"]["new"] == 0, "everything is related to something"
    assert {row["status"] for row in told["pairs"]} <= set(STATUSES)
    pairs = contralens.compare([root / "earlier", world_run], cache=cache)
    (how,) = pairs.to_dict()["matchings"].values()
    changes = pairs.changes.to_pylist()
    assert len(changes) == sum(how["counts"][word] for word in ("kept", "renamed", "unlabeled")) > 5
    assert all(row["name"].startswith("block2/") and row["other_name"].startswith("block3/") for row in changes)
    assert min(row["correlation"] for row in changes) >= how["threshold"] - 1e-6
    assert contralens.compare([root / "earlier", world_run], cache=cache, match=False).changes.num_rows == 0
    elsewhere = contralens.compare([root / "earlier", world_run], cache=root / "none")
    assert elsewhere.changes.num_rows == 0
    assert "the cache is missing numbers of" in " ".join(elsewhere.notes)
    assert CliRunner().invoke(app, ["compare", *asked[1:5]]).output.count("neurons matched by activations") == 1
