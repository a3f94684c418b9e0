#include <cuda_runtime.h>

#include "cuda/elementwise.h"
#include "cuda/launch.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/polyak.h"

namespace iql::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 65535;

// Each thread strides over the array, so any n fits one launch.
template <class Body>
__device__ __forceinline__ void for_each(std::int64_t n, const Body& body) {
  const std::int64_t stride = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    body(i);
  }
}

__global__ void expectile_kernel(const float* __restrict__ q, const float* __restrict__ v,
                                 float* __restrict__ loss, float* __restrict__ d_u, std::int64_t n,
                                 float tau) {
  for_each(n, [&](std::int64_t i) {
    const Expectile<float> e = expectile(q[i] - v[i], tau);
    loss[i] = e.loss;
    d_u[i] = e.d_u;
  });
}

__global__ void awr_weights_kernel(const float* __restrict__ advantage, float* __restrict__ weight,
                                   std::int64_t n, float beta, float clip) {
  for_each(n, [&](std::int64_t i) { weight[i] = awr_weight(advantage[i], beta, clip); });
}

__global__ void polyak_kernel(float* __restrict__ target, const float* __restrict__ source,
                              std::int64_t n, float alpha) {
  for_each(n, [&](std::int64_t i) { target[i] = polyak(target[i], source[i], alpha); });
}

unsigned blocks(std::int64_t n) {
  const std::int64_t needed = (n + kThreads - 1) / kThreads;
  return static_cast<unsigned>(needed < kMaxBlocks ? needed : kMaxBlocks);
}

template <class... Parameters, class... Arguments>
int launch_over(void (*kernel)(Parameters...), std::int64_t n, void* stream,
                Arguments... arguments) {
  if (n == 0) return cudaSuccess;
  return launch(kernel, {blocks(n), kThreads, 0, static_cast<cudaStream_t>(stream)}, arguments...);
}

}  // namespace

int launch_expectile(const float* q, const float* v, float* loss, float* d_u, std::int64_t n,
                     float tau, void* stream) {
  return launch_over(expectile_kernel, n, stream, q, v, loss, d_u, n, tau);
}

int launch_awr_weights(const float* advantage, float* weight, std::int64_t n, float beta,
                       float clip, void* stream) {
  return launch_over(awr_weights_kernel, n, stream, advantage, weight, n, beta, clip);
}

int launch_polyak_(float* target, const float* source, std::int64_t n, float alpha, void* stream) {
  return launch_over(polyak_kernel, n, stream, target, source, n, alpha);
}

const char* error_name(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace iql::cuda
