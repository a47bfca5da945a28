"""The documentation says what is true: links, names, versions and code; and the site is built."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest

import hdrm
from hdrm import ops

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "kernels" / "README.md"]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
CODE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(text):
    for target in LINK.findall(text.read_text()):
        assert (text.parent / target).exists(), target


# ---- quickstarts


def test_quickstart_geoopt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = pages.run(pages.steps("quickstart/geoopt.md"), monkeypatch, capsys)
    assert names["error"] < 1e-6  # of the last row, ours
    assert names["distances"].shape == (600,)


def test_quickstart_recommender(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="hdrm report draws with matplotlib")
    pytest.importorskip("jinja2", reason="hdrm report writes with jinja2")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(60) for i in rng.permutation(40)[:15]]
    rows = "".join(f"{u},{i},{time}\n" for time, (u, i) in enumerate(pairs))
    Path("ratings.csv").write_text("user,item,time\n" + rows)
    names = pages.run(pages.steps("quickstart/recommender.md"), monkeypatch, capsys)
    assert names["items"].shape == (1, 10)
    assert 0 <= names["result"].test["hdrm"]["ndcg@20"] <= 1
    assert {path.name for path in Path("runs").iterdir()} == {"first", "second", "third"}


def test_quickstart_kernels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [step for step in pages.steps("quickstart/kernels.md") if step[1]]
    assert len(blocks) == 2
    pages.run(blocks, monkeypatch, capsys)


def test_torchs_tools(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = pages.run(pages.steps("torch.md"), monkeypatch, capsys)
    assert "no forward-mode derivative" in capsys.readouterr().out
    assert names["all_pairs"].shape == (5, 5) and names["gradient"].any()
    assert names["value"] > 0 and names["table"].grad.any()


# ---- names


def test_names_in_how_a_kernel_is_added():
    """A path in code exists; any other name in code stands in a file that its section names."""
    page = (ROOT / "docs" / "adding-a-kernel.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    assert len(sections) > 9
    for section in sections:
        names = [name for name in CODE.findall(section) if not name.startswith(("pip ", "hdrm "))]
        paths = [name for name in names if "/" in name or name.endswith((".py", ".md"))]
        paths = [path for path in paths if "NAME" not in path]
        for path in paths:
            assert (ROOT / path).is_file(), path
        text = "\n".join((ROOT / path).read_text() for path in paths)
        for name in set(names) - set(paths):
            words = re.findall(r"[A-Za-z_]\w*", name)
            missing = [word for word in words if not re.search(rf"\b{word}\b", text)]
            assert not missing or "NAME" in name, (section.splitlines()[0], name, missing)


def members(page: str) -> dict[str, list[str]]:
    """Of every module that a page of docs/api shows, the names that it lists."""
    found = re.findall(
        r"^::: ([\w.]+)\n(?:    options:\n      members: \[(.*)\])?",
        (ROOT / "docs" / "api" / page).read_text(),
        re.MULTILINE,
    )
    return {module: names.split(", ") if names else [] for module, names in found}


def test_every_public_name_has_a_reference():
    listed = [name for names in members("ops.md").values() for name in names]
    assert set(ops.__all__) <= set(listed)
    everywhere = {
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for names in members(page.name).values()
        for name in names
    }
    modules = {"ops", "optim", "data", "build_info"}  # pages of their own; hdrm info
    assert set(hdrm.__all__) - modules <= everywhere


def test_what_the_reference_lists_exists():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for module, names in members(page.name).items():
            # hdrm.ops.distance is a function too.
            found = sys.modules.get(module) or importlib.import_module(module)
            assert all(getattr(found, name).__doc__ for name in names), module


# ---- versions, the site


def test_one_version_and_one_license_everywhere():
    version = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text()
    assert version[1] == hdrm.__version__
    assert f"\nversion: {hdrm.__version__}\n" in citation
    assert "\nlicense: Apache-2.0\n" in citation
    assert '\nlicense = "Apache-2.0"\n' in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]


def test_the_site_is_built_and_fetches_nothing(tmp_path):
    for module in ("material", "mkdocstrings", "mkdocs_click"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    html = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"index.html", "cli/index.html", "api/ops/index.html", "serving/index.html"} <= {
        str(page.relative_to(tmp_path)) for page in html
    }
    for page, text in html.items():
        assert not re.search(r'<(?:link|script|img)[^>]+(?:href|src)="(?:https?:)?//', text), page
        assert not re.search(r":(?:func|class|meth|mod|attr):", text), page
    assert "--memory-budget" in html[tmp_path / "cli" / "index.html"]
    assert 'id="hdrm.ops.ranking.topk"' in html[tmp_path / "api" / "ops" / "index.html"]
