"""Several processes whose training is stopped, killed or short of disk: it comes to its end, or says why.

Ten kills under torchrun, and a machine that is lost, take minutes:

    pytest -m slow tests/test_distributed_faults.py
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forks, free_port
from safetensors.torch import load_file
from test_checkpoints import checkpoint_files
from test_cli import write_npy
from test_resume import CONFIG as OF_ONE
from test_resume import options

import hdrm
from hdrm.model.checkpoint import MODEL_FILE

CONFIG = OF_ONE.replace(encoder_epochs=4, diffusion_epochs=2, tables="joint")
LONG = CONFIG.replace(encoder_epochs=25, encoder_lr=0.005, diffusion_epochs=15, patience=50)


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_npy(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def whole(forks, source, tmp_path_factory):
    """The run of one process that nothing happened to, for some settings."""
    folder, known = tmp_path_factory.mktemp("whole"), {}

    def made(config) -> Path:
        if config not in known:
            known[config] = folder / str(len(known))
            codes, _, err = forks.run(1, *train(source, known[config], config))
            assert codes == [0], err
        return known[config]

    return made


def train(source: Path, run: Path, config=CONFIG) -> list:
    return ["train", source, "--preset", "large", *options(config), "--out", run]


def assert_same(run: Path, expected: Path) -> None:
    """Files, metrics and weights are those of a run, but for the order of float additions."""
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in expected.iterdir())
    found, wanted = (
        [json.loads(line) for line in (of / "metrics.jsonl").read_text().splitlines()]
        for of in (run, expected)
    )
    assert len(found) == len(wanted) > 3
    for one, other in zip(found, wanted):
        assert one.pop("stage") == other.pop("stage")
        del one["seconds"], other["seconds"]
        assert one == pytest.approx(other, rel=1e-5)
    found, wanted = (json.loads((of / "report.json").read_text()) for of in (run, expected))
    for ranker in ("popularity", "encoder", "hdrm"):
        assert found[ranker] == pytest.approx(wanted[ranker], rel=1e-5)
    found, wanted = (load_file(of / MODEL_FILE) for of in (run, expected))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def newest(run: Path) -> int:
    return max((int(path.stem) for path in run.glob("checkpoints/*.json")), default=0)


def wait_for(run: Path, number: int, seconds: float = 60) -> None:
    """Until a checkpoint of this number is there."""
    end = time.monotonic() + seconds
    while newest(run) < number:
        assert time.monotonic() < end, f"checkpoint {number} does not come"
        time.sleep(0.01)


# A signal, a kill or a full disk at the n-th checkpoint, for `code` of Forks.
AT = """
import os, resource, signal
from hdrm.{of} as of
calls, before = [], of.{method}
def now(self, *args, **named):
    calls.append(1)
    if rank == {rank} and len(calls) == {call}:
        {what}
    return before(self, *args, **named)
