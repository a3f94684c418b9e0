// The two kinds of product of a training step, in two precisions with one interface.
//
// Rows: a few rows of activations in shared memory times a layer's weights, which come from the L2
// cache through a WeightQueue. No two threads of a block take the same weight.
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
#include "cuda/queue.h"

namespace iql::cuda {

// A tile of weights has 32 or 64 rows and columns. Four groups of threads take this many rows each of
// the batch in turn, so that the order of a sum does not depend on the tile.
constexpr int kGroups = 4;
constexpr int kGroupRows = 16;
constexpr int kGroupThreads = kThreads / kGroups;
// Lines in shared memory: 16-byte aligned, and such that the strided reads of fragments fall into
// different banks.
IQL_HD constexpr int tile_line(int tile) { return tile + 4; }
IQL_HD inline int panel_line(int columns) { return padded(columns, 32) + 8; }

// The lane's place in a fragment of mma_bf16.
struct FragmentLane {
  int warp, group, pair;
  __device__ FragmentLane()
      : warp(threadIdx.x / 32), group(threadIdx.x % 32 / 4), pair(threadIdx.x % 4 * 2) {}
};

__device__ __forceinline__ float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float4 add4(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

struct Fp32 {
  static constexpr int kQuarters = 4;
  static constexpr int kTogether = 8;                   // rows whose parts are added up at a time,
  static constexpr int kOwn = kTogether / kQuarters;    // of which a quarter adds up some
  static constexpr int kScratch = kQuarters * (kTogether - kOwn) * kThreads;  // floats
  // Blocks of so many rows whose registers a multiprocessor has.
  IQL_HD static constexpr int blocks_together(int rows) { return rows == 16 ? 2 : 1; }

  // out(row, column, values of 4 columns) of in [kRows][inputs] times weights [inputs][outputs].
  // Threads are 64 groups of 4 columns by 4 quarters of the inputs, so that a weight goes to one
  // thread alone; what the quarters make is added up in `scratch`, some rows at a time.
  template <int kRows, class Queue, class Out>
  __device__ static void rows(const float* in, int line, int inputs, int outputs, Queue& queue,
                              float* scratch, const Out& out) {
    const int quarter = threadIdx.x / 64, share = inputs / kQuarters;
    in += quarter * share;
    for (int first = 0; first < outputs; first += kThreads) {
      const int column = first + threadIdx.x % 64 * 4;
      float4 sum[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] = make_float4(0, 0, 0, 0);
      for (int k = 0; k < share; k += 4) {
        float4 weight[4];
        queue.take(weight);
        if (column < outputs) add_products(in + k, line, weight, sum);
      }
#pragma unroll
      for (int group = 0; group < kRows; group += kTogether) {
        if (first + group > 0) __syncthreads();  // the scratch is read
        float* part = scratch + threadIdx.x % 64 * 4;
        float4 own[kOwn];
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
          const int owner = r / kOwn;
          if (owner == quarter) {
            own[r % kOwn] = sum[group + r];
          } else {
            *reinterpret_cast<float4*>(part + place(quarter, owner, r % kOwn)) = sum[group + r];
          }
        }
        __syncthreads();
        if (column >= outputs) continue;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          float4 of[kQuarters];
#pragma unroll
          for (int q = 0; q < kQuarters; ++q) {
            of[q] = q == quarter ? own[i] : load4(part + place(q, quarter, i));
          }
          const float4 total = add4(add4(of[0], of[1]), add4(of[2], of[3]));
          const float values[4] = {total.x, total.y, total.z, total.w};
          out(group + quarter * kOwn + i, column, values);
        }
      }
    }
  }
  // In each step four rows of the thread's quarter.
  __device__ static WeightShare share(const Weights& weights, int first_column) {
    const int column = first_column + threadIdx.x % 64 * 4;
    const int row = threadIdx.x / 64 * (weights.inputs / kQuarters);
    return {weights.at + row * weights.outputs + column, column < weights.outputs ? 4 : 0,
            weights.outputs, weights.inputs / kQuarters / 4, weights.outputs * 4};
  }

  // The weights themselves serve the forward pass.
  __device__ static const float* forward(const HiddenLayout& layer, const float* weights,
                                         const float*) {
    return weights + layer.weight;
  }
  template <int kTile>
  __device__ static void write_forward(const HiddenLayout&, const float*, int, int, float*) {}

