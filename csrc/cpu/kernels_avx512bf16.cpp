#define IQL_ISA avx512bf16
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_DENSITY 0.65
#include "cpu/kernels_impl.h"
#include "cpu/kernels_pairs.h"

namespace iql::cpu::avx512bf16 {
// Both keep 32 KiB of a matrix in the L1 cache. Long pieces write and read fewer sums; more panels
// read the lists less often, but need a cache with room for what else passes through.
extern const Kernels<float, BFloat16> kMixed, kMixedWide;
const Kernels<float, BFloat16> kMixed =
    table<float, BFloat16, 2, 2, 256>("avx512bf16", 0, kDenseProducts);
const Kernels<float, BFloat16> kMixedWide =
    table<float, BFloat16, 2, 4>("avx512bf16-wide", 48 * 1024, kDenseProducts);
}  // namespace iql::cpu::avx512bf16
