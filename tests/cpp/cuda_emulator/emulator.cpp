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

namespace emulator {
namespace {

constexpr std::size_t kSharedWithoutAsking = 48 << 10;
std::size_t shared_at_most = 163 << 10;

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
  std::vector<std::deque<std::vector<Copy>>> copies;  // of each thread: groups, the last one open
  std::vector<int> barriers;                          // that each thread has reached
  std::vector<dim3> threads;                          // their threadIdx
  std::vector<Warp> warps;
  std::vector<int> waiting;  // at the barrier
  std::unique_ptr<unsigned char[]> shared;
  std::vector<int> runnable;
};

Block* block = nullptr;  // the one that runs
int current = 0;         // its thread that runs
std::vector<std::unique_ptr<Fiber>> fibers;
std::string fault;
unsigned schedule = 0;
std::mt19937 generator;
std::int64_t launch_count = 0;
std::size_t memory_left = ~std::size_t{0};
std::int64_t buggy_launch = -1, left_out = 0;
int buggy_barrier = -1;
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
  block->runnable.insert(block->runnable.end(), waiting.begin(), waiting.end());
  waiting.clear();
}

void suspend() { fibers[current]->suspend(); }

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

// Every other schedule has a warp that goes on only when no other thread can.
bool slow_warp(int thread) {
  return schedule % 2 == 0 && thread / 32 == static_cast<int>(schedule / 2 % block->warps.size());
}

void run_block(const std::function<void()>& body) {
  const int count = static_cast<int>(block->threads.size());
  while (static_cast<int>(fibers.size()) < count) fibers.push_back(std::make_unique<Fiber>());
  for (int i = 0; i < count; ++i) {
    fibers[i]->start(&body);
    block->runnable.push_back(i);
  }
  int ended = 0;
  std::size_t next = 0;
  while (ended < count && fault.empty()) {
    std::vector<int>& runnable = block->runnable;
    if (next >= runnable.size()) {
      runnable.clear();
      next = 0;
    }
    if (runnable.empty()) {
      fault = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
              std::to_string(blockIdx.z) + "): " + std::to_string(block->waiting.size()) + " of " +
              std::to_string(count) + " threads wait at __syncthreads, " + std::to_string(ended) +
              " have ended, the others wait for lanes of their warp";
      break;
    }
    if (schedule == 0) {
      current = runnable[next++];
    } else {
      std::size_t drawn = generator() % runnable.size();
      for (std::size_t tries = 0; slow_warp(runnable[drawn]) && tries < runnable.size(); ++tries) {
        drawn = (drawn + 1) % runnable.size();
      }
      current = runnable[drawn];
      runnable[drawn] = runnable.back();
      runnable.pop_back();
    }
    threadIdx = block->threads[current];
    fibers[current]->resume();
    if (fibers[current]->ended()) ++ended;
  }
}

void run_kernel(dim3 grid, dim3 size, std::size_t shared, const std::function<void()>& body) {
  ++launch_count;
  std::vector<dim3> order;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) order.emplace_back(x, y, z);
    }
  }
  if (schedule != 0) std::shuffle(order.begin(), order.end(), generator);
  for (const dim3& index : order) {
    Block now;
    blockIdx = index;
    blockDim = size;
    gridDim = grid;
    const unsigned count = size.x * size.y * size.z;
    for (unsigned i = 0; i < count; ++i) {
      now.threads.emplace_back(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    }
    now.barriers.resize(count);
    now.copies.assign(count, {{}});
    now.warps.resize((count + 31) / 32);
    // Exactly as much as was asked for, so that the address sanitizer sees what goes beyond.
    now.shared.reset(new unsigned char[shared]);
    std::memset(now.shared.get(), 0xFF, shared);
    block = &now;
    run_block(body);
    block = nullptr;
    if (!fault.empty()) {
      fibers.clear();  // some stopped half-way
      const std::string what = std::exchange(fault, "");
      throw Fault(what);
    }
  }
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
unsigned lane() { return current % 32; }
unsigned char* shared_memory() { return block->shared.get(); }

void leave_out_barrier(int launch, int barrier) {
  buggy_launch = launch < 0 ? -1 : launch_count + launch;
  buggy_barrier = barrier;
  left_out = 0;
}
std::int64_t barriers_left_out() { return left_out; }

void wait_for_block() {
  const bool buggy = launch_count - 1 == buggy_launch;
  if (block->barriers[current]++ == buggy_barrier && buggy) {
    ++left_out;
    return;
  }
  block->waiting.push_back(current);
  if (block->waiting.size() == block->threads.size()) make_runnable(block->waiting);
  suspend();
}

void copy_later(void* to, const void* from, std::size_t bytes) {
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
  struct Lane {
    float d[4];
    std::uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.d, d, sizeof d);
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  const auto rounded = [](std::uint32_t bits) {
    return (bits & kBeyondTf32) == 0 || std::isnan(__uint_as_float(bits));
  };
  if (!std::all_of(a, a + 4, rounded) || !std::all_of(b, b + 2, rounded)) {
    fault = "an operand of mma.sync in tf32 that was not rounded";
    suspend();  // for good: the scheduler throws
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

void submit(void* stream_, const void* kernel, dim3 grid, dim3 size, std::size_t shared,
            std::function<void()> body) {
  const unsigned count = size.x * size.y * size.z;
  const auto allowed = shared_allowed.find(kernel);
  if (count < 1 || count > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 ||
      grid.z > 65535) {
    throw Fault("a grid or block that no device takes");
  }
  if (shared > (allowed == shared_allowed.end() ? kSharedWithoutAsking : allowed->second)) {
    throw Fault(std::to_string(shared) + " bytes of shared memory, more than the kernel may have");
  }
  std::function<void()> launch = [=] { run_kernel(grid, size, shared, body); };
  const auto stream = static_cast<cudaStream_t>(stream_);
  if (capturing(stream)) {
    stream->captured->launches.push_back(std::move(launch));
  } else {
    catch_up(stream);
    launch();
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
      *value = 108;
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
