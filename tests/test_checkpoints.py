"""Checkpoints: when one is due, how many stay, and one that is damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resume_cases import CONFIG, Kill, copied, stop, trainer, write_source
from safetensors.torch import save_file

from hdrm.data import load
from hdrm.train.checkpoints import Checkpoints
from hdrm.train.resume import Resumed


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def stopped(source, tmp_path_factory) -> Path:
    return stop(source, tmp_path_factory.mktemp("stopped") / "run")


def checkpoint_files(run: Path, age: int) -> list[Path]:
    newest = sorted((run / "checkpoints").glob("*.json"))[-1 - age]
    return sorted((run / "checkpoints").glob(f"{newest.stem}.*"))


def damage(path: Path, data) -> None:
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "overwrite", "delete", "extend"]))
    if how == "delete":
        path.unlink()
        return
    path.unlink()  # the best model may be a link, of which the other checkpoint has one
    changed = {
        "flip": whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :],
        "cut": whole[:at],
        "overwrite": data.draw(st.binary()),
        "extend": whole + data.draw(st.binary(min_size=1)),
    }
    path.write_bytes(changed[how])


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore:.*the checkpoint before it is used")
def test_a_damaged_checkpoint_is_passed_over(source, stopped, data):
    """The one before it is taken; where that is damaged too there is one error."""
    dataset = load(source)
    with tempfile.TemporaryDirectory() as folder:
        run = copied(stopped, Path(folder))
        whole = Resumed.open(copied(stopped, Path(folder) / "whole"), dataset)
        files = [checkpoint_files(run, age) for age in (0, 1)]
        assert [len(of) for of in files] == [3, 3]
        damage(data.draw(st.sampled_from(files[0])), data)
        found = Resumed.open(run, dataset)
        found.checkpoints.release()
        assert found.position.stage == 1
        if found.position.step == whole.position.step:  # between the numbers of the .json, say
            assert found.position == whole.position
            for name, tensor in whole.state["model"].items():
                assert torch.equal(found.state["model"][name], tensor)
            return
        assert found.position.step == whole.position.step - 1
        for path in files[1]:
            damage(path, data)
        with pytest.raises(ValueError, match="no checkpoint in .* can be used"):
            Resumed.open(run, dataset)


@pytest.mark.parametrize(
    ("text", "other"),
    [('"without_gain": 1', '"without_gain": 2'), ('"updates": 9', '"updates": 8'), ("0.", "1.")],
)
def test_a_changed_number_is_damage(source, stopped, tmp_path, text, other):
    run = copied(stopped, tmp_path)
    path = checkpoint_files(run, 0)[1]
    assert path.suffix == ".json"
    before = path.read_text()
    path.write_text(before.replace(text, other, 1))
    assert path.read_text() != before
    with pytest.warns(UserWarning, match=f"{path.name} is damaged: its checksum is wrong; the"):
        Resumed.open(run, load(source))


@pytest.mark.parametrize("kept", [1, 3])
def test_the_last_checkpoints_are_kept(source, tmp_path, kept):
    config = CONFIG.replace(checkpoints_kept=kept)
    trainer(source, tmp_path / "run", config, Kill(after=9)).fit()
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.json"))) == kept


def test_checkpoints_at_the_ends_of_epochs_take_a_share_of_the_time(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    checkpoints = Checkpoints(tmp_path, keep=2, minutes=10)
    checkpoints.acquire(create=True)
    assert checkpoints.due()

    def slow_save(tensors, path):
        nonlocal now
        now += 2
        save_file(tensors, path)

    monkeypatch.setattr("hdrm.train.checkpoints.save_file", slow_save)
    checkpoints.write({}, {"x": torch.zeros(3)}, best=False)
    for passed, in_epoch, at_end in ((199, False, False), (201, False, True), (601, True, True)):
        now = 1002.0 + passed
        assert (checkpoints.due(), checkpoints.due(end_of_epoch=True)) == (in_epoch, at_end)
