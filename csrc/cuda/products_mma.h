// Products on tensor cores, with fp32 sums, in formats that those can multiply.
//
// A format has what a lane holds of two numbers that follow each other along a product's inputs (a
// Pair), and how fragments of such pairs are multiplied. All else is the same in every format: the
// lane's four pairs of a fragment of A [16, 16], and its two of a fragment of B [16, 8], whose four
// words are 16 bytes of a WeightQueue.
#pragma once

#include "cuda/products.h"

namespace iql::cuda {

// The lane's place in a fragment of mma_bf16.
struct FragmentLane {
  int warp, group, pair;
  __device__ FragmentLane()
      : warp(threadIdx.x / 32), group(threadIdx.x % 32 / 4), pair(threadIdx.x % 4 * 2) {}
};

// Each factor as the sum of two bf16 (hi + lo, 16 bits of mantissa), and three of their four
// products; what is left out is 2^-16 of the result at most.
struct Bf16x3Format {
  using Pair = SplitPair;
  __device__ static Pair pair(float first, float second) { return split_bf16(first, second); }
  __device__ static uint4 fragment(const Pair& upper, const Pair& lower) {
    return make_uint4(upper.hi, lower.hi, upper.lo, lower.lo);
  }

  // One fragment of A times some of B: the small products first, and so that no product waits for
  // the one before.
  template <int kTiles>
  __device__ static void multiply(float (&sum)[kTiles][4], const Pair (&a)[4],
                                  const float4 (&b)[kTiles], int tiles) {
    const std::uint32_t hi[4] = {a[0].hi, a[1].hi, a[2].hi, a[3].hi},
                        lo[4] = {a[0].lo, a[1].lo, a[2].lo, a[3].lo};
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
};

// Each factor rounded to tf32 (10 bits of mantissa), and one product.
struct Tf32Format {
  struct Pair {
    std::uint32_t first, second;
  };
  __device__ static Pair pair(float first, float second) {
    return {round_tf32(first), round_tf32(second)};
  }
  __device__ static uint4 fragment(const Pair& upper, const Pair& lower) {
    return make_uint4(upper.first, upper.second, lower.first, lower.second);
  }

  // mma_tf32 takes eight inputs at a time, of which a lane has number t and t + 4: the two of a
  // pair, in A as in B, so that both are read as for bf16. In which order inputs are summed is
  // nobody's concern.
  template <int kTiles>
  __device__ static void multiply(float (&sum)[kTiles][4], const Pair (&a)[4],
                                  const float4 (&b)[kTiles], int tiles) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pair &top = a[half * 2], &bottom = a[half * 2 + 1];
      const std::uint32_t left[4] = {top.first, bottom.first, top.second, bottom.second};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= tiles) continue;
        const std::uint32_t right[2] = {__float_as_uint(half == 0 ? b[tile].x : b[tile].z),
                                        __float_as_uint(half == 0 ? b[tile].y : b[tile].w)};
        mma_tf32(sum[tile], left, right);
      }
    }
  }
};

// A fragment's words in the order in which lanes of mma.sync take them.
struct ByLanes {
  __device__ static void store(float* fragment, int lane, const uint4& words) {
    reinterpret_cast<uint4*>(fragment)[lane] = words;
  }
};

template <class Format, class Order = ByLanes>
struct MmaProducts : Format {
  using typename Format::Pair;

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
        return Format::pair(at[0], at[kLine]);
      };
      float4 b[kRight];
#pragma unroll
      for (int n = 0; n < kRight; ++n) {
        const int column = first_column() + n * 8;
        const uint4 words = Format::fragment(pair(right, 0, column), pair(right, 8, column));
        b[n] = make_float4(__uint_as_float(words.x), __uint_as_float(words.y),
                           __uint_as_float(words.z), __uint_as_float(words.w));
      }
#pragma unroll
      for (int m = 0; m < kLeft; ++m) {
        Pair a[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          a[part] = pair(left, part / 2 * 8, m * 16 + part % 2 * 8);
        }
        Format::multiply(sum[m], a, b, kRight);
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

 private:
  // The fragments of B of a tile whose element (k, n) is tile[k * k_step + n * n_step], which lies
  // at (first_k, first_n) of a matrix of [all_k, all_n].
  __device__ static void write(const float* tile, int k_step, int n_step, int first_k, int all_k,
                               int first_n, int all_n, float* operand) {
    for (int e = team_thread(); e < kTile / 16 * (kTile / 8) * 32; e += kThreads) {
      const int k = e / (kTile * 4) * 16, n = e / 32 % (kTile / 8) * 8;
      if (first_k + k >= all_k || first_n + n >= all_n) continue;
      const FragmentLane lane;
      const float* at = tile + (k + lane.pair) * k_step + (n + lane.group) * n_step;
      float* to =
          operand + (std::int64_t(first_k + k) / 16 * (all_n / 8) + (first_n + n) / 8) * (32 * 4);
      Order::store(to, threadIdx.x % 32,
                   Format::fragment(Format::pair(at[0], at[k_step]),
                                    Format::pair(at[8 * k_step], at[9 * k_step])));
    }
  }
};

// With the inputs of a product in one or two halves, for each of which a block has warps of its
// own: two hide more of what a warp waits for, and take more shared memory.
template <class Products, int kHalves>
struct MmaRows : Products {
  using Base = Products;
  using typename Products::Pair;
  static constexpr int kRowsThreads = 256 * kHalves;

  // Weights lie in fragments of B, [inputs / 16][outputs / 8][lane], 16 bytes a lane. A warp takes
  // 32 columns and, of two halves, every other step of 16 inputs; it then adds up half of the
  // columns with the warp of the other half.
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
          Pair a[4];
#pragma unroll
          for (int part = 0; part < 4; ++part) {
            const float2 x = *reinterpret_cast<const float2*>(in + (f * 16 + part % 2 * 8) * line +
                                                              k + part / 2 * 8);
            a[part] = Products::pair(x.x, x.y);
          }
          Products::multiply(sum[f], a, weight, tiles);
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
  static constexpr int kLeastRows = 16, kMostRows = 32;

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

struct Bf16x3 : MmaProducts<Bf16x3Format> {};
template <int kHalves>
struct Bf16x3Rows : MmaRows<Bf16x3, kHalves> {};

struct Tf32 : MmaProducts<Tf32Format> {};
template <int kHalves>
struct Tf32Rows : MmaRows<Tf32, kHalves> {};

}  // namespace iql::cuda
