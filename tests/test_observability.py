"""What a training shows while it runs: bars, events for TensorBoard, a profile."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import mmap

import numpy as np
import pytest
from rich.console import Console

from hdrm.config import Config
from hdrm.data import Dataset
from hdrm.data.splits import per_user
from hdrm.memory import format_bytes, resident
from hdrm.model import HDRM
from hdrm.train import Trainer
from hdrm.train.denoising import DenoisingStage
from hdrm.train.observer import Observer, Observers
from hdrm.train.pair_diffusion import PairDiffusionStage
from hdrm.train.profiling import STEPS, Profile, trace_file
from hdrm.train.progress import Bars
from hdrm.train.stages import DiffusionStage, EncoderStage
from hdrm.train.tensorboard import FOLDER, TensorBoard

CONFIG = Config(
    dim=9,
    hidden=(8, 8),
    steps=4,
    sampling_steps=2,
    folds=2,
    encoder_epochs=6,
    encoder_batch=100,
    diffusion_epochs=4,
    diffusion_batch=60,
    softmax_users=15,
    eval_steps=1,
    patience=9,
    checkpoint_minutes=0,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    pairs = np.argwhere(np.random.default_rng(0).random((40, 30)) < 0.3)
    return Dataset.from_pairs("tiny", 40, 30, *per_user(pairs, 0))


def train(dataset, run, *observers, config=CONFIG):
    observer = Observers(*observers)
    return Trainer(dataset, config, run, source="tiny", observer=observer).fit()


class Notes(Observer):
    """Everything that is told, in order; ``stop_at``: interrupts at this step."""

    def __init__(self, stop_at: int = 0) -> None:
        self.told, self._left = [], stop_at

    def stage(self, *args):
        self.told.append(("stage", *args))

    def resumed(self, steps, records):
        self.told.append(("resumed", steps, len(records)))

    def step(self, loss):
        self.told.append(("step", loss))
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt

    def validated(self, record, best):
        self.told.append(("validated", record["epoch"], best))

    def close(self):
        self.told.append(("close",))


def test_every_observer_is_told_everything_in_order(dataset, tmp_path):
    notes = Notes(), Notes()
    train(dataset, tmp_path / "run", *notes)
    assert notes[0].told == notes[1].told
    kinds = [told[0] for told in notes[0].told]
    assert kinds.count("stage") == 2 and kinds.count("validated") == 10 and kinds[-1] == "close"
    assert [told[1] for told in notes[0].told if told[0] == "stage"] == ["encoder", "diffusion"]


def test_observers_are_closed_after_an_error(dataset, tmp_path):
    class Broken(Observer):
        def step(self, loss):
            raise ZeroDivisionError

    notes = Notes()
    with pytest.raises(ZeroDivisionError):
        train(dataset, tmp_path / "run", notes, Broken())
    assert notes.told[-1] == ("close",)


@pytest.mark.parametrize(
    ("stage", "settings", "examples"),
    [
        (EncoderStage, {"pairs": "interactions"}, "edges"),
        (EncoderStage, {"pairs": "users"}, "batches"),
        (DenoisingStage, {"loss": "softmax"}, 40),
        (DiffusionStage, {"pairs": "interactions"}, "edges"),
        (PairDiffusionStage, {"conditioning": "pair", "pairs": "interactions"}, "edges"),
    ],
)
def test_examples_are_what_an_epoch_looks_at(dataset, stage, settings, examples):
    model = HDRM(40, 30, CONFIG.replace(**settings))
    model.set_graph(dataset.graph)
    made = stage(model, model.config)
    known = {"edges": dataset.train.nnz, "batches": 100 * made.steps_per_epoch}
    assert made.examples == known.get(examples, examples)


def bars(width=200):
    text = io.StringIO()
    return Bars(Console(file=text, width=width)), text


def test_bars_show_speed_memory_and_the_last_and_best_validation():
    watched, text = bars()
    watched.stage("encoder", epochs=3, steps_per_epoch=2, examples=500)
    ranks = {"ndcg@20": 0.5, "omega": 0.0, "stage": "encoder", "loss": 2.5}
    for epoch, recall in ((1, 0.25), (2, 0.125)):
        watched.step(2.5)
        watched.step(2.5)
        watched.validated({**ranks, "epoch": epoch, "recall@20": recall}, best=epoch == 1)
    task = watched._progress.tasks[0]
    assert task.fields["speed"] == pytest.approx(250 * 4 / task.elapsed, rel=0.5)
    watched.close()
    out = text.getvalue()
    assert "Recall@20 0.2500  (stored)" in out and "epoch 2/3 loss 2.5" in out
    assert "Recall@20 0.1250, best 0.2500" in out
    assert "examples/s" in out and "iB" in out and "left" in out


def test_bars_go_on_where_a_training_was():
    watched, text = bars()
    watched.stage("diffusion", epochs=3, steps_per_epoch=4, examples=40)
    records = [{"stage": "encoder", "recall@20": 0.9}, {"stage": "diffusion", "recall@20": 0.3}]
    watched.resumed(5, records)
    task = watched._progress.tasks[0]
    assert (task.completed, task.fields["epoch"]) == (5, 2)
    watched.step(1.0)
    assert task.fields["speed"] < 10 / task.elapsed * 1.5  # the five earlier steps do not count
    watched.close()
    assert "Recall@20 0.3000, best 0.3000" in text.getvalue()


def test_memory_is_that_of_this_process():
    size, before = 2**25, resident()
    with mmap.mmap(-1, size) as fresh:  # an array may get pages that were freed and are still there
        for page in range(0, size, mmap.PAGESIZE):
            fresh[page] = 1
        assert resident() - before == pytest.approx(size, rel=0.1)
    assert abs(resident() - before) < 0.1 * size
    assert (format_bytes(410 * 2**20), format_bytes(3 * 2**29)) == ("410 MiB", "1.5 GiB")


def scalars(run, stage) -> dict[str, list[tuple[int, float]]]:
    """Of each tag steps and values, as TensorBoard shows them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / FOLDER / stage))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_events_are_the_log(dataset, tmp_path):
    pytest.importorskip("tensorboard")
    run, notes = tmp_path / "run", Notes()
    train(dataset, run, TensorBoard(run), notes)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sizes = {told[1]: told[2] * told[3] for told in notes.told if told[0] == "stage"}
    for stage in ("encoder", "diffusion"):
        found = scalars(run, stage)
        assert [step for step, _ in found["loss"]] == list(range(1, sizes[stage] + 1))
        expected = [r["recall@20"] for r in records if r["stage"] == stage]
        assert [value for _, value in found["validation/recall@20"]] == pytest.approx(expected)
        assert len(found["omega"]) == len(expected)
    told = [value for kind, *rest in notes.told if kind == "step" for value in rest]
    losses = [event for stage in ("encoder", "diffusion") for event in scalars(run, stage)["loss"]]
    assert [value for _, value in losses] == pytest.approx(told)


