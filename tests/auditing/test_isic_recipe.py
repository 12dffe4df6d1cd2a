"""The recipe for ISIC 2019 from end to end, on a small copy of that data set's layout and small real checkpoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from contralens import load
from contralens.auditing.pruning import groups_of
from contralens.data.audits import load_audit
from contralens.data.labeled_images import labeled_images
from contralens.errors import InputError
from contralens.evaluation.recipes import follow, lacking, read_recipe

open_clip = pytest.importorskip("open_clip")
from safetensors.torch import save_file  # noqa: E402

RECIPE = Path(__file__).parents[2] / "recipes" / "isic-melanoma.yaml"
COLUMNS = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
IMAGES = 120
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def lesion(rng: np.random.Generator, kind: int, ruler: bool) -> Image.Image:
    """Skin with a brown blot, and along one edge the marks of a ruler."""
    skin = np.clip(rng.normal((215, 165, 145), 10, 3), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.clip(rng.normal(skin, 6, (60, 80, 3)), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y, r = *rng.integers(25, 50, 2), rng.integers(8, 16)
    brown = tuple(int(v) for v in (140 - 12 * kind, 80 - 4 * kind, 40 + 9 * kind))
    draw.ellipse((x - r, y - r, x + r, y + r * rng.uniform(0.6, 1.0)), fill=brown)
    for at in range(0, 80, 5) if ruler else ():
        draw.line((at, 0, at, 7), fill=(20, 20, 20))
    return image


@pytest.fixture
def isic(tmp_path: Path) -> dict[str, Path]:
    """ISIC_2019_Training_Input, ..._GroundTruth.csv and ..._Metadata.csv, with 120 drawn pictures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "ISIC_2019_Training_Input"
    folder.mkdir()
    kinds = rng.integers(0, 8, IMAGES)
    names = [f"ISIC_{i:07d}" + ("_downsampled" if i % 7 == 0 else "") for i in range(IMAGES)]
    for name, kind in zip(names, kinds, strict=True):
        lesion(rng, kind, ruler=kind == 0 and rng.random() < 0.8).save(folder / f"{name}.jpg", quality=92)
    (folder / "ATTRIBUTION.txt").write_text("as in the real folder\n")
    truth, metadata = (tmp_path / f"ISIC_2019_Training_{what}.csv" for what in ("GroundTruth", "Metadata"))
    with truth.open("w", newline="") as file:
        rows = ((name, *(float(c == kind) for c in range(9))) for name, kind in zip(names, kinds, strict=True))
        csv.writer(file).writerows([("image", *COLUMNS), *rows])
    sites, sexes = ("anterior torso", "head/neck", "lower extremity", ""), ("female", "male", "")
    with metadata.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("image", "age_approx", "anatom_site_general", "lesion_id", "sex"))
        for i, name in enumerate(names):
            out.writerow((name, f"{5 * rng.integers(4, 17)}.0", sites[i % 4], f"BCN_{i // 2:07d}", sexes[i % 3]))
    return {"ISIC_2019": folder, "ISIC_TRUTH": truth, "ISIC_METADATA": metadata}


def classifier(path: Path) -> Path:
    """A training checkpoint as people have it: the state of a wrapped ResNet-18 with eight outputs, and the epoch."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    state = torchvision.models.resnet18(num_classes=8).state_dict()
    torch.save({"epoch": 12, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


def clip_folder(folder: Path, seed: int) -> str:
    """A small checkpoint in the layout of open_clip's models on the hub, which BiomedCLIP has, too."""
    folder.mkdir()
    (folder.parent / "tiny-isic.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder.parent / "tiny-isic.json")
    torch.manual_seed(seed)
    model = open_clip.create_model("tiny-isic")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"


@pytest.mark.slow
def test_the_recipe_runs_on_the_layout_of_isic_2019(
    isic: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: dict[str, Any] = read_recipe(RECIPE)
    given = {
        **isic, "ISIC_MODEL": "torchvision:resnet18", "ISIC_CHECKPOINT": classifier(tmp_path / "model.pth"),
        "ISIC_PREPROCESS": "resize=64x64,mean=imagenet", "ISIC_LAYER": "layer4",
    }  # fmt: skip
    assert set(given) == set(recipe["needs"]["environment"])
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert lacking(recipe) == [f"ISIC_2019 holds {IMAGES} images, 25000 are needed: "
                               + recipe["needs"]["environment"]["ISIC_2019"]]  # fmt: skip
    with pytest.raises(InputError, match="25000 are needed"):
        follow(recipe, tmp_path / "out")

    # All of it as it stands, but for the size of the set and the two encoders, which cannot be had here.
    recipe["needs"]["images"]["ISIC_2019"] = IMAGES
    steps = recipe["runs"]["isic"]
    steps["label"]["encoder"] = clip_folder(tmp_path / "encoder", 0)
    steps["evaluate"]["judge"] = clip_folder(tmp_path / "judge", 1)
    assert follow(recipe, tmp_path / "out", cache=tmp_path / "cache") == []

    run = load(tmp_path / "out" / "isic")
    assert run.manifest["images"]["given"] == IMAGES
    assert run.manifest["vocabulary"]["concepts"] == 28
    assert run.scorers == ["semanticlens", "clip_dissect", "csp:gamma=0.5", "csp"]
    assert (run.path / "evaluation" / "summary.parquet").is_file()

    found = load_audit(run.path)
    heldout = len(run.manifest["images"]["holdout"]["fingerprints"])
    assert 12 < heldout < 36
    assert found.manifest["labeled"]["images"] == heldout
    assert found.manifest["labeled"]["probe_images"] == 0
    assert found.manifest["influence"]["classes"] == list(COLUMNS[:8])
    assert found.manifest["agreement"]["head, ablation"]["correlation"] > 0.999
    assert sum(found.counts.values()) == found.neurons.num_rows == 512
    assert any("cannot separate" in line for line in found.warnings), "a random encoder is found out"
    assert found.counts["spurious"] == int((found.mask == 0).sum()) == 0, "and gives no verdict"
    read = labeled_images(str(isic["ISIC_2019"]), isic["ISIC_TRUTH"]).with_groups(isic["ISIC_METADATA"])
    groups = set(groups_of(read))
    assert {"all", "sex=female", "sex=male", "anatom_site_general=head/neck"} <= groups
