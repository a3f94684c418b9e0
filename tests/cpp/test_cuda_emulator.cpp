// The emulator itself: it computes what CUDA would, and finds bugs that were planted.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

constexpr int kThreads = 96;
constexpr unsigned kSchedules = 8;

template <class Kernel, class... Arguments>
cudaError_t error_of(bool cooperative, Kernel* kernel, dim3 grid, dim3 block, std::size_t shared,
                     Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}
template <class Kernel, class... Arguments>
void launch(Kernel* kernel, dim3 grid, dim3 block, std::size_t shared, Arguments... arguments) {
  CHECK(error_of(false, kernel, grid, block, shared, arguments...) == cudaSuccess);
}
template <class Kernel, class... Arguments>
void launch_together(Kernel* kernel, dim3 grid, dim3 block, std::size_t shared,
                     Arguments... arguments) {
  CHECK(error_of(true, kernel, grid, block, shared, arguments...) == cudaSuccess);
}

template <class Body>
std::string fault_of(const Body& body) {
  try {
    body();
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Moves values around the block twice. Each barrier can be left out: the first separates a write
// from reads, the second a read from the next write.
template <bool kFirst, bool kSecond>
__global__ void rotate_kernel(float* values) {
  auto* shared = reinterpret_cast<float*>(emulator::shared_memory());
  const unsigned i = threadIdx.x;
  float value = values[i];
  for (int round = 0; round < 2; ++round) {
    shared[i] = value;
    if (kFirst) __syncthreads();
    value = shared[(i + 1) % kThreads];
    if (kSecond) __syncthreads();
  }
  values[i] = value;
}

// On how many schedules the kernel above is right.
template <bool kFirst, bool kSecond>
unsigned rotations_that_are_right() {
  unsigned right = 0;
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> values(kThreads);
    for (int i = 0; i < kThreads; ++i) values[i] = static_cast<float>(i);
    launch(rotate_kernel<kFirst, kSecond>, 1, kThreads, kThreads * sizeof(float), values.data());
    bool all = true;
    for (int i = 0; i < kThreads; ++i) {
      all = all && values[i] == static_cast<float>((i + 2) % kThreads);
    }
    right += all;
  }
  return right;
}

void a_missing_barrier_is_found() {
  CHECK((rotations_that_are_right<true, true>() == kSchedules));
  CHECK((rotations_that_are_right<false, true>() == 0));
  CHECK((rotations_that_are_right<true, false>() == 0));
}

// Moves values between blocks twice, through device memory: the first wait separates a write from
// reads, the second a read from the next write.
__global__ void rotate_blocks_kernel(float* values, unsigned* arrived) {
  auto value = static_cast<float>(blockIdx.x);
  unsigned wanted = 0;
  const auto wait = [&] {
    wanted += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) {
      emulator::arrive(arrived);
      emulator::wait_for_arrivals(arrived, wanted);
    }
    __syncthreads();
  };
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) values[blockIdx.x] = value;
    wait();
    value = values[(blockIdx.x + 1) % gridDim.x];
    wait();
  }
  if (threadIdx.x == 0) values[blockIdx.x] = value;
}

// On how many schedules the kernel above is right, with one of its waits left out.
unsigned rotations_of_blocks_that_are_right(int left_out) {
  unsigned right = 0;
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> values(5, -1.0f);
    unsigned arrived = 0;
    emulator::leave_out_grid_barrier(left_out < 0 ? -1 : 0, left_out);
    launch_together(rotate_blocks_kernel, 5, kThreads, 0, values.data(), &arrived);
    CHECK(emulator::barriers_left_out() == (left_out < 0 ? 0 : 5));
    CHECK(arrived == 4 * 5);
    right += values == std::vector<float>{2, 3, 4, 0, 1};
  }
  emulator::leave_out_grid_barrier(-1, -1);
  return right;
}

void a_missing_wait_for_other_blocks_is_found() {
  CHECK(rotations_of_blocks_that_are_right(-1) == kSchedules);
  for (int wait = 0; wait < 3; ++wait) {
    CHECK(rotations_of_blocks_that_are_right(wait) < kSchedules);
  }
}

__global__ void wait_for_one_more_kernel(unsigned* arrived) {
  if (threadIdx.x > 0) return;
  emulator::arrive(arrived);
  emulator::wait_for_arrivals(arrived, gridDim.x + 1);
}
__global__ void wait_for_all_kernel(unsigned* arrived) {
  if (threadIdx.x > 0) return;
  emulator::arrive(arrived);
  emulator::wait_for_arrivals(arrived, gridDim.x);
}

void blocks_that_wait_for_ever_are_found() {
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    unsigned arrived = 0;
    const auto more = [&] { launch_together(wait_for_one_more_kernel, 3, 64, 0, &arrived); };
    CHECK(
        contains(fault_of(more), "3 blocks: 0 of 192 threads wait at __syncthreads, 3 for other"));
    // Without a cooperative launch the others do not come before the first has ended.
    arrived = 0;
    const auto apart = [&] { launch(wait_for_all_kernel, 3, 64, 0, &arrived); };
    CHECK(contains(fault_of(apart), "1 for other blocks, 63 have ended"));
    arrived = 0;
    launch_together(wait_for_all_kernel, 3, 64, 0, &arrived);
  }
}

