// Products of T that multiply all elements, zeros or not: those of the first layer, and those
// between hidden layers whose operands are T. A part of kernels_impl.h.
#pragma once

#include <cstddef>
#include <type_traits>

#include "cpu/kernels_products.h"

namespace iql::cpu::IQL_ISA {
namespace {

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

template <class T, class Operand>
IQL_KERNEL void forward(Rows<const T> in, int m, int k, const T* weight, const T* bias, int n,
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
IQL_KERNEL void backward(Rows<const T> d_out, int m, int n, const T* weight_t, Rows<const T> in,
                         int k, T scale, T*, Rows<T> d_in) {
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
IQL_KERNEL void weight_gradient(Rows<const T> in, int m, int k, const Operand* d_out, T* d_weight) {
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

template <class T, class Operand>
IQL_KERNEL void bias_gradient(const Operand* d_out, int m, T* d_bias) {
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

}  // namespace
}  // namespace iql::cpu::IQL_ISA
