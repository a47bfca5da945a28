"""Each positive against all items that its user has not seen, at once.

    s_uj = −‖x_u − y_j‖²_L/τ,   ‖x − y‖²_L = −2/c − 2⟨x, y⟩_L = (2/c)·(cosh(√c·d(x, y)) − 1)
    loss = Σ_(u,i) w_u·softplus(logsumexp_{j unseen by u}(s_uj) − s_ui)

The squared Lorentzian distance ‖x − y‖²_L grows with the distance d, so that both rank alike, and of
all users and items it is a matrix product. Positives do not compete with each other.

Sources: Law, Liao, Snell, Zemel, *Lorentzian distance learning for hyperbolic representations*, ICML
2019; the softmax over all items: Liang et al., *Variational autoencoders for collaborative filtering*,
WWW 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]  # rows of users and ids of items, int64 (n,) each


def unseen_softmax_loss(
    users: Tensor,
    items: Tensor,
    positives: Pairs,
    seen: Pairs,
    temperature: float,
    *,
    weights: Tensor | None = None,
    c: float = 1.0,
) -> Tensor:
    """The loss of the module's formula, a scalar.

    Args:
        users, items: points (B, d+1) and (I, d+1).
        positives: the pairs (u, i) to be ranked, each once.
        seen: the pairs that are nobody's negatives; positives among them.
        temperature: τ > 0.
        weights: w of every user (B,); None for 1.
        c: the curvature is −c.

    One matrix (B, I) is alive while the loss is computed, and all is done in place: what is kept for
    the backward are the two gradients. So B bounds the memory. A user who has seen every item has no
    negative and adds 0.
    """
    if weights is None:
        weights = users.new_ones(len(users))
    with torch.autocast(users.device.type, enabled=False):  # 16 bits cannot hold a point
        return _UnseenSoftmax.apply(users, items, *positives, *seen, weights, 2 / temperature, c)


class _UnseenSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, users, items, row, positive, seen_row, seen, weights, scale, c):
        # With y_0 = 1/√c + b, s is (2/τ)·(x_s·y_s − x_0·b) but for what all items of a user share,
        # which falls out of the loss. b is computed without cancellation: flat spaces (c → 0) too.
        signed = items.clone()
        signed[:, 0] = -items[:, 1:].square().sum(1) / (items[:, 0] + c**-0.5)
        signed *= scale
        s = users @ signed.T
        at = s[row, positive]
        s[seen_row, seen] = -torch.inf
        # Least numbers stand for −∞ and 0, of the sum over no item: no NaN comes of it.
        least = torch.finfo(s.dtype)
        top = s.amax(1, keepdim=True).clamp_(min=least.min)
        e = s.sub_(top).exp_()
        total = e.sum(1).clamp_(min=least.tiny)
        above = (top[:, 0] + total.log())[row] - at
        loss = (torch.nn.functional.softplus(above) * weights[row]).sum()
        pull = above.sigmoid_() * weights[row]
        push = torch.zeros_like(total).index_add_(0, row, pull)
        # The gradient of s is e·share but at the positives, which are seen, −pull. Rows of the small
        # factors are scaled, not of e.
        share = push / total
        e[row, positive] = -pull / share.clamp(min=least.tiny)[row]
        of_users = (e @ signed).mul_(share[:, None])
        of_items = (e.T @ (users * share[:, None])).mul_(scale)
        of_items[:, 0].neg_()
        ctx.save_for_backward(of_users, of_items)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        of_users, of_items = ctx.saved_tensors
        return (grad * of_users, grad * of_items, *[None] * 7)
