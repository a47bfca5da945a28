"""The command line: what it prints, one line for every mistake, and nothing left behind."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import hdrm

QUICK = [
    *("--epochs", "2", "--dim", "9"),
    *("--set", "hidden=8,8", "--set", "encoder_batch=400", "--set", "diffusion_batch=400"),
]


def interactions(seed=0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.argwhere(generator.random((40, 30)) < 0.3).astype(np.int64)


def write_npy(folder, **replaced):
    folder.mkdir()
    pairs = interactions()
    splits = {"train": pairs[::2], "valid": pairs[1::4], "test": pairs[3::4], **replaced}
    for name, split in splits.items():
        if split is not None:
            np.save(folder / f"{name}_list.npy", split)
    return folder


def test_train_evaluate_recommend(command, tmp_path):
    write_npy(tmp_path / "tiny")
    code, out, _ = command("train", "tiny", "--out", "kept", *QUICK)
    assert code == 0
    for text in ("popularity", "HDRM", "Recall", "NDCG", "Precision", "MRR", "100", "kept"):
        assert text in out
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    code, out, _ = command("evaluate", "kept")
    assert code == 0
    for ranker in ("popularity", "encoder", "hdrm"):
        assert f"{report[ranker]['ndcg@50']:.4f}" in out
    code, out, _ = command("recommend", "kept", "--user", "3", "-k", "4")
    items = hdrm.HDRM.load(tmp_path / "kept").recommend(3, 4)[0][0].tolist()
    assert code == 0 and all(f" {item} " in out for item in items)


def test_original_ids_go_in_and_come_out(command, tmp_path):
    rows = [f"reader-{u},book-{i}" for u, i in interactions()]
    (tmp_path / "loans.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    assert command("train", "loans.csv", "--out", "kept", *QUICK)[0] == 0
    code, out, _ = command("recommend", "kept", "--user", "reader-7", "-k", "3")
    assert code == 0 and out.count("book-") == 3
    code, _, err = command("recommend", "kept", "--user", "7")
    assert code == 2 and "knows no user '7'" in err


def test_set_has_the_last_word(command, tmp_path):
    write_npy(tmp_path / "tiny")
    stages = ("--set", "diffusion_epochs=1", "--set", "dim=5", "--seed", "3")
    assert command("train", "tiny", "--out", "kept", *stages, *QUICK)[0] == 0
    found = json.loads((tmp_path / "kept" / "config.json").read_text())
    values = {name: found[name] for name in ("encoder_epochs", "diffusion_epochs", "dim", "seed")}
    assert values == {"encoder_epochs": 2, "diffusion_epochs": 1, "dim": 5, "seed": 3}


def test_a_graph_folder_is_a_data_set(command, tmp_path):
    rows = [f"reader-{u},{3 * i + 1000}" for u, i in interactions()]
    (tmp_path / "loans.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    assert command("graph", "build", "loans.csv", "-o", "loans")[0] == 0
    code, out, _ = command("plan", "loans", "--device", "cpu")
    assert code == 0 and "training graph" in out
    code, out, _ = command("train", "loans", "--out", "kept", *QUICK)
    assert code == 0 and "split at random per user" in out
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    code, out, _ = command("evaluate", "kept")
    assert code == 0 and f"{report['hdrm']['recall@20']:.4f}" in out
    code, out, _ = command("recommend", "kept", "--user", "reader-7", "-k", "30")
    found = {f"reader-7,{item}" for item in re.findall(r" (1\d{3}) ", out)}
    assert code == 0 and found, out
    model = hdrm.HDRM.load(tmp_path / "kept")
    labels = json.loads((tmp_path / "kept" / "labels.json").read_text())
    trained = model.graph.user_items.row(labels["users"].index("reader-7"))
    trained = {f"reader-7,{labels['items'][i]}" for i in trained}
    assert trained < set(rows) and not trained & found and len(trained | found) == 30
    (tmp_path / "loans" / "col.npy").unlink()
    code, _, err = command("evaluate", "kept")
    assert code == 2 and "col.npy is missing; build it again" in err and err.count("\n") == 1


def test_the_default_folder_is_named_after_the_data(command, tmp_path):
    write_npy(tmp_path / "tiny")
    assert command("train", "tiny", *QUICK)[0] == 0
    assert [path.name[:5] for path in (tmp_path / "runs").iterdir()] == ["tiny-"]


def test_a_run_is_evaluated_from_another_folder(command, tmp_path, monkeypatch):
    write_npy(tmp_path / "tiny")
    assert command("train", "tiny", "--out", "kept", *QUICK)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("evaluate", "../kept")[0] == 0


def test_help_info_and_schedule(command):
    code, out, _ = command("--help")
    assert code == 0 and all(name in out for name in ("train", "evaluate", "recommend", "info"))
    code, out, _ = command("train", "--help")
    assert code == 0 and "--device" in out and ".inter" in out
    code, out, _ = command("info")
    assert code == 0 and "reference" in out and hdrm.build_info()["torch"] in out
    assert "native cuda" in out and "backend cuda" in out
    code, out, _ = command("info", "--schedule", "demo")
    assert code == 0 and "ᾱ" in out
    code, out, _ = command("info", "--preset", "yelp")
    assert code == 0 and "encoder_lr" in out


def test_train_on_sampled_neighbourhoods(command, tmp_path):
    write_npy(tmp_path / "tiny")
    sampled = ("--preset", "large", "--set", "propagation=sampled", "--set", "fanouts=4,2,2")
    code, out, _ = command("train", "tiny", "--out", "kept", *QUICK, *sampled)
    assert code == 0 and "HDRM" in out
    assert command("evaluate", "kept")[0] == 0


@pytest.mark.filterwarnings("ignore:the schedule")
def test_train_as_published_on_the_encoder_of_another_run(command, tmp_path):
    write_npy(tmp_path / "tiny")
    paper = (*QUICK, "--preset", "paper")
    first_stage = (*paper[2:], "--set", "encoder_epochs=2", "--set", "diffusion_epochs=0")
    code, out, _ = command("train", "tiny", "--out", "a", *first_stage)
    assert code == 0 and "ω = 0: the encoder ranks, without diffusion" in out
    code, out, _ = command("train", "tiny", "--out", "b", "--encoder", "a", *paper)
    assert code == 0 and "as it was set, is ω = 0.05" in out and "encoder    epoch   0  of a" in out
    first, second = (json.loads((tmp_path / r / "report.json").read_text()) for r in "ab")
    assert first["encoder"] == second["encoder"] and first["hdrm"] == first["encoder"]
    code, _, err = command("train", "tiny", "--out", "c", "--encoder", "a", *paper, "--dim", "17")
    assert code == 2 and "the encoder of a has dim = 9" in err and not (tmp_path / "c").exists()


PAIRS = interactions()
WITH_NAN = np.where(np.arange(len(PAIRS))[:, None] == 3, np.nan, PAIRS.astype(float))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "nowhere"], "no data set 'nowhere'"),
        (["train", "demo", "--device", "cuda:99"], "the device 'cuda:99' does not exist here"),
        (["train", "demo", "--device", "abacus"], "the device 'abacus' does not exist here"),
        (["train", "demo", "--device", "meta"], "the device 'meta'"),
        (["train", "demo", "--dim", "1"], "dim must be at least 2"),
        (["train", "demo", "--set", "curvature=0"], "curvature must be above 0"),
        (["train", "demo", "--set", "propagation=sampled", "--set", "fanouts=5"], "be 3 numbers"),
        (["train", "demo", "--set", "colour=1"], "unknown setting colour"),
        (["train", "demo", "--seed", "-1"], "seed must be at least 0"),
        (["train", "demo", "--epochs", "-1"], "encoder_epochs must be at least 0"),
        (["train", "demo", "--dim", "wide"], "not a valid integer"),
        (["train", "demo", "--out", "occupied"], "occupied is not empty"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["evaluate", "occupied"], "holds no model.safetensors"),
        (["recommend", "nowhere", "--user", "1"], "nowhere is not a run"),
        (["recommend", "occupied"], "give one of --user, --items"),
        (["cook"], "No such command 'cook'"),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, args, words):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.txt").touch()
    code, _, err = command(*args)
    assert code == 2 and words in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["occupied", "thesis.txt"]


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"train": None}, "train_list.npy"),
        ({"train": PAIRS[:0]}, "empty"),
        ({"test": PAIRS[:0]}, "empty"),
        ({"train": PAIRS[:, :1]}, "shape"),
        ({"train": PAIRS.ravel()}, "shape"),
        ({"train": -PAIRS}, "negative"),
        ({"valid": WITH_NAN}, "valid_list.npy"),
        ({"train": PAIRS.astype(object)}, "train_list.npy"),
        ({"test": PAIRS.astype("U8")}, "test_list.npy"),
        ({"train": PAIRS + 2**40}, "renumber"),
    ],
)
def test_bad_data_are_one_line_and_no_run(command, tmp_path, replaced, words):
    folder = write_npy(tmp_path / "tiny", **replaced)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command("train", folder, "--out", "kept", *QUICK)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_users_without_training_items_are_ranked_with_a_note(command, tmp_path):
    pairs = interactions()
    folder = write_npy(tmp_path / "tiny", train=pairs[::2][pairs[::2][:, 0] != 5])
    code, out, _ = command("train", folder, "--out", "kept", *QUICK)
    assert code == 0 and "1 of 40 users have no training interactions" in out
    assert command("recommend", "kept", "--user", "5")[0] == 0


def test_changed_data_are_not_evaluated(command, tmp_path):
    folder = write_npy(tmp_path / "tiny")
    assert command("train", folder, "--out", "kept", *QUICK)[0] == 0
    np.save(folder / "test_list.npy", interactions()[5::9])
    code, _, err = command("evaluate", "kept")
    assert code == 2 and "fingerprint" in err and err.count("\n") == 1


def test_two_runs_are_compared(command, tmp_path):
    write_npy(tmp_path / "tiny")
    for seed in (0, 1):
        assert command("train", "tiny", "--out", f"run{seed}", "--seed", seed, *QUICK)[0] == 0
    code, out, _ = command("compare", "run0", "run1", "--resamples", "200")
    assert code == 0 and "B − A" in out and "95 % interval" in out
    rows = [line.split("│")[1:-1] for line in out.splitlines() if "@" in line]
    assert len(rows) == 16
    reports = [json.loads((tmp_path / f"run{i}" / "report.json").read_text()) for i in (0, 1)]
    for name, a, b, difference, *_ in rows:
        expected = [report["hdrm"][name.strip().lower()] for report in reports]
        assert [a.strip(), b.strip()] == [f"{value:.4f}" for value in expected]
        assert float(difference) == pytest.approx(expected[1] - expected[0], abs=6e-5)
    write_npy(tmp_path / "other", test=interactions()[3::8])
    assert command("train", "other", "--out", "run2", *QUICK)[0] == 0
    code, _, err = command("compare", "run0", "run2")
    assert code == 2 and "same data only" in err and err.count("\n") == 1
