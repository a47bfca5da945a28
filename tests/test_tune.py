"""`hdrm tune`: what it searches, what it finds, and that it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from hdrm import cli
from hdrm.cli import training
from hdrm.config import PRESETS, Config, format_assignments, parse_assignments
from hdrm.data import Dataset, load
from hdrm.data.splits import per_user
from hdrm.train import Trainer, trainer, tune
from hdrm.train.search_folder import Task, claimed
from hdrm.train.space import search_space
from hdrm.train.trainer import CRITERION, Diverged

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'hdrm[tune]'")

NUM_USERS, NUM_ITEMS = 60, 40
CONFIG = Config(
    dim=9,
    hidden=(8,),
    steps=8,
    sampling_steps=2,
    averaging=0.0,
    encoder_negatives=4,
    encoder_epochs=4,
    encoder_batch=200,
    encoder_lr=0.01,
    diffusion_epochs=2,
    diffusion_batch=400,
    eval_steps=1,
)
SEARCH = ("encoder_lr=0.001:0.05", "layers=1:3")
MADE = 6  # trials of the search that others are compared with


def pairs() -> np.ndarray:
    """Four groups of users, each with items of its own that it takes half of, and a few others."""
    generator = np.random.default_rng(0)
    same_group = np.arange(NUM_USERS)[:, None] % 4 == np.arange(NUM_ITEMS) % 4
    return np.argwhere(generator.random(same_group.shape) < np.where(same_group, 0.5, 0.05))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_pairs("tiny", NUM_USERS, NUM_ITEMS, *per_user(pairs(), 0))


def task_of(dataset, wanted=SEARCH, config=CONFIG, **changes) -> Task:
    return Task(dataset, "tiny", "large", config, search_space(config, wanted), **changes)


class Notes(tune.SearchObserver):
    """Every trial that has ended; calls ``disturb`` at each validation of trial ``number``."""

    def __init__(self, number=None, disturb=None):
        self.trials, self._number, self._disturb, self._now = [], number, disturb, None

    def trial_begins(self, number):
        self._now = number

    def validated(self, record, best):
        if self._now == self._number:
            self._disturb()

    def trial_ended(self, trial, best):
        self.trials.append(trial)


def search(task, folder, trials, observer=None) -> list:
    """Search; what was drawn and found, trial by trial."""
    notes = observer or Notes()
    tune.tune(task, folder, trials=trials, observer=notes)
    return outcomes(notes)


def outcomes(notes) -> list:
    return [(trial.settings, trial.state, trial.value) for trial in notes.trials]


def stored(folder) -> list:
    """The trials in the database: (state, values of the fields)."""
    study = optuna.load_study(study_name="hdrm", storage=f"sqlite:///{folder / 'study.db'}")
    return [(trial.state.name, trial.params) for trial in study.trials]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """(folder, outcomes) of a search that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    return folder, search(task_of(dataset), folder, MADE)


def test_a_search_finds_the_best_of_its_trials_and_stores_it(whole):
    folder, found = whole
    assert found[0][0] == {"encoder_lr": 0.01, "layers": 3}, "the first trial is the settings"
    assert len({str(settings) for settings, _, _ in found}) == MADE
    for settings, _, _ in found:
        lr = settings["encoder_lr"]
        assert 0.001 <= lr <= 0.05 and lr == float(f"{lr:.4g}") and settings["layers"] in (1, 2, 3)
    best = json.loads((folder / "best.json").read_text())
    complete = [(value, settings) for settings, state, value in found if state == "complete"]
    value, settings = max(complete, key=lambda pair: pair[0])
    assert (best[f"validation_{CRITERION}"], best["settings"]) == (value, settings)
    assert best["config"] == json.loads(CONFIG.replace(**settings).to_json())
    values = [trial["value"] for trial in best["best"]]
    assert len(values) == 5 and values == sorted(values, reverse=True) and values[0] == value
    assert {path.name for path in folder.iterdir()} == {"study.json", "study.db", "best.json"}


