#define IQL_ISA amx
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_DENSITY 0.0  // see kernels_amx.h
#include "cpu/kernels_impl.h"
//
#include "cpu/amx_tiles.h"
#include "cpu/kernels_amx.h"

namespace iql::cpu::amx {
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float, BFloat16> kMixed = tiled("amx");
}  // namespace iql::cpu::amx
