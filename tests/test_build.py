"""The compiled module: what it is, what happens without it, and the CSR it builds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hdrm
from hdrm import native

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compiled():
    module = native.load()
    assert module is not None, native.error()
    return module


def python(code: str, **environment: str) -> str:
    """stdout of a fresh interpreter, started in the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- what was built


def test_report_agrees_with_the_package(compiled):
    report = compiled.build_report()
    assert all(isinstance(value, str) and value for value in report.values())
    assert report["version"] == importlib.metadata.version("hdrm") == hdrm.__version__
    assert "-O3" in report["flags"]
    assert not re.search(r"march=native|fast-math", report["flags"])
    assert {"compiler", "revision", "torch", "cuda", "simd"} <= report.keys()


def test_errors_do_not_tell_where_it_was_built(compiled):
    code = Path(compiled.__file__).read_bytes()
    if b"__asan_init" in code:
        pytest.skip("a sanitizer keeps the place of every operation")
    assert b"csrc/binding/" in code
    assert not re.search(rb"/csrc/binding/|/include/torch/", code)


def test_one_minimum_of_torch_everywhere(compiled):
    minimum = ".".join(map(str, native.TORCH_MINIMUM))
    assert compiled.build_report()["torch_target"] == minimum
    assert f"torch>={minimum}" in importlib.metadata.requires("hdrm")


def test_simd_level_is_this_processors(compiled):
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)[1].split())
    v3 = {"avx2", "fma", "bmi2", "f16c", "movbe"} <= flags
    v4 = v3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    expected = "x86-64-v4" if v4 else "x86-64-v3" if v3 else "default"
    compiled_for = compiled.build_report()["simd"]
    assert compiled.simd_level() == (expected if expected in compiled_for else "default")


