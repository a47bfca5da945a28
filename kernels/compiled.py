"""What the compilers make of a kernel, without a GPU: Triton compiles it for a named architecture
as for a launch there, and the figures are read from the PTX and the machine code.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

from .launch import Launch
from .tiles import CHUNK

# Per multiprocessor; CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_BYTES = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
REGISTERS, WARPS, BLOCKS = 65_536, 64, 32
REGISTERS_AT_ONCE = 256  # what a warp's registers are rounded up to
RESERVED_SHARED_BYTES = 1 << 10  # of each block, by the driver


@dataclass(frozen=True)
class Access:
    """How a kernel's loads, or its stores, reach one of its tables.

    vector: bytes of one access in bulk. passes: how often every element is touched. In kernels over
    row tiles it is counted in the PTX, where every loop is over the chunks of a row. Where loops
    depend on data, and for arguments that are no tables, it is taken to be 1.
    """

    vector: int
    passes: float


@dataclass(frozen=True)
class Compiled:
    """One kernel, compiled for one architecture with one tile."""

    name: str
    arch: int
    elements: int  # of a row tile; 0: the kernel has none
    warps: int
    registers: int  # of a thread
    stack_bytes: int
    spill_stores: int  # bytes, as ptxas counts them
    spill_loads: int
    shared: int  # bytes of a block
    atomics: int
    reads: dict[str, Access]  # by the argument's name
    writes: dict[str, Access]
    ptx: str
    cubin: bytes

    @property
    def blocks(self) -> int:
        """Blocks that fit a multiprocessor at the same time."""
        return resident_blocks(self.arch, self.warps, self.registers, self.shared)

    @property
    def occupancy(self) -> float:
        """Warps that are resident over the 64 that could be."""
        return self.blocks * self.warps / WARPS


def resident_blocks(arch: int, warps: int, registers: int, shared: int) -> int:
    """Blocks that fit a multiprocessor at the same time, each of so many warps and so many bytes
    of shared memory, with so many registers a thread."""
    of_a_warp = -(-registers * 32 // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    # Four schedulers share the registers: a warp takes all of its from one of them.
    resident = REGISTERS // 4 // of_a_warp * 4 if of_a_warp else WARPS
    return min(
        BLOCKS,
        min(resident, WARPS) // warps,
        SHARED_BYTES[arch] // (shared + RESERVED_SHARED_BYTES),
    )


class _Architecture:
    """Stands in for Triton's driver; the device is numbered by its architecture."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_device(self) -> int:
        return self._arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda")


def named(launch: Launch) -> dict[str, Any]:
    """The arguments of a launch by name."""
    return dict(zip(launch.kernel.arg_names, launch.arguments))


def tables(launch: Launch) -> dict[str, Tensor]:
    """The tables of rows among a launch's arguments."""
    arguments = named(launch)
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor)
        and value.dim() > 1
        and value.shape[-1] == arguments.get("width")
    }


def compile_for(launch: Launch, arch: int, all_tiles: bool) -> list[Compiled]:
    """Compile what a launch would run on this architecture, with the largest tile or with all that
    the autotuner would try. Triton's own cache keeps the results.
    """
    triton.runtime.driver.set_active(_Architecture(arch))
    options = {**launch.meta, "grid": (1,), "enable_fp_fusion": True}
    kernel = launch.kernel
    if not isinstance(kernel, triton.runtime.Autotuner):
        return [_read(kernel.warmup(*launch.arguments, **options), launch, arch)]
    kernel.nargs = named(launch)
    configs = kernel.prune_configs(launch.meta)
    return [
        _read(kernel.fn.warmup(*launch.arguments, **options, **config.all_kwargs()), launch, arch)
        for config in (configs if all_tiles else configs[-1:])
    ]


def _read(kernel, launch: Launch, arch: int) -> Compiled:
    registers, stack = _resources(kernel.asm["cubin"])
    stores, loads = _spills(kernel) if stack else (0, 0)
    constants = {kernel.src.fn.arg_names[i]: value for (i,), value in kernel.src.constants.items()}
    elements, ptx = constants.get("ELEMENTS", 0), kernel.asm["ptx"]
    reads, writes = _accesses(kernel, launch, elements)
    return Compiled(
        kernel.metadata.name, arch, elements, kernel.metadata.num_warps, registers, stack, stores,
        loads, kernel.metadata.shared, len(_ATOMIC.findall(ptx)), reads, writes, ptx,
        kernel.asm["cubin"],
    )  # fmt: skip


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread and bytes of its local memory, from the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        first = next(iter(resources(file.name).values()))
    return first.registers, first.local


class Resources(NamedTuple):
    """What a function's machine code asks for, in registers of a thread and bytes."""

    registers: int
    local: int  # of a thread: its stack and what is spilled
    shared: int  # of a block, as far as it is known before the launch


def resources(file: str | Path) -> dict[tuple[str, str], Resources]:
    """(architecture, symbol) → resources of all functions in a file. It may be a cubin, whose
    architecture remains "", or a program or library that holds several."""
    text = cuobjdump("-res-usage", file)
    found, arch = {}, ""
    for match in _RESOURCES.finditer(text):
        if match["arch"]:
            arch = match["arch"]
        else:
            registers, stack, shared, local = map(int, match.group(3, 4, 5, 6))
            found[arch, match["symbol"]] = Resources(registers, stack + local, shared)
    if not found:
        raise RuntimeError(f"cuobjdump -res-usage printed no resources: {text.strip()!r}")
    return found


