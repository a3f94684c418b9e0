// Launches under the emulator, and the faults that they end with.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "check.h"

namespace emulated {

template <class Kernel, class... Arguments>
cudaError_t error_of(bool cooperative, Kernel* kernel, dim3 grid, dim3 block, std::size_t shared,
                     Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}
template <class Kernel, class... Arguments>
void launch(Kernel* kernel, dim3 grid, dim3 block, std::size_t shared, Arguments... arguments) {
  CHECK(error_of(false, kernel, grid, block, shared, arguments...) == cudaSuccess);
}
template <class Kernel, class... Arguments>
void launch_together(Kernel* kernel, dim3 grid, dim3 block, std::size_t shared,
                     Arguments... arguments) {
  CHECK(error_of(true, kernel, grid, block, shared, arguments...) == cudaSuccess);
}

template <class Body>
std::string fault_of(const Body& body) {
  try {
    body();
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace emulated