  // [columns][rows], from a tile of weights at (row, column).
  template <int kTile>
  __device__ static void write_backward(const HiddenLayout& layer, const float* tile, int row,
                                        int column, float* operand) {
    constexpr int kLine = tile_line(kTile);
    for (int e = threadIdx.x; e < kTile * kTile / 4; e += kThreads) {
      const int i = e % (kTile / 4) * 4, j = e / (kTile / 4);
      if (row + i >= layer.rows || column + j >= layer.columns) continue;
      const float* at = tile + i * kLine + j;
      *reinterpret_cast<float4*>(operand + std::int64_t(column + j) * layer.rows + row + i) =
          make_float4(at[0], at[kLine], at[2 * kLine], at[3 * kLine]);
    }
  }

  // A group's threads are 8 by 8, each with 4 by 4 elements of every 32 by 32 of the tile.
  template <int kTile>
  struct Tile {
    static constexpr int kLine = tile_line(kTile), kParts = kTile / 32, kOwn = 4 * kParts;
    float sum[kOwn][kOwn] = {};

    // kGroupRows rows of the layer's input and of its gradient.
    __device__ void add(const float* left, const float* right) {
      left += threadIdx.x % kGroupThreads / 8 * 4;
      right += threadIdx.x % 8 * 4;
#pragma unroll 2
      for (int k = 0; k < kGroupRows; ++k) {
        float x[kOwn], y[kOwn];
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          unpack(load4(left + k * kLine + part * 32), x + part * 4);
          unpack(load4(right + k * kLine + part * 32), y + part * 4);
        }
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
#pragma unroll
          for (int j = 0; j < kOwn; ++j) sum[i][j] += x[i] * y[j];
        }
      }
    }
    __device__ void store(float* tile) const {
      tile += threadIdx.x % kGroupThreads / 8 * 4 * kLine + threadIdx.x % 8 * 4;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const float* s = sum[i] + part * 4;
          *reinterpret_cast<float4*>(tile + (i / 4 * 32 + i % 4) * kLine + part * 32) =
              make_float4(s[0], s[1], s[2], s[3]);
        }
      }
    }
  };

 private:
  // Where a quarter's part of an owner's i-th row lies in the scratch.
  __device__ static int place(int quarter, int owner, int i) {
    const int before = owner < quarter ? owner : owner - 1;  // a quarter keeps its own rows
    return ((quarter * (kQuarters - 1) + before) * kOwn + i) * kThreads;
  }
  __device__ static void unpack(const float4& from, float* to) {
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
  }
  template <int kRows>
  __device__ static void add_products(const float* in, int line, const float4 (&weight)[4],
                                      float4 (&sum)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float factor[4];
      unpack(load4(in + r * line), factor);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum[r].x += factor[i] * weight[i].x;
        sum[r].y += factor[i] * weight[i].y;
        sum[r].z += factor[i] * weight[i].z;
        sum[r].w += factor[i] * weight[i].w;
      }
    }
  }
};

struct Bf16x3 {
  static constexpr int kScratch = 0;
  IQL_HD static constexpr int blocks_together(int) { return 2; }

