"""Set up for all tests; before Triton is imported, so that its interpreter runs the Triton kernels on
a machine without a GPU.
"""

import importlib.util
import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _interpret_quickly():
    """Triton's interpreter puts its own functions in the place of the language's, and again at
    every call of a function by a kernel, which changes nothing and takes half of the time: once.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_patch_lang"):
        return  # a Triton that is another inside
    replace = interpreter._patch_lang

    def replace_what_is_not(fn):
        seen = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if any(tl.core.is_builtin(language.load) for language in seen):
            return replace(fn)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = replace_what_is_not


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    _interpret_quickly()


@pytest.fixture(autouse=True)
def nan_in_fresh_memory():
    """Freshly allocated tensors hold NaN: an element that a kernel does not write fails a test."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = before


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``hdrm ARGS`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*args):
        from hdrm import cli

        monkeypatch.setattr(sys, "argv", ["hdrm", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return call


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n 2` a file is one process's, so that what its tests share is made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Where a backend runs on the GPU its tests are `-m gpu` too."""
    for item in items:
        if _on_gpu(item):
            item.add_marker(pytest.mark.gpu)


def _on_gpu(item) -> bool:
    backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
    return backend in ("cuda", "triton") and torch.cuda.is_available()


@pytest.fixture(autouse=True)
def on_the_backends_device(request):
    """Tests of a GPU backend make their tensors on the GPU."""
    if not _on_gpu(request.node):
        yield
        return
    with torch.device("cuda"):
        yield
