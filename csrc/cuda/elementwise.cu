#include <cuda_runtime.h>

#include <cassert>

#include "cuda/elementwise.h"
#include "cuda/launch.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/gaussian.h"
#include "iql/philox.h"
#include "iql/polyak.h"
#include "iql/twin_q.h"

namespace iql::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 65535;
// A sum's blocks, and the elements that are worth another one.
constexpr int kSumThreads = 1024;
constexpr std::int64_t kSumElements = 8192, kMaxSumBlocks = 512;
// Blocks for one tensor of a list: a 256 x 256 weight is spread over all of them.
constexpr std::int64_t kListElements = 1024, kMaxListBlocks = 128;

// Each thread strides over the array, so any n fits one launch.
template <class Body>
__device__ __forceinline__ void for_each(std::int64_t n, const Body& body) {
  const std::int64_t stride = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    body(i);
  }
}

// The block's sum, in thread 0; the block has a multiple of 32 threads.
__device__ double block_sum(double x) {
  __shared__ double warps[32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(~0u, x, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0.0;
  if (threadIdx.x < 32) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(~0u, x, offset);
  }
  return x;
}

template <class T>
__device__ void write_reduced(LossOutput<T> loss, double sum, std::int64_t n) {
  *loss.reduced = T(loss.mean ? sum / double(n) : sum);
}

// Writes or sums up the terms body(i) of a loss.
template <class T, class Body>
__device__ __forceinline__ void for_each_term(LossOutput<T> loss, std::int64_t n,
                                              const Body& body) {
  double sum = 0;
  for_each(n, [&](std::int64_t i) {
    const Computed<T> term = body(i);
    if (loss.each != nullptr) loss.each[i] = T(term);
    sum += double(term);
  });
  if (loss.each != nullptr) return;
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    write_reduced(loss, sum, n);
  } else {
    loss.partial[blockIdx.x] = sum;
  }
}

template <class T>
__global__ void finish_sum_kernel(LossOutput<T> loss, int blocks, std::int64_t n) {
  const double sum =
      block_sum(static_cast<int>(threadIdx.x) < blocks ? loss.partial[threadIdx.x] : 0.0);
  if (threadIdx.x == 0) write_reduced(loss, sum, n);
}

template <class T>
__device__ __forceinline__ Computed<T> minimum(const Critics<T>& q, std::int64_t i) {
  using C = Computed<T>;
  C low = C(q.q[0][i]);
  for (int e = 1; e < q.count; ++e) {
    const C x = C(q.q[e][i]);
    low = low <= x || low != low ? low : x;
  }
  return low;
}

template <class T>
__device__ __forceinline__ Computed<T> arriving(const Upstream<T>& upstream, std::int64_t i) {
  return Computed<T>(upstream.data[upstream.each ? i : 0]) * Computed<T>(upstream.scale);
}

template <class T>
__global__ void expectile_kernel(Critics<T> q, const T* __restrict__ v, Computed<T> tau,
                                 LossOutput<T> loss, std::int64_t n) {
  for_each_term(loss, n, [&](std::int64_t i) {
    return expectile(minimum(q, i) - Computed<T>(v[i]), tau).loss;
  });
}

template <class T>
__global__ void expectile_backward_kernel(Critics<T> q, const T* __restrict__ v, Computed<T> tau,
                                          Upstream<T> upstream, T* __restrict__ d_v,
                                          std::int64_t n) {
  for_each(n, [&](std::int64_t i) {
    const Computed<T> d_u = expectile(minimum(q, i) - Computed<T>(v[i]), tau).d_u;
    d_v[i] = T(-d_u * arriving(upstream, i));
  });
}

template <class T>
__device__ __forceinline__ Computed<T> weight_of(const Critics<T>& q, const T* v, Computed<T> beta,
                                                 Computed<T> clip, std::int64_t i) {
  return awr_weight(minimum(q, i) - Computed<T>(v[i]), beta, clip);
}

template <class T>
__global__ void awr_weights_kernel(Critics<T> q, const T* __restrict__ v, Computed<T> beta,
                                   Computed<T> clip, T* __restrict__ weight, std::int64_t n) {
  for_each(n, [&](std::int64_t i) { weight[i] = T(weight_of(q, v, beta, clip, i)); });
}

