// What the losses of torch.ops.iql_fast share, a file each (loss_*.cpp): how terms are reduced, on
// the CPU and on a device, and checks.
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <vector>

#include "torch/op_support.h"

namespace iql::ops {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;

// Critics, and how a loss on them is reduced.
inline void check_critics_loss(TensorList qs, const Tensor& v, std::int64_t reduction,
                               const char* op) {
  check_critics(qs, v, op);
  check_reduction(reduction, op);
}

// What a loss of the given terms looks like.
inline Tensor loss_like(const Tensor& terms, std::int64_t reduction) {
  return reduction == kNone ? dense_like(terms) : at::empty({}, terms.options());
}

// A loss on the CPU. terms(T{}, loss, rows) writes the terms of some rows to `loss`, unless that is
// null, and returns their sum; `weight` as in sum_over.
template <class Terms>
Tensor cpu_loss(const Tensor& like, std::int64_t reduction, std::int64_t weight,
                const Terms& terms) {
  const Tensor each = reduction == kNone ? dense_like(like) : Tensor();
  const double sum = with_type(like, [&](auto type) {
    using T = decltype(type);
    T* loss = each.defined() ? written<T>(each) : nullptr;
    return sum_over(like.numel(), weight, [&](cpu::Range rows) { return terms(type, loss, rows); });
  });
  return each.defined() ? each : scalar_loss(sum, like.numel(), reduction, like);
}

inline void check_d_loss(const Tensor& d_loss, const Tensor& terms, std::int64_t reduction,
                         const char* op) {
  check_reduction(reduction, op);
  TORCH_CHECK(d_loss.scalar_type() == terms.scalar_type() && d_loss.device() == terms.device(), op,
              ": the gradient must have the loss's dtype and device");
  if (reduction == kNone) {
    TORCH_CHECK(d_loss.sym_sizes() == terms.sym_sizes(), op, ": the gradient has shape ",
                d_loss.sym_sizes(), "; the loss has ", terms.sym_sizes());
  } else {
    TORCH_CHECK(d_loss.dim() == 0, op, ": the gradient of a reduced loss has shape ",
                d_loss.sym_sizes());
  }
}

inline bool any_needs_gradient(TensorList tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor.requires_grad()) return true;
  }
  return false;
}

#ifdef IQL_WITH_CUDA

template <class T>
cuda::Critics<T> cuda_critics(const DenseList& q, const char* op) {
  TORCH_CHECK(q.pointers.size() <= cuda::kMaxCritics, op, ": on CUDA at most ", cuda::kMaxCritics,
              " critics are supported");
  cuda::Critics<T> critics{{}, static_cast<int>(q.pointers.size())};
  for (int e = 0; e < critics.count; ++e) critics.q[e] = static_cast<const T*>(q.pointers[e]);
  return critics;
}

// A loss on the device, and room for its sums.
struct CudaLoss {
  Tensor loss, partial;
  bool each, mean;

  CudaLoss(const Tensor& terms, std::int64_t reduction)
      : loss(reduction == kNone ? dense_like(terms) : at::empty({}, terms.options())),
        partial(
            at::empty({cuda::reduction_blocks(terms.numel())}, terms.options().dtype(at::kDouble))),
        each(reduction == kNone),
        mean(reduction == kMean) {}

  template <class T>
  cuda::LossOutput<T> output() const {
    T* data = written<T>(loss);
    return {each ? data : nullptr, each ? nullptr : data, written<double>(partial), mean};
  }
};

#endif  // IQL_WITH_CUDA

// Under autocast a loss is computed in float32, as torch's own are.

inline Tensor single(const Tensor& tensor) {
  return at::autocast::cached_cast(at::kFloat, tensor, tensor.device().type());
}
inline std::vector<Tensor> single(TensorList tensors) {
  std::vector<Tensor> cast;
  for (const Tensor& tensor : tensors) cast.push_back(single(tensor));
  return cast;
}

}  // namespace iql::ops
