// The little that the C++ tests need: a failed check says where and stops the program.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

// |a - b| <= tolerance * max(1, |b|)
#define CHECK_NEAR(a, b, tolerance)                                                               \
  do {                                                                                            \
    const double a_ = (a), b_ = (b);                                                              \
    if (!(std::fabs(a_ - b_) <= (tolerance) * std::fmax(1.0, std::fabs(b_)))) {                   \
      std::fprintf(stderr, "%s:%d: failed: %s = %.17g, expected %.17g\n", __FILE__, __LINE__, #a, \
                   a_, b_);                                                                       \
      std::exit(1);                                                                               \
    }                                                                                             \
  } while (false)

// Emulated threads are slow under the address sanitizer: what it looks for needs each kernel once.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kBrief = true;
#else
inline constexpr bool kBrief = false;
#endif
