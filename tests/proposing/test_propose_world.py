"""The caption bank on the ground-truth world of the demo: contrast names what was planted, positives alone what comes
with it."""

from __future__ import annotations

import pytest

from contralens.proposing.propose import propose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from contralens import label
    from contralens.bench.world_images import write_world
    from contralens.world.captions import captions
    from contralens.world.encoder import load_encoder
    from contralens.world.planted import PlantedTarget
    from contralens.world.scenes import sample_scenes

    folder = tmp_path_factory.mktemp("world")
    scenes, pictures = write_world(folder, 1, 1000)
    target = PlantedTarget(1, scenes, pictures)
    run = label(
        target, folder / "images", load_encoder(), folder / "vocabulary.txt", scorers="csp", out=folder / "run",
        cache=folder / "cache",
    )  # fmt: skip
    (folder / "captions.txt").write_text("\n".join(captions(sample_scenes(2000, 4242), 7)) + "\n")
    return folder, run, target.truth


def test_contrast_names_the_planted_level_more_often(planted) -> None:  # type: ignore[no-untyped-def]
    from contralens.bench.world_images import score_labels
    from contralens.world.encoder import load_encoder

    folder, run, truth = planted
    right = {}
    for prompt in ("positives", "contrastive"):
        found = propose(
            run, f"captions:{folder}/captions.txt", prompt=prompt, encoder=load_encoder(), cache=folder / "cache",
            folder=folder / prompt,
        )  # fmt: skip
        first = [(found.of(n) or [None])[0] for n in range(len(truth))]
        right[prompt] = score_labels(first, truth)
    assert right["contrastive"].mean() > right["positives"].mean() + 0.1
    assert right["contrastive"].mean() > 0.55
