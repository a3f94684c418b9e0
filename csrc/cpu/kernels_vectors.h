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

// All that a kernel calls becomes a part of it, however many kernels a file has: a compiler that
// weighs the size of the whole file stops inlining in the middle of the innermost loop.
#define IQL_KERNEL __attribute__((flatten))

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
#else
// Halves of the lanes of a vector of floats.
typedef std::uint16_t HalfLanes __attribute__((vector_size(IQL_VECTOR_BYTES), may_alias));

// Every number as a bf16 holds it, in the upper half of its lane; ties to even, a NaN stays one.
inline HalfLanes rounded(Vec<float> x) {
  typedef std::uint32_t Words __attribute__((vector_size(IQL_VECTOR_BYTES)));
  const Words word = (Words)x, up = word + 0x7fffu + (word >> 16 & 1u);
  return (HalfLanes)(x != x ? Words{} + 0x7fc00000u : up);
}

// The upper halves of the lanes of both, in the order of a panel's row.
inline HalfLanes upper_halves(HalfLanes left, HalfLanes right) {
#if defined(__AVX512F__)
  return (HalfLanes)_mm512_packus_epi32(_mm512_srli_epi32((__m512i)left, 16),
                                        _mm512_srli_epi32((__m512i)right, 16));
#elif defined(__AVX2__)
  return (HalfLanes)_mm256_packus_epi32(_mm256_srli_epi32((__m256i)left, 16),
                                        _mm256_srli_epi32((__m256i)right, 16));
#else
  constexpr int kUpper = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 1 : 0;
  HalfLanes row{};
  for (int i = 0; i < Vector<float>::kWidth; ++i) {
    const int at = i / 4 * 8 + i % 4;
    row[at] = left[2 * i + kUpper];
    row[at + 4] = right[2 * i + kUpper];
  }
  return row;
#endif
}
#endif

// What is multiplied: operands as they are, where instructions take them so, or widened to T.
#if defined(__AVX512BF16__)
template <class T, class Operand>
using Factor = Operand;
#else
template <class T, class Operand>
using Factor = T;
#endif

// Where a list's values are.
template <class T, class Operand>
inline Factor<T, Operand>* values_of(Lists<Operand> lists, std::size_t list) {
  static_assert(sizeof(T) * kListCapacity<T> <= sizeof(Operand) * kListCapacity<Operand>);
  return reinterpret_cast<Factor<T, Operand>*>(lists.value + list * kListCapacity<Operand>);
}

// A row of a panel, as operands.
template <class T, class Operand>
inline void store_operands(Vec<T> left, Vec<T> right, Operand* out) {
  if constexpr (std::is_same_v<Operand, T>) {
    store(out, left);
    store(out + Vector<T>::kWidth, right);
  } else {
#if defined(__AVX512BF16__)
    const __m512i row = (__m512i)_mm512_cvtne2ps_pbh((__m512)right, (__m512)left);
    _mm512_store_si512(out, _mm512_permutexvar_epi64(groups_of_four(), row));
#else
    *reinterpret_cast<HalfLanes*>(out) = upper_halves(rounded(left), rounded(right));
#endif
  }
}

// And back: the left and the right vector of such a row.
template <class T>
struct Row {
  Vec<T> left, right;
};

template <class T, class Operand>
inline Row<T> load_row(const Operand* row) {
  if constexpr (std::is_same_v<Operand, T>) {
    return {load(row), load(row + Vector<T>::kWidth)};
  } else {  // a bf16 is the upper half of a float
#if defined(__AVX512F__)
    const __m512i bits = _mm512_load_si512(row), zero = _mm512_setzero_si512();
    return {(Vec<T>)_mm512_unpacklo_epi16(zero, bits), (Vec<T>)_mm512_unpackhi_epi16(zero, bits)};
#elif defined(__AVX2__)
    const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(row)), zero{};
    return {(Vec<T>)_mm256_unpacklo_epi16(zero, bits), (Vec<T>)_mm256_unpackhi_epi16(zero, bits)};
#else
    Row<T> wide{};
    for (int i = 0; i < Vector<T>::kWidth; ++i) {
      const Operand* four = row + i / 4 * 8;  // and then four of the right
      wide.left[i] = static_cast<T>(four[i % 4]);
      wide.right[i] = static_cast<T>(four[4 + i % 4]);
    }
    return wide;
#endif
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
