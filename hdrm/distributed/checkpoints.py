"""Checkpoints of several processes, by torch.distributed.checkpoint: each writes its part.

000007.json              as of one process, and the shape and dtype of every tensor
000007.shards            a safetensors file a process, in the layout of DCP's HuggingFaceStorageWriter
000007.best.safetensors  as of one process

Every process can have other rows when it reads: the table and what belongs to its rows are written as
DTensors in chunks of equal size, and come back to whoever owns them. Another number of processes, and
another mesh, continue a training as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DeviceMesh, DTensor, Shard

from ..config import Config
from ..train.checkpoints import OF_SEVERAL, Checkpoints, entry_of, join, split
from ..train.stage import State
from .asking import Asking

if TYPE_CHECKING:
    from .team import RankTeam

DENOISERS = ("model/denoisers", "stage/optimizer")  # where the state has what every process has


class RankCheckpoints(Checkpoints):
    """Of one run of several processes, all of which call each method together."""

    format = OF_SEVERAL
    team: RankTeam

    @classmethod
    def of(cls, run: Path, config: Config, team: RankTeam) -> RankCheckpoints:
        made = cls(run, keep=config.checkpoints_kept, minutes=config.checkpoint_minutes)
        made.team = team
        return made

    def acquire(self, *, create: bool = False) -> None:
        if self.team.main:
            super().acquire(create=create)
        self.team.world.barrier()

    def write(self, facts: Mapping, state: State, *, best: bool) -> None:
        """As Checkpoints.write. A process that fails to write ends the others' call too.

        Raises:
            OSError: a part cannot be written; the older checkpoints are as they were.
        """
        began = time.perf_counter()
        team = self.team
        number = team.shared(max(self._numbers(), default=0) + 1)
        tensors: dict[str, Tensor] = {}
        values = split(state, "", tensors)
        shards = self.folder / self._names(number)["tensors"]
        layout = self._layout(tensors)
        try:
            writer = HuggingFaceStorageWriter(str(shards), save_distributed=True)
            spread = self._spread(tensors, layout)
            dcp.save(spread, storage_writer=writer, process_group=team.world.control)
        except dcp.CheckpointException as error:
            if team.main:
                self._delete(number)
            reasons = {str(failure[0]) for failure in error.failures.values()}
            raise OSError(f"{shards} cannot be written: {'; '.join(sorted(reasons))}") from error
        if team.main:
            try:
                files = {"tensors": entry_of(shards)}
                if best:
                    files["best"] = self._link_best(number)
                content = {"facts": facts, "state": values, "files": files, "layout": layout}
                self._complete(number, content)
            except BaseException:
                self._delete(number)
                raise
        team.world.barrier()
        self._written = time.perf_counter()
        self._took = self._written - began

    def read(self, **expected) -> tuple[dict, State]:
        team, answer = self.team, None
        if team.main:
            try:
                number, content = self._newest(expected)
                answer = {"number": number, "content": content}
            except (ValueError, RuntimeError) as error:
                answer = {"error": str(error)}
        answer = team.shared(answer)
        if "error" in answer:
            raise ValueError(answer["error"])
        content, layout = answer["content"], answer["content"]["layout"]
        empty = {
            path: torch.empty(self._local_shape(entry), dtype=getattr(torch, entry["dtype"]))
            for path, entry in layout.items()
        }
        spread = {path: self._part(path, of, layout) for path, of in empty.items()}
        reader = HuggingFaceStorageReader(
            str(self.folder / self._names(answer["number"])["tensors"])
        )
        dcp.load(spread, storage_reader=reader, process_group=team.world.control)
        tensors = {
            path: self._returned(of.to_local()) if isinstance(of, DTensor) else of
            for path, of in spread.items()
        }
        self._written = time.perf_counter()
        return content["facts"], join(content["state"], tensors)

    def remove(self) -> None:
        if self.team.main:  # nobody waits: of processes that fail the others can be gone
            super().remove()

    def _names(self, number: int) -> dict[str, str]:
        return super()._names(number) | {"tensors": f"{number:06d}.shards"}

    # The layout: which tensors are rows of the table, and of what the others are copies

    def _layout(self, tensors: Mapping[str, Tensor]) -> dict[str, dict]:
        own = tensors["model/encoder.table"].shape
        rows = self.team.total(torch.tensor(own[0])).item()
        replicated = sum(path.startswith("model/denoisers") for path in tensors)
        found = {}
        for path, tensor in tensors.items():
            of_rows = (
                tensor.dim() == 2 and tensor.shape[0] == own[0] and tensor.shape[1] in (1, own[1])
            )
            of_rows &= not path.startswith(DENOISERS)
            if path.startswith("average/") and any(
                p.startswith("stage/optimizer") for p in tensors
            ):
                # The averages of stage 2 are of the denoisers' parameters, and then of the table.
                of_rows &= int(path.rsplit("/", 1)[1]) >= replicated
            shape = list(tensor.shape)
            found[path] = {
                "rows": of_rows,
                "shape": [rows, *shape[1:]] if of_rows else shape,
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
        return found

    def _spread(
        self, tensors: Mapping[str, Tensor], layout: Mapping[str, dict]
    ) -> dict[str, Tensor]:
        """Rows in chunks of equal size, as DTensors; the others as they are."""
        return {
            path: self._part(path, self._chunk(tensor) if layout[path]["rows"] else tensor, layout)
            for path, tensor in tensors.items()
        }

    def _part(self, path: str, local: Tensor, layout: Mapping[str, dict]) -> Tensor:
        if not layout[path]["rows"]:
            return local
        shape = torch.Size(layout[path]["shape"])
        mesh = DeviceMesh.from_group(self.team.world.control, "cpu")
        return DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
        )

    def _local_shape(self, entry: dict) -> list[int]:
        if not entry["rows"]:
            return entry["shape"]
        return [len(self._chunk_of(entry["shape"][0])), *entry["shape"][1:]]

    def _chunk_of(self, rows: int) -> range:
        """This process's rows in the layout of Shard(0)."""
        size = -(-rows // self.team.size)
        first = min(self.team.rank * size, rows)
        return range(first, min(first + size, rows))

    def _asking(self, rows: int) -> tuple[Asking, Tensor]:
        """Who wants which rows of the table, and where the own ones are that others want."""
        team, cuts = self.team, self.team.cuts
        device = team.world.device
        of_items = rows == cuts.num_items  # the table has no users
        bounds = cuts.items if of_items else cuts.nodes
        chunk = self._chunk_of(rows)
        ids = torch.arange(chunk.start, chunk.stop, device=device)
        asking = Asking(team.world, bounds, ids, label="checkpoint")
        if of_items:
            return asking, asking.asked - team.items.start
        return asking, cuts.local(team.rank, asking.asked)

    def _chunk(self, own: Tensor) -> Tensor:
        rows = self.team.total(torch.tensor(len(own))).item()
        asking, place = self._asking(rows)
        return asking.answered(own.to(place.device)[place]).cpu()

    def _returned(self, chunk: Tensor) -> Tensor:
        rows = self.team.total(torch.tensor(len(chunk))).item()
        asking, place = self._asking(rows)
        given = asking.given(chunk.to(place.device))
        return torch.empty_like(given).index_copy_(0, place, given).cpu()
