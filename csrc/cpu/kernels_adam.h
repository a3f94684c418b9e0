// Adam and Polyak, and copies of the new weights as operands. A part of kernels_impl.h.
#pragma once

#include <cstddef>

#include "cpu/kernels_vectors.h"
#include "iql/adam.h"
#include "iql/polyak.h"

namespace iql::cpu::IQL_ISA {
namespace {

template <class T, class Operand>
IQL_KERNEL void operands(const T* panel, int rows, Operand* out) {
  constexpr int P = Vector<T>::kPanel;
  for (int r = 0; r < rows; ++r, panel += P, out += P) {
    store_operands<T>(load(panel), load(panel + Vector<T>::kWidth), out);
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
IQL_KERNEL void adam(AdamArrays<T, Operand> arrays, const T* gradient, std::size_t n,
                     const AdamStep<T>& step, T alpha) {
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

}  // namespace
}  // namespace iql::cpu::IQL_ISA
