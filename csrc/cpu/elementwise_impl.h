// The loops of elementwise.h, written once in scalars for the compiler to vectorise. The including
// file defines IQL_ISA (a namespace) and is compiled for that instruction set.
//
// Nothing here instantiates a function template that other files share: the linker could then keep
// the copy that was compiled for the wrong machine.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpu/dropout_factors.h"
#include "cpu/elementwise.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/exponential.h"
#include "iql/gaussian.h"
#include "iql/polyak.h"
#include "iql/twin_q.h"

namespace iql::cpu::IQL_ISA {
namespace {

// As many elements as are worked on at a time: what lies between two loops stays in the L1 cache.
constexpr int kBlock = 256;
constexpr int kLanes = 16;

template <class Body>
inline void for_blocks(Range range, const Body& body) {
  for (std::int64_t i = range.begin; i < range.end; i += kBlock) {
    body(i, static_cast<int>(range.end - i < kBlock ? range.end - i : kBlock));
  }
}

// out = the minimum over critics; NaN where one is NaN.
template <class C, class T>
inline void read_minimum(Critics<T> q, std::int64_t first, int count, C* __restrict out) {
  const T* __restrict in = q.q[0] + first;
  for (int i = 0; i < count; ++i) out[i] = C(in[i]);
  for (int e = 1; e < q.count; ++e) {
    const T* __restrict next = q.q[e] + first;
    for (int i = 0; i < count; ++i) {
      const C x = C(next[i]);
      out[i] = out[i] <= x || out[i] != out[i] ? out[i] : x;
    }
  }
}

// The upstream gradient of a block.
template <class C, class T>
inline void read_upstream(Upstream<T> upstream, std::int64_t first, int count, C* __restrict out) {
  const C scale = C(upstream.scale);
  if (upstream.each) {
    const T* __restrict in = upstream.data + first;
    for (int i = 0; i < count; ++i) out[i] = C(in[i]) * scale;
  } else {
    const C all = C(upstream.data[0]) * scale;
    for (int i = 0; i < count; ++i) out[i] = all;
  }
}

// Sums in double, in lanes: the order depends neither on the instruction set nor on threads.
struct Sum {
  double lane[kLanes] = {};

  template <class C>
  inline void add(const C* x, int count) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) lane[l] += double(x[i + l]);
    }
    for (int l = 0; i < count; ++i, ++l) lane[l] += double(x[i]);
  }
  inline double total() const {
    double sum = 0;
    for (int l = 0; l < kLanes; ++l) sum += lane[l];
    return sum;
  }
};

template <class T, class C>
inline void write(const C* __restrict in, int count, T* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = T(in[i]);
}

template <class T>
double expectile(Critics<T> q, const T* v, double tau, T* loss, Range range) {
  using C = Computed<T>;
  Sum sum;
  for_blocks(range, [&](std::int64_t first, int count) {
    C block[kBlock];
    read_minimum(q, first, count, block);
    const T* __restrict value = v + first;
    for (int i = 0; i < count; ++i) {
      block[i] = iql::expectile(block[i] - C(value[i]), C(tau)).loss;
    }
    sum.add(block, count);
    if (loss != nullptr) write(block, count, loss + first);
  });
  return sum.total();
}

template <class T>
void expectile_backward(Critics<T> q, const T* v, double tau, Upstream<T> upstream, T* d_v,
                        Range range) {
  using C = Computed<T>;
  for_blocks(range, [&](std::int64_t first, int count) {
    C block[kBlock], d_loss[kBlock];
    read_minimum(q, first, count, block);
    read_upstream(upstream, first, count, d_loss);
    const T* __restrict value = v + first;
    T* __restrict out = d_v + first;
    for (int i = 0; i < count; ++i) {
      out[i] = T(-iql::expectile(block[i] - C(value[i]), C(tau)).d_u * d_loss[i]);
    }
  });
}