def test_a_trial_is_what_a_training_with_its_settings_gives(dataset, tmp_path):
    config = CONFIG.replace(encoder_epochs=12, eval_steps=1, encoder_lr=0.05)
    task = task_of(dataset, ["layers=1:3"], config)
    assert task.encoder_alone
    ((settings, _, value),) = search(task, tmp_path / "study", 1)
    run = Trainer(dataset, config.replace(**settings), tmp_path / "run", source="tiny").fit().run
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    values = [line[CRITERION] for line in lines if line["stage"] == "encoder"]
    assert value == max(values) > values[-1]


def test_a_search_in_two_goes_is_the_search_in_one(dataset, whole, tmp_path):
    first = search(task_of(dataset), tmp_path / "study", 2)
    assert first + search(task_of(dataset), tmp_path / "study", MADE - 2) == whole[1]


KILLED = """
import os, signal, sys
from pathlib import Path
import test_tune
from hdrm.data import load

kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
task = test_tune.task_of(load(sys.argv[1]))
test_tune.tune.tune(task, Path(sys.argv[2]), trials=9, observer=test_tune.Notes(2, kill))
"""


def write_npy(folder):
    folder.mkdir()
    for name, split in zip(("train", "valid", "test"), per_user(pairs(), 0)):
        np.save(folder / f"{name}_list.npy", split)
    return folder


def test_a_search_whose_process_was_killed_goes_on(whole, tmp_path):
    """SIGKILL in the middle of the third trial; then its second attempt dies, too."""
    tiny, folder = write_npy(tmp_path / "tiny"), tmp_path / "study"
    path = f"import sys; sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})"
    command = [sys.executable, "-c", path + KILLED, str(tiny), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [state for state, _ in stored(folder)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert (folder / "trial" / "model.safetensors").exists()
    assert json.loads((folder / "best.json").read_text())["trials"]["complete"] == 2

    task = task_of(load(str(tiny)))
    again = search(task, folder, 1)
    states = [state for state, _ in stored(folder)]
    assert again == [whole[1][2]] and states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert again + search(task, folder, MADE - 3) == whole[1][2:]
    assert not (folder / "trial").exists()


def test_a_trial_that_kills_its_process_twice_is_left_alone(dataset, whole, tmp_path):
    def die():
        raise OSError("no space left")

    task, folder = task_of(dataset), tmp_path / "study"
    for number in (2, 3):
        with pytest.raises(OSError, match="no space left"):
            tune.tune(task, folder, trials=MADE, observer=Notes(number, die))
    (_, once), (_, twice) = stored(folder)[2:4]
    assert once == twice
    (next_one,) = search(task, folder, 1)
    assert next_one[0] != whole[1][2][0]
    assert [state for state, _ in stored(folder)] == [*["COMPLETE"] * 2, *["FAIL"] * 2, "COMPLETE"]


def test_ctrl_c_ends_a_search_with_the_best_so_far(dataset, whole, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    task, folder = task_of(dataset), tmp_path / "study"
    notes = Notes(2, interrupt)
    found = tune.tune(task, folder, trials=MADE, observer=notes)
    assert found.interrupted and outcomes(notes) == whole[1][:2]
    assert found.best[0].value == max(value for _, _, value in whole[1][:2])
    for number in (3, 4):  # however often
        tune.tune(task, folder, trials=1, observer=Notes(number, interrupt))
    assert search(task, folder, MADE - 2) == whole[1][2:]


def other_data(dataset):
    return dataclasses.replace(dataset, valid=dataset.test, test=dataset.valid)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda task: {"dataset": other_data(task.dataset)}, "its data are tiny ("),
        (lambda task: {"preset": "yelp"}, "its preset is large, this one's yelp"),
        (lambda task: {"config": CONFIG.replace(dim=10)}, "it has dim = 9, this one 10"),
        (lambda task: {"config": CONFIG.replace(seed=1)}, "it has seed = 0, this one 1"),
        (
            lambda task: {"space": task.space | {"margin": "0.1:1"}},
            "this one alone searches margin",
        ),
        (lambda task: {"space": task.space | {"layers": "1:2"}}, "layers = 1:3, this one 1:2"),
        (lambda task: {"space": {"layers": "1:3"}}, "it alone searches encoder_lr"),
    ],
)
def test_another_search_is_refused(dataset, whole, changed, words):
    task, before = task_of(dataset), stored(whole[0])
    with pytest.raises(ValueError, match="is another search") as error:
        tune.tune(dataclasses.replace(task, **changed(task)), whole[0], trials=1)
    assert words in str(error.value) and "--search layers=1:3 --study" in str(error.value)
    assert stored(whole[0]) == before