void more_blocks_than_fit_at_once_are_refused() {
  unsigned arrived = 0;
  emulator::set_multiprocessors(3);
  const auto error = [&](unsigned blocks, std::size_t shared) {
    arrived = 0;
    return error_of(true, wait_for_all_kernel, blocks, 1024, shared, &arrived);
  };
  CHECK(error(6, 0) == cudaSuccess);
  CHECK(error(7, 0) == cudaErrorCooperativeLaunchTooLarge);
  CHECK(cudaFuncSetAttribute(wait_for_all_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             100 << 10) == cudaSuccess);
  int each = 0;
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, wait_for_all_kernel, 1024,
                                                      100 << 10) == cudaSuccess);
  CHECK(each == 1);
  CHECK(error(3, 100 << 10) == cudaSuccess);
  CHECK(error(4, 100 << 10) == cudaErrorCooperativeLaunchTooLarge);
  emulator::set_multiprocessors(108);
}

// Of blocks that run at once, each has a __shared__ array of its own.
__global__ void shared_array_kernel(float* values, unsigned* arrived) {
  __shared__ float own[2];
  if (threadIdx.x == 0) {
    own[0] = static_cast<float>(blockIdx.x);
    emulator::arrive(arrived);
    emulator::wait_for_arrivals(arrived, gridDim.x);
    values[blockIdx.x] = own[0] + own[1];
  } else if (threadIdx.x == 32) {
    own[1] = static_cast<float>(10 * blockIdx.x);
    emulator::arrive(arrived + 1);
    emulator::wait_for_arrivals(arrived + 1, gridDim.x);
  }
}

void blocks_that_run_at_once_share_no_array() {
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> values(4);
    unsigned arrived[2] = {0, 0};
    launch_together(shared_array_kernel, 4, 64, 0, values.data(), arrived);
    for (int i = 0; i < 4; ++i) {
      // Not NaN but for what the schedule leaves unwritten.
      CHECK(values[i] == static_cast<float>(11 * i) || std::isnan(values[i]));
    }
  }
}

// Two teams of a block, each of which waits for its own threads as often as it likes.
__global__ void teams_kernel(float* values) {
  auto* shared = reinterpret_cast<float*>(emulator::shared_memory());
  const unsigned team = threadIdx.x / 32, rounds = 2 * team + 1;
  for (unsigned round = 0; round < rounds; ++round) {
    shared[threadIdx.x] = static_cast<float>(round);
    emulator::wait_for_threads(1 + team, 32);
    values[threadIdx.x] += shared[threadIdx.x ^ 31];
    emulator::wait_for_threads(1 + team, 32);
  }
}

void teams_of_a_block_have_barriers_of_their_own() {
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> values(64);
    launch(teams_kernel, 1, 64, 64 * sizeof(float), values.data());
    for (int i = 0; i < 64; ++i) CHECK(values[i] == (i < 32 ? 0 : 3));
  }
}

// What a copy's place holds before the thread waits for it, and afterwards.
__global__ void copy_kernel(const float* from, float* before, float* after) {
  auto* shared = reinterpret_cast<float*>(emulator::shared_memory());
  shared[0] = 1;
  emulator::copy_later(shared, from, sizeof *from);
  emulator::end_of_copies();
  *before = shared[0];
  emulator::wait_for_copies(0);
  *after = shared[0];
}

void asynchronous_copies_are_made_late_or_at_once() {
  int early = 0;
  for (unsigned seed = 0; seed < 6; ++seed) {
    emulator::set_schedule(seed);
    const float from = 2;
    float before = 0, after = 0;
    launch(copy_kernel, 1, 1, sizeof(float), &from, &before, &after);
    CHECK(before == 1 || before == 2);
    CHECK(after == 2);
    early += before == 2;
  }
  CHECK(early == 2);
}

__global__ void sum_of_shared_kernel(float* sum) {
  auto* shared = reinterpret_cast<float*>(emulator::shared_memory());
  if (threadIdx.x != 7) shared[threadIdx.x] = 1.0f;  // one is forgotten
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 32; ++i) sum[blockIdx.x] += shared[i];
  }
}

void memory_that_nobody_wrote_is_nan() {
  // In the second block too: what the first left in shared memory is gone.
  std::vector<float> sum(2, 0.0f);
  launch(sum_of_shared_kernel, 2, 32, 32 * sizeof(float), sum.data());
  CHECK(std::isnan(sum[0]));
  CHECK(std::isnan(sum[1]));
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 8 * sizeof(float)) == cudaSuccess);
  for (int i = 0; i < 8; ++i) CHECK(std::isnan(static_cast<float*>(memory)[i]));
  CHECK(cudaFree(memory) == cudaSuccess);
}

__global__ void count_blocks_kernel(float* counter, float* seen) {
  if (threadIdx.x == 0) seen[blockIdx.x] = (*counter)++;
}

