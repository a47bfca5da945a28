"""A small training, and how it is stopped: what the tests of resuming and of checkpoints share."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np

from hdrm.config import Config
from hdrm.data import load
from hdrm.train import Trainer
from hdrm.train.observer import Observer

CONFIG = Config(
    dim=9,
    hidden=(8, 8),
    steps=4,
    sampling_steps=2,
    folds=2,
    averaging=0.9,
    encoder_epochs=5,
    encoder_batch=100,
    encoder_lr=0.02,
    encoder_negatives=4,
    softmax_users=15,
    diffusion_epochs=3,
    diffusion_batch=60,
    diffusion_lr=0.01,
    eval_steps=1,
    patience=9,
    checkpoint_minutes=0,
)


def write_source(folder: Path) -> Path:
    """A data set of 40 users and 30 items in three files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    taste = np.arange(40)[:, None] % 3 == np.arange(30) % 3
    pairs = np.argwhere(generator.random(taste.shape) < np.where(taste, 0.6, 0.1)).astype(np.int64)
    for name, split in {"train": pairs[::2], "valid": pairs[1::4], "test": pairs[3::4]}.items():
        np.save(folder / f"{name}_list.npy", split)
    return folder


def trainer(source, run, config=CONFIG, observer=None):
    return Trainer(load(source), config, run, source=str(source), observer=observer)


class Kill(Observer):
    """Sends this process a signal after the n-th step."""

    def __init__(self, after: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = after, number

    def step(self, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def stop(source: Path, run: Path) -> Path:
    """A run that was stopped after a step of its second stage, of 10 and 12 steps."""
    assert trainer(source, run, observer=Kill(after=19)).fit().interrupted == signal.SIGTERM
    return run


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))
