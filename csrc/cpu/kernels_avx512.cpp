#define IQL_ISA avx512
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_DENSITY 0.6
#include "cpu/kernels_impl.h"

namespace iql::cpu::avx512 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float> kFloat = table<float, float, 2, 2>("avx512");
const Kernels<double> kDouble = table<double, double, 2, 2>("avx512");
const Kernels<float, BFloat16> kMixed = table<float, BFloat16, 2, 2>("avx512");
}  // namespace iql::cpu::avx512
