"""What `hdrm tune` searches: fields that the settings read, and the values of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdrm.config import PRESETS, Config, format_assignments, parse_assignments
from hdrm.data import Dataset
from hdrm.data.splits import per_user
from hdrm.train import Trainer
from hdrm.train.space import FIELDS, distributions, search_space, shortened

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'hdrm[tune]'")

CONFIG = Config(steps=8, sampling_steps=2, encoder_lr=0.01)


def test_fields_that_are_not_read_are_not_searched():
    hinge, softmax = search_space(PRESETS["large"]), search_space(PRESETS["best"])
    assert {"margin", "encoder_negatives"} < hinge.keys() and "temperature" not in hinge
    assert {"temperature", "edge_dropout"} < softmax.keys() and "margin" not in softmax
    assert {"encoder_lr", "encoder_weight_decay", "encoder_momentum"} < hinge.keys() & softmax
    assert "dim" not in hinge and "diffusion_lr" not in hinge
    sampled = search_space(Config(propagation="sampled"))
    assert "averaging" not in sampled and "layers" not in sampled
    everything = search_space(PRESETS["best"], ["encoder,diffusion", "dim"])
    assert {"temperature", "diffusion_lr", "dim"} < everything.keys() and "margin" not in everything
    cosine = search_space(Config(schedule="cosine"), ["diffusion"])
    assert "noise_max" not in cosine and "dropout" in cosine


READ_WITH = {
    "hinge": {"margin": 0.0, "encoder_negatives": 3, "encoder_batch": 50},
    "softmax": {"temperature": 0.3, "edge_dropout": 0.3, "softmax_users": 30},
}
READ = {
    "dim": 10,
    "curvature": 0.3,
    "layers": 2,
    "averaging": 0.0,
    "encoder_lr": 0.02,
    "encoder_momentum": 0.8,
    "encoder_weight_decay": 0.01,
}


@pytest.mark.parametrize("loss", READ_WITH)
def test_the_encoder_reads_what_is_searched_and_nothing_that_is_refused(tmp_path, loss):
    """Another value of a field gives another table, or the same."""
    pairs = np.argwhere(np.random.default_rng(0).random((40, 30)) < 0.3)
    dataset = Dataset.from_pairs("tiny", 40, 30, *per_user(pairs, 0))
    config = CONFIG.replace(loss=loss, dim=9, encoder_epochs=2, diffusion_epochs=0)
    config = config.replace(encoder_batch=100, softmax_users=20, encoder_negatives=1)

    def table(name, **changes):
        run = tmp_path / name
        trained = Trainer(dataset, config.replace(**changes), run, source="tiny").fit(test=False)
        return trained.model.encoder.table.detach()

    read = READ | READ_WITH[loss]
    assert search_space(config).keys() < read.keys()
    expected = table("as it is")
    for name, value in read.items():
        search_space(config, [name])
        assert not torch.equal(table(name, **{name: value}), expected), name
    (others,) = (fields for other, fields in READ_WITH.items() if other != loss)
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"cannot search {name}: the encoder reads it where"):
            search_space(config, [name])
        assert torch.equal(table(name, **{name: value}), expected), name


def test_conditions_are_options_of_other_fields():
    searches = [field.metadata.get("search") for field in FIELDS.values()]
    conditions = [reading for search in searches if search for reading in search.read.values()]
    assert any(conditions)
    for condition in conditions:
        for name, allowed in condition.items():
            assert set(allowed.split("|")) <= set(FIELDS[name].metadata["options"])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_field_is_searched_around_what_the_presets_have(preset):
    """A range that does not hold a preset's own value would not be one to search."""
    config = PRESETS[preset]
    space = search_space(config, ["encoder,diffusion"])
    for name, distribution in distributions(space).items():
        assert distribution._contains(distribution.to_internal_repr(getattr(config, name))), name


def test_values_on_the_command_line():
    space = search_space(
        CONFIG, ["encoder_lr=0.5x:20x", "layers=2,3", "omega=none,0,0.1", "noise", "margin=0:1"]
    )
    assert space == {
        "encoder_lr": "0.005:0.2",
        "layers": "2,3",
        "omega": "none,0.0,0.1",
        "noise": "directional,isotropic",
        "margin": "0.0:1.0",
    }
    found = distributions(space)
    assert found["encoder_lr"].log and not found["margin"].log
    assert found["omega"].choices == (None, 0.0, 0.1) and found["layers"].choices == (2, 3)
    assert search_space(CONFIG, [f"{name}={text}" for name, text in space.items()]) == space


def test_numbers_that_were_chosen_by_hand_keep_their_digits():
    config = CONFIG.replace(margin=0.123456)
    space = search_space(config, ["margin=0.1:1", "encoder_lr=0.0123456,0.5"])
    for margin, expected in ((0.123456, 0.123456), (0.654321, 0.6543)):
        values = {"margin": margin, "encoder_lr": 0.0123456}
        assert shortened(space, config, values) == {"margin": expected, "encoder_lr": 0.0123456}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("colour", "cannot search 'colour': it is neither a setting nor a stage"),
        ("hidden", "its values are lists"),
        ("temperature", "the encoder reads it where loss = softmax, not hinge"),
        ("temperature=0.1:1", "the encoder reads it where loss = softmax, not hinge"),
        ("noise_max", "diffusion_epochs = 0"),
        ("diffusion", "nothing to search"),
        ("patience", "give one: --search patience=LOW:HIGH"),
        ("layers=0:3", "layers must be at least 1"),
        ("layers=1.5:3", "layers must be int"),
        ("layers=3:1", "expected LOW:HIGH"),
        ("layers=2", "expected LOW:HIGH"),
        ("layers=1:2:3", "expected LOW:HIGH"),
        ("encoder_lr=fastx:1", "'fastx' is not a multiple as 5x"),
        ("noise=1:2", "noise must be one of"),
        ("dim=1:64", "dim must be at least 2"),
    ],
)
def test_what_cannot_be_searched(wanted, words):
    with pytest.raises((ValueError, TypeError)) as error:
        search_space(CONFIG.replace(diffusion_epochs=0), [wanted])
    assert words in str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_assignments_say_the_difference_of_two_configurations(preset):
    config = PRESETS[preset].replace(omega=0.1, sampling_noise=True, hidden=(5, 6), layers=3)
    for base in (Config(fanouts=(3, 2, 1), omega=0.3), config):
        assigned = format_assignments(config, base)
        assert base.replace(**parse_assignments(tuple(assigned))) == config
    assert format_assignments(config.replace(omega=None), config) == ["omega=none"]
