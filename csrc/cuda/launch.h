// One way to launch a kernel. It goes through the runtime's function rather than through nvcc's
// <<<>>>, so that the tests' emulator compiles the same source as plain C++.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace iql::cuda {

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;  // dynamic
  cudaStream_t stream;
  // The kernel calls wait_for_previous_launch(), and the device has what that needs.
  bool overlaps = false;
  // Its blocks wait for each other, so all are to be there at once, or the launch fails.
  bool cooperative = false;
};

// Allows a kernel's blocks so much dynamic shared memory. More stays allowed where it was: the
// setting is the kernel's, and another engine may need it.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, std::size_t bytes) {
  cudaFuncAttributes now{};
  const cudaError_t error = cudaFuncGetAttributes(&now, kernel);
  if (error != cudaSuccess || now.maxDynamicSharedSizeBytes >= static_cast<int>(bytes)) {
    return error;
  }
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (shape.overlaps) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cooperative) {
    cudaLaunchAttribute& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error != cudaSuccess ? error : cudaGetLastError();
}

}  // namespace iql::cuda
