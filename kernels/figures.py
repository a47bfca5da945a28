"""The figures of all kernels: compiled, bytes and times derived, held against what is required, and
laid out in tables.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .calls import FULL, QUICK, Call, calls, code_of, declared_ops
from .compiled import Compiled, compile_for, named, tables
from .launch import Launch

ARCHITECTURES = (80, 90, 100)
COUNTED = 90  # bytes are counted in the PTX for this one
BANDWIDTH = 3.35e12  # bytes a second: an H100's memory
VECTOR = 16  # bytes of the widest access that all three architectures have
# (kernel, argument): a single row, shared by all threads of a program before or after its loops.
SINGLE_ROWS = {("round_kernel", "partial")} | {
    ("heavy_kernel", name) for name in ("source", "table", "x", "out")
}

# ---- compiling, on all cores

_tasks: list[tuple[Launch, int, bool]] = []  # what the worker processes inherit


def _compile(index: int) -> list[Compiled]:
    launch, arch, all_tiles = _tasks[index]
    try:
        return compile_for(launch, arch, all_tiles)
    except Exception as error:
        name = launch.kernel.fn.__name__
        text = f"{name} {launch.meta}, sm_{arch}: {type(error).__name__}: {error}"
        raise RuntimeError(text) from error


def measure(full: bool = False) -> tuple[list[Call], list[str]]:
    """All calls, compiled, and the ops that no kernel was found for."""
    found = {op: list(calls(op, FULL if full else QUICK)) for op in declared_ops()}
    all_calls = [call for of_op in found.values() for call in of_op]
    launches = {code_of(launch): launch for call in all_calls for launch, _ in call.launches}
    _tasks[:] = [(launch, arch, full) for launch in launches.values() for arch in ARCHITECTURES]
    codes = [code for code in launches for _ in ARCHITECTURES]
    compiled: dict[tuple, list[Compiled]] = {code: [] for code in launches}
    workers = min(len(os.sched_getaffinity(0)), max(len(_tasks), 1))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        results = pool.map(_compile, range(len(_tasks)))
        console = Console(stderr=True)
        try:
            for code, result in zip(
                codes, track(results, "compiling", len(codes), console=console, transient=True)
            ):
                compiled[code] += result
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for call in all_calls:
        call.compiled = [compiled[code_of(launch)] for launch, _ in call.launches]
    return all_calls, [op for op, of_op in found.items() if not of_op]


# ---- what follows from it


def moved(launch: Launch, compiled: Compiled) -> float:
    """Bytes of all accesses of one launch; what loops that depend on data gather counts once."""
    arguments, rows = named(launch), tables(launch)
    found = 0.0
    for accesses in (compiled.reads, compiled.writes):
        for name, access in accesses.items():
            if compiled.elements and name in rows:
                elements = arguments["num_rows"] * arguments["width"]
                found += access.passes * elements * rows[name].element_size()
            else:
                found += arguments[name].nbytes
    return found


def counted(call: Call) -> list[float]:
    """Bytes that each of the call's kernels moves, as often as it runs, with the largest tile."""
    return [
        count * moved(launch, [one for one in compiled if one.arch == COUNTED][-1])
        for (launch, count), compiled in zip(call.launches, call.compiled)
    ]


def gathered(call: Call) -> float:
    """What is added if no gathered row is found in a cache: a row for each edge and round."""
    found = 0
    for launch, count in call.launches:
        tensors = named(launch)
        if "col" in tensors and "table" in tensors:
            table = tensors["source"] if tensors["table"] is None else tensors["table"]
            found += count * (tensors["col"].numel() - table.shape[0]) * table[0].nbytes
    return found


def vectors(launch: Launch, compiled: Compiled) -> tuple[int | None, int | None]:
    """Bytes of the narrowest bulk load and store of the kernel's tables; None where it has none."""
    rows = tables(launch)
    loads, stores = (
        min((access.vector for name, access in accesses.items() if name in rows), default=None)
        for accesses in (compiled.reads, compiled.writes)
    )
    return loads, stores