template <class T>
__global__ void awr_kernel(Critics<T> q, const T* __restrict__ v, const T* __restrict__ log_prob,
                           Computed<T> beta, Computed<T> clip, LossOutput<T> loss, std::int64_t n) {
  for_each_term(loss, n, [&](std::int64_t i) {
    return -weight_of(q, v, beta, clip, i) * Computed<T>(log_prob[i]);
  });
}

// The gradient by the log-probability of a row.
template <class T>
__device__ __forceinline__ Computed<T> d_log_prob_of(const Critics<T>& q, const T* v,
                                                     Computed<T> beta, Computed<T> clip,
                                                     const Upstream<T>& upstream, std::int64_t i) {
  return -weight_of(q, v, beta, clip, i) * arriving(upstream, i);
}

template <class T>
__global__ void awr_backward_kernel(Critics<T> q, const T* __restrict__ v, Computed<T> beta,
                                    Computed<T> clip, Upstream<T> upstream,
                                    T* __restrict__ d_log_prob, std::int64_t n) {
  for_each(
      n, [&](std::int64_t i) { d_log_prob[i] = T(d_log_prob_of(q, v, beta, clip, upstream, i)); });
}

template <class T>
__device__ __forceinline__ NormalTerm<Computed<T>> normal_at(const Gaussian<T>& policy,
                                                             std::int64_t row,
                                                             std::int64_t component) {
  using C = Computed<T>;
  const std::int64_t i = row * policy.components + component;
  const C log_std = C(policy.log_std[policy.shared_log_std ? component : i]);
  return normal_term(C(policy.action[i]), C(policy.mean[i]), log_std, C(std::exp(-log_std)));
}

// A thread a row.
template <class T>
__global__ void gaussian_awr_kernel(Critics<T> q, const T* __restrict__ v, Gaussian<T> policy,
                                    Computed<T> beta, Computed<T> clip, LossOutput<T> loss,
                                    std::int64_t rows) {
  for_each_term(loss, rows, [&](std::int64_t row) {
    Computed<T> log_prob = 0;
    for (std::int64_t a = 0; a < policy.components; ++a) {
      log_prob += normal_at(policy, row, a).log_prob;
    }
    return -weight_of(q, v, beta, clip, row) * log_prob;
  });
}

// d_log_std is null where it is shared.
template <class T>
__global__ void gaussian_awr_backward_kernel(Critics<T> q, const T* __restrict__ v,
                                             Gaussian<T> policy, Computed<T> beta, Computed<T> clip,
                                             Upstream<T> upstream, T* __restrict__ d_mean,
                                             T* __restrict__ d_log_std, std::int64_t rows) {
  for_each(rows * policy.components, [&](std::int64_t i) {
    const std::int64_t row = i / policy.components;
    const auto term = normal_at(policy, row, i % policy.components);
    const Computed<T> d = d_log_prob_of(q, v, beta, clip, upstream, row);
    d_mean[i] = T(d * term.d_mean);
    if (d_log_std != nullptr) d_log_std[i] = T(d * term.d_log_std);
  });
}

// A block a component.
template <class T>
__global__ void shared_log_std_kernel(Critics<T> q, const T* __restrict__ v, Gaussian<T> policy,
                                      Computed<T> beta, Computed<T> clip, Upstream<T> upstream,
                                      T* __restrict__ d_log_std, std::int64_t rows) {
  double sum = 0;
  for (std::int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
    const Computed<T> d = d_log_prob_of(q, v, beta, clip, upstream, row);
    sum += double(d * normal_at(policy, row, blockIdx.x).d_log_std);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) d_log_std[blockIdx.x] = T(sum);
}

template <class T>
__device__ __forceinline__ Computed<T> target_at(const TdTarget<T>& target, std::int64_t i) {
  using C = Computed<T>;
  return td_target(C(target.reward[i]), C(target.mask[i]), C(target.next_v[i]), C(target.discount));
}

