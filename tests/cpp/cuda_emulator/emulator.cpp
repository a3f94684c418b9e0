#include <algorithm>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace emulator {
struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};
}  // namespace emulator

struct CUgraph_st {
  std::vector<std::function<void()>> launches;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> launches;
};
struct CUstream_st {
  std::unique_ptr<CUgraph_st> captured;  // while a capture goes on
  std::vector<emulator::Copy> late;      // from pinned memory, not made yet
};
struct CUevent_st {
  cudaStream_t stream = nullptr;  // that it was recorded in last
};

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where the linker put the __shared__ arrays of all kernels; null where there are none.
extern "C" {
extern unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {
namespace {

constexpr std::size_t kSharedWithoutAsking = 48 << 10;
constexpr std::size_t kSharedForCuda = 1 << 10;  // of each block, besides its own
constexpr int kThreadsAtOnce = 2048;             // of a multiprocessor
constexpr unsigned kBarriers = 16;               // of a block
std::size_t shared_at_most = 163 << 10;
int multiprocessors = 108;

// A rendezvous of the lanes of a warp. Lanes may begin the next one before all have taken their
// result from this one, but not the one after that: two sets of bytes are enough.
struct Warp {
  alignas(16) unsigned char bytes[2][32 * kLaneBytes];
  unsigned arrived = 0;  // mask
  const char* operation = nullptr;
  unsigned mask = 0;
  int turn = 0;
  std::vector<int> waiting;
};

struct Block {
  dim3 index;
  int first = 0;                                      // of its fibers
  std::vector<std::deque<std::vector<Copy>>> copies;  // of each thread: groups, the last one open
  std::vector<int> barriers;                          // that each thread has reached
  std::vector<int> team_barriers;
  int grid_barriers = 0;      // that the block has
  std::vector<dim3> threads;  // their threadIdx
  std::vector<Warp> warps;
  std::vector<int> waiting[kBarriers];  // at each barrier
  std::unique_ptr<unsigned char[]> shared;
  std::vector<unsigned char> arrays;  // of __shared__, while another block runs
};

// A thread that waits for other blocks.
struct Awaiting {
  int fiber;
  const unsigned* counter;
  unsigned wanted;
};

Block* block = nullptr;  // the one that runs
int current = 0;         // its thread that runs
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<int> runnable;  // fibers
std::vector<Awaiting> awaiting;
std::string fault;
unsigned schedule = 0;
std::mt19937 generator;
std::int64_t launch_count = 0;
std::size_t memory_left = ~std::size_t{0};
std::int64_t buggy_launch = -1, left_out = 0;
int buggy_barrier = -1, buggy_team_barrier = -1, buggy_grid_barrier = -1;
std::map<const void*, std::size_t> shared_allowed;
std::map<const unsigned char*, std::size_t> pinned;  // host memory, and how much

bool is_pinned(const void* memory) {
  const auto* at = static_cast<const unsigned char*>(memory);
  const auto after = pinned.upper_bound(at);
  return after != pinned.begin() && at < std::prev(after)->first + std::prev(after)->second;
}

// Makes the copies that a stream still owes.
void catch_up(cudaStream_t stream) {
  if (stream == nullptr) return;
  for (const Copy& copy : stream->late) std::memcpy(copy.to, copy.from, copy.bytes);
  stream->late.clear();
}

void make_runnable(std::vector<int>& waiting) {
  for (const int thread : waiting) runnable.push_back(block->first + thread);
  waiting.clear();
}

void suspend() { fibers[block->first + current]->suspend(); }

// Every other schedule has a warp that goes on only when no other thread can.
bool slow_warp(int fiber, int warps) {
  return schedule % 2 == 0 && fiber / 32 == static_cast<int>(schedule / 2 % warps);
}

// Makes a block the one that runs.
void enter(Block& next) {
  if (block == &next) return;
  const auto begin = __start_emulated_shared, end = __stop_emulated_shared;
  if (block != nullptr) block->arrays.assign(begin, end);
  if (!next.arrays.empty()) std::copy(next.arrays.begin(), next.arrays.end(), begin);
  block = &next;
  blockIdx = next.index;
}

// What holds up blocks none of whose threads can go on.
std::string stuck(const std::vector<Block>& together, int count, int ended) {
  std::size_t at_barriers = 0;
  for (const Block& one : together) {
    for (const std::vector<int>& waiting : one.waiting) at_barriers += waiting.size();
  }
  const dim3 index = together[0].index;
  const std::string who = together.size() > 1
                              ? std::to_string(together.size()) + " blocks"
                              : "block (" + std::to_string(index.x) + ", " +
                                    std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
  return who + ": " + std::to_string(at_barriers) + " of " + std::to_string(count) +
         " threads wait at __syncthreads, " + std::to_string(awaiting.size()) +
         " for other blocks, " + std::to_string(ended) +
         " have ended, the others wait for lanes of their warp";
}

// Runs blocks whose threads are all alive at once.
void run_together(std::vector<Block>& together, const std::function<void()>& body) {
  const int size = static_cast<int>(together[0].threads.size());
  const int count = static_cast<int>(together.size()) * size;
  while (static_cast<int>(fibers.size()) < count) fibers.push_back(std::make_unique<Fiber>());
  for (int i = 0; i < count; ++i) {
    fibers[i]->start(&body);
    runnable.push_back(i);
  }
  int ended = 0;
  std::size_t next = 0;
  while (ended < count && fault.empty()) {
    if (next >= runnable.size()) {
      runnable.clear();
      next = 0;
    }
    if (runnable.empty()) {
      fault = stuck(together, count, ended);
      break;
    }
    int fiber = 0;
    if (schedule == 0) {
      fiber = runnable[next++];
    } else {
      std::size_t drawn = generator() % runnable.size();
      const int warps = (count + 31) / 32;
      for (std::size_t tries = 0; slow_warp(runnable[drawn], warps) && tries < runnable.size();
           ++tries) {
        drawn = (drawn + 1) % runnable.size();
      }
      fiber = runnable[drawn];
      runnable[drawn] = runnable.back();
      runnable.pop_back();
    }
    enter(together[fiber / size]);
    current = fiber % size;
    threadIdx = block->threads[current];
    fibers[fiber]->resume();
    if (fibers[fiber]->ended()) ++ended;
  }
  runnable.clear();
  awaiting.clear();
  block = nullptr;
  if (!fault.empty()) {
    fibers.clear();  // some stopped half-way
    const std::string what = std::exchange(fault, "");
    throw Fault(what);
  }
}

Block new_block(dim3 index, int first, dim3 size, std::size_t shared, bool alone) {
  Block block;
  block.index = index;
  block.first = first;
  const unsigned count = size.x * size.y * size.z;
  for (unsigned i = 0; i < count; ++i) {
    block.threads.emplace_back(i % size.x, i / size.x % size.y, i / (size.x * size.y));
  }
  block.barriers.resize(count);
  block.team_barriers.resize(count);
  block.copies.assign(count, {{}});
  block.warps.resize((count + 31) / 32);
  // Exactly as much as was asked for, so that the address sanitizer sees what goes beyond.
  block.shared.reset(new unsigned char[shared]);
  std::memset(block.shared.get(), 0xFF, shared);
  if (!alone) block.arrays.assign(__stop_emulated_shared - __start_emulated_shared, 0xFF);
  return block;
}

void run_kernel(const Launch& launch) {
  ++launch_count;
  const dim3 grid = launch.grid;
  std::vector<dim3> order;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) order.emplace_back(x, y, z);
    }
  }
  if (schedule != 0) std::shuffle(order.begin(), order.end(), generator);
  blockDim = launch.block;
  gridDim = grid;
  std::vector<Block> together;
  for (const dim3& index : order) {
    const int first =
        static_cast<int>(together.size() * launch.block.x * launch.block.y * launch.block.z);
    together.push_back(new_block(index, first, launch.block, launch.shared, !launch.cooperative));
    if (launch.cooperative) continue;
    run_together(together, launch.body);
    together.clear();
  }
  if (launch.cooperative) run_together(together, launch.body);
}

