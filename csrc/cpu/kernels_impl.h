// The kernels of kernels.h, written once over GCC/Clang vector types. The including file defines
// IQL_ISA (a namespace), IQL_VECTOR_BYTES, IQL_TILE_ROWS, IQL_LIST_LINES (lines that a product with
// lists has in registers) and IQL_LIST_DENSITY, and is compiled for that instruction set.
//
// Nothing here instantiates a function template that other files share (no <vector>, no
// <algorithm>): the linker could then keep the copy that was compiled for the wrong machine.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
#include "iql/polyak.h"

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

template <class T, class Operand>
void operands(const T* panel, int rows, Operand* out) {
  constexpr int P = Vector<T>::kPanel;
  for (int r = 0; r < rows; ++r, panel += P, out += P) {
    store_operands<T>(load(panel), load(panel + Vector<T>::kWidth), out);
  }
}

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

// tile = a[0..MR, 0..k] * b[0..k, panel]; b is one panel, contiguous.
template <class T, int MR>
inline void multiply_rows(Rows<const T> a, int k, const T* b, Tile<T, MR>& tile) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  tile.clear();
  for (int k0 = 0; k0 < k; k0 += P) {
    const T* rows = a.data + (k0 / P) * a.panel_stride;
    const int width = k - k0 < P ? k - k0 : P;
    for (int c = 0; c < width; ++c) {
      const Vec<T> b_left = load(b), b_right = load(b + W);
      b += P;
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) tile.add(r, broadcast(rows[r * P + c]), b_left, b_right);
    }
  }
}

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

template <class T, class Operand>
void forward(Rows<const T> in, int m, int k, const T* weight, const T* bias, int n,
             Rows<Operand> out) {
  constexpr int P = Vector<T>::kPanel;
  for (int p = 0; p < panels<T>(n); ++p) {
    const T *panel = weight + std::size_t(p) * k * P, *bias_panel = bias + p * P;
    Operand* out_panel = out.data + p * out.panel_stride;
    // Values are captured: what a store could change would be loaded again.
    for_tiles(m, [=](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<T, MR> tile;
      multiply_rows<T, MR>({in.data + first * P, in.panel_stride}, k, panel, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        finish_forward<T>(tile.left[r], tile.right[r], bias_panel, out_panel + (first + r) * P);
      }
    });
  }
}

template <class T>
void backward(Rows<const T> d_out, int m, int n, const T* weight_t, Rows<const T> in, int k,
              T scale, T*, Rows<T> d_in) {
  constexpr int P = Vector<T>::kPanel;
  for (int p = 0; p < panels<T>(k); ++p) {
    const T* panel = weight_t + std::size_t(p) * n * P;
    const T* in_panel = in.data + p * in.panel_stride;
    T* d_panel = d_in.data + p * d_in.panel_stride;
    for_tiles(m, [=](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<T, MR> tile;
      multiply_rows<T, MR>({d_out.data + first * P, d_out.panel_stride}, n, panel, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const int at = (first + r) * P;
        finish_backward<T>(tile.left[r], tile.right[r], scale, in_panel + at, d_panel + at);
      }
    });
  }
}

template <class T, class Operand>
void weight_gradient(Rows<const T> in, int m, int k, const Operand* d_out, T* d_weight) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for_tiles(k, [&](auto count, int first) {
    constexpr int MR = decltype(count)::value;
    const T* column[MR];  // `in` transposed: row first + r of in^T is a column of `in`
    for (int r = 0; r < MR; ++r) {
      column[r] = in.data + ((first + r) / P) * in.panel_stride + (first + r) % P;
    }
    Tile<T, MR> tile;
    tile.clear();
    const Operand* at = d_out;
    for (int row = 0; row < m; ++row, at += P) {
      const Row<T> d = load_row<T>(at);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        tile.add(r, broadcast(column[r][std::size_t(row) * P]), d.left, d.right);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      store(d_weight + (first + r) * P, tile.left[r]);
      store(d_weight + (first + r) * P + W, tile.right[r]);
    }
  });
}

