// Lists of the nonzero elements of a matrix's rows or columns. The products with them are in
// kernels_list_products.h. A part of kernels_impl.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels_transpose.h"

namespace iql::cpu::IQL_ISA {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each set of lanes, the numbers of its members in order: AVX2 has no instruction that packs
// chosen lanes together.
struct LaneTable {
  std::uint8_t lane[256][8];
  constexpr LaneTable() : lane() {
    for (int set = 0; set < 256; ++set) {
      int n = 0;
      for (int i = 0; i < 8; ++i) {
        if (set >> i & 1) lane[set][n++] = static_cast<std::uint8_t>(i);
      }
    }
  }
};
constexpr LaneTable kLanes;
#endif

// Writes the nonzero elements of x, whose places are first, first + 1, ..., at the end of a list of
// n elements; returns the new n. NaN counts as nonzero: it must reach the loss.
template <class T>
inline int append(Vec<T> x, int first, T* value, std::uint8_t* place, int n) {
  constexpr int W = Vector<T>::kWidth;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && W == 16) {
    const __m512 lanes = (__m512)x;
    const __mmask16 keep = _mm512_cmp_ps_mask(lanes, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i places = _mm512_add_epi32(numbers, _mm512_set1_epi32(first));
    _mm512_storeu_ps(value + n, _mm512_maskz_compress_ps(keep, lanes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(place + n),
                     _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(keep, places)));
    // The conversion is not for show: GCC 12 may keep the 16 bits of a mask in memory and count 32.
    return n + __builtin_popcount(_cvtmask16_u32(keep));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256 lanes = (__m256)x;
    const int keep = _mm256_movemask_ps(_mm256_cmp_ps(lanes, _mm256_setzero_ps(), _CMP_NEQ_UQ));
    const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kLanes.lane[keep]));
    const __m128i places = _mm_add_epi8(order, _mm_set1_epi8(static_cast<char>(first)));
    _mm256_storeu_ps(value + n, _mm256_permutevar8x32_ps(lanes, _mm256_cvtepu8_epi32(order)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(place + n), places);
    return n + __builtin_popcount(keep);
  }
#endif
  for (int i = 0; i < W; ++i) {
    value[n] = x[i];
    place[n] = static_cast<std::uint8_t>(first + i);
    n += x[i] != T(0);
  }
  return n;
}

#if defined(__AVX512BF16__)
// Places of the elements of a vector of bf16: in order, and as they lie in a row of a panel.
static_assert(Vector<float>::kPanel == 32, "a vector of bf16 is a row of a panel");
struct alignas(32) Places {
  std::uint8_t of[32];
};
constexpr Places kInOrder = [] {
  Places places{};
  for (int i = 0; i < 32; ++i) places.of[i] = static_cast<std::uint8_t>(i);
  return places;
}();
constexpr Places kColumns = [] {
  Places places{};
  for (int c = 0; c < 32; ++c) {
    places.of[place_in_panel<float, BFloat16>(c, 32)] = static_cast<std::uint8_t>(c);
  }
  return places;
}();

// The same for a vector of bf16, whose places are `first` past the given.
inline int append(__m512i x, const Places& places, int first, BFloat16* value, std::uint8_t* place,
                  int n) {
  const __mmask32 keep = _mm512_test_epi16_mask(x, _mm512_set1_epi16(0x7fff));  // -0 is zero, too
  const __m256i given = _mm256_load_si256(reinterpret_cast<const __m256i*>(places.of)),
                own = _mm256_add_epi8(given, _mm256_set1_epi8(static_cast<char>(first)));
  _mm512_storeu_si512(value + n, _mm512_maskz_compress_epi16(keep, x));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(place + n), _mm256_maskz_compress_epi8(keep, own));
  return n + __builtin_popcount(_cvtmask32_u32(keep));
}
#endif

// The same for P elements in order.
template <class T, class Element>
inline int append_line(const Element* line, int first, Element* value, std::uint8_t* place, int n) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Element, BFloat16>) {
    return append(_mm512_load_si512(line), kInOrder, first, value, place, n);
  }
#endif
  if constexpr (std::is_same_v<Element, T>) {
    constexpr int W = Vector<T>::kWidth;
    n = append<T>(load(line), first, value, place, n);
    n = append<T>(load(line + W), first + W, value, place, n);
  }
  return n;
}