bool capturing(cudaStream_t stream) { return stream != nullptr && stream->captured != nullptr; }

}  // namespace

void set_schedule(unsigned seed) {
  schedule = seed;
  generator.seed(seed);
}

std::int64_t launches() { return launch_count; }
void set_memory(std::size_t bytes) { memory_left = bytes; }
void set_shared_memory(std::size_t bytes) { shared_at_most = bytes; }
void set_multiprocessors(int count) { multiprocessors = count; }
unsigned lane() { return current % 32; }
unsigned char* shared_memory() { return block->shared.get(); }

void leave_out_barrier(int launch, int barrier) {
  buggy_launch = launch < 0 ? -1 : launch_count + launch;
  buggy_barrier = barrier;
  buggy_team_barrier = buggy_grid_barrier = -1;
  left_out = 0;
}
void leave_out_team_barrier(int launch, int barrier) {
  leave_out_barrier(launch, -1);
  buggy_team_barrier = barrier;
}
void leave_out_grid_barrier(int launch, int barrier) {
  leave_out_barrier(launch, -1);
  buggy_grid_barrier = barrier;
}
std::int64_t barriers_left_out() { return left_out; }

void wait_for_block() { wait_for_threads(0, static_cast<unsigned>(block->threads.size())); }

void wait_for_threads(unsigned number, unsigned threads) {
  if (number >= kBarriers || (threads % 32 != 0 && threads != block->threads.size())) {
    fault = "a barrier that no block has";
    suspend();  // for good: the scheduler throws
  }
  const bool buggy = launch_count - 1 == buggy_launch;
  const bool whole = number == 0;
  int& reached = (whole ? block->barriers : block->team_barriers)[current];
  if (reached++ == (whole ? buggy_barrier : buggy_team_barrier) && buggy) {
    ++left_out;
    return;
  }
  std::vector<int>& waiting = block->waiting[number];
  waiting.push_back(current);
  if (waiting.size() == threads) make_runnable(waiting);
  suspend();
}

