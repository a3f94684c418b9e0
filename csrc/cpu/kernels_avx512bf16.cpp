#define IQL_ISA avx512bf16
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_LINES 2
#define IQL_LIST_PANELS 2
#define IQL_LIST_DENSITY 1.0  // bf16 pays for itself even where nothing is zero
#include "cpu/kernels_impl.h"

namespace iql::cpu::avx512bf16 {
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float, BFloat16> kMixed = table<float, BFloat16>("avx512bf16");
}  // namespace iql::cpu::avx512bf16
