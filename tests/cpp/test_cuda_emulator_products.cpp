// The emulator's instructions of tensor cores: they compute what CUDA's would, and find bugs that
// were planted.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "emulated_launch.h"

namespace {

using namespace emulated;

std::uint32_t bf16(float value) { return __float_as_uint(value) >> 16; }

// A [16, 16] times B [16, 8], small whole numbers: exact in bf16. Fragments as the PTX manual's
// figures for m16n8k16 show them.
__global__ void mma_kernel(const float* a, const float* b, float* d) {
  const unsigned group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
  const auto pack = [](float low, float high) { return bf16(low) | bf16(high) << 16; };
  const auto row = [&](unsigned r, unsigned k) { return pack(a[r * 16 + k], a[r * 16 + k + 1]); };
  const auto column = [&](unsigned k) { return pack(b[k * 8 + group], b[(k + 1) * 8 + group]); };
  const std::uint32_t fa[4] = {row(group, pair), row(group + 8, pair), row(group, pair + 8),
                               row(group + 8, pair + 8)};
  const std::uint32_t fb[2] = {column(pair), column(pair + 8)};
  float fd[4] = {1, 1, 1, 1};
  emulator::mma_m16n8k16_bf16(fd, fa, fb);
  for (unsigned i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = fd[i];
}

void mma_multiplies_fragments() {
  std::vector<float> a(16 * 16), b(16 * 8), d(16 * 8);
  for (int i = 0; i < 16 * 16; ++i) a[i] = static_cast<float>(i * 7 % 13 - 6);
  for (int i = 0; i < 16 * 8; ++i) b[i] = static_cast<float>(i * 5 % 11 - 5);
  emulator::set_schedule(5);
  launch(mma_kernel, 1, 32, 0, a.data(), b.data(), d.data());
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 8; ++c) {
      float sum = 1;
      for (int k = 0; k < 16; ++k) sum += a[r * 16 + k] * b[k * 8 + c];
      CHECK(d[r * 8 + c] == sum);
    }
  }
}

// A [16, 8] times B [8, 8], as the figures for m16n8k8 with tf32 show them.
__global__ void mma_tf32_kernel(const float* a, const float* b, float* d) {
  const unsigned group = threadIdx.x / 4, number = threadIdx.x % 4;
  const auto left = [&](unsigned r, unsigned k) { return __float_as_uint(a[r * 8 + k]); };
  const auto right = [&](unsigned k) { return __float_as_uint(b[k * 8 + group]); };
  const std::uint32_t fa[4] = {left(group, number), left(group + 8, number),
                               left(group, number + 4), left(group + 8, number + 4)};
  const std::uint32_t fb[2] = {right(number), right(number + 4)};
  float fd[4] = {1, 1, 1, 1};
  emulator::mma_m16n8k8_tf32(fd, fa, fb);
  for (unsigned i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + number * 2 + i % 2] = fd[i];
}

void mma_multiplies_fragments_of_tf32() {
  std::vector<float> a(16 * 8), b(8 * 8), d(16 * 8);
  for (int i = 0; i < 16 * 8; ++i) a[i] = static_cast<float>(i * 7 % 13 - 6);
  for (int i = 0; i < 8 * 8; ++i) b[i] = static_cast<float>(i * 5 % 11 - 5);
  emulator::set_schedule(5);
  launch(mma_tf32_kernel, 1, 32, 0, a.data(), b.data(), d.data());
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 8; ++c) {
      float sum = 1;
      for (int k = 0; k < 8; ++k) sum += a[r * 8 + k] * b[k * 8 + c];
      CHECK(d[r * 8 + c] == sum);
    }
  }
  for (const float finer : {1 + 0x1p-11f, -1 - 0x1p-23f}) {
    for (std::vector<float>* operand : {&a, &b}) {
      float& one = (*operand)[17];
      const float before = std::exchange(one, finer);
      const auto unrounded = [&] {
        launch(mma_tf32_kernel, 1, 32, 0, a.data(), b.data(), d.data());
      };
      CHECK(contains(fault_of(unrounded), "was not rounded"));
      one = before;
    }
  }
}

void tf32_is_rounded_to_nearest_and_ties_away_from_zero() {
  const auto rounded = [](float x) { return __uint_as_float(emulator::round_tf32(x)); };
  for (const float sign : {1.0f, -1.0f}) {
    CHECK(rounded(sign * 3) == sign * 3);
    CHECK(rounded(sign * (1 + 0x1p-10f)) == sign * (1 + 0x1p-10f));
    CHECK(rounded(sign * (1 + 0x1p-11f)) == sign * (1 + 0x1p-10f));
    CHECK(rounded(sign * (1 + 3 * 0x1p-11f)) == sign * (1 + 0x1p-9f));
    CHECK(rounded(sign * (1 + 0x1p-11f - 0x1p-23f)) == sign);
    CHECK(rounded(sign * (2 - 0x1p-12f)) == sign * 2);
    CHECK(rounded(sign * INFINITY) == sign * INFINITY);
  }
  CHECK(std::isnan(rounded(NAN)));
}

