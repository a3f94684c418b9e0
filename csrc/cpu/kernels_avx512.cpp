#define IQL_ISA avx512
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_DENSITY 0.6
#include "cpu/kernels_impl.h"

namespace iql::cpu::avx512 {
// Two lines at a time give a core that multiplies two vectors a cycle enough sums to work on; for
// one that multiplies one they are more than it needs, and lines that end cost it more.
extern const Kernels<float> kFloat, kFloatNarrow;
extern const Kernels<double> kDouble, kDoubleNarrow;
extern const Kernels<float, BFloat16> kMixed, kMixedNarrow;
const Kernels<float> kFloat = table<float, float, 2, 2>("avx512");
const Kernels<float> kFloatNarrow = table<float, float, 1, 2>("avx512-narrow", 0, 0.75);
const Kernels<double> kDouble = table<double, double, 2, 2>("avx512");
const Kernels<double> kDoubleNarrow = table<double, double, 1, 2>("avx512-narrow", 0, 0.75);
const Kernels<float, BFloat16> kMixed = table<float, BFloat16, 2, 2>("avx512");
const Kernels<float, BFloat16> kMixedNarrow =
    table<float, BFloat16, 1, 2>("avx512-narrow", 0, 0.75);
}  // namespace iql::cpu::avx512
