"""The model: what it encodes, denoises, recommends and stores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hdrm
from hdrm import ops
from hdrm.config import PRESETS, Config, parse_assignments, preset_for
from hdrm.model import checkpoint
from hdrm.model.denoiser import Denoiser, Mask, time_embedding
from hdrm.model.encoder import Encoder

CONFIG = Config(dim=9, hidden=(12, 14), steps=6, sampling_steps=1, layers=2)
NUM_USERS, NUM_ITEMS = 30, 20


def interactions() -> np.ndarray:
    return np.argwhere(np.random.default_rng(0).random((NUM_USERS - 1, NUM_ITEMS)) < 0.3)


def make_model(config: Config = CONFIG, omega: float = 0.4) -> hdrm.HDRM:
    """Random weights, also where training starts from zero; the last user has no items."""
    torch.manual_seed(1)
    model = hdrm.HDRM(NUM_USERS, NUM_ITEMS, config)
    pairs = interactions()
    model.set_graph(hdrm.BipartiteGraph.from_interactions(*pairs.T, NUM_USERS, NUM_ITEMS))
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    model.set_statistics()
    model.omega.fill_(omega)
    return model.eval()


def test_encoder_starts_on_the_hyperboloid_inside_the_initial_cube():
    table = Encoder(30, 20, 8, 1, c=2.0).table.detach()
    torch.testing.assert_close(table, ops.project(table, c=2.0))
    tangent = ops.logmap0(table, c=2.0)
    assert 0.09 < float(tangent[:, 1:].abs().max()) <= 0.1


def test_work_tables_of_the_encoder():
    pairs = interactions()
    graph = hdrm.BipartiteGraph.from_interactions(*pairs.T, NUM_USERS, NUM_ITEMS)
    for kind, work_dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        torch.manual_seed(0)
        encoder = hdrm.HDRM(NUM_USERS, NUM_ITEMS, Config(work_tables=kind)).encoder
        expected = ops.propagate(encoder.table, graph, 3, work_dtype=work_dtype)
        assert torch.equal(encoder(graph), expected)
    assert not torch.equal(expected, ops.propagate(encoder.table, graph, 3))


def test_denoiser_leaves_the_time_column_zero_and_starts_at_zero():
    denoiser = Denoiser(9, (12,), "relu", 0.0)
    z, t = torch.randn(5, 9), torch.arange(5)
    assert not denoiser(z, t, z).any()
    torch.nn.init.normal_(denoiser.layers[-1].weight)
    out = denoiser(z, t, z)
    assert out.shape == (5, 9) and not out[:, 0].any() and out[:, 1:].all()


def test_time_embedding_is_cosines_and_sines():
    found = time_embedding(torch.tensor([0, 7]), 10).double()
    frequency = 10_000 ** -(torch.arange(5, dtype=torch.float64) / 5)
    expected = torch.cat([torch.cos(7 * frequency), torch.sin(7 * frequency)])
    torch.testing.assert_close(found[1], expected, rtol=1e-5, atol=1e-6)
    assert found[0].tolist() == [1.0] * 5 + [0.0] * 5


@pytest.mark.parametrize("noise", ["directional", "isotropic"])
@pytest.mark.parametrize("predict", ["residual", "eps"])
def test_untrained_denoisers_predict_what_they_are_given(noise, predict):
    """With z_t at step 0 the prediction is z_0 up to that step's noise of 0.3 %."""
    torch.manual_seed(0)
    model = hdrm.HDRM(NUM_USERS, NUM_ITEMS, CONFIG.replace(noise=noise, predict=predict))
    user, history = torch.nn.functional.pad(torch.randn(2, 40, 8), (1, 0))
    found = model.eval().denoise(user, history, torch.zeros(40, dtype=torch.int64), seed=3)
    for name, z0, z in zip("uh", (user, history), found):
        assert float((z - z0).abs().max()) < 0.02, name
        assert not z[:, 0].any()


