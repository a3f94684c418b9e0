// Products of rows in bf16x3 by a warpgroup's instructions, for devices that have them.
#pragma once

#include "cuda/products_mma.h"
#include "cuda/wgmma.h"

namespace iql::cuda {

// A fragment's four words as core matrices: each word of the 32 lanes is one, of 8 columns with 8
// inputs each.
struct CoreMatrices {
  static constexpr int kSize = 128;            // bytes of one
  static constexpr int kLow = 2 * kSize;       // where those of lo begin
  static constexpr int kFragment = 4 * kSize;  // of 16 inputs and 8 columns
  __device__ static void store(float* fragment, int lane, const uint4& words) {
    std::uint32_t* at = reinterpret_cast<std::uint32_t*>(fragment) + lane;
    at[0] = words.x;
    at[32] = words.y;
    at[64] = words.z;
    at[96] = words.w;
  }
};

struct Bf16x3Cores : MmaProducts<Bf16x3Format, CoreMatrices> {};

// A block takes 64 rows, and each of its two warpgroups half of the columns of a pass. The weights
// of 16 inputs lie in shared memory for both.
struct Bf16x3Warpgroups : Bf16x3Cores {
  using Base = Bf16x3Cores;
  static constexpr int kRowsThreads = 256;
  static constexpr int kLeastRows = 64, kMostRows = 64;

  template <int kRows, class Queue, class Out>
  __device__ static void rows(const float* in, int line, int inputs, int outputs, Queue& queue,
                              float*, const Out& out) {
    static_assert(kRows == 64);
    const FragmentLane lane;
    const int row = lane.warp % 4 * 16 + lane.group, group = lane.warp / 4;
    in += row * line + lane.pair;
    for (int first = 0; first < outputs; first += kPass) {
      const int column = first + group * kColumns;
      float sum[kColumns / 8][4] = {};
      for (int k = 0; k < inputs; k += 16) {
        const Left left(in, line, k);
        const float4* weights = queue.take_shared();
        if (column >= outputs) continue;
        const char* own = reinterpret_cast<const char*>(weights) +
                          group * (kColumns / 8 * CoreMatrices::kFragment);
        const std::uint64_t hi = cores(own), lo = cores(own + CoreMatrices::kLow);
        wgmma_begin();
        wgmma_bf16(sum, left.lo, hi);
        wgmma_bf16(sum, left.hi, lo);
        wgmma_bf16(sum, left.hi, hi);
        wgmma_end();
        wait_for_wgmma();
      }
#pragma unroll
      for (int tile = 0; tile < kColumns / 8; ++tile) {
        const int at = column + tile * 8 + lane.pair;
        if (at >= outputs) continue;
        const float upper[2] = {sum[tile][0], sum[tile][1]},
                    lower[2] = {sum[tile][2], sum[tile][3]};
        out(row, at, upper);
        out(row + 8, at, lower);
      }
    }
  }
  IQL_HD static constexpr int scratch_size(int) { return 0; }

  // In each step the fragments of 16 inputs and of the pass's columns, shared out by pieces.
  __device__ static WeightShare share(const Weights& weights, int first_column) {
    const int columns = weights.outputs - first_column;
    const int all = (columns < kPass ? columns : kPass) / 8 * 32;  // pieces
    const int thread = threadIdx.x;
    return {weights.at + first_column / 8 * 32 * 4 + thread * 4,
            (all - thread + kRowsThreads - 1) / kRowsThreads, weights.inputs / 16,
            weights.outputs / 8 * 32 * 4};
  }
  __device__ static int piece(const WeightShare&, int i) { return i * kRowsThreads * 4; }
  __device__ static int step(const WeightShare& share) { return share.stride; }

 private:
  static constexpr int kColumns = kPass / 2;  // of a warpgroup

  // Fragments of A of 16 inputs.
  struct Left {
    std::uint32_t hi[4], lo[4];
    __device__ Left(const float* in, int line, int k) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float2 x =
            *reinterpret_cast<const float2*>(in + part % 2 * 8 * line + k + part / 2 * 8);
        const SplitPair split = split_bf16(x.x, x.y);
        hi[part] = split.hi;
        lo[part] = split.lo;
      }
    }
  };
  __device__ static std::uint64_t cores(const void* at) {
    return core_matrices(at, CoreMatrices::kSize, CoreMatrices::kFragment);
  }
};

template <>
constexpr int kMostThreads<Bf16x3Warpgroups> = kHasWgmma ? Bf16x3Warpgroups::kRowsThreads : 32;

}  // namespace iql::cuda
