// A barrier of all blocks of a cooperative launch, which are on the device at once.
#pragma once

#include "cuda/intrinsics.h"

namespace iql::cuda {

// Waits until all blocks have come here as often, by a counter in device memory, 0 at first, to
// which each block adds one; `times` counts from 1. What a block's threads wrote to device memory
// before, all threads of the grid see afterwards: the first __syncthreads hands it to the thread
// that releases it, the second what that thread acquires to the others.
__device__ inline void wait_for_grid(unsigned* arrived, unsigned times) {
  __syncthreads();
  if (threadIdx.x == 0) {
    arrive(arrived);
    wait_for_arrivals(arrived, times * gridDim.x);
  }
  __syncthreads();
}

}  // namespace iql::cuda