def _narrow(launch: Launch, one: Compiled) -> Iterator[tuple[str, int]]:
    """Tables that are not accessed in vectors as wide as can be: a thread holds as many neighbours
    as fill a vector of the table with the largest elements.
    """
    rows = tables(launch)
    largest = max((table.element_size() for table in rows.values()), default=1)
    for accesses in (one.reads, one.writes):
        for name in accesses.keys() & rows.keys():
            size = rows[name].element_size()
            wanted = VECTOR * size // largest
            if (one.name, name) in SINGLE_ROWS:
                wanted = max(size, min(wanted, named(launch)["width"] * size // (32 * one.warps)))
            if accesses[name].vector < wanted:
                yield name, accesses[name].vector


def violations(all_calls: list[Call], missing: list[str]) -> list[str]:
    """What is not as it should be, a line each."""
    found = [f"{op}: no kernel in hdrm/kernels" for op in missing]
    for call in all_calls:
        aligned = call.width * getattr(torch, call.dtype).itemsize % VECTOR == 0
        for (launch, _), of_launch in zip(call.launches, call.compiled):
            for one in of_launch:
                where = f"{call}: {one.name}, sm_{one.arch}, {one.warps} warps"
                if one.stack_bytes:
                    found.append(
                        f"{where}: local memory, {one.stack_bytes} bytes; spilled: "
                        f"{one.spill_stores} bytes stored, {one.spill_loads} loaded"
                    )
                for name, width in _narrow(launch, one) if aligned else ():
                    found.append(f"{where}: {name} is accessed {width} bytes at a time")
                if one.atomics:
                    found.append(f"{where}: {one.atomics} atomic operations")
                if one.blocks == 0:
                    found.append(f"{where}: does not fit a multiprocessor")
    return found


# ---- tables

Titled = tuple[str, tuple[str, ...], list[list[str]]]  # title, head, rows

HEAD = (
    "op", "kernel", "width", "registers", "spills", "shared", "vector", "occupancy", "passes",
    "bytes/row", "minimum", "µs",
)  # fmt: skip


def lines(call: Call) -> list[list[str]]:
    """The table's lines for a call: one a kernel, the worst figures if it is specialised in several
    ways, and a sum if there are several kernels.
    """
    kernels: dict[str, list[tuple[Launch, int, list[Compiled]]]] = {}
    for (launch, count), of_launch in zip(call.launches, call.compiled):
        kernels.setdefault(of_launch[0].name, []).append((launch, count, of_launch))
    total = sum(counted(call))
    found = []
    for name, started in kernels.items():
        count = sum(count for _, count, _ in started)
        # The largest tile comes last.
        largest = [{one.arch: one for one in of_launch} for _, _, of_launch in started]
        by_arch = [[of_launch[arch] for of_launch in largest] for arch in ARCHITECTURES]
        widths = [
            vectors(launch, of_launch[COUNTED])
            for (launch, _, _), of_launch in zip(started, largest)
        ]
        passes = [
            access.passes
            for one in by_arch[ARCHITECTURES.index(COUNTED)]
            for access in one.reads.values()
            if one.elements
        ]
        found.append([
            "", name.removesuffix("_kernel") + (f" × {count}" if count > 1 else ""), "",
            each(max(one.registers for one in ones) for ones in by_arch),
            each(max(one.spill_stores + one.spill_loads for one in ones) for ones in by_arch),
            each(max(one.shared for one in ones) for ones in by_arch),
            "/".join(_narrowest(of_all) for of_all in zip(*widths)),
            each(f"{min(one.occupancy for one in ones):.0%}" for ones in by_arch),
            f"{max(passes):g}" if passes else "–",
            *(_bytes_of_row(call, total) if len(kernels) == 1 else ("", "", "")),
        ])  # fmt: skip
    if len(kernels) > 1:
        found.append(["", "together", *[""] * 7, *_bytes_of_row(call, total)])
    if extra := gathered(call):
        found.append(["", "nothing cached", *[""] * 7, *_bytes_of_row(call, total + extra)])
    found[0][0] = f"{call.op} ({call.variant})" if call.variant else call.op
    found[0][2] = str(call.width)
    return found


def _narrowest(widths: Iterable[int | None]) -> str:
    return str(min((width for width in widths if width is not None), default="–"))


def _bytes_of_row(call: Call, total: float) -> tuple[str, str, str]:
    microseconds = total / BANDWIDTH * 1e6
    return f"{total / call.rows:,.0f}", f"{call.minimum / call.rows:,.0f}", f"{microseconds:,.0f}"


def each(values: Iterable[Any]) -> str:
    """The three architectures' values, or the one that they share."""
    values = [str(value) for value in values]
    return values[0] if len(set(values)) == 1 else "/".join(values)


def _shown(all_calls: list[Call]) -> list[Call]:
    """What the table shows: with ``--full`` the rest is in the summary."""
    return [call for call in all_calls if call.width in QUICK.get(getattr(torch, call.dtype), ())]


SUMMARY = ("kernel", "dtype", "compiled", "registers", "spilling", "shared", "occupancy")
LEFT = ("op", "kernel", "dtype")


def summary(all_calls: list[Call]) -> list[list[str]]:
    """A line for each kernel of an op and dtype: how many were compiled and the worst figures."""
    groups: dict[tuple[str, str], list[Compiled]] = {}
    for call in all_calls:
        for of_launch in call.compiled:
            for one in of_launch:
                key = (f"{call.op}: {one.name.removesuffix('_kernel')}", call.dtype)
                groups.setdefault(key, []).append(one)
    return [
        [name, dtype, str(len(group)), f"≤ {max(one.registers for one in group)}",
         str(sum(one.stack_bytes > 0 for one in group)),
         f"≤ {max(one.shared for one in group)}", f"≥ {min(one.occupancy for one in group):.0%}"]
        for (name, dtype), group in groups.items()
    ]  # fmt: skip


def print_tables(console: Console, titled: Iterable[Titled]) -> None:
    for title, head, rows in titled:
        table = Table(title=title, title_justify="left")
        for name in head:
            table.add_column(name, justify="left" if name in LEFT else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def lay_out(all_calls: list[Call], full: bool) -> Iterator[Titled]:
    rows = [line for call in _shown(all_calls) for line in lines(call)]
    yield "Triton, the largest tile, float32", HEAD, rows
    if full:
        yield "Triton, every tile, width and dtype", SUMMARY, summary(all_calls)


def markdown(notes: Iterable[str], titled: Iterable[Titled], broken: list[str]) -> str:
    text = "".join(f"{note}\n" for note in notes)
    for title, head, rows in titled:
        rows = [head, ["---"] * len(head), *rows]
        lines = (" | ".join(f"`{cell}`" if "<" in cell else cell for cell in row) for row in rows)
        text += f"\n### {title}\n\n" + "".join(f"| {line} |\n" for line in lines)
    if broken:
        text += "\n### Not as required\n\n" + "".join(f"- {line}\n" for line in broken)
    return text


BINARY = ("ptx", "cubin")


def as_json(all_calls: list[Call]) -> dict[str, Any]:
    """Everything in the tables, for programs."""
    kernels = [
        {"op": call.op, "variant": call.variant, "dtype": call.dtype, "width": call.width,
         "launches": count, "vectors": vectors(launch, one), "blocks": one.blocks,
         "occupancy": one.occupancy, "file": _file(call, number, one)}
        | {name: value for name, value in dataclasses.asdict(one).items() if name not in BINARY}
        for call in all_calls
        for number, ((launch, count), of_launch) in enumerate(zip(call.launches, call.compiled))
        for one in of_launch
    ]  # fmt: skip
    totals = [
        {"op": call.op, "variant": call.variant, "dtype": call.dtype, "width": call.width,
         "rows": call.rows, "bytes": sum(counted(call)), "minimum": call.minimum,
         "seconds": sum(counted(call)) / BANDWIDTH}
        for call in all_calls
    ]  # fmt: skip
    return {"kernels": kernels, "ops": totals}


def files(all_calls: list[Call]) -> Iterator[tuple[str, Compiled]]:
    """A name for what was compiled, each once."""
    for call in all_calls:
        for number, of_launch in enumerate(call.compiled):
            for one in of_launch:
                yield _file(call, number, one), one


def _file(call: Call, number: int, one: Compiled) -> str:
    parts = [call.op, call.variant, call.dtype, call.width, number, one.elements, f"sm_{one.arch}"]
    return "-".join(str(part).replace(" ", "_") for part in parts if part != "")