void arrive(unsigned* counter) {
  ++*counter;
  for (std::size_t i = 0; i < awaiting.size();) {
    if (awaiting[i].counter != counter || *counter < awaiting[i].wanted) {
      ++i;
      continue;
    }
    runnable.push_back(awaiting[i].fiber);
    awaiting.erase(awaiting.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void wait_for_arrivals(const unsigned* counter, unsigned wanted) {
  const bool buggy = launch_count - 1 == buggy_launch;
  if (block->grid_barriers++ == buggy_grid_barrier && buggy) {
    ++left_out;
    return;
  }
  if (*counter >= wanted) {
    runnable.push_back(block->first + current);
  } else {
    awaiting.push_back({block->first + current, counter, wanted});
  }
  suspend();
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  if (schedule % 3 == 2) {
    std::memcpy(to, from, bytes);
    return;
  }
  block->copies[current].back().push_back({to, from, bytes});
}
void end_of_copies() { block->copies[current].emplace_back(); }
void wait_for_copies(int groups_left) {
  std::deque<std::vector<Copy>>& groups = block->copies[current];
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.pop_front();
  }
}

void with_warp(const char* operation, unsigned mask, void* bytes, std::size_t size,
               void (*combine)(unsigned char* lanes)) {
  Warp& warp = block->warps[current / 32];
  const unsigned lane = current % 32;
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.mask = mask;
  }
  if (std::strcmp(warp.operation, operation) != 0 || warp.mask != mask || !(mask >> lane & 1)) {
    fault = std::string("lanes of one warp are at ") + warp.operation + " and at " + operation;
    suspend();  // for good: the scheduler throws
  }
  unsigned char* lanes = warp.bytes[warp.turn];
  if (size > 0) std::memcpy(lanes + lane * kLaneBytes, bytes, size);
  warp.arrived |= 1u << lane;
  warp.waiting.push_back(current);
  if (warp.arrived == mask) {
    if (combine != nullptr) combine(lanes);
    warp.arrived = 0;
    warp.turn ^= 1;
    make_runnable(warp.waiting);
  }
  suspend();
  if (size > 0) std::memcpy(bytes, lanes + lane * kLaneBytes, size);
}

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  struct Lane {
    float d[4];
    std::uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.d, d, sizeof d);
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
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
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = at(lane)->d[i];
        for (int k = 0; k < 16; ++k) sum += A[row][k] * B[k][column];
        at(lane)->d[i] = sum;
      }
    }
  });
  std::memcpy(d, mine.d, sizeof d);
}

