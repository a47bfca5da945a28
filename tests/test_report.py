"""The page of `hdrm report`: what it holds, that it is closed in itself, and the numbers on it."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from hdrm import cli, data, ops
from hdrm.config import Config
from hdrm.report import page, write_page
from hdrm.report.titles import read_titles
from hdrm.train import Trainer, runs

VOID = {"meta"}
SECTIONS = ["training", "test", "activity", "popularity", "geometry", "examples", "settings"]
EVIL = "<script>alert('book')</script>"


class Page(HTMLParser):
    """A page taken apart: its elements, its text, and the cells of its tables; tags must balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.words, self.rows, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += text

    def all(self, attribute):
        return [found[attribute] for _, found in self.elements if attribute in found]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table whose ids are foreign input; both stages, ω > 0, and a curvature."""
    root = tmp_path_factory.mktemp("report")
    pairs = np.argwhere(np.random.default_rng(0).random((40, 30)) ** 2 < 0.3)
    lines = [f"reader&{u},<b>{i}" for u, i in pairs]
    (root / "loans.csv").write_text("\n".join(["user,item", *lines]) + "\n")
    config = Config(
        dim=9, hidden=(8,), encoder_epochs=4, diffusion_epochs=2, encoder_batch=400, omega=0.5,
        diffusion_batch=400, curvature=2.0, patience=9,
    )  # fmt: skip
    source = str(root / "loans.csv")
    Trainer(data.load(source), config, root / "run", source=source).fit()
    return root / "run"


@pytest.fixture(scope="module")
def titles(run):
    path = run.parent / "titles.tsv"
    path.write_text(f"item_id:token\ttitle:token_seq\n<b>1\t{EVIL}\n<b>2\tÉmile & Zoë\nother\tno\n")
    return path


@pytest.fixture(scope="module")
def text(run, titles):
    return write_page(runs.Run.open(run), titles=titles).read_text(encoding="utf-8")


def test_the_page_parses_and_has_all_sections(run, text):
    found = Page(text)
    headings = [of["id"] for tag, of in found.elements if tag == "h2"]
    assert headings == SECTIONS
    for words in ("Stage encoder", "Stage diffusion", "Poincaré disk", "loans", "ω = "):
        assert words in found.text
    pictures = [of for tag, of in found.elements if tag == "svg"]
    assert len(pictures) == 6 and all(of["role"] == "img" and of["aria-label"] for of in pictures)
    assert (run / page.PAGE_FILE).read_text(encoding="utf-8") == text
    assert not list(run.glob(".*")), "a temporary file was left behind"


def test_the_page_refers_to_nothing_but_itself(text):
    found = Page(text)
    ids = found.all("id")
    assert len(ids) == len(set(ids))
    references = [link for name in ("href", "src", "xlink:href") for link in found.all(name)]
    assert any(link.startswith("data:image/png;base64,") for link in references)
    inside = [link for link in references if not link.startswith("data:image/png;base64,")]
    inside += re.findall(r"url\(([^)]*)\)", text)
    assert len(inside) > 20
    for link in inside:
        assert link[0] == "#" and link[1:] in ids, link
    assert "@import" not in text and text.count("<!DOCTYPE") == 1 and "<?" not in text
    for tag, attributes in found.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]


def test_foreign_text_is_escaped(run, text):
    found = Page(text)
    assert "b" not in {tag for tag, _ in found.elements}
    assert EVIL not in text and EVIL in found.text and "Émile & Zoë (<b>2)" in found.text
    assert "User reader&" in found.text and "2 of 30 items have a title" in found.text


def test_the_metrics_are_those_of_the_run(run, text):
    rows = Page(text).rows
    report = json.loads((run / runs.REPORT_FILE).read_text())
    expected = [
        [
            str(k),
            *(f"{of[f'{metric}@{k}']:.4f}" for metric in ("recall", "ndcg", "precision", "mrr")),
        ]
        for of in report.values()
        for k in (10, 20, 50, 100)
    ]
    start = next(at for at, row in enumerate(rows) if row[0] == "ranker")
    assert [row[1:] for row in rows[start + 1 : start + 13]] == expected
    users, items = (at for at, row in enumerate(rows) if row[0] == "training interactions")
    groups_of_users = np.array(
        [[float(cell) for cell in row[1:]] for row in rows[users + 1 : items]]
    )
    means = np.average(groups_of_users[:, 1:], axis=0, weights=groups_of_users[:, 0])
    totals = [report["hdrm"]["recall@20"], report["hdrm"]["ndcg@20"]]
    assert means == pytest.approx(totals, abs=1e-4)
    groups_of_items = [row for row in rows[items + 1 :] if len(row) == 6]
    assert sum(int(row[1]) for row in groups_of_items) == 30
    for column in (2, 3, 5):
        shares = [float(row[column].removesuffix(" %")) for row in groups_of_items]
        assert sum(shares) == pytest.approx(100, abs=0.3)


def test_examples_are_the_ranking(run, titles, text):
    """One user after the other, items sorted by distance."""
    opened = runs.Run.open(run)
    dataset, (users, items) = opened.dataset(), opened.model.points()
    names = read_titles(titles)
    blocks = re.split("<h3>User ", text.split('id="examples"')[1])[1:]
    shown = [opened.user_id(Page("<p>" + block.split("<")[0] + "</p>").text) for block in blocks]
    assert len(set(shown)) == page.EXAMPLES
    degrees = dataset.train.degrees[shown].tolist()
    assert degrees == sorted(degrees) and degrees[0] < degrees[-1]

    def name(item):
        label = opened.item_label(item)
        return f"{names[label]} ({label})" if label in names else label

    hits = 0
    for user, block in zip(shown, blocks):
        split = {part: set(csr.row(user).tolist()) for part, csr in dataset.splits.items()}
        distances = ops.distance(users[user], items, c=2.0).tolist()
        order = sorted(range(30), key=lambda item: (distances[item], item))
        ranking = [item for item in order if item not in split["train"] | split["valid"]][:10]
        found = Page("<h3>" + block.split("<h2")[0])
        rows = [
            [str(place), name(item), f"{distances[item]:.4f}", "✓ yes" * (item in split["test"])]
            for place, item in enumerate(ranking, 1)
        ]
        assert found.rows[1:] == rows
        marked = [of for tag, of in found.elements if tag == "tr" and of.get("class") == "hit"]
        hits += len(marked)
        assert len(marked) == sum(row[3] != "" for row in rows)
        known = [name(item) for item in order if item in split["train"]][:10]
        assert re.findall(r"\d+ of \d+ training", found.text) == [
            f"{len(known)} of {len(split['train'])} training"
        ]
        listed = found.text.split("training items")[1].split("recommended;")[0]
        assert listed.split() == " ".join(known).split()
    assert hits


def test_the_same_run_gives_the_same_bytes(run, titles, text, tmp_path):
    again = write_page(runs.Run.open(run), tmp_path / "again.html", titles)
    assert again.read_text(encoding="utf-8") == text


def test_a_run_on_the_encoder_of_another_has_a_page(run, tmp_path):
    opened, lent = runs.Run.open(run), tmp_path / "lent"
    source = opened.description["source"]
    Trainer(opened.dataset(), opened.model.config, lent, source=source, encoder=run).fit()
    found = Page(write_page(runs.Run.open(lent)).read_text(encoding="utf-8"))
    assert "of the stage encoder by epoch; at the last, epoch 0" in str(found.all("aria-label"))


def test_a_run_that_was_interrupted_has_a_page(run, tmp_path):
    (tmp_path / "run").mkdir()
    for path in run.iterdir():
        if path.name not in (runs.METRICS_FILE, runs.REPORT_FILE):
            (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    found = Page(write_page(runs.Run.open(tmp_path / "run")).read_text(encoding="utf-8"))
    assert "interrupted before the first one" in found.text
    (tmp_path / "run" / runs.METRICS_FILE).write_text('{"stage": \n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 1, is damaged"):
        write_page(runs.Run.open(tmp_path / "run"))


def call(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["hdrm", "report", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


def test_the_command_writes_the_page(run, titles, text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "page.html"
    code, said, _ = call(monkeypatch, capsys, run, "--titles", titles, "-o", out)
    assert code == 0 and str(out) in said and out.read_text(encoding="utf-8") == text


def test_mistakes_are_one_line_and_no_file(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "other.csv").write_text("id,title\n7,Seven\n")
    for args, words in (
        ((run, "--titles", tmp_path / "none.csv"), "no such file of titles"),
        ((run, "--titles", tmp_path / "other.csv"), "has a title of no item of"),
        ((run, "-o", tmp_path), "is a folder"),
        ((run, "-o", tmp_path / "there" / "page.html"), "for the page does not exist"),
        ((tmp_path,), "is not a run of"),
    ):
        code, _, error = call(monkeypatch, capsys, *args)
        assert code == 2 and words in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["other.csv"]


def test_a_missing_library_names_the_extra(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, error = call(monkeypatch, capsys, run)
    assert code == 2 and "matplotlib" in error and ".[report]" in error and error.count("\n") == 1