def test_what_is_no_search_is_refused(dataset, tmp_path):
    task = task_of(dataset)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        tune.tune(task, tmp_path, trials=1)
    for name, text in (("study.json", "[]"), ("study.json", "{"), ("study.db", "a" * 5000)):
        folder = tmp_path / f"{name} {text[:1]}"
        with claimed(folder, task):
            pass
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} is damaged or of another version"):
            tune.tune(task, folder, trials=1)
    with claimed(tmp_path / "used", task), pytest.raises(RuntimeError, match="another process"):
        tune.tune(task, tmp_path / "used", trials=1)


def test_hopeless_trials_are_pruned(dataset, tmp_path):
    task = task_of(dataset, ["encoder_lr=1e-7:0.02"])
    notes = Notes()
    tune.tune(task, tmp_path / "study", trials=12, observer=notes)
    pruned = [trial for trial in notes.trials if trial.state == "pruned"]
    assert pruned and all(trial.number >= 5 for trial in pruned)
    first = task.config.patience // 2 + 1  # validation that may prune; each epoch has one here
    assert all(trial.reason == "below the median" for trial in pruned)
    assert {trial.epochs for trial in pruned} == {first}
    assert min(trial.settings["encoder_lr"] for trial in pruned) < 1e-4
    complete = [trial for trial in notes.trials if trial.state == "complete"]
    assert max(t.value for t in complete) > max(t.value for t in pruned)


def test_a_trial_that_diverges_is_pruned(dataset, tmp_path):
    notes = Notes()
    task = task_of(dataset, ["encoder_lr=0.01,1e30"])
    found = tune.tune(task, tmp_path / "study", trials=5, observer=notes)
    for trial in notes.trials:
        diverged = trial.settings["encoder_lr"] > 1
        assert trial.state == ("pruned" if diverged else "complete")
        assert ("lower encoder_lr" in trial.reason) == diverged
    assert found.counts["pruned"] == 1 and found.config.encoder_lr == 0.01


@pytest.mark.parametrize("error", [Diverged("too far"), torch.OutOfMemoryError("too large")])
def test_nothing_is_found_where_no_trial_ends(dataset, tmp_path, monkeypatch, error):
    def fit(self, *, test):
        raise error

    monkeypatch.setattr(Trainer, "fit", fit)
    notes = Notes()
    found = tune.tune(task_of(dataset), tmp_path / "study", trials=2, observer=notes)
    assert [trial.reason for trial in notes.trials] == [str(error)] * 2
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert not found.best and best == {"trials": {"complete": 0, "pruned": 2, "failed": 0}}


def test_settings_that_do_not_go_together_are_pruned(dataset, tmp_path):
    task, notes = task_of(dataset, ["steps=2,3", "sampling_steps=2,3"]), Notes()
    assert not task.encoder_alone
    found = tune.tune(task, tmp_path / "study", trials=6, observer=notes)
    assert found.counts == {"complete": 3, "pruned": 1, "failed": 0}
    (invalid,) = (trial for trial in notes.trials if trial.state == "pruned")
    assert invalid.settings == {"steps": 2, "sampling_steps": 3} and invalid.value is None
    assert "sampling_steps must not exceed steps" in invalid.reason