// Operands that are T need no room. Others bring dense products of their own (kernels_pairs.h,
// kernels_amx.h).
template <class T, class Operand>
constexpr DenseProducts<T, Operand> dense_products() {
  if constexpr (!std::is_same_v<T, Operand>) {
    return {};
  } else {
    return {[](int, int) { return std::size_t{0}; },
            [](Rows<const T> in, int m, int k, const T* weight, const T* bias, int n, T*,
               Rows<T> out) { forward<T, T>(in, m, k, weight, bias, n, out); },
            backward<T>,
            [](Rows<const T> in, int m, int k, Rows<const T> d_out, int count, T*, T* d_weight) {
              for (int p = 0; p < count; ++p) {
                weight_gradient<T, T>(in, m, k, d_out.data + p * d_out.panel_stride,
                                      d_weight + std::size_t(p) * k * Vector<T>::kPanel);
              }
            }};
  }
}

template <class T, class Operand>
void bias_gradient(const Operand* d_out, int m, T* d_bias) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  Tile<T, 4> sum;  // four running sums, so that one addition need not wait for the last
  sum.clear();
  const auto add = [&](int r, int row) {
    const Row<T> d = load_row<T>(d_out + row * P);
    sum.left[r] += d.left;
    sum.right[r] += d.right;
  };
  int row = 0;
  for (; row + 4 <= m; row += 4) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) add(r, row + r);
  }
  for (; row < m; ++row) add(0, row);
  store(d_bias, (sum.left[0] + sum.left[1]) + (sum.left[2] + sum.left[3]));
  store(d_bias + W, (sum.right[0] + sum.right[1]) + (sum.right[2] + sum.right[3]));
}

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
template <class T, class Operand>
inline int append_line(const Operand* line, int first, Operand* value, std::uint8_t* place, int n) {
  constexpr int W = Vector<T>::kWidth;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Operand, BFloat16>) {
    return append(_mm512_load_si512(line), kInOrder, first, value, place, n);
  }
#endif
  if constexpr (std::is_same_v<Operand, T>) {
    n = append<T>(load(line), first, value, place, n);
    n = append<T>(load(line + W), first + W, value, place, n);
  }
  return n;
}

// And for a row of a panel.
template <class T, class Operand>
inline int append_row(const Operand* row, int first, Operand* value, std::uint8_t* place, int n) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Operand, BFloat16>) {
    return append(_mm512_load_si512(row), kColumns, first, value, place, n);
  }
#endif
  return append_line<T>(row, first, value, place, n);
}

// Fills a list up to a multiple of 4; returns its length.
template <class Operand>
inline int fill_up(Operand* value, std::uint8_t* place, int n) {
  for (int i = n; i < n + 3; ++i) {
    value[i] = Operand{};
    place[i] = 0;
  }
  return (n + 3) / 4 * 4;
}

template <class T, class Operand, int Piece>
std::size_t list_rows(Rows<const Operand> in, int m, int k, Lists<Operand> lists) {
  constexpr int P = Vector<T>::kPanel;
  std::size_t total = 0;
  for (int r = 0; r < m; ++r) {
    for (int piece = 0; piece < lists.pieces; ++piece) {
      const std::size_t list = std::size_t(r) * lists.pieces + piece;
      Operand* value = lists.value + list * kListCapacity<Operand>;
      std::uint8_t* place = lists.place + list * kListCapacity<Operand>;
      const int begin = piece * Piece, end = k < begin + Piece ? k : begin + Piece;
      int n = 0;
      // Columns past the last are zero, so a panel's whole row may be read.
      for (int c = begin; c < end; c += P) {
        n = append_row<T>(in.data + (c / P) * in.panel_stride + r * P, c - begin, value, place, n);
      }
      total += n;
      lists.count[list] = fill_up(value, place, n);
    }
  }
  return total;
}

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
#endif

// A line of such a block as a row of a panel.
template <class T, class Operand>
inline void store_line(const Operand* line, Operand* row) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Operand, BFloat16>) {
    _mm512_store_si512(row, _mm512_permutexvar_epi64(groups_of_four(), _mm512_load_si512(line)));
    return;
  }
