// The emulator itself: it computes what CUDA would, and finds bugs that were planted.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "emulated_launch.h"

namespace {

using namespace emulated;

constexpr int kThreads = 96;
constexpr unsigned kSchedules = 8;

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
  more_shared_memory_than_allowed_is_refused();
  a_graph_replays_what_was_captured();
  copies_from_pinned_memory_are_late();
}
