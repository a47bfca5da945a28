"""Training by several processes, on one machine or many: torchrun and torch.distributed.

    torchrun --nproc-per-node 4 -m hdrm train DATASET --out RUN

What a stage computes is a function of the settings and the step's number, however many processes
compute it (:mod:`hdrm.train.team`): one process and several give the same losses and weights but for
the order of float additions.

world        the processes, their mesh, the one exchange
cuts         whose users and items are whose
halo, columns, asking   rows that move: of each round, of a mesh's slices, by id
graph        the part of the graph, and propagation
team, rows   what stages and their steps ask for
data         a data set in shares
checkpoints  by torch.distributed.checkpoint, without pickle
meeting, launch, training   meeting, joining, and going on after a restart
"""
