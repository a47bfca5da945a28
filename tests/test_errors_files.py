"""What a mistake in a command, a file, a run folder or the environment is answered with.

One table: files that are written (or, if None, deleted) beside a data set ``tiny``, a finished run
``kept`` and a stopped one ``stopped``; the command; the message. It is one line, the exit code is 2,
and nothing is left behind. tests/test_errors.py has mistakes in Python.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from hdrm import cli
from hdrm.config import Config
from hdrm.data import load
from hdrm.train import Trainer
from hdrm.train.observer import Observer

PAIRS = np.argwhere(np.random.default_rng(0).random((20, 15)) < 0.4)
CONFIG = Config(
    dim=5, hidden=(4,), steps=2, sampling_steps=1, encoder_epochs=2, encoder_batch=50,
    diffusion_epochs=1, diffusion_batch=50, eval_steps=1,
)  # fmt: skip


class Stop(Observer):
    def validated(self, record, best):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With ``tiny``, ``kept`` and ``stopped``."""
    here = tmp_path_factory.mktemp("errors")
    (here / "tiny").mkdir()
    for name, pairs in (("train", PAIRS[::2]), ("valid", PAIRS[1::4]), ("test", PAIRS[3::4])):
        np.save(here / "tiny" / f"{name}_list.npy", pairs)
    for run, observer in (("kept", None), ("stopped", Stop())):
        tiny = load(here / "tiny")
        # As the command would store it, were it started where the row's is.
        Trainer(tiny, CONFIG, here / run, source="tiny", observer=observer).fit()
    return here


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


LISTS = {f"d/{name}_list.npy": npy(PAIRS[:9]) for name in ("train", "valid", "test")}
CSV = "user,item\n" + "".join(f"{u},{i}\n" for u, i in PAIRS)
MODEL = "kept/model.safetensors"
HEADER = {"format": "hdrm model, version 3", "num_users": "20", "num_items": "15"}


def tensors(metadata, **more) -> bytes:
    return save({"graph.rowptr": torch.zeros(1), "graph.col": torch.zeros(1), **more}, metadata)


TRAIN, PLAN = ["train", "tiny"], ["plan", "tiny", "--device", "cpu"]
OCCUPIED = {"full/thesis.txt": ""}