of.{method} = now
"""
SEVERAL, ONE = (
    "distributed.checkpoints import RankCheckpoints",
    "train.checkpoints import Checkpoints",
)
STOP = "os.kill(os.getpid(), signal.SIGTERM)"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("stops", "last"),
    [
        ([(4, 3, "4x1")], 2),
        ([(2, 6, "1x2")], 4),
        ([(4, 8, "2x2"), (1, 3, "1x1"), (2, 3, "2x1")], 3),
    ],
)
def test_another_number_of_processes_goes_on(forks, source, whole, tmp_path, stops, last):
    run = tmp_path / "run"
    for size, call, mesh in stops:
        code = AT.format(of=SEVERAL, method="write", rank=size - 1, call=call, what=STOP)
        # One of one is several too where torchrun has started it.
        code += "os.environ['TORCHELASTIC_RUN_ID'] = 'x'\n"
        command = [*train(source, run), "--mesh", mesh]
        codes, out, err = forks.run(size, *command, code=code)
        assert codes == [143] * size, err
        assert out.count("stopped; to go on: the same command") == 1
        assert len(list(run.glob("checkpoints/*.shards/*"))) == 2 * size, "not a part each"
        hdrm.HDRM.load(run).recommend([3], 5)
    codes, out, err = forks.run(last, *train(source, run))
    assert codes == [0] * last, err
    assert out.count("HDRM") == 1 and err.count("note: the run was trained with mesh ") == 1
    assert_same(run, whole(CONFIG))
    codes, out, _ = forks.run(last, *train(source, run))
    assert codes == [0] * last and out.count(f"{run} is finished") == 1


def test_the_result_is_a_model_of_one_process(forks, source, tmp_path, command):
    assert forks.run(3, *train(source, tmp_path / "run"))[0] == [0] * 3
    model = hdrm.HDRM.load(tmp_path / "run")
    assert model.recommend([3], 5)[0].shape == (1, 5)
    code, _, err = command("export", tmp_path / "run", "--to", "npz", "-o", tmp_path / "v.npz")
    assert code == 0, err
    with np.load(tmp_path / "v.npz", allow_pickle=False) as vectors:
        assert {vectors[name].shape[:1] for name in vectors.files} >= {(40,), (30,)}
    code, out, _ = command("evaluate", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert code == 0 and f"{report['hdrm']['ndcg@20']:.4f}" in out


@pytest.mark.parametrize(
    ("method", "rank", "call"),
    [("write", 1, 2), ("_layout", 2, 4), ("_complete", 0, 5), ("_delete", 0, 4), ("remove", 0, 1)],
)
def test_killed_while_a_checkpoint_is_written(forks, source, whole, tmp_path, method, rank, call):
    run = tmp_path / "run"
    code = AT.format(of=SEVERAL, method=method, rank=rank, call=call, what=KILL)
    codes, _, err = forks.run(3, *train(source, run), code=code)
    assert codes[rank] == -signal.SIGKILL
    if method != "remove":  # the others have no more to do then
        assert sorted(codes) == [-signal.SIGKILL, 2, 2] and newest(run) > 0
        assert err.count("\n") == 1 and "lost the connection to another one" in err, err
    codes, _, err = forks.run(3, *train(source, run))
    assert codes == [0] * 3, err
    assert_same(run, whole(CONFIG))


def test_killed_before_the_first_checkpoint(forks, source, whole, tmp_path):
    run = tmp_path / "run"
    code = AT.format(of=SEVERAL, method="write", rank=1, call=1, what=KILL)
    assert forks.run(2, *train(source, run), code=code)[0] == [2, -signal.SIGKILL]
    codes, _, err = forks.run(2, *train(source, run))
    assert codes == [0] * 2, err
    assert_same(run, whole(CONFIG))


@pytest.mark.parametrize(
    ("of", "method", "rank", "call"),
    [
        (SEVERAL, "write", 1, 1),
        (SEVERAL, "write", 1, 3),
        (SEVERAL, "_complete", 0, 6),
        ("distributed.team import RankTeam", "save", 0, 3),
    ],
)
def test_a_full_disk_keeps_the_checkpoint_before(
    forks, source, whole, tmp_path, of, method, rank, call
):
    """Full for a process's part, for the .json behind all parts, for the model."""
    run = tmp_path / "run"
    what = "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))"
    code = AT.format(of=of, method=method, rank=rank, call=call, what=what)
    codes, _, err = forks.run(2, *train(source, run), code=code)
    assert codes == [2, 2]
    assert err.count("\n") == 1 and err.startswith(f"error: process {rank if rank == 0 else ''}"), (
        err
    )
    assert "cannot be written: " in err and "File too large" in err
    left = newest(run)
    assert (left > 0) == (call > 1) and not list(run.rglob("*.tmp"))
    if left:
        assert (
            f"continued by: the same command, with as many processes as you like (--out {run})"
            in err
        )
        names = {path.name for path in (run / "checkpoints").glob("0*")}
        assert {name[:6] for name in names} == {f"{n:06d}" for n in (left - 1, left) if n}
    codes, _, err = forks.run(2, *train(source, run))
    assert codes == [0] * 2, err
    assert_same(run, whole(CONFIG))


def test_a_damaged_part_is_passed_over(forks, source, whole, tmp_path):
    run = tmp_path / "run"
    code = AT.format(of=SEVERAL, method="write", rank=0, call=5, what=STOP)
    assert forks.run(2, *train(source, run), code=code)[0] == [143] * 2
    shards = checkpoint_files(run, 0)[-1]
    part = sorted(shards.iterdir())[1]
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    codes, _, err = forks.run(2, *train(source, run))
    assert codes == [0] * 2 and err.count("the checkpoint before it is used") == 1, err
    assert_same(run, whole(CONFIG))


