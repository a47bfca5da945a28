"""Writes what triton.language draws for a seed and a file of int64 indices.

As a script: TRITON_INTERPRET=1 python triton_stream.py SEED INDICES.npy OUT.npz
"""

import sys

import numpy as np
import torch
import triton
import triton.language as tl


@triton.jit
def stream(seed, index, integers, normals, COUNT: tl.constexpr):
    lanes = tl.arange(0, COUNT)
    i = tl.load(index + lanes)
    x0, x1, x2, x3 = tl.randint4x(seed, i)
    tl.store(integers + 4 * lanes, x0)
    tl.store(integers + 4 * lanes + 1, x1)
    tl.store(integers + 4 * lanes + 2, x2)
    tl.store(integers + 4 * lanes + 3, x3)
    n0, n1, n2, n3 = tl.randn4x(seed, i)
    tl.store(normals + 4 * lanes, n0)
    tl.store(normals + 4 * lanes + 1, n1)
    tl.store(normals + 4 * lanes + 2, n2)
    tl.store(normals + 4 * lanes + 3, n3)


if __name__ == "__main__":
    seed, index = int(sys.argv[1]), torch.from_numpy(np.load(sys.argv[2]))
    integers = torch.zeros(index.numel(), 4, dtype=torch.int64)
    normals = torch.zeros(index.numel(), 4)
    stream[(1,)](seed, index, integers, normals, COUNT=index.numel())
    np.savez(sys.argv[3], integers=integers.numpy(), normals=normals.numpy())
