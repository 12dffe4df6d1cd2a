"""Networks whose rows are not a function of the image are refused or noted; all others are left in peace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from torch import Tensor, nn
from torch.nn import functional as F

import contralens
from contralens.errors import InputError
from contralens.models.determinism import noise, why_not_repeatable

PP = "resize=32x32,mean=half"


class After(nn.Module):
    """A convolution, and what is done to its maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 8, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) * (1 + self.calls / 100)


class Routed(nn.Module):
    """Tokens go to the expert that they point to: a choice that rounding may tip over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.route = nn.Conv2d(3, 64, 4, 4), nn.Linear(64, 4)
        self.experts = nn.Parameter(torch.randn(4, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).mT
        return torch.einsum("btd,btde->bte", tokens, self.experts[self.route(tokens).argmax(-1)])


def masked(x: Tensor) -> Tensor:
    return x * (torch.rand(len(x), 1, *x.shape[2:]) > 0.5)


def in_bfloat16(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(4):
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)).relu(), torch.ones(8, 8, 3, 3) / 24) - x
    return x


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (After(masked), "random masking"),
        (After(lambda x: F.dropout(x, 0.01, True)), "dropout"),
        (After(lambda x: x + 1e-3 * torch.randn_like(x)), "noise"),
        (Counts(), "counter"),
        (After(lambda x: x - x.mean(0)), "batch"),
        (After(lambda x: x / x.abs().amax()), "batch"),
        (After(lambda x: x + 0.05 * x.flip(0)), "batch"),
        (After(nn.BatchNorm2d(8, track_running_stats=False)), "batch"),
    ],
)
def test_rows_that_are_no_function_of_the_image_are_refused(network: nn.Module, says: str) -> None:
    with pytest.raises(InputError, match=says) as e:
        contralens.target(network, ".", preprocess=PP)
    assert "--allow-nondeterministic" in str(e.value)
    assert "\n" not in str(e.value)
    made = contralens.target(network, ".", preprocess=PP, allow_nondeterministic=True)
    assert not made.repeatable
    assert any(says in note and "may differ from run to run" in note for note in made.notes)
    assert made.origin["options"]["allow_nondeterministic"] is True


@pytest.mark.parametrize(
    "network",
    [
        After(nn.BatchNorm2d(8)),
        After(nn.Dropout(0.5)),
        After(in_bfloat16),
        After(lambda x: x.bfloat16().softmax(1)),
        After(lambda x: x * 0),
        After(lambda x: x * 1e-3 + 100),  # what tells images apart is little beside what they share
        Routed(),
        Routed().bfloat16(),
    ],
)
def test_rounding_is_no_reason(network: nn.Module) -> None:
    def preprocess(image: Any) -> Tensor:
        return to_pixels(image).to(next(iter(network.parameters()), torch.zeros(1)).dtype)

    for dtype in ("float32", "bf16"):
        made = contralens.target(network, ".", preprocess=preprocess, dtype=dtype)
        assert made.repeatable
        assert not made.notes or "function of the image" not in str(made.notes)


def test_random_preprocessing_is_told_apart() -> None:
    def crop(image: Any) -> Tensor:
        left = int(torch.randint(0, 16, (1,)))
        return to_pixels(image.crop((left, 0, left + 16, 16)))

    assert "preprocessing" in str(why_not_repeatable(noise(2), crop, lambda x: [x.mean((2, 3))]))


def test_what_takes_no_single_image_is_not_blamed() -> None:
    def rows(batch: Tensor) -> list[Tensor]:
        if len(batch) == 1:
            raise ValueError("two at least")
        return [batch.mean((2, 3))]

    assert why_not_repeatable(noise(2), to_pixels, rows) is None


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = ColourNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net.relu(self.net.conv(x)) + 0.01 * torch.rand(len(x), 6, 1, 1)


def test_a_run_that_allows_it_says_so_everywhere(discs: Path, tmp_path: Path) -> None:
    from contralens.report.html import write_report

    def run(network: nn.Module, eyes: Any = None, **options: Any) -> Any:
        return contralens.label(
            network, discs, eyes or ColourEncoder(), list(COLOURS), layer=".", preprocess=to_pixels, k=3,
            cache=tmp_path / "cache", holdout=0.3, **options,
        )  # fmt: skip

    with pytest.raises(InputError, match="the second time"):
        run(Noisy())
    with pytest.raises(InputError, match="set `store_activations=True`"):
        run(Noisy(), allow_nondeterministic=True, store_activations=False)
    made = run(Noisy(), allow_nondeterministic=True, out=tmp_path / "run")
    said = "the same images gave other rows the second time"
    assert any(said in note for note in made.manifest["target"]["notes"])
    assert made.manifest["allow_nondeterministic"] is True
    assert run(ColourNet()).manifest["allow_nondeterministic"] is False
    assert said in write_report(made).read_text()
    for package in ("fastapi", "duckdb"):
        pytest.importorskip(package, reason="needs the extra explore")
    from contralens.explorer import pages
    from contralens.explorer.runs import OpenRun

    assert any(said in remark for remark in pages.info(OpenRun("run", tmp_path / "run"), 0)["remarks"])
    found = contralens.evaluate(
        made, metrics="simulation", judge=ColourEncoder(), same_judge=True, encoder=ColourEncoder(),
        target=contralens.target(Noisy(), ".", preprocess=to_pixels, allow_nondeterministic=True),
        cache=tmp_path / "another", source=discs, save=False,
    )  # fmt: skip
    assert found.summary.num_rows


def test_an_encoder_of_ones_own_is_looked_at(discs: Path, tmp_path: Path) -> None:
    class Dropping(ColourEncoder):
        fingerprint = "d0" * 16

        def __call__(self, batch: Tensor) -> Tensor:
            return F.normalize(F.dropout(super().__call__(batch), 0.3, True) + 1e-3, dim=1)

    def run(**options: Any) -> Any:
        return contralens.label(
            ColourNet(), discs, Dropping(), list(COLOURS), layer="relu", preprocess=to_pixels, k=3, cache=tmp_path,
            **options,
        )  # fmt: skip

    torch.manual_seed(0)  # of so few numbers, two draws may drop the same
    with pytest.raises(InputError, match="colours: the same images gave other rows"):
        run()
    assert any(
        "colours" in note and "run to run" in note for note in run(allow_nondeterministic=True).manifest["notes"]
    )


def test_the_command_line_has_the_switch(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torchvision import transforms as T\n"
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.c = torch.nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x): return torch.nn.functional.dropout(self.c(x), 0.5, True)\n"
        "def build(): return Net(), T.Compose([T.Resize((16, 16)), T.ToTensor()])\n"
    )
    words = ["collect", "--target", f"module:{tmp_path / 'mine.py'}:build"]
    words += ["--layer", ".", "--encoder", "world", "--images", str(discs)]
    refused = processes.run(processes.command, *words)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--allow-nondeterministic" in refused.stderr
    allowed = processes.run(processes.command, *words, "--allow-nondeterministic")
    assert allowed.returncode == 0, allowed.stderr


def test_noise_is_the_same_everywhere() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(noise(3), noise(3), strict=True))
    assert noise(1, (20, 10))[0].size == (20, 10)
