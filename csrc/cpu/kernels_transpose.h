// Transposes of parts of panels. A part of kernels_impl.h.
#pragma once

#include <cstddef>
#include <type_traits>

#include "cpu/kernels_vectors.h"

namespace iql::cpu::IQL_ISA {
namespace {

// W x W elements: log2(W) rounds of interleaving row i with row i + W/2 (a perfect shuffle each).
template <class T>
inline void transpose_registers(Vec<T> (&a)[Vector<T>::kWidth]) {
  constexpr int W = Vector<T>::kWidth;
  typename Index<sizeof(T)>::type low{}, high{};
  for (int i = 0; i < W; ++i) {
    low[i] = i / 2 + (i % 2) * W;
    high[i] = low[i] + W / 2;
  }
  Vec<T> b[W];
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; ++i) {
      b[2 * i] = __builtin_shuffle(a[i], a[i + W / 2], low);
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + W / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) a[i] = b[i];
  }
}

template <class T>
inline void transpose_square(const T* from, std::size_t from_stride, T* to, std::size_t to_stride) {
  constexpr int W = Vector<T>::kWidth;
  Vec<T> a[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) a[i] = load(from + i * from_stride);
  transpose_registers<T>(a);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(to + i * to_stride, a[i]);
}

// block [W][P] = W columns of P rows of a panel, from column c0 (0 or W) on, transposed to lines in
// the order of the rows, of which only `rows` exist and the others count as zero.
template <class T>
inline void transpose_block(const T* panel, int c0, int rows, T* block) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const T* from = panel + c0;
  for (int half = 0; half < P; half += W, from += W * P, rows -= W) {
    if (rows >= W) {
      transpose_square<T>(from, P, block + half, P);
      continue;
    }
    for (int j = 0; j < W; ++j) {
      for (int i = 0; i < W; ++i) block[j * P + half + i] = i < rows ? from[i * P + j] : T(0);
    }
  }
}

#if defined(__AVX512BF16__)
// Two rows interleaved are a row of pairs, which move together.
template <class T>
inline void transpose_block(const BFloat16* panel, int c0, int rows, BFloat16* block) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const auto row = [&](int r) {
    return r < rows ? _mm512_load_si512(panel + r * P) : _mm512_setzero_si512();
  };
  Vec<T> pairs[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    pairs[i] = (Vec<T>)(c0 == 0 ? _mm512_unpacklo_epi16(row(2 * i), row(2 * i + 1))
                                : _mm512_unpackhi_epi16(row(2 * i), row(2 * i + 1)));
  }
  transpose_registers<T>(pairs);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) _mm512_store_si512(block + i * P, (__m512i)pairs[i]);
}

template <class T>
inline void store_line(const BFloat16* line, BFloat16* row) {
  _mm512_store_si512(row, _mm512_permutexvar_epi64(groups_of_four(), _mm512_load_si512(line)));
}
#else
template <class T>
inline void transpose_block(const BFloat16* panel, int c0, int rows, T* block) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for (int half = 0; half < P; half += W, panel += W * P, rows -= W) {
    Vec<T> a[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const Row<T> row = i < rows ? load_row<T>(panel + i * P) : Row<T>{};
      a[i] = c0 == 0 ? row.left : row.right;
    }
    transpose_registers<T>(a);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(block + half + i * P, a[i]);
  }
}

template <class T>
inline void store_line(const T* line, BFloat16* row) {  // of numbers that were bf16 before
  const HalfLanes left = (HalfLanes)load(line), right = (HalfLanes)load(line + Vector<T>::kWidth);
  *reinterpret_cast<HalfLanes*>(row) = upper_halves(left, right);
}
#endif

// A line of such a block as a row of a panel.
template <class T>
inline void store_line(const T* line, T* row) {
  store(row, load(line));
  store(row + Vector<T>::kWidth, load(line + Vector<T>::kWidth));
}

template <class T, class Operand>
IQL_KERNEL void transpose_panel(const Operand* panel, int k, int p, int n, Operand* weight_t) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int columns = n - p * P < P ? n - p * P : P;
  for (int i0 = 0; i0 < k; i0 += P) {
    // W rows of the transpose at a time, from j0 on; columns i0 ...: panel i0 / P of it.
    for (int j0 = 0; j0 < columns; j0 += W) {
      alignas(IQL_VECTOR_BYTES) Factor<T, Operand> block[W * P];
      transpose_block<T>(panel + std::size_t(i0) * P, j0, k - i0, block);
      Operand* to = weight_t + (std::size_t(i0 / P) * n + p * P + j0) * P;
      for (int j = 0; j < columns - j0 && j < W; ++j) store_line<T>(block + j * P, to + j * P);
    }
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