void blocks_run_in_any_order() {
  std::vector<float> plain(16), drawn(16);
  float counter = 0;
  emulator::set_schedule(0);
  launch(count_blocks_kernel, 16, 32, 0, &counter, plain.data());
  for (int i = 0; i < 16; ++i) CHECK(plain[i] == static_cast<float>(i));
  counter = 0;
  emulator::set_schedule(3);
  launch(count_blocks_kernel, 16, 32, 0, &counter, drawn.data());
  CHECK(drawn != plain);
}

__global__ void half_block_barrier_kernel() {
  if (threadIdx.x < 32) __syncthreads();
}
__global__ void half_warp_shuffle_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
}
__global__ void two_operations_kernel(float* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
  } else {
    __syncwarp();
  }
}

void threads_that_do_not_come_are_found() {
  float out[32];
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    const auto barrier = [] { launch(half_block_barrier_kernel, 1, 64, 0); };
    CHECK(contains(fault_of(barrier), "32 of 64 threads wait at __syncthreads"));
    const auto shuffle = [&] { launch(half_warp_shuffle_kernel, 1, 32, 0, out); };
    CHECK(contains(fault_of(shuffle), "16 have ended, the others wait for lanes"));
    const auto two = [&] { launch(two_operations_kernel, 1, 32, 0, out); };
    CHECK(contains(fault_of(two), "lanes of one warp are at"));
  }
}

__global__ void shuffle_kernel(float* down, float* butterfly) {
  const auto lane = static_cast<float>(threadIdx.x % 32);
  down[threadIdx.x] = __shfl_down_sync(~0u, lane, 5);
  float sum = lane;
  for (unsigned offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  butterfly[threadIdx.x] = sum;
}

void shuffles_move_between_lanes() {
  for (unsigned seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> down(64), sum(64);
    launch(shuffle_kernel, 1, 64, 0, down.data(), sum.data());
    for (int i = 0; i < 64; ++i) {
      const int lane = i % 32;
      CHECK(down[i] == static_cast<float>(lane < 27 ? lane + 5 : lane));
      CHECK(sum[i] == 31 * 16);
    }
  }
}

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

__global__ void nothing_kernel() {}
__global__ void add_kernel(float* value) {
  if (threadIdx.x == 0) *value += 1;
}

void more_shared_memory_than_allowed_is_refused() {
  const auto with = [](std::size_t bytes) {
    return fault_of([&] { launch(nothing_kernel, 1, 32, bytes); });
  };
  CHECK(with(48 << 10).empty());
  CHECK(contains(with((48 << 10) + 1), "shared memory"));
  CHECK(cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             100 << 10) == cudaSuccess);
  CHECK(with(100 << 10).empty());
  CHECK(contains(with((100 << 10) + 1), "shared memory"));
  CHECK(cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             1 << 20) == cudaErrorInvalidValue);
}

void a_graph_replays_what_was_captured() {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  float value = 0;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  cudaLaunchConfig_t config{};
  config.gridDim = 1;
  config.blockDim = 32;
  config.stream = stream;
  for (int i = 0; i < 3; ++i) CHECK(cudaLaunchKernelEx(&config, add_kernel, &value) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaMemsetAsync(&value, 0, 4, stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(value == 0);
  CHECK(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  for (int i = 0; i < 2; ++i) CHECK(cudaGraphLaunch(executable, stream) == cudaSuccess);
  CHECK(value == 6);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

void copies_from_pinned_memory_are_late() {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  void* memory = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
  CHECK(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(cudaHostAlloc(&memory, 2 * sizeof(float), cudaHostAllocMapped) == cudaSuccess);
  float* pinned = static_cast<float*>(memory);
  float to = 0, other = 0, from = 1;
  const auto copy = [&](float* at, const float* what) {
    CHECK(cudaMemcpyAsync(at, what, sizeof from, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  };
  copy(&to, &from);
  CHECK(to == 1);
  pinned[1] = 2;
  copy(&to, pinned + 1);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  CHECK(to == 1);
  pinned[1] = 3;  // too early
  CHECK(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(to == 3);
  copy(&to, pinned + 1);
  pinned[1] = 4;
  copy(&other, &from);
  CHECK(to == 4);
  CHECK(cudaFreeHost(memory) == cudaSuccess);
  CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

}  // namespace

int main() {
  a_missing_barrier_is_found();
  a_missing_wait_for_other_blocks_is_found();
  blocks_that_wait_for_ever_are_found();
  more_blocks_than_fit_at_once_are_refused();
  blocks_that_run_at_once_share_no_array();
  teams_of_a_block_have_barriers_of_their_own();
  asynchronous_copies_are_made_late_or_at_once();
  memory_that_nobody_wrote_is_nan();
  blocks_run_in_any_order();
  threads_that_do_not_come_are_found();
  shuffles_move_between_lanes();
  mma_multiplies_fragments();
  mma_multiplies_fragments_of_tf32();
  tf32_is_rounded_to_nearest_and_ties_away_from_zero();
  wgmma_multiplies_and_finds_what_was_planted();
  more_shared_memory_than_allowed_is_refused();
  a_graph_replays_what_was_captured();
  copies_from_pinned_memory_are_late();
}
