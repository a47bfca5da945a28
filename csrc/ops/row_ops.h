// The row ops of each family: X(name, the struct of csrc/rows that computes it in a type T). Either
// device makes a kernel of each, and declares them all.
#pragma once

#define HDRM_LORENTZ_MAPS(X)                             \
  X(expmap0, ExpMap0<T>)                                 \
  X(expmap0_backward, ExpMap0Backward<T>)                \
  X(logmap0, LogMap0<T>)                                 \
  X(logmap0_backward, LogMap0Backward<T>)                \
  X(project, Project<T>)                                 \
  X(project_backward, ProjectBackward<T>)                \
  X(project_tangent, ProjectTangent<T>)                  \
  X(project_tangent_backward, ProjectTangentBackward<T>) \
  X(expmap, ExpMap<T>)                                   \
  X(expmap_backward, ExpMapBackward<T>)                  \
  X(logmap, LogMap<T>)                                   \
  X(logmap_backward, LogMapBackward<T>)                  \
  X(transport, Transport<T>)                             \
  X(transport_backward, TransportBackward<T>)            \
  X(egrad2rgrad, EgradToRgrad<T>)                        \
  X(egrad2rgrad_backward, EgradToRgradBackward<T>)

#define HDRM_DISTANCES(X)                                      \
  X(distance, Distance<T, Metric::kDistance>)                  \
  X(distance_backward, DistanceBackward<T, Metric::kDistance>) \
  X(sqdist, Distance<T, Metric::kSquared>)                     \
  X(sqdist_backward, DistanceBackward<T, Metric::kSquared>)    \
  X(sqdist0, Distance<T, Metric::kSquaredTangent>)             \
  X(sqdist0_backward, DistanceBackward<T, Metric::kSquaredTangent>)

#define HDRM_HINGES(X)                \
  X(margin_ranking, MarginRanking<T>) \
  X(margin_ranking_backward, MarginRankingBackward<T>)

#define HDRM_DECLARE_ROW_KERNEL(name, ...) extern const RowKernel name;
#define HDRM_DECLARE_ROW_KERNELS             \
  HDRM_LORENTZ_MAPS(HDRM_DECLARE_ROW_KERNEL) \
  HDRM_DISTANCES(HDRM_DECLARE_ROW_KERNEL)    \
  HDRM_HINGES(HDRM_DECLARE_ROW_KERNEL)
