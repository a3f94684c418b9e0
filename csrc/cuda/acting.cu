#include <algorithm>

#include "cuda/acting.h"
#include "cuda/intrinsics.h"
#include "cuda/launch.h"
#include "iql/gaussian.h"

namespace iql::cuda {
namespace {

constexpr int kThreads = 512;

// Floats of shared memory: a layer's input, and partial sums of its outputs. Layers so wide that
// this were more than a kernel may have without asking do not pass rows_kernel, which needs 16 rows
// of each.
int parts_size(const Problem& p) { return std::max(p.widest, 4 * kThreads); }
std::size_t shared_bytes(const Problem& p) { return (p.widest + parts_size(p)) * sizeof(float); }

// parts[slice][column] = the sum over a slice of the inputs, for as many slices as there are
// threads; the number of slices. A thread takes four columns.
__device__ int multiply(const float* input, const float* weights, const HiddenLayout& layer,
                        float* parts) {
  const int groups = layer.columns / 4;
  const int slices = groups < kThreads ? kThreads / groups : 1;
  for (int unit = threadIdx.x; unit < groups * slices; unit += kThreads) {
    const int group = unit % groups, slice = unit / groups;
    float4 sum = make_float4(0, 0, 0, 0);
    const float* at = weights + group * 4;
#pragma unroll 8
    for (int k = slice; k < layer.inputs; k += slices) {
      const float4 w = *reinterpret_cast<const float4*>(at + std::int64_t(k) * layer.columns);
      const float x = input[k];
      sum.x += x * w.x;
      sum.y += x * w.y;
      sum.z += x * w.z;
      sum.w += x * w.w;
    }
    *reinterpret_cast<float4*>(parts + slice * layer.columns + group * 4) = sum;
  }
  return slices;
}

// A block takes a seed's observation through its policy.
__global__ void __launch_bounds__(kThreads)
    act_kernel(const __grid_constant__ Problem p, const float* __restrict__ observations,
               const float* __restrict__ noise, float* __restrict__ actions) {
  const int seed = blockIdx.x;
  const NetworkLayout& net = p.actor;
  const float* weights = p.parameters_of(seed, engine::kActor);
  float* values = shared_floats();
  float* parts = values + p.widest;
  for (int c = threadIdx.x; c < p.obs_dim; c += kThreads) {
    values[c] = observations[seed * p.obs_dim + c];
  }
  __syncthreads();
  for (int l = 0; l < net.depth; ++l) {
    const HiddenLayout& layer = net.hidden[l];
    const int slices = multiply(values, weights + layer.weight, layer, parts);
    __syncthreads();
    for (int c = threadIdx.x; c < layer.outputs; c += kThreads) {
      float y = weights[layer.bias + c];
      for (int slice = 0; slice < slices; ++slice) y += parts[slice * layer.columns + c];
      values[c] = y < 0 ? 0.0f : y;  // NaN stays
    }
    __syncthreads();
  }
  const int lane = threadIdx.x % 32, inputs = net.hidden[net.depth - 1].outputs;
  for (int a = threadIdx.x / 32; a < net.outputs; a += kThreads / 32) {
    const float* weight = weights + net.head_weight + a * net.head_inputs;
    float sum = 0;
    for (int k = lane; k < inputs; k += 32) sum += values[k] * weight[k];
    sum = warp_sum(sum);
    if (lane == 0) {
      const float* bias = weights + net.head_bias;  // and then the log-stds
      const int at = seed * net.outputs + a;
      actions[at] = gaussian_sample(sum + bias[a], bias[net.outputs + a], noise[at]);
    }
  }
}

}  // namespace

int launch_act(const Problem& p, const float* observations, const float* noise, float* actions,
               void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return launch(act_kernel, {p.seeds, kThreads, shared_bytes(p), on}, p, observations, noise,
                actions);
}

}  // namespace iql::cuda