COMMANDS = [
    ("no command", {}, ["cook"], "No such command 'cook'"),
    ("no option", {}, [*TRAIN, "--colour", "red"], "No such option:? '?--colour"),
    ("no data", {}, ["train", "nowhere"], "no data set 'nowhere'.*give a path or set HDRM_DATA"),
    ("no path", {}, ["train", "/no/where"], "/no/where does not exist; give a data set's folder"),
    ("device", {}, [*TRAIN, "--device", "abacus"], "'abacus' does not exist here; there are: cpu"),
    ("GPU 99", {}, [*TRAIN, "--device", "cuda:99"], "'cuda:99' does not exist here; there are"),
    ("dim", {}, [*TRAIN, "--dim", "1"], "dim must be at least 2, got 1"),
    ("dim wide", {}, [*TRAIN, "--dim", "wide"], "'wide' is not a valid integer"),
    ("epochs", {}, [*TRAIN, "--epochs", "-1"], "encoder_epochs must be at least 0, got -1"),
    ("seed", {}, [*TRAIN, "--seed", "-1"], "seed must be at least 0 and at most 2147483647, got -1"),
    ("setting", {}, [*TRAIN, "--set", "colour=1"], "unknown setting colour; there are: activation"),
    ("no value", {}, [*TRAIN, "--set", "dim"], "expected key=value, got 'dim'"),
    ("preset", {}, [*TRAIN, "--preset", "fast"], "'fast' is not one of 'best'"),
    ("occupied", OCCUPIED, [*TRAIN, "--out", "full"], "full is not empty; name another folder"),
    ("out a file", OCCUPIED, [*TRAIN, "--out", "full/thesis.txt"], "is a file; name a folder"),
    ("encoder", {}, [*TRAIN, "--encoder", "tiny"], "tiny is not a run of `hdrm train`: it holds no"),
    ("budget", {}, [*TRAIN, "--memory-budget", "lots"], "such as 8GiB or 500MB, got 'lots'"),
    ("too little", {}, [*PLAN, "--budget", "1MB"], "needs at least .* MiB .* lower dim or"),
    ("log", {}, [*TRAIN, "--log", "paper"], "'paper' is not 'tensorboard'|not one of"),
    ("resume and more", {}, ["train", "--resume", "stopped", "--dim", "9"],
     "--resume takes everything from the run; leave out --dim"),
    ("resume nothing", {}, ["train", "--resume", "nowhere"], "nowhere is not a run of `hdrm train`"),
    ("tune: field", {}, ["tune", "tiny", "--search", "colour"],
     "cannot search 'colour': it is neither a setting nor a stage"),
    ("tune: range", {}, ["tune", "tiny", "--search", "encoder_lr=2:1"], "expected LOW:HIGH or two choices"),
    ("tune: list", {}, ["tune", "tiny", "--search", "hidden"], "its values are lists; --set"),
    ("tune: trials", {}, ["tune", "tiny", "--trials", "0"], "0 is not in the range"),
    ("plan: nothing", {}, ["plan"], "give a DATASET, or --users, --items and --interactions"),
    ("plan: count", {}, ["plan", "--users", "many"], "is not a positive whole number such as"),
    ("evaluate", {}, ["evaluate", "nowhere"], "nowhere is not a run .*: there is no such folder"),
    ("evaluate: data", {}, ["evaluate", "tiny"], "it holds no model.safetensors"),
    ("evaluate: split", {}, ["evaluate", "kept", "--split", "train"], "'train' is not one of"),
    ("evaluate: device", {}, ["evaluate", "kept", "--device", "abacus"], "there are: cpu"),
    ("compare: one", {}, ["compare", "kept"], "Missing argument 'RUN_B'"),
    ("compare: resamples", {}, ["compare", "kept", "kept", "--resamples", "0"], "0 is not in the"),
    ("recommend: nobody", {}, ["recommend", "kept"], "give one of --user, --items, --users-file"),
    ("recommend: both", {}, ["recommend", "kept", "--user", "1", "--all"], "give one of --user"),
    ("recommend: all", {}, ["recommend", "kept", "--all"], "--users-file and --all need -o FILE"),
    ("recommend: user", {}, ["recommend", "kept", "--user", "99"],
     "kept knows no user '99'; expected a number in 0 … 19"),
    ("recommend: item", {}, ["recommend", "kept", "--items", "1,x"], "knows no item 'x'; expected"),
    ("recommend: k", {}, ["recommend", "kept", "--user", "1", "-k", "16"], "k must be in 1 … 15"),
    ("recommend: suffix", {}, ["recommend", "kept", "--all", "-o", "a.txt"], "be a .csv or .parquet"),
    ("recommend: empty", {"u.txt": "\n"}, ["recommend", "kept", "--users-file", "u.txt", "-o", "a.csv"],
     "u.txt holds no ids; expected one a line"),
    ("recommend: no file", {}, ["recommend", "kept", "--users-file", "u.txt", "-o", "a.csv"],
     "error: u.txt: No such file"),
    ("similar: item", {}, ["similar", "kept", "--item", "99"], "knows no item '99'; expected a number"),
    ("similar: none", {}, ["similar", "kept"], "Missing option '--item'"),
    ("export: to", {}, ["export", "kept", "--to", "xml", "-o", "a.xml"], "to must be one of"),
    ("export: name", {}, ["export", "kept", "--to", "npz", "-o", "a.xml"], "named NAME.npz, got a.xml"),
    ("export: form", {}, ["export", "kept", "--to", "npz", "-o", "a.npz", "--form", "ball"],
     "form must be one of tangent, lorentz"),
    ("export: index", {}, ["export", "kept", "--to", "npz", "-o", "a.npz", "--index", "flat"],
     "index and effort are of an export to faiss, not to npz"),
    ("report: folder", {}, ["report", "kept", "-o", "tiny"], "tiny is a folder; name a file"),
    ("report: titles", {}, ["report", "kept", "--titles", "t.csv"], "t.csv: there is no such file"),
    ("report: strange", {"t.csv": "hello\n"}, ["report", "kept", "--titles", "t.csv"],
     "t.csv: expected lines of an item's id and title.*got 'hello'"),
    ("data: split", {"a.csv": CSV}, ["data", "a.csv", "--split", "time"], "needs a time column"),
    ("data: core", {"a.csv": CSV}, ["data", "a.csv", "--k-core", "99"], "nothing is left.*99-core"),
    ("data: of lists", {}, ["data", "tiny", "--k-core", "2"], "k_core cannot be applied to it; give"),
    ("data: occupied", OCCUPIED, ["data", "tiny", "-o", "full"], "full .*; name another folder for the"),
    ("data: archive", {}, ["data", "ml-1m", "--from", "a.zip"], "a.zip is no file; give the .zip"),
    ("data: which", {"a.zip": "?"}, ["data", "ml-9m", "--from", "a.zip"], "one of ml-.*, got 'ml-9m'"),
    ("data: zip", {"a.zip": "?"}, ["data", "ml-1m", "--from", "a.zip"], "a.zip.*zip"),
    ("graph: file", {}, ["graph", "build", "a.csv", "-o", "g"], "a.csv is no file; give a .*parquet"),
    ("graph: suffix", {"a.txt": CSV}, ["graph", "build", "a.txt", "-o", "g"], "got '.txt'"),
    ("graph: occupied", {"a.csv": CSV, **OCCUPIED}, ["graph", "build", "a.csv", "-o", "full"],
     "full .*; name another folder for the graph"),
    ("graph: sizes", {}, ["graph", "generate", "--users", "9", "--items", "9", "--interactions", "99",
     "-o", "a.parquet"], "between the number of users and a twentieth of all pairs"),
    ("info", {}, ["info", "--preset", "fast"], "'fast' is not one of 'best'"),
]  # fmt: skip

