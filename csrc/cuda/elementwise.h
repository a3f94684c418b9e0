// The formulas of iql/ over device arrays. T = float, double or BFloat16; arithmetic is in float
// (double for double), sums are in double, and no sum depends on how threads are scheduled.
//
// Each launches on `stream` (a cudaStream_t) and returns the launch's cudaError_t as an int: 0 is
// success. Pointers are the device's, except that the structs themselves are passed by value.
#pragma once

#include <cstdint>

#include "iql/adam.h"
#include "iql/bfloat16.h"
#include "iql/operands.h"

namespace iql::cuda {

constexpr int kMaxCritics = 16;
constexpr int kMaxTensors = 32;  // of a list, in one launch
constexpr int kMaxColumns = 32;

// Q, the minimum over critics.
template <class T>
struct Critics {
  const T* q[kMaxCritics];
  int count;
};

// Where a loss goes: its terms to `each`, or, where that is null, their sum times `scale` to
// `reduced`. `partial` has room for reduction_blocks(n) sums.
template <class T>
struct LossOutput {
  T* each;
  T* reduced;
  double* partial;
  bool mean;
};
std::int64_t reduction_blocks(std::int64_t n);

template <class T>
int launch_expectile(Critics<T> q, const T* v, double tau, LossOutput<T> loss, std::int64_t n,
                     void* stream);
template <class T>
int launch_expectile_backward(Critics<T> q, const T* v, double tau, Upstream<T> upstream, T* d_v,
                              std::int64_t n, void* stream);
template <class T>
int launch_awr_weights(Critics<T> q, const T* v, double beta, double clip, T* weight,
                       std::int64_t n, void* stream);
template <class T>
int launch_awr(Critics<T> q, const T* v, const T* log_prob, double beta, double clip,
               LossOutput<T> loss, std::int64_t n, void* stream);
template <class T>
int launch_awr_backward(Critics<T> q, const T* v, double beta, double clip, Upstream<T> upstream,
                        T* d_log_prob, std::int64_t n, void* stream);
template <class T>
int launch_gaussian_awr(Critics<T> q, const T* v, Gaussian<T> policy, double beta, double clip,
                        LossOutput<T> loss, std::int64_t rows, void* stream);
template <class T>
int launch_gaussian_awr_backward(Critics<T> q, const T* v, Gaussian<T> policy, double beta,
                                 double clip, Upstream<T> upstream, T* d_mean, T* d_log_std,
                                 std::int64_t rows, void* stream);

// Critics of the target's shape, or that repeat it `repeats` times along a leading axis.
template <class T>
struct TdCritics {
  const T* q[kMaxCritics];
  T* d_q[kMaxCritics];  // of the backward pass
  std::int64_t repeats[kMaxCritics];
  int count;
};
template <class T>
int launch_squared_td(TdCritics<T> critics, TdTarget<T> target, LossOutput<T> loss, void* stream);
template <class T>
int launch_squared_td_backward(TdCritics<T> critics, TdTarget<T> target, Upstream<T> upstream,
                               void* stream);

template <class T>
struct PolyakList {
  T* target[kMaxTensors];
  const T* source[kMaxTensors];
  std::int64_t n[kMaxTensors];
  int count;
};
template <class T>
int launch_polyak(PolyakList<T> list, double alpha, void* stream);

// `step` points at the count of steps on the device, this one included; where it is null,
// `coefficients` has been computed from it. `target` may be null.
template <class T>
struct AdamList {
  T *weight[kMaxTensors], *m[kMaxTensors], *v[kMaxTensors], *target[kMaxTensors];
  const T* gradient[kMaxTensors];
  const float* step[kMaxTensors];
  AdamStep<Computed<T>> coefficients[kMaxTensors];
  std::int64_t n[kMaxTensors];
  int count;
};
struct AdamConstants {
  double lr, beta1, beta2, epsilon, weight_decay, alpha;
};
template <class T>
int launch_adam(AdamList<T> list, AdamConstants constants, void* stream);

struct StepList {
  float* step[kMaxTensors];
  int count;
};
int launch_count_steps(StepList steps, void* stream);

// The rows of the batch of state = [seed, step], which moves on by a step.
int launch_batch_rows(std::int64_t* state, std::int64_t* drawn, std::int64_t n, std::int64_t rows,
                      void* stream);

// Columns of `bytes` a row.
struct Columns {
  const char* from[kMaxColumns];
  char* to[kMaxColumns];
  std::int64_t bytes[kMaxColumns];
  int count;
};
int launch_gather(Columns columns, const std::int64_t* row, std::int64_t n, std::int64_t rows,
                  void* stream);

// [layers, rows, columns] with a bias [layers, columns]: added in place, and a ReLU where one
// follows.
template <class T>
int launch_bias_relu(T* x, const T* bias, bool relu, std::int64_t layers, std::int64_t rows,
                     std::int64_t columns, void* stream);
template <class T>
int launch_bias_relu_backward(const T* d_out, const T* out, std::int64_t layers, std::int64_t rows,
                              std::int64_t columns, T* d_x, T* d_bias, void* stream);

// What a code above means.
const char* error_name(int code);

}  // namespace iql::cuda
