// The metrics of a step, and whether its losses were finite: one team a seed.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"
#include "cuda/losses.h"
#include "cuda/products.h"

namespace iql::cuda {

constexpr int kMetrics = sizeof(engine::MetricSums) / sizeof(double);
constexpr int kWeightMax = offsetof(engine::MetricSums, weight_max) / sizeof(double);

struct MetricsShared {
  double warp[kThreads / 32][kMetrics];
  double batch[kMetrics];
};

__device__ inline engine::MetricSums row_metrics(const Problem& p, const RowLosses& losses,
                                                 int row) {
  const float advantage = losses.advantage(row), weight = losses.weight(advantage);
  engine::MetricSums m;
  m.value_loss = losses.value(row).loss;
  for (int e = 0; e < p.critics; ++e) {
    const float error = losses.error(e, row);
    m.critic_loss += error * error;
  }
  m.actor_loss = -weight * losses.column(kFit, row);
  m.value = losses.column(kValueBefore, row);
  m.q = losses.q(row);
  m.advantage = advantage;
  m.squared_advantage = double(advantage) * advantage;
  m.weight = weight;
  m.weight_max = weight;
  m.weight_clipped = weight >= float(losses.hyper.weight_clip);
  return m;
}

__device__ inline void note_failure(const Problem& p, const RowLosses& losses, int network) {
  FailureRecord& failure = p.failures[losses.seed];
  if (failure.step != 0) return;
  failure = {p.clocks[losses.seed].now + 1,
             network,
             losses.q(0),
             losses.q(0),
             losses.column(kValueBefore, 0),
             losses.column(kValueBefore, 0)};
  for (int r = 1; r < p.batch; ++r) {
    const float q = losses.q(r), v = losses.column(kValueBefore, r);
    failure.q_min = q < failure.q_min ? q : failure.q_min;
    failure.q_max = q > failure.q_max ? q : failure.q_max;
    failure.v_min = v < failure.v_min ? v : failure.v_min;
    failure.v_max = v > failure.v_max ? v : failure.v_max;
  }
}

// `sync` is the team's barrier.
template <class Sync>
__device__ __forceinline__ void add_metrics(const Problem& p, int seed, float* memory,
                                            const Sync& sync) {
  MetricsShared& shared = *reinterpret_cast<MetricsShared*>(memory);
  const RowLosses losses(p, seed);
  const int thread = team_thread();
  double sums[kMetrics] = {};
  for (int r = thread; r < p.batch; r += kThreads) {
    const engine::MetricSums row = row_metrics(p, losses, r);
    const double* values = reinterpret_cast<const double*>(&row);
#pragma unroll
    for (int i = 0; i < kMetrics; ++i) {
      sums[i] = i == kWeightMax ? fmax(sums[i], values[i]) : sums[i] + values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kMetrics; ++i) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      const double other = __shfl_xor_sync(~0u, sums[i], lanes);
      sums[i] = i == kWeightMax ? fmax(sums[i], other) : sums[i] + other;
    }
    if (thread % 32 == 0) shared.warp[thread / 32][i] = sums[i];
  }
  sync();
  if (thread < kMetrics) {
    double batch = shared.warp[0][thread];
    for (int w = 1; w < kThreads / 32; ++w) {
      const double other = shared.warp[w][thread];
      batch = thread == kWeightMax ? fmax(batch, other) : batch + other;
    }
    shared.batch[thread] = batch;
    double& total = reinterpret_cast<double*>(p.metrics + seed)[thread];
    total = thread == kWeightMax ? fmax(total, batch) : total + batch / p.batch;
  }
  sync();
  if (thread != 0) return;
  const auto& batch = *reinterpret_cast<const engine::MetricSums*>(shared.batch);
  if (!std::isfinite(batch.value_loss)) {
    note_failure(p, losses, engine::kValue);
  } else if (!std::isfinite(batch.actor_loss)) {
    note_failure(p, losses, engine::kActor);
  } else if (!std::isfinite(batch.critic_loss)) {
    note_failure(p, losses, engine::kCritic);
  }
  p.clocks[seed].next = p.clocks[seed].now + 1;
}

}  // namespace iql::cuda
