// Products in fp32, outside of tensor cores.
#pragma once

#include "cuda/products.h"

namespace iql::cuda {

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
  static constexpr int kLeastRows = 16;
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

}  // namespace iql::cuda