def test_one_and_several_do_not_continue_each_other(forks, source, tmp_path, command):
    several, one = tmp_path / "several", tmp_path / "one"
    code = AT.format(of=SEVERAL, method="write", rank=0, call=2, what=STOP)
    assert forks.run(2, *train(source, several), code=code)[0] == [143] * 2
    code, _, err = command("train", "--resume", several)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"error: several processes have trained {several} so far; go on with the")
    code = AT.format(of=ONE, method="write", rank=0, call=2, what=STOP)
    assert forks.run(1, *train(source, one), code=code)[0] == [143]
    codes, _, err = forks.run(2, *train(source, one))
    assert codes == [2, 2] and err.count("\n") == 1, err
    assert f": one process has trained {one} so far; go on with: hdrm train --resume {one}\n" in err
    assert "can be used" not in err
    codes, _, err = forks.run(2, *train(source, several, CONFIG.replace(dim=8)))
    assert codes == [2, 2] and err.count("\n") == 1 and "was begun with other settings" in err


@pytest.mark.parametrize(("absent", "there"), [([1, 2], 0), ([0], 1)])
def test_who_does_not_come_is_named(forks, source, tmp_path, monkeypatch, absent, there):
    code = "from hdrm.distributed import meeting; meeting.WAIT = 2"
    codes, _, err = forks.run(
        3, *train(source, tmp_path / "run"), code=code, absent=absent, by_hand=True
    )
    assert set(codes) == {2}
    assert err.startswith(f"error: process {there} of 3: "), err
    assert "within 2 s; start all" in err
    if there == 0:
        assert err.count("\n") == 1 and "of 3 processes 1, 2 did not come to 127.0.0.1:" in err
    else:
        assert err.count("process 0 could not be reached at 127.0.0.1:") == 2 == err.count("\n")


def test_one_process_with_the_variables_of_several(source, tmp_path, command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command(*train(source, tmp_path / "run"))
    assert code == 2 and err.count("\n") == 1
    for word in ("RANK, MASTER_ADDR, MASTER_PORT must be set", "by torchrun, or unset WORLD_SIZE"):
        assert word in err
    monkeypatch.setenv("RANK", "0")
    code, _, err = command("train", source)
    assert code == 2 and err.count("\n") == 1 and "name the run folder with --out" in err
    monkeypatch.setenv("RANK", "1")
    assert command("train", source) == (2, "", "")  # the first process says it


@pytest.mark.parametrize(
    ("size", "change", "said"),
    [
        (2, {"--device": "cuda"}, r"needs the GPU cuda:\d, here are 0; start fewer .*--device cpu"),
        (3, {"source": "nowhere"}, "no data set 'nowhere'.* give a path or set HDRM_DATA"),
        (5, {"source": "few"}, "5 processes need as many users at least, there are 4; start fewer"),
        (3, {"--mesh": "2x2"}, "a mesh of 2 × 2 needs 4 processes, there are 3"),
        (2, {"--set": "tables_on=host"}, "set tables_on = device"),
        (2, {"--set": "margins=1"}, "margins"),
        (2, {"--out": "occupied"}, "occupied is not empty; name another folder"),
    ],
)
def test_what_cannot_start_is_one_line(forks, source, tmp_path, size, change, said):
    """Said by one process, which names itself."""
    if "cuda" in change.values() and torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    pairs = np.array([[user, item] for user in range(4) for item in range(6)])
    few = {name: pairs[at::3] for at, name in enumerate(("train", "valid", "test"))}
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").touch()
    change = {k: tmp_path / v if v in ("few", "occupied") else v for k, v in change.items()}
    write_npy(tmp_path / "few", **few)
    arguments = train(change.pop("source", source), tmp_path / "run")
    began = time.monotonic()
    codes, _, err = forks.run(size, *arguments, *(part for pair in change.items() for part in pair))
    assert time.monotonic() - began < 60 and codes == [2] * size
    assert err.count("\n") == 1, err
    assert err.startswith("error: process ") and f" of {size}: " in err
    assert re.search(said, err), err
    assert not (tmp_path / "run").exists()


def torchrun(folder: Path, *options, command, name: str = "torchrun") -> subprocess.Popen:
    """torchrun, whose output goes to a file in the folder."""
    with open(folder / f"{name}.log", "ab") as said:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *options,
                "-m",
                "hdrm",
                *map(str, command),
            ],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        )


