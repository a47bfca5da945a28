"""A small model, a loss of its encoder, and the optimisers that train it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdrm import HDRM, BipartiteGraph, ops, optim
from hdrm.config import Config

NUM_USERS, NUM_ITEMS, WIDTH = 30, 20, 9
CONFIG = Config(dim=WIDTH, hidden=(12, 14), steps=6, sampling_steps=2, layers=2, curvature=0.5)
SOFTMAX = CONFIG.replace(loss="softmax", users="items", encoder_optimizer="adam")
OPTIMIZERS = {
    "adam": lambda parameters: optim.RiemannianAdam(parameters, lr=0.01),
    "sgd": lambda parameters: optim.RiemannianSGD(parameters, lr=0.01, momentum=0.9),
}
by_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_model(config: Config = CONFIG, omega: float = 0.4) -> HDRM:
    torch.manual_seed(1)
    model = HDRM(NUM_USERS, NUM_ITEMS, config)
    pairs = np.argwhere(np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)) < 0.3)
    model.set_graph(BipartiteGraph.from_interactions(*pairs.T, NUM_USERS, NUM_ITEMS))
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    model.set_statistics()
    model.omega.fill_(omega)
    return model.eval()


def same_recommendations(model: HDRM, other: HDRM) -> bool:
    users = torch.arange(NUM_USERS)
    pairs = zip(model.recommend(users, 5), other.recommend(users, 5))
    return all(torch.equal(a, b) for a, b in pairs)


def encoder_loss(model: HDRM) -> torch.Tensor:
    users, positives, negatives = torch.arange(16), torch.arange(30, 46), torch.arange(34, 50)
    h = model.encoder(model.graph)
    c = model.config.curvature
    return ops.margin_ranking_loss(h[users], h[positives], h[negatives], 0.1, c=c)
