// exp without branches or tables, so that a compiler can vectorise a loop over it.
#pragma once

#include <cstdint>
#include <cstring>

#include "iql/host_device.h"

namespace iql {

IQL_HD inline double multiply_add(double a, double b, double c) {
#if defined(__FMA__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// 2^n, where n + 1.5 * 2^52 is given: the sum's low bits are n.
IQL_HD inline double power_of_two(double shifted) {
  std::uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// exp(x), as precisely as a T can tell: x = n ln 2 + r with |r| <= ln(2) / 2, and the Taylor
// polynomial of exp(r). 13 terms give a double's precision (2 units in the last place); 8 leave a
// relative error of 3e-10, enough for a float. 0, infinity and NaN come out as they should once the
// result is rounded to T, and so do subnormal numbers.
template <class T>
IQL_HD inline double exponential(double x) {
  constexpr bool kDouble = sizeof(T) == sizeof(double);
  constexpr int kTerms = kDouble ? 13 : 8;
  constexpr double kLowest = kDouble ? -760.0 : -110.0;  // beyond these T has 0 or infinity
  constexpr double kHighest = kDouble ? 720.0 : 100.0;
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  constexpr double kLog2E = 1.4426950408889634074;
  constexpr double kLn2High = 6.93147180369123816490e-01;  // its last 32 bits are zero
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kInverseFactorial[] = {1.0,
                                          1.0,
                                          1.0 / 2,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320,
                                          1.0 / 362880,
                                          1.0 / 3628800,
                                          1.0 / 39916800,
                                          1.0 / 479001600,
                                          1.0 / 6227020800.0};

  const double not_low = x < kLowest ? kLowest : x;
  const double bounded = not_low > kHighest ? kHighest : not_low;
  const double shifted = multiply_add(bounded, kLog2E, kShift);
  const double n = shifted - kShift;
  const double r = multiply_add(n, -kLn2Low, multiply_add(n, -kLn2High, bounded));
  double tail = kInverseFactorial[kTerms];
#if defined(__GNUC__)
#pragma GCC unroll 16
#endif
  for (int k = kTerms - 1; k >= 2; --k) tail = multiply_add(tail, r, kInverseFactorial[k]);
  const double reduced = 1.0 + multiply_add(tail * r, r, r);
  if constexpr (!kDouble) {
    return reduced * power_of_two(shifted);
  } else {  // in two factors, since 2^n itself may lie outside a double's range
    const double half = n * 0.5 + kShift;
    return reduced * power_of_two(half) * power_of_two(n - (half - kShift) + kShift);
  }
}

}  // namespace iql
