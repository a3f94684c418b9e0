// The expectile loss of V (equation 5) as a torch operator.
#include <ATen/ops/amin.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/stack.h>

#include "torch/loss_support.h"

namespace iql::ops {
namespace {

// The operators, for calls from autograd to the kernels below it.
const auto& expectile_loss_op() {
  static const auto op = operator_handle<Tensor(TensorList, const Tensor&, double, std::int64_t)>(
      "iql_fast::expectile_loss");
  return op;
}
const auto& expectile_loss_backward_op() {
  static const auto op =
      operator_handle<Tensor(const Tensor&, TensorList, const Tensor&, double, std::int64_t)>(
          "iql_fast::expectile_loss_backward");
  return op;
}

Tensor expectile_loss_cpu(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  const DenseList q(qs);
  const Tensor value = v.contiguous();
  return cpu_loss(v, reduction, 1, [&](auto type, auto* loss, cpu::Range range) {
    using T = decltype(type);
    return cpu::elementwise<T>().expectile(q.critics<T>(), read<T>(value), tau, loss, range);
  });
}

Tensor expectile_loss_backward_cpu(const Tensor& d_loss, TensorList qs, const Tensor& v, double tau,
                                   std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  check_d_loss(d_loss, v, reduction, "expectile_loss_backward");
  const DenseList q(qs);
  const Tensor value = v.contiguous(), d = d_loss.contiguous();
  Tensor d_v = dense_like(v);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    share_out(v.numel(), kGrain, [&](cpu::Range range) {
      cpu::elementwise<T>().expectile_backward(q.critics<T>(), read<T>(value), tau,
                                               upstream<T>(d, reduction, v.numel()),
                                               written<T>(d_v), range);
    });
  });
  return d_v;
}

#ifdef IQL_WITH_CUDA

Tensor expectile_loss_cuda(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const Tensor value = v.contiguous();
  const CudaLoss loss(v, reduction);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_expectile<T>(cuda_critics<T>(q, "expectile_loss"), read<T>(value),
                                           tau, loss.output<T>(), v.numel(), current_stream(v)),
                 "expectile_loss");
  });
  return loss.loss;
}

Tensor expectile_loss_backward_cuda(const Tensor& d_loss, TensorList qs, const Tensor& v,
                                    double tau, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  check_d_loss(d_loss, v, reduction, "expectile_loss_backward");
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const Tensor value = v.contiguous(), d = d_loss.contiguous();
  Tensor d_v = dense_like(v);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_expectile_backward<T>(cuda_critics<T>(q, "expectile_loss_backward"),
                                                    read<T>(value), tau,
                                                    upstream<T>(d, reduction, v.numel()),
                                                    written<T>(d_v), v.numel(), current_stream(v)),
                 "expectile_loss_backward");
  });
  return d_v;
}

#endif  // IQL_WITH_CUDA

Tensor expectile_loss_meta(TensorList qs, const Tensor& v, double, std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  return loss_like(v, reduction);
}

Tensor expectile_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v, double,
                                    std::int64_t reduction) {
  check_critics_loss(qs, v, reduction, "expectile_loss");
  check_d_loss(d_loss, v, reduction, "expectile_loss_backward");
  return dense_like(v);
}

struct ExpectileLoss : torch::autograd::Function<ExpectileLoss> {
  static Tensor forward(AutogradContext* context, TensorList qs, const Tensor& v, double tau,
                        std::int64_t reduction) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved = qs.vec();
    saved.push_back(v);
    context->save_for_backward(std::move(saved));
    context->saved_data["tau"] = tau;
    context->saved_data["reduction"] = reduction;
    return expectile_loss_op().call(qs, v, tau, reduction);
  }
  static variable_list backward(AutogradContext* context, variable_list d_loss) {
    variable_list qs = context->get_saved_variables();
    const Tensor v = qs.back();
    qs.pop_back();
    const Tensor d_v = call_backward([&] {
      return expectile_loss_backward_op().call(d_loss[0], qs, v,
                                               context->saved_data["tau"].toDouble(),
                                               context->saved_data["reduction"].toInt());
    });
    // Q as a function of several critics is differentiated outside: only one can have a gradient.
    variable_list gradients(qs.size() + 3);
    if (context->needs_input_grad(0)) gradients[0] = at::neg(d_v);
    gradients[qs.size()] = d_v;
    return gradients;
  }
};

Tensor expectile_loss_autograd(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
  const bool critics = c10::GradMode::is_enabled() && any_needs_gradient(qs);
  if (critics || (c10::GradMode::is_enabled() && v.requires_grad())) {
    if (critics && qs.size() > 1) {
      check_critics_loss(qs, v, reduction, "expectile_loss");
      // Ties share the gradient, as in torch.minimum.
      const Tensor q = at::amin(at::stack(qs), 0);
      return ExpectileLoss::apply(TensorList(q), v, tau, reduction);
    }
    return ExpectileLoss::apply(qs, v, tau, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return expectile_loss_op().call(qs, v, tau, reduction);
}

template <c10::DispatchKey Key>
struct Autocast {
  using Guard = c10::impl::ExcludeDispatchKeyGuard;

  static Tensor expectile_loss(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return expectile_loss_op().call(single(qs), single(v), tau, reduction);
  }

  static void register_in(torch::Library& m) {
    m.impl("expectile_loss", &Autocast::expectile_loss);
  }
};

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_cpu);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_cuda);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_meta);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_autograd);
  // A second derivative is an error that names the operator.
  m.impl("expectile_loss_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCPU>::register_in(m);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCUDA>::register_in(m);
}
