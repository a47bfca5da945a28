"""What nvcc made of csrc/cuda: the machine code that lies in hdrm._C, read without a GPU."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import triton

from .compiled import RESERVED_SHARED_BYTES, SHARED_BYTES, WARPS, resident_blocks, resources

ELEMENTS = {"float": "float32", "double": "float64", "Bfloat16": "bfloat16", "Half": "float16"}
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
HELD = 4  # neighbouring columns of a thread: kHeld of csrc/cuda/held_row.h
VECTOR = 16  # bytes of the widest access that all three architectures have


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture."""

    symbol: str
    name: str  # in C++, without namespaces and arguments: held_rows<ExpMap0<float>, …, 16>
    arch: int
    threads: int  # of a block, at most
    promised: int  # blocks that its launch bounds want to fit a multiprocessor
    registers: int  # of a thread
    local: int  # bytes of a thread's local memory: stack and spills
    shared: int  # bytes of a block
    accesses: dict[tuple[str, int, int], int]  # (ld or st, bytes, loops around it) → instructions
    atomics: tuple[str, ...]

    @property
    def blocks(self) -> int:
        """Blocks that fit a multiprocessor at the same time."""
        return resident_blocks(self.arch, self.threads // 32, self.registers, self.shared)

    @property
    def occupancy(self) -> float:
        """Warps that are resident over the 64 that could be."""
        return self.blocks * (self.threads // 32) / WARPS

    @property
    def function(self) -> str:
        return self.name.partition("<")[0]

    @property
    def label(self) -> str:
        """The name without types of elements and sizes of teams, which many kernels share."""
        text = re.sub(rf"\b(?:{'|'.join(ELEMENTS)})\b,? ?", "", self.name)
        text = re.sub(r"(?:, )?\b\d+(?=>$)", "", text)  # the team's
        return text.replace("<>", "").replace(", >", ">").replace("(Metric)", "")

    @property
    def dtype(self) -> str | None:
        """Of the tables, or None if the kernel has none. A row kernel names what it computes in
        first; what it calls float32 also reads and writes 16 bits, in code of its own."""
        types = re.findall(rf"\b({'|'.join(ELEMENTS)})\b", self.name)
        if not types:
            return None
        return ELEMENTS[types[-1 if self.function in ("held_rows", "swept_rows") else 0]]

    @property
    def element(self) -> int:
        """Bytes of an element of the tables."""
        return BYTES.get(self.dtype, 4)

    @property
    def vector(self) -> int:
        """Bytes of an access to the thread's columns: 8 in tables of 16 bits."""
        return min(VECTOR, HELD * self.element)

    def count(self, kind: str, size: int) -> int:
        """Loads ("ld") or stores ("st") of so many bytes."""
        return sum(n for (k, b, _), n in self.accesses.items() if (k, b) == (kind, size))

    def in_bulk(self, kind: str) -> int:
        """Vector accesses in the innermost loop that has any: per row, not per column or block."""
        of_depth = {
            depth: n for (k, b, depth), n in self.accesses.items() if (k, b) == (kind, self.vector)
        }
        return of_depth[max(of_depth)] if of_depth else 0


def kernels(binary: Path) -> list[Kernel]:
    """All kernels in a program, library or cubin for the architectures that are known here."""
    found = resources(binary)
    names = {symbol: readable(demangle(symbol)) for _, symbol in found}
    archs = [arch for arch in dict.fromkeys(arch for arch, _ in found) if _number(arch)]
    with ThreadPoolExecutor() as pool:
        codes = dict(zip(archs, pool.map(lambda arch: _code(binary, arch), archs)))
    threads, promised = _threads(binary, archs[0]) if archs else {}, _promised(binary)
    result = []
    for (arch, symbol), (registers, local, shared) in found.items():
        if arch not in codes:
            continue
        # ptxas counts what the driver takes for itself from sm_90 on; resident_blocks adds it.
        shared -= RESERVED_SHARED_BYTES if _number(arch) >= 90 and shared else 0
        accesses, atomics = codes[arch][symbol]
        result.append(Kernel(
            symbol, names[symbol], _number(arch), threads[symbol], promised.get(symbol, 1),
            registers, local, shared, accesses, atomics,
        ))  # fmt: skip
    return result


def _number(arch: str) -> int | None:
    """90 for sm_90 and sm_90a, None for what the limits are not known of."""
    number = int(re.search(r"\d+", arch)[0])
    return number if number in SHARED_BYTES else None


def demangle(symbol: str) -> str:
    """A C++ function's name and arguments, by the C++ library that torch has loaded."""
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    text = library.__cxa_demangle(symbol.encode(), None, None, ctypes.byref(status))
    if status.value != 0:
        return symbol
    result = ctypes.string_at(text).decode()
    library.free(ctypes.c_void_p(text))
    return result


def readable(declaration: str) -> str:
    """A function's name with its template arguments, without namespaces and arguments."""
    text = re.sub(r"\bvoid |\bhdrm::|\bcuda::|\(anonymous namespace\)::", "", declaration)
    depth, end = 0, len(text)
    for place, character in enumerate(text):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            end = place
            break
    return text[:end].replace("> >", ">>")


def _lines(*arguments: str | Path) -> Iterator[str]:
    command = [triton.knobs.nvidia.cuobjdump.path, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield from process.stdout
    if process.returncode:
        raise RuntimeError(f"cuobjdump failed: {command}")


_FUNCTION = re.compile(r"Function : (\S+)")
_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?(LDG?|STG?|ATOM[GS]?|RED[GS]?|BRA)((?:\.\w+)*)\s(.*?);"
)
_BITS = re.compile(r"\.[US]?(8|16|64|128|256)(?:\.|$)")

Code = tuple[dict[tuple[str, int, int], int], tuple[str, ...]]


def _code(binary: Path, arch: str) -> dict[str, Code]:
    """symbol → its accesses to global memory and its atomic operations."""
    found: dict[str, tuple[list, list, dict]] = {}
    accesses: list[tuple[int, str, int]] = []
    atomics: list[str] = []
    loops: dict[int, int] = {}  # first instruction → last
    for line in _lines("-sass", "-arch", arch, binary):
        if ";" not in line:
            if match := _FUNCTION.search(line):
                accesses, atomics, loops = [], [], {}
                found[match[1]] = (accesses, atomics, loops)
        elif match := _INSTRUCTION.search(line):
            place, name, kind = int(match[1], 16), match[2], match[3]
            if name == "BRA":
                target = re.search(r"0x([0-9a-f]+)", match[4])
                if target and int(target[1], 16) < place:
                    loops[int(target[1], 16)] = max(place, loops.get(int(target[1], 16), 0))
            elif name.startswith(("LD", "ST")):
                bits = _BITS.search(kind)
                accesses.append((place, name[:2].lower(), int(bits[1]) // 8 if bits else 4))
            else:
                atomics.append(name + kind)
    return {symbol: _counted(*code) for symbol, code in found.items()}


def _counted(
    accesses: list[tuple[int, str, int]], atomics: list[str], loops: dict[int, int]
) -> Code:
    counts: Counter[tuple[str, int, int]] = Counter()
    for place, kind, size in accesses:
        depth = sum(first <= place <= last for first, last in loops.items())
        counts[kind, size, depth] += 1
    return dict(counts), tuple(atomics)


def _threads(binary: Path, arch: str) -> dict[str, int]:
    """symbol → the most threads of a block, from launch bounds: the same for all architectures."""
    found: dict[str, int] = defaultdict(lambda: 1024)
    symbol, wanted = "", False
    for line in _lines("-elf", "-arch", arch, binary):
        if line.startswith("."):
            symbol = line.strip().removeprefix(".nv.info.")
        elif "Attribute:" in line:
            wanted = "EIATTR_MAX_THREADS" in line
        elif wanted and "Value:" in line:
            x, y, z = (int(value, 16) for value in line.split()[1:4])
            found[symbol] = x * y * z
    return found


def _promised(binary: Path) -> dict[str, int]:
    """symbol → blocks for each multiprocessor that its launch bounds ask for, if there is PTX."""
    found, symbol = {}, ""
    for line in _lines("-ptx", binary):
        if match := re.search(r"\.entry (\w+)", line):
            symbol = match[1]
        elif line.startswith(".minnctapersm"):
            found[symbol] = int(line.split()[1])
    return found
