// The two kinds of product of a training step, in three precisions with one interface: Fp32
// (products_fp32.h), Bf16x3 and Tf32 (products_mma.h). What they have in common is here.
//
// Rows: a few rows of activations in shared memory times a layer's weights, which come from the L2
// cache through a WeightQueue. No two threads of a block take the same weight.
//
// Tile: a tile of a weight gradient, the sum over the batch of products of two columns. All of the
// batch is summed in one block, so there are no atomics and a result is the same every time.
//
// How an element of a result is summed does not depend on the rows beside it.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"
#include "cuda/queue.h"
#include "cuda/tiles.h"

namespace iql::cuda {

constexpr int kThreads = 256;  // of a team that updates weights: a block, or a share of one
constexpr int kSlice = 64;     // batch rows that a tile takes at a time
// Lines in shared memory: 16-byte aligned, and such that the strided reads of fragments fall into
// different banks.
constexpr int kTileLine = kTile + 4;
IQL_HD inline int panel_line(int columns) { return padded(columns, 32) + 8; }

__device__ __forceinline__ int team_thread() { return static_cast<int>(threadIdx.x) % kThreads; }

// Threads that a block of rows may have at most: too few where the architecture lacks what the
// precision needs.
template <class Precision>
constexpr int kMostThreads = Precision::kRowsThreads;

__device__ __forceinline__ float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ void store4(float* to, const float4& x) {
  *reinterpret_cast<float4*>(to) = x;
}
__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ float4 plus(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// The sum of part(0) to part(kParts - 1), in pairs of pairs.
template <int kParts, class Part>
__device__ __forceinline__ auto sum_of(const Part& part, int first = 0) {
  if constexpr (kParts == 1) {
    return part(first);
  } else {
    return plus(sum_of<kParts / 2>(part, first), sum_of<kParts / 2>(part, first + kParts / 2));
  }
}

}  // namespace iql::cuda
