"""contralens: label the neurons of a vision network using contrastive examples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from contralens.renamed import install

__version__ = "0.2.0"

_WHERE = {
    "Atlas": "data.atlases",
    "Audit": "data.audits",
    "ClassContrast": "data.class_contrasts",
    "ConceptList": "auditing.concepts",
    "ContralensError": "errors",
    "Exemplars": "types",
    "ImageError": "errors",
    "InputError": "errors",
    "Matching": "data.matchings",
    "MissingPackage": "errors",
    "ModelUnavailable": "errors",
    "Run": "data.runs",
    "RunError": "errors",
    "SCORERS": "math.scorers",
    "StoreError": "errors",
    "Verification": "data.verifications",
    "add_maps": "maps",
    "atlas": "evaluation.atlas",
    "audit": "auditing.audit",
    "compare": "evaluation.compare",
    "concept_list": "auditing.concepts",
    "contrast_classes": "evaluation.class_contrast",
    "encoder": "encoders.registry",
    "evaluate": "evaluation.evaluate",
    "final": "data.final_labels",
    "find_exemplars": "math.exemplars",
    "find_exemplars_in_shards": "math.sharded_mining",
    "granularity": "evaluation.granularity",
    "images": "data.images",
    "label": "labeling.label",
    "label_confidence": "math.confidence",
    "label_file": "sharing.label_files",
    "label_layers": "labeling.layers",
    "label_shards": "labeling.shards",
    "labeled_images": "data.labeled_images",
    "load": "data.runs",
    "load_audit": "data.audits",
    "load_head": "data.new_heads",
    "load_verification": "data.verifications",
    "match": "evaluation.matching",
    "propose": "proposing.propose",
    "pruned": "auditing.pruning",
    "pull": "sharing.push_pull",
    "push": "sharing.push_pull",
    "read_labels": "sharing.label_files",
    "sae": "models.sae_target",
    "select_neurons": "math.statistics",
    "target": "models.targets",
    "targets": "models.targets",
    "verify": "verifying.verify",
}

__all__ = ["__version__", *_WHERE]
install()

if TYPE_CHECKING:
    from contralens.auditing.audit import audit as audit
    from contralens.auditing.concepts import ConceptList as ConceptList
    from contralens.auditing.concepts import concept_list as concept_list
    from contralens.auditing.pruning import pruned as pruned
    from contralens.data.atlases import Atlas as Atlas
    from contralens.data.audits import Audit as Audit
    from contralens.data.audits import load_audit as load_audit
    from contralens.data.class_contrasts import ClassContrast as ClassContrast
    from contralens.data.final_labels import final as final
    from contralens.data.images import images as images
    from contralens.data.labeled_images import labeled_images as labeled_images
    from contralens.data.matchings import Matching as Matching
    from contralens.data.new_heads import load_head as load_head
    from contralens.data.runs import Run as Run
    from contralens.data.runs import load as load
    from contralens.data.verifications import Verification as Verification
    from contralens.data.verifications import load_verification as load_verification
    from contralens.encoders.registry import encoder as encoder
    from contralens.errors import ContralensError as ContralensError
    from contralens.errors import ImageError as ImageError
    from contralens.errors import InputError as InputError
    from contralens.errors import MissingPackage as MissingPackage
    from contralens.errors import ModelUnavailable as ModelUnavailable
    from contralens.errors import RunError as RunError
    from contralens.errors import StoreError as StoreError
    from contralens.evaluation.atlas import atlas as atlas
    from contralens.evaluation.class_contrast import contrast_classes as contrast_classes
    from contralens.evaluation.compare import compare as compare
    from contralens.evaluation.evaluate import evaluate as evaluate
    from contralens.evaluation.granularity import granularity as granularity
    from contralens.evaluation.matching import match as match
    from contralens.labeling.label import label as label
    from contralens.labeling.layers import label_layers as label_layers
    from contralens.labeling.shards import label_shards as label_shards
    from contralens.maps import add_maps as add_maps
    from contralens.math.confidence import label_confidence as label_confidence
    from contralens.math.exemplars import find_exemplars as find_exemplars
    from contralens.math.scorers import SCORERS as SCORERS
    from contralens.math.sharded_mining import find_exemplars_in_shards as find_exemplars_in_shards
    from contralens.math.statistics import select_neurons as select_neurons
    from contralens.models.sae_target import sae as sae
    from contralens.models.targets import target as target
    from contralens.models.targets import targets as targets
    from contralens.proposing.propose import propose as propose
    from contralens.sharing.label_files import label_file as label_file
    from contralens.sharing.label_files import read_labels as read_labels
    from contralens.sharing.push_pull import pull as pull
    from contralens.sharing.push_pull import push as push
    from contralens.types import Exemplars as Exemplars
    from contralens.verifying.verify import verify as verify


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import contralens` loads no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'contralens' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"contralens.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