#endif
  if constexpr (std::is_same_v<Operand, T>) {
    store(row, load(line));
    store(row + Vector<T>::kWidth, load(line + Vector<T>::kWidth));
  }
}

template <class T, class Operand>
std::size_t list_columns(Rows<const Operand> in, int m, int k, Lists<Operand> lists, int piece) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  std::size_t total = 0;
  for (int c0 = 0; c0 < k; c0 += W) {
    const Operand* panel = in.data + (c0 / P) * in.panel_stride;
    const int count = k - c0 < W ? k - c0 : W;
    int n[W] = {};
    const std::size_t first = (std::size_t(c0) * lists.pieces + piece) * kListCapacity<Operand>,
                      next = std::size_t(lists.pieces) * kListCapacity<Operand>;
    for (int r0 = 0; r0 < m; r0 += P) {
      alignas(IQL_VECTOR_BYTES) Operand block[W * P];
      transpose_block<T>(panel + r0 * P, c0 % P, m - r0, block);
      for (int c = 0; c < count; ++c) {
        n[c] = append_line<T>(block + c * P, r0, lists.value + first + c * next,
                              lists.place + first + c * next, n[c]);
      }
    }
    for (int c = 0; c < count; ++c) {
      total += n[c];
      lists.count[std::size_t(c0 + c) * lists.pieces + piece] =
          fill_up(lists.value + first + c * next, lists.place + first + c * next, n[c]);
    }
  }
  return total;
}

// Four places in one load: loads are what limits a product with lists.
inline std::uint32_t four_places(const std::uint8_t* place) {
  std::uint32_t four;
  std::memcpy(&four, place, sizeof four);
  return four;
}

// The offset of the row of a panel that the i-th of them selects. Which end it starts from is the
// machine's own affair.
template <class T>
inline std::size_t row_at(std::uint32_t four, int i) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  i = 3 - i;
#endif
  return std::size_t(four >> 8 * i & 0xff) * Vector<T>::kPanel;
}

// sum += what four elements of a list select of NP panels b, the elements one after the other.
template <class T, class Operand>
struct FourElements {
  static constexpr bool kDescending = false;

  template <int NP>
  static inline void add(const T* value, const std::uint8_t* place, Rows<const T> b,
                         Tile<T, NP>& sum) {
    const auto add_row = [&](Vec<T> x, std::size_t where) {
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const T* row = b.data + p * b.panel_stride + where;
        sum.add(p, x, load(row), load(row + Vector<T>::kWidth));
      }
    };
    const Lanes x = lanes(value);
    const std::uint32_t where = four_places(place);
    add_row(element<0>(x), row_at<T>(where, 0));
    add_row(element<1>(x), row_at<T>(where, 1));
    add_row(element<2>(x), row_at<T>(where, 2));
    add_row(element<3>(x), row_at<T>(where, 3));
  }

 private:
#if defined(__AVX512F__)
  using Lanes = Vec<T>;
  static inline Lanes lanes(const T* value) {
    if constexpr (sizeof(T) == 4) {
      return (Vec<T>)_mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(value)));
    } else {
      return (Vec<T>)_mm512_broadcast_f64x4(
          _mm256_loadu_pd(reinterpret_cast<const double*>(value)));
    }
  }
  template <int I>
  static inline Vec<T> element(Lanes x) {
    if constexpr (sizeof(T) == 4) {
      return (Vec<T>)_mm512_permute_ps((__m512)x, I * 0x55);
    } else {
      return (Vec<T>)_mm512_permutex_pd((__m512d)x, I * 0x55);
    }
  }
#else
  using Lanes = const T*;
  static inline Lanes lanes(const T* value) { return value; }
  template <int I>
  static inline Vec<T> element(Lanes value) {
    return broadcast(value[I]);
  }
#endif
};

#if defined(__AVX512BF16__)
// Two at a time: an instruction multiplies a pair of elements with a pair of rows, whose columns
// are interleaved for it. It adds the second product, then the first, each rounded: a list that is
// gone through backwards gives the same sum whichever elements happen to be pairs, and so however
// lines are cut into pieces.
template <>
struct FourElements<float, BFloat16> {
  static constexpr bool kDescending = true;

