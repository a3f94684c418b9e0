// What dropout multiplies elements by. The including file defines IQL_ISA (a namespace) and is
// compiled for that instruction set.
#pragma once

#include <cstdint>

#include "iql/operands.h"
#include "iql/philox.h"

namespace iql::cpu::IQL_ISA {
namespace {

// 0, or 1 / (1 - probability), for elements begin ... end.
template <class T>
inline void dropout_factors(const Dropout& dropout, std::int64_t begin, std::int64_t end,
                            T* __restrict factors) {
  constexpr int kWords = 256;
  const std::uint32_t threshold = dropout_threshold(dropout.probability);
  const T kept = T(Computed<T>(1 / (1 - dropout.probability)));
  for (std::int64_t i = begin; i < end;) {
    std::uint32_t word[kWords];
    const int skipped = static_cast<int>(i % 4);  // words of the first four
    const int left = kWords - skipped;
    const int count = end - i < left ? static_cast<int>(end - i) : left;
    const std::uint32_t first = static_cast<std::uint32_t>(i / 4);
    for (int l = 0; l < (skipped + count + 3) / 4; ++l) {
      const PhiloxWords four = draw(dropout.seed, dropout.step, dropout.stream, first + l);
      for (int w = 0; w < 4; ++w) word[4 * l + w] = four.word[w];
    }
    T* __restrict out = factors + (i - begin);
    for (int k = 0; k < count; ++k) out[k] = word[skipped + k] >= threshold ? kept : T(0.0f);
    i += count;
  }
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
