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
#include "cuda/tiles.h"

namespace iql::cuda {

constexpr int kThreads = 256;  // of a team that updates weights: a block, or a share of one
constexpr int kSlice = 64;     // batch rows that a tile takes at a time
// Lines in shared memory: 16-byte aligned, and such that the strided reads of fragments fall into
// different banks.
constexpr int kTileLine = kTile + 4;
IQL_HD inline int panel_line(int columns) { return padded(columns, 32) + 8; }

__device__ __forceinline__ int team_thread() { return static_cast<int>(threadIdx.x) % kThreads; }

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

// The lane's place in a fragment of mma_bf16.
struct FragmentLane {
  int warp, group, pair;
  __device__ FragmentLane()
      : warp(threadIdx.x / 32), group(threadIdx.x % 32 / 4), pair(threadIdx.x % 4 * 2) {}
};

struct Fp32 {
  using Base = Fp32;
  static constexpr int kRowsThreads = 256;  // of a block that takes rows through a network

  // out(row, column, values of 4 columns) of in [kRows][inputs] times weights [inputs][outputs].
  // Threads are 64 groups of 4 columns by 4 shares of the inputs, so that a weight goes to one
  // thread alone; what the shares make is added up in `scratch`, some rows at a time.
  template <int kRows, class Queue, class Out>
  __device__ static void rows(const float* in, int line, int inputs, int outputs, Queue& queue,
                              float* scratch, const Out& out) {
    const int share = share_of_thread();
    for (int first = 0; first < outputs; first += kPass) {
      const int column = first + column_of_thread();
      float4 sum[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] = make_float4(0, 0, 0, 0);
      if (column < outputs) {
        for (int k = share * 4; k < inputs; k += kShares * 4) {
          float4 weight[4];
          queue.take(weight);
          add_products(in + k, line, weight, sum);
        }
      }
      float4* parts = reinterpret_cast<float4*>(scratch) + column_of_thread() / 4;
#pragma unroll
      for (int group = 0; group < kRows; group += kTogether) {
        if (first + group > 0) __syncthreads();  // the scratch is read
        float4 own[kOwn];
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
          const int owner = r / kOwn;
          if (owner == share) {
            own[r % kOwn] = sum[group + r];
          } else {
            parts[place(share, owner, r % kOwn)] = sum[group + r];
          }
        }
        __syncthreads();
        if (column >= outputs) continue;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const auto part = [&](int s) { return s == share ? own[i] : parts[place(s, share, i)]; };
          const float4 total = sum_of<kShares>(part);
          const float values[4] = {total.x, total.y, total.z, total.w};
          out(group + share * kOwn + i, column, values);
        }
      }
    }
  }
  IQL_HD static constexpr int scratch_size(int) {  // floats
    return kShares * (kTogether - kOwn) * kPass;
  }
  static constexpr int kMostRows = 16;  // whose sums a thread has registers for

  // In each step four rows of the product's weights.
  __device__ static WeightShare share(const Weights& weights, int first_column) {
    const int share = share_of_thread(), column = first_column + column_of_thread();
    const int steps = (weights.inputs / 4 - share + kShares - 1) / kShares;
    return {weights.at + share * 4 * weights.outputs + column, 4,
            column < weights.outputs ? steps : 0, weights.outputs};
  }
  __device__ static int piece(const WeightShare& share, int i) { return i * share.stride; }
  __device__ static int step(const WeightShare& share) { return kShares * 4 * share.stride; }

  // The weights themselves serve the forward pass.
  static constexpr bool kForwardIsWeights = true;
  __device__ static const float* forward(const HiddenLayout& layer, const float* weights,
                                         const float*) {
    return weights + layer.weight;
  }
  __device__ static void write_forward(const HiddenLayout&, const float*, int, int, float*) {}

  // [columns][rows], from a tile of weights at (row, column).
  __device__ static void write_backward(const HiddenLayout& layer, const float* tile, int row,
                                        int column, float* operand) {
    for (int e = team_thread(); e < kTile * kTile / 4; e += kThreads) {
      const int i = e % (kTile / 4) * 4, j = e / (kTile / 4);
      if (row + i >= layer.rows || column + j >= layer.columns) continue;
      const float* at = tile + i * kTileLine + j;
      *reinterpret_cast<float4*>(operand + std::int64_t(column + j) * layer.rows + row + i) =
          make_float4(at[0], at[kTileLine], at[2 * kTileLine], at[3 * kTileLine]);
    }
  }

  // Each of 16 groups of threads takes 4 rows of a slice. Its threads are 4 by 4, with 8 by 8
  // elements of the tile each, in two by two squares.
  struct Tile {
    static constexpr int kGroups = 16, kRows = kSlice / kGroups;
    float sum[8][8] = {};

    __device__ static int group() { return team_thread() / 16; }
    // The layer's input and its gradient, a slice of each.
    __device__ void add(const float* left, const float* right) {
      left += group() * kRows * kTileLine + threadIdx.x % 16 / 4 * 4;
      right += group() * kRows * kTileLine + threadIdx.x % 4 * 4;
#pragma unroll 1
      for (int k = 0; k < kRows; ++k) {
        float x[8], y[8];
#pragma unroll
        for (int square = 0; square < 2; ++square) {
          unpack(load4(left + k * kTileLine + square * 16), x + square * 4);
          unpack(load4(right + k * kTileLine + square * 16), y + square * 4);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[i][j] += x[i] * y[j];
        }
      }
    }
    __device__ void store(float* tile) const {
      tile += threadIdx.x % 16 / 4 * 4 * kTileLine + threadIdx.x % 4 * 4;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int square = 0; square < 2; ++square) {
          const float* s = sum[i] + square * 4;
          *reinterpret_cast<float4*>(tile + (i / 4 * 16 + i % 4) * kTileLine + square * 16) =
              make_float4(s[0], s[1], s[2], s[3]);
        }
      }
    }
  };

 private:
  static constexpr int kShares = 4;
  static constexpr int kTogether = 8;               // rows that are added up at a time,
  static constexpr int kOwn = kTogether / kShares;  // some of them by each share

  // Where a share's part of another one's row lies.
  __device__ static int place(int share, int owner, int i) {
    const int before = owner < share ? owner : owner - 1;
    return ((share * (kShares - 1) + before) * kOwn + i) * (kPass / 4);
  }
  __device__ static int share_of_thread() { return threadIdx.x / 64; }
  __device__ static int column_of_thread() { return threadIdx.x % 64 * 4; }
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
  static constexpr bool kForwardIsWeights = false;
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

  // Each of 4 groups of threads takes 16 rows of a slice. Its two warps have half of the tile's
  // columns each.
  struct Tile {
    static constexpr int kGroups = 4, kRows = kSlice / kGroups;
    static constexpr int kLine = kTileLine, kLeft = kTile / 16, kRight = kTile / 16;
    float sum[kLeft][kRight][4] = {};

    __device__ static int group() { return team_thread() / 64; }
    __device__ static int first_column() { return threadIdx.x / 32 % 2 * (kTile / 2); }

    // The layer's input and its gradient, a slice of each.
    __device__ void add(const float* left, const float* right) {
      left += group() * kRows * kLine;
      right += group() * kRows * kLine;
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
          float* at = tile + (m * 16 + lane.group) * kLine + first_column() + n * 8 + lane.pair;
          *reinterpret_cast<float2*>(at) = make_float2(sum[m][n][0], sum[m][n][1]);
          *reinterpret_cast<float2*>(at + 8 * kLine) = make_float2(sum[m][n][2], sum[m][n][3]);
        }
      }
    }
  };

 protected:
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
  __device__ static void write(const float* tile, int k_step, int n_step, int first_k, int all_k,
                               int first_n, int all_n, float* operand) {
    uint4* fragments = reinterpret_cast<uint4*>(operand);
    for (int e = team_thread(); e < kTile / 16 * (kTile / 8) * 32; e += kThreads) {
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

// With the inputs of a product in one or two halves, for each of which a block has warps of its
// own: two hide more of what a warp waits for, and take more shared memory.
template <int kHalves>
struct Bf16x3Rows : Bf16x3 {
  using Base = Bf16x3;
  static constexpr int kRowsThreads = 256 * kHalves;

  // Weights lie in fragments of B, [inputs / 16][outputs / 8][lane]: 16 bytes of one lane are its
  // two registers of hi, then those of lo. A warp takes 32 columns and, of two halves, every
  // other step of 16 inputs; it then adds up half of the columns with the warp of the other half.
  template <int kRows, class Queue, class Out>
  __device__ static void rows(const float* in, int line, int inputs, int outputs, Queue& queue,
                              float* scratch, const Out& out) {
    constexpr int kFragments = kRows / 16, kKept = kColumns / kHalves;
    const FragmentLane lane;
    const int half = lane.warp / 8;
    in += lane.group * line + lane.pair;
    for (int first = 0; first < outputs; first += kPass) {
      const int column = first + column_of_warp(lane.warp), tiles = tiles_from(column, outputs);
      float sum[kFragments][kColumns][4] = {};
      for (int k = half * 16; k < inputs && tiles > 0; k += 16 * kHalves) {
        float4 weight[kColumns];
        queue.take(weight);
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
      const float4* others = nullptr;
      if constexpr (kHalves == 2) {
        if (first > 0) __syncthreads();  // the scratch is read
        float4* own = reinterpret_cast<float4*>(scratch) + threadIdx.x;
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
#pragma unroll
          for (int tile = 0; tile < kKept; ++tile) {
            own[(f * kKept + tile) * kRowsThreads] =
                one_of(half == 1, sum[f][tile], sum[f][kColumns - kKept + tile]);
          }
        }
        __syncthreads();
        others = own + (half == 0 ? kRowsThreads / 2 : -kRowsThreads / 2);
      }
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int tile = 0; tile < kKept; ++tile) {
          if (half * kKept + tile >= tiles) continue;
          float4 total = one_of(half == 0, sum[f][tile], sum[f][kColumns - kKept + tile]);
          if constexpr (kHalves == 2)
            total = plus(total, others[(f * kKept + tile) * kRowsThreads]);
          const float upper[2] = {total.x, total.y}, lower[2] = {total.z, total.w};
          const int at = column + (half * kKept + tile) * 8 + lane.pair;
          out(f * 16 + lane.group, at, upper);
          out(f * 16 + lane.group + 8, at, lower);
        }
      }
    }
  }
  IQL_HD static constexpr int scratch_size(int rows) {
    return kHalves == 1 ? 0 : rows / 16 * (kColumns / kHalves) * 4 * kRowsThreads;
  }
  static constexpr int kMostRows = 32;

  // In each step the fragments of 16 inputs and the warp's columns.
  __device__ static WeightShare share(const Weights& weights, int first_column) {
    const int warp = threadIdx.x / 32, half = warp / 8;
    const int column = first_column + column_of_warp(warp);
    const int tiles = tiles_from(column, weights.outputs);
    const int step = weights.outputs / 8 * 32 * 4;
    return {weights.at + half * step + (column / 8 * 32 + static_cast<int>(threadIdx.x) % 32) * 4,
            tiles, tiles > 0 ? (weights.inputs / 16 - half + kHalves - 1) / kHalves : 0,
            kHalves * step};
  }
  __device__ static int piece(const WeightShare&, int i) { return i * 32 * 4; }
  __device__ static int step(const WeightShare& share) { return share.stride; }

 private:
  static constexpr int kColumns = 4;  // tiles of 8 columns that a warp takes at a time

  // Not a reference to either, so that both stay in registers.
  __device__ static float4 one_of(bool first, const float (&a)[4], const float (&b)[4]) {
    return make_float4(first ? a[0] : b[0], first ? a[1] : b[1], first ? a[2] : b[2],
                       first ? a[3] : b[3]);
  }
  __device__ static int column_of_warp(int warp) { return warp % 8 * (kColumns * 8); }
  IQL_HD static int tiles_from(int column, int outputs) {
    const int tiles = (outputs - column) / 8;  // an even number
    return tiles < 0 ? 0 : tiles < kColumns ? tiles : kColumns;
  }
};

}  // namespace iql::cuda