template <class T>
__global__ void squared_td_kernel(TdCritics<T> critics, TdTarget<T> target, LossOutput<T> loss) {
  for_each_term(loss, target.n, [&](std::int64_t i) {
    const Computed<T> wanted = target_at(target, i);
    Computed<T> sum = 0;
    for (int e = 0; e < critics.count; ++e) {
      for (std::int64_t k = 0; k < critics.repeats[e]; ++k) {
        sum += squared_error(Computed<T>(critics.q[e][k * target.n + i]), wanted).loss;
      }
    }
    return sum;
  });
}

template <class T>
__global__ void squared_td_backward_kernel(TdCritics<T> critics, TdTarget<T> target,
                                           Upstream<T> upstream) {
  for_each(target.n, [&](std::int64_t i) {
    const Computed<T> wanted = target_at(target, i), d_loss = arriving(upstream, i);
    for (int e = 0; e < critics.count; ++e) {
      for (std::int64_t k = 0; k < critics.repeats[e]; ++k) {
        const std::int64_t place = k * target.n + i;
        const auto error = squared_error(Computed<T>(critics.q[e][place]), wanted);
        critics.d_q[e][place] = T(error.d_q * d_loss);
      }
    }
  });
}

// The tensors of a list lie along the grid's y axis.
template <class T>
__global__ void polyak_kernel(const __grid_constant__ PolyakList<T> list, Computed<T> alpha) {
  T* __restrict__ target = list.target[blockIdx.y];
  const T* __restrict__ source = list.source[blockIdx.y];
  for_each(list.n[blockIdx.y], [&](std::int64_t i) {
    target[i] = T(polyak(Computed<T>(target[i]), Computed<T>(source[i]), alpha));
  });
}

template <class T>
__global__ void adam_kernel(const __grid_constant__ AdamList<T> list, AdamConstants constants) {
  using C = Computed<T>;
  const int k = blockIdx.y;
  // By one thread a block: the powers take longer than an element.
  __shared__ C shared[5];
  if (threadIdx.x == 0) {
    const AdamStep<C> step =
        list.step[k] == nullptr ? list.coefficients[k]
                                : adam_step<C>(constants.lr, double(*list.step[k]), constants.beta1,
                                               constants.beta2, constants.epsilon);
    shared[0] = step.rate;
    shared[1] = step.inverse_root;
    shared[2] = step.one_minus_beta1;
    shared[3] = step.one_minus_beta2;
    shared[4] = step.epsilon;
  }
  __syncthreads();
  const AdamStep<C> own = {shared[0], shared[1], shared[2], shared[3], shared[4]};
  const C weight_decay = C(constants.weight_decay), alpha = C(constants.alpha);
  for_each(list.n[k], [&](std::int64_t i) {
    C w = C(list.weight[k][i]), m = C(list.m[k][i]), v = C(list.v[k][i]);
    adam_update(w, m, v, C(list.gradient[k][i]) + weight_decay * w, own);
    const T weight = T(w);
    list.weight[k][i] = weight;
    list.m[k][i] = T(m);
    list.v[k][i] = T(v);
    if (T* target = list.target[k]) target[i] = T(polyak(C(target[i]), C(weight), alpha));
  });
}

__global__ void count_steps_kernel(StepList steps) {
  if (static_cast<int>(threadIdx.x) < steps.count) *steps.step[threadIdx.x] += 1;
}

// One block, so that the step moves on after all have read it.
__global__ void batch_rows_kernel(std::int64_t* __restrict__ state,
                                  std::int64_t* __restrict__ drawn, std::int64_t n,
                                  std::int64_t rows) {
  const auto seed = static_cast<std::uint64_t>(state[0]),
             step = static_cast<std::uint64_t>(state[1]);
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    drawn[i] = batch_row(seed, step, static_cast<std::uint32_t>(i), rows);
  }
  __syncthreads();
  if (threadIdx.x == 0) state[1] += 1;
}

