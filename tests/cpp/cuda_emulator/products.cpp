// What a warp's mma.sync makes of fragments.
#include <algorithm>

#include "cuda_runtime.h"

namespace emulator {
namespace {

// Bits of a float that a tf32 has not.
constexpr std::uint32_t kBeyondTf32 = (1u << 13) - 1;

// A B, added to the four numbers that each lane holds of an mma's result.
template <int kInputs, class Sums>
void add_product(const float (&A)[16][kInputs], const float (&B)[kInputs][8], const Sums& sums) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float& sum = sums(lane)[i];
      for (int k = 0; k < kInputs; ++k) sum += A[row][k] * B[k][column];
    }
  }
}

// What a lane gives to an mma, and gets: its registers.
struct Lane {
  float d[4];
  std::uint32_t a[4], b[2];

  Lane(const float (&d_)[4], const std::uint32_t (&a_)[4], const std::uint32_t (&b_)[2]) {
    std::memcpy(d, d_, sizeof d);
    std::memcpy(a, a_, sizeof a);
    std::memcpy(b, b_, sizeof b);
  }
};

}  // namespace

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Lane mine(d, a, b);
  with_warp("mma.sync", ~0u, &mine, sizeof mine, [](unsigned char* lanes) {
    const auto at = [lanes](int i) { return reinterpret_cast<Lane*>(lanes + i * kLaneBytes); };
    const auto half = [](std::uint32_t pair, int upper) {
      return __uint_as_float(upper ? pair & 0xFFFF0000u : pair << 16);
    };
    float A[16][16], B[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        for (int h = 0; h < 2; ++h) {
          A[group + i % 2 * 8][pair + i / 2 * 8 + h] = half(at(lane)->a[i], h);
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int h = 0; h < 2; ++h) B[pair + i * 8 + h][group] = half(at(lane)->b[i], h);
      }
    }
    add_product(A, B, [&](int lane) -> float* { return at(lane)->d; });
  });
  std::memcpy(d, mine.d, sizeof d);
}

std::uint32_t round_tf32(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  if (value != value) return 0x7FFFE000u;
  return (bits + (kBeyondTf32 + 1) / 2) & ~kBeyondTf32;
}

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Lane mine(d, a, b);
  const auto rounded = [](std::uint32_t bits) {
    return (bits & kBeyondTf32) == 0 || std::isnan(__uint_as_float(bits));
  };
  if (!std::all_of(a, a + 4, rounded) || !std::all_of(b, b + 2, rounded)) {
    stop("an operand of mma.sync in tf32 that was not rounded");
  }
  with_warp("mma.sync", ~0u, &mine, sizeof mine, [](unsigned char* lanes) {
    const auto at = [lanes](int i) { return reinterpret_cast<Lane*>(lanes + i * kLaneBytes); };
    float A[16][8], B[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, number = lane % 4;
      for (int i = 0; i < 4; ++i) {
        A[group + i % 2 * 8][number + i / 2 * 4] = __uint_as_float(at(lane)->a[i]);
      }
      for (int i = 0; i < 2; ++i) B[number + i * 4][group] = __uint_as_float(at(lane)->b[i]);
    }
    add_product(A, B, [&](int lane) -> float* { return at(lane)->d; });
  });
  std::memcpy(d, mine.d, sizeof d);
}

}  // namespace emulator
