// The kernels of csrc/cpu/kernels_amx.h over tiles.h, for machines without AMX.
#define IQL_ISA amx_emulated
#define IQL_VECTOR_BYTES 64
#define IQL_TILE_ROWS 12
#define IQL_LIST_DENSITY 0.0
#include "cpu/kernels_impl.h"
//
#include "tiles.h"
//
#include "cpu/kernels_amx.h"

namespace iql::cpu::amx_emulated {
extern const Kernels<float, BFloat16> kMixed;
const Kernels<float, BFloat16> kMixed = tiled("amx-emulated");
}  // namespace iql::cpu::amx_emulated