// The columns lie along the grid's y axis. Words where a row is made of them.
__global__ void gather_kernel(const __grid_constant__ Columns columns,
                              const std::int64_t* __restrict__ row, std::int64_t n,
                              [[maybe_unused]] std::int64_t rows) {
  const std::int64_t bytes = columns.bytes[blockIdx.y];
  const char* __restrict__ from = columns.from[blockIdx.y];
  char* __restrict__ to = columns.to[blockIdx.y];
  const auto start = [&](std::int64_t i) {
    assert(row[i] >= 0 && row[i] < rows);
    return row[i] * bytes;
  };
  const auto addresses =
      reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to);
  if ((addresses | static_cast<std::uintptr_t>(bytes)) % 4 == 0) {
    const std::int64_t words = bytes / 4;
    for_each(n * words, [&](std::int64_t i) {
      const char* word = from + start(i / words) + i % words * 4;
      reinterpret_cast<std::uint32_t*>(to)[i] = *reinterpret_cast<const std::uint32_t*>(word);
    });
  } else {
    for_each(n * bytes, [&](std::int64_t i) { to[i] = from[start(i / bytes) + i % bytes]; });
  }
}

template <class T>
__global__ void bias_relu_kernel(T* __restrict__ x, const T* __restrict__ bias, bool relu,
                                 std::int64_t rows, std::int64_t columns, std::int64_t n) {
  using C = Computed<T>;
  for_each(n, [&](std::int64_t i) {
    const C sum = C(x[i]) + C(bias[i / (rows * columns) * columns + i % columns]);
    x[i] = T(relu && sum < C(0) ? C(0) : sum);
  });
}