  template <int NP>
  static inline void add(const BFloat16* value, const std::uint8_t* place, Rows<const BFloat16> b,
                         Tile<float, NP>& sum) {
    const std::uint32_t where = four_places(place);
#pragma GCC unroll 2
    for (int i = 2; i >= 0; i -= 2) {
      std::int32_t pair;
      std::memcpy(&pair, value + i, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const BFloat16* panel = b.data + p * b.panel_stride;
        __m512i first = _mm512_load_si512(panel + row_at<float>(where, i)),
                second = _mm512_load_si512(panel + row_at<float>(where, i + 1));
        asm("" : "+v"(first), "+v"(second));  // in registers: else both unpackings load them again
        sum.left[p] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum.left[p], x,
                                                   (__m512bh)_mm512_unpacklo_epi16(first, second));
        sum.right[p] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum.right[p], x,
                                                    (__m512bh)_mm512_unpackhi_epi16(first, second));
      }
    }
  }
};
#endif

template <class T>
inline Vec<T> choose(bool second, Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>(-int{second});
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_mask_mov_ps((__m512)a, mask, (__m512)b);
#endif
  return second ? b : a;
}

// A line of a product under way: what is left of its list, and its sums so far, NP panels side by
// side.
template <class T, int NP, class Operand>
struct Line {
  using Step = FourElements<T, Operand>;
  Tile<T, NP> sum;
  const Operand* value;  // of the next four elements
  const std::uint8_t* place;
  int left, number;

  __attribute__((always_inline)) inline void start(Lists<Operand> a, int piece, int line,
                                                   bool first, Rows<T> out) {
    constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
    const std::size_t list = std::size_t(line) * a.pieces + piece;
    number = line;
    left = a.count[list];
    const int at = Step::kDescending ? left - 4 : 0;
    value = a.value + list * kListCapacity<Operand> + at;
    place = a.place + list * kListCapacity<Operand> + at;
    T* sums = out.data + std::size_t(line) * P;
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
      sum.left[p] = first ? Vec<T>{} : load(sums + p * out.panel_stride);
      sum.right[p] = first ? Vec<T>{} : load(sums + p * out.panel_stride + W);
    }
  }
  inline void add(int done, Rows<const Operand> b) {
    const int i = Step::kDescending ? -done : done;
    Step::template add<NP>(value + i, place + i, b, sum);
  }
  inline void advance(int done) {
    left -= done;
    value += Step::kDescending ? -done : done;
    place += Step::kDescending ? -done : done;
  }
  template <class Finish>
  __attribute__((always_inline)) inline void end(const Finish finish) const {
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) finish(number, p, sum.left[p], sum.right[p]);
  }
};

// The rows that the next pass over the lines will read, brought near by and by with each line of
// this pass: lists touch them in an order that no processor foresees.
template <class T, class Operand, int Piece>
class Ahead {
 public:
  Ahead(Rows<const Operand> rows, int panels, int fetches)
      : rows_(rows), panels_(panels), step_((kEnd / kLine + fetches - 1) / fetches * kLine) {}

  inline void fetch() {
    const int stop = at_ + step_ < kEnd ? at_ + step_ : kEnd;
    for (; at_ < stop; at_ += kLine) {
      for (int p = 0; p < panels_; ++p) {
        __builtin_prefetch(rows_.data + p * rows_.panel_stride + at_);
      }
    }
  }

 private:
  static constexpr int kLine = 64 / sizeof(Operand);      // a cache line
  static constexpr int kEnd = Piece * Vector<T>::kPanel;  // of a panel's rows
  Rows<const Operand> rows_;
  int panels_, step_, at_ = 0;
};

// Whether lists were made just before they are used, or so long before that they have left the
// cache.
enum class Made { kNow, kBefore };

