// Vectors of an instruction set, and rows of panels as vectors: what all kernels are written with.
// A part of kernels_impl.h, which says what the including file defines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__AVX2__)
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes (its bug
// 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

namespace iql::cpu::IQL_ISA {
namespace {

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(IQL_VECTOR_BYTES), may_alias));
  static constexpr int kWidth = IQL_VECTOR_BYTES / sizeof(T);
  static constexpr int kPanel = 2 * kWidth;
};

template <class T>
using Vec = typename Vector<T>::type;

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}
template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // x in every lane
}

// Numbers of lanes, for shuffles.
template <int Bytes>
struct Index;
template <>
struct Index<4> {
  typedef std::int32_t type __attribute__((vector_size(IQL_VECTOR_BYTES)));
};
template <>
struct Index<8> {
  typedef std::int64_t type __attribute__((vector_size(IQL_VECTOR_BYTES)));
};

// Of a, then of b: every group of 2 * Half lanes becomes one of Half lanes, upper half added to
// lower.
template <class T, int Half>
inline Vec<T> halve(Vec<T> a, Vec<T> b) {
  constexpr int W = Vector<T>::kWidth;
  typename Index<sizeof(T)>::type lower{}, upper{};
  for (int i = 0; i < W; ++i) {
    lower[i] = i / Half * 2 * Half + i % Half;
    upper[i] = lower[i] + Half;
  }
  return __builtin_shuffle(a, b, lower) + __builtin_shuffle(a, b, upper);
}

// In lane i the sum of v[i]'s lanes, added half on half until one is left, for N vectors, a power
// of two up to their width. v is used up.
template <class T, int N, int Half = Vector<T>::kWidth / 2>
inline Vec<T> sums_of_lanes(Vec<T>* v) {
  constexpr int kLeft = N > 1 ? N / 2 : 1;
  for (int i = 0; i < kLeft; ++i) v[i] = halve<T, Half>(v[2 * i % N], v[(2 * i + 1) % N]);
  if constexpr (Half > 1) return sums_of_lanes<T, kLeft, Half / 2>(v);
  return v[0];
}

template <class T>
inline int panels(int columns) {
  return (columns + Vector<T>::kPanel - 1) / Vector<T>::kPanel;
}

#if defined(__AVX512BF16__)
// The first of the two neighbouring columns that lie at places 2 pair and 2 pair + 1 of a row of a
// panel.
constexpr int column_of_pair(int pair) {
  const int group = pair / 2;
  return group % 2 * 16 + group / 2 * 4 + pair % 2 * 2;
}
static_assert([] {
  for (int pair = 0; pair < 16; ++pair) {
    const int c = column_of_pair(pair);
    if (place_in_panel<float, BFloat16>(c, 32) != 2 * pair) return false;
    if (place_in_panel<float, BFloat16>(c + 1, 32) != 2 * pair + 1) return false;
  }
  return true;
}());

// Of 32 columns of bf16 in order, the order in which a panel holds them, by groups of four.
inline __m512i groups_of_four() { return _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0); }
#endif

// A row of a panel, as operands.
template <class T, class Operand>
inline void store_operands(Vec<T> left, Vec<T> right, Operand* out) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Operand, BFloat16>) {
    const __m512i row = (__m512i)_mm512_cvtne2ps_pbh((__m512)right, (__m512)left);
    _mm512_store_si512(out, _mm512_permutexvar_epi64(groups_of_four(), row));
    return;
  }
#endif
  if constexpr (std::is_same_v<Operand, T>) {
    store(out, left);
    store(out + Vector<T>::kWidth, right);
  }
}

// And back: the left and the right vector of such a row.
template <class T>
struct Row {
  Vec<T> left, right;
};

template <class T, class Operand>
inline Row<T> load_row(const Operand* row) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Operand, BFloat16>) {  // a bf16 is the upper half of a float
    const __m512i bits = _mm512_load_si512(row), zero = _mm512_setzero_si512();
    return {(Vec<T>)_mm512_unpacklo_epi16(zero, bits), (Vec<T>)_mm512_unpackhi_epi16(zero, bits)};
  }
#endif
  if constexpr (std::is_same_v<Operand, T>) return {load(row), load(row + Vector<T>::kWidth)};
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
