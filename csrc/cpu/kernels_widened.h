// Products of bf16 in sets whose instructions multiply floats alone, or multiply these as fast: the
// operands are widened once for a product, and from there on it is the product of floats. A part of
// kernels_impl.h.
#pragma once

#include <cstddef>

#include "cpu/kernels_dense.h"

namespace iql::cpu::IQL_ISA {
namespace {

// m rows of some panels.
template <class T, class Operand>
inline void widen(Rows<const Operand> from, int m, int panels, Rows<T> to) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for (int p = 0; p < panels; ++p) {
    const Operand* row = from.data + p * from.panel_stride;
    T* wide = to.data + p * to.panel_stride;
    for (int r = 0; r < m; ++r, row += P, wide += P) {
      const Row<T> both = load_row<T>(row);
      store(wide, both.left);
      store(wide + W, both.right);
    }
  }
}

// finish(row, panel, left half, right half) of every row of left [m, k] * right [k, n].
template <class T, class Operand, class Finish>
inline void multiply_widened(Rows<const Operand> left, int m, int k, const Operand* right, int n,
                             Operand* room, const Finish& finish) {
  constexpr int P = Vector<T>::kPanel;
  T* panel = reinterpret_cast<T*>(room);
  const Rows<T> rows{panel + std::size_t(k) * P, std::size_t(m) * P};
  widen<T>(left, m, panels<T>(k), rows);
  for (int p = 0; p < panels<T>(n); ++p) {
    widen<T>(Rows<const Operand>{right + std::size_t(p) * k * P, 0}, k, 1, Rows<T>{panel, 0});
    for_tiles(m, [=](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<T, MR> tile;
      multiply_rows<T, MR>({rows.data + first * P, rows.panel_stride}, k, panel, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) finish(first + r, p, tile.left[r], tile.right[r]);
    });
  }
}

template <class T, class Operand>
IQL_KERNEL void widened_forward(Rows<const Operand> in, int m, int k, const Operand* weight,
                                const T* bias, int n, Operand* room, Rows<Operand> out) {
  constexpr int P = Vector<T>::kPanel;
  multiply_widened<T>(in, m, k, weight, n, room, [=](int row, int p, Vec<T> left, Vec<T> right) {
    finish_forward<T>(left, right, bias + p * P, out.data + p * out.panel_stride + row * P);
  });
}

template <class T, class Operand>
IQL_KERNEL void widened_backward(Rows<const Operand> d_out, int m, int n, const Operand* weight_t,
                                 Rows<const Operand> in, int k, T scale, Operand* room,
                                 Rows<Operand> d_in) {
  constexpr int P = Vector<T>::kPanel;
  multiply_widened<T>(
      d_out, m, n, weight_t, k, room, [=](int row, int p, Vec<T> left, Vec<T> right) {
        finish_backward<T>(left, right, scale, in.data + p * in.panel_stride + row * P,
                           d_in.data + p * d_in.panel_stride + row * P);
      });
}

template <class T, class Operand>
IQL_KERNEL void widened_weight_gradient(Rows<const Operand> in, int m, int k,
                                        Rows<const Operand> d_out, int count, Operand* room,
                                        T* d_weight) {
  constexpr int P = Vector<T>::kPanel;
  T* panel = reinterpret_cast<T*>(room);
  const Rows<T> rows{panel + std::size_t(m) * P, std::size_t(m) * P};
  widen<T>(in, m, panels<T>(k), rows);
  for (int p = 0; p < count; ++p) {
    widen<T>(Rows<const Operand>{d_out.data + p * d_out.panel_stride, 0}, m, 1, Rows<T>{panel, 0});
    weight_gradient<T, T>({rows.data, rows.panel_stride}, m, k, panel,
                          d_weight + std::size_t(p) * k * P);
  }
}

template <class T, class Operand>
std::size_t widened_room(int rows, int columns) {
  const std::size_t longer = rows > columns ? rows : columns;
  return sizeof(T) / sizeof(Operand) * Vector<T>::kPanel * (longer + panels<T>(columns) * rows);
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
