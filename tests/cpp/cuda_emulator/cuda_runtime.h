// The part of CUDA that csrc/cuda/ uses, on a CPU: with this folder first among the include folders
// a .cu file compiles as plain C++ and its kernels run in the calling thread.
//
// Each CUDA thread is a fiber that runs until it waits for others: at __syncthreads, a shuffle or
// an mma. Which fiber goes on then, and in which order blocks run, is drawn from a seeded
// generator, or such that one warp lags behind all others, so that what one thread does before a
// barrier and another after it can come in either order. Memory starts as NaN: every byte of device
// and of dynamic shared memory is 0xFF (a __shared__ array keeps what the block before left).
// Blocks run one after another, those of a cooperative launch all at once, their threads in one
// order; a launch is over when cudaLaunchKernelEx returns, as if each stream were in order and
// alone; a copy from pinned memory is made as late as can be, when something comes after it in its
// stream or is waited for.
//
// What it finds: a missing barrier, a read of memory that nobody wrote, a barrier that not all
// threads reach, blocks that wait for each other for ever, a warp function that not all lanes call,
// an asynchronous copy nobody waited for, pinned memory that is written again before it was copied,
// too much shared memory, a cooperative launch of more blocks than fit at once, a call that may not
// be captured into a graph. What it cannot find: a race within code that has no barrier at all
// between write and read on any schedule, what one multiprocessor's cache still has of memory that
// another one wrote, and anything about speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
// In a section of their own, which cooperative blocks have one of each.
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulator {

// A fault of a kernel or of a call: thrown by the launch, never by the kernel itself.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order of threads and blocks from here on; 0 is the plain one.
void set_schedule(unsigned seed);
// Launches since the program began.
std::int64_t launches();
// Plants a bug: in launch number `launch` from here on, the `barrier`-th __syncthreads that a
// thread reaches is left out (both counted from 0). Negative: none is.
void leave_out_barrier(int launch, int barrier);
// The same of the barriers that some of a block's threads have, and of a block's waits for others.
void leave_out_team_barrier(int launch, int barrier);
void leave_out_grid_barrier(int launch, int barrier);
// How many were left out since, one a thread.
std::int64_t barriers_left_out();
// Bytes that cudaMalloc gives from here on, all together.
void set_memory(std::size_t bytes);
// The most of shared memory that a block can have; at first that of sm_80.
void set_shared_memory(std::size_t bytes);
// How many multiprocessors the device has; at first those of an A100.
void set_multiprocessors(int count);

// The most threads that a block of any kernel can have; at first what CUDA allows.
void set_most_threads(int threads);

// Of the thread that runs.
unsigned lane();
unsigned char* shared_memory();

void wait_for_block();
// bar.sync: barrier `number` of the block, for so many of its threads.
void wait_for_threads(unsigned number, unsigned threads);

// Blocks wait for each other by a counter in device memory that they add to.
void arrive(unsigned* counter);
void wait_for_arrivals(const unsigned* counter, unsigned wanted);

// Ends the launch with a fault.
void stop(const char* why);

// Every lane of the warp gives `size` bytes; when all have, `combine` runs once over the lanes'
// bytes, kLaneBytes apart, and every lane gets its own back.
constexpr std::size_t kLaneBytes = 64;
void with_warp(const char* operation, unsigned mask, void* bytes, std::size_t size,
               void (*combine)(unsigned char* lanes));

template <class T>
T shuffle(const char* operation, unsigned mask, T value, unsigned source) {
  struct Lane {
    T value;
    unsigned source;
  } lane{value, source};
  with_warp(operation, mask, &lane, sizeof lane, [](unsigned char* lanes) {
    T values[32];
    const auto at = [lanes](int i) { return reinterpret_cast<Lane*>(lanes + i * kLaneBytes); };
    for (int i = 0; i < 32; ++i) values[i] = at(i)->value;
    for (unsigned i = 0; i < 32; ++i) {
      // As CUDA does, a lane keeps its own value where the source is outside of the warp.
      at(i)->value = values[at(i)->source < 32 ? at(i)->source : i];
    }
  });
  return lane.value;
}

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};
// cp.async of the thread that runs, its commit_group, and wait_group. A copy is made as late as can
// be, when the thread waits for it, and on every third schedule as early as can be, at once.
void copy_later(void* to, const void* from, std::size_t bytes);
void end_of_copies();
void wait_for_copies(int groups_left);

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, fragments as PTX lays them out.
void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
// cvt.rna.tf32.f32, and mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32. What the latter makes
// of the 13 bits that a tf32 has not PTX leaves open: operands that have any are a fault.
std::uint32_t round_tf32(float value);
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

// Of sm_90a: fence.proxy.async, wgmma.fence, commit_group, wait_group, and
// wgmma.mma_async.m64n128k16 in bf16 with A in registers, B as its descriptor says, and added to d.
// A product is made as late as can be, when its warpgroup waits for it: what then lies in the
// registers of A and d counts, and of B what fences had shown by then. Until then d is NaN.
std::uint32_t shared_address(const void* at);
void fence_proxy_async();
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups_left);
void wgmma_m64n128k16_bf16(float* d, const std::uint32_t (&a)[4], std::uint64_t b);

// What a stream does now, or what a graph keeps for later.
struct Launch {
  const void* kernel;
  dim3 grid, block;
  std::size_t shared;
  bool cooperative;
  std::function<void()> body;
};
// How many blocks of a kernel a multiprocessor holds at once.
int blocks_at_once(int threads, std::size_t shared);
void submit(void* stream, const Launch& launch);
bool fits_at_once(const Launch& launch);
// Runs it now.
void run_kernel(const Launch& launch);

}  // namespace emulator

// Set each time that a thread goes on.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp(unsigned mask = ~0u) {
  emulator::with_warp("__syncwarp", mask, nullptr, 0, nullptr);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  return emulator::shuffle("__shfl_down_sync", mask, value, emulator::lane() + delta);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned lanes) {
  return emulator::shuffle("__shfl_xor_sync", mask, value, emulator::lane() ^ lanes);
}
inline std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The runtime's own names, as far as they are used.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorNotReady = 600,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrCooperativeLaunch = 95,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2,
                   cudaHostAllocMapped = 2;
struct cudaFuncAttributes {
  int maxThreadsPerBlock, maxDynamicSharedSizeBytes;
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

// Launches that may overlap are over before the next one all the same.
enum cudaLaunchAttributeID {
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  emulator::Launch launch{reinterpret_cast<const void*>(kernel),
                          config->gridDim,
                          config->blockDim,
                          config->dynamicSmemBytes,
                          false,
                          [=] { kernel(static_cast<std::decay_t<Parameters>>(arguments)...); }};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative && attribute.val.cooperative != 0) {
      launch.cooperative = true;
    }
  }
  if (launch.cooperative && !emulator::fits_at_once(launch)) {
    return cudaErrorCooperativeLaunchTooLarge;
  }
  emulator::submit(config->stream, launch);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads,
                                                          std::size_t shared) {
  *blocks = emulator::blocks_at_once(threads, shared);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}

const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags);
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
// Nothing here takes any time.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
