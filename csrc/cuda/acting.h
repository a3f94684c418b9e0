// The policy between two steps of training: sampled actions for single observations.
#pragma once

#include "cuda/layout.h"

namespace iql::cuda {

// Actions [S, A], not clipped, for an observation of each seed [S, O] and standard normal noise
// [S, A]. A cudaError_t as an int: 0 is success.
int launch_act(const Problem& p, const float* observations, const float* noise, float* actions,
               void* stream);

}  // namespace iql::cuda
