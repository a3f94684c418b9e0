// The eight matrix registers ("tiles") of Intel's AMX: up to 16 rows of 64 bytes each. A program
// must ask the system for them first (can_run() does), and each thread configures them anew.
//
// The statements are the instructions themselves and not GCC's intrinsics, which do not tell the
// compiler that a load reads memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iql::cpu::IQL_ISA {
namespace {
namespace tiles {

// What `ldtilecfg` reads: the rows and the bytes of a row of each tile; a tile of none is not
// there.
struct alignas(64) Shape {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, int count) {
    rows[tile] = static_cast<std::uint8_t>(count);
    row_bytes[tile] = count > 0 ? 64 : 0;
  }
};
static_assert(sizeof(Shape) == 64);

// Clears all tiles.
inline void configure(const Shape& shape) { asm volatile("ldtilecfg %0" ::"m"(shape) : "memory"); }

inline void release() { asm volatile("tilerelease" ::: "memory"); }

template <int Tile>
inline void clear();
// Rows of a tile from memory and back, `stride` bytes from one to the next.
template <int Tile>
inline void load(const void* rows, std::ptrdiff_t stride);
template <int Tile>
inline void store(void* rows, std::ptrdiff_t stride);
// Sum [m][n] of floats += left [m][2 k] * right of bf16, where row k of `right` holds rows 2 k and
// 2 k + 1 of the right matrix, element by element in turn.
template <int Sum, int Left, int Right>
inline void multiply();

#define IQL_TILE(n)                                                                        \
  template <>                                                                              \
  inline void clear<n>() {                                                                 \
    asm volatile("tilezero %%tmm" #n::);                                                   \
  }                                                                                        \
  template <>                                                                              \
  inline void load<n>(const void* rows, std::ptrdiff_t stride) {                           \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #n::"r"(rows), "r"(stride) : "memory");      \
  }                                                                                        \
  template <>                                                                              \
  inline void store<n>(void* rows, std::ptrdiff_t stride) {                                \
    asm volatile("tilestored %%tmm" #n ", (%0,%1,1)" ::"r"(rows), "r"(stride) : "memory"); \
  }
IQL_TILE(0)
IQL_TILE(1)
IQL_TILE(2)
IQL_TILE(3)
IQL_TILE(4)
IQL_TILE(5)
IQL_TILE(6)
IQL_TILE(7)
#undef IQL_TILE

#define IQL_MULTIPLY(sum, left, right)                                       \
  template <>                                                                \
  inline void multiply<sum, left, right>() {                                 \
    asm volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum::); \
  }
IQL_MULTIPLY(0, 4, 6)
IQL_MULTIPLY(1, 4, 7)
IQL_MULTIPLY(2, 5, 6)
IQL_MULTIPLY(3, 5, 7)
#undef IQL_MULTIPLY

}  // namespace tiles
}  // namespace
}  // namespace iql::cpu::IQL_ISA