// Always inlined: GCC takes a call of a function that only prefetches for one without effect, and
// drops it.
template <int Piece, class Operand>
__attribute__((always_inline)) inline void fetch_lists(Lists<Operand> a, int piece, int line,
                                                       int count) {
  constexpr int kLine = 64 / sizeof(Operand), kUsual = Piece / 2;  // a half is not zero
  for (int l = line; l < line + count; ++l) {
    const std::size_t list = (std::size_t(l) * a.pieces + piece) * kListCapacity<Operand>;
    for (int i = 0; i < kUsual; i += kLine) __builtin_prefetch(a.value + list + i);
    for (int i = 0; i < kUsual; i += 64) __builtin_prefetch(a.place + list + i);
  }
}

// out [m lines, NP panels] += lists * b, over one piece; out is taken as zero where `first`. Then
// finish(line, panel, left, right) of every vector of the result stores it.
//
// Two lines at a time: the additions of one go on while those of the other wait for their last
// result. When the shorter ends, the next line takes its place; which it is is chosen without a
// branch, as nobody foresees it.
//
// All arguments are values: what a store could change would be loaded again. Never inlined: beside
// its callers' variables GCC has no registers left for the loop's pointers.
template <class T, int NP, int Piece, Made kMade, class Operand, class Finish>
__attribute__((noinline)) void multiply_piece(Lists<Operand> a, int piece, int m,
                                              Rows<const Operand> b, Ahead<T, Operand, Piece> ahead,
                                              bool first, Rows<T> out, const Finish finish) {
  Line<T, NP, Operand> one;
  one.start(a, piece, 0, first, out);
  if constexpr (IQL_LIST_LINES == 2) {
    for (int line = 1; line < m; ++line) {
      Line<T, NP, Operand> other;
      other.start(a, piece, line, first, out);
      ahead.fetch();
      if (kMade == Made::kBefore && line + 1 < m) fetch_lists<Piece>(a, piece, line + 1, 1);
      const int common = one.left < other.left ? one.left : other.left;
      for (int done = 0; done < common; done += 4) {
        one.add(done, b);
        other.add(done, b);
      }
      const bool longer = one.left < other.left;  // the other
      Line<T, NP, Operand> ended, rest;
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        ended.sum.left[p] = choose<T>(longer, other.sum.left[p], one.sum.left[p]);
        ended.sum.right[p] = choose<T>(longer, other.sum.right[p], one.sum.right[p]);
        rest.sum.left[p] = choose<T>(longer, one.sum.left[p], other.sum.left[p]);
        rest.sum.right[p] = choose<T>(longer, one.sum.right[p], other.sum.right[p]);
      }
      ended.number = longer ? one.number : other.number;
      ended.end(finish);
      rest.number = longer ? other.number : one.number;
      rest.value = longer ? other.value : one.value;
      rest.place = longer ? other.place : one.place;
      rest.left = longer ? other.left : one.left;
      rest.advance(common);
      one = rest;
    }
    for (int done = 0; done < one.left; done += 4) one.add(done, b);
    one.end(finish);
  } else {
    for (int line = 0;;) {
      ahead.fetch();
      if (kMade == Made::kBefore && line + 1 < m) fetch_lists<Piece>(a, piece, line + 1, 1);
      for (int done = 0; done < one.left; done += 4) one.add(done, b);
      one.end(finish);
      if (++line == m) break;
      one.start(a, piece, line, first, out);
    }
  }
}

// finish(lists * b), m lines of `count` panels, NP at a time. Piece p of the lists meets the rows
// of b from first_row(p) on; sums(p) is where the sums of panels from p on wait for the next piece.
template <class T, int NP, int Piece, Made kMade, class Operand, class FirstRow, class Sums,
          class Finish>