def test_needs_only_torchs_stable_interface(compiled):
    symbols = subprocess.run(
        ["nm", "-D", "-C", "--undefined-only", compiled.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "torch_library_impl" in symbols  # the registrations are in this file
    assert not re.findall(r".*\b(?:at|c10|caffe2|torch)::.*", symbols)


def test_build_info_tells_versions_and_devices(compiled):
    info = hdrm.build_info()
    assert info["native"] == compiled.build_report() and info["native_error"] is None
    assert info["torch"] == torch.__version__ and info["threads"] == torch.get_num_threads()
    assert info["devices"][0] == "cpu"


# ---- where kernels/ is importable


def test_kernels_folder_is_hdrm_kernels():
    import hdrm.kernels

    assert Path(next(iter(hdrm.kernels.__path__))).resolve() == ROOT / "kernels"


def test_kernels_folder_hides_no_other_package(tmp_path):
    """Even with the checkout first on sys.path, a package `kernels` elsewhere is the one found."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    found = python("import kernels; print(kernels.__file__)", PYTHONPATH=str(tmp_path)).strip()
    assert found == str(tmp_path / "kernels" / "__init__.py")


# ---- without it


def test_import_without_compiled_code_warns_once():
    out = python(
        "import sys, warnings\n"
        "sys.modules['hdrm._C'] = None\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import hdrm, torch\n"
        "    x = hdrm.ops.expmap0(torch.zeros(2, 5))\n"
        "    assert x[:, 0].eq(1).all()\n"
        "for warning in caught:\n"
        "    if 'hdrm' in str(warning.message): print(warning.message)\n"
    )
    (message,) = out.splitlines()
    assert "pip install" in message
    assert hdrm.build_info()["native"] is not None  # this process is untouched


def _fresh_attempt():
    return native._attempt.__wrapped__()


def test_missing_module_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdrm._C", None)
    module, error = _fresh_attempt()
    assert module is None
    assert error.endswith(f'compile it with: pip install -e "{ROOT}"')


def test_module_that_does_not_load_gives_reason_and_command(monkeypatch, compiled):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "hdrm._C":
                return importlib.util.spec_from_loader(name, self)

        def create_module(self, spec):
            raise ImportError("undefined symbol: torch_gone")

        def exec_module(self, module):
            raise AssertionError("never reached")

    monkeypatch.delitem(sys.modules, "hdrm._C")
    monkeypatch.delattr(hdrm, "_C")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    module, error = _fresh_attempt()
    assert module is None
    assert "undefined symbol: torch_gone" in error and torch.__version__ in error
    assert "pip install" in error


def test_module_of_another_version_is_refused(monkeypatch, compiled):
    monkeypatch.setattr(native, "_version", lambda distribution: "9.9.9")
    module, error = _fresh_attempt()
    assert module is None
    assert "9.9.9" in error and compiled.build_report()["version"] in error


def test_torch_that_is_too_old_is_refused(monkeypatch, compiled):
    monkeypatch.setattr(torch, "__version__", "2.12.1")
    module, error = _fresh_attempt()
    assert module is None
    assert error == (
        "hdrm's compiled code needs torch >= 2.13, found 2.12.1; "
        "repair it with: pip install 'torch>=2.13'"
    )


def test_sources_newer_than_the_binary_are_named(monkeypatch, tmp_path, compiled):
    source = tmp_path / "csrc" / "rows" / "distance.h"
    source.parent.mkdir(parents=True)
    source.touch()
    built = Path(compiled.__file__).stat().st_mtime
    monkeypatch.setattr(native, "_ROOT", tmp_path)
    os.utime(source, (built - 1, built - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _fresh_attempt() == (compiled, None)
    os.utime(source, (built + 1, built + 1))
    with pytest.warns(UserWarning, match="csrc/rows/distance.h is newer"):
        assert _fresh_attempt() == (compiled, None)


# ---- build_csr


def oracle(users, items, num_users, num_items, collapse):
    """The rows of the symmetric adjacency by scipy (collapsed) or plain lists (kept)."""
    if collapse:
        nodes = num_users + num_items
        ends = np.asarray(users, np.int64), num_users + np.asarray(items, np.int64)
        rows, cols = np.concatenate(ends), np.concatenate(ends[::-1])
        ones = np.ones(len(rows), bool)
        matrix = scipy.sparse.csr_matrix((ones, (rows, cols)), shape=(nodes, nodes))
        matrix.sum_duplicates()
        return [matrix.indices[a:b].tolist() for a, b in pairwise(matrix.indptr)]
    rows = [[] for _ in range(num_users + num_items)]
    for user, item in zip(users, items):
        rows[user].append(num_users + item)
        rows[num_users + item].append(user)
    return [sorted(row) for row in rows]


@st.composite
def graphs(draw):
    num_users, num_items = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    pair = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1))
    return num_users, num_items, draw(st.lists(pair, max_size=60))


@settings(max_examples=200, deadline=None)
@given(graphs(), st.booleans())
def test_build_csr_equals_the_oracle(graph, collapse):
    num_users, num_items, pairs = graph
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
    rowptr, col = native.load().build_csr(users, items, num_users, num_items, collapse)
    assert rowptr.dtype == np.int64 and rowptr.shape == (num_users + num_items + 1,)
    assert col.dtype == np.int32 and rowptr[0] == 0 and rowptr[-1] == len(col)
    rows = [col[a:b].tolist() for a, b in pairwise(rowptr)]
    assert rows == oracle(users, items, num_users, num_items, collapse)


def test_build_csr_of_a_large_graph(compiled):
    rng = np.random.default_rng(0)
    num_users, num_items = 3000, 70_000  # node ids beyond 16 bits
    users = rng.integers(num_users, size=200_000)
    items = rng.integers(num_items, size=200_000) // 40  # every fourth pair or so is a duplicate
    rowptr, col = compiled.build_csr(users, items, num_users, num_items, True)
    rows = np.repeat(np.arange(num_users + num_items), np.diff(rowptr))
    expected = np.unique(np.stack([users, num_users + items]), axis=1)
    both = np.concatenate([expected, expected[::-1]], axis=1)
    assert np.array_equal(np.stack([rows, col]), both[:, np.lexsort(both[::-1])])


def test_build_csr_without_edges_or_nodes(compiled):
    none = np.empty(0, np.int64)
    for num_users, num_items in ((0, 0), (3, 0), (0, 2), (2, 2)):
        rowptr, col = compiled.build_csr(none, none, num_users, num_items, True)
        assert rowptr.tolist() == [0] * (num_users + num_items + 1) and col.size == 0


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 1, -1], [0, 0, 0], r"users\[2\] = -1: expected ids from 0 to num_users - 1 = 1"),
        ([0, 2], [0, 0], r"users\[1\] = 2: expected ids from 0 to num_users - 1 = 1"),
        ([0, 1], [0, -(2**63)], r"items\[1\] = -9223372036854775808: expected"),
        ([1], [3], r"items\[0\] = 3: expected ids from 0 to num_items - 1 = 2"),
        ([0, 1], [0], r"one length, got \(2,\) and \(1,\)"),
        ([[0]], [[0]], r"one-dimensional"),
    ],
)
def test_build_csr_names_the_bad_id(compiled, users, items, message):
    users, items = np.array(users, np.int64), np.array(items, np.int64)
    with pytest.raises(ValueError, match=message):
        compiled.build_csr(users, items, 2, 3, True)


def test_build_csr_rejects_sizes_and_dtypes(compiled):
    none = np.empty(0, np.int64)
    for sizes in ((2**31 - 1, 1), (2**62, 2**62)):
        with pytest.raises(ValueError, match="fewer than 2\\^31 nodes"):
            compiled.build_csr(none, none, *sizes, True)
    with pytest.raises(ValueError, match="expected >= 0, got -1 and 4"):
        compiled.build_csr(none, none, -1, 4, True)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        compiled.build_csr(none.astype(np.int32), none, 1, 1, True)
