"""What the trainer asks of a stage, and how a stage lists the state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Union

import torch
from torch import Tensor

# Names of tensors and numbers, and of more such dictionaries.
State = dict[str, Union[Tensor, int, float, "State"]]


class Stage(Protocol):
    """A part of the training with steps of its own.

    A training that is resumed makes the same steps as one that was never stopped. So whatever a step
    depends on is a function of the configuration and the step's number; or lies in the model's
    parameters and buffers or in torch's generator, which the trainer keeps; or is listed by
    ``state_dict``.
    """

    name: str
    epochs: int
    steps_per_epoch: int
    examples: int  # of an epoch: pairs, or users where whole users are ranked
    averaged: Sequence[Tensor]  # parameters whose running average is validated instead of them
    omegas: Sequence[float]  # weights of the diffusion that a validation tries

    def begin_epoch(self, epoch: int) -> None:
        """Before the first step of an epoch, counted from 1; not where one is resumed within."""

    def step(self, step: int) -> float:
        """Make a step, counted from 0 over all epochs; its loss."""

    def state_dict(self) -> State:
        """What the stage owns and changes; tensors as they are, not copied."""

    def load_state_dict(self, state: State) -> None:
        """Take over what state_dict gave, by copies."""


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """What an optimiser remembers of each parameter; hyperparameters are the configuration's."""
    return {str(at): dict(state) for at, state in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Take over what optimizer_state gave, by copies."""
    groups = optimizer.state_dict()["param_groups"]
    copies = {
        int(at): {k: v.clone() if isinstance(v, Tensor) else v for k, v in of.items()}
        for at, of in state.items()
    }
    optimizer.load_state_dict({"state": copies, "param_groups": groups})