inline void multiply_lists(Lists<Operand> a, int m, Rows<const Operand> b,
                           const FirstRow& first_row, int count, const Sums& sums,
                           const Finish& finish) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const auto piece_at = [&](int i) {
    return FourElements<T, Operand>::kDescending ? a.pieces - 1 - i : i;
  };
  const auto rows = [&](int p, int piece) {
    return Rows<const Operand>{b.data + p * b.panel_stride + std::size_t(first_row(piece)) * P,
                               b.panel_stride};
  };
  const auto group = [&](auto panels_at_once, int p) {
    constexpr int N = decltype(panels_at_once)::value;
    const int left = count - (p + N);  // panels
    const Rows<T> to{sums(p), std::size_t(m) * P};
    const int fetches = m > 1 ? m - 1 : 1;
    for (int i = 0; i < a.pieces; ++i) {
      const int piece = piece_at(i);
      if (i + 1 < a.pieces) {
        multiply_piece<T, N, Piece, kMade>(
            a, piece, m, rows(p, piece), {rows(p, piece_at(i + 1)), N, fetches}, i == 0, to,
            [=](int line, int q, Vec<T> left, Vec<T> right) {
              T* at = to.data + q * to.panel_stride + std::size_t(line) * P;
              store(at, left);
              store(at + W, right);
            });
      } else {
        multiply_piece<T, N, Piece, kMade>(
            a, piece, m, rows(p, piece),
            {left > 0 ? rows(p + N, piece_at(0)) : Rows<const Operand>{}, left < N ? left : N,
             fetches},
            i == 0, to,
            [=](int line, int q, Vec<T> left, Vec<T> right) { finish(line, p + q, left, right); });
      }
    }
  };
  int p = 0;
  for (; p + NP <= count; p += NP) group(RowCount<NP>{}, p);
  if constexpr (NP > 2) {
    for (; p + 2 <= count; p += 2) group(RowCount<2>{}, p);
  }
  for (; p < count; ++p) group(RowCount<1>{}, p);
}

template <int Piece>
inline int first_of_piece(int piece) {
  return piece * Piece;
}

template <class T, class Operand, int NP, int Piece>
void forward_lists(Lists<Operand> in, int m, int k, const Operand* weight, const T* bias, int n,
                   T* sums, Rows<Operand> out) {
  constexpr int P = Vector<T>::kPanel;
  multiply_lists<T, NP, Piece, Made::kNow>(
      in, m, Rows<const Operand>{weight, std::size_t(k) * P}, first_of_piece<Piece>, panels<T>(n),
      [=](int) { return sums; },
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        finish_forward<T>(left, right, bias + p * P, out.data + p * out.panel_stride + line * P);
      });
}

template <class T, class Operand, int NP, int Piece>
void backward_lists(Lists<Operand> d_out, int m, int n, const Operand* weight_t,
                    Rows<const Operand> in, int k, T scale, T* sums, Rows<Operand> d_in) {
  constexpr int P = Vector<T>::kPanel;
  multiply_lists<T, NP, Piece, Made::kNow>(
      d_out, m, Rows<const Operand>{weight_t, std::size_t(n) * P}, first_of_piece<Piece>,
      panels<T>(k), [=](int) { return sums; },
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        finish_backward<T>(left, right, scale, in.data + p * in.panel_stride + line * P,
                           d_in.data + p * d_in.panel_stride + line * P);
      });
}

template <class T, class Operand, int NP, int Piece>
void weight_gradient_lists(Lists<Operand> in, const int* piece_rows, int k,
                           Rows<const Operand> d_out, int count, T* d_weight) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const auto panel = [=](int p) { return d_weight + std::size_t(p) * k * P; };
  multiply_lists<T, NP, Piece, Made::kBefore>(
      in, k, d_out, [&](int piece) { return piece_rows[piece]; }, count, panel,
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        T* at = panel(p) + std::size_t(line) * P;
        store(at, left);
        store(at + W, right);
      });
}

template <class T, int N, class Operand>
inline void head_rows(Rows<const Operand> in, int count, const T* weight, T bias, int n, T* out) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  Vec<T> left[N]{}, right[N]{}, sum[N];
  for (int p = 0; p < count; ++p) {
    const Vec<T> w_left = load(weight + p * P), w_right = load(weight + p * P + W);
#pragma GCC unroll 4
    for (int r = 0; r < N; ++r) {
      const Row<T> x = load_row<T>(in.data + p * in.panel_stride + r * P);
      left[r] += x.left * w_left;
      right[r] += x.right * w_right;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < N; ++r) sum[r] = left[r] + right[r];
  const Vec<T> sums = sums_of_lanes<T, N>(sum) + bias;
  for (int r = 0; r < N; ++r) out[r * n] = sums[r];
}