@pytest.mark.parametrize("shape", [(12, 9), (7, 3, 2)])
def test_the_mask_of_a_slice_is_the_slice_of_the_mask(shape):
    mask, x = Mask(0.4), torch.ones(shape)

    def draw(first, last, *rows):
        torch.manual_seed(5)
        return mask(x[first:last], *rows), torch.get_rng_state()

    whole, state = draw(0, len(x))
    assert 0 < float(whole.mean()) < 1
    for first, last in ((0, 0), (0, 4), (4, 5), (5, len(x))):
        found, after = draw(first, last, (first, len(x)))
        assert torch.equal(found, whole[first:last])
        assert torch.equal(after, state)


@pytest.mark.parametrize("grad", [True, False])
def test_slices_of_a_batch_are_denoised_as_the_batch_is(grad):
    model = make_model(CONFIG.replace(dropout=0.5)).double().train()
    rows = 3000  # more than inference takes at a time
    user, history = torch.nn.functional.pad(torch.randn(2, rows, 8).double(), (1, 0))
    t = torch.arange(rows) % 6

    def denoised(part, **options):
        torch.manual_seed(4)
        with torch.set_grad_enabled(grad):
            found = model.denoise(user[part], history[part], t[part], seed=3, **options)
        return torch.stack(found), torch.get_rng_state()

    whole, state = denoised(slice(None))
    cuts, shares = [0, 401, rows], []
    for first, last in zip(cuts, cuts[1:]):
        share, after = denoised(slice(first, last), first_row=first, of_rows=rows)
        assert torch.equal(after, state)
        shares.append(share)
    torch.testing.assert_close(torch.cat(shares, 1), whole, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(denoised(slice(401, rows))[0], shares[1])
    with pytest.raises(ValueError, match="rows must be .* of 401 rows .*, got 2600 and 3000"):
        denoised(slice(401), first_row=2600, of_rows=rows)


def test_generation_is_deterministic_and_uses_both_denoisers():
    for config in (CONFIG, CONFIG.replace(sampling_steps=4, sampling_noise=True)):
        model = make_model(config)
        h, z = model.generate()
        assert torch.equal(model.generate()[1], z)
        for name in ("user", "history"):
            changed = make_model(config)
            torch.nn.init.zeros_(changed.denoisers[name].layers[-1].weight)
            assert not torch.allclose(changed.generate()[1], z)
        # Sampling noise differs from its mean, so it is really drawn.
        if config.sampling_noise:
            calm = make_model(config.replace(sampling_noise=False))
            assert not torch.allclose(calm.generate()[1], z, atol=1e-4)


@pytest.mark.parametrize("noise", ["directional", "isotropic"])
@pytest.mark.parametrize("drawn", [False, True])
def test_generation_in_blocks_of_users_is_that_of_all_users(monkeypatch, drawn, noise):
    model = make_model(CONFIG.replace(sampling_steps=4, sampling_noise=drawn, noise=noise))
    h, whole = model.generate()
    inputs = model.user_inputs(h, model.graph)
    for first, last in ((0, 11), (11, NUM_USERS)):
        part = model.generate_from(*(z[first:last] for z in inputs), first=first)
        torch.testing.assert_close(part, whole[first:last], atol=1e-6, rtol=1e-5)
    monkeypatch.setattr("hdrm.model.hdrm.BLOCK", 7)
    torch.testing.assert_close(model.generate()[1], whole, atol=1e-6, rtol=1e-5)


def test_omega_mixes_users_between_encoder_and_generation():
    model = make_model(omega=0.0)
    h, z = model.generate()
    torch.testing.assert_close(model.points()[0], ops.expmap0(h[:NUM_USERS]))
    half = model.mix(h, z, 0.5)
    torch.testing.assert_close(half[0], ops.expmap0((h[:NUM_USERS] + z) / 2))
    torch.testing.assert_close(half[1], ops.expmap0(h[NUM_USERS:]))


def test_recommend_is_the_nearest_unseen_items():
    model = make_model()
    users, points = [4, 0, NUM_USERS - 1], model.points()
    items, distances = model.recommend(users, 6)
    assert items.dtype == torch.int64 and items.shape == distances.shape == (3, 6)
    for row, user in enumerate(users):
        all_distances = ops.distance(points[0][user].expand_as(points[1]), points[1])
        all_distances[model.graph.user_items.row(user)] = torch.inf
        expected, order = all_distances.sort(stable=True)
        assert items[row].tolist() == order[:6].tolist()
        torch.testing.assert_close(distances[row], expected[:6])
    assert torch.equal(model.recommend(4, 6)[0], items[:1])


def test_recommend_follows_the_weights():
    model = make_model()
    before = model.recommend([1], 5)[1]
    with torch.no_grad():
        model.train().encoder.table.copy_(ops.expmap0(torch.randn(NUM_USERS + NUM_ITEMS, 9)))
    assert not torch.allclose(model.eval().recommend([1], 5)[1], before)


@pytest.mark.parametrize(
    ("users", "k", "error", "message"),
    [
        ([NUM_USERS], 5, ValueError, "users must be in 0 … 29, got 30"),
        ([-1], 5, ValueError, "users must be in 0 … 29"),
        ([0.5], 5, TypeError, "users must be one-dimensional integer ids"),
        ([[1, 2]], 5, TypeError, "users must be one-dimensional integer ids"),
        ([1], 0, ValueError, "k must be in 1 … 20"),
        ([1], NUM_ITEMS + 1, ValueError, "k must be in 1 … 20"),
    ],
)
def test_recommend_refuses(users, k, error, message):
    with pytest.raises(error, match=message):
        make_model().recommend(users, k)


def test_a_model_without_graph_or_in_training_does_not_recommend():
    with pytest.raises(RuntimeError, match="set_graph"):
        hdrm.HDRM(3, 4, CONFIG).eval().recommend([0])
    with pytest.raises(RuntimeError, match="eval"):
        make_model().train().recommend([0])
    graph = hdrm.BipartiteGraph.from_interactions([0], [0], 3, 4)
    with pytest.raises(ValueError, match="30 users and 20 items, the graph 3 and 4"):
        make_model().set_graph(graph)


def test_a_stored_model_recommends_the_same(tmp_path):
    model = make_model()
    model.save(tmp_path)
    state = torch.get_rng_state()
    loaded = hdrm.HDRM.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading draws from torch's generator"
    users = torch.arange(NUM_USERS)
    for found, expected in zip(loaded.recommend(users, 8), model.recommend(users, 8)):
        assert torch.equal(found, expected)
    assert loaded.config == model.config
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def rewrite(path, change, metadata=None):
    with checkpoint.safe_open(path, "pt") as file:
        stored = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, stored if metadata is None else metadata)


