"""A training that is stopped, at whatever moment, comes to what it would have come to."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from resume_cases import CONFIG, Kill, copied, stop, trainer, write_source
from safetensors.torch import load_file

import hdrm
from hdrm import cli
from hdrm.config import Config
from hdrm.model.checkpoint import MODEL_FILE
from hdrm.train import Trainer
from hdrm.train.checkpoints import Checkpoints
from hdrm.train.resume import Resumed

VARIANTS = {
    "hinge": {},
    "softmax": {"loss": "softmax", "users": "items", "encoder_optimizer": "adam", "averaging": 0},
    "sampled": {
        "propagation": "sampled",
        "fanouts": (4, 2, 2),
        "tables_on": "host",
        "micro_batches": 2,
        "pairs": "interactions",
    },
    "joint": {"tables": "joint", "step_sampling": "importance", "dropout": 0.2},
    "joint-host": {"tables": "joint", "tables_on": "host", "sampling_noise": True, "omega": 0.3},
    "pair": {"conditioning": "pair", "predict": "x0", "diffusion_batch": 40, "training_omega": 0.3},
    "pair-joint": {"conditioning": "pair", "tables": "joint", "diffusion_batch": 40, "omega": 0.2},
}


@pytest.fixture(scope="module", autouse=True)
def default_handlers():
    """Ctrl-C works, also where the tests run in the background."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("data") / "tiny")


def outcome(run: Path) -> dict:
    """All that a run comes to, but the time it took; tensors as their bytes."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {
        "files": sorted(p.name for p in run.iterdir()),
        "model": {k: t.numpy().tobytes() for k, t in load_file(run / MODEL_FILE).items()},
        "report": (run / "report.json").read_text(),
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
    }


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    trainer(source, run).fit()
    return run


@pytest.fixture(scope="module")
def stopped(source, tmp_path_factory) -> Path:
    return stop(source, tmp_path_factory.mktemp("stopped") / "run")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_checkpoint_leads_to_the_same_end(source, tmp_path, variant, monkeypatch):
    """Also one that is older than the best model, of the stage before."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # it takes most of the time
    config = CONFIG.replace(checkpoints_kept=10_000, patience=2, **VARIANTS[variant])
    whole, kept = tmp_path / "whole", tmp_path / "kept"

    def keep(checkpoints):
        shutil.copytree(checkpoints.folder.parent, kept)
        remove(checkpoints)

    remove = Checkpoints.remove
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "remove", keep)
        trainer(source, whole, config).fit()
    expected = outcome(whole)
    numbers = sorted(int(path.stem) for path in kept.glob("checkpoints/*.json"))
    stages = {record["stage"] for record in expected["metrics"]}
    assert stages == {"encoder", "diffusion"} and len(numbers) > 25
    for last in random.Random(0).sample(numbers, 5) + [numbers[0], numbers[-1]]:
        run = tmp_path / "run"
        shutil.copytree(kept, run)
        for path in (run / "checkpoints").glob("0*"):
            if int(path.name[:6]) > last:
                path.unlink()
        Trainer.resume(run).fit()
        assert outcome(run) == expected, f"from checkpoint {last} of {numbers[-1]}"
        shutil.rmtree(run)


# Forks trainings and kills them; forks need not import torch, and what its optimisers load, again.
KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch._dynamo
from hdrm import cli
from hdrm.train import report, trainer

run, kills, most, args = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
draw, killed = random.Random(0), 0

def start(args):
    child = os.fork()
    if not child:
        sys.argv, sys.stdout = ["hdrm", "train", *args], open(os.devnull, "w")
        cli.main()
    return child

def newest():
    return max((int(path.stem) for path in run.glob("checkpoints/*.json")), default=0)

