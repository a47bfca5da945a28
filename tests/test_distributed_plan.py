"""The plan of several processes: against what real ones receive, read and need."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from ranks import end, in_processes

from hdrm import memory
from hdrm.cli import cli
from hdrm.config import PRESETS
from hdrm.data import load as load_whole
from hdrm.data.graph_files import COL_FILE, build_graph
from hdrm.data.synthetic_stream import power_law
from hdrm.distributed import data, plan
from hdrm.distributed.plan import mesh_of, received
from hdrm.distributed.shares import Shares
from hdrm.model import HDRM
from hdrm.train.denoising import DenoisingStage, RankingDiffusionStage
from hdrm.train.plan import DIFFUSION as DIFFUSION_PHASES
from hdrm.train.plan import ENCODER as ENCODER_PHASES
from hdrm.train.plan import Sizes
from hdrm.train.stages import DiffusionStage, EncoderStage

MESHES = [(2, 1), (3, 1), (2, 2), (1, 2)]
MIB = 2**20
INTERACTIONS = 4_000_000
_SMALL = {
    "dim": 16, "hidden": (20, 30), "encoder_batch": 500, "encoder_negatives": 4,
    "diffusion_batch": 400, "diffusion_negatives": 2, "softmax_users": 64,
}  # fmt: skip
HINGE, SOFTMAX = (PRESETS[name].replace(**_SMALL) for name in ("large", "best"))
ENCODER, FOLD, DIFFUSION = (
    "a step of the encoder",
    "a fold of the diffusion",
    "a step of the diffusion",
)
# A stage, its settings, and of what its first two steps are made.
CASES = {
    "hinge": (EncoderStage, HINGE.replace(micro_batches=3), [[ENCODER], [ENCODER]]),
    "by interactions": (EncoderStage, HINGE.replace(pairs="interactions"), [[ENCODER], [ENCODER]]),
    "sampled": (
        EncoderStage,
        HINGE.replace(propagation="sampled", fanouts=(3, 2, 2), encoder_batch=20),
        [[ENCODER], [ENCODER]],
    ),
    "softmax": (DenoisingStage, SOFTMAX.replace(micro_batches=2), [[ENCODER], [ENCODER]]),
    "diffusion": (DiffusionStage, HINGE, [[FOLD, DIFFUSION], [DIFFUSION]]),
    "diffusion, joint, wide": (
        DiffusionStage, HINGE.replace(tables="joint", dim=70), [[FOLD, DIFFUSION], [DIFFUSION]],
    ),
    "ranking diffusion": (RankingDiffusionStage, SOFTMAX, [[DIFFUSION], [DIFFUSION]]),
    "ranking diffusion, joint": (
        RankingDiffusionStage, SOFTMAX.replace(tables="joint"), [[DIFFUSION], [DIFFUSION]],
    ),
}  # fmt: skip
# Of what is drawn: counted ÷ planned. Popular nodes are drawn more than once: of rows it is at most.
BOUNDS = {
    "items": (0.8, 1.2), "items: ids": (0.8, 1.2), "neighbours": (0.5, 1.5),
    "neighbours: ids": (0.5, 1), "rows": (0.5, 1), "rows: ids": (0.5, 1),
}  # fmt: skip
UNCOUNTED = {"numbers of users", "hits", "gradients of the denoisers"}


def encoded(model) -> torch.Tensor:
    """What a validation begins with."""
    return model.graph.team.with_all_items(model.encoder(model.graph))


def steps(world) -> dict:
    """What a process receives in the first steps of each case, and in a validation."""
    dataset, found = data.load("demo", world), {}
    graph, team = dataset.graph, dataset.graph.team

    def came(function, *arguments) -> dict:
        world.received.clear()
        function(*arguments)
        return {name: size for name, size in world.received.items() if size}

    for name, (stage, config, parts) in CASES.items():
        model = HDRM(dataset.num_users, dataset.num_items, config, own=team.own_nodes)
        model.set_graph(graph)
        graph._neighbours  # noqa: B018 - what is asked for once, in the first of all steps
        made = stage(model, config)
        found[name] = [came(made.step, k) for k in range(len(parts))]
        model.eval()
        with torch.no_grad():
            found[name].append(came(encoded, model))
    return found


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: "x".join(map(str, mesh)))
def test_received_bytes_are_those_of_real_processes(mesh):
    dataset = load_whole("demo")
    sizes, shares = Sizes.of(dataset), Shares.of(dataset, *mesh)
    for process, found in enumerate(in_processes(mesh, steps)):
        for name, (_, config, parts) in CASES.items():
            planned = received(config, sizes, shares, process)
            exact = plan.plan(config, sizes, shares).exact
            for of, counted in zip([*parts, ["a validation of the encoder"]], found[name]):
                expected = {}
                for when in of:
                    for what, size in planned[when].items():
                        expected[what] = expected.get(what, 0) + size
                where = f"{name}, process {process}, {of}"
                assert set(counted) == set(expected) - UNCOUNTED, where
                for what, size in counted.items():
                    if what in exact:
                        assert size == expected[what], f"{where}: {what}"
                    else:
                        low, high = BOUNDS[what]
                        assert low <= size / expected[what] <= high, f"{where}: {what}"


def test_expected_halos_are_no_smaller_than_real_ones():
    dataset = load_whole("demo")
    for mesh in [(1, 1), (2, 1), (4, 2), (16, 4)]:
        real = Shares.of(dataset, *mesh)
        expected = Shares.expected(Sizes.of(dataset), *mesh)
        for of in ("users", "items", "edges"):
            assert getattr(real, of).sum() == getattr(expected, of).sum()
            assert len(getattr(real, of)) == real.size
        assert real.wanted.sum() <= expected.wanted.sum() <= 1.35 * real.wanted.sum()
        for process in range(real.size):
            assert real.halo(process)[0] <= dataset.num_items
    with pytest.raises(
        ValueError, match="1501 devices need as many items at least, there are 1500"
    ):
        Shares.expected(Sizes.of(dataset), 1501, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Of a graph."""
    place = tmp_path_factory.mktemp("graph")
    power_law(place / "pairs.parquet", 40_000, 20_000, INTERACTIONS, 0)
    build_graph(place / "pairs.parquet", place / "graph", order="none")
    return str(place / "graph")


