"""`hdrm train` by several processes, without the seconds that each takes to import torch.

A process that has imported everything forks them, with the variables that a launcher sets; torchrun
itself is in the tests that need it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch.distributed as dist

SECONDS = 120  # that a job may take; then it is killed

FORKS = """
import gc, json, os, sys, traceback
import torch._dynamo
from hdrm import cli
from hdrm.distributed import training
from hdrm.train import report, trainer

gc.freeze()
os.fsync = lambda descriptor: None  # it takes most of the time; no machine loses its power here
for line in sys.stdin:
    order, pids = json.loads(line), []
    for rank in range(order["size"]):
        if rank in order["absent"]:
            continue
        pids.append(os.fork())
        if not pids[-1]:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(order["size"]), "MASTER_PORT": str(order["port"])}
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": str(not order["by_hand"])}
            sys.stdin.close()
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{order['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT), number)
            exec(order["code"], {"rank": rank})
            sys.argv, code = ["hdrm", *order["args"]], 1
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)  # to take down what was imported costs a second
    print(json.dumps(pids), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(codes), flush=True)
"""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Forks:
    """Starts processes, one job after the other."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # As torchrun's, one store for all jobs. It has threads, so that it is not where forks are made.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        )

    def start(
        self, size: int, *args, code: str = "", absent=(), by_hand: bool = False
    ) -> list[int]:
        """Processes 0 … size − 1, but for those that are absent, run ``hdrm ARGS``; their pids.

        code: run by each before, with its number as ``rank``.
        by_hand: not as by torchrun; process 0 holds the store.
        """
        for path in Path(self._folder.name).iterdir():
            path.unlink()
        order = {
            "size": size,
            "args": [*map(str, args)],
            "code": code,
            "absent": list(absent),
            "port": free_port() if by_hand else self._store.port,
            "by_hand": by_hand,
            "folder": self._folder.name,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pids = json.loads(self._process.stdout.readline())
        self._watch = threading.Timer(SECONDS, _kill, [pids])
        self._watch.start()
        return pids

    def end(self) -> tuple[list[int], str, str]:
        """Exit codes, and what they all printed, when they have ended."""
        codes = json.loads(self._process.stdout.readline())
        self._watch.cancel()
        said = {"out": "", "err": ""}
        for path in sorted(Path(self._folder.name).iterdir()):
            said[path.suffix[1:]] += path.read_text()
        # What torch's C++ logs beside.
        err = re.sub(r"(?m)^\[.*\n", "", said["err"])
        return codes, said["out"], err

    def run(self, size: int, *args, **more) -> tuple[list[int], str, str]:
        self.start(size, *args, **more)
        return self.end()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()
