"""HDRM: hyperbolic encoder, directional diffusion, recommendation by Lorentz distance.

    h = Σ_{l=1..L} Âˡ·logmap0(table)                tangent vectors of users and items
    n = D⁻¹A·h                                      a user's history, an item's audience
    z = reverse diffusion from h under condition n  one denoiser for users, one for items
    y = expmap0((1−ω)·h + ω·z)                      points; items are ranked by d(y_user, y_item)

Source: Yuan et al., *Hyperbolic Diffusion Recommender Model*, WWW 2025. Deviations, on purpose:
a denoiser sees only what is known at inference, positives and negatives pass the same network,
and the trained networks are the ones used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..config import Config
from ..graph import CSR, BipartiteGraph
from . import checkpoint
from .denoiser import Denoiser
from .diffusion import Diffusion
from .encoder import Encoder, neighbour_mean

SIDES = ("user", "item")


class HDRM(nn.Module):
    """The recommender.

    Args:
        num_users, num_items: U and I.
        config: the settings; the model reads those of its section "Model".

    Weights are drawn from torch's generator. A model needs a graph of training interactions
    (:meth:`set_graph`) before it can encode or recommend. ``omega`` is ω; 0, the start, leaves the
    diffusion out.
    """

    omega: Tensor

    def __init__(self, num_users: int, num_items: int, config: Config) -> None:
        super().__init__()
        self.num_users, self.num_items, self.config = num_users, num_items, config
        self.encoder = Encoder(num_users + num_items, config.dim, config.layers, config.curvature)
        self.diffusion = Diffusion.from_config(config)
        self.denoisers = nn.ModuleDict(
            {
                side: Denoiser(config.dim, config.hidden, config.activation, config.dropout)
                for side in SIDES
            }
        )
        self.register_buffer("omega", torch.zeros((), dtype=torch.float64))
        for side in SIDES:  # column statistics of the training set, see set_statistics
            self.register_buffer(f"mean_{side}", torch.zeros(config.dim))
            self.register_buffer(f"std_{side}", torch.zeros(config.dim))
        self._graph: BipartiteGraph | None = None
        self._points: tuple[Tensor, Tensor] | None = None

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
            ValueError: the graph has other numbers of users and items than the model.
        """
        if (graph.num_users, graph.num_items) != (self.num_users, self.num_items):
            raise ValueError(
                f"the model has {self.num_users} users and {self.num_items} items, the graph "
                f"{graph.num_users} and {graph.num_items}"
            )
        self._graph, self._points = graph, None

    @torch.no_grad()
    def set_statistics(self) -> None:
        """Store μ and σ of the users' and the items' vectors, the scale of directional noise."""
        for side, h in zip(SIDES, self._sides(self.encoder(self.graph))):
            mean, std = ops.column_statistics(h)
            getattr(self, f"mean_{side}").copy_(mean)
            getattr(self, f"std_{side}").copy_(std)

    def statistics(self, side: str) -> tuple[Tensor, Tensor]:
        """The stored (μ, σ) of "user" or "item"."""
        return getattr(self, f"mean_{side}"), getattr(self, f"std_{side}")

    def train(self, mode: bool = True) -> HDRM:
        """As nn.Module; also forgets the points kept for recommend, which training changes."""
        self._points = None
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._points = None
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args, **kwargs):
        """As nn.Module for .to(device) and kin; the graph follows."""
        super()._apply(*args, **kwargs)
        self._points = None
        if self._graph is not None:
            self._graph = self._graph.to(self.omega.device)
        return self

    # Training

    def denoise(
        self, side: str, z0: Tensor, condition: Tensor, t: Tensor, *, seed: int | Tensor
    ) -> Tensor:
        """Noise z0 (B, dim) to step t int64 (B,) and predict it back: ẑ_0 (B, dim)."""
        z_t = self.diffusion.add_noise(z0, t, self.statistics(side), seed=seed)
        return self.diffusion.predicted_x0(self.denoisers[side](z_t, t, condition), z_t, t)

    # Inference

    @torch.no_grad()
    def generate(self) -> tuple[Tensor, Tensor]:
        """(h, z): the encoder's vectors (U + I, dim) and what the reverse diffusion makes of them.

        Both sides are noised to step T' = config.sampling_steps and led back; with T' = 1 the
        denoisers are applied to h itself. Deterministic: the noise has the seed of the config.
        """
        h = self.encoder(self.graph)
        conditions = self._sides(neighbour_mean(h, self.graph))
        sides = zip(SIDES, self._sides(h), conditions)
        return h, torch.cat([self._reverse(side, z0, known) for side, z0, known in sides])

    def _reverse(self, side: str, z0: Tensor, condition: Tensor) -> Tensor:
        diffusion, config = self.diffusion, self.config
        last = config.sampling_steps - 1
        z = z0
        if last > 0:
            t = torch.full((len(z0),), last, device=z0.device)
            z = diffusion.add_noise(z0, t, self.statistics(side), seed=config.seed)
        for step in range(last, -1, -1):
            t = torch.full((len(z0),), step, device=z0.device)
            x0 = diffusion.predicted_x0(self.denoisers[side](z, t, condition), z, t)
            z = diffusion.reverse_step(x0, z, step, self._spread(side, z, step))
        return z

    def _spread(self, side: str, z: Tensor, step: int) -> Tensor | None:
        """The noise of a reverse step, on the scale of the forward noise; None without it."""
        if not self.config.sampling_noise or step == 0:
            return None
        pure = self.diffusion.alpha_bar.new_zeros(1)  # ᾱ = 0: nothing but ε
        first = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        spread = ops.isotropic_noise(z, first, pure, seed=self.config.seed + 1 + step)
        return spread if self.config.noise == "isotropic" else spread * self.statistics(side)[1]

    def mix(self, h: Tensor, z: Tensor, omega: float) -> tuple[Tensor, Tensor]:
        """Points of users (U, dim) and items (I, dim): expmap0((1−ω)·h + ω·z)."""
        mixed = h if omega == 0 else torch.lerp(h, z, omega)
        return self._sides(ops.expmap0(mixed, c=self.config.curvature))

    def points(self) -> tuple[Tensor, Tensor]:
        """The points that users and items are ranked by; kept until train() or a new graph."""
        if self.training:
            raise RuntimeError("call eval() before recommending: dropout is on while training")
        if self._points is None:
            omega = float(self.omega)
            with torch.no_grad():
                if omega == 0:
                    h = z = self.encoder(self.graph)
                else:
                    h, z = self.generate()
                self._points = self.mix(h, z, omega)
        return self._points

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

        Raises:
            TypeError, ValueError: ids that are not integers or out of range, k out of range.
            RuntimeError: no graph was set, or the model is in training mode.
        """
        user_points, item_points = self.points()
        users = torch.atleast_1d(torch.as_tensor(users, device=user_points.device))
        if users.dim() != 1 or users.is_floating_point() or users.dtype == torch.bool:
            raise TypeError(
                f"users must be one-dimensional integer ids, got {users.dtype} of shape "
                f"{tuple(users.shape)}"
            )
        if users.numel() and not 0 <= int(users.min()) <= int(users.max()) < self.num_users:
            raise ValueError(
                f"users must be in 0 … {self.num_users - 1}, got {int(users.min())} … "
                f"{int(users.max())}"
            )
        seen = (self.graph.user_items if exclude is None else exclude).rows(users.long())
        distances, items = ops.topk(
            user_points[users.long()], item_points, k, exclude=seen, c=self.config.curvature
        )
        return items, distances

    def _sides(self, both: Tensor) -> tuple[Tensor, Tensor]:
        return both[: self.num_users], both[self.num_users :]

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
        model.set_graph(stored.graph)
        return model.to(device).eval()
