// What products of every kind share: tiles of sums in registers, how rows are shared out among
// them, and what a hidden layer does with its sums. A part of kernels_impl.h.
#pragma once

#include "cpu/kernels_vectors.h"

namespace iql::cpu::IQL_ISA {
namespace {

// MR rows of a product, one panel wide: the accumulators live in registers.
template <class T, int MR>
struct Tile {
  Vec<T> left[MR], right[MR];

  inline void clear() {
    // Not unrolled, it clears memory: GCC then has the tile in registers, and both.
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) left[r] = right[r] = Vec<T>{};
  }
  inline void add(int r, Vec<T> x, Vec<T> b_left, Vec<T> b_right) {
    left[r] += x * b_left;
    right[r] += x * b_right;
  }
};

// Calls body(std::integral_constant-like tag, first row) for tiles of kTileRows rows, and one
// smaller tile for what is left.
template <int N>
struct RowCount {
  static constexpr int value = N;
};

template <int N, class Body>
inline void smaller_tile(int rows, int first, const Body& body) {
  if constexpr (N > 0) {
    if (rows == N) {
      body(RowCount<N>{}, first);
    } else {
      smaller_tile<N - 1>(rows, first, body);
    }
  }
}

template <class Body>
inline void for_tiles(int rows, const Body& body) {
  int first = 0;
  for (; first + IQL_TILE_ROWS <= rows; first += IQL_TILE_ROWS) {
    body(RowCount<IQL_TILE_ROWS>{}, first);
  }
  smaller_tile<IQL_TILE_ROWS - 1>(rows - first, first, body);
}

// Written so that a NaN stays a NaN: it must reach the loss, not vanish in the ReLU.
template <class T>
inline Vec<T> relu(Vec<T> x) {
  const Vec<T> zero{};
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_max_ps((__m512)zero, (__m512)x);
#endif
  return x < zero ? zero : x;
}

// Enough sums for every result to be there when the next product needs it.
template <class T>
double multiply_and_add(long rounds, T* out) {
  constexpr int kRows = IQL_TILE_ROWS < 6 ? IQL_TILE_ROWS : 6;
  Tile<T, kRows> sums;  // all different, or one would do for all
  for (int r = 0; r < kRows; ++r) {
    sums.left[r] = broadcast(T(r));
    sums.right[r] = broadcast(T(-r - 1));
  }
  const Vec<T> factor = broadcast(T(1) / 3), term = broadcast(T(1) / 5);
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sums.left[r] = sums.left[r] * factor + term;
      sums.right[r] = sums.right[r] * factor + term;
    }
  }
  for (int r = 1; r < kRows; ++r) {
    sums.left[0] += sums.left[r];
    sums.right[0] += sums.right[r];
  }
  store(out, sums.left[0]);
  store(out + Vector<T>::kWidth, sums.right[0]);
  return 2.0 * kRows * Vector<T>::kPanel * double(rounds);
}

// What follows the product in a hidden layer: bias and ReLU, two vectors at a time.
template <class T, class Operand>
inline void finish_forward(Vec<T> left, Vec<T> right, const T* bias, Operand* out) {
  constexpr int W = Vector<T>::kWidth;
  store_operands<T>(relu<T>(left + load(bias)), relu<T>(right + load(bias + W)), out);
}

// And in its backward pass: the gradient passes where the layer's input, a ReLU's output, is not
// zero.
template <class T, class Operand>
inline void finish_backward(Vec<T> left, Vec<T> right, T scale, const Operand* in, Operand* d_in) {
  const Vec<T> zero{}, factor = broadcast(scale);
  const Row<T> x = load_row<T>(in);
  store_operands<T>(x.left > zero ? left * factor : zero, x.right > zero ? right * factor : zero,
                    d_in);
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