// A block of 32 x 8 threads goes down 32 columns of one layer.
template <class T>
__global__ void bias_relu_backward_kernel(const T* __restrict__ d_out, const T* __restrict__ out,
                                          std::int64_t rows, std::int64_t columns,
                                          T* __restrict__ d_x, T* __restrict__ d_bias) {
  using C = Computed<T>;
  __shared__ C sums[8][32];
  const std::int64_t column = std::int64_t(blockIdx.x) * 32 + threadIdx.x;
  const std::int64_t layer = blockIdx.y;
  C sum = 0;
  if (column < columns) {
    for (std::int64_t row = threadIdx.y; row < rows; row += 8) {
      const std::int64_t i = (layer * rows + row) * columns + column;
      const C passed = C(out[i]) > C(0) ? C(d_out[i]) : C(0);
      d_x[i] = T(passed);
      sum += passed;
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (int k = 1; k < 8; ++k) sum += sums[k][threadIdx.x];
    d_bias[layer * columns + column] = T(sum);
  }
}

std::int64_t blocks_for(std::int64_t n, std::int64_t each, std::int64_t most) {
  const std::int64_t needed = (n + each - 1) / each;
  return needed < 1 ? 1 : needed < most ? needed : most;
}

template <class... Parameters, class... Arguments>
int launch_on(void* stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
              const Arguments&... arguments) {
  return launch(kernel, {grid, block, 0, static_cast<cudaStream_t>(stream)}, arguments...);
}

// Over n elements; n = 0 launches nothing.
template <class... Parameters, class... Arguments>
int launch_elements(void (*kernel)(Parameters...), std::int64_t n, void* stream,
                    Arguments... arguments) {
  if (n == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(blocks_for(n, kThreads, kMaxBlocks));
  return launch_on(stream, kernel, grid, kThreads, arguments...);
}

// A kernel that ends in (..., loss, n): over the elements, or in two stages where it sums up. The
// sum of no elements is written too.
template <class T, class... Parameters, class... Arguments>
int launch_loss(void (*kernel)(Parameters...), LossOutput<T> loss, std::int64_t n, void* stream,
                Arguments... arguments) {
  if (loss.each != nullptr) return launch_elements(kernel, n, stream, arguments...);
  const auto blocks = static_cast<unsigned>(reduction_blocks(n));
  const int code = launch_on(stream, kernel, blocks, kSumThreads, arguments...);
  if (code != cudaSuccess || blocks == 1) return code;
  return launch_on(stream, finish_sum_kernel<T>, 1, kSumThreads, loss, static_cast<int>(blocks), n);
}

// A grid with the tensors of a list along y.
dim3 list_grid(const std::int64_t* n, int count) {
  std::int64_t largest = 0;
  for (int k = 0; k < count; ++k) largest = n[k] > largest ? n[k] : largest;
  return dim3(static_cast<unsigned>(blocks_for(largest, kListElements, kMaxListBlocks)),
              static_cast<unsigned>(count));
}

}  // namespace

std::int64_t reduction_blocks(std::int64_t n) { return blocks_for(n, kSumElements, kMaxSumBlocks); }

template <class T>
int launch_expectile(Critics<T> q, const T* v, double tau, LossOutput<T> loss, std::int64_t n,
                     void* stream) {
  return launch_loss(expectile_kernel<T>, loss, n, stream, q, v, Computed<T>(tau), loss, n);
}

template <class T>
int launch_expectile_backward(Critics<T> q, const T* v, double tau, Upstream<T> upstream, T* d_v,
                              std::int64_t n, void* stream) {
  return launch_elements(expectile_backward_kernel<T>, n, stream, q, v, Computed<T>(tau), upstream,
                         d_v, n);
}

template <class T>
int launch_awr_weights(Critics<T> q, const T* v, double beta, double clip, T* weight,
                       std::int64_t n, void* stream) {
  return launch_elements(awr_weights_kernel<T>, n, stream, q, v, Computed<T>(beta),
                         Computed<T>(clip), weight, n);
}

template <class T>
int launch_awr(Critics<T> q, const T* v, const T* log_prob, double beta, double clip,
               LossOutput<T> loss, std::int64_t n, void* stream) {
  return launch_loss(awr_kernel<T>, loss, n, stream, q, v, log_prob, Computed<T>(beta),
                     Computed<T>(clip), loss, n);
}

template <class T>
int launch_awr_backward(Critics<T> q, const T* v, double beta, double clip, Upstream<T> upstream,
                        T* d_log_prob, std::int64_t n, void* stream) {
  return launch_elements(awr_backward_kernel<T>, n, stream, q, v, Computed<T>(beta),
                         Computed<T>(clip), upstream, d_log_prob, n);
}

template <class T>
int launch_gaussian_awr(Critics<T> q, const T* v, Gaussian<T> policy, double beta, double clip,
                        LossOutput<T> loss, std::int64_t rows, void* stream) {
  return launch_loss(gaussian_awr_kernel<T>, loss, rows, stream, q, v, policy, Computed<T>(beta),
                     Computed<T>(clip), loss, rows);
}

template <class T>
int launch_gaussian_awr_backward(Critics<T> q, const T* v, Gaussian<T> policy, double beta,
                                 double clip, Upstream<T> upstream, T* d_mean, T* d_log_std,
                                 std::int64_t rows, void* stream) {
  T* each = policy.shared_log_std ? nullptr : d_log_std;
  const int code =
      launch_elements(gaussian_awr_backward_kernel<T>, rows * policy.components, stream, q, v,
                      policy, Computed<T>(beta), Computed<T>(clip), upstream, d_mean, each, rows);
  if (code != cudaSuccess || !policy.shared_log_std || policy.components == 0) return code;
  return launch_on(stream, shared_log_std_kernel<T>, static_cast<unsigned>(policy.components),
                   kThreads, q, v, policy, Computed<T>(beta), Computed<T>(clip), upstream,
                   d_log_std, rows);
}

template <class T>
int launch_squared_td(TdCritics<T> critics, TdTarget<T> target, LossOutput<T> loss, void* stream) {
  return launch_loss(squared_td_kernel<T>, loss, target.n, stream, critics, target, loss);
}

template <class T>
int launch_squared_td_backward(TdCritics<T> critics, TdTarget<T> target, Upstream<T> upstream,
                               void* stream) {
  return launch_elements(squared_td_backward_kernel<T>, target.n, stream, critics, target,
                         upstream);
}

template <class T>
int launch_polyak(PolyakList<T> list, double alpha, void* stream) {
  if (list.count == 0) return cudaSuccess;
  return launch_on(stream, polyak_kernel<T>, list_grid(list.n, list.count), kThreads, list,
                   Computed<T>(alpha));
}

template <class T>
int launch_adam(AdamList<T> list, AdamConstants constants, void* stream) {
  if (list.count == 0) return cudaSuccess;
  return launch_on(stream, adam_kernel<T>, list_grid(list.n, list.count), kThreads, list,
                   constants);
}

int launch_count_steps(StepList steps, void* stream) {
  static_assert(kMaxTensors <= 32, "one warp counts the steps");
  return launch_on(stream, count_steps_kernel, 1, 32, steps);
}

int launch_batch_rows(std::int64_t* state, std::int64_t* drawn, std::int64_t n, std::int64_t rows,
                      void* stream) {
  return launch_on(stream, batch_rows_kernel, 1, 1024, state, drawn, n, rows);
}

int launch_gather(Columns columns, const std::int64_t* row, std::int64_t n, std::int64_t rows,
                  void* stream) {
  std::int64_t largest = 0;
  for (int c = 0; c < columns.count; ++c) {
    largest = columns.bytes[c] > largest ? columns.bytes[c] : largest;
  }
  if (n * largest == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(blocks_for(n * largest, 4 * kThreads, kMaxBlocks)),
                  static_cast<unsigned>(columns.count));
  return launch_on(stream, gather_kernel, grid, kThreads, columns, row, n, rows);
}

template <class T>
int launch_bias_relu(T* x, const T* bias, bool relu, std::int64_t layers, std::int64_t rows,
                     std::int64_t columns, void* stream) {
  const std::int64_t n = layers * rows * columns;
  return launch_elements(bias_relu_kernel<T>, n, stream, x, bias, relu, rows, columns, n);
}

template <class T>
int launch_bias_relu_backward(const T* d_out, const T* out, std::int64_t layers, std::int64_t rows,
                              std::int64_t columns, T* d_x, T* d_bias, void* stream) {
  if (layers * columns == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((columns + 31) / 32), static_cast<unsigned>(layers));
  return launch_on(stream, bias_relu_backward_kernel<T>, grid, dim3(32, 8), d_out, out, rows,
                   columns, d_x, d_bias);
}

#define IQL_INSTANTIATE(T)                                                                        \
  template int launch_expectile<T>(Critics<T>, const T*, double, LossOutput<T>, std::int64_t,     \
                                   void*);                                                        \
  template int launch_expectile_backward<T>(Critics<T>, const T*, double, Upstream<T>, T*,        \
                                            std::int64_t, void*);                                 \
  template int launch_awr_weights<T>(Critics<T>, const T*, double, double, T*, std::int64_t,      \
                                     void*);                                                      \
  template int launch_awr<T>(Critics<T>, const T*, const T*, double, double, LossOutput<T>,       \
                             std::int64_t, void*);                                                \
  template int launch_awr_backward<T>(Critics<T>, const T*, double, double, Upstream<T>, T*,      \
                                      std::int64_t, void*);                                       \
  template int launch_gaussian_awr<T>(Critics<T>, const T*, Gaussian<T>, double, double,          \
                                      LossOutput<T>, std::int64_t, void*);                        \
  template int launch_gaussian_awr_backward<T>(Critics<T>, const T*, Gaussian<T>, double, double, \
                                               Upstream<T>, T*, T*, std::int64_t, void*);         \
  template int launch_squared_td<T>(TdCritics<T>, TdTarget<T>, LossOutput<T>, void*);             \
  template int launch_squared_td_backward<T>(TdCritics<T>, TdTarget<T>, Upstream<T>, void*);      \
  template int launch_polyak<T>(PolyakList<T>, double, void*);                                    \
  template int launch_adam<T>(AdamList<T>, AdamConstants, void*);                                 \
  template int launch_bias_relu<T>(T*, const T*, bool, std::int64_t, std::int64_t, std::int64_t,  \
                                   void*);                                                        \
  template int launch_bias_relu_backward<T>(const T*, const T*, std::int64_t, std::int64_t,       \
                                            std::int64_t, T*, T*, void*);
IQL_INSTANTIATE(float)
IQL_INSTANTIATE(double)
IQL_INSTANTIATE(BFloat16)
#undef IQL_INSTANTIATE

const char* error_name(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace iql::cuda