template <class T, class Operand>
void head_forward(Rows<const Operand> in, int m, int k, const T* weight, const T* bias, int n,
                  T* out) {
  constexpr int P = Vector<T>::kPanel, N = Vector<T>::kWidth < 4 ? Vector<T>::kWidth : 4;
  const int count = panels<T>(k);
  const auto at = [&](int r) { return Rows<const Operand>{in.data + r * P, in.panel_stride}; };
  int r = 0;
  const auto rows = [&](auto together) {
    for (constexpr int R = decltype(together)::value; r + R <= m; r += R) {
      for (int j = 0; j < n; ++j) {
        head_rows<T, R>(at(r), count, weight + std::size_t(j) * count * P, bias[j], n,
                        out + r * n + j);
      }
    }
  };
  rows(RowCount<N>{});
  rows(RowCount<1>{});
}

template <class T, class Operand>
void head_backward(const T* d_out, int m, int n, const T* weight, Rows<const Operand> in, int k,
                   T scale, Rows<Operand> d_in) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int count = panels<T>(k);
  for (int p = 0; p < count; ++p) {
    for (int r = 0; r < m; ++r) {
      Vec<T> left{}, right{};
      for (int j = 0; j < n; ++j) {
        const Vec<T> g = broadcast(d_out[r * n + j]);
        const T* w = weight + (std::size_t(j) * count + p) * P;
        left += g * load(w);
        right += g * load(w + W);
      }
      finish_backward<T>(left, right, scale, in.data + p * in.panel_stride + r * P,
                         d_in.data + p * d_in.panel_stride + r * P);
    }
  }
}

template <class T, int NP, class Operand>
inline void head_gradient_panels(Rows<const Operand> in, int m, const T* d_out, int n,
                                 T* d_weight) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  Tile<T, NP> sum;
  sum.clear();
  for (int r = 0; r < m; ++r) {
    const Vec<T> g = broadcast(d_out[r * n]);
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
      const Row<T> x = load_row<T>(in.data + p * in.panel_stride + r * P);
      sum.add(p, g, x.left, x.right);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < NP; ++p) {
    store(d_weight + p * P, sum.left[p]);
    store(d_weight + p * P + W, sum.right[p]);
  }
}

template <class T, class Operand>
void head_gradient(Rows<const Operand> in, int m, int k, const T* d_out, int n, T* d_weight,
                   T* d_bias) {
  constexpr int P = Vector<T>::kPanel;
  const int count = panels<T>(k);
  int p = 0;
  const auto panels = [&](auto together) {
    for (constexpr int N = decltype(together)::value; p + N <= count; p += N) {
      const Rows<const Operand> from{in.data + p * in.panel_stride, in.panel_stride};
      for (int j = 0; j < n; ++j) {
        head_gradient_panels<T, N>(from, m, d_out + j, n,
                                   d_weight + (std::size_t(j) * count + p) * P);
      }
    }
  };
  panels(RowCount<4>{});
  panels(RowCount<1>{});
  for (int j = 0; j < n; ++j) {
    T sum = 0;
    for (int r = 0; r < m; ++r) sum += d_out[r * n + j];
    d_bias[j] = sum;
  }
}

#if defined(__AVX512F__)
// AdamQuotient of 16 floats, to a unit or two in the last place: estimates good to 14 bits and a
// Newton step each, which take half the time of the instructions that round correctly.
struct QuickAdamQuotient {
  const AdamStep<float>& step;

  inline Vec<float> operator()(Vec<float> x, Vec<float> v) const {
    const __m512 square = (__m512)v, smallest = _mm512_set1_ps(1.17549435e-38f);
    const __m512 y = _mm512_rsqrt14_ps(_mm512_max_ps(smallest, square));  // of 0 it is infinite
    Vec<float> root = v * (Vec<float>)y;
    root += 0.5f * (Vec<float>)y * (v - root * root);
    const Vec<float> divisor = root * step.inverse_root + step.epsilon;
    Vec<float> inverse = (Vec<float>)_mm512_rcp14_ps((__m512)divisor);
    inverse += inverse * (1.0f - divisor * inverse);
    return x * inverse;
  }
};
#endif