while True:
    before = newest()
    if not before:
        shutil.rmtree(run, ignore_errors=True)
    child = start(["--resume", str(run)] if before else [*args, "--out", str(run)])
    ended = 0
    if killed < kills:
        last = before + draw.randint(0, most)
        while not ended and newest() < last:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            time.sleep(draw.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
    if not ended:
        status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        print(killed)
        sys.exit(os.waitstatus_to_exitcode(status))
    killed += before > 0
"""


def options(config: Config) -> list[str]:
    changed = {k: v for k, v in vars(config).items() if v != getattr(Config(), k)}
    values = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in changed.items()}
    return [part for k, v in values.items() for part in ("--set", f"{k}={v}")]


@pytest.mark.parametrize(
    ("variant", "minutes", "kills", "most"),
    [
        ("hinge", 0, 20, 5),
        pytest.param("softmax", 0.0003, 20, 1, marks=pytest.mark.slow),
        pytest.param("sampled", 0, 60, 2, marks=pytest.mark.slow),
        pytest.param("joint", 0.0003, 20, 1, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_killed_again_and_again(source, tmp_path, variant, minutes, kills, most):
    config = CONFIG.replace(checkpoint_minutes=minutes, **VARIANTS[variant])
    config = config.replace(encoder_epochs=40, diffusion_epochs=20, patience=40)
    trainer(source, tmp_path / "whole", config.replace(checkpoint_minutes=10)).fit()
    args = [str(source), "--preset", "large", *options(config)]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "run"), str(kills), str(most), *args],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == kills, "it ended before"
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.fixture
def hdrm_train(monkeypatch, capsys):
    """Runs ``hdrm train ARGS``; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["hdrm", "train", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_step_and_the_command_says_how_to_go_on(
    source, whole, tmp_path, hdrm_train, monkeypatch, number, code
):
    run, config = tmp_path / "run", CONFIG.replace(checkpoint_minutes=10)
    args = [source, "--preset", "large", *options(config), "--out", run]
    with monkeypatch.context() as patch:
        patch.setattr("hdrm.train.progress.Bars.step", Kill(17, number).step)
        found, out, _ = hdrm_train(*args)
    assert found == code and f"hdrm train --resume {run}" in out
    hdrm.HDRM.load(run).recommend([3], 5)
    newest = max((run / "checkpoints").glob("*.json"))
    position = json.loads(newest.read_text())["facts"]["position"]
    assert (position["stage"], position["epoch"], position["step"]) == (1, 2, 3)
    found, out, _ = hdrm_train("--resume", run)
    assert found == 0 and "HDRM" in out
    assert outcome(run) == outcome(whole)
    log = (run / "train.log").read_text()
    for event in (
        "began",
        f"stopped by {number.name} at stage 2",
        "resumed at",
        "finished; recall@20 on test 0.",
    ):
        assert event in log
    found, out, _ = hdrm_train("--resume", run)
    assert found == 0 and f"{run} is finished" in out


def test_a_second_signal_does_not_wait(source, whole, tmp_path):
    """The run goes on from the checkpoint before."""

    class Twice(Kill):
        waited = False

        def step(self, loss):
            super().step(loss)
            if self.left == 0:
                os.kill(os.getpid(), self.number)
                self.waited = True

    twice = Twice(12, signal.SIGINT)
    assert trainer(source, tmp_path / "run", observer=twice).fit().interrupted == signal.SIGINT
    assert twice.left == 0 and not twice.waited
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert handlers == (signal.default_int_handler, signal.SIG_DFL)
    Trainer.resume(tmp_path / "run").fit()
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_disk_that_is_full_at_whatever_moment(source, whole, tmp_path, monkeypatch):
    """The n-th write fails: the run goes on from what was there before, or nothing is left."""
    full, calls = [], []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == full[-1]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    resumed = 0
    for at in (1, 3, 4, 5, 6, 7, 8, 24, 25, 26, 27, 71, 72, 73, 74, 75, 76, 100, 101):
        run = tmp_path / str(at) / "run"
        full.append(at)
        calls.clear()
        try:
            trainer(source, run).fit()
        except OSError as error:
            assert "No space left on device" in str(error)
            if f"hdrm train --resume {run}" in str(error):
                resumed += 1
                names = {path.name for path in (run / "checkpoints").iterdir()} - {"lock"}
                completed = {name[:6] for name in names if name.endswith(".json")}
                assert {name[:6] for name in names} == completed, "half of one is left"
                full.append(-1)
                Trainer.resume(run).fit()
                assert outcome(run) == outcome(whole)
            else:
                assert not run.parent.exists(), at
    assert resumed > 10


def test_a_file_that_cannot_grow(source, whole, tmp_path, hdrm_train, monkeypatch):
    """The system refuses to write: one line that says what to do."""
    run, (soft, hard) = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    class Small(Kill):
        def step(self, loss):
            self.left -= 1
            if self.left == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))

    monkeypatch.setattr("hdrm.train.progress.Bars.step", Small(15).step)
    try:
        args = [source, "--preset", "large", *options(CONFIG), "--out", run]
        code, _, err = hdrm_train(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert "cannot be written: " in err and f"hdrm train --resume {run}" in err
    assert not list(run.rglob("*.tmp"))
    assert hdrm_train("--resume", run)[0] == 0
    assert outcome(run) == outcome(whole)


def test_what_a_killed_process_left_is_cleaned_up(whole, stopped, tmp_path):
    run = copied(stopped, tmp_path)
    for name in ("000099.safetensors", ".000099.json.7.tmp", "000099.best.safetensors"):
        (run / "checkpoints" / name).write_bytes(b"half")
    (run / ".model.safetensors.7.tmp").write_bytes(b"half")
    (run / "metrics.jsonl").open("a").write('{"stage": "diffusion", "epo')
    trained = Trainer.resume(run)
    found = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert len(found) == 7 and not [name for name in found if "99" in name], found
    trained.fit()
    assert outcome(run) == outcome(whole)


def test_only_one_process_trains_a_run(stopped, tmp_path, hdrm_train):
    run = copied(stopped, tmp_path)
    held = Trainer.resume(run)
    code, _, err = hdrm_train("--resume", run)
    assert code == 2 and "another process trains" in err
    held.fit()
    code, out, _ = hdrm_train("--resume", run)
    assert code == 0 and "is finished" in out


def test_what_cannot_be_resumed_is_one_line(source, stopped, tmp_path, hdrm_train):
    def refused(run, words, *more):
        code, _, err = hdrm_train("--resume", run, *more)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        for word in words:
            assert word in err

    refused(tmp_path / "nowhere", ["nowhere is not a run of `hdrm train`: there is no such folder"])
    refused(tmp_path, ["is not a run of `hdrm train`: it holds no dataset.json"])
    refused(stopped, ["leave out --dim, --set"], "--dim", 9, "--set", "margin=1")
    run = copied(stopped, tmp_path)
    described = json.loads((run / "dataset.json").read_text())
    for damaged in ("[]", "{", json.dumps({"source": "demo"})):
        (run / "dataset.json").write_text(damaged)
        refused(run, ["dataset.json is damaged"])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(source, elsewhere)
    np.save(elsewhere / "test_list.npy", np.array([[0, 1]]))
    described["source"] = str(elsewhere)
    (run / "dataset.json").write_text(json.dumps(described))
    refused(run, ["elsewhere is not what", "fingerprint"])
    (run / "config.json").write_text(CONFIG.replace(seed=5).to_json())
    refused(run, ["no checkpoint in", "other settings", "trained again"])
    (run / "config.json").write_text("{}}")
    refused(run, ["config.json is damaged"])


def test_what_has_changed_is_noted_in_one_line(stopped, tmp_path, monkeypatch):
    run = copied(stopped, tmp_path)
    facts = json.loads(max((run / "checkpoints").glob("*.json")).read_text())["facts"]["machine"]
    was = ", ".join(f"{name} {facts[name]}" for name in ("backend", "threads", "torch"))
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    monkeypatch.setattr("torch.__version__", "2.99.0")
    with hdrm.use_backend("reference"), pytest.warns(UserWarning) as told:
        Trainer.resume(run)
    assert [str(warning.message) for warning in told] == [
        f"the run was trained with {was} and goes on with backend reference, threads 77, torch "
        f"2.99.0: its result is that of an unstopped training no longer bit for bit"
    ]


@pytest.mark.filterwarnings("error")
def test_nothing_is_noted_where_nothing_has_changed(stopped, tmp_path):
    Resumed.open(copied(stopped, tmp_path)).checkpoints.release()
