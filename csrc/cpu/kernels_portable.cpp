#define IQL_ISA portable
#define IQL_VECTOR_BYTES 16
#define IQL_TILE_ROWS 4
#define IQL_LIST_DENSITY 0.75
#include "cpu/kernels_impl.h"

namespace iql::cpu::portable {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float> kFloat = table<float, float, 1, 4>("portable");
const Kernels<double> kDouble = table<double, double, 1, 4>("portable");
const Kernels<float, BFloat16> kMixed = table<float, BFloat16, 1, 4>("portable");
}  // namespace iql::cpu::portable
