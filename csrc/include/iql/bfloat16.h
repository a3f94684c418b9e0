// The upper half of a float, for storage alone: arithmetic is done in float.
#pragma once

#include <cstdint>
#include <cstring>

#include "iql/host_device.h"

namespace iql {

struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;

  // Rounds to nearest, ties to even; a NaN stays one.
  IQL_HD inline explicit BFloat16(float x) {
    std::uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    const std::uint32_t rounded = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
    bits = static_cast<std::uint16_t>(x != x ? 0x7FC0u : rounded);
  }
  // Through float, so rounded twice.
  IQL_HD inline explicit BFloat16(double x) : BFloat16(static_cast<float>(x)) {}

  IQL_HD inline explicit operator float() const {
    const std::uint32_t word = std::uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
  IQL_HD inline explicit operator double() const { return static_cast<float>(*this); }
};

}  // namespace iql
