"""The memory plan: against what a training really takes, and what it says."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hdrm.cli import cli
from hdrm.config import Config
from hdrm.train.plan import PHASES, Sizes, fitting, plan

SIZES = Sizes(10**6, 5 * 10**5, 10**8)
GIB = 2**30

MEASURED = """
import ctypes, json, sys
import numpy as np
from hdrm.config import Config
from hdrm.data import Dataset
from hdrm.train import Trainer
from hdrm.train.plan import Sizes, plan

sizes, settings, folder = Sizes(*json.loads(sys.argv[1])), json.loads(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)


def pairs(count, users):
    return np.stack([rng.integers(0, users, count), rng.integers(0, sizes.num_items, count)], 1)


dataset = Dataset.from_pairs(
    "random", sizes.num_users, sizes.num_items, pairs(sizes.num_train, sizes.num_users),
    pairs(sizes.num_valid, 500), pairs(sizes.num_test, 500),
)
config = Config(**settings)
Trainer(dataset, config, folder, source="random").fit()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([int(peak.split()[1]) * 1024, *plan(config, sizes, device="cpu").peak()]))
"""

ONE_EPOCH = {
    "encoder_epochs": 1, "diffusion_epochs": 1, "layers": 2, "hidden": [32], "steps": 4,
    "sampling_steps": 2, "encoder_negatives": 1, "omega": 0.1, "folds": 2,
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ((300_000, 150_000, 600_000, 1_000, 1_000), {"encoder_batch": 150_000}),
        (
            (60_000, 30_000, 600_000, 1_000, 1_000),
            {"dim": 128, "encoder_batch": 500_000, "diffusion_batch": 150_000},
        ),
        (
            (8_000, 30_000, 240_000, 1_000, 1_000),
            {
                "loss": "softmax",
                "users": "items",
                "encoder_optimizer": "adam",
                "softmax_users": 4_000,
            },
        ),
        (
            (1_000, 100_000, 60_000, 1_000, 1_000),
            {
                "dim": 128,
                "loss": "softmax",
                "users": "mean",
                "encoder_optimizer": "adam",
                "softmax_users": 500,
            },
        ),
        (
            (60_000, 30_000, 300_000, 1_000, 1_000),
            {"dim": 128, "diffusion_batch": 100_000, "conditioning": "pair", "predict": "x0"},
        ),
        (
            (60_000, 30_000, 300_000, 1_000, 1_000),
            {
                "dim": 100,
                "diffusion_batch": 100_000,
                "conditioning": "pair",
                "hidden": [120],
                "tables": "joint",
                "averaging": 0.0,
            },
        ),
    ],
)
def test_the_peak_is_that_of_a_real_training(tmp_path, sizes, settings):
    settings = ONE_EPOCH | {"diffusion_batch": 60_000} | settings
    arguments = [json.dumps(sizes), json.dumps(settings), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True
    )
    measured, phase, planned = json.loads(done.stdout.splitlines()[-1])
    assert abs(planned / measured - 1) < 0.1, (
        f"{planned:,} planned ({phase}), {measured:,} measured"
    )


def test_more_of_anything_needs_more():
    base = plan(Config(), SIZES).peak()[1]
    assert plan(Config(dim=128), SIZES).peak()[1] > 1.5 * base
    for larger in (Sizes(2 * 10**6, 5 * 10**5, 10**8), Sizes(10**6, 10**6, 10**8),
                   Sizes(10**6, 5 * 10**5, 2 * 10**8)):  # fmt: skip
        assert plan(Config(), larger).peak()[1] > base
    on_cpu = plan(Config(), SIZES, device="cpu")
    apart = plan(Config(), SIZES)
    copied = ("training graph as it was read", "copies for files")
    copies = [part for part in apart.parts if part.name in copied]
    for phase in PHASES:  # on the CPU memory is kept, too
        both = apart.bytes_in(phase) + apart.bytes_in(phase, host=True)
        both -= sum(copy.num_bytes for copy in copies if phase in copy.phases)
        assert both <= on_cpu.bytes_in(phase) <= both + GIB


@pytest.mark.parametrize(
    ("settings", "tables", "with_graph"),  # of the encoder and of the diffusion
    [
        ({}, (3, 1), (0, 1)),
        ({"tables": "joint"}, (3, 3), (0, 0)),
        ({"propagation": "sampled"}, (2, 1), (0, 1)),
        ({"encoder_optimizer": "adam", "averaging": 0.0}, (3, 1), (0, 1)),
        ({"tables_on": "host", "tables": "joint"}, (0, 0), (1, 1)),
    ],
)
def test_what_goes_from_a_device_to_a_file_is_copied_on_the_host(settings, tables, with_graph):
    """A checkpoint, or the best model and its graph, whatever is more."""
    config, sizes = Config(hidden=(1,), **settings), Sizes(10**6, 5 * 10**5, 10**7)
    table, graph = 1_500_000 * 64 * 4, 1_500_001 * 8 + 2 * 10**7 * 4
    copies = [part for part in plan(config, sizes).parts if part.name == "copies for files"]
    assert all(part.host for part in copies)
    for part, times, graphs in zip(copies, tables, with_graph, strict=True):
        denoisers = part.num_bytes - times * table - graphs * graph
        assert 0 < denoisers < 20_000
    on_cpu = plan(config, sizes, device="cpu").parts  # which are written from where they are
    assert "copies for files" not in {part.name for part in on_cpu}


def test_a_large_graph_fits_as_the_documentation_says():
    full, fits = fitting(Config(), SIZES, 8 * GIB)
    assert fits and full.config == Config()
    sampled = Config(propagation="sampled", fanouts=(4, 2, 1), tables_on="host", encoder_batch=5_000,
                     encoder_negatives=1)  # fmt: skip
    steps = [
        plan(sampled, SIZES).bytes_in(phase) for phase in ("encoder forward", "encoder backward")
    ]
    assert max(steps) < 2 * GIB


def test_cheaper_settings_are_tried_in_turn():
    needs = plan(Config(), SIZES).peak()[1]
    assert fitting(Config(), SIZES, needs) == (plan(Config(), SIZES), True)
    seen = []
    for budget in range(needs - 1, 0, -needs // 50):
        found, fits = fitting(Config(), SIZES, budget)
        if not fits:
            break
        assert found.peak()[1] <= budget
        seen.append((found.config.propagation, found.config.tables_on))
    assert set(seen) == {("full", "host")}  # with less on the device, the same phase needs the most
    smallest, fits = fitting(Config(), SIZES, 1)
    assert not fits and smallest.peak()[1] <= found.peak()[1]


def test_narrow_work_tables_are_tried_before_neighbours_are_sampled():
    """Where the backward of the encoder needs the most: few users, whom no table is made for."""
    sizes = Sizes(10**5, 10**6, 10**7)
    exact = plan(Config(), sizes)
    (phase, needs), half = exact.peak(), 1_100_000 * 64 * 4 // 2
    assert phase == "encoder backward"
    narrow = Config(work_tables="bfloat16")
    assert exact.bytes_in(phase) - plan(narrow, sizes).bytes_in(phase) == half
    found, fits = fitting(Config(), sizes, needs - 1)
    assert fits and found.config == narrow
    for layers in (1, 2):
        one, two = (
            plan(Config(layers=layers, work_tables=kind), sizes).bytes_in(phase)
            for kind in ("float32", "bfloat16")
        )
        assert two - one == (half if layers == 1 else -half)  # one round alone has no wide table


def test_the_command_prints_the_plan_and_what_fits():
    sizes = ["plan", "--users", "1e6", "--items", "5e5", "--interactions", "1e8", "--dim", "64"]
    done = CliRunner().invoke(cli, [*sizes, "--budget", "24GiB"])
    assert done.exit_code == 0
    settings = ("propagation=full", "work_tables=float32")
    for text in ("training graph", "encoder backward", "peak", *settings):
        assert text in done.output
    refused = CliRunner().invoke(cli, [*sizes, "--budget", "10MB"])
    assert isinstance(refused.exception, ValueError)
    assert "needs at least" in str(refused.exception) and "training graph" in refused.output
    unclear = CliRunner().invoke(cli, ["plan", "--users", "5"])
    assert "give a DATASET, or --users, --items and --interactions" in unclear.output


def test_training_refuses_a_budget_before_it_writes_anything(tmp_path):
    command = ["train", "demo", "--out", str(tmp_path / "run"), "--memory-budget", "1MiB"]
    refused = CliRunner().invoke(cli, command)
    assert "more than the budget of 1 MiB" in str(refused.exception)
    assert not (tmp_path / "run").exists()


def test_a_softmax_is_cheaper_in_parts_only():
    config = Config(loss="softmax", users="items", encoder_optimizer="adam", softmax_users=10_000)
    needs = plan(config, SIZES).peak()[1]
    found, fits = fitting(config, SIZES, needs - 1)
    assert fits and found.config == config.replace(micro_batches=4)
    cheapest, fits = fitting(config, SIZES, 1)
    assert not fits and cheapest.config.propagation == "full"
