"""What is released: the sdist has all sources, and a wheel made of it works without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

import hdrm

ROOT = Path(__file__).resolve().parent.parent


def run(command: list, cwd: Path, **environment: str) -> str:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks, as they are in the checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = run(["git", "ls-files", "-z"], ROOT).split("\0")
    return [name for name in listing if name and os.path.lexists(ROOT / name)]


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory) -> Path:
    """Made of tracked files alone: an older build's lists could add what setup.py does not name."""
    pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools>=77")
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    build = "import sys; sys.path.insert(0, 'csrc'); import build_backend as b; b.build_sdist('..')"
    run([sys.executable, "-c", build], folder / "checkout")
    return folder / f"hdrm-{hdrm.__version__}.tar.gz"


def test_sdist_has_every_source(sdist, tracked):
    with tarfile.open(sdist) as archive:
        files = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
        assert all(member.isfile() or member.isdir() for member in archive.getmembers())
    expected = {"LICENSE", "README.md", "pyproject.toml", "setup.py", "MANIFEST.in"}
    for name in tracked:
        folder, _, rest = name.partition("/")
        if folder == "kernels":  # hdrm/kernels is a link here and a folder in the archive
            expected.add(f"hdrm/kernels/{rest}")
        elif folder in ("hdrm", "csrc") and name != "hdrm/kernels":
            expected.add(name)
    written = {name for name in files if name.startswith("hdrm.egg-info/")}
    assert files - written - {"PKG-INFO", "setup.cfg"} == expected


@pytest.mark.slow  # compiles all of csrc/cpu and csrc/binding: two minutes with one core
def test_wheel_of_the_sdist_works_elsewhere(sdist, tmp_path):
    for module in ("pip", "pybind11", "ninja"):
        pytest.importorskip(module, reason=f"the build needs {module}")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(
        [*pip, "wheel", sdist, "--no-deps", "--no-build-isolation", "-w", tmp_path],
        tmp_path,
        HDRM_CUDA="0",
        HDRM_BUILD="1",
    )
    (wheel,) = tmp_path.glob("*.whl")

    # An environment of its own, whose other packages are this one's.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    scheme = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "others.pth").write_text("\n".join(here))
    run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], tmp_path)

    about = "import hdrm, json; print(json.dumps([hdrm.__file__, hdrm.build_info()]))"
    where, info = json.loads(run([python, "-c", about], tmp_path))
    assert Path(where).is_relative_to(site)
    assert info["native"]["version"] == info["hdrm"] == hdrm.__version__
    command = tmp_path / "venv" / "bin" / "hdrm"
    assert "available" in run([command, "info"], tmp_path)
    options = ["--epochs", "1", "--dim", "8", "--set", "hidden=8", "--out", "run"]
    assert "ndcg@20" in run([command, "train", "demo", *options], tmp_path).lower()
    kernels = run([python, "-c", "import hdrm.kernels as k; print(*k.__path__)"], tmp_path)
    assert (Path(kernels.strip()) / "distance.py").is_file()
    page = site / "hdrm" / "report" / "page.html"
    assert page.read_text() == (ROOT / "hdrm" / "report" / "page.html").read_text()