FILES = [
    ("nothing", {"d/readme": ""}, "d is no data set: expected .*found readme"),
    ("no train", {**LISTS, "d/train_list.npy": None}, "train_list.npy is missing: a folder of .npy"),
    ("no array", {**LISTS, "d/train_list.npy": "?"}, "is not a readable .npy array of integers"),
    ("objects", {**LISTS, "d/train_list.npy": npy(PAIRS.astype(object))}, "it holds object of shape"),
    ("floats", {**LISTS, "d/test_list.npy": npy(PAIRS + 0.5)}, r"integer ids, got float64; convert"),
    ("column", {**LISTS, "d/valid_list.npy": npy(PAIRS[:, :1])}, r"shape \(n, 2\).*got \(102, 1\)"),
    ("negative", {**LISTS, "d/train_list.npy": npy(-PAIRS)}, "negative id in row"),
    ("no rows", {**LISTS, "d/train_list.npy": npy(PAIRS[:0])}, "the train split is empty"),
    ("huge", {**LISTS, "d/train_list.npy": npy(PAIRS + 2**40)}, "renumber the ids from 0"),
    ("labels", {**LISTS, "d/labels.json": "[]"}, "not an object with lists 'users' and 'items'"),
    ("labels twice", {**LISTS, "d/labels.json": '{"users": [1, 1], "items": [1]}'}, "of distinct"),
    ("text", {"d/train.txt": "0 a\n", "d/test.txt": "0 1\n"},
     "train.txt, line 1: expected integers 'user item item …', got '0 a'"),
    ("text alone", {"d/train.txt": "0 1\n"}, "test.txt is missing: a LightGCN folder holds"),
    ("empty", {"a.csv": ""}, "a.csv is empty"),
    ("header alone", {"a.csv": "user,item\n"}, "a.csv holds no interactions"),
    ("no item", {"a.csv": "user,colour\n1,2\n"}, "no item column: expected one named item"),
    ("two users", {"a.csv": "user,user_id,item\n1,2,3\n"}, "could all be the user; keep one"),
    ("five columns", {"a.csv": "1,2,3,4,5\n"}, "2 to 4 columns .* got 5; add a header line"),
    ("a long line", {"a.csv": CSV + "1,2,3\n"}, r"line 104: expected 2 columns, got 3"),
    ("no user", {"a.csv": CSV + ",2\n"}, "missing user id"),
    ("time", {"a.csv": "user,item,time\n1,2,soon\n"}, "time"),
    ("parquet", {"a.parquet": "?"}, "a.parquet is not a readable Parquet file"),
    ("suffix", {"a.xlsx": "?"}, "expected a file .csv, .*got '.xlsx'"),
    ("few", {"a.csv": "user,item\n1,2\n"}, "too few interactions to split.*provide more data"),
    ("graph", {"d/graph.json": "{"}, "graph.json is damaged: .*; build it again"),
    ("graph's kind", {"d/graph.json": "{}"}, "expected format .*, found None; build it again"),
]  # fmt: skip

