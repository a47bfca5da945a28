"""What the page of `hdrm report` is made of: groups, the disk, rings, titles."""

from __future__ import annotations

from html import unescape

import numpy as np
import pytest
import torch
from scipy import stats

from hdrm import CSR, ops
from hdrm.report import disk, figures, groups, page
from hdrm.report.titles import read_titles


@pytest.mark.parametrize("number", [1, 3, 5])
def test_quantile_groups_are_a_partition_by_count(number):
    counts = np.random.default_rng(1).geometric(0.02, 1000)
    found = groups.quantile_groups(counts, number)
    assert len(found) == number
    assert sorted(np.concatenate([members for _, members in found])) == list(range(1000))
    last = -1
    for label, members in found:
        low, high = (int(end) for end in label.split(" … "))
        assert last < low == counts[members].min() and high == counts[members].max()
        assert len(members) == pytest.approx(1000 / number, abs=30)
        last = high


def test_equal_counts_are_one_group():
    assert [label for label, _ in groups.quantile_groups(np.full(9, 1234))] == ["1,234"]
    few = groups.quantile_groups(np.array([0, 0, 0, 0, 7]))
    assert [(label, members.tolist()) for label, members in few] == [
        ("0", [0, 1, 2, 3]),
        ("7", [4]),
    ]


def test_groups_of_items_against_loops():
    generator = np.random.default_rng(2)
    num_users, num_items, k = 50, 24, 5
    order = np.array([generator.permutation(num_items) for _ in range(num_users)])
    order[::3, 3:] = -1
    wanted = [set(np.flatnonzero(generator.random(num_items) < 0.1)) for _ in range(num_users)]
    pairs = np.array([(user, item) for user, items in enumerate(wanted) for item in items])
    relevant = CSR.from_pairs(*pairs.T, num_users, num_items)
    trained = generator.integers(0, 40, num_items)
    trained[:3] = 0
    counts = groups.ItemCounts.of(lambda users, n: torch.from_numpy(order[users, :n]), relevant, k)
    top = [list(row[:k]) for row in order]
    asked = [user for user in range(num_users) if wanted[user]]
    assert len(asked) < num_users
    every = sum(item >= 0 for user in asked for item in top[user])
    found = groups.by_popularity(trained, counts)
    assert len(found) == groups.GROUPS
    for group, (label, members) in zip(found, groups.quantile_groups(trained)):
        members = set(members)
        to_find = sum(len(wanted[user] & members) for user in asked)
        hits = sum(len(wanted[user] & members & set(top[user])) for user in asked)
        shown = sum(item in members for user in asked for item in top[user])
        assert (group.label, group.items) == (label, len(members))
        assert group.recall == pytest.approx(hits / to_find)
        assert group.of_recommended == pytest.approx(shown / every)
        assert group.of_relevant == pytest.approx(to_find / len(pairs))
        assert group.of_training == pytest.approx(trained[list(members)].sum() / trained.sum())


def test_a_group_without_anything_to_find_has_no_recall():
    zero = np.zeros(6, dtype=np.int64)
    counts = groups.ItemCounts(np.array([0, 0, 0, 1, 1, 1]), zero + 2, zero + 1)
    found = groups.by_popularity(np.array([1, 1, 1, 9, 9, 9]), counts)
    assert [group.recall for group in found] == [None, 1.0]


def test_groups_of_users_are_averages():
    counts = np.array([1, 9, 1, 9, 5])
    recall, ndcg = np.arange(5.0), 10 * np.arange(5.0)
    found = groups.by_activity(counts, recall, ndcg)
    assert [(of.label, of.users, of.recall, of.ndcg) for of in found] == [
        ("1", 2, 1, 10),
        ("5", 1, 4, 40),
        ("9", 2, 2, 20),
    ]


def test_spearman_is_scipys():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=200), generator.integers(0, 9, 200)
    assert page._spearman(a + b, b) == pytest.approx(stats.spearmanr(a + b, b).statistic)
    assert np.isnan(page._spearman(a, np.ones(200, dtype=np.int64)))