template <class T>
inline void descend(T* __restrict weight, T* __restrict m, T* __restrict v,
                    const T* __restrict gradient, std::size_t n, const AdamStep<T>& coefficients) {
  const AdamStep<T> step = coefficients;
  std::size_t i = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    for (constexpr int W = Vector<T>::kWidth; i + W <= n; i += W) {
      Vec<T> weights = load(weight + i), first = load(m + i), second = load(v + i);
      adam_update(weights, first, second, load(gradient + i), step, QuickAdamQuotient{step});
      store(weight + i, weights);
      store(m + i, first);
      store(v + i, second);
    }
  }
#endif
  for (; i < n; ++i) adam_update(weight[i], m[i], v[i], gradient[i], step);
}

template <class T>
inline void approach(T* __restrict target, const T* __restrict weight, std::size_t n, T alpha) {
  for (std::size_t i = 0; i < n; ++i) target[i] = polyak(target[i], weight[i], alpha);
}

template <class T, class Operand>
void adam(AdamArrays<T, Operand> arrays, const T* gradient, std::size_t n, const AdamStep<T>& step,
          T alpha) {
  constexpr int P = Vector<T>::kPanel;
  constexpr std::size_t kTogether = 32 * P;  // stay in the L1 cache from one loop to the next
  for (std::size_t at = 0; at < n; at += kTogether) {
    const std::size_t count = n - at < kTogether ? n - at : kTogether;
    T* weight = arrays.weight + at;
    descend(weight, arrays.m + at, arrays.v + at, gradient + at, count, step);
    if (arrays.target != nullptr) approach(arrays.target + at, weight, count, alpha);
    const auto copy = [&](const T* from, Operand* to) {
      if (to != nullptr) operands<T>(from + at, static_cast<int>(count) / P, to + at);
    };
    copy(arrays.weight, arrays.weight_operands);
    copy(arrays.target, arrays.target_operands);
  }
}

template <class T, class Operand>
void transpose_panel(const Operand* panel, int k, int p, int n, Operand* weight_t) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int columns = n - p * P < P ? n - p * P : P;
  for (int i0 = 0; i0 < k; i0 += P) {
    // W rows of the transpose at a time, from j0 on; columns i0 ...: panel i0 / P of it.
    for (int j0 = 0; j0 < columns; j0 += W) {
      alignas(IQL_VECTOR_BYTES) Operand block[W * P];
      transpose_block<T>(panel + std::size_t(i0) * P, j0, k - i0, block);
      Operand* to = weight_t + (std::size_t(i0 / P) * n + p * P + j0) * P;
      for (int j = 0; j < columns - j0 && j < W; ++j) store_line<T>(block + j * P, to + j * P);
    }
  }
}

// The set whose products with lists have NP panels in registers, of lines cut into such pieces.
template <class T, class Operand, int NP, int Piece = 128>
constexpr Kernels<T, Operand> table(
    const char* name, long l1_bytes = 0,
    DenseProducts<T, Operand> dense = dense_products<T, Operand>()) {
  static_assert(Piece <= kMostOfPiece<Operand>);
  return {name,
          l1_bytes,
          Vector<T>::kPanel,
          NP,
          Piece,
          IQL_LIST_DENSITY,
          dense,
          forward<T, Operand>,
          weight_gradient<T, Operand>,
          bias_gradient<T, Operand>,
          list_rows<T, Operand, Piece>,
          list_columns<T, Operand>,
          forward_lists<T, Operand, NP, Piece>,
          backward_lists<T, Operand, NP, Piece>,
          weight_gradient_lists<T, Operand, NP, Piece>,
          head_forward<T, Operand>,
          head_backward<T, Operand>,
          head_gradient<T, Operand>,
          adam<T, Operand>,
          operands<T, Operand>,
          transpose_panel<T, Operand>};
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