template <class T>
struct Exponential {
  inline double operator()(double x) const { return exponential<T>(x); }
};

template <class T>
inline void block_weights(Critics<T> q, const T* v, double beta, double clip, std::int64_t first,
                          int count, double* __restrict weight) {
  read_minimum(q, first, count, weight);
  const T* __restrict value = v + first;
  for (int i = 0; i < count; ++i) {
    weight[i] = awr_weight(weight[i] - double(value[i]), beta, clip, Exponential<T>{});
  }
}

template <class T>
void awr_weights(Critics<T> q, const T* v, double beta, double clip, T* weight, Range range) {
  for_blocks(range, [&](std::int64_t first, int count) {
    double block[kBlock];
    block_weights(q, v, beta, clip, first, count, block);
    write(block, count, weight + first);
  });
}

template <class T>
double awr(Critics<T> q, const T* v, const T* log_prob, double beta, double clip, T* loss,
           T* d_log_prob, double scale, Range range) {
  Sum sum;
  for_blocks(range, [&](std::int64_t first, int count) {
    double block[kBlock];
    block_weights(q, v, beta, clip, first, count, block);
    if (d_log_prob != nullptr) {
      T* __restrict out = d_log_prob + first;
      for (int i = 0; i < count; ++i) out[i] = T(-block[i] * scale);
    }
    const T* __restrict fit = log_prob + first;
    for (int i = 0; i < count; ++i) block[i] *= -double(fit[i]);
    sum.add(block, count);
    if (loss != nullptr) write(block, count, loss + first);
  });
  return sum.total();
}

// out = the gradient by the log-probabilities of a block.
template <class T>
inline void block_d_log_prob(Critics<T> q, const T* v, double beta, double clip,
                             Upstream<T> upstream, std::int64_t first, int count,
                             double* __restrict out) {
  double d_loss[kBlock];
  block_weights(q, v, beta, clip, first, count, out);
  read_upstream(upstream, first, count, d_loss);
  for (int i = 0; i < count; ++i) out[i] *= -d_loss[i];
}

// Calls body(index within the block, row, column, term) for the elements of some rows, in order.
template <class T, class Body>
inline void for_normal_terms(Gaussian<T> policy, Range rows, const Body& body) {
  const std::int64_t A = policy.components;
  std::int64_t row = rows.begin, column = 0;
  for_blocks({rows.begin * A, rows.end * A}, [&](std::int64_t first, int count) {
    double log_std[kBlock], inverse_std[kBlock];
    if (policy.shared_log_std) {
      std::int64_t a = column;
      for (int i = 0; i < count; ++i) {
        log_std[i] = double(policy.log_std[a]);
        a = a + 1 == A ? 0 : a + 1;
      }
    } else {
      for (int i = 0; i < count; ++i) log_std[i] = double(policy.log_std[first + i]);
    }
    for (int i = 0; i < count; ++i) inverse_std[i] = Exponential<T>{}(-log_std[i]);
    NormalTerm<double> term[kBlock];
    for (int i = 0; i < count; ++i) {
      term[i] = normal_term(double(policy.action[first + i]), double(policy.mean[first + i]),
                            log_std[i], inverse_std[i]);
    }
    for (int i = 0; i < count; ++i) {
      body(first + i, row, column, term[i]);
      if (++column == A) {
        column = 0;
        ++row;
      }
    }
  });
}

template <class T>
double gaussian_awr(Critics<T> q, const T* v, Gaussian<T> policy, double beta, double clip, T* loss,
                    Range rows) {
  Sum sum;
  for_blocks(rows, [&](std::int64_t first, int count) {
    double block[kBlock], log_prob[kBlock] = {};
    block_weights(q, v, beta, clip, first, count, block);
    for_normal_terms(policy, {first, first + count},
                     [&](std::int64_t, std::int64_t row, std::int64_t, NormalTerm<double> term) {
                       log_prob[row - first] += term.log_prob;
                     });
    for (int i = 0; i < count; ++i) block[i] *= -log_prob[i];
    sum.add(block, count);
    if (loss != nullptr) write(block, count, loss + first);
  });
  return sum.total();
}