def workers(agent: subprocess.Popen) -> list[int]:
    return [
        int(n) for n in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    ]


def end(*agents: subprocess.Popen) -> None:
    """Kill them and their workers, of whom each is in a session of its own."""
    for agent in agents:
        for pid in (*workers(agent), agent.pid) if agent.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        agent.wait()


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_torchrun_starts_killed_processes_again(source, whole, tmp_path, kills):
    """At random moments: while they start, while they train, while they write."""
    config, run, draw = LONG if kills > 1 else CONFIG, tmp_path / "run", random.Random(1)
    options = ("--nproc-per-node", "3", "--max-restarts", "20")
    agent, before = torchrun(tmp_path, *options, command=train(source, run, config)), []
    try:
        for kill in range(kills):
            while len(pids := set(workers(agent)) - set(before)) < 3:
                assert agent.poll() is None, (tmp_path / "torchrun.log").read_text()[-3000:]
                time.sleep(0.05)
            if kill % 3 < 2:
                wait_for(run, newest(run) + draw.randint(1, 5))
                time.sleep(draw.uniform(0, 0.1))
            else:
                time.sleep(draw.uniform(0, 6))
            assert agent.poll() is None, "it ended before"
            before = sorted(pids)
            os.kill(draw.choice(before), signal.SIGKILL)
        assert agent.wait(120) == 0, (tmp_path / "torchrun.log").read_text()[-3000:]
    finally:
        end(agent)
    said = (tmp_path / "torchrun.log").read_text()
    assert said.count("failed (exitcode: -9)") >= kills
    assert said.count("error: process") <= kills, "more than one line for one kill"
    assert_same(run, whole(config))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_is_stopped_and_goes_on(source, whole, tmp_path, number):
    run = tmp_path / "run"
    options = ("--nproc-per-node", "2", "--max-restarts", "3")
    agent = torchrun(tmp_path, *options, command=train(source, run, LONG))
    try:
        wait_for(run, 3)
        agent.send_signal(number)
        assert (
            agent.wait(60) == 1
        )  # torchrun's own, with a traceback; the processes' is 128 + signal
    finally:
        end(agent)
    said, log = ((of).read_text() for of in (tmp_path / "torchrun.log", run / "train.log"))
    assert said.count("stopped; to go on: the same command") == 1 and "error: " not in said
    assert f"stopped by {number.name} at stage" in log
    agent = torchrun(tmp_path, *options, command=train(source, run, LONG))
    try:
        assert agent.wait(120) == 0, (tmp_path / "torchrun.log").read_text()[-3000:]
    finally:
        end(agent)
    assert_same(run, whole(LONG))


@pytest.mark.slow
def test_a_lost_machine(source, whole, tmp_path):
    """Two torchruns, as on two machines; one is gone with its processes, the other goes on alone."""
    run = tmp_path / "run"
    options = (
        *("--nnodes", "1:2", "--nproc-per-node", "2", "--max-restarts", "5"),
        *(
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"127.0.0.1:{free_port()}",
            "--rdzv-id",
            "job",
        ),
        *("--rdzv-conf", "last_call_timeout=10,timeout=120", "--local-addr", "127.0.0.1"),
    )
    agents = []
    try:
        for name in ("kept", "lost"):
            agents.append(torchrun(tmp_path, *options, command=train(source, run, LONG), name=name))
            time.sleep(1)
        wait_for(run, 5, 120)
        end(agents[1])
        assert agents[0].wait(300) == 0, (tmp_path / "kept.log").read_text()[-3000:]
    finally:
        end(*agents)
    log = (run / "train.log").read_text()
    assert log.count("began: ") == 1 and log.index("processes 4") < log.index("processes 2")
    assert_same(run, whole(LONG))