RUNS = [
    ("model", {MODEL: None}, "evaluate", "kept is not a run .*: it holds no model.safetensors"),
    ("model empty", {MODEL: ""}, "evaluate", "is not a model that this version can load: .*header"),
    ("model foreign", {MODEL: tensors(None)}, "evaluate", "its format is None, expected 'hdrm model"),
    ("model old", {MODEL: tensors({"format": "hdrm model, version 1"})}, "evaluate", "version 1', exp"),
    ("model's settings", {MODEL: tensors({**HEADER, "config": "{}"})}, "evaluate", "tensor .* is missing"),
    ("model's numbers", {MODEL: tensors({**HEADER, "num_users": "many", "config": "{}"})}, "recommend",
     "invalid literal.*many"),
    ("model's keys", {MODEL: tensors({**HEADER, "config": '{"colour": 1}'})}, "similar",
     "unknown setting colour"),
    ("description", {"kept/dataset.json": None}, "evaluate", "is missing; the run is not complete"),
    ("description {", {"kept/dataset.json": "{"}, "evaluate", "dataset.json is damaged"),
    ("description {}", {"kept/dataset.json": "{}"}, "evaluate", "dataset.json is damaged"),
    ("labels", {"kept/labels.json": "{"}, "recommend", "labels.json is damaged"),
    ("labels short", {"kept/labels.json": '{"users": ["a"]}'}, "recommend", "lists of 20 users and 15"),
    ("labels none", {"kept/labels.json": "[]"}, "evaluate", "labels.json is damaged: expected lists"),
    ("log", {"kept/metrics.jsonl": "{}\n{\n"}, "report", "metrics.jsonl, line 2, is damaged"),
    ("data gone", {"tiny/test_list.npy": None}, "evaluate", "test_list.npy is missing"),
    ("data changed", {"tiny/test_list.npy": npy(PAIRS[:9])}, "evaluate",
     "tiny is not what kept was trained on: its fingerprint is .*the run's"),
    ("stopped: data", {"tiny/test_list.npy": npy(PAIRS[:9])}, "resume", "is not what stopped was"),
    ("stopped: settings", {"stopped/config.json": "{"}, "resume", "config.json is damaged"),
    ("stopped: others", {"stopped/config.json": "{}"}, "resume", "training with other settings"),
    ("stopped: number", {"stopped/checkpoints/*.json": "{}"}, "resume", "damaged"),
    ("stopped: tensors", {"stopped/checkpoints/*.safetensors": "?"}, "resume", "damaged"),
    ("stopped: none", {"stopped/checkpoints/0*": None}, "resume", "stopped.*checkpoint"),
]  # fmt: skip

VERBS = {
    "evaluate": ["evaluate", "kept"],
    "recommend": ["recommend", "kept", "--user", "1"],
    "similar": ["similar", "kept", "--item", "1"],
    "report": ["report", "kept"],
    "resume": ["train", "--resume", "stopped"],
}
TABLE = [
    *(pytest.param(*row, id=f"command: {name}") for name, *row in COMMANDS),
    *(
        pytest.param(files, ["train", next(iter(files)).split("/")[0]], message, id=f"file: {name}")
        for name, files, message in FILES
    ),
    *(
        pytest.param(files, VERBS[verb], message, id=f"run: {name}")
        for name, files, verb, message in RUNS
    ),
]


def arrange(here: Path, name: str, content: str | bytes | None) -> None:
    """Write or delete a file; with a star in its name all that there are."""
    paths = sorted(here.glob(name)) if "*" in name else [here / name]
    for path in paths:
        if content is None:
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.filterwarnings("ignore")  # checkpoints that are passed over are told as notes
@pytest.mark.parametrize(("files", "args", "message"), TABLE)
def test_a_mistake_is_one_line(folder, tmp_path, monkeypatch, capsys, files, args, message):
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    for name, content in files.items():
        arrange(here, name, content)
    before = sorted(here.rglob("*"))
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["hdrm", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert ended.value.code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert re.search(message, err), err
    assert sorted(here.rglob("*")) == before


WRONG_VARIABLES = {
    "HDRM_BACKEND": ("gpu", "HDRM_BACKEND asks for the backend 'gpu'; there are: reference: available; "),
    "HDRM_KEPT_MEMORY": ("lots", "HDRM_KEPT_MEMORY: expected an amount of memory such as 8GiB or 500MB, "
                         "got 'lots'"),
}  # fmt: skip


def run_with_wrong(name, folder, *args) -> subprocess.CompletedProcess:
    environment = {**os.environ, name: WRONG_VARIABLES[name][0]}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_wrong_variable_is_named_by_the_first_op(tmp_path, name):
    script = """
import torch, hdrm
x = torch.zeros(2, 3)
with hdrm.use_backend("reference"):
    hdrm.ops.expmap0(x)
try:
    hdrm.ops.expmap0(x)
except RuntimeError as error:
    print(" ".join(str(error).split()))
"""
    ended = run_with_wrong(name, tmp_path, "-c", script)
    assert ended.stdout.startswith(WRONG_VARIABLES[name][1]), ended
    assert ended.returncode == 0 and not ended.stderr


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_wrong_variable_is_one_line_of_a_command(tmp_path, name):
    ended = run_with_wrong(name, tmp_path, "-m", "hdrm", "train", "demo")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended
    assert ended.stderr.startswith(f"error: {WRONG_VARIABLES[name][1]}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_wrong_variable_is_a_problem_that_doctor_names(tmp_path, name):
    ended = run_with_wrong(name, tmp_path, "-m", "hdrm", "doctor")
    assert ended.returncode == 1 and "\n  reference: works\n" in ended.stdout, ended
    assert f"\nproblem: {WRONG_VARIABLES[name][1]}" in ended.stdout
    assert ended.stdout.count("problem: ") == 1 and not ended.stderr


def test_data_that_are_not_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HDRM_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"nothing \(no such folder\).*or set HDRM_DATA"):
        load("ml-0")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "ml-1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nothing \(ml-1\)"):
        load("ml-0")
