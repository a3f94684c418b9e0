// Dropout of a row of activations. A part of kernels_impl.h.
#pragma once

#include <cstdint>

#include "cpu/dropout_factors.h"
#include "cpu/kernels_vectors.h"

namespace iql::cpu::IQL_ISA {
namespace {

template <class T>
inline Vec<T> dropped(Vec<T> x, Vec<T> factor) {
  return factor > 0 ? x * factor : Vec<T>{};  // 0 whatever x is, not a NaN
}

template <class T, class Operand>
IQL_KERNEL void drop(Rows<Operand> x, int n, const Dropout& dropout, std::int64_t first) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth, kTogether = 256 / P;
  static_assert(kTogether > 0);
  alignas(IQL_VECTOR_BYTES) T factors[kTogether * P] = {};
  for (int p = 0; p < panels<T>(n); p += kTogether) {
    const std::int64_t begin = first + p * P, end = first + n;
    const int count = panels<T>(n) - p < kTogether ? panels<T>(n) - p : kTogether;
    const std::int64_t all = begin + count * P;
    dropout_factors(dropout, begin, all < end ? all : end, factors);
    for (int i = 0; i < count; ++i) {
      Operand* const panel = x.data + (p + i) * x.panel_stride;
      const Row<T> row = load_row<T>(panel);
      store_operands<T>(dropped<T>(row.left, load(factors + i * P)),
                        dropped<T>(row.right, load(factors + i * P + W)), panel);
    }
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
