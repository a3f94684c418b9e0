// The device as the runtime's own functions know it: its sizes, memory, streams and graphs.
#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

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

namespace emulator {
namespace {

constexpr std::size_t kSharedWithoutAsking = 48 << 10;
constexpr std::size_t kSharedForCuda = 1 << 10;  // of each block, besides its own
constexpr int kThreadsAtOnce = 2048;             // of a multiprocessor
std::size_t shared_at_most = 163 << 10;
int multiprocessors = 108;
int threads_at_most = 1024;
std::size_t memory_left = ~std::size_t{0};
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

bool capturing(cudaStream_t stream) { return stream != nullptr && stream->captured != nullptr; }

}  // namespace

void set_memory(std::size_t bytes) { memory_left = bytes; }
void set_shared_memory(std::size_t bytes) { shared_at_most = bytes; }
void set_multiprocessors(int count) { multiprocessors = count; }
void set_most_threads(int threads) { threads_at_most = threads; }

int blocks_at_once(int threads, std::size_t shared) {
  const auto by_memory = (shared_at_most + kSharedForCuda) / (shared + kSharedForCuda);
  return std::min(kThreadsAtOnce / threads, static_cast<int>(by_memory));
}

bool fits_at_once(const Launch& launch) {
  const auto count = [](dim3 of) { return std::int64_t(of.x) * of.y * of.z; };
  const int each = blocks_at_once(static_cast<int>(count(launch.block)), launch.shared);
  return count(launch.grid) <= std::int64_t(each) * multiprocessors;
}

// Dynamic, of a kernel's block.
std::size_t shared_allowed_to(const void* kernel) {
  const auto asked = shared_allowed.find(kernel);
  return asked == shared_allowed.end() ? kSharedWithoutAsking : asked->second;
}

void submit(void* stream_, const Launch& launch) {
  const unsigned count = launch.block.x * launch.block.y * launch.block.z;
  const dim3 grid = launch.grid;
  if (count < 1 || count > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 ||
      grid.z > 65535) {
    throw Fault("a grid or block that no device takes");
  }
  if (launch.shared > shared_allowed_to(launch.kernel)) {
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

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  attributes->maxThreadsPerBlock = emulator::threads_at_most;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(emulator::shared_allowed_to(kernel));
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