template <class T>
void gaussian_awr_backward(Critics<T> q, const T* v, Gaussian<T> policy, double beta, double clip,
                           Upstream<T> upstream, T* d_mean, T* d_log_std, double* d_log_std_sum,
                           Range rows) {
  for_blocks(rows, [&](std::int64_t first, int count) {
    double d_log_prob[kBlock];
    block_d_log_prob(q, v, beta, clip, upstream, first, count, d_log_prob);

    for_normal_terms(
        policy, {first, first + count},
        [&](std::int64_t i, std::int64_t row, std::int64_t column, NormalTerm<double> term) {
          const double d = d_log_prob[row - first];
          d_mean[i] = T(d * term.d_mean);
          if (policy.shared_log_std) {
            d_log_std_sum[column] += d * term.d_log_std;
          } else {
            d_log_std[i] = T(d * term.d_log_std);
          }
        });
  });
}

// Calls body(first, count, the targets of these elements) for blocks that do not cross from one
// repetition of the targets into the next.
template <class C, class T, class Body>
inline void for_td_blocks(TdTarget<T> target, Range range, const Body& body) {
  for (std::int64_t i = range.begin; i < range.end;) {
    const std::int64_t place = i % target.n;
    std::int64_t count = range.end - i < kBlock ? range.end - i : kBlock;
    if (count > target.n - place) count = target.n - place;
    C block[kBlock];
    const T* __restrict reward = target.reward + place;
    const T* __restrict mask = target.mask + place;
    const T* __restrict next_v = target.next_v + place;
    for (int k = 0; k < count; ++k) {
      block[k] = td_target(C(reward[k]), C(mask[k]), C(next_v[k]), C(target.discount));
    }
    body(i, static_cast<int>(count), block);
    i += count;
  }
}

template <class T>
double squared_td(const T* q, TdTarget<T> target, T* loss, Range range) {
  using C = Computed<T>;
  Sum sum;
  for_td_blocks<C>(target, range, [&](std::int64_t first, int count, C* __restrict block) {
    const T* __restrict critic = q + first;
    for (int i = 0; i < count; ++i) block[i] = squared_error(C(critic[i]), block[i]).loss;
    sum.add(block, count);
    if (loss == nullptr) return;
    T* __restrict out = loss + first % target.n;
    for (int i = 0; i < count; ++i) out[i] = T(C(out[i]) + block[i]);
  });
  return sum.total();
}

template <class T>
void squared_td_backward(const T* q, TdTarget<T> target, Upstream<T> upstream, T* d_q,
                         Range range) {
  using C = Computed<T>;
  for_td_blocks<C>(target, range, [&](std::int64_t first, int count, C* __restrict block) {
    C d_loss[kBlock];
    read_upstream(upstream, first % target.n, count, d_loss);
    const T* __restrict critic = q + first;
    T* __restrict out = d_q + first;
    for (int i = 0; i < count; ++i) {
      out[i] = T(squared_error(C(critic[i]), block[i]).d_q * d_loss[i]);
    }
  });
}

template <class T>
void polyak(T* __restrict target, const T* __restrict source, double alpha, Range range) {
  using C = Computed<T>;
  const C rate = C(alpha);
#pragma GCC unroll 4
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    target[i] = T(iql::polyak(C(target[i]), C(source[i]), rate));
  }
}

template <class T, bool HasTarget>
inline void adam_loop(T* __restrict weight, const T* __restrict gradient, T* __restrict m,
                      T* __restrict v, T* __restrict target,
                      const AdamStep<Computed<T>> coefficients, Computed<T> weight_decay,
                      Computed<T> alpha, Range range) {
  using C = Computed<T>;
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    C w = C(weight[i]), first = C(m[i]), second = C(v[i]);
    adam_update(w, first, second, C(gradient[i]) + weight_decay * w, coefficients);
    weight[i] = T(w);
    m[i] = T(first);
    v[i] = T(second);
    if constexpr (HasTarget) target[i] = T(iql::polyak(C(target[i]), C(weight[i]), alpha));
  }
}

