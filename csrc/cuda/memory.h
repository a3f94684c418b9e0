// CUDA's resources as C++ objects, and its error codes as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace iql::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that can be survived stays otherwise, and the next call reports
                       // it
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}
inline void check(int error, const char* what) { check(static_cast<cudaError_t>(error), what); }

// Makes a device the current one, and the previous one again at its end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

// A handle of the runtime with the function that gives it back.
template <class Handle, cudaError_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Handle handle_ = nullptr;
};

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using DeviceMemory = Owned<void*, cudaFree>;
using HostMemory = Owned<void*, cudaFreeHost>;  // pinned

template <class T>
T* as(const DeviceMemory& memory) {
  return static_cast<T*>(memory.get());
}
template <class T>
T* as(const HostMemory& memory) {
  return static_cast<T*>(memory.get());
}

// At least one byte, so that there is an address.
inline DeviceMemory allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes + (bytes == 0)), "cudaMalloc");
  return DeviceMemory(memory);
}
inline HostMemory allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes + (bytes == 0), cudaHostAllocMapped), "cudaHostAlloc");
  return HostMemory(memory);
}

}  // namespace iql::cuda
