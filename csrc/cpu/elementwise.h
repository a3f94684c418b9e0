// The formulas of iql/ over arrays, for the ops that others call from torch: compiled once for each
// instruction set and chosen at run time. T = float, double or BFloat16; arithmetic is in float
// (double for double), in double wherever there is an exponential, and sums are in double.
//
// Each works on the elements of a range, so that a caller can share an array out among threads.
#pragma once

#include <cstdint>

#include "iql/adam.h"
#include "iql/bfloat16.h"
#include "iql/operands.h"
#include "iql/philox.h"

namespace iql::cpu {

struct Range {
  std::int64_t begin, end;
};

// Q, the minimum over critics, each an array.
template <class T>
struct Critics {
  const T* const* q;
  int count;
};

template <class T>
struct Elementwise {
  const char* name;  // "portable", "avx2", "avx512"

  // Returns the sum of the expectile loss of u = q - v; each goes to `loss` unless that is null.
  double (*expectile)(Critics<T> q, const T* v, double tau, T* loss, Range range);
  // d_v = upstream * d loss / d v, which is minus d loss / d q.
  void (*expectile_backward)(Critics<T> q, const T* v, double tau, Upstream<T> upstream, T* d_v,
                             Range range);

  // weight = min(exp(beta * (q - v)), clip)
  void (*awr_weights)(Critics<T> q, const T* v, double beta, double clip, T* weight, Range range);
  // Returns the sum of -weight * log_prob; `loss` as in expectile. d_log_prob = -weight * scale,
  // unless it is null.
  double (*awr)(Critics<T> q, const T* v, const T* log_prob, double beta, double clip, T* loss,
                T* d_log_prob, double scale, Range range);
  // The same with log_prob of a diagonal Gaussian; the range is of rows.
  double (*gaussian_awr)(Critics<T> q, const T* v, Gaussian<T> policy, double beta, double clip,
                         T* loss, Range rows);
  // d_mean [rows, A]. d_log_std [rows, A] where each row has its own; else the sums over the range
  // are added to d_log_std_sum [A].
  void (*gaussian_awr_backward)(Critics<T> q, const T* v, Gaussian<T> policy, double beta,
                                double clip, Upstream<T> upstream, T* d_mean, T* d_log_std,
                                double* d_log_std_sum, Range rows);

  // Returns the sum of (q - target)^2; q has the target's shape, or repeats it along a leading
  // axis. It is added to loss[i % target.n] unless that is null.
  double (*squared_td)(const T* q, TdTarget<T> target, T* loss, Range range);
  void (*squared_td_backward)(const T* q, TdTarget<T> target, Upstream<T> upstream, T* d_q,
                              Range range);

  // target += alpha * (source - target)
  void (*polyak)(T* target, const T* source, double alpha, Range range);
  // Adam with L2 weight decay; then target += alpha * (weight - target) unless target is null.
  void (*adam)(T* weight, const T* gradient, T* m, T* v, T* target, const AdamStep<double>& step,
               double weight_decay, double alpha, Range range);

  // x += bias for rows of `columns`, then a ReLU where one follows; the bias of row r is row
  // r / rows_per_bias of bias.
  void (*bias_relu)(T* x, const T* bias, bool relu, std::int64_t rows_per_bias,
                    std::int64_t columns, Range rows);
  // d_x = d_out where out > 0; d_bias [columns] gets the column sums of these rows.
  void (*bias_relu_backward)(const T* d_out, const T* out, std::int64_t columns, T* d_x, T* d_bias,
                             Range rows);

  // What a dropout multiplies the elements of a range by; factors[0] is that of the first.
  void (*dropout_factors)(const Dropout& dropout, T* factors, Range range);
};

// The set that goes with kernels() of cpu/kernels.h.
template <class T>
const Elementwise<T>& elementwise();

// Sets compiled in, best first; nullptr ends the list.
template <class T>
const Elementwise<T>* const* all_elementwise();

}  // namespace iql::cpu