enum class Planted {
  kNothing,
  kNoProxyFence,      // what was written into shared memory is not shown
  kNoFence,           // of registers
  kEarlyRead,         // of the result
  kEarlyChangeOfA,    // before the wait
  kEarlyChangeOfB,    // before the wait, and shown
  kNoWait,            // at all
  kSomeThreads,       // issue it
  kOtherDescriptors,  // in some threads
  kSwappedStrides
};

// A [64, 16] times B [16, 128], small whole numbers, with B's core matrices twice as far apart
// along the columns as they need be, and an odd number of 16 bytes along the inputs.
template <Planted planted>
__global__ void wgmma_kernel(const float* a, const float* b, float* d) {
  constexpr unsigned kAlongInputs = 16 * 9, kAlongColumns = 16 * 40;
  unsigned char* shared = emulator::shared_memory() + 64;
  const unsigned warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
  const auto pack = [](float low, float high) { return bf16(low) | bf16(high) << 16; };
  for (unsigned i = threadIdx.x; i < 16 * 128; i += 128) {
    const unsigned k = i / 128, n = i % 128;
    const auto half = static_cast<std::uint16_t>(bf16(b[i]));
    std::memcpy(shared + k / 8 * kAlongInputs + n / 8 * kAlongColumns + n % 8 * 16 + k % 8 * 2,
                &half, sizeof half);
  }
  if (planted != Planted::kNoProxyFence) emulator::fence_proxy_async();
  __syncthreads();
  const auto row = [&](unsigned r, unsigned k) {
    const float* at = a + (warp * 16 + r) * 16 + k;
    return pack(at[0], at[1]);
  };
  std::uint32_t fa[4] = {row(group, pair), row(group + 8, pair), row(group, pair + 8),
                         row(group + 8, pair + 8)};
  const bool swapped = planted == Planted::kSwappedStrides;
  std::uint64_t descriptor = emulator::shared_address(shared) / 16 |
                             std::uint64_t(swapped ? kAlongColumns : kAlongInputs) / 16 << 16 |
                             std::uint64_t(swapped ? kAlongInputs : kAlongColumns) / 16 << 32;
  if (planted == Planted::kOtherDescriptors) descriptor += threadIdx.x / 96;
  float fd[64];
  for (float& x : fd) x = 1;
  if (planted != Planted::kNoFence) emulator::wgmma_fence();
  if (planted != Planted::kSomeThreads || warp < 3) {
    emulator::wgmma_m64n128k16_bf16(fd, fa, descriptor);
  }
  emulator::wgmma_commit();
  const float early = fd[5];
  if (planted == Planted::kEarlyChangeOfA) fa[2] = 0;
  if (planted == Planted::kEarlyChangeOfB) {
    std::memset(shared + threadIdx.x / 8 * kAlongColumns, 0, 16);
    emulator::fence_proxy_async();
    __syncthreads();
  }
  if (planted != Planted::kNoWait) emulator::wgmma_wait(0);
  if (planted == Planted::kEarlyRead) fd[5] = early;
  for (unsigned i = 0; i < 64; ++i) {
    d[(warp * 16 + group + i / 2 % 2 * 8) * 128 + i / 4 * 8 + pair + i % 2] = fd[i];
  }
}

// The fault that a launch ends with; "wrong" where it ends with other numbers; empty if all is
// well.
template <Planted planted>
std::string wgmma_with() {
  std::vector<float> a(64 * 16), b(16 * 128), d(64 * 128);
  for (int i = 0; i < 64 * 16; ++i) a[i] = static_cast<float>(i * 7 % 13 - 6);
  for (int i = 0; i < 16 * 128; ++i) b[i] = static_cast<float>(i * 5 % 11 - 5);
  emulator::set_schedule(5);
  const std::string fault = fault_of(
      [&] { launch(wgmma_kernel<planted>, 1, 128, 16 << 10, a.data(), b.data(), d.data()); });
  if (!fault.empty()) return fault;
  for (int r = 0; r < 64; ++r) {
    for (int c = 0; c < 128; ++c) {
      float sum = 1;
      for (int k = 0; k < 16; ++k) sum += a[r * 16 + k] * b[k * 128 + c];
      if (d[r * 128 + c] != sum) return "wrong";
    }
  }
  return "";
}

void wgmma_multiplies_and_finds_what_was_planted() {
  CHECK(wgmma_with<Planted::kNothing>().empty());
  CHECK(wgmma_with<Planted::kNoProxyFence>() == "wrong");
  CHECK(contains(wgmma_with<Planted::kNoFence>(), "wgmma.fence"));
  CHECK(wgmma_with<Planted::kEarlyRead>() == "wrong");
  CHECK(wgmma_with<Planted::kEarlyChangeOfA>() == "wrong");
  CHECK(wgmma_with<Planted::kEarlyChangeOfB>() == "wrong");
  CHECK(contains(wgmma_with<Planted::kNoWait>(), "nobody waited for"));
  CHECK(contains(wgmma_with<Planted::kSomeThreads>(), "not all threads"));
  CHECK(contains(wgmma_with<Planted::kOtherDescriptors>(), "different descriptors"));
  CHECK(wgmma_with<Planted::kSwappedStrides>() == "wrong");
}

}  // namespace

int main() {
  mma_multiplies_fragments();
  mma_multiplies_fragments_of_tf32();
  tf32_is_rounded_to_nearest_and_ties_away_from_zero();
  wgmma_multiplies_and_finds_what_was_planted();
}