# The disk


@pytest.mark.parametrize(("c", "dim"), [(1.0, 6), (0.3, 4), (2.5, 1)])
def test_the_disk_keeps_hyperbolic_radii(c, dim):
    tangent = torch.randn(200, dim + 1, dtype=torch.float64) * torch.logspace(-2, 0.5, 200)[:, None]
    points = ops.expmap0(tangent, c=c)
    found = disk.picture(points, c)
    ball = points[:, 1:] / (1 + c**0.5 * points[:, :1])  # of radius 1/√c
    radius = np.linalg.norm(found.positions, axis=1)
    np.testing.assert_allclose(radius, c**0.5 * ball.norm(dim=1).numpy(), rtol=1e-9)
    np.testing.assert_allclose(found.distances, tangent[:, 1:].norm(dim=1).numpy(), rtol=1e-9)
    assert found.share == pytest.approx(1.0) if dim == 1 else 0 < found.share < 1


def test_directions_are_those_of_the_principal_axes():
    scale = torch.tensor([0, 0.1, 3, 0.2, 1, 0.1])
    tangent = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).double() * scale
    tangent[:, 1] += 5  # what all have in common
    found = disk.picture(ops.expmap0(tangent), 1.0)
    centred = (tangent - tangent.mean(0))[:, 1:].numpy()
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    assert found.share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    flat = centred @ axes[:2].T
    flat *= np.sign([axes[0, 1], axes[1, 3]])  # the largest part of an axis points up
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    radius = np.linalg.norm(found.positions, axis=1, keepdims=True)
    np.testing.assert_allclose(found.positions / radius, unit, atol=1e-6)


def test_one_item_at_the_origin_can_be_drawn():
    found = disk.picture(ops.expmap0(torch.zeros(1, 4)), 1.0)
    assert found.positions.tolist() == [[0, 0]] and found.share == 1.0
    drawn = figures.disk(found, np.zeros(1, dtype=np.int64), 1.0, 'a "picture" <here>')
    assert unescape(drawn.split('aria-label="')[1].split('"')[0]) == 'a "picture" <here>'


@pytest.mark.parametrize("farthest", [0.011, 0.1, 0.93, 1.0, 2.4, 5.9, 6.0, 9.99, 43.0])
def test_rings_are_few_and_inside(farthest):
    rings = figures._rings(farthest)
    assert 2 <= len(rings) <= 5 and rings[-1] <= farthest * (1 + 1e-12)
    assert np.allclose(np.diff(rings), rings[0])


# Titles


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1::Toy Story (1995)::Animation\n2::Amélie::Comedy\n", {"1": "Toy Story (1995)", "2": "Amélie"}),
        ('movieId,title,genres\n1,"Heat, the",x\n2,Go,y\n', {"1": "Heat, the", "2": "Go"}),
        ('genres,Title,movie_id\nx,"A ""B""",7\n', {"7": 'A "B"'}),
        ("item_id:token\titem_name:token_seq\na1\tA\n\n", {"a1": "A"}),
        ('7\t"Weird" Al\n8\t\n9\n', {"7": '"Weird" Al'}),
        ("1,A\r\n2,B\r\n", {"1": "A", "2": "B"}),
        ("a,b\nc,d\n", {"a": "b", "c": "d"}),
    ],
)  # fmt: skip
def test_titles(tmp_path, content, expected):
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        (tmp_path / "titles").write_bytes(content.encode(encoding))
        assert read_titles(tmp_path / "titles") == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected lines of an item's id and title"),
        ("1 Toy Story\n", "got '1 Toy Story'"),
        ("title,year\nA,1\n", "names no column of ids, such as item_id: title, year"),
        ('1,A\n2,"B\n' + "x" * 200_000, "cannot be read: field larger"),
    ],
)
def test_files_that_are_no_titles(tmp_path, content, words):
    (tmp_path / "titles.csv").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_titles(tmp_path / "titles.csv")