def cuobjdump(*arguments: str | Path) -> str:
    """What the disassembler that comes with Triton prints."""
    command = [triton.knobs.nvidia.cuobjdump.path, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _spills(kernel) -> tuple[int, int]:
    """Bytes of spill stores and loads: compiles once more for what ptxas says about it."""
    options = ("num_warps", "num_ctas", "num_stages", "maxnreg", "enable_fp_fusion")
    options = {name: getattr(kernel.metadata, name) for name in options}
    log = io.StringIO()
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        with contextlib.redirect_stdout(log):
            triton.compile(kernel.src, target=kernel.metadata.target, options=options)
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    if found is None:
        raise RuntimeError(f"ptxas reported no spills: {log.getvalue().strip()!r}")
    return int(found[1]), int(found[2])


def versions() -> list[str]:
    """Which compilers the figures come from."""
    found = [f"Triton {triton.__version__}"]
    for arch in SHARED_BYTES:
        command = [get_ptxas(arch).path, "--version"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append(f"sm_{arch}: ptxas {re.search(r', V([0-9.]+)', text)[1]}")
    return found


_RESOURCES = re.compile(
    r"^arch = (?P<arch>\w+)"
    r"|Function (?P<symbol>\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
    re.MULTILINE,
)
_POINTER = re.compile(r"\.param \.u64 \.ptr \.global[^,)]*_param_(\d+)")
_FROM_PARAMETER = re.compile(r"ld\.param\.[bu]64\s+(%rd\d+), \[\w+_param_(\d+)\]")
_ARITHMETIC = re.compile(r"^\s*(?:@!?%p\d+\s+)?(?!ld\.)[\w.]+\s+(%rd\d+), (.*%rd\d+.*);")
_ACCESS = re.compile(r"\b(ld|st)\.\S*?global\S*?(?:\.v(\d))?\.[bsuf](\d+)\s.*?\[\s*(%rd\d+)")
_COPY = re.compile(r"cp\.async\.c[ag]\.shared\.global\S*\s*\[.*?\[\s*(%rd\d+).*?\], (\w+)")
_LABEL = re.compile(r"(\$L\w+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$L\w+);")
_ATOMIC = re.compile(r"\b(?:atom|red)\.\S*global")


def _accesses(kernel, launch: Launch, elements: int) -> tuple[dict[str, Access], dict[str, Access]]:
    """How the kernel reads and writes each of its tensors."""
    names = [name for name, kind in kernel.src.signature.items() if kind != "constexpr"]
    rows = tables(launch)
    chunks = max(1, launch.meta["D"] // CHUNK.value) if elements else 1
    found = {"ld": {}, "st": {}}
    for (kind, parameter), instructions in _global_memory(kernel.asm["ptx"]).items():
        name = names[parameter]
        of_a_thread: Counter[int] = Counter()  # bytes, by the width of the access
        for width, in_loop in instructions:
            of_a_thread[width] += width * (chunks if in_loop else 1)
        # What is far less than the rest, or than a tile, are single numbers of a row: its time.
        most, passes = max(of_a_thread.values()), 1.0
        enough = most / 2
        if elements and name in rows:
            share = elements * rows[name].element_size() / (32 * kernel.metadata.num_warps)
            enough = min(most, share * chunks)
        bulk = {width: count for width, count in of_a_thread.items() if count >= enough}
        if elements and name in rows:
            passes = sum(bulk.values()) / (share * chunks)
        found[kind][name] = Access(min(bulk), passes)
    return found["ld"], found["st"]


def _global_memory(ptx: str) -> dict[tuple[str, int], list[tuple[int, bool]]]:
    """(ld or st, number of the pointer parameter) → width in bytes of each instruction, and whether
    it stands in a loop. An address is followed back to the parameter that it is computed from.
    """
    lines = ptx.splitlines()
    pointers = set(map(int, _POINTER.findall(ptx)))
    origins, made_of = {}, defaultdict(set)
    accesses, labels, loops = [], {}, []
    for place, line in enumerate(lines):
        if at := _FROM_PARAMETER.search(line):
            origins[at[1]] = {int(at[2])} & pointers
        elif at := _ACCESS.search(line):
            accesses.append((place, at[1], at[4], int(at[2] or 1) * int(at[3]) // 8))
        elif at := _COPY.search(line):
            accesses.append((place, "ld", at[1], int(at[2], 0)))
        elif at := _ARITHMETIC.match(line):
            made_of[at[1]].update(re.findall(r"%rd\d+", at[2]))
        elif at := _LABEL.match(line):
            labels[at[1]] = place
        elif (at := _BRANCH.search(line)) and at[1] in labels:  # backwards
            loops.append(range(labels[at[1]], place))
    grown = True
    while grown:
        grown = False
        for register, sources in made_of.items():
            reached = set().union(*(origins.get(source, set()) for source in sources))
            if not reached <= origins.get(register, set()):
                origins[register] = origins.get(register, set()) | reached
                grown = True
    found: dict[tuple[str, int], list[tuple[int, bool]]] = defaultdict(list)
    for place, kind, register, width in accesses:
        if len(origins.get(register, ())) != 1:
            raise RuntimeError(f"the address {register} does not come from one pointer argument")
        (pointer,) = origins[register]
        found[kind, pointer].append((width, any(place in loop for loop in loops)))
    return found
