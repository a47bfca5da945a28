"""The report of the kernels: Triton's compile and are as required, and the figures are right."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from hdrm import cli
from hdrm.kernels import built_figures, calls, compiled, figures
from hdrm.kernels.compiled import Compiled

ROOT = Path(__file__).resolve().parent.parent


def compiling(*arguments: str) -> subprocess.CompletedProcess:
    """A fresh interpreter in which Triton compiles, whatever it does in this one."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "table.md").write_text("Text by hand.\n")
    done = compiling(
        *("-m", "hdrm.kernels.report", "--json", str(folder / "figures.json")),
        *("--markdown", str(folder / "table.md"), "--keep", str(folder / "kept")),
    )
    assert done.returncode in (0, 1), done.stderr
    return folder


@pytest.fixture(scope="module")
def report(folder) -> dict:
    return json.loads((folder / "figures.json").read_text())


def test_everything_is_as_required(report):
    assert report["violations"] == []


def test_every_op_is_compiled_for_every_target(report):
    expected = {
        (op, width, arch)
        for op in calls.declared_ops()
        for width in (64, 8192)
        for arch in (80, 90, 100)
    }
    assert {(k["op"], k["width"], k["arch"]) for k in report["kernels"]} == expected


def test_a_timing_does_not_decide_the_order_of_a_sum():
    """Where the autotuner has a choice a row lies across as many warps in every tile."""
    done = compiling("-c", TILES)
    assert done.returncode == 0, done.stderr
    choices = json.loads(done.stdout)
    assert choices["64 4"] == [1, 1, 1] and choices["128 8"] == [2, 2, 2]
    assert choices["65 4"] == [1] and len(choices["8192 4"]) == 1
    assert all(len(set(warps)) == 1 for warps in choices.values()), choices


TILES = """
import json
import triton.language as tl
from hdrm.kernels.launch import _tiles

found = {}
for width in (2, 32, 64, 65, 96, 100, 128, 256, 512, 1024, 8192):
    for size, T in ((4, tl.float32), (8, tl.float64)):
        D = 1 << (width - 1).bit_length()
        row, of_a_warp = min(D, 1024), 32 * 16 // size
        tiles = _tiles(256, {"width": width}, {"D": D, "T": T})
        assert all(tile.kwargs["ELEMENTS"] >= row for tile in tiles)
        # Triton lays 16 bytes to a thread, threads and then warps along the row.
        found[f"{width} {size}"] = [
            min(tile.num_warps, max(1, row // of_a_warp)) for tile in tiles
        ]
print(json.dumps(found))
"""


def test_kernels_keep_to_what_the_oldest_triton_reads():
    """Triton 3.7, which CUDA builds of torch 2.13 bring, fails on `a, (b, c) = …` in a kernel."""
    nested = [
        f"{path.name}:{statement.lineno}"
        for path in (ROOT / "kernels").glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and function.decorator_list
        for statement in ast.walk(function)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Tuple)
        if not all(isinstance(element, ast.Name) for element in target.elts)
    ]
    assert nested == []


def test_declared_ops():
    declared = calls.declared_ops()
    assert {"distance", "distance_backward", "propagate", "topk"} <= set(declared)
    assert all(hasattr(torch.ops.hdrm_triton, op) for op in declared)