def no_change(tensors):
    pass


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="holds no model.safetensors"):
        hdrm.HDRM.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        hdrm.HDRM.load(tmp_path / "nowhere")

    def refused(message):
        with pytest.raises(ValueError, match=message):
            hdrm.HDRM.load(tmp_path)

    save_file({"x": torch.zeros(1)}, path)
    refused("its format is None")
    make_model().save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused("not a model that this version can load")
    path.write_bytes(b"PK\x03\x04 a pickle, say")
    refused("not a model that this version can load")
    table = "encoder.table"
    for change, message in (
        (lambda t: t.pop(table), f"'{table}' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is unknown"),
        (lambda t: t.update({table: torch.zeros(3, 9)}), "must be .* of shape"),
        (lambda t: t[table].fill_(torch.nan), "not finite"),
        (lambda t: t["graph.col"].fill_(2**20), "stored graph is damaged: CSR: columns must"),
        (lambda t: t["graph.rowptr"].fill_(2**20), "stored graph is damaged: CSR: rowptr must"),
        (lambda t: t.update({"graph.col": torch.zeros(5)}), "stored graph is damaged: CSR: col"),
        (lambda t: t.pop("graph.col"), "not a model that this version can load.*graph.col"),
    ):
        path.write_bytes(whole)
        rewrite(path, change)
        refused(message)
    path.write_bytes(whole)
    config = json.dumps({"dim": 9, "colour": "blue"})
    sizes = {"num_users": str(NUM_USERS), "num_items": str(NUM_ITEMS)}
    rewrite(path, no_change, {"format": checkpoint.FORMAT, **sizes, "config": config})
    refused("unknown setting colour")


