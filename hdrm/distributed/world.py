"""The processes of a training, as torchrun starts them, and the one exchange that all is made of.

R·C processes form a mesh: process p = r·C + c is in row group r, which has a range of users (cut by
their edges) and of items, and has the columns c of every vector while it is propagated. Of the group's
users and items each of its C processes owns a part, in whole rows.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

BLOCK = 2**20  # rows that are sent at a time


class World:
    """This process among those of the job.

    Args:
        device: where the tensors are that are exchanged.
        mesh: (R, C); None for (number of processes, 1).

    Attributes:
        rank, size: which process this is, and how many there are.
        rows, cols: R and C. row, col: r and c.
        received: bytes that came from other processes, by what they were for.

    Raises:
        ValueError: R·C is not the number of processes.
    """

    def __init__(self, device: torch.device, mesh: tuple[int, int] | None = None) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.rows, self.cols = mesh or (self.size, 1)
        if self.rows * self.cols != self.size:
            raise ValueError(
                f"a mesh of {self.rows} × {self.cols} needs {self.rows * self.cols} processes, "
                f"there are {self.size}"
            )
        self.row, self.col = divmod(self.rank, self.cols)
        self.received: Counter[str] = Counter()
        # Every process makes all groups, in one order.
        ranks = torch.arange(self.size).view(self.rows, self.cols)
        self.everyone = self._group(range(self.size))
        self.of_column = self._groups(ranks.T.tolist())[self.col]  # that share the columns
        self.of_row = self._groups(ranks.tolist())[self.row]  # that share the users
        # What is decided and what the host has goes by gloo, whatever the device.
        self.control = self.everyone
        if device.type != "cpu":
            self.control = dist.new_group(backend="gloo", timeout=_timeout())

    def _groups(self, members: Sequence[Sequence[int]]) -> list:
        return [self.everyone if len(m) == self.size else self._group(m) for m in members]

    def _group(self, ranks: Sequence[int]):
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        return dist.new_group(list(ranks), timeout=_timeout(), backend=backend)

    def exchange(
        self, rows: Tensor, send: Sequence[int], receive: Sequence[int], group=None, *, label: str
    ) -> Tensor:
        """Give each process of a group the next ``send[q]`` rows, and take ``receive[q]`` of each.

        Args:
            rows: (Σ send, …), contiguous, in the order of the processes.
            group: of World's; None for all processes.
            label: what the bytes are for; see ``received``.

        Returns:
            (Σ receive, …), in the order of the processes.
        """
        group = group or self.everyone
        out = rows.new_empty((sum(receive), *rows.shape[1:]))
        dist.all_to_all_single(out, rows.contiguous(), list(receive), list(send), group=group)
        from_others = sum(receive) - receive[dist.get_rank(group)]
        self.received[label] += (
            from_others * out[:1].numel() * out.element_size() if len(out) else 0
        )
        return out

    def counts(self, send: Sequence[int], group=None) -> list[int]:
        """How many rows each process of a group will send, from how many each is sent."""
        given = torch.tensor(send, device=self.device)
        taken = torch.empty_like(given)
        dist.all_to_all_single(taken, given, group=group or self.everyone)
        return taken.tolist()

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, where it was."""
        there = values.to(self.device, copy=True)
        dist.all_reduce(there, group=self.everyone)
        return there.to(values.device)

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each of some numbers over all processes."""
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return values.tolist()

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows of the host (n, …), of any number, of all processes in order."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(rows)]), group=self.control)
        parts = [rows.new_empty((int(n), *rows.shape[1:])) for n in lengths]
        # One after another: a process sends its rows to all.
        for source, part in enumerate(parts):
            if source == self.rank:
                part = parts[source] = rows.contiguous()
            if len(part):
                dist.broadcast(part, source, group=self.control)
        return torch.cat(parts)

    def shared(self, value):
        """The first process's value, of what JSON can hold, at all processes."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0, group=self.control)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == 0:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(content, 0, group=self.control)
        return json.loads(content.numpy().tobytes())

    def barrier(self) -> None:
        dist.barrier(group=self.control)

    def collected(self, *parts: Tensor) -> Tensor | None:
        """At the first process the rows (n, …) of all, on the host; None at the others.

        Of several tensors first those of all processes in order, then the next. At the first process
        there is one table, in which everyone's rows are received.
        """
        count = int(self.total(torch.tensor(sum(map(len, parts)))))
        shape = (0 if self.rank else count, *parts[0].shape[1:])
        out, at = torch.empty(shape, dtype=parts[0].dtype), 0

        def put(block: Tensor) -> None:
            nonlocal at
            out[at : at + len(block)] = block
            at += len(block)

        for rows in parts:
            self.streamed(rows.cpu(), put)
        return None if self.rank else out

    def streamed(self, rows: Tensor, use: Callable[[Tensor], object]) -> None:
        """The first process uses the rows of the host (n, …) of all, in order, a block at a time."""
        count = torch.tensor([len(rows)])
        blocks = rows.contiguous().split(BLOCK) if len(rows) else ()
        if self.rank:
            dist.send(count, 0, group=self.control)
            for block in blocks:
                dist.send(block, 0, group=self.control)
            return
        for block in blocks:
            use(block)
        for source in range(1, self.size):
            dist.recv(count, source, group=self.control)
            for begin in range(0, int(count), BLOCK):
                block = rows.new_empty((min(BLOCK, int(count) - begin), *rows.shape[1:]))
                dist.recv(block, source, group=self.control)
                use(block)


def _timeout() -> datetime.timedelta:
    """How long an exchange may take."""
    given = os.environ.get("HDRM_TIMEOUT_MINUTES", "10")
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise ValueError(f"HDRM_TIMEOUT_MINUTES must be a number of minutes above 0, got {given!r}")
    return datetime.timedelta(minutes=minutes)
