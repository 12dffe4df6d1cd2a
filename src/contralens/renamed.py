"""Modules of 0.1 that have another name now: for one release their old names work, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TABLE = """
auditing.aligning:auditing.alignment auditing.concluding:auditing.conclusions
auditing.judging:auditing.concept_verdicts auditing.reading:auditing.encoder_checks
collecting.probing:collecting.probe_check data.adding:data.added_files data.anonymous:sharing.local_paths
data.candidates:proposing.candidates data.checking:data.checked_reading data.classes:data.class_columns
data.elsewhere:data.other_sources data.exchange:data.swap_folders data.files:data.atomic_files
data.final:data.final_labels data.folders:data.table_folders data.known:data.fingerprint_cache
data.label_files:sharing.label_files data.labeled:data.labeled_images data.layouts:data.table_layouts
data.locking:data.locks data.names:data.synonyms data.owned:data.folder_kinds data.prompts:proposing.prompts
data.replacing:data.replace_folder data.sealed:data.sealed_tensors data.sealing:data.seals data.sets:data.image_sets
data.sharing:sharing.push_pull data.splits:data.split_names data.tables:data.image_tables
evaluation.faithful:evaluation.faithfulness evaluation.judging:evaluation.judge_independence
evaluation.levels:evaluation.hypernyms evaluation.truth:evaluation.ground_truth
evaluation.tune:evaluation.gamma_tuning evidence:run_data.stored explorer.audited:explorer.audit_pages
labeling.arguments:labeling.check_settings labeling.cached:labeling.stored_exemplars
labeling.copies:labeling.near_copies labeling.probe:labeling.probe_set labeling.proposed:labeling.proposed_concepts
labeling.scored:labeling.scoring math.approximate:math.faiss_neighbours math.audit:math.exemplar_statistics
math.chance:math.null_test math.concepts:math.caption_concepts math.copies:math.near_copies
math.fakes:math.null_neurons math.kernels:math.fast_kernels math.panel:math.scorer_panel
math.placing:math.gpu_placing math.planting:math.planted_neurons math.reasons:math.confidence_reasons
math.sanity:math.metric_sanity math.signals:math.confidence_signals math.sources:math.activation_sources
models.arguments:loading.network_arguments models.autoencoders:saes.autoencoder models.channels:loading.channels
models.checkpoints:loading.checkpoints models.describing:fingerprint.describing models.encoder_base:encoders.base
models.encoders:encoders.registry models.fast:loading.fast_preprocessing models.hf_encoder:encoders.hf_encoder
models.hooked:models.hooked_layer models.identity:fingerprint.network models.layouts:models.token_layouts
models.loaded:loading.loaded models.loaders:loading.loaders models.loaders_hf:loading.loaders_hf
models.loaders_timm:loading.loaders_timm models.loaders_torchvision:loading.loaders_torchvision
models.matching:loading.matching models.offline_encoder:encoders.offline_encoder
models.open_clip_encoder:encoders.open_clip_encoder models.outputs:models.layer_outputs
models.own_code:loading.user_module models.painters:evaluation.painters models.pixel_heat:models.pixel_attribution
models.preprocessing:loading.preprocessing models.proposers:proposing.proposers
models.proposers_hf:proposing.hf_proposer models.proposers_openai:proposing.openai_proposer
models.repeating:models.determinism models.sae_contents:saes.contents models.sae_disk:saes.disk
models.sae_files:saes.reading models.sae_formats:saes.formats models.sae_trainers:saes.trainers
models.saes:models.sae_target models.scales:models.input_scale models.scaling:models.interventions
models.text_tower:encoders.text_tower models.together:models.shared_forward models.towers:loading.vision_towers
models.unpickling:loading.unpickling models.untrained:models.untrained_weights
models.weight_files:loading.weight_files models.where:models.activation_maps reopen:run_data.reopened
report.answers:data.answers report.origin:report.concept_origin report.plots:evaluation.plots
settings.on_run:settings.finished_run split:holdout world.bench:bench.world_bench world.cases:bench.cases
world.demo:bench.world_images world.training:bench.training
explorer.notes:data.notes layers:labeling.layers pipeline:labeling.label
"""
MOVED = dict(pair.split(":") for pair in _TABLE.split())
"""Old names to new ones, both within the package."""


class Renamed(MetaPathFinder, Loader):
    """Finds a module of an old name, after all others have looked for it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """A spec for an old name of ours; None for any other."""
        ours, _, old = name.partition(".")
        return ModuleSpec(name, self) if ours == "contralens" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that it has become in its place."""
        old = module.__name__
        new = f"contralens.{MOVED[old.partition('.')[2]]}"
        warnings.warn(f"{old} is {new} now; the old name works until 0.3", FutureWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Look for old names from now on.

    >>> install()
    >>> sum(isinstance(finder, Renamed) for finder in sys.meta_path)
    1
    """
    if not any(isinstance(finder, Renamed) for finder in sys.meta_path):
        sys.meta_path.append(Renamed())
