"""Whether and for what csrc/cuda is compiled, with made-up toolkits; and what was built."""

from __future__ import annotations

import importlib.util
import runpy
import stat
import sys
from pathlib import Path

import pytest
import torch
from setuptools.errors import SetupError

from hdrm import native

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def build_cuda():
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "csrc" / "build_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HDRM_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def torch_built_for(folder: Path, cuda: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "version.py").write_text(
        "__all__ = ['__version__', 'cuda']\n"
        f"__version__ = '2.14.1'\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
    )
    return folder


def toolkit(root: Path, version="13.0", knows=("75", "80", "90", "100"), headers=True) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "include").mkdir()
    if headers:
        (root / "include" / "cuda_runtime_api.h").touch()
    nvcc = root / "bin" / "nvcc"
    listed = " ".join(f"compute_{cc}" for cc in knows)
    nvcc.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "tools, release {version}, V{version}.88"\n'
        f'[ "$1" = --list-gpu-arch ] && echo {listed}\ntrue\n'
    )
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    return root


# ---- where and for what


@pytest.mark.parametrize(
    ("text", "cubins", "ptx"),
    [
        ("8.0", ("80",), ()),
        ("8.0;9.0+PTX", ("80", "90"), ("90",)),
        (" 9.0a, 10.0f+PTX 12.0 ", ("90a", "100f", "120"), ("100f",)),
        ("8.6;8.6", ("86",), ()),
    ],
)
def test_architectures(build_cuda, text, cubins, ptx):
    assert build_cuda.parse_architectures(text) == (cubins, ptx)


@pytest.mark.parametrize("text", ["Ampere", "8.0;Hopper+PTX", "80", "sm_90", "8.0+ptx", "9.0b"])
def test_architectures_that_are_names(build_cuda, text):
    with pytest.raises(SetupError, match=r"TORCH_CUDA_ARCH_LIST: .*such as '8.0;.*', got '"):
        build_cuda.parse_architectures(text)


def test_a_lone_nvcc_is_passed_over(build_cuda, environment, tmp_path):
    wrapper = toolkit(tmp_path / "wrapper", headers=False)
    environment.setenv("PATH", str(wrapper / "bin"))
    assert build_cuda.find_toolkit() in (None, Path("/usr/local/cuda"))
    real = toolkit(tmp_path / "real")
    environment.setenv("PATH", str(real / "bin"))
    assert build_cuda.find_toolkit() == real
    named = toolkit(tmp_path / "named")
    environment.setenv("CUDA_HOME", str(named))
    assert build_cuda.find_toolkit() == named


def test_where_torch_is_a_cuda_build(build_cuda, environment, tmp_path):
    environment.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    cuda, report = build_cuda.choose(torch_built_for(tmp_path / "torch", "13.0"), "2.14.1")
    assert report == "13.0 for sm_80, sm_90, sm_100, PTX 100"
    flags = cuda.flags("g++")
    assert "-gencode=arch=compute_80,code=sm_80" in flags
    assert "-gencode=arch=compute_100,code=compute_100" in flags
    assert flags[flags.index("-ccbin") + 1] == "g++"
    assert not any("fast" in flag for flag in flags)


def test_a_cpu_build_of_torch_needs_to_be_asked(build_cuda, environment, tmp_path):
    environment.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    cpu_torch = torch_built_for(tmp_path / "torch", None)
    cuda, report = build_cuda.choose(cpu_torch, "2.13.0")
    assert cuda is None
    assert report.startswith("not built: torch 2.13.0 is a CPU build; ") and "HDRM_CUDA=1" in report
    environment.setenv("HDRM_CUDA", "1")
    assert build_cuda.choose(cpu_torch, "2.13.0")[0] is not None
    environment.setenv("HDRM_CUDA", "0")
    assert build_cuda.choose(cpu_torch, "2.13.0")[1].startswith("not built: HDRM_CUDA=0")
    environment.setenv("HDRM_CUDA", "yes")
    with pytest.raises(SetupError, match="HDRM_CUDA: expected 0, 1 or nothing, got 'yes'"):
        build_cuda.choose(cpu_torch, "2.13.0")