def test_writing_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write(path, b"old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        checkpoint.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_configuration_round_trip_and_presets():
    for name, config in PRESETS.items():
        assert Config.from_json(config.to_json()) == config, name
    assert preset_for("ml-1m_clean", 5_949, 2_810) == "best" and preset_for("demo", 9, 9) == "demo"
    assert preset_for("amazon-book", 108_822, 94_949) == "best"
    assert preset_for("clicks", 10**6, 10**5) == "large"
    assert preset_for("clicks", 10**6, 10**6, "cuda:1") == "best"
    assert preset_for("clicks", 10**7, 10**6, "cuda") == "large"
    assert parse_assignments(("dim=32", "hidden=20,30", "omega=none", "noise_max=1")) == {
        "dim": 32, "hidden": (20, 30), "omega": None, "noise_max": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("dim", ValueError, "expected key=value"),
        ("size=3", ValueError, "unknown setting size; there are: .*dim"),
        ("dim=3.5", TypeError, "dim must be int, got '3.5'"),
        ("dim=true", TypeError, "dim must be int"),
        ("sampling_noise=1", TypeError, "sampling_noise must be bool"),
        ("dim=1", ValueError, "dim must be at least 2"),
        ("curvature=0", ValueError, "curvature must be above 0"),
        ("curvature=-1", ValueError, "curvature must be above 0"),
        ("encoder_lr=nan", ValueError, "encoder_lr must be above 0"),
        ("encoder_lr=infinity", ValueError, "encoder_lr must be finite"),
        ("noise=pink", ValueError, "noise must be one of directional, isotropic"),
        ("hidden=a,b", TypeError, "hidden must be a list of integers"),
        ("hidden=0", ValueError, "hidden: widths must be at least 1"),
        ("fanouts=5,0,5", ValueError, "fanouts must be at least 1, got .5, 0, 5."),
        ("loss=cubic", ValueError, "loss must be one of hinge, softmax"),
        ("temperature=0", ValueError, "temperature must be above 0"),
        ("edge_dropout=0", ValueError, "edge_dropout must be above 0"),
        ("micro_batches=0", ValueError, "micro_batches must be at least 1"),
        ("omega=2", ValueError, "omega must be at least 0 and at most 1"),
        ("sampling_steps=51", ValueError, "sampling_steps must not exceed steps = 50"),
    ],
)
def test_bad_settings_are_refused(text, error, message):
    with pytest.raises(error, match=message):
        Config().replace(**parse_assignments((text,)))


def test_fanouts_are_one_of_each_layer_where_they_are_used():
    assert Config(layers=2).propagation == "full"
    for config in PRESETS.values():
        if config.loss == "hinge":
            assert config.replace(propagation="sampled").propagation == "sampled"
    with pytest.raises(ValueError, match="fanouts must be 2 numbers, one of each of the layers"):
        Config(layers=2, propagation="sampled")
    for changes in ({"loss": "softmax"}, {"users": "items"}, {"encoder_optimizer": "adam"}):
        with pytest.raises(
            ValueError, match=f"{next(iter(changes))} = .* needs propagation = full"
        ):
            Config(propagation="sampled", **changes)


def test_a_table_on_the_host_stays_there():
    config = CONFIG.replace(propagation="sampled", fanouts=(3, 2), tables_on="host")
    model = hdrm.HDRM(NUM_USERS, NUM_ITEMS, config)
    before = model.encoder.table.detach().clone()
    model.to("meta")
    assert model.omega.device.type == "meta" and torch.equal(model.encoder.table, before)
    assert model.double().encoder.table.dtype == torch.float64
    assert hdrm.HDRM(NUM_USERS, NUM_ITEMS, CONFIG).to("meta").encoder.table.device.type == "meta"