def pages_read(world, folder) -> dict:
    """Bytes of the column file that are in a process's memory when it has its share of a graph."""
    opened, mapped = data.open_arrays, []

    def kept(path):
        mapped.append(opened(path))
        return mapped[0]

    data.open_arrays = kept
    try:
        graph = data.load(folder, world).graph
    finally:
        data.open_arrays = opened
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(COL_FILE)
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return {"resident": resident, "edges": graph.user_items.nnz, "mapped": len(mapped[0][1]) * 4}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mesh", [(4, 1), (2, 2)], ids=lambda mesh: "x".join(map(str, mesh)))
def test_nobody_reads_the_whole_graph(mesh, folder):
    found = in_processes(mesh, pages_read, folder)
    assert sum(of["edges"] for of in found) == pytest.approx(0.7 * INTERACTIONS, rel=0.01)
    for (
        of
    ) in found:  # 4 bytes an interaction of the row group; systems map up to 2 MiB around a page
        share = 4 * INTERACTIONS // mesh[0]
        assert 0.9 * share < of["resident"] < share + 4 * MIB
        assert of["mapped"] == 8 * INTERACTIONS


_WIDE = PRESETS["large"].replace(dim=256, encoder_negatives=1, hidden=(32,))
MEASURED = {
    "full": (EncoderStage, _WIDE, ENCODER_PHASES[:2]),
    "joint": (DiffusionStage, _WIDE.replace(tables="joint"), DIFFUSION_PHASES[1:5]),
}


