"""HDRM: hyperbolic encoder, directional diffusion, recommendation by Lorentz distance.

    h = Σ_l Âˡ·logmap0(table)               tangent vectors of users, h_u, and items, h_i
    n = D⁻¹A·h                              n_u: a user's history, the mean of its items
    û = reverse diffusion of h_u given n_u  the user's denoiser
    n̂ = reverse diffusion of n_u given h_u  the item denoiser, on the user's history
    y_u = expmap0((1−ω)·h_u + ω·(û + n̂)/2),   y_i = expmap0(h_i);   rank by d(y_u, y_i)

Source: Yuan et al., *Hyperbolic Diffusion Recommender Model*, WWW 2025. On purpose different from
the released code: a denoiser sees only what is known at inference (not the item to be ranked),
positive and negative items take the same path, and both denoisers are used as they were trained.

With config.conditioning = "pair", as published: the denoisers are trained on a user and the item to be
ranked (:mod:`hdrm.train.pair_diffusion`), and y_u = expmap0((1−ω)·h_u + ω·n̂): only the item denoiser
generates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .. import ops
from ..config import Config
from ..graph import CSR, BipartiteGraph
from ..seeds import derive_seed
from . import checkpoint, serving, slices
from .denoiser import Denoiser
from .diffusion import Diffusion
from .encoder import Encoder
from .exportable import Exportable

DENOISERS = ("user", "history")
BLOCK = 2**14  # users whose reverse process runs at a time: bounds memory


class HDRM(nn.Module):
    """The recommender.

    Args:
        num_users, num_items: U and I.
        config: the settings; the model reads those of its section "Model", ``work_tables``, and
            ``tables_on``: with "host" the encoder's table stays on the CPU, wherever the model goes.
        own: of several processes that train together, this one's users and items: the model has
            these alone, and starts with the weights that a model of all has. None for all.

    Raises:
        TypeError, ValueError: ``config`` is not a Config, or a size is not a whole number from 1.

    Weights are drawn from torch's generator. A model needs a graph of training interactions
    (:meth:`set_graph`) before it can encode or recommend. ``omega`` is ω; 0, the start, leaves the
    diffusion out.
    """

    omega: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        config: Config,
        *,
        own: tuple[range, range] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(config, Config):
            raise TypeError(
                f"config must be a hdrm.config.Config, got {type(config).__name__}; "
                f"Config(dim=…) makes one"
            )
        for name, count in (("num_users", num_users), ("num_items", num_items)):
            if not hasattr(count, "__index__") or count < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {count!r}")
        self.num_users, self.num_items, self.config = num_users, num_items, config
        if own is not None:
            self.num_users, self.num_items = map(len, own)
        self.encoder = Encoder(
            num_users,
            num_items,
            config.dim,
            config.layers,
            config.curvature,
            work_dtype=torch.bfloat16 if config.work_tables == "bfloat16" else None,
            on_host=config.tables_on == "host",
            users=config.users,
            own=own,
        )
        self.diffusion = Diffusion.from_config(config)
        self.denoisers = nn.ModuleDict(
            {
                name: Denoiser(
                    config.dim,
                    config.hidden,
                    config.activation,
                    config.dropout,
                    from_zero=config.predict != "x0",
                )
                for name in DENOISERS
            }
        )
        self.register_buffer("omega", torch.zeros((), dtype=torch.float64))
        for name in DENOISERS:  # column statistics of the training set, see set_statistics
            self.register_buffer(f"mean_{name}", torch.zeros(config.dim))
            self.register_buffer(f"std_{name}", torch.zeros(config.dim))
        self._graph: BipartiteGraph | None = None
        self._forget()

    # What the model knows

    @property
    def graph(self) -> BipartiteGraph:
        """The training interactions; RuntimeError if there are none yet."""
        if self._graph is None:
            raise RuntimeError("this HDRM has no interactions yet; call set_graph(graph) first")
        return self._graph

    def set_graph(self, graph: BipartiteGraph) -> None:
        """Give the model its training interactions.

        Raises:
            TypeError: it is no graph.
            ValueError: the graph has other numbers of users and items than the model.
        """
        if not isinstance(graph, BipartiteGraph) and not hasattr(graph, "propagate"):
            raise TypeError(
                f"graph must be a BipartiteGraph, got {type(graph).__name__}; "
                f"BipartiteGraph.from_interactions builds one"
            )
        if (graph.num_users, graph.num_items) != (self.num_users, self.num_items):
            raise ValueError(
                f"the model has {self.num_users} users and {self.num_items} items, the graph "
                f"{graph.num_users} and {graph.num_items}"
            )
        self._graph = graph
        self._forget()

    @torch.no_grad()
    def set_statistics(
        self, column_statistics: Callable[[Tensor], tuple[Tensor, Tensor]] = ops.column_statistics
    ) -> None:
        """Store μ and σ of all users' vectors and histories, the scale of directional noise.

        ``column_statistics``: how, where this process has the vectors of some users only.
        """
        h = self.encoder(self.graph)
        for name, z0 in zip(DENOISERS, self.user_inputs(h, self.graph)):
            mean, std = column_statistics(z0)
            getattr(self, f"mean_{name}").copy_(mean)
            getattr(self, f"std_{name}").copy_(std)

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """The stored (μ, σ) of the inputs of a denoiser."""
        return getattr(self, f"mean_{name}"), getattr(self, f"std_{name}")

    def train(self, mode: bool = True) -> HDRM:
        """As nn.Module; also forgets what is kept for recommending, which training changes."""
        self._forget()
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args, **kwargs):
        """As nn.Module for .to(device) and kin; the graph follows, and ω stays float64."""
        omega = self.omega
        super()._apply(*args, **kwargs)
        if self.omega.dtype != omega.dtype:
            self.omega = omega.to(self.omega.device)
        self._forget()
        if self._graph is not None:
            self._graph = self._graph.to(self.omega.device)
        return self

    def _forget(self) -> None:
        self._points: tuple[Tensor, Tensor] | None = None
        self._item_rounds: Tensor | None = None

    # Training and inference

    def user_inputs(self, h: Tensor, graph: BipartiteGraph) -> tuple[Tensor, Tensor]:
        """What the diffusion starts from: users' vectors and histories, (U, dim) each."""
        users = slice(self.num_users)
        return h[users], slices.histories(h, graph, users)

    def denoise(
        self,
        user: Tensor,
        history: Tensor,
        t: Tensor,
        *,
        seed: int,
        first_row: int = 0,
        of_rows: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Noise both inputs (B, dim) to step t int64 (B,) and predict them back, (B, dim) each.

        Each denoiser is conditioned on the other's clean input. The scale of directional noise is
        what set_statistics has stored; with conditioning = "pair", where items take the place of
        histories, it is that of the given rows, and differentiated.

        A slice of a batch, of whose ``of_rows`` rows it starts with row ``first_row``, gets the
        batch's noise, and its dropout where torch's generator is in the same state; None: the batch
        ends with the slice. ValueError if the batch ends before.
        """
        rows = (first_row, first_row + len(user) if of_rows is None else of_rows)
        predicted, of_pairs = [], self.config.conditioning == "pair"
        for k, (name, z0, known) in enumerate(zip(DENOISERS, (user, history), (history, user))):
            scale = None if of_pairs else self.statistics(name)
            z_t = self.diffusion.add_noise(z0, t, scale, seed=seed + k, first_row=first_row)
            output = self.denoisers[name](z_t, t, known, rows=rows)
            predicted.append(self.diffusion.predicted_x0(output, z_t, t))
        return predicted[0], predicted[1]

    @torch.no_grad()
    def generate(self, *, first: int = 0) -> tuple[Tensor, Tensor]:
        """(h, z): the encoder's vectors (U + I, dim), and (û + n̂)/2 of every user (U, dim).

        With conditioning = "pair" z is n̂. Inputs are noised to step T' = config.sampling_steps and
        led back step by step. All noise is replaced by its mean unless config.sampling_noise is set;
        then it is drawn from the configuration's seed. So the result is a function of the model
        alone.
        """
        h = self.encoder(self.graph)
        return h, self.generate_from(*self.user_inputs(h, self.graph), first=first)

    @torch.no_grad()
    def generate_from(self, user: Tensor, history: Tensor, *, first: int = 0) -> Tensor:
        """(û + n̂)/2 of any users from their vectors and histories, (n, dim) each.

        ``first``: the number of the first of them. Noise that is drawn depends on a user's number,
        and not on the users that are generated with it.
        """
        generated = torch.empty_like(user)
        for start in range(0, len(user), BLOCK):
            part = slice(start, start + BLOCK)
            z = self._reverse("history", history[part], user[part], first + start)
            if self.config.conditioning == "history":
                of_user = self._reverse("user", user[part], history[part], first + start)
                z = z.add_(of_user).div_(2)
            generated[part] = z
        return generated

    def _reverse(self, name: str, z0: Tensor, known: Tensor, first: int) -> Tensor:
        """The reverse process of a denoiser on a block of users, of whom ``first`` is the first."""
        diffusion, config, statistics = self.diffusion, self.config, self.statistics(name)
        denoiser = cast(Denoiser, self.denoisers[name])
        prepared = denoiser.prepare(known)
        seed = derive_seed("inference", name, config.seed) if config.sampling_noise else None
        z = diffusion.start(z0, config.sampling_steps, statistics, seed=seed, first_row=first)
        for step in range(config.sampling_steps - 1, -1, -1):
            t = torch.tensor([step], device=z.device)  # of all rows
            spread = None
            if seed is not None and step > 0:
                spread = diffusion.pure_noise(z, statistics, seed=seed + step, first_row=first)
            x0 = diffusion.predicted_x0(denoiser.denoise(z, t, prepared), z, t)
            z = diffusion.reverse_step(x0, z, step, spread)
        return z

    def mix(self, h: Tensor, z: Tensor | None, omega: float) -> tuple[Tensor, Tensor]:
        """Points of users (U, dim) and items (I, dim) with ω; z is not needed for ω = 0."""
        users, items = h[: self.num_users], h[self.num_users :]
        if omega and z is not None:
            users = torch.lerp(users, z, omega)
        c = self.config.curvature
        return ops.expmap0(users, c=c), ops.expmap0(items, c=c)

    def points(self) -> tuple[Tensor, Tensor]:
        """The points that users and items are ranked by; kept until train() or a new graph."""
        if self.training:
            raise RuntimeError("call eval() before recommending: dropout is on while training")
        if self._points is None:
            omega = float(self.omega)
            with torch.no_grad():
                h, z = self.generate() if omega else (self.encoder(self.graph), None)
                self._points = self.mix(h, z, omega)
        return self._points

    def item_rounds(self) -> Tensor:
        """What items send a new user in each round (L, I, dim); kept as :meth:`points` are."""
        if self._item_rounds is None:
            self._item_rounds = self.encoder.item_rounds(self.graph)
        return self._item_rounds

    # Serving; hdrm.model.serving has the formulas, and the errors of all four

    def recommend(
        self, users: int | Sequence[int] | Tensor, k: int = 20, *, exclude: CSR | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k nearest items of each user that the user has not interacted with.

        Args:
            users: ids (B,); one id counts as a list of one.
            k: 1 ≤ k ≤ I.
            exclude: CSR (U × I) of items to leave out; by default the training interactions.

        Returns:
            Item ids (B, k) int64 and Lorentz distances (B, k), nearest first; −1 and inf where a
            user has fewer than k items left.
        """
        return serving.recommend(self, users, k, exclude)

    def fold_in(self, items: Sequence[Sequence[int]] | CSR) -> Tensor:
        """Points (B, dim) of B new users who have interacted with ``items``, ids or CSR (B × I)."""
        return serving.fold_in(self, items)

    def recommend_for(
        self, items: Sequence[Sequence[int]] | CSR, k: int = 20
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`recommend`, for new users who have interacted with ``items``."""
        return serving.recommend_for(self, items, k)

    def similar_items(
        self, items: int | Sequence[int] | Tensor, k: int = 20
    ) -> tuple[Tensor, Tensor]:
        """Ids and distances (B, k) of the k items nearest to each of ``items``, without itself."""
        return serving.similar_items(self, items, k)

    def exportable(self, k: int = 20) -> Exportable:
        """:meth:`recommend` as a module of points and training items, which torch.export takes::

            batch = torch.export.Dim("batch")
            program = torch.export.export(
                model.exportable(k=10), (torch.tensor([7, 8]),), dynamic_shapes=({0: batch},)
            )
            torch.export.save(program, "recommender.pt2")

        Where the program is loaded, hdrm has to be imported: it has the kernels. Training the model
        does not change the module.

        Raises:
            ValueError: k out of range.
            RuntimeError: no graph was set, or the model is in training mode.
        """
        return Exportable(self, k)

    # Storage

    def save(self, run: str | os.PathLike[str]) -> None:
        """Write the model into the folder ``run``; see :mod:`hdrm.model.checkpoint`."""
        checkpoint.save(self, run)

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> HDRM:
        """The model of a run folder, ready to recommend.

        Raises:
            FileNotFoundError: no such folder, or it holds no model.
            ValueError: the file is damaged or not one of ours; the message says what is wrong.
        """
        stored = checkpoint.read(run)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
            model = cls(stored.num_users, stored.num_items, stored.config)
        checkpoint.fill(model, stored)
        model.set_graph(stored.graph())
        return model.to(device).eval()