def test_registers_and_spills_are_those_of_ptxas(report, folder):
    for kernel in report["kernels"][::9]:
        tool = "ptxas" if kernel["arch"] < 90 else "ptxas_blackwell"
        target = f"sm_{kernel['arch']}" + ("a" if kernel["arch"] >= 90 else "")
        done = subprocess.run(
            [
                *(getattr(triton.knobs.nvidia, tool).path, "-v", "--regAllocOptLevel=2"),
                *(f"--gpu-name={target}", folder / "kept" / f"{kernel['file']}.ptx"),
                *("-o", folder / "again.cubin"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*Used (\d+) registers",
            done.stdout + done.stderr,
            re.DOTALL,
        )
        names = ("stack_bytes", "spill_stores", "spill_loads", "registers")
        assert [kernel[name] for name in names] == [int(n) for n in found.groups()], kernel["file"]


def test_narrow_rows_move_what_they_must(report):
    """One kernel over row tiles: what it moves is its minimum at width 64, and more at 8,192."""
    tiled = {kernel["op"] for kernel in report["kernels"] if kernel["elements"]}
    several = {kernel["op"] for kernel in report["kernels"] if not kernel["elements"]}
    ratios = {
        (op["op"], op["variant"], op["width"]): op["bytes"] / op["minimum"]
        for op in report["ops"]
        if op["op"] in tiled - several
    }
    assert {"distance", "expmap0", "riemannian_adam_step_"} <= {op for op, _, _ in ratios}
    for (op, _, width), ratio in ratios.items():
        if width == 64:
            assert ratio == pytest.approx(1, abs=0.01), op
    assert ratios["distance", "", 8192] == pytest.approx(2, abs=0.01)  # it walks its rows twice


def test_markdown_keeps_what_was_written_by_hand(folder, report):
    text = (folder / "table.md").read_text()
    assert text.startswith("Text by hand.\n<!-- from here on written by")
    for op in {kernel["op"] for kernel in report["kernels"]}:
        assert f"| {op} |" in text


def test_the_report_has_the_built_kernels_too(folder, report):
    """All of them, or in a line why there are none."""
    text = (folder / "table.md").read_text()
    built = report["cuda"]["built"]
    assert "CUDA C++ kernels: " in text and built in text
    if built.startswith("not built"):
        assert report["cuda"]["kernels"] == []
        return
    ops = {op for kernel in report["cuda"]["kernels"] for op in kernel["ops"]}
    assert ops == set(built_figures.KERNELS)
    table = text.partition("### CUDA C++, float32")[2]
    assert [op for op in ops if f"| {op} |" not in table] == []


def test_the_docs_have_every_op():
    text = (ROOT / "docs" / "kernels.md").read_text()
    assert [op for op in calls.declared_ops() if f"| {op} |" not in text] == []


BROKEN = """
import torch, triton, triton.language as tl
from hdrm.kernels.calls import Call
from hdrm.kernels.compiled import compile_for
from hdrm.kernels.figures import counted, violations
from hdrm.kernels.launch import Launch

@triton.jit
def kernel(
    table, out, num_rows, width, KIND: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr
):
    at = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    backwards = tl.program_id(0) * ELEMENTS + ELEMENTS - 1 - tl.arange(0, ELEMENTS)
    if KIND == "narrow":  # nothing to join to a vector
        at = backwards
    values = tl.load(table + at)
    if KIND == "half":
        values += tl.load(table + backwards)
    if KIND == "atomic":
        tl.atomic_add(out + at, values)
    elif KIND == "twice":
        tl.store(out + at, tl.load(table + at, volatile=True) + values)
    elif KIND == "spill":  # all of a tile of its own in each thread
        tl.store(out + at, tl.sort(values))
    else:
        tl.store(out + at, values)

for kind, options in (
    ("good", {}), ("narrow", {}), ("half", {}), ("atomic", {}), ("twice", {}),
    ("spill", {"maxnreg": 16}),
):
    table = torch.empty(64, 64, device="meta")
    meta = {"KIND": kind, "D": 64, "ELEMENTS": 2048, "num_warps": 4, **options}
    launch = Launch(kernel, (table, table, 64, 64), meta)
    call = Call("op", kind, "float32", 64, 64, 2 * table.nbytes, [(launch, 1)])
    call.compiled = [compile_for(launch, 90, False)]
    print(kind, counted(call)[0] / call.minimum, violations([call], []))
"""


def test_what_is_not_as_required_is_found(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done = compiling(str(tmp_path / "broken.py"))
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["good"] == "good 1.0 []"
    assert lines["twice"] == "twice 1.5 []"
    assert "table is accessed 4 bytes at a time" in lines["narrow"]
    assert lines["half"].startswith("half 1.5 ")
    assert "table is accessed 4 bytes at a time" in lines["half"]
    assert "atomic operations" in lines["atomic"]
    assert re.search(r"local memory, \d+ bytes; spilled: [1-9]\d* bytes stored", lines["spill"])


def test_missing_ops_are_named():
    assert figures.violations([], ["sqdist7"]) == ["sqdist7: no kernel in hdrm/kernels"]


@pytest.mark.parametrize(
    ("arch", "warps", "registers", "shared", "blocks"),
    [  # by hand, from the limits in docs/kernels.md
        (90, 8, 32, 0, 8),  # 64 warps
        (90, 8, 40, 0, 6),  # 1,280 registers a warp: 12 of them in each quarter, 48 in all
        (90, 8, 41, 0, 5),  # 1,536 a warp: 40
        (90, 8, 255, 0, 1),
        (90, 1, 16, 0, 32),  # as many blocks as there can be
        (80, 4, 32, 80 << 10, 2),  # 81 of 164 KiB
        (90, 4, 32, 80 << 10, 2),  # of 228
        (100, 4, 32, 75 << 10, 3),
        (80, 4, 32, 164 << 10, 0),
    ],
)
def test_occupancy(arch, warps, registers, shared, blocks):
    one = Compiled("k", arch, 0, warps, registers, 0, 0, 0, shared, 0, {}, {}, "", b"")
    assert one.blocks == blocks
    assert one.occupancy == blocks * warps / 64


PTX = """
.visible .entry k(
    .param .u64 .ptr .global .align 1 k_param_0,
    .param .u64 .ptr .global .align 1 k_param_1,
    .param .u32 k_param_2
)
    ld.param.b64 %rd1, [k_param_0];
    ld.param.b64 %rd2, [k_param_1];
    ld.param.s32 %rd3, [k_param_2];
    mad.lo.s64 %rd4, %rd3, 4, %rd1;
$L__BB0_1:
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd4 + 0 ];
    add.s64 %rd4, %rd4, 16;
    @%p2 bra $L__BB0_1;
    ld.global.L1::evict_last.b64 { %rd5 }, [ %rd4 + 8 ];
    shl.b64 %rd6, %rd5, 2;
    add.s64 %rd7, %rd2, %rd6;
    @%p3 bra $L__BB0_2;
    st.global.v2.b64 [ %rd7 + 0 ], { %rd8, %rd9 };
$L__BB0_2:
    ret;
"""


def test_accesses_are_followed_to_the_arguments():
    """In a loop, behind it, and to an address made of a loaded index."""
    assert dict(compiled._global_memory(PTX)) == {
        ("ld", 0): [(16, True), (8, False)],
        ("st", 1): [(16, False)],
    }


def test_an_address_from_nowhere_is_an_error():
    with pytest.raises(RuntimeError, match="%rd7 does not come from one pointer argument"):
        compiled._global_memory(PTX.replace("add.s64 %rd7, %rd2", "add.s64 %rd7, %rd3"))


def test_command_refuses_to_interpret(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(sys, "argv", ["hdrm", "kernels"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: TRITON_INTERPRET is set")
