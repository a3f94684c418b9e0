// Dense products of bf16 in vector registers, for operands with few zeros. The including file has
// included kernels_impl.h for AVX512-BF16.
//
// An instruction multiplies pairs of neighbouring elements of a left row with the two rows of the
// right matrix that they select, whose columns are interleaved for it: once for all left rows,
// where a product by lists has to do it anew for each. The pairs are gone through backwards and the
// instruction adds the second product first, so that a sum has its terms in the order in which a
// list has them, and the same bits.
#pragma once

namespace iql::cpu::IQL_ISA {
namespace {

constexpr int kPairs = Vector<float>::kPanel / 2;  // of a row of a panel
constexpr int kPairElements = 2 * Vector<float>::kPanel;

// Which rows of a matrix become pairs: neighbours; or those that the neighbours in a row of a panel
// of operands select, which lie there by groups of four columns from the left and the right half.
enum class Neighbours { kRows, kPlaces };

// The rows of a panel, pair by pair: 32 columns of two elements each. Rows past the last are zero,
// up to a whole panel's width of them.
template <Neighbours kNeighbours>
inline void pair_rows(const BFloat16* panel, int rows, BFloat16* pairs) {
  constexpr int P = Vector<float>::kPanel;
  for (int first = 0; first < rows; first += P) {
    const auto row = [&](int r) {
      return r < rows ? _mm512_load_si512(panel + std::size_t(r) * P) : _mm512_setzero_si512();
    };
#pragma GCC unroll 16
    for (int pair = 0; pair < kPairs; ++pair, pairs += kPairElements) {
      const int r = first + (kNeighbours == Neighbours::kRows ? 2 * pair : column_of_pair(pair));
      const __m512i one = row(r), other = row(r + 1);
      _mm512_store_si512(pairs, _mm512_unpacklo_epi16(one, other));
      _mm512_store_si512(pairs + P, _mm512_unpackhi_epi16(one, other));
    }
  }
}

// tile = MR lines of `count` pairs * as many pairs of rows. at(line, pair) points at the pair.
template <int MR, class At>
inline void multiply_pairs(const At& at, int count, const BFloat16* right, Tile<float, MR>& tile) {
  constexpr int P = Vector<float>::kPanel;
  tile.clear();
  for (int pair = count - 1; pair >= 0; --pair) {
    const BFloat16* rows = right + std::size_t(pair) * kPairElements;
    const __m512bh b_left = (__m512bh)_mm512_load_si512(rows),
                   b_right = (__m512bh)_mm512_load_si512(rows + P);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      std::int32_t two;
      std::memcpy(&two, at(r, pair), sizeof two);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      tile.left[r] = (Vec<float>)_mm512_dpbf16_ps((__m512)tile.left[r], x, b_left);
      tile.right[r] = (Vec<float>)_mm512_dpbf16_ps((__m512)tile.right[r], x, b_right);
    }
  }
}

// finish(row, panel, left half, right half) of every row of left [m, k] * right [k, n].
template <class Finish>
inline void multiply_dense(Rows<const BFloat16> left, int m, int k, const BFloat16* right, int n,
                           BFloat16* room, const Finish& finish) {
  constexpr int P = Vector<float>::kPanel;
  for (int p = 0; p < panels<float>(n); ++p) {
    pair_rows<Neighbours::kPlaces>(right + std::size_t(p) * k * P, k, room);
    for_tiles(m, [=](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<float, MR> tile;
      multiply_pairs<MR>(
          [=](int r, int pair) {
            return left.data + pair / kPairs * left.panel_stride + (first + r) * P +
                   pair % kPairs * 2;
          },
          panels<float>(k) * kPairs, room, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) finish(first + r, p, tile.left[r], tile.right[r]);
    });
  }
}

void dense_forward(Rows<const BFloat16> in, int m, int k, const BFloat16* weight, const float* bias,
                   int n, BFloat16* room, Rows<BFloat16> out) {
  constexpr int P = Vector<float>::kPanel;
  multiply_dense(in, m, k, weight, n, room, [=](int row, int p, Vec<float> left, Vec<float> right) {
    finish_forward<float>(left, right, bias + p * P, out.data + p * out.panel_stride + row * P);
  });
}

void dense_backward(Rows<const BFloat16> d_out, int m, int n, const BFloat16* weight_t,
                    Rows<const BFloat16> in, int k, float scale, BFloat16* room,
                    Rows<BFloat16> d_in) {
  constexpr int P = Vector<float>::kPanel;
  multiply_dense(
      d_out, m, n, weight_t, k, room, [=](int row, int p, Vec<float> left, Vec<float> right) {
        finish_backward<float>(left, right, scale, in.data + p * in.panel_stride + row * P,
                               d_in.data + p * d_in.panel_stride + row * P);
      });
}

std::size_t paired_panel(int rows) {
  return std::size_t(panels<float>(rows)) * kPairs * kPairElements;
}

std::size_t dense_room(int rows, int columns) {
  return paired_panel(rows > columns ? rows : columns) +
         panels<float>(columns) * paired_panel(rows);
}

// Pairs of rows of `in` are pairs of a line of its transpose.
void dense_weight_gradient(Rows<const BFloat16> in, int m, int k, Rows<const BFloat16> d_out,
                           int count, BFloat16* room, float* d_weight) {
  constexpr int P = Vector<float>::kPanel, W = Vector<float>::kWidth;
  const std::size_t size = paired_panel(m);
  BFloat16 *right = room, *lines = room + size;
  for (int p = 0; p < panels<float>(k); ++p) {
    pair_rows<Neighbours::kRows>(in.data + p * in.panel_stride, m, lines + p * size);
  }
  for (int p = 0; p < count; ++p) {
    pair_rows<Neighbours::kRows>(d_out.data + p * d_out.panel_stride, m, right);
    float* panel = d_weight + std::size_t(p) * k * P;
    for_tiles(k, [=](auto rows, int first) {
      constexpr int MR = decltype(rows)::value;
      const BFloat16* line[MR];
      for (int r = 0; r < MR; ++r) {
        line[r] = lines + (first + r) / P * size + (first + r) % P * 2;
      }
      Tile<float, MR> tile;
      multiply_pairs<MR>(
          [&](int r, int pair) { return line[r] + std::size_t(pair) * kPairElements; }, (m + 1) / 2,
          right, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        store(panel + (first + r) * P, tile.left[r]);
        store(panel + (first + r) * P + W, tile.right[r]);
      }
    });
  }
}

constexpr DenseProducts<float, BFloat16> kDenseProducts{dense_room, dense_forward, dense_backward,
                                                        dense_weight_gradient};

}  // namespace
}  // namespace iql::cpu::IQL_ISA