def test_few_combinations_are_tried_once_each(dataset, tmp_path):
    task = task_of(dataset, ["layers=1:3", "averaging=0,0.9"])
    found = search(task, tmp_path / "study", 4) + search(task, tmp_path / "study", None)
    tried = [(settings["layers"], settings["averaging"]) for settings, _, _ in found]
    assert sorted(tried) == [(n, a) for n in (1, 2, 3) for a in (0.0, 0.9)] and tried[0] == (3, 0.0)
    assert search(task, tmp_path / "study", None) == []


def test_the_test_split_is_not_looked_at(dataset, whole, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("the test split is ranked")

    monkeypatch.setattr(trainer, "evaluate_split", refuse)
    other = dataclasses.replace(dataset, test=dataset.train)
    assert search(task_of(other), tmp_path / "study", 3) == whole[1][:3]


def test_time_ends_a_search_after_the_trial_that_runs(dataset, tmp_path, monkeypatch):
    minutes = iter(range(100))
    monkeypatch.setattr(tune.time, "monotonic", lambda: 60 * next(minutes))
    notes = Notes()
    tune.tune(task_of(dataset), tmp_path / "study", minutes=2.5, observer=notes)
    assert len(notes.trials) == 2  # begun after one and after two minutes


def test_a_search_of_the_diffusion_trains_both_stages(dataset, tmp_path):
    notes = Notes()
    task = task_of(dataset, ["diffusion"])
    assert {"diffusion_lr", "noise_max"} < task.space.keys() and "margin" not in task.space
    tune.tune(task, tmp_path / "study", trials=2, observer=notes)
    assert [trial.epochs for trial in notes.trials] == [6, 6]
    assert not task_of(dataset, config=CONFIG.replace(omega=0.1)).encoder_alone


def test_importance_is_said_where_there_are_enough_trials(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "IMPORTANCE_AFTER", 4)
    for trials, fields in ((3, set()), (1, {"encoder_lr", "layers"})):
        found = tune.tune(task_of(dataset), tmp_path / "study", trials=trials)
        assert found.importance.keys() == fields
    assert sum(found.importance.values()) == pytest.approx(1)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs ``hdrm tune tiny ARGS`` beside the data; returns (exit code, stdout, stderr)."""
    write_npy(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    changed = format_assignments(CONFIG, PRESETS["large"])
    small = ["--preset", "large", *(f"--set={text}" for text in changed)]

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["hdrm", "tune", "tiny", *small, *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return call


def test_the_command_trains_the_best(run, tmp_path):
    code, out, _ = run("--trials", "3", "--seed", "5", "--search", "encoder_lr")
    assert code == 0 and out.count("\ntrial ") == 3
    best = json.loads((tmp_path / "runs" / "tune-tiny" / "best.json").read_text())
    (command,) = [line.strip() for line in out.splitlines() if line.startswith("  hdrm train")]
    value = best[f"validation_{CRITERION}"]
    assert command == best["command"] and f"{value:.4f}" in out
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("hdrm", "train")
    with training.train.make_context(name, arguments) as context:
        parsed = context.params
    config = PRESETS[parsed["preset"]].replace(**parse_assignments(parsed["assignments"]))
    assert json.loads(config.to_json()) == best["config"] and config.seed == 5
    assert config == CONFIG.replace(seed=5, **best["settings"])
    assert config.diffusion_epochs == 2 and parsed["dataset"] == "tiny"


def test_the_command_line_goes_on_and_refuses(run, tmp_path, monkeypatch):
    assert run("--trials", "1", "--search", "layers", "--study", "kept")[0] == 0
    code, out, _ = run("--trials", "1", "--search", "layers", "--study", "kept")
    assert code == 0 and "the best of 2 trials" in out and "trial   1" in out
    code, _, err = run("--trials", "1", "--study", "kept")
    assert code == 2 and "kept is another search" in err and err.count("\n") == 1
    code, _, err = run("--search", "colour")
    assert code == 2 and "cannot search 'colour'" in err and err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run()
    assert code == 2 and "pip install 'hdrm[tune]'" in err and err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "kept"}


def test_ctrl_c_on_the_command_line(run, monkeypatch):
    def fit(self, *, test):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    code, out, _ = run()
    assert code == 130 and "no trial was trained to its end" in out
