// Dropout of a row of activations. A part of kernels_impl.h.
#pragma once

#include <cstddef>

#include "cpu/kernels_vectors.h"

namespace iql::cpu::IQL_ISA {
namespace {

template <class T>
inline Vec<T> dropped(Vec<T> x, Vec<T> factor) {
  return factor > 0 ? x * factor : Vec<T>{};  // 0 whatever x is, not a NaN
}

template <class T, class Operand>
IQL_KERNEL void drop(Rows<Operand> x, int n, const T* factors) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for (int p = 0; p < panels<T>(n); ++p) {
    Operand* const panel = x.data + p * x.panel_stride;
    const Row<T> row = load_row<T>(panel);
    store_operands<T>(dropped<T>(row.left, load(factors + p * P)),
                      dropped<T>(row.right, load(factors + p * P + W)), panel);
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
