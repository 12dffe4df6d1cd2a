"""Vision towers of vision-language models: found, loaded without the rest, and heard as the tower itself computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.errors import InputError
from contralens.models.activation_maps import maps
from contralens.models.targets import layers, target

T = pytest.importorskip("transformers")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**TINY, "num_hidden_layers": 3, "vocab_size": 64, "num_key_value_heads": 2}
SEES = {**TINY, "image_size": 32, "patch_size": 8}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
QWEN = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8}
QWEN_MORE = {**QWEN, "intermediate_size": 48, "out_hidden_size": 32}
SQUARE = {"height": 32, "width": 32}

MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str, str]] = {
    "llava": (
        lambda: T.LlavaConfig(vision_config=T.CLIPVisionConfig(**SEES), text_config=T.LlamaConfig(**TEXT)),
        lambda: T.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        "vision_tower", "encoder.layers.1",
    ),
    "qwen2vl": (
        lambda: T.Qwen2VLConfig(vision_config={**QWEN, "embed_dim": 32}, text_config={**TEXT, "rope_scaling": ROPE}),
        lambda: T.Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64),
        "visual", "blocks.1",
    ),
    "qwen25vl": (
        lambda: T.Qwen2_5_VLConfig(
            vision_config={**QWEN_MORE, "window_size": 32, "fullatt_block_indexes": [1]},
            text_config={**TEXT, "rope_scaling": ROPE},
        ),
        lambda: T.Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64),
        "visual", "blocks.0",
    ),
    "gemma3": (
        lambda: T.Gemma3Config(
            vision_config=T.SiglipVisionConfig(**SEES), text_config=T.Gemma3TextConfig(**TEXT, head_dim=16),
            mm_tokens_per_image=4,
        ),
        lambda: T.Gemma3ImageProcessor(size=SQUARE),
        "vision_tower", "encoder.layers.1.mlp.fc1",
    ),
    "smolvlm": (
        lambda: T.SmolVLMConfig(
            vision_config=SEES, text_config=T.LlamaConfig(**TEXT, pad_token_id=0), scale_factor=2
        ),
        lambda: T.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        "vision_model", "encoder.layers.1",
    ),
    "internvl": (
        lambda: T.InternVLConfig(
            vision_config=T.InternVLVisionConfig(**{**SEES, "image_size": [32, 32], "patch_size": [8, 8]}),
            text_config=T.Qwen2Config(**TEXT),
        ),
        lambda: T.GotOcr2ImageProcessor(size=SQUARE),
        "vision_tower", "encoder.layer.1",
    ),
    "pixtral": (
        lambda: T.LlavaConfig(vision_config=T.PixtralVisionConfig(**SEES), text_config=T.MistralConfig(**TEXT)),
        lambda: T.PixtralImageProcessor(patch_size=8, size={"longest_edge": 32}),
        "vision_tower", "transformer.layers.0",
    ),
}  # fmt: skip


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((90, 70), (64, 64), (40, 120))
    ]


def heard(tower: nn.Module, layer: str, arguments: dict[str, Tensor]) -> Tensor:
    """What a layer of the tower gives in a forward of one image, (L,N)."""
    kept: list[Any] = []
    handle = tower.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.no_grad():
        tower(**arguments)
    handle.remove()
    out = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return out[0] if out.dim() == 3 else out  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
def test_the_tower_is_found_and_heard(name: str, tmp_path: Path) -> None:
    config, processor, tower_name, layer = MODELS[name]
    torch.manual_seed(0)
    net = T.AutoModelForImageTextToText.from_config(config()).eval()
    net.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    rows = {row.name: row for row in layers(f"hf:{tmp_path}")}
    assert rows[layer].neurons is not None
    assert not any("language" in row for row in rows)
    t = target(f"hf:{tmp_path}", layer, pooling="mean_patches")
    assert any(f"the image tower ({tower_name}) of a" in note for note in t.notes)
    assert not any("random" in note for note in t.notes), "all of the tower's weights are in the source"
    made = [t.preprocess(image) for image in pictures()]
    found = t(default_collate(made))
    own = net.model.get_submodule(tower_name)
    for row, one in zip(found, made, strict=True):
        if "image_grid_thw" in one:
            arguments = {"hidden_states": one["pixel_values"], "grid_thw": one["image_grid_thw"][None]}
        else:
            arguments = {"pixel_values": one["pixel_values"][None]}
        assert torch.allclose(row, heard(own, layer, arguments)[t.prefix_tokens :].mean(0), atol=1e-4)
    if name.startswith("qwen"):  # patches are grouped by two and two, or by windows
        assert maps(t, pictures(), [[0]] * 3) is None
    random = target(f"hf:{tmp_path}", layer, weights="random", pooling="mean_patches")
    assert random.width == t.width
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, tmp_path / "a.pth")
    own_weights = target(f"hf:{tmp_path}", layer, checkpoint=tmp_path / "a.pth", pooling="mean_patches")
    assert torch.allclose(own_weights(default_collate(made)), found, atol=1e-5)


def test_names_that_earlier_versions_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = T.ViTForImageClassification(T.ViTConfig(**SEES, num_labels=3)).eval()
    net.save_pretrained(tmp_path)
    T.ViTImageProcessor(size=SQUARE).save_pretrained(tmp_path)
    renamed = [("vit.layers.", "vit.encoder.layer."), (".attention.q_proj", ".attention.attention.query"),
               (".attention.k_proj", ".attention.attention.key"), (".attention.v_proj", ".attention.attention.value"),
               (".attention.o_proj", ".attention.output.dense"), (".mlp.fc1", ".intermediate.dense"),
               (".mlp.fc2", ".output.dense")]  # fmt: skip
    old = {}
    for key, value in net.state_dict().items():
        for new, before in renamed:
            key = key.replace(new, before)
        old[f"module.{key}"] = value + 0.01
    torch.save(old, tmp_path / "old.pth")
    name = next(n for n, _ in net.named_modules() if n.endswith(".1"))
    t = target(f"hf:{tmp_path}", name, checkpoint=tmp_path / "old.pth")
    state = t.module.state_dict()
    assert all(torch.equal(state[key], value + 0.01) for key, value in net.state_dict().items())


def test_folders_of_hubs_and_of_other_libraries(tmp_path: Path) -> None:
    hub = tmp_path / "models--me--vit"
    snapshot = hub / "snapshots" / "abc"
    T.ViTModel(T.ViTConfig(**SEES)).save_pretrained(snapshot)
    T.ViTImageProcessor(size=SQUARE).save_pretrained(snapshot)
    assert len(layers(f"hf:{hub}")) > 10
    assert {row.shape for row in layers(f"hf:{hub}?image_size=48", preprocess="resize=48x48,mean=half")} > {(37, 32)}
    with pytest.raises(InputError, match=r"the configuration has no 'image_sise'; did you mean image_size"):
        layers(f"hf:{hub}?image_sise=48")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 3}')
    with pytest.raises(InputError, match="was written by timm: give it as timm:local-dir:"):
        layers(f"hf:{tmp_path}")