def test_a_resumed_log_has_every_step_once(dataset, tmp_path):
    pytest.importorskip("tensorboard")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(dataset, whole, TensorBoard(whole))

    class Dies(Notes):
        def step(self, loss):
            super().step(loss)
            if len([told for told in self.told if told[0] == "step"]) == 9:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="continued by"):
        train(dataset, stopped, TensorBoard(stopped), Dies())
    made = [step for step, _ in scalars(stopped, "encoder")["loss"]]
    notes = Notes()
    observer = Observers(TensorBoard(stopped), notes)
    Trainer.resume(stopped, dataset=dataset, observer=observer).fit()
    (again,) = [told for told in notes.told if told[0] == "resumed"]
    assert 0 < again[1] < made[-1]  # a step is made again
    for stage in ("encoder", "diffusion"):
        assert scalars(stopped, stage) == scalars(whole, stage)


def test_a_missing_tensorboard_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **named):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"extra tensorboard: pip install -e '\.\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_profile_names_our_ops_and_has_five_steps(dataset, tmp_path):
    run, profile = tmp_path / "run", Profile(tmp_path / "run")
    train(dataset, run, profile)
    assert list(profile.found) == ["encoder", "diffusion"]
    for stage, costs in profile.found.items():
        events = json.loads(gzip.decompress(trace_file(run, stage).read_bytes()))["traceEvents"]
        names = [event.get("name", "") for event in events if event.get("ph") == "X"]
        assert len([name for name in names if name.startswith("ProfilerStep")]) == STEPS
        assert {"hdrm::propagate", "hdrm::expmap0"} <= set(names) or stage == "diffusion"
        assert sum(cost.share for cost in costs) == pytest.approx(1)
        assert costs == sorted(costs, key=lambda cost: -cost.seconds)
    encoder = {cost.name: cost for cost in profile.found["encoder"]}
    assert encoder["hdrm::propagate_backward"].calls == STEPS
    assert trace_file(run, "encoder").stat().st_size < 2**20
    assert not [path for path in run.iterdir() if path.suffix == ".tmp"]


def test_a_profile_does_not_change_the_training(dataset, tmp_path):
    run, plain = tmp_path / "run", tmp_path / "plain"
    assert train(dataset, run, Profile(run)).test == train(dataset, plain).test


def test_a_failed_training_leaves_neither_events_nor_a_profile(dataset, tmp_path):
    pytest.importorskip("tensorboard")

    class Broken(Observer):
        def validated(self, record, best):
            raise ZeroDivisionError

        def step(self, loss):
            raise ZeroDivisionError

    run = tmp_path / "run"
    profile = Profile(run)
    profile_begins = Config.replace(CONFIG, encoder_epochs=1, encoder_batch=1000)
    with pytest.raises(ZeroDivisionError):
        train(dataset, run, TensorBoard(run), profile, Broken(), config=profile_begins)
    assert not run.exists()


def test_the_command_logs_profiles_and_goes_on(command, tmp_path, monkeypatch, dataset):
    pytest.importorskip("tensorboard")
    (tmp_path / "tiny").mkdir()
    for name in ("train", "valid", "test"):
        pairs = np.stack([ids.numpy() for ids in getattr(dataset, name).pairs()], 1)
        np.save(tmp_path / "tiny" / f"{name}_list.npy", pairs)
    settings = [f"--set={name}" for name in ("hidden=8,8", "encoder_batch=100", "eval_steps=1")]
    settings += ["--preset=large", "--epochs=4", "--dim=9", "--set=checkpoint_minutes=0"]
    with monkeypatch.context() as patch:
        told = Notes(stop_at=9)
        patch.setattr(Bars, "step", lambda self, loss: told.step(loss))
        code, out, _ = command("train", "tiny", "--out", "kept", "--log", "tensorboard", *settings)
    assert code == 130 and "to go on: hdrm train --resume kept" in out
    before = scalars(tmp_path / "kept", "encoder")["loss"]
    code, out, _ = command("train", "--resume", "kept", "--profile")
    assert code == 0 and "diffusion: where the time goes" in out and "hdrm::" in out
    losses = scalars(tmp_path / "kept", "encoder")["loss"]
    assert before == losses[: len(before)] and len(losses) > len(before) > 0
    assert [step for step, _ in losses] == list(range(1, len(losses) + 1))
