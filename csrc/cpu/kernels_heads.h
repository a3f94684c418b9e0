// A network's head: the few outputs after the last hidden layer, each a dot product with a row of
// activations, and their gradients. A part of kernels_impl.h.
#pragma once

#include <cstddef>

#include "cpu/kernels_products.h"

namespace iql::cpu::IQL_ISA {
namespace {

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
IQL_KERNEL void head_forward(Rows<const Operand> in, int m, int k, const T* weight, const T* bias,
                             int n, T* out) {
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
IQL_KERNEL void head_backward(const T* d_out, int m, int n, const T* weight, Rows<const Operand> in,
                              int k, T scale, Rows<Operand> d_in) {
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
IQL_KERNEL void head_gradient(Rows<const Operand> in, int m, int k, const T* d_out, int n,
                              T* d_weight, T* d_bias) {
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

}  // namespace
}  // namespace iql::cpu::IQL_ISA
