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
};

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error != cudaSuccess ? error : cudaGetLastError();
}

}  // namespace iql::cuda
