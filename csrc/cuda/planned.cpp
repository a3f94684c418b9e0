#include "cuda/planned.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cuda/engine.h"
#include "cuda/memory.h"

namespace iql::cuda {
namespace {

constexpr int kLeastMajor = 8;      // compute capability: mma of bf16 and of tf32
constexpr int kLeastToOverlap = 9;  // launches

void check_sizes(const engine::Config& config) {
  if (config.hidden.size() > kMaxHidden) {
    throw std::invalid_argument("the CUDA engine takes at most " + std::to_string(kMaxHidden) +
                                " hidden layers");
  }
  for (const engine::Stage& stage : config.stages) {
    if (!stage.value || !stage.actor || !stage.critic) {
      throw std::invalid_argument("the CUDA engine trains all networks in every step");
    }
  }
  // Offsets within a network are 32-bit.
  std::int64_t widest = config.obs_dim + config.act_dim;
  for (const int width : config.hidden) widest = std::max<std::int64_t>(widest, width);
  const std::int64_t deepest = static_cast<std::int64_t>(config.hidden.size()) + 1;
  if (2 * deepest * (widest + kPad) * (widest + config.batch_size + kRowPad) >= 1LL << 31) {
    throw std::invalid_argument("the networks and the batch are too large for the CUDA engine");
  }
}

// No device has shown yet which products are the faster, so it has to be asked for.
bool wgmma_is_asked_for() {
  const char* asked = std::getenv("IQL_FAST_CUDA_WGMMA");
  return asked != nullptr && std::strcmp(asked, "1") == 0;
}

}  // namespace

Limits limits_of(int device, Precision precision) {
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  };
  const DeviceGuard guard(device);
  const bool wgmma = precision == Precision::kBf16x3 && wgmma_is_asked_for();
  if (wgmma && !has_wgmma()) {
    throw std::invalid_argument(
        "IQL_FAST_CUDA_WGMMA asks for instructions of compute capability 9.0 alone, and for a "
        "build with code for 9.0a");
  }
  return {attribute(cudaDevAttrMultiProcessorCount),
          std::size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          attribute(cudaDevAttrComputeCapabilityMajor) >= kLeastToOverlap,
          attribute(cudaDevAttrCooperativeLaunch) != 0, wgmma};
}

std::pair<Problem, StepPlan> planned(const engine::Config& config, Precision precision,
                                     const Limits& limits) {
  check_sizes(config);
  const Problem problem = plan(config);
  const StepPlan step = plan_step(problem, precision, limits);
  if (shared_bytes(problem, step) > limits.shared_of_block) {
    throw std::invalid_argument("the layers are too wide for the CUDA engine on this device");
  }
  return {problem, step};
}

ResidentPlan planned_resident(const Problem& problem, const StepPlan& step, const Limits& limits) {
  ResidentPlan resident = plan_resident(problem, step, limits);
  const std::string reason = resident_reason(resident, limits);
  if (!reason.empty()) throw std::invalid_argument(reason);
  return resident;
}

std::string unavailable_reason(int device) {
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    cudaGetLastError();
    return std::string("no CUDA device: ") + cudaGetErrorString(error);
  }
  if (device >= devices) return "no CUDA device " + std::to_string(device);
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (major < kLeastMajor) {
    return "the CUDA device has compute capability " + capability + ", and the kernels need 8.0";
  }
  const DeviceGuard guard(device);
  if (check_code() != cudaSuccess) {
    cudaGetLastError();
    return "the extension was built without code for compute capability " + capability +
           "; set TORCH_CUDA_ARCH_LIST and install again";
  }
  return "";
}

std::string size_reason(const engine::Config& config, Precision precision, int device) {
  try {
    planned(config, precision, limits_of(device, precision));
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

std::string resident_reason(const engine::Config& config, Precision precision, int device) {
  try {
    const Limits limits = limits_of(device, precision);
    const auto [problem, step] = planned(config, precision, limits);
    planned_resident(problem, step, limits);
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

}  // namespace iql::cuda
