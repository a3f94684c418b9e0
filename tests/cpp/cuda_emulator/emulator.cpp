#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <limits>
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
int threads_at_most = 1024;

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

constexpr int kWarpgroup = 128;  // threads

// A product of a warpgroup that was issued, as one of its threads knows it.
struct Wgmma {
  float* d;
  std::array<float, 64> before;
  const std::uint32_t* a;
  std::uint64_t b;
};

struct Block {
  std::vector<std::deque<std::vector<Copy>>> copies;  // of each thread: groups, the last one open
  std::vector<int> barriers;                          // that each thread has reached
  std::vector<dim3> threads;                          // their threadIdx
  std::vector<Warp> warps;
  std::vector<int> waiting;  // at the barrier
  std::unique_ptr<unsigned char[]> shared;
  std::unique_ptr<unsigned char[]> shown;  // of shared memory, to what reads it asynchronously
  std::size_t shared_bytes = 0;
  std::vector<std::deque<std::vector<Wgmma>>> wgmmas;   // of each thread: groups, the last one open
  std::vector<bool> fenced;                             // each thread's registers
  std::vector<std::size_t> issued;                      // products of each thread
  std::vector<std::vector<std::uint64_t>> descriptors;  // of each warpgroup's products
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
    now.wgmmas.assign(count, {{}});
    now.fenced.resize(count);
    now.issued.resize(count);
    now.descriptors.resize((count + kWarpgroup - 1) / kWarpgroup);
    now.shared_bytes = shared;
    now.shown.reset(new unsigned char[shared]);
    std::memset(now.shown.get(), 0xFF, shared);
    // Exactly as much as was asked for, so that the address sanitizer sees what goes beyond.
    now.shared.reset(new unsigned char[shared]);
    std::memset(now.shared.get(), 0xFF, shared);
    block = &now;
    run_block(body);
    for (unsigned i = 0; i < count && fault.empty(); ++i) {
      if (now.issued[i] != now.descriptors[i / kWarpgroup].size()) {
        fault = "a wgmma that not all threads of the warpgroup issued";
      }
      if (now.wgmmas[i].size() > 1 || !now.wgmmas[i].back().empty()) {
        fault = "a wgmma that nobody waited for";
      }
    }
    block = nullptr;
    if (!fault.empty()) {
      fibers.clear();  // some stopped half-way
      const std::string what = std::exchange(fault, "");
      throw Fault(what);
    }
  }
}

// For all lanes of a warp: their rows of A by B as the descriptor finds it, added to d.
void multiply_by_shared(const Wgmma& product) {
  struct Lane {
    float* d;
    const std::uint32_t* a;
    std::uint64_t b;
  } lane{product.d, product.a, product.b};
  with_warp("wgmma.wait_group", ~0u, &lane, sizeof lane, [](unsigned char* lanes) {
    const auto at = [lanes](int i) { return reinterpret_cast<Lane*>(lanes + i * kLaneBytes); };
    const auto bf16 = [](std::uint32_t pair, int upper) {
      return __uint_as_float(upper ? pair & 0xFFFF0000u : pair << 16);
    };
    float A[16][16], B[16][128];
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        for (int h = 0; h < 2; ++h) {
          A[l / 4 + i % 2 * 8][l % 4 * 2 + i / 2 * 8 + h] = bf16(at(l)->a[i], h);
        }
      }
    }
    // Bits 0 to 13 of a descriptor: the address; 16 to 29 and 32 to 45: how far a core matrix is
    // from the next one along the inputs and along the columns; all in 16 bytes. 62 and 63: the
    // swizzle, of which none is known here.
    const std::uint64_t b = at(0)->b;
    const auto field = [b](int bit) { return (b >> bit & 0x3FFF) << 4; };
    for (std::size_t k = 0; k < 16; ++k) {
      for (std::size_t n = 0; n < 128; ++n) {
        const std::size_t from =
            field(0) + k / 8 * field(16) + n / 8 * field(32) + n % 8 * 16 + k % 8 * 2;
        std::uint16_t half = 0xFFFF;  // beyond what there is: NaN
        if (b >> 62 == 0 && from + 2 <= block->shared_bytes) {
          std::memcpy(&half, block->shown.get() + from, 2);
        }
        B[k][n] = bf16(half, 0);
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 64; ++i) {
        const int row = l / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + l % 4 * 2 + i % 2;
        float& sum = at(l)->d[i];
        for (int k = 0; k < 16; ++k) sum += A[row][k] * B[k][column];
      }
    }
  });
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
void set_most_threads(int threads) { threads_at_most = threads; }
int most_threads() { return threads_at_most; }
unsigned lane() { return current % 32; }
unsigned char* shared_memory() { return block->shared.get(); }

void leave_out_barrier(int launch, int barrier) {
  buggy_launch = launch < 0 ? -1 : launch_count + launch;
  buggy_barrier = barrier;
  left_out = 0;
}
std::int64_t barriers_left_out() { return left_out; }

void stop(const std::string& why) {
  fault = why;
  suspend();  // for good: the scheduler throws
}

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
    stop(std::string("lanes of one warp are at ") + warp.operation + " and at " + operation);
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

std::uint32_t shared_address(const void* at) {
  return static_cast<std::uint32_t>(static_cast<const unsigned char*>(at) - block->shared.get());
}
void fence_proxy_async() {
  std::memcpy(block->shown.get(), block->shared.get(), block->shared_bytes);
}
void wgmma_fence() { block->fenced[current] = true; }
void wgmma_commit() {
  block->wgmmas[current].emplace_back();
  block->fenced[current] = false;
}

void wgmma_m64n128k16_bf16(float* d, const std::uint32_t (&a)[4], std::uint64_t b) {
  if (!block->fenced[current]) {
    stop("a wgmma whose registers no wgmma.fence comes after");
  }
  Wgmma issued{d, {}, a, b};
  std::vector<Wgmma>& group = block->wgmmas[current].back();
  // One after another may add to the same sums.
  const bool first =
      std::none_of(group.begin(), group.end(), [d](const Wgmma& other) { return other.d == d; });
  if (first) {
    std::copy(d, d + 64, issued.before.begin());
    std::fill(d, d + 64, std::numeric_limits<float>::quiet_NaN());
  }
  group.push_back(issued);
  std::vector<std::uint64_t>& all = block->descriptors[current / kWarpgroup];
  const std::size_t number = block->issued[current]++;
  if (number == all.size()) all.push_back(b);
  if (all[number] != b) {
    stop("threads of a warpgroup gave a wgmma different descriptors");
  }
}

void wgmma_wait(int groups_left) {
  std::deque<std::vector<Wgmma>>& groups = block->wgmmas[current];
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    std::vector<Wgmma>& group = groups.front();
    for (std::size_t i = 0; i < group.size(); ++i) {
      Wgmma& product = group[i];
      if (i == 0) std::copy(product.before.begin(), product.before.end(), product.d);
      multiply_by_shared(product);
    }
    groups.pop_front();
  }
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
