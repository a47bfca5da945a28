"""HDRM from Python: generate data, train both stages, measure, recommend, fold in a new user."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hdrm import HDRM
from hdrm.config import PRESETS
from hdrm.data import load
from hdrm.train import Trainer


def main() -> HDRM:
    dataset = load("demo")  # 2,000 users × 1,500 items; a path to a file or folder is read too
    # For a minute instead of seconds: PRESETS["demo"] as it is, as `hdrm train` takes it.
    config = PRESETS["demo"].replace(dim=32, encoder_epochs=6, diffusion_epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(dataset, config, Path(folder, "run"), source="demo").fit()
        model = HDRM.load(Path(folder, "run"))
    for name, metrics in result.test.items():
        print(f"{name:10} Recall@20 {metrics['recall@20']:.4f}, NDCG@20 {metrics['ndcg@20']:.4f}")

    items, _ = model.recommend([7, 8], k=5)  # training items are left out
    print("users 7 and 8:", items.tolist())
    items, _ = model.recommend_for([[1, 5, 9]], k=5)
    print("a new user who likes 1, 5 and 9:", items.tolist())
    items, distances = model.similar_items([7], k=5)
    print("items like item 7:", items.tolist(), "at", distances.tolist())
    return model


if __name__ == "__main__":
    main()