int blocks_at_once(int threads, std::size_t shared) {
  const auto by_memory = (shared_at_most + kSharedForCuda) / (shared + kSharedForCuda);
  return std::min(kThreadsAtOnce / threads, static_cast<int>(by_memory));
}

bool fits_at_once(const Launch& launch) {
  const auto count = [](dim3 of) { return std::int64_t(of.x) * of.y * of.z; };
  const int each = blocks_at_once(static_cast<int>(count(launch.block)), launch.shared);
  return count(launch.grid) <= std::int64_t(each) * multiprocessors;
}

void submit(void* stream_, const Launch& launch) {
  const unsigned count = launch.block.x * launch.block.y * launch.block.z;
  const dim3 grid = launch.grid;
  const auto allowed = shared_allowed.find(launch.kernel);
  if (count < 1 || count > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 ||
      grid.z > 65535) {
    throw Fault("a grid or block that no device takes");
  }
  if (launch.shared > (allowed == shared_allowed.end() ? kSharedWithoutAsking : allowed->second)) {
    throw Fault(std::to_string(launch.shared) +
                " bytes of shared memory, more than the kernel may have");
  }
  const auto stream = static_cast<cudaStream_t>(stream_);
  if (capturing(stream)) {
    stream->captured->launches.push_back([=] { run_kernel(launch); });
  } else {
    catch_up(stream);
    run_kernel(launch);
  }
}

}  // namespace emulator

using emulator::capturing;
using emulator::catch_up;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const auto bytes = static_cast<std::size_t>(value);
  if (bytes > emulator::shared_at_most) return cudaErrorInvalidValue;
  emulator::shared_allowed[kernel] = std::max(bytes, emulator::kSharedWithoutAsking);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
  }
  return "unknown error";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(emulator::shared_at_most);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = emulator::multiprocessors;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (bytes > emulator::memory_left) return cudaErrorMemoryAllocation;
  emulator::memory_left -= bytes;
  // Exactly as much as was asked for, as above.
  if (posix_memalign(memory, 256, bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*memory, 0xFF, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  auto* const at = new unsigned char[bytes];
  emulator::pinned[at] = bytes;
  *memory = at;
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  emulator::pinned.erase(static_cast<unsigned char*>(memory));
  delete[] static_cast<unsigned char*>(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  if (stream != nullptr && kind == cudaMemcpyHostToDevice && emulator::is_pinned(from)) {
    stream->late.push_back({to, from, bytes});
    return cudaSuccess;
  }
  catch_up(stream);
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  if (capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  catch_up(stream);
  if (bytes > 0) std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  catch_up(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  stream->captured = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!capturing(stream)) return cudaErrorInvalidValue;
  *graph = stream->captured.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{graph->launches};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  catch_up(stream);
  for (const auto& launch : executable->launches) launch();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (capturing(stream)) return cudaErrorStreamCaptureUnsupported;
  event->stream = stream;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  catch_up(event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}
