#define IQL_ISA avx2
#define IQL_VECTOR_BYTES 32
#define IQL_TILE_ROWS 6
#define IQL_LIST_DENSITY 0.45
#include "cpu/kernels_impl.h"

namespace iql::cpu::avx2 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float> kFloat = table<float, float, 1, 4>("avx2");
const Kernels<double> kDouble = table<double, double, 1, 4>("avx2");
const Kernels<float, BFloat16> kMixed = table<float, BFloat16, 1, 4>("avx2");
}  // namespace iql::cpu::avx2
