// Products of bf16 on matrix registers, and a set of kernels with them. The including file has
// included kernels_impl.h for AVX512-BF16, and a header that defines the namespace `tiles`
// (amx_tiles.h, or what stands in for it in tests).
//
// A tile multiplies 16 rows by 32 elements with 32 by 16 at sixteen times the rate of vectors, so
// that skipping zeros would cost more than it saves: all products are dense.
//
// A row of a panel of operands is a row of the left tile as it is; its groups of four columns from
// the left and the right half by turns only make the order of the sum another one. The rows of the
// right matrix that meet a pair of its elements are interleaved for the right tiles, panel by
// panel. Towards the weights the left matrix is transposed first.
#pragma once

namespace iql::cpu::IQL_ISA {
namespace {

constexpr int kTileRows = 16;
constexpr int kBlockRows = 2 * kTileRows;  // of the left matrix that are multiplied at a time
constexpr int kRowElements = 32;           // of a row of a tile, and of a panel
static_assert(Vector<float>::kPanel == kRowElements);
constexpr std::ptrdiff_t kOperandStride = kRowElements * sizeof(BFloat16),
                         kSumStride = kRowElements * sizeof(float);

// So many rows of a block: sums 0 and 2 are its upper and lower rows in the left half of a panel, 1
// and 3 in the right, 4 and 5 the left matrix, 6 and 7 the two halves of a panel of the right.
inline void configure(int rows) {
  const int upper = rows < kTileRows ? rows : kTileRows, lower = rows - upper;
  tiles::Shape shape;
  constexpr int kUpper[] = {0, 1, 4}, kLower[] = {2, 3, 5}, kRight[] = {6, 7};
  for (const int tile : kUpper) shape.set(tile, upper);
  for (const int tile : kLower) shape.set(tile, lower);
  for (const int tile : kRight) shape.set(tile, kTileRows);
  tiles::configure(shape);
}

// The tiles while a product runs.
class Configured {
 public:
  Configured() { configure(kBlockRows); }
  ~Configured() { tiles::release(); }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;
};

// A panel of k rows as right tiles, two for every 32 rows; rows past the last count as zero.
inline void interleave(const BFloat16* panel, int k, BFloat16* right) {
  constexpr int P = kRowElements;
  for (int first = 0; first < k; first += P, right += 2 * kTileRows * P) {
    const auto row = [&](int r) {
      return r < k ? _mm512_load_si512(panel + std::size_t(r) * P) : _mm512_setzero_si512();
    };
#pragma GCC unroll 16
    for (int pair = 0; pair < kTileRows; ++pair) {
      const int r = first + column_of_pair(pair);
      const __m512i one = row(r), other = row(r + 1);
      _mm512_store_si512(right + pair * P, _mm512_unpacklo_epi16(one, other));
      _mm512_store_si512(right + (kTileRows + pair) * P, _mm512_unpackhi_epi16(one, other));
    }
  }
}

// sums [rows][P] = a block of rows of the left matrix * one panel. kLower: more than 16 rows.
template <bool kLower>
inline void multiply_block(Rows<const BFloat16> left, int panels, const BFloat16* right,
                           float* sums) {
  constexpr int P = kRowElements;
  tiles::clear<0>();
  tiles::clear<1>();
  if constexpr (kLower) {
    tiles::clear<2>();
    tiles::clear<3>();
  }
  for (int p = 0; p < panels; ++p) {
    tiles::load<6>(right, kOperandStride);
    tiles::load<4>(left.data, kOperandStride);
    tiles::multiply<0, 4, 6>();
    tiles::load<7>(right + kTileRows * P, kOperandStride);
    tiles::multiply<1, 4, 7>();
    if constexpr (kLower) {
      tiles::load<5>(left.data + kTileRows * P, kOperandStride);
      tiles::multiply<2, 5, 6>();
      tiles::multiply<3, 5, 7>();
    }
    left.data += left.panel_stride;
    right += 2 * kTileRows * P;
  }
  tiles::store<0>(sums, kSumStride);
  tiles::store<1>(sums + kTileRows, kSumStride);
  if constexpr (kLower) {
    tiles::store<2>(sums + kTileRows * P, kSumStride);
    tiles::store<3>(sums + kTileRows * P + kTileRows, kSumStride);
  }
}

// m rows of the left matrix, of k columns, times one panel, block by block: sums go to place(first
// row), then finish(first row, rows).
template <class Place, class Finish>
inline void multiply_panel(Rows<const BFloat16> left, int m, int k, const BFloat16* right,
                           const Place& place, const Finish& finish) {
  for (int first = 0; first < m; first += kBlockRows) {
    const int rows = m - first < kBlockRows ? m - first : kBlockRows;
    if (rows < kBlockRows) configure(rows);
    const Rows<const BFloat16> block{left.data + first * kRowElements, left.panel_stride};
    if (rows > kTileRows) {
      multiply_block<true>(block, panels<float>(k), right, place(first));
    } else {
      multiply_block<false>(block, panels<float>(k), right, place(first));
    }
    finish(first, rows);
    if (rows < kBlockRows) configure(kBlockRows);
  }
}

std::size_t panel_room(int k) {
  return std::size_t(panels<float>(k)) * kRowElements * kRowElements;
}

// The larger side is a product's depth at most; and a left matrix of `rows` rows, transposed.
std::size_t room(int rows, int columns) {
  return panel_room(rows > columns ? rows : columns) +
         std::size_t(panels<float>(rows)) * columns * kRowElements;
}

// finish(row, panel, left half, right half) of every row of left [m, k] * right [k, n].
template <class Finish>
inline void multiply(Rows<const BFloat16> left, int m, int k, const BFloat16* right, int n,
                     BFloat16* room, const Finish& finish) {
  constexpr int P = kRowElements;
  const Configured configured;
  alignas(64) float sums[kBlockRows * P];
  for (int p = 0; p < panels<float>(n); ++p) {
    interleave(right + std::size_t(p) * k * P, k, room);
    multiply_panel(
        left, m, k, room, [&](int) { return sums; },
        [&](int first, int rows) {
          for (int r = 0; r < rows; ++r) {
            finish(first + r, p, load(sums + r * P), load(sums + r * P + kTileRows));
          }
        });
  }
}

void tiled_forward(Rows<const BFloat16> in, int m, int k, const BFloat16* weight, const float* bias,
                   int n, BFloat16* room, Rows<BFloat16> out) {
  constexpr int P = kRowElements;
  multiply(in, m, k, weight, n, room, [=](int row, int p, Vec<float> left, Vec<float> right) {
    finish_forward<float>(left, right, bias + p * P, out.data + p * out.panel_stride + row * P);
  });
}

void tiled_backward(Rows<const BFloat16> d_out, int m, int n, const BFloat16* weight_t,
                    Rows<const BFloat16> in, int k, float scale, BFloat16* room,
                    Rows<BFloat16> d_in) {
  constexpr int P = kRowElements;
  multiply(d_out, m, n, weight_t, k, room, [=](int row, int p, Vec<float> left, Vec<float> right) {
    finish_backward<float>(left, right, scale, in.data + p * in.panel_stride + row * P,
                           d_in.data + p * d_in.panel_stride + row * P);
  });
}

void tiled_weight_gradient(Rows<const BFloat16> in, int m, int k, Rows<const BFloat16> d_out,
                           int count, BFloat16* room, float* d_weight) {
  constexpr int P = kRowElements;
  BFloat16 *right = room, *in_t = room + panel_room(m);
  for (int p = 0; p < panels<float>(k); ++p) {
    transpose_panel<float>(in.data + p * in.panel_stride, m, p, k, in_t);
  }
  const Configured configured;
  for (int p = 0; p < count; ++p) {
    interleave(d_out.data + p * d_out.panel_stride, m, right);
    float* panel = d_weight + std::size_t(p) * k * P;
    multiply_panel(
        {in_t, std::size_t(k) * P}, k, m, right, [&](int first) { return panel + first * P; },
        [](int, int) {});
  }
}

// The gradient of eight panels of 256 weights each is a quarter of a megabyte, in the L2 caches of
// the cores that have tiles; the left matrix is transposed for all of them together.
constexpr Kernels<float, BFloat16> tiled(const char* name) {
  Kernels<float, BFloat16> set = table<float, BFloat16, 2, 2, 256>(name);
  set.panels_together = 8;
  set.list_density = 0;
  set.dense = {room, tiled_forward, tiled_backward, tiled_weight_gradient};
  return set;
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
