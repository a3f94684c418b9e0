// Advantage-weighted regression (equation 7) on a log-probability, and its weights, as torch
// operators.
#include <ATen/ops/mul.h>

#include "torch/loss_support.h"

namespace iql::ops {
namespace {

// The operators, for calls from autograd to the kernels below it.
const auto& awr_weights_op() {
  static const auto op =
      operator_handle<Tensor(TensorList, const Tensor&, double, double)>("iql_fast::awr_weights");
  return op;
}
const auto& awr_loss_op() {
  static const auto op = operator_handle<Tensor(TensorList, const Tensor&, const Tensor&, double,
                                                double, std::int64_t)>("iql_fast::awr_loss");
  return op;
}
const auto& awr_loss_forward_op() {
  static const auto op =
      operator_handle<Pair(TensorList, const Tensor&, const Tensor&, double, double, std::int64_t)>(
          "iql_fast::awr_loss_forward");
  return op;
}
const auto& awr_loss_backward_op() {
  static const auto op =
      operator_handle<Tensor(const Tensor&, TensorList, const Tensor&, double, double,
                             std::int64_t)>("iql_fast::awr_loss_backward");
  return op;
}

// The weights of advantage-weighted regression, which carry no gradient.

Tensor awr_weights_cpu(TensorList qs, const Tensor& v, double beta, double clip) {
  check_critics(qs, v, "awr_weights");
  const DenseList q(qs);
  const Tensor value = v.contiguous();
  Tensor weights = dense_like(v);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    share_out(v.numel(), kGrain, [&](cpu::Range range) {
      cpu::elementwise<T>().awr_weights(q.critics<T>(), read<T>(value), beta, clip,
                                        written<T>(weights), range);
    });
  });
  return weights;
}

#ifdef IQL_WITH_CUDA

Tensor awr_weights_cuda(TensorList qs, const Tensor& v, double beta, double clip) {
  check_critics(qs, v, "awr_weights");
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const Tensor value = v.contiguous();
  Tensor weights = dense_like(v);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(
        cuda::launch_awr_weights<T>(cuda_critics<T>(q, "awr_weights"), read<T>(value), beta, clip,
                                    written<T>(weights), v.numel(), current_stream(v)),
        "awr_weights");
  });
  return weights;
}

#endif  // IQL_WITH_CUDA

Tensor awr_weights_meta(TensorList qs, const Tensor& v, double, double) {
  check_critics(qs, v, "awr_weights");
  return dense_like(v);
}

Tensor awr_weights_autograd(TensorList qs, const Tensor& v, double beta, double clip) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return awr_weights_op().call(qs, v, beta, clip);
}

// Advantage-weighted regression on a log-probability.

// d_log_prob: of the loss, not yet multiplied with its own gradient; undefined to leave it out.
Tensor awr_loss_and_gradient(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                             double clip, std::int64_t reduction, const Tensor& d_log_prob) {
  const DenseList q(qs);
  const Tensor value = v.contiguous(), fit = log_prob.contiguous();
  const double scale = reduction == kMean ? 1.0 / double(v.numel()) : 1.0;
  return cpu_loss(v, reduction, 1, [&](auto type, auto* loss, cpu::Range range) {
    using T = decltype(type);
    T* gradient = d_log_prob.defined() ? written<T>(d_log_prob) : nullptr;
    return cpu::elementwise<T>().awr(q.critics<T>(), read<T>(value), read<T>(fit), beta, clip, loss,
                                     gradient, scale, range);
  });
}

Tensor awr_loss_cpu(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                    double clip, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "awr_loss");
  check_like(log_prob, v, "awr_loss");
  return awr_loss_and_gradient(qs, v, log_prob, beta, clip, reduction, Tensor());
}

// With the gradient beside it, since the exponentials are most of the work of both. On a device,
// where a launch costs more than they do, the backward pass computes them again.
Pair awr_loss_forward_cpu(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                          double clip, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "awr_loss_forward");
  check_like(log_prob, v, "awr_loss_forward");
  Tensor d_log_prob = dense_like(v);
  Tensor loss = awr_loss_and_gradient(qs, v, log_prob, beta, clip, reduction, d_log_prob);
  return {loss, d_log_prob};
}

#ifdef IQL_WITH_CUDA

Tensor awr_loss_cuda(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                     double clip, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "awr_loss");
  check_like(log_prob, v, "awr_loss");
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const Tensor value = v.contiguous(), fit = log_prob.contiguous();
  const CudaLoss loss(v, reduction);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_awr<T>(cuda_critics<T>(q, "awr_loss"), read<T>(value), read<T>(fit),
                                     beta, clip, loss.output<T>(), v.numel(), current_stream(v)),
                 "awr_loss");
  });
  return loss.loss;
}

Tensor awr_loss_backward_cuda(const Tensor& d_loss, TensorList qs, const Tensor& v, double beta,
                              double clip, std::int64_t reduction) {
  const char* op = "awr_loss_backward";
  check_critics_loss(qs, v, reduction, op);
  check_d_loss(d_loss, v, reduction, op);
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const Tensor value = v.contiguous(), d = d_loss.contiguous();
  Tensor d_log_prob = dense_like(v);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_awr_backward<T>(cuda_critics<T>(q, op), read<T>(value), beta, clip,
                                              upstream<T>(d, reduction, v.numel()),
                                              written<T>(d_log_prob), v.numel(), current_stream(v)),
                 op);
  });
  return d_log_prob;
}

