// What csrc/cpu/amx_tiles.h offers, in plain C++ and as strict as the instructions are: whatever
// would raise an exception on the processor ends the program. As there, only rows that are
// configured are read and written, and pairs are summed up apart, even and odd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace iql::cpu::IQL_ISA {
namespace {
namespace tiles {

struct alignas(64) Shape {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, int count) {
    rows[tile] = static_cast<std::uint8_t>(count);
    row_bytes[tile] = count > 0 ? 64 : 0;
  }
};

namespace emulated {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct State {
  bool configured = false;
  int rows[kTiles], row_bytes[kTiles];
  unsigned char data[kTiles][kMostRows][kMostBytes];
};
thread_local State state;

inline void require(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "tiles: %s\n", what);
  std::abort();
}

inline void require_tile(int tile) {
  require(state.configured, "used while not configured");
  require(state.rows[tile] > 0, "a tile without rows was used");
}

inline float from_bf16(std::uint16_t bits) {
  const std::uint32_t word = std::uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

}  // namespace emulated

inline void configure(const Shape& shape) {
  using namespace emulated;
  require(shape.palette == 1 && shape.start_row == 0, "palette");
  for (const std::uint8_t byte : shape.reserved) require(byte == 0, "reserved bytes");
  for (int tile = 0; tile < 16; ++tile) {
    const int rows = shape.rows[tile], bytes = shape.row_bytes[tile];
    require((rows == 0) == (bytes == 0), "rows without bytes, or bytes without rows");
    require(tile < kTiles || rows == 0, "a tile past the last");
    require(rows <= kMostRows && bytes <= kMostBytes, "a tile that is too large");
    if (tile >= kTiles) continue;
    state.rows[tile] = rows;
    state.row_bytes[tile] = bytes;
  }
  std::memset(state.data, 0, sizeof state.data);
  state.configured = true;
}

inline void release() { emulated::state.configured = false; }

template <int Tile>
inline void clear() {
  emulated::require_tile(Tile);
  std::memset(emulated::state.data[Tile], 0, sizeof emulated::state.data[Tile]);
}

template <int Tile>
inline void load(const void* rows, std::ptrdiff_t stride) {
  clear<Tile>();
  for (int r = 0; r < emulated::state.rows[Tile]; ++r) {
    std::memcpy(emulated::state.data[Tile][r], static_cast<const char*>(rows) + r * stride,
                emulated::state.row_bytes[Tile]);
  }
}

template <int Tile>
inline void store(void* rows, std::ptrdiff_t stride) {
  emulated::require_tile(Tile);
  for (int r = 0; r < emulated::state.rows[Tile]; ++r) {
    std::memcpy(static_cast<char*>(rows) + r * stride, emulated::state.data[Tile][r],
                emulated::state.row_bytes[Tile]);
  }
}

template <int Sum, int Left, int Right>
inline void multiply() {
  using namespace emulated;
  require_tile(Sum);
  require_tile(Left);
  require_tile(Right);
  require(Sum != Left && Sum != Right && Left != Right, "one tile as two operands");
  require(state.rows[Sum] == state.rows[Left] && state.row_bytes[Sum] == state.row_bytes[Right] &&
              state.row_bytes[Left] == 4 * state.rows[Right],
          "tiles that do not fit together");
  const int columns = state.row_bytes[Sum] / 4, depth = state.rows[Right];
  for (int m = 0; m < state.rows[Sum]; ++m) {
    std::uint16_t left[kMostBytes / 2];
    float even[kMostBytes / 4] = {}, odd[kMostBytes / 4] = {}, sum[kMostBytes / 4];
    std::memcpy(left, state.data[Left][m], sizeof left);
    std::memcpy(sum, state.data[Sum][m], sizeof sum);
    for (int k = 0; k < depth; ++k) {
      std::uint16_t right[kMostBytes / 2];
      std::memcpy(right, state.data[Right][k], sizeof right);
      for (int n = 0; n < columns; ++n) {
        even[n] += from_bf16(left[2 * k]) * from_bf16(right[2 * n]);
        odd[n] += from_bf16(left[2 * k + 1]) * from_bf16(right[2 * n + 1]);
      }
    }
    for (int n = 0; n < columns; ++n) sum[n] += even[n] + odd[n];
    std::memcpy(state.data[Sum][m], sum, sizeof sum);
  }
}

}  // namespace tiles
}  // namespace
}  // namespace iql::cpu::IQL_ISA