  // Weights lie in fragments of B, [inputs / 16][outputs / 8][lane]: 16 bytes of one lane are its
  // two registers of hi, then those of lo. A warp takes 32 columns at a time.
  template <int kRows, class Queue, class Out>
  __device__ static void rows(const float* in, int line, int inputs, int outputs, Queue& queue,
                              float*, const Out& out) {
    constexpr int kFragments = kRows / 16;
    const FragmentLane lane;
    in += lane.group * line + lane.pair;
    for (int first = 0; first < outputs; first += kThreads) {
      const int column = first + lane.warp * kColumns * 8, tiles = tiles_from(column, outputs);
      float sum[kFragments][kColumns][4] = {};
      for (int k = 0; k < inputs; k += 16) {
        float4 weight[kColumns];
        queue.take(weight);
        if (tiles == 0) continue;
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          std::uint32_t hi[4], lo[4];
#pragma unroll
          for (int part = 0; part < 4; ++part) {
            const float2 x = *reinterpret_cast<const float2*>(in + (f * 16 + part % 2 * 8) * line +
                                                              k + part / 2 * 8);
            const SplitPair split = split_bf16(x.x, x.y);
            hi[part] = split.hi;
            lo[part] = split.lo;
          }
          multiply(sum[f], hi, lo, weight, tiles);
        }
      }
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int tile = 0; tile < kColumns; ++tile) {
          if (tile >= tiles) continue;
          const float(&s)[4] = sum[f][tile];
          const float upper[2] = {s[0], s[1]}, lower[2] = {s[2], s[3]};
          out(f * 16 + lane.group, column + tile * 8 + lane.pair, upper);
          out(f * 16 + lane.group + 8, column + tile * 8 + lane.pair, lower);
        }
      }
    }
  }
  // In each step the fragments of 16 inputs and the warp's columns.
  __device__ static WeightShare share(const Weights& weights, int first_column) {
    const int column = first_column + static_cast<int>(threadIdx.x) / 32 * kColumns * 8;
    return {weights.at + (column / 8 * 32 + static_cast<int>(threadIdx.x) % 32) * 4,
            tiles_from(column, weights.outputs), 32 * 4, weights.inputs / 16,
            weights.outputs / 8 * 32 * 4};
  }

  __device__ static const float* forward(const HiddenLayout& layer, const float*,
                                         const float* operands) {
    return operands + layer.forward;
  }
  template <int kTile>
  __device__ static void write_forward(const HiddenLayout& layer, const float* tile, int row,
                                       int column, float* operand) {
    write<kTile>(tile, tile_line(kTile), 1, row, layer.rows, column, layer.columns, operand);
  }
  template <int kTile>
  __device__ static void write_backward(const HiddenLayout& layer, const float* tile, int row,
                                        int column, float* operand) {
    write<kTile>(tile, 1, tile_line(kTile), column, layer.columns, row, layer.rows, operand);
  }

  // A group's two warps have half of the tile's columns each.
  template <int kTile>
  struct Tile {
    static constexpr int kLine = tile_line(kTile), kLeft = kTile / 16, kRight = kTile / 16;
    float sum[kLeft][kRight][4] = {};

    __device__ static int first_column() { return threadIdx.x / 32 % 2 * (kTile / 2); }

    // kGroupRows rows of the layer's input and of its gradient.
    __device__ void add(const float* left, const float* right) {
      const FragmentLane lane;
      const auto pair = [&](const float* from, int row, int column) {
        const float* at = from + (lane.pair + row) * kLine + lane.group + column;
        return split_bf16(at[0], at[kLine]);
      };
      float4 fragment[kRight];
#pragma unroll
      for (int n = 0; n < kRight; ++n) {
        const SplitPair upper = pair(right, 0, first_column() + n * 8),
                        lower = pair(right, 8, first_column() + n * 8);
        fragment[n] = make_float4(__uint_as_float(upper.hi), __uint_as_float(lower.hi),
                                  __uint_as_float(upper.lo), __uint_as_float(lower.lo));
      }
#pragma unroll
      for (int m = 0; m < kLeft; ++m) {
        std::uint32_t hi[4], lo[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const SplitPair split = pair(left, part / 2 * 8, m * 16 + part % 2 * 8);
          hi[part] = split.hi;
          lo[part] = split.lo;
        }
        multiply(sum[m], hi, lo, fragment, kRight);
      }
    }
    __device__ void store(float* tile) const {
      const FragmentLane lane;
#pragma unroll
      for (int m = 0; m < kLeft; ++m) {
#pragma unroll
        for (int n = 0; n < kRight; ++n) {
          float* at =
              tile + (m * 16 + lane.group) * kLine + first_column() + n * 8 + lane.pair;
          *reinterpret_cast<float2*>(at) = make_float2(sum[m][n][0], sum[m][n][1]);
          *reinterpret_cast<float2*>(at + 8 * kLine) = make_float2(sum[m][n][2], sum[m][n][3]);
        }
      }
    }
  };

 private:
  static constexpr int kColumns = 4;  // tiles of 8 columns that a warp takes at a time

  IQL_HD static int tiles_from(int column, int outputs) {
    const int tiles = (outputs - column) / 8;  // an even number
    return tiles < 0 ? 0 : tiles < kColumns ? tiles : kColumns;
  }

  // One fragment of A times some of B: the small products first, and so that no product waits for
  // the one before.
  template <int kTiles>
  __device__ static void multiply(float (&sum)[kTiles][4], const std::uint32_t (&hi)[4],
                                  const std::uint32_t (&lo)[4], const float4 (&b)[kTiles],
                                  int tiles) {
#pragma unroll
    for (int product = 0; product < 3; ++product) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= tiles) continue;
        const bool low = product == 1;
        const std::uint32_t fragment[2] = {__float_as_uint(low ? b[tile].z : b[tile].x),
                                           __float_as_uint(low ? b[tile].w : b[tile].y)};
        mma_bf16(sum[tile], product == 0 ? lo : hi, fragment);
      }
    }
  }

  // The fragments of B of a tile whose element (k, n) is tile[k * k_step + n * n_step], which lies
  // at (first_k, first_n) of a matrix of [all_k, all_n].
  template <int kTile>
  __device__ static void write(const float* tile, int k_step, int n_step, int first_k, int all_k,
                               int first_n, int all_n, float* operand) {
    uint4* fragments = reinterpret_cast<uint4*>(operand);
    for (int e = threadIdx.x; e < kTile / 16 * (kTile / 8) * 32; e += kThreads) {
      const int k = e / (kTile * 4) * 16, n = e / 32 % (kTile / 8) * 8;
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