#endif  // IQL_WITH_CUDA

Tensor awr_loss_meta(TensorList qs, const Tensor& v, const Tensor& log_prob, double, double,
                     std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "awr_loss");
  check_like(log_prob, v, "awr_loss");
  return loss_like(v, reduction);
}

Pair awr_loss_forward_meta(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                           double clip, std::int64_t reduction) {
  return {awr_loss_meta(qs, v, log_prob, beta, clip, reduction), dense_like(v)};
}

Tensor awr_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v, double, double,
                              std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "awr_loss_backward");
  check_d_loss(d_loss, v, reduction, "awr_loss_backward");
  return dense_like(v);
}

// What no gradient flows into: autograd need not look at it.
struct AwrConstants {
  TensorList qs;
  const Tensor& v;
  double beta, clip;
  std::int64_t reduction;
};

struct CpuAwrLoss : torch::autograd::Function<CpuAwrLoss> {
  static Tensor forward(AutogradContext* context, const Tensor& log_prob, const AwrConstants& c) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [loss, d_log_prob] =
        awr_loss_forward_op().call(c.qs, c.v, log_prob, c.beta, c.clip, c.reduction);
    context->save_for_backward({std::move(d_log_prob)});
    return loss;
  }
  static variable_list backward(AutogradContext* context, variable_list d_loss) {
    const variable_list saved = context->get_saved_variables();
    // torch's own operator, for a second derivative: it is linear in d_loss.
    return {call_backward([&] { return at::mul(saved[0], d_loss[0]); }), Tensor()};
  }
};

struct AwrLoss : torch::autograd::Function<AwrLoss> {
  static Tensor forward(AutogradContext* context, TensorList qs, const Tensor& v,
                        const Tensor& log_prob, double beta, double clip, std::int64_t reduction) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved = qs.vec();
    saved.push_back(v);
    context->save_for_backward(std::move(saved));
    context->saved_data["beta"] = beta;
    context->saved_data["clip"] = clip;
    context->saved_data["reduction"] = reduction;
    return awr_loss_op().call(qs, v, log_prob, beta, clip, reduction);
  }
  static variable_list backward(AutogradContext* context, variable_list d_loss) {
    variable_list qs = context->get_saved_variables();
    const Tensor v = qs.back();
    qs.pop_back();
    const double beta = context->saved_data["beta"].toDouble();
    const double clip = context->saved_data["clip"].toDouble();
    const std::int64_t reduction = context->saved_data["reduction"].toInt();
    variable_list gradients(qs.size() + 5);
    Tensor& d_log_prob = gradients[qs.size() + 1];
    if (c10::GradMode::is_enabled()) {
      // In torch's own operators, for a second derivative: it is linear in d_loss.
      const c10::SymFloat n = reduction == kMean ? c10::SymFloat(v.sym_numel()) : 1.0;
      d_log_prob = at::mul(awr_weights_op().call(qs, v, beta, clip),
                           at::mul(d_loss[0], at::Scalar(c10::SymFloat(-1.0) / n)));
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      d_log_prob = awr_loss_backward_op().call(d_loss[0], qs, v, beta, clip, reduction);
    }
    return gradients;
  }
};

Tensor awr_loss_autograd(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                         double clip, std::int64_t reduction) {
  if (c10::GradMode::is_enabled() && log_prob.requires_grad()) {
    return v.is_cpu() ? CpuAwrLoss::apply(log_prob, AwrConstants{qs, v, beta, clip, reduction})
                      : AwrLoss::apply(qs, v, log_prob, beta, clip, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return awr_loss_op().call(qs, v, log_prob, beta, clip, reduction);
}

template <c10::DispatchKey Key>
struct Autocast {
  using Guard = c10::impl::ExcludeDispatchKeyGuard;

  static Tensor awr_weights(TensorList qs, const Tensor& v, double beta, double clip) {
    const Guard no_autocast(Key);
    return awr_weights_op().call(single(qs), single(v), beta, clip);
  }
  static Tensor awr_loss(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                         double clip, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return awr_loss_op().call(single(qs), single(v), single(log_prob), beta, clip, reduction);
  }

  static void register_in(torch::Library& m) {
    m.impl("awr_weights", &Autocast::awr_weights);
    m.impl("awr_loss", &Autocast::awr_loss);
  }
};

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("awr_weights", &iql::ops::awr_weights_cpu);
  m.impl("awr_loss", &iql::ops::awr_loss_cpu);
  m.impl("awr_loss_forward", &iql::ops::awr_loss_forward_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("awr_weights", &iql::ops::awr_weights_cuda);
  m.impl("awr_loss", &iql::ops::awr_loss_cuda);
  m.impl("awr_loss_backward", &iql::ops::awr_loss_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("awr_weights", &iql::ops::awr_weights_meta);
  m.impl("awr_loss", &iql::ops::awr_loss_meta);
  m.impl("awr_loss_forward", &iql::ops::awr_loss_forward_meta);
  m.impl("awr_loss_backward", &iql::ops::awr_loss_backward_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("awr_weights", &iql::ops::awr_weights_autograd);
  m.impl("awr_loss", &iql::ops::awr_loss_autograd);
  // A second derivative is an error that names the operator.
  m.impl("awr_loss_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("awr_loss_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCPU>::register_in(m);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCUDA>::register_in(m);
}
