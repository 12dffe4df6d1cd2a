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
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from make_constraints import needed, required
from patience import HUNG

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "contralens"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

HEAVY = {"torch", "numpy", "PIL", "pyarrow", "rich", "yaml", "duckdb", "fastapi", "transformers", "huggingface_hub"}


def loaded(code: str, *args: str) -> set[str]:
    """Which heavy packages a new process has imported after `code`; warnings are errors."""
    code += "\nprint('\\n', *{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-W", "error", "-c", "import sys\n" + code, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def test_the_import_is_clean_and_light() -> None:
    assert loaded("import contralens; dir(contralens); contralens.__version__") == set()
    assert loaded("import contralens; contralens.target") >= {"torch"}, "this test can fail"


@pytest.mark.parametrize("command", [[], ["label"], ["evaluate"], ["explore"], ["bench", "world"]])
def test_help_is_light(command: list[str]) -> None:
    """People wait for it; it takes under .2 CPU seconds, nearly all of it typer's."""
    code = "from contralens.cli import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code"
    assert loaded(code, *command, "--help") == set()


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
    for want in map(Requirement, required()):
        name = canonicalize_name(want.name)
        if name != "contralens":
            assert name in pinned, f"{name}: run make constraints"
            assert want.specifier.contains(pinned[name], prereleases=True), (str(want), pinned[name])


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive, built here as `python -m build` does: the wheel from the source archive."""
    pytest.importorskip("build", reason="needs the extra test")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(archives: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(archives[0]).namelist() if "dist-info" not in name}
    code = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    lists = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.glob("auditing/lists/*.yaml")}
    assert {name for name in names if not name.endswith(".py")} == {
        "contralens/py.typed",
        "contralens/sharing/schemas/labels-1.schema.json",
        *(f"contralens/explorer/static/{name}" for name in ("explorer.css", "explorer.js", "icon.svg", "index.html")),
        "contralens/math/confidence.json",
        *(
            f"contralens/pages/{path.name}"
            for kind in ("html", "css", "js")
            for path in PACKAGE.glob(f"pages/*.{kind}")
        ),
        "contralens/world/README.md",
        "contralens/world/version_2.json",
        *(
            f"contralens/world/weights/{name}.{kind}"
            for name in ("encoder", "encoder-2")
            for kind in ("json", "safetensors")
        ),
        *(f"contralens/world/weights/target-{i}.{kind}" for i in (1, 2, 3) for kind in ("json", "safetensors")),
        *lists,
    }
    assert archives[0].stat().st_size < 6_000_000


@pytest.mark.slow
def test_the_source_archive_holds_what_builds_and_tests_it(archives: tuple[Path, Path]) -> None:
    names = [name.partition("/")[2] for name in tarfile.open(archives[1]).getnames()]
    assert {name.partition("/")[0] for name in names} == {
        "src", "tests", "benchmarks", "scripts", "docs", "examples", "recipes", "explorer-ui", "mkdocs.yml", "Makefile",
        "constraints.txt", "conftest.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "pyproject.toml",
        "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert not [name for name in names if re.search(r"node_modules|__pycache__|\.pyc$|/\.venv|\.parquet$", name)]
    assert archives[1].stat().st_size < 8_000_000


def environment(wheel: Path, home: Path, lent: Path) -> Path:
    """The Python of a new environment with the wheel in it. Its dependencies lie in `lent`, named by a path file, since
    installing torch takes minutes; contralens itself is the wheel's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    site = next((home / "venv" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "lent.pth").write_text(f"{lent}\n")
    return home / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def everything(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and every package that is here."""
    home = tmp_path_factory.mktemp("everything")
    return environment(archives[0], home, Path(sysconfig.get_paths()["purelib"]))


@pytest.fixture(scope="module")
def core(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as `pip install contralens` makes it: the wheel, and of the packages here those that it requires."""
    home = tmp_path_factory.mktemp("core")
    (home / "lent").mkdir()
    for package in needed(PROJECT["dependencies"]):
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            link = home / "lent" / top
            if not link.is_symlink():
                link.symlink_to(str(package.locate_file(top)))
    return environment(archives[0], home, home / "lent")


def told(command: Sequence[str | Path], folder: Path, code: int = 0) -> str:
    """What a command prints that runs in `folder`, without the checkout."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean(folder))
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout if code == 0 else done.stderr


def clean(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    return {**kept, "CONTRALENS_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1", "HOME": str(home)}


@pytest.fixture(scope="module")
def demo(core: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `contralens demo` ran."""
    home = tmp_path_factory.mktemp("demo")
    where = told([core, "-c", "import contralens; print(contralens.__file__)"], home).strip()
    assert Path(where).is_relative_to(core.parents[1]), where
    command = ["-m", "contralens", "demo", "--world", "1", "--images", "250", "--out", "demo", "--json"]
    said = json.loads(told([core, *command], home))
    assert {row["scorer"] for row in said["results"]} >= {"semanticlens", "csp"}
    assert (home / said["reports"][0]).stat().st_size > 100_000
    return home


@pytest.mark.slow
def test_the_readmes_example_works_from_the_wheel(core: Path, demo: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "resnet50" in block)
    for ours, here in {  # no weights from a hub here: an untrained network, the world's encoder and pictures
        "import contralens": "import contralens, torch; torch.manual_seed(0)",
        "resnet50(weights=weights)": "resnet50(weights=None)",
        "open_clip:ViT-B-32/datacomp_xl_s13b_b90k": "world",
        "path/to/images": "demo/world-1/images",
        '"imagenet"': '"world"',
        'out="run"': 'out="run", limit=60, k=8, neurons=range(40)',
    }.items():
        assert ours in code, ours
        code = code.replace(ours, here)
    assert "positive" in told([core, "-c", code], demo)


MISSING = """
import json, sys, torch
import contralens
from contralens.errors import MissingPackage
from contralens.collecting.distributed import collect_ray
from contralens.settings.label import Collect
from contralens.data.decode import decode
from contralens.data.wordnet import find_wordnet
from contralens.evaluation.painters import painter
from contralens.proposing.proposers import proposer
from contralens.models.relevance import ranked
from contralens.evaluation.plots import plot_pairs
from contralens.sharing.trackers import to_fiftyone, to_tensorboard, to_wandb
from contralens.verifying.image_editors import swap

said = {}
for extra, use in {
    "timm": lambda: contralens.target("timm:resnet18", "layer4"),
    "open-clip": lambda: contralens.encoder("open_clip:ViT-B-32/openai"),
    "hf": lambda: contralens.encoder("hf:a/b"),
    "hf ": lambda: contralens.target("hf:a/b", "x"),
    "datasets": lambda: contralens.images("hf-dataset:a:train"),
    "offline": lambda: contralens.encoder("offline"),
    "offline ": lambda: contralens.target("offline:lite0"),
    "ray": lambda: collect_ray(Collect(target="world:1", encoder="world", images="demo/world-1/images", layer="block3")),
    "heif": lambda: decode(bytes(4) + b"ftypheic" + bytes(99)),
    "medical": lambda: decode(bytes(128) + b"DICM" + bytes(99)),
    "faiss": lambda: contralens.label("world:1", "demo/world-1/images", "world", "world", neighbours="faiss:hnsw"),
    "faiss ": lambda: contralens.find_exemplars(torch.rand(9, 2), torch.rand(9, 4), k=2, neighbours="faiss:ivf"),
    "openai": lambda: proposer("openai:m@http://localhost:1/v1"),
    "vlm": lambda: proposer("hf:a/b"),
    "generate": lambda: painter("diffusers:a/b"),
    "inpaint": lambda: swap("", None, fill="inpaint"),
    "relevance": lambda: ranked(contralens.target("world:1", layer="block3"), "relevance"),
    "plots": lambda: plot_pairs(None, 0),
    "pandas": lambda: contralens.load("demo/world-1/trained").to_pandas(),
    "share": lambda: contralens.read_labels("labels.json"),
    "share ": lambda: contralens.push("demo/world-1/planted", "hf:a/b"),
    "share  ": lambda: contralens.pull("hf:a/b", "pulled"),
    "wordnet": find_wordnet,
    "tensorboard": lambda: to_tensorboard(contralens.load("demo/world-1/trained"), "logs"),
    "wandb": lambda: to_wandb(contralens.load("demo/world-1/trained")),
    "fiftyone": lambda: to_fiftyone(contralens.load("demo/world-1/trained")),
}.items():
    try:
        said[extra] = f"no error: {use()!r}"
    except MissingPackage as e:
        said[extra] = str(e)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_a_missing_extra_is_told_with_its_pip_command(core: Path, demo: Path) -> None:
    run = "demo/world-1/trained"
    told([core, "-m", "contralens", "export-labels", run, "--out", "labels.json"], demo)
    said = json.loads(told([core, "-c", MISSING], demo))
    said["explore"] = told([core, "-m", "contralens", "explore", run], demo, 2).strip()
    maps = told([core, "-m", "contralens", "maps", run, "--layout"], demo).splitlines()
    said["umap"] = next(line for line in maps if "umap-learn" in line)
    if Path("/usr/share/wordnet").exists():
        said["wordnet"] = "pip install 'contralens[wordnet]'"
    for extra, message in said.items():
        assert f"pip install 'contralens[{extra.strip()}]'" in message, (extra, message)
        assert "\n" not in message
    assert {extra.strip() for extra in said} | {"all", "docs", "test"} == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_the_explorer_of_the_wheel_answers(everything: Path, demo: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra explore")
    command = [everything, "-m", "contralens", "explore", "demo/world-1/planted", "--no-browser", "--port", "0"]
    for address in serving(list(map(str, command)), demo):
        with urllib.request.urlopen(address, timeout=HUNG) as answer:
            assert answer.status == 200
            page = answer.read().decode()
        assert "<title>" in page
        links = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert len(links) > 1
        for link in links:
            with urllib.request.urlopen(urllib.parse.urljoin(address, link), timeout=HUNG) as answer:
                assert answer.status == 200, link


def serving(command: list[str], folder: Path) -> Iterator[str]:
    """The address that a server prints; it is stopped afterwards."""
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**clean(folder), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        said, until = "", time.monotonic() + HUNG
        while time.monotonic() < until and (line := server.stdout.readline()):
            said += line
            if found := re.search(r"http://\S+", line):
                yield found[0].rstrip(".,")
                return
        raise AssertionError(f"no address: {said}")
    finally:
        server.terminate()
        server.wait(20)
