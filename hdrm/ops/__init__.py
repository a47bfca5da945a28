"""The kernels of hdrm as functions on tensors. Each file here tells the whole story of one op."""

from .backend import available_backends, use_backend
from .distance import distance, sqdist, sqdist0
from .lorentz_maps import (
    egrad2rgrad,
    expmap,
    expmap0,
    logmap,
    logmap0,
    project,
    project_tangent,
    transport,
)
from .message_passing import propagate
from .noising import column_statistics, directional_noise, isotropic_noise
from .ranking import margin_ranking_loss, sample_negatives, topk
from .riemannian_step import riemannian_adam_step_, riemannian_sgd_step_

__all__ = [
    "available_backends",
    "column_statistics",
    "directional_noise",
    "distance",
    "egrad2rgrad",
    "expmap",
    "expmap0",
    "isotropic_noise",
    "logmap",
    "logmap0",
    "margin_ranking_loss",
    "project",
    "project_tangent",
    "propagate",
    "riemannian_adam_step_",
    "riemannian_sgd_step_",
    "sample_negatives",
    "sqdist",
    "sqdist0",
    "topk",
    "transport",
    "use_backend",
]