template <class T>
void adam(T* weight, const T* gradient, T* m, T* v, T* target, const AdamStep<double>& step,
          double weight_decay, double alpha, Range range) {
  using C = Computed<T>;
  const AdamStep<C> coefficients = {C(step.rate), C(step.inverse_root), C(step.one_minus_beta1),
                                    C(step.one_minus_beta2), C(step.epsilon)};
  if (target != nullptr) {
    adam_loop<T, true>(weight, gradient, m, v, target, coefficients, C(weight_decay), C(alpha),
                       range);
  } else {
    adam_loop<T, false>(weight, gradient, m, v, target, coefficients, C(weight_decay), C(alpha),
                        range);
  }
}

// Written so that a NaN stays a NaN, as torch's ReLU does.
template <class T>
void bias_relu(T* x, const T* bias, bool relu, std::int64_t rows_per_bias, std::int64_t columns,
               Range rows) {
  using C = Computed<T>;
  const C lowest = relu ? C(0) : -C(INFINITY);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const T* __restrict b = bias + row / rows_per_bias * columns;
    T* __restrict out = x + row * columns;
    for (std::int64_t c = 0; c < columns; ++c) {
      const C sum = C(out[c]) + C(b[c]);
      out[c] = T(sum < lowest ? lowest : sum);
    }
  }
}

template <class T>
void bias_relu_backward(const T* d_out, const T* out, std::int64_t columns, T* d_x, T* d_bias,
                        Range rows) {
  using C = Computed<T>;
  for (std::int64_t c0 = 0; c0 < columns; c0 += kBlock) {
    const std::int64_t width = columns - c0 < kBlock ? columns - c0 : kBlock;
    C sum[kBlock] = {};
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const T* __restrict d = d_out + row * columns + c0;
      const T* __restrict o = out + row * columns + c0;
      T* __restrict dx = d_x + row * columns + c0;
      for (std::int64_t c = 0; c < width; ++c) {
        const C passed = C(o[c]) > C(0) ? C(d[c]) : C(0);
        dx[c] = T(passed);
        sum[c] += passed;
      }
    }
    for (std::int64_t c = 0; c < width; ++c) d_bias[c0 + c] = T(sum[c]);
  }
}

template <class T>
void dropout(const Dropout& drawn, T* factors, Range range) {
  dropout_factors(drawn, range.begin, range.end, factors);
}

template <class T>
constexpr Elementwise<T> elementwise_table(const char* name) {
  return {name,
          expectile<T>,
          expectile_backward<T>,
          awr_weights<T>,
          awr<T>,
          gaussian_awr<T>,
          gaussian_awr_backward<T>,
          squared_td<T>,
          squared_td_backward<T>,
          polyak<T>,
          adam<T>,
          bias_relu<T>,
          bias_relu_backward<T>,
          dropout<T>};
}

}  // namespace

extern const Elementwise<float> kElementwiseFloat;
extern const Elementwise<double> kElementwiseDouble;
extern const Elementwise<BFloat16> kElementwiseBFloat16;

#define IQL_NAME_OF(isa) #isa
#define IQL_NAME(isa) IQL_NAME_OF(isa)
const Elementwise<float> kElementwiseFloat = elementwise_table<float>(IQL_NAME(IQL_ISA));
const Elementwise<double> kElementwiseDouble = elementwise_table<double>(IQL_NAME(IQL_ISA));
const Elementwise<BFloat16> kElementwiseBFloat16 = elementwise_table<BFloat16>(IQL_NAME(IQL_ISA));
#undef IQL_NAME
#undef IQL_NAME_OF

}  // namespace iql::cpu::IQL_ISA
