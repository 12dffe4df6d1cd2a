"""Every entry of every registry: a line in the docs, a line of its own, and a test that does not look at our code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from plugged import registries

from contralens.plugs import Registry

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
PAGES = {
    "scorers": "methods/index.md", "encoders": "howto/names.md", "targets": "howto/names.md", "proposers": "propose.md",
    "painters": "evaluation.md", "editors": "verify.md", "metrics": "evaluation.md",
    "vocabularies": "howto/vocabulary.md",
}  # fmt: skip
"""The page that lists a kind."""
_METRICS = "math_metrics/test_metrics.py"
_EXEMPLARS = "math_metrics/test_exemplar_statistics.py"
_SCORERS = "math/test_scorers.py::test_agrees_with_the_slow_copy"
_ENCODERS = "encoders/test_encoders"
_TARGETS = "models/test_targets_models.py"
_WORDS = "data/test_vocabulary.py"
REFERENCES = {
    "scorers": {
        **dict.fromkeys(
            ["semanticlens", "csp", "clip_dissect", "clip_dissect_csp", "centred", "mean_difference"], _SCORERS
        ),
        "lookalike": "math/test_lookalike.py::test_agrees_with_the_slow_copy",
        "describe_and_dissect": "math/test_describe_and_dissect.py::test_agrees_with_the_slow_copy",
        "discover_then_name": "saes/test_discover_then_name.py::test_labels_are_those_of_a_direct_copy",
        "invert": "math/test_invert.py::test_agrees_with_the_slow_copy",
        "linear": "math/test_linear_explanations.py::test_agrees_with_the_slow_copy",
    },
    "metrics": {
        **dict.fromkeys(
            ["auc", "mad", "dma", "max_ratio", "clarity"], f"{_METRICS}::test_cosy_metrics_equal_slow_copies"
        ),
        **dict.fromkeys(["pearson", "cosine"], f"{_METRICS}::test_correlation_and_cosine_equal_scipy"),
        "pearson_sigmoid": f"{_METRICS}::test_simulation_is_scipys_sigmoid_and_handles_several_concepts",
        **dict.fromkeys(
            ["auprc", "f1", "iou", "responsiveness", "purity"], f"{_METRICS}::test_yes_or_no_metrics_equal_scikit_learn"
        ),
        "faithfulness": f"{_METRICS}::test_gained_share",
        "ablation": "evaluation/test_evaluate.py::test_faithfulness_in_the_network",
        "depth": "evaluation/test_evaluate.py::test_levels_of_labels_in_wordnet",
        "exemplar_clarity": f"{_EXEMPLARS}::test_clarity_is_the_mean_off_diagonal_cosine",
        "redundancy": f"{_EXEMPLARS}::test_redundancy_is_the_largest_cosine_with_another_neuron",
        "polysemanticity": f"{_EXEMPLARS}::test_polysemanticity_of_planted_pairs_equals_scikit_learns_centres",
    },
    "encoders": {
        "open_clip": f"{_ENCODERS}_open_clip.py::test_a_local_folder_is_the_model_itself",
        "hf": f"{_ENCODERS}_hf.py::test_clip",
        "siglip": f"{_ENCODERS}_hf.py::test_siglip_images",
        "world": f"{_ENCODERS}.py::test_the_world_encoder",
        "offline": f"{_ENCODERS}_offline.py::test_conse_is_the_formula",
    },
    "targets": {
        "torchvision": f"{_TARGETS}::test_torchvision_resnet",
        "timm": f"{_TARGETS}::test_timm",
        "hf": f"{_TARGETS}::test_transformers_dinov2",
        "module": f"{_TARGETS}::test_own_code_by_file_and_by_name",
        "world": f"{_TARGETS}::test_a_world_brings_its_layer_and_classes",
        "offline": f"{_ENCODERS}_offline.py::test_the_target_knows_imagenet",
    },
    "proposers": {
        "hf": "proposing/test_models.py::test_a_run_with_a_local_model",
        "openai": "proposing/test_models.py::test_transformers_serve_over_real_http",
        "captions": "proposing/test_captions.py::test_phrase_scores_match_a_slow_copy",
    },
    "painters": {"diffusers": "evaluation/test_painters.py::test_an_image_depends_on_prompt_and_seed_alone"},
    "editors": {
        "diffusers": "test_verify_diffusers.py::test_a_pipeline_of_each_kind",
        "inside": "test_steering.py::test_labels_that_steering_verifies_are_right_more_often",
        "retrieve": "test_verify.py::test_editors_without_a_generator",
        "swap": "test_verify.py::test_editors_without_a_generator",
        "world": "test_verify.py::test_the_exact_editor_changes_one_factor",
    },
    "vocabularies": {
        **dict.fromkeys(["imagenet", "coco", "colours", "textures", "dermoscopy"], f"{_WORDS}::test_built_in"),
        "world": f"{_WORDS}::test_built_in_world",
    },
}  # fmt: skip
"""Kind -> name -> the test against a slow copy of the paper, another library, or known truth."""


@pytest.mark.parametrize("kind", PAGES)
def test_every_entry_is_documented_and_tested(kind: str) -> None:
    registry: Registry[object] = registries()[kind]
    page = (DOCS / PAGES[kind]).read_text(encoding="utf-8")
    assert set(REFERENCES[kind]) == set(registry.built_in), "an entry without a test, or a test without an entry"
    for name in registry.built_in:
        assert re.search(rf"[` ]{re.escape(name)}[`:/]", page), f"{PAGES[kind]} does not list {name}"
        about = registry.about(name)
        assert len(about.split()) >= 3, f"{kind}: {name} says nothing of itself"
        assert "\n" not in about
        assert about != name
        file, _, test = REFERENCES[kind][name].partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in names, f"{file} has no {test}"


def test_every_kind_has_one_registry_and_one_group() -> None:
    assert set(registries()) == set(PAGES)
    assert all(isinstance(r, Registry) and r.kind == kind for kind, r in registries().items())
