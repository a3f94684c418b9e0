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
};

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = shape.overlaps ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error != cudaSuccess ? error : cudaGetLastError();
}

}  // namespace iql::cuda
