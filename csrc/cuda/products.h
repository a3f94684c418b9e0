// The two kinds of product of a training step, in two precisions with one interface.
//
// Rows: a few rows of activations in shared memory times a layer's weights, which stream from the
// L2 cache straight into registers in the order in which threads take them. Each weight is used by
// few warps of a block, so shared memory would save nothing.
//
// Tile: a tile of a weight gradient, the sum over the batch of products of two columns. All of the
// batch is summed in one block, so there are no atomics and a result is the same every time.
//
// Fp32 multiplies in fp32. Bf16x3 splits each factor into two bf16 (hi + lo, 16 bits of mantissa)
// and takes three of the four products on tensor cores, with fp32 sums; what is left out is 2^-16
// of the result at most. How an element of a result is summed does not depend on the rows beside
// it.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"

namespace iql::cuda {

constexpr int kThreads = 256;  // of a block of the kernels here
constexpr int kTile = 64;      // rows and columns of a tile of weights
constexpr int kSlice = 32;     // batch rows that a tile takes at a time
// Lines in shared memory: 16-byte aligned, and such that the strided reads of fragments fall into
// different banks.
constexpr int kTileLine = kTile + 4;
IQL_HD inline int panel_line(int columns) { return padded(columns, 32) + 8; }

// The lane's place in a fragment of mma_bf16.
struct FragmentLane {
  int warp, group, pair;
  __device__ FragmentLane()
      : warp(threadIdx.x / 32), group(threadIdx.x % 32 / 4), pair(threadIdx.x % 4 * 2) {}
};

struct Fp32 {
  // out(row, column, values of 4 columns) of in [kRows][inputs] times weights [inputs][outputs].
  // Threads are 64 groups of 4 columns by 4 groups of rows.
  template <int kRows, class Out>
  __device__ static void rows(const float* in, int line, const float* weights, int inputs,
                              int outputs, const Out& out) {
    constexpr int kOwn = kRows / 4;
    const int first_row = threadIdx.x / 64 * kOwn;
    for (int column = threadIdx.x % 64 * 4; column < outputs; column += 256) {
      const float* weight = weights + column;
      const auto load = [&](int k) {
        return *reinterpret_cast<const float4*>(weight + std::int64_t(k) * outputs);
      };
      float sum[kOwn][4] = {};
      float4 next[4] = {load(0), load(1), load(2), load(3)};
      for (int k = 0; k < inputs; k += 4) {
        const float4 now[4] = {next[0], next[1], next[2], next[3]};
        if (k + 4 < inputs) {
#pragma unroll
          for (int i = 0; i < 4; ++i) next[i] = load(k + 4 + i);
        }
#pragma unroll
        for (int r = 0; r < kOwn; ++r) {
          const float4 x = *reinterpret_cast<const float4*>(in + (first_row + r) * line + k);
          const float factor[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[r][0] += factor[i] * now[i].x;
            sum[r][1] += factor[i] * now[i].y;
            sum[r][2] += factor[i] * now[i].z;
            sum[r][3] += factor[i] * now[i].w;
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kOwn; ++r) out(first_row + r, column, sum[r]);
    }
  }

  // The weights themselves serve the forward pass.
  __device__ static const float* forward(const HiddenLayout& layer, const float* weights,
                                         const float*) {
    return weights + layer.weight;
  }
  __device__ static void write_forward(const HiddenLayout&, const float*, int, int, float*) {}

  // [columns][rows], from a tile of weights [kTile][kTileLine] at (row, column).
  __device__ static void write_backward(const HiddenLayout& layer, const float* tile, int row,
                                        int column, float* operand) {
    for (int e = threadIdx.x; e < kTile * kTile / 4; e += kThreads) {
      const int i = e % 16 * 4, j = e / 16;
      if (row + i >= layer.rows || column + j >= layer.columns) continue;
      const float* at = tile + i * kTileLine + j;
      *reinterpret_cast<float4*>(operand + std::int64_t(column + j) * layer.rows + row + i) =
          make_float4(at[0], at[kTileLine], at[2 * kTileLine], at[3 * kTileLine]);
    }
  }

  // Threads are 16 by 16, with 4 by 4 elements each.
  struct Tile {
    float sum[4][4] = {};

    // Slices are [kSlice][kTileLine].
    __device__ void add(const float* left, const float* right) {
      const float* l = left + threadIdx.x / 16 * 4;
      const float* r = right + threadIdx.x % 16 * 4;
#pragma unroll 8
      for (int k = 0; k < kSlice; ++k) {
        const float4 x = *reinterpret_cast<const float4*>(l + k * kTileLine);
        const float4 y = *reinterpret_cast<const float4*>(r + k * kTileLine);
        const float factor[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[i][0] += factor[i] * y.x;
          sum[i][1] += factor[i] * y.y;
          sum[i][2] += factor[i] * y.z;
          sum[i][3] += factor[i] * y.w;
        }
      }
    }
    __device__ void store(float* tile) const {
      float* at = tile + threadIdx.x / 16 * 4 * kTileLine + threadIdx.x % 16 * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        *reinterpret_cast<float4*>(at + i * kTileLine) =
            make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
      }
    }
  };
};

struct Bf16x3 {
  // Weights lie in fragments of B, [inputs / 16][outputs / 8][lane]: 16 bytes of one lane are its
  // two registers of hi, then those of lo. A warp takes 32 columns at a time.
  template <int kRows, class Out>
  __device__ static void rows(const float* in, int line, const float* weights, int inputs,
                              int outputs, const Out& out) {
    constexpr int kFragments = kRows / 16, kColumns = 4;
    const FragmentLane lane;
    for (int column = lane.warp * 32; column < outputs; column += kThreads) {
      const int tiles = outputs - column < 32 ? 2 : kColumns;  // outputs is a multiple of 16
      const uint4* weight = reinterpret_cast<const uint4*>(weights) +
                            std::int64_t(column) / 8 * 32 + threadIdx.x % 32;
      const auto load = [&](int k, int tile) {
        return tile < tiles ? weight[std::int64_t(k) / 16 * (outputs / 8) * 32 + tile * 32]
                            : make_uint4(0, 0, 0, 0);
      };
      float sum[kFragments][kColumns][4] = {};
      uint4 next[kColumns];
#pragma unroll
      for (int tile = 0; tile < kColumns; ++tile) next[tile] = load(0, tile);
      for (int k = 0; k < inputs; k += 16) {
        uint4 now[kColumns];
#pragma unroll
        for (int tile = 0; tile < kColumns; ++tile) {
          now[tile] = next[tile];
          if (k + 16 < inputs) next[tile] = load(k + 16, tile);
        }
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          std::uint32_t hi[4], lo[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 x = *reinterpret_cast<const float2*>(
                in + (f * 16 + lane.group + i % 2 * 8) * line + k + lane.pair + i / 2 * 8);
            const SplitPair split = split_bf16(x.x, x.y);
            hi[i] = split.hi;
            lo[i] = split.lo;
          }
#pragma unroll
          for (int tile = 0; tile < kColumns; ++tile) {
            if (tile >= tiles) continue;
            const std::uint32_t b_hi[2] = {now[tile].x, now[tile].y};
            const std::uint32_t b_lo[2] = {now[tile].z, now[tile].w};
            multiply(sum[f][tile], hi, lo, b_hi, b_lo);
          }
        }
      }
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int tile = 0; tile < kColumns; ++tile) {
          if (tile >= tiles) continue;
          const float (&s)[4] = sum[f][tile];
          const float upper[2] = {s[0], s[1]}, lower[2] = {s[2], s[3]};
          out(f * 16 + lane.group, column + tile * 8 + lane.pair, upper);
          out(f * 16 + lane.group + 8, column + tile * 8 + lane.pair, lower);
        }
      }
    }
  }

  __device__ static const float* forward(const HiddenLayout& layer, const float*,
                                         const float* operands) {
    return operands + layer.forward;
  }
  __device__ static void write_forward(const HiddenLayout& layer, const float* tile, int row,
                                       int column, float* operand) {
    write(tile, kTileLine, 1, row, layer.rows, column, layer.columns, operand);
  }
  __device__ static void write_backward(const HiddenLayout& layer, const float* tile, int row,
                                        int column, float* operand) {
    write(tile, 1, kTileLine, column, layer.columns, row, layer.rows, operand);
  }

  // Warps are 2 by 4, with 32 by 16 elements each.
  struct Tile {
    float sum[2][2][4] = {};

    __device__ void add(const float* left, const float* right) {
      const FragmentLane lane;
      const float* l = left + lane.warp % 2 * 32;
      const float* r = right + lane.warp / 2 * 16;
#pragma unroll
      for (int k = 0; k < kSlice; k += 16) {
        const auto pair = [&](const float* slice, int k_pair, int i) {
          const float* at = slice + (k + k_pair) * kTileLine + i;
          return split_bf16(at[0], at[kTileLine]);
        };
        std::uint32_t b_hi[2][2], b_lo[2][2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const SplitPair split = pair(r, lane.pair + i * 8, n * 8 + lane.group);
            b_hi[n][i] = split.hi;
            b_lo[n][i] = split.lo;
          }
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          std::uint32_t hi[4], lo[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const SplitPair split = pair(l, lane.pair + i / 2 * 8, m * 16 + lane.group + i % 2 * 8);
            hi[i] = split.hi;
            lo[i] = split.lo;
          }
#pragma unroll
          for (int n = 0; n < 2; ++n) multiply(sum[m][n], hi, lo, b_hi[n], b_lo[n]);
        }
      }
    }
    __device__ void store(float* tile) const {
      const FragmentLane lane;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float* at = tile + (lane.warp % 2 * 32 + m * 16 + lane.group) * kTileLine +
                      lane.warp / 2 * 16 + n * 8 + lane.pair;
          *reinterpret_cast<float2*>(at) = make_float2(sum[m][n][0], sum[m][n][1]);
          *reinterpret_cast<float2*>(at + 8 * kTileLine) = make_float2(sum[m][n][2], sum[m][n][3]);
        }
      }
    }
  };

 private:
  // The small products first.
  __device__ static void multiply(float (&sum)[4], const std::uint32_t (&hi)[4],
                                  const std::uint32_t (&lo)[4], const std::uint32_t (&b_hi)[2],
                                  const std::uint32_t (&b_lo)[2]) {
    mma_bf16(sum, lo, b_hi);
    mma_bf16(sum, hi, b_lo);
    mma_bf16(sum, hi, b_hi);
  }

  // The fragments of B of a tile whose element (k, n) is tile[k * k_step + n * n_step], which lies
  // at (first_k, first_n) of a matrix of [all_k, all_n].
  __device__ static void write(const float* tile, int k_step, int n_step, int first_k, int all_k,
                               int first_n, int all_n, float* operand) {
    uint4* fragments = reinterpret_cast<uint4*>(operand);
    for (int e = threadIdx.x; e < kTile / 16 * (kTile / 8) * 32; e += kThreads) {
      const int k = e / 256 * 16, n = e / 32 % 8 * 8;
      if (first_k + k >= all_k || first_n + n >= all_n) continue;
      const FragmentLane lane;
      const float* at = tile + (k + lane.pair) * k_step + (n + lane.group) * n_step;
      const SplitPair first = split_bf16(at[0], at[k_step]);
      const SplitPair second = split_bf16(at[8 * k_step], at[9 * k_step]);
      fragments[(std::int64_t(first_k + k) / 16 * (all_n / 8) + (first_n + n) / 8) * 32 +
                threadIdx.x % 32] = make_uint4(first.hi, second.hi, first.lo, second.lo);
    }
  }
};

}  // namespace iql::cuda