// And for a row of a panel.
template <class T, class Operand>
inline int append_row(const Operand* row, int first, Factor<T, Operand>* value, std::uint8_t* place,
                      int n) {
  if constexpr (std::is_same_v<Factor<T, Operand>, T>) {
    constexpr int W = Vector<T>::kWidth;
    const Row<T> both = load_row<T>(row);
    n = append<T>(both.left, first, value, place, n);
    return append<T>(both.right, first + W, value, place, n);
  } else {
#if defined(__AVX512BF16__)
    return append(_mm512_load_si512(row), kColumns, first, value, place, n);
#endif
  }
}

// Fills a list up to a multiple of 4; returns its length.
template <class Element>
inline int fill_up(Element* value, std::uint8_t* place, int n) {
  for (int i = n; i < n + 3; ++i) {
    value[i] = Element{};
    place[i] = 0;
  }
  return (n + 3) / 4 * 4;
}

#if defined(__AVX512BF16__)
inline int count_nonzero(const BFloat16* row) {
  return __builtin_popcount(
      _cvtmask32_u32(_mm512_test_epi16_mask(_mm512_load_si512(row), _mm512_set1_epi16(0x7fff))));
}
#endif

template <class T, class Operand>
IQL_KERNEL std::size_t count_nonzero(Rows<const Operand> in, int m, int k) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  std::size_t total = 0;
  for (int p = 0; p < panels<T>(k); ++p) {
    const Operand* row = in.data + p * in.panel_stride;
    // Columns past the last are zero, so a panel's whole row may be read.
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<Operand, BFloat16>) {
      for (int r = 0; r < m; ++r, row += P) total += count_nonzero(row);
      continue;
    }
#endif
    typename Index<sizeof(T)>::type zeros{};  // -1 for each, by lanes
    for (int r = 0; r < m; ++r, row += P) {
      const Row<T> both = load_row<T>(row);
      zeros += both.left == Vec<T>{};
      zeros += both.right == Vec<T>{};
    }
    total += std::size_t(m) * P;
    for (int i = 0; i < W; ++i) total += static_cast<std::ptrdiff_t>(zeros[i]);
  }
  return total;
}

template <class T, class Operand, int Piece>
IQL_KERNEL void list_rows(Rows<const Operand> in, int m, int k, Lists<Operand> lists) {
  constexpr int P = Vector<T>::kPanel;
  for (int r = 0; r < m; ++r) {
    for (int piece = 0; piece < lists.pieces; ++piece) {
      const std::size_t list = std::size_t(r) * lists.pieces + piece;
      Factor<T, Operand>* value = values_of<T>(lists, list);
      std::uint8_t* place = lists.place + list * kListCapacity<Operand>;
      const int begin = piece * Piece, end = k < begin + Piece ? k : begin + Piece;
      int n = 0;
      // Columns past the last are zero, so a panel's whole row may be read.
      for (int c = begin; c < end; c += P) {
        n = append_row<T>(in.data + (c / P) * in.panel_stride + r * P, c - begin, value, place, n);
      }
      lists.count[list] = fill_up(value, place, n);
    }
  }
}

template <class T, class Operand>
IQL_KERNEL void list_columns(Rows<const Operand> in, int m, int k, Lists<Operand> lists,
                             int piece) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for (int c0 = 0; c0 < k; c0 += W) {
    const Operand* panel = in.data + (c0 / P) * in.panel_stride;
    const int count = k - c0 < W ? k - c0 : W;
    int n[W] = {};
    // Of the first column's list, and from each column's to the next.
    const std::size_t first = std::size_t(c0) * lists.pieces + piece,
                      apart = std::size_t(lists.pieces) * kListCapacity<Operand>;
    constexpr int kWider = sizeof(Factor<T, Operand>) / sizeof(Operand);
    Factor<T, Operand>* const value = values_of<T>(lists, first);
    std::uint8_t* const place = lists.place + first * kListCapacity<Operand>;
    for (int r0 = 0; r0 < m; r0 += P) {
      alignas(IQL_VECTOR_BYTES) Factor<T, Operand> block[W * P];
      transpose_block<T>(panel + r0 * P, c0 % P, m - r0, block);
      for (int c = 0; c < count; ++c) {
        n[c] =
            append_line<T>(block + c * P, r0, value + c * apart / kWider, place + c * apart, n[c]);
      }
    }
    for (int c = 0; c < count; ++c) {
      lists.count[first + c * lists.pieces] =
          fill_up(value + c * apart / kWider, place + c * apart, n[c]);
    }
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
