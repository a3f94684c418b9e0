// The losses of one row of a batch, from the numbers that the rows kernel left of it.
//
// Each network's loss reaches its weights through one factor a row: the gradient of its output is
// that factor times something that the network alone determines (1 for V and the critics, the
// score of the action for the actor). Backward passes are linear in it, so they run before the
// losses are known, with factor 1, and the weight gradients multiply by the factor.
#pragma once

#include "cuda/layout.h"
#include "iql/awr.h"
#include "iql/expectile.h"

namespace iql::cuda {

struct RowLosses {
  const Problem& p;
  int seed;
  engine::SeedHyperparameters hyper;

  __device__ RowLosses(const Problem& problem, int seed_)
      : p(problem), seed(seed_), hyper(problem.hyper[seed_]) {}

  __device__ float column(int which, int row) const { return p.column(seed, which)[row]; }

  // NaN where one is.
  __device__ static float least(float a, float b) { return a <= b || a != a ? a : b; }
  // The least of the target critics.
  __device__ float q(int row) const {
    float q = column(kFirstCritic + p.critics, row);
    for (int e = 1; e < p.critics; ++e) q = least(q, column(kFirstCritic + p.critics + e, row));
    return q;
  }
  __device__ float v(int row) const { return column(p.old_value ? kValueBefore : kValueNow, row); }
  __device__ float advantage(int row) const { return q(row) - v(row); }

  // Equation 5.
  __device__ Expectile<float> value(float q, float value_before) const {
    return expectile(q - value_before, float(hyper.expectile));
  }
  __device__ Expectile<float> value(int row) const {
    return value(q(row), column(kValueBefore, row));
  }
  // Equation 7: what the log-likelihood is multiplied by.
  __device__ float weight(float advantage) const {
    return awr_weight(advantage, float(hyper.temperature), float(hyper.weight_clip));
  }
  // Equation 6.
  __device__ float error(float critic, float reward, float mask, float next_value) const {
    return critic - (reward + float(hyper.discount) * mask * next_value);
  }
  __device__ float error(int critic, int row) const {
    return error(column(kFirstCritic + critic, row), column(kReward, row), column(kMask, row),
                 column(kNextValue, row));
  }

  // What a network's loss needs of a row. Reading is apart from computing, so that much else can be
  // under way in between.
  struct Numbers {
    float of[4];  // q, another target's, V(s); or a critic's, the reward, the mask, V(s')
  };
  __device__ Numbers read(int network, int row) const {
    if (network < engine::kCritic) {
      const int target = kFirstCritic + p.critics;
      return {column(target, row), p.critics == 2 ? column(target + 1, row) : q(row),
              network == engine::kValue ? column(kValueBefore, row) : v(row), 0};
    }
    return {column(kFirstCritic + network - engine::kCritic, row), column(kReward, row),
            column(kMask, row), column(kNextValue, row)};
  }
  // The factor of a network's loss, the mean over the batch included.
  __device__ float factor(int network, const Numbers& n) const {
    const float (&of)[4] = n.of;
    const float B = float(p.batch);
    if (network == engine::kValue) return -value(least(of[0], of[1]), of[2]).d_u / B;
    if (network == engine::kActor) return -weight(least(of[0], of[1]) - of[2]) / B;
    return 2.0f * error(of[0], of[1], of[2], of[3]) / B;
  }
};

}  // namespace iql::cuda
