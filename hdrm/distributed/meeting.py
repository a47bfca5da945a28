"""Processes meet at a key-value store before they connect, and there one of them tells an error.

torchrun keeps one store for all its restarts, with the keys of processes that are gone; what is under a
name of this round alone was written in this round.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

WAIT = 45.0  # seconds; with what else a start takes, an error comes within a minute
PATIENCE = 0.2  # seconds between two looks
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Meeting:
    """This process among those that were started together, by the variables of torchrun.

    Attributes:
        rank, size: which process this is, and how many there are.
        store: keys of this round alone, once they have met.

    Raises:
        ValueError: a variable is missing.
        RuntimeError: nobody is at the address.
    """

    def __init__(self) -> None:
        missing = [name for name in VARIABLES if name not in os.environ]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} must be set where several processes train; start them by "
                f"torchrun, or unset WORLD_SIZE to train by one"
            )
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.store: dist.Store | None = None
        self._met = False
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._place = f"{address}:{port}"
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
        self._until = time.monotonic() + WAIT
        holds = self.rank == 0 and not hosted
        if not holds:
            self._reach(address, port, "torchrun" if hosted else "process 0")
        self._shared = dist.TCPStore(
            address,
            port,
            is_master=holds,
            wait_for_workers=False,
            timeout=timedelta(seconds=WAIT),
        )

    def meet(self) -> dist.Store:
        """Wait for all others; the store.

        Raises:
            RuntimeError: some did not come; which.
        """
        (self._invite if self.rank == 0 else self._come)()
        self._met = True
        return self.store

    def first_to_fail(self) -> bool:
        """Whether no other process has asked this before: who fails first knows why."""
        # Who has not met the others can have the store of an earlier round, where one has failed.
        key = "failed" if self._met else "unmet"
        try:
            return self.store is None or self.store.add(key, 1) == 1
        except RuntimeError:  # process 0 held the store and is gone; it, or its launcher, says why
            return False

    def _reach(self, address: str, port: int, who: str) -> None:
        """Wait until somebody listens; TCPStore itself would try for minutes."""
        while True:
            try:
                socket.create_connection((address, port), timeout=WAIT).close()
                return
            except OSError as error:
                if time.monotonic() > self._until:
                    raise RuntimeError(
                        f"{who} could not be reached at {self._place} within {WAIT:.0f} s; start all "
                        f"{self.size} processes, with an address that all can reach: {error}"
                    ) from error
            time.sleep(PATIENCE)

    def _invite(self) -> None:
        number = uuid.uuid4().hex
        self.store = dist.PrefixStore(number, self._shared)
        self._shared.set("round", number)
        others = [str(rank) for rank in range(1, self.size)]
        while missing := [rank for rank in others if not self.store.check([rank])]:
            if time.monotonic() > self._until:
                raise RuntimeError(
                    f"of {self.size} processes {', '.join(missing)} did not come to {self._place} "
                    f"within {WAIT:.0f} s; start all of them, or fewer"
                )
            time.sleep(PATIENCE)
        self.store.set("all", b" ".join(self.store.get(rank) for rank in others))

    def _come(self) -> None:
        """Into a round that is this one: an earlier one cannot know this process's name."""
        name = uuid.uuid4().hex.encode()
        while time.monotonic() < self._until + 5:  # process 0 is the first to give up
            if self._shared.check(["round"]):
                self.store = dist.PrefixStore(self._shared.get("round").decode(), self._shared)
                self.store.set(str(self.rank), name)
                if self.store.check(["all"]) and name in self.store.get("all"):
                    return
            time.sleep(PATIENCE)
        raise RuntimeError(
            f"not all {self.size} processes came to {self._place} within {WAIT:.0f} s; start all "
            f"of them, or fewer"
        )