def test_without_a_toolkit(build_cuda, environment, tmp_path):
    environment.setattr(build_cuda, "find_toolkit", lambda: None)
    cuda_torch = torch_built_for(tmp_path / "torch", "13.0")
    cuda, report = build_cuda.choose(cuda_torch, "2.14.1")
    assert cuda is None and report.startswith("not built: found no nvcc")
    environment.setenv("HDRM_CUDA", "1")
    with pytest.raises(SetupError, match="HDRM_CUDA=1 .* found no nvcc .* CUDA_HOME"):
        build_cuda.choose(cuda_torch, "2.14.1")


def test_an_older_toolkit_compiles_for_what_it_knows(build_cuda, environment, tmp_path):
    cuda_torch = torch_built_for(tmp_path / "torch", "12.4")
    root = toolkit(tmp_path / "cuda", version="12.4", knows=("80", "86", "90"))
    environment.setenv("CUDA_HOME", str(root))
    assert build_cuda.choose(cuda_torch, "2.13.0")[1] == "12.4 for sm_80, sm_90, PTX 90"
    environment.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0a")
    assert build_cuda.choose(cuda_torch, "2.13.0")[1] == "12.4 for sm_86, sm_90a"
    environment.setenv("TORCH_CUDA_ARCH_LIST", "10.0")
    with pytest.raises(SetupError, match="nvcc 12.4 does not compile for 100; it knows 80, 86, 90"):
        build_cuda.choose(cuda_torch, "2.13.0")
    environment.setenv("CUDA_HOME", str(toolkit(tmp_path / "old", version="11.8")))
    report = build_cuda.choose(cuda_torch, "2.13.0")[1]
    assert report.startswith("not built: nvcc 11.8") and "at least 12.0" in report


# ---- how


def ninja_file(cuda) -> str:
    pytest.importorskip("ninja", reason="pip install ninja pybind11")
    pytest.importorskip("pybind11", reason="pip install ninja pybind11")
    before = sys.argv, sys.path[:]
    sys.argv = ["setup.py", "--name"]
    try:
        names = runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
    sources = ["csrc/module.cpp", "csrc/binding/noising.cpp", "csrc/cpu/noising.cpp"]
    sources += ["csrc/cuda/noising.cu"] * bool(cuda)
    return names["ninja_file"](
        ["ccache", "g++", "-m64"], Path("/torch"), cuda, sources, ROOT / "build" / "_C.so"
    ).replace("$\n", "")


def test_what_is_compiled_with_cuda(build_cuda, tmp_path):
    root = toolkit(tmp_path / "cuda")
    (root / "lib64").mkdir()
    (root / "lib64" / "libcudart_static.a").touch()
    text = ninja_file(build_cuda.Cuda(root, "13.0", ("80",), ("80",)))
    assert f"{root}/bin/nvcc" in text and "-ccbin g++" in text
    assert f"-L{root}/lib64" in text and "-lcudart_static" in text
    assert "--exclude-libs,libcudart_static.a" in text  # else torch's runtime would step in
    assert "build csrc/cuda/noising.o: compile_cuda " in text
    binding = text[text.index("build csrc/binding/noising.o: compile ") :].split("build ")[1]
    assert "-DHDRM_WITH_CUDA" in binding and text.count("HDRM_WITH_CUDA") == 1


def test_what_is_compiled_without(build_cuda):
    text = ninja_file(None)
    assert not any(word in text for word in ("nvcc", "cudart", "HDRM_WITH_CUDA", ".cu"))


# ---- what was built


def test_the_report_tells_what_the_dispatcher_knows():
    module = native.load()
    assert module is not None, native.error()
    report = module.build_report()["cuda"]
    built = not report.startswith("not built: ")
    for op in ("hdrm_cuda::expmap0", "hdrm_cuda::topk", "hdrm_cuda::propagate"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA") == built, report