def peaks(world, folder) -> dict:
    """Bytes that a process needs at most, beside what it had before, for two steps of each case."""
    memory.keep(0)
    dataset, found = data.load(folder, world), {}
    for name, (stage, config, _) in MEASURED.items():
        for dim in (4, config.dim):  # the first for what is loaded and made once
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            before = resident("VmRSS")
            own = dataset.graph.team.own_nodes
            model = HDRM(dataset.num_users, dataset.num_items, config.replace(dim=dim), own=own)
            model.set_graph(dataset.graph)
            made = stage(model, model.config)
            for step in range(2):
                made.step(step)
            found[name] = resident("VmHWM") - before
            del model, made
    return found


def resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_real_processes(folder, monkeypatch):
    end()  # others than those that are there: of theirs not all freed memory is given back at once
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(MIB // 4))
    try:
        found = in_processes((2, 2), peaks, folder)
    finally:
        end()
    dataset = load_whole(folder)
    sizes, shares = Sizes.of(dataset), Shares.of(dataset, 2, 2)
    there = (
        "Python and its libraries",
        "validation and test interactions",
        "training graph",
        "halo",
    )
    for name, (_, config, phases) in MEASURED.items():
        planned = plan.plan(config, sizes, shares, device="cpu").memory
        before = sum(part.num_bytes for part in planned.parts if part.name in there)
        planned = max(map(planned.bytes_in, phases)) - before
        measured = max(of[name] for of in found)
        assert 0.9 < planned / measured < 1.1, f"{name}: {planned:,} planned, {measured:,} measured"


def test_command():
    done = CliRunner().invoke(
        cli, ["plan", "demo", "--preset", "large", "--devices", "4", "--mesh", "2x2"]
    )
    assert done.exit_code == 0, done.output
    for text in (r"one of 4 devices, in 2 groups of users × 2 slices of columns",
                 r"│ a step of the encoder +│ halo +│ +1\.1 │", r"│ items +│ about 0\.5 │"):  # fmt: skip
        assert re.search(text, done.output), text
    counts = ["--users", "1e8", "--items", "1e7", "--interactions", "1e10"]
    done = CliRunner().invoke(cli, ["plan", *counts, "--devices", "8"])
    # 4·L·I·D·b·(R−1)/R: every group has users of all items.
    assert (
        f"halo                       │ about {4 * 3 * 10**7 * 64 * 4 * 7 / 8 / MIB:,.1f}"
        in done.output
    )
    for arguments, message in (
        (["demo", "--devices", "4", "--mesh", "2x3"], "a mesh of 2x3 is of 6 devices, not of 4"),
        (["demo", "--devices", "4", "--budget", "1GiB"], "leave it out, or --devices"),
        (
            ["demo", "--devices", "4", "--set", "tables_on=host"],
            "several processes cannot train with",
        ),
        (["demo", "--mesh", "2by2"], "a mesh is ROWSxCOLUMNS"),
        (["demo", "--devices", "1501"], "need as many items at least"),
    ):
        done = CliRunner().invoke(cli, ["plan", "--preset", "large", *arguments])
        assert isinstance(done.exception, ValueError) or done.exit_code == 2
        assert message in done.output + str(done.exception), done.output


def test_the_table_of_the_documentation_is_what_is_planned():
    sizes, rows = Sizes(10**8, 10**7, 10**10), []
    for mesh in ((1, 1), (8, 1), (64, 1), (8, 8), (512, 1), (64, 8), (32, 16)):
        found = plan.plan(PRESETS["large"], sizes, Shares.expected(sizes, *mesh))
        memory, came = found.memory, found.received
        step = max(memory.bytes_in(phase) for phase in ENCODER_PHASES[:2])
        amounts = [step, memory.peak()[1], memory.peak(host=True)[1]]
        amounts += [sum(came[when].values()) for when in (ENCODER, "a validation of the encoder")]
        numbers = " | ".join(f"{amount / 1e9:.1f}" for amount in amounts)
        rows.append(f"| {mesh[0] * mesh[1]} ({mesh[0]} × {mesh[1]}) | {numbers} |")
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    assert "\n".join(rows) in page, "\n".join(rows)


def test_meshes():
    assert [mesh_of(*of) for of in ((None, "8x4"), (6, None), (6, "2x3"))] == [
        (8, 4),
        (6, 1),
        (2, 3),
    ]
