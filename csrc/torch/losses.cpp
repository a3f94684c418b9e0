// The losses of IQL as torch operators.
#include <ATen/autocast_mode.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <vector>

#include "torch/op_support.h"

namespace iql::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;

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
const auto& gaussian_awr_loss_op() {
  static const auto op =
      operator_handle<Tensor(TensorList, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                             double, double, std::int64_t)>("iql_fast::gaussian_awr_loss");
  return op;
}
const auto& gaussian_awr_loss_backward_op() {
  static const auto op =
      operator_handle<Pair(const Tensor&, TensorList, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, double, double, std::int64_t)>(
          "iql_fast::gaussian_awr_loss_backward");
  return op;
}

const auto& twin_q_loss_op() {
  static const auto op =
      operator_handle<Tensor(TensorList, const Tensor&, const Tensor&, const Tensor&, double,
                             std::int64_t)>("iql_fast::twin_q_loss");
  return op;
}
const auto& twin_q_loss_backward_op() {
  static const auto op =
      operator_handle<std::vector<Tensor>(const Tensor&, TensorList, const Tensor&, const Tensor&,
                                          const Tensor&, double, std::int64_t)>(
          "iql_fast::twin_q_loss_backward");
  return op;
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

// What a loss of the given terms looks like.
Tensor loss_like(const Tensor& terms, std::int64_t reduction) {
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

void check_d_loss(const Tensor& d_loss, const Tensor& terms, std::int64_t reduction,
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

// The expectile loss.

void check_expectile(TensorList qs, const Tensor& v, std::int64_t reduction) {
  check_critics(qs, v, "expectile_loss");
  check_reduction(reduction, "expectile_loss");
}

Tensor expectile_loss_cpu(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
  check_expectile(qs, v, reduction);
  const DenseList q(qs);
  const Tensor value = v.contiguous();
  return cpu_loss(v, reduction, 1, [&](auto type, auto* loss, cpu::Range range) {
    using T = decltype(type);
    return cpu::elementwise<T>().expectile(q.critics<T>(), read<T>(value), tau, loss, range);
  });
}

Tensor expectile_loss_backward_cpu(const Tensor& d_loss, TensorList qs, const Tensor& v, double tau,
                                   std::int64_t reduction) {
  check_expectile(qs, v, reduction);
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
  check_expectile(qs, v, reduction);
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
  check_expectile(qs, v, reduction);
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
  check_expectile(qs, v, reduction);
  return loss_like(v, reduction);
}

Tensor expectile_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v, double,
                                    std::int64_t reduction) {
  check_expectile(qs, v, reduction);
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

bool any_needs_gradient(TensorList tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor.requires_grad()) return true;
  }
  return false;
}

Tensor expectile_loss_autograd(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
  const bool critics = c10::GradMode::is_enabled() && any_needs_gradient(qs);
  if (critics || (c10::GradMode::is_enabled() && v.requires_grad())) {
    if (critics && qs.size() > 1) {
      check_expectile(qs, v, reduction);
      // Ties share the gradient, as in torch.minimum.
      const Tensor q = at::amin(at::stack(qs), 0);
      return ExpectileLoss::apply(TensorList(q), v, tau, reduction);
    }
    return ExpectileLoss::apply(qs, v, tau, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return expectile_loss_op().call(qs, v, tau, reduction);
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

void check_awr(TensorList qs, const Tensor& v, std::int64_t reduction, const char* op) {
  check_critics(qs, v, op);
  check_reduction(reduction, op);
}

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
  check_awr(qs, v, reduction, "awr_loss");
  check_like(log_prob, v, "awr_loss");
  return awr_loss_and_gradient(qs, v, log_prob, beta, clip, reduction, Tensor());
}

// With the gradient beside it, since the exponentials are most of the work of both. On a device,
// where a launch costs more than they do, the backward pass computes them again.
Pair awr_loss_forward_cpu(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                          double clip, std::int64_t reduction) {
  check_awr(qs, v, reduction, "awr_loss_forward");
  check_like(log_prob, v, "awr_loss_forward");
  Tensor d_log_prob = dense_like(v);
  Tensor loss = awr_loss_and_gradient(qs, v, log_prob, beta, clip, reduction, d_log_prob);
  return {loss, d_log_prob};
}

#ifdef IQL_WITH_CUDA

Tensor awr_loss_cuda(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                     double clip, std::int64_t reduction) {
  check_awr(qs, v, reduction, "awr_loss");
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
  check_awr(qs, v, reduction, op);
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
  check_awr(qs, v, reduction, "awr_loss");
  check_like(log_prob, v, "awr_loss");
  return loss_like(v, reduction);
}

Pair awr_loss_forward_meta(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                           double clip, std::int64_t reduction) {
  return {awr_loss_meta(qs, v, log_prob, beta, clip, reduction), dense_like(v)};
}

Tensor awr_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v, double, double,
                              std::int64_t reduction) {
  check_awr(qs, v, reduction, "awr_loss_backward");
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

// Advantage-weighted regression of a diagonal Gaussian. mean, action: [..., A]; log_std: the same,
// or [A]; qs, v: [...].

void check_gaussian(const Tensor& rows, const Tensor& mean, const Tensor& log_std,
                    const Tensor& action, const char* op) {
  check_like(action, mean, op);
  TORCH_CHECK(
      mean.dim() == rows.dim() + 1 && mean.sym_sizes().slice(0, rows.dim()) == rows.sym_sizes(), op,
      ": the mean has shape ", mean.sym_sizes(), "; it must be that of v, ", rows.sym_sizes(),
      ", and a last axis of action components");
  TORCH_CHECK(log_std.sym_sizes() == mean.sym_sizes() ||
                  log_std.sym_sizes() == mean.sym_sizes().slice(rows.dim()),
              op, ": log_std has shape ", log_std.sym_sizes(),
              "; it must be that of the mean or of one action, and the mean has ",
              mean.sym_sizes());
  for (const Tensor* tensor : {&mean, &log_std}) {
    TORCH_CHECK(tensor->scalar_type() == rows.scalar_type() && tensor->device() == rows.device(),
                op, ": the tensors must have the same dtype and device");
  }
}

// mean, log_std and action, contiguous.
struct DenseGaussian {
  Tensor mean, log_std, action;

  DenseGaussian(const Tensor& mean, const Tensor& log_std, const Tensor& action)
      : mean(mean.contiguous()), log_std(log_std.contiguous()), action(action.contiguous()) {}

  bool shared_log_std() const { return log_std.dim() == 1 && mean.dim() > 1; }

  template <class T>
  Gaussian<T> view() const {
    return {read<T>(mean), read<T>(log_std), read<T>(action), mean.size(-1), shared_log_std()};
  }
};

Tensor gaussian_awr_loss_cpu(TensorList qs, const Tensor& v, const Tensor& mean,
                             const Tensor& log_std, const Tensor& action, double beta, double clip,
                             std::int64_t reduction) {
  const char* op = "gaussian_awr_loss";
  check_awr(qs, v, reduction, op);
  check_gaussian(v, mean, log_std, action, op);
  const DenseList q(qs);
  const DenseGaussian policy(mean, log_std, action);
  const Tensor value = v.contiguous();
  return cpu_loss(v, reduction, mean.size(-1), [&](auto type, auto* loss, cpu::Range rows) {
    using T = decltype(type);
    return cpu::elementwise<T>().gaussian_awr(q.critics<T>(), read<T>(value), policy.view<T>(),
                                              beta, clip, loss, rows);
  });
}

Pair gaussian_awr_loss_backward_cpu(const Tensor& d_loss, TensorList qs, const Tensor& v,
                                    const Tensor& mean, const Tensor& log_std, const Tensor& action,
                                    double beta, double clip, std::int64_t reduction) {
  const char* op = "gaussian_awr_loss_backward";
  check_awr(qs, v, reduction, op);
  check_d_loss(d_loss, v, reduction, op);
  check_gaussian(v, mean, log_std, action, op);
  const DenseList q(qs);
  const DenseGaussian policy(mean, log_std, action);
  const Tensor d = d_loss.contiguous(), value = v.contiguous();
  const std::int64_t n = v.numel(), A = mean.size(-1);
  Tensor d_mean = dense_like(mean), d_log_std = dense_like(log_std);
  with_type(mean, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](double* sums, cpu::Range rows) {
      cpu::elementwise<T>().gaussian_awr_backward(
          q.critics<T>(), read<T>(value), policy.view<T>(), beta, clip,
          upstream<T>(d, reduction, n), written<T>(d_mean),
          policy.shared_log_std() ? nullptr : written<T>(d_log_std), sums, rows);
    };
    const std::int64_t part = std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(A, 1));
    if (!policy.shared_log_std()) {
      share_out(n, part, [&](cpu::Range rows) { run(nullptr, rows); });
      return;
    }
    // Parts of fixed size, summed in their order: the sum does not depend on the threads.
    const std::int64_t parts = (n + part - 1) / part;
    std::vector<double> sums(parts * A);
    at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        run(sums.data() + i * A, {i * part, std::min(n, (i + 1) * part)});
      }
    });
    for (std::int64_t a = 0; a < A; ++a) {
      double sum = 0;
      for (std::int64_t i = 0; i < parts; ++i) sum += sums[i * A + a];
      written<T>(d_log_std)[a] = T(sum);
    }
  });
  return {d_mean, d_log_std};
}

#ifdef IQL_WITH_CUDA

Tensor gaussian_awr_loss_cuda(TensorList qs, const Tensor& v, const Tensor& mean,
                              const Tensor& log_std, const Tensor& action, double beta, double clip,
                              std::int64_t reduction) {
  const char* op = "gaussian_awr_loss";
  check_awr(qs, v, reduction, op);
  check_gaussian(v, mean, log_std, action, op);
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const DenseGaussian policy(mean, log_std, action);
  const Tensor value = v.contiguous();
  const CudaLoss loss(v, reduction);
  with_type(v, [&](auto type) {
    using T = decltype(type);
    check_launch(
        cuda::launch_gaussian_awr<T>(cuda_critics<T>(q, op), read<T>(value), policy.view<T>(), beta,
                                     clip, loss.output<T>(), v.numel(), current_stream(v)),
        op);
  });
  return loss.loss;
}

Pair gaussian_awr_loss_backward_cuda(const Tensor& d_loss, TensorList qs, const Tensor& v,
                                     const Tensor& mean, const Tensor& log_std,
                                     const Tensor& action, double beta, double clip,
                                     std::int64_t reduction) {
  const char* op = "gaussian_awr_loss_backward";
  check_awr(qs, v, reduction, op);
  check_d_loss(d_loss, v, reduction, op);
  check_gaussian(v, mean, log_std, action, op);
  const c10::DeviceGuard guard(v.device());
  const DenseList q(qs);
  const DenseGaussian policy(mean, log_std, action);
  const Tensor d = d_loss.contiguous(), value = v.contiguous();
  const std::int64_t n = v.numel();
  Tensor d_mean = dense_like(mean), d_log_std = dense_like(log_std);
  with_type(mean, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_gaussian_awr_backward<T>(
                     cuda_critics<T>(q, op), read<T>(value), policy.view<T>(), beta, clip,
                     upstream<T>(d, reduction, n), written<T>(d_mean), written<T>(d_log_std), n,
                     current_stream(v)),
                 op);
  });
  return {d_mean, d_log_std};
}

#endif  // IQL_WITH_CUDA

Tensor gaussian_awr_loss_meta(TensorList qs, const Tensor& v, const Tensor& mean,
                              const Tensor& log_std, const Tensor& action, double, double,
                              std::int64_t reduction) {
  check_awr(qs, v, reduction, "gaussian_awr_loss");
  check_gaussian(v, mean, log_std, action, "gaussian_awr_loss");
  return loss_like(v, reduction);
}

Pair gaussian_awr_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v,
                                     const Tensor& mean, const Tensor& log_std,
                                     const Tensor& action, double, double, std::int64_t reduction) {
  const char* op = "gaussian_awr_loss_backward";
  check_awr(qs, v, reduction, op);
  check_d_loss(d_loss, v, reduction, op);
  check_gaussian(v, mean, log_std, action, op);
  return {dense_like(mean), dense_like(log_std)};
}

struct GaussianAwrLoss : torch::autograd::Function<GaussianAwrLoss> {
  static Tensor forward(AutogradContext* context, TensorList qs, const Tensor& v,
                        const Tensor& mean, const Tensor& log_std, const Tensor& action,
                        double beta, double clip, std::int64_t reduction) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved = qs.vec();
    saved.insert(saved.end(), {v, mean, log_std, action});
    context->save_for_backward(std::move(saved));
    context->saved_data["beta"] = beta;
    context->saved_data["clip"] = clip;
    context->saved_data["reduction"] = reduction;
    return gaussian_awr_loss_op().call(qs, v, mean, log_std, action, beta, clip, reduction);
  }
  static variable_list backward(AutogradContext* context, variable_list d_loss) {
    const variable_list saved = context->get_saved_variables();
    const std::size_t critics = saved.size() - 4;
    const auto [d_mean, d_log_std] = call_backward([&] {
      return gaussian_awr_loss_backward_op().call(
          d_loss[0], TensorList(saved.data(), critics), saved[critics], saved[critics + 1],
          saved[critics + 2], saved[critics + 3], context->saved_data["beta"].toDouble(),
          context->saved_data["clip"].toDouble(), context->saved_data["reduction"].toInt());
    });
    variable_list gradients(critics + 7);
    gradients[critics + 1] = d_mean;
    gradients[critics + 2] = d_log_std;
    // log_prob depends on action - mean.
    if (context->needs_input_grad(critics + 3)) gradients[critics + 3] = at::neg(d_mean);
    return gradients;
  }
};

Tensor gaussian_awr_loss_autograd(TensorList qs, const Tensor& v, const Tensor& mean,
                                  const Tensor& log_std, const Tensor& action, double beta,
                                  double clip, std::int64_t reduction) {
  if (c10::GradMode::is_enabled() && any_needs_gradient({mean, log_std, action})) {
    return GaussianAwrLoss::apply(qs, v, mean, log_std, action, beta, clip, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return gaussian_awr_loss_op().call(qs, v, mean, log_std, action, beta, clip, reduction);
}

// The critics' loss. qs: each of the target's shape, or with further axes in front of it.

void check_twin_q(TensorList qs, const Tensor& r, const Tensor& mask, const Tensor& next_v,
                  std::int64_t reduction, const char* op) {
  check_type(r, op);
  check_like(mask, r, op);
  check_like(next_v, r, op);
  check_reduction(reduction, op);
  TORCH_CHECK(!qs.empty(), op, ": there is no critic");
  for (const Tensor& q : qs) {
    const std::int64_t leading = q.dim() - r.dim();
    TORCH_CHECK(leading >= 0 && q.sym_sizes().slice(leading) == r.sym_sizes(), op,
                ": a critic has shape ", q.sym_sizes(), "; it must end in that of r, ",
                r.sym_sizes());
    TORCH_CHECK(q.scalar_type() == r.scalar_type() && q.device() == r.device(), op,
                ": the tensors must have the same dtype and device");
  }
}

template <class T>
TdTarget<T> td_target(const Tensor& r, const Tensor& mask, const Tensor& next_v, double discount) {
  return {read<T>(r), read<T>(mask), read<T>(next_v), discount, r.numel()};
}

Tensor twin_q_loss_cpu(TensorList qs, const Tensor& r, const Tensor& mask, const Tensor& next_v,
                       double discount, std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss");
  const Tensor reward = r.contiguous(), keep = mask.contiguous(), value = next_v.contiguous();
  Tensor each = reduction == kNone ? dense_like(r).zero_() : Tensor();
  const double sum = with_type(r, [&](auto type) {
    using T = decltype(type);
    const auto target = td_target<T>(reward, keep, value, discount);
    double total = 0;
    for (const Tensor& critic : qs) {
      const Tensor q = critic.contiguous();
      if (each.defined()) {  // critics add up in the same places: not shared out
        if (q.numel() > 0) {
          cpu::elementwise<T>().squared_td(read<T>(q), target, written<T>(each), {0, q.numel()});
        }
      } else {
        total += sum_over(q.numel(), 1, [&](cpu::Range range) {
          return cpu::elementwise<T>().squared_td(read<T>(q), target, nullptr, range);
        });
      }
    }
    return total;
  });
  return each.defined() ? each : scalar_loss(sum, r.numel(), reduction, r);
}

std::vector<Tensor> twin_q_loss_backward_cpu(const Tensor& d_loss, TensorList qs, const Tensor& r,
                                             const Tensor& mask, const Tensor& next_v,
                                             double discount, std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss_backward");
  check_d_loss(d_loss, r, reduction, "twin_q_loss_backward");
  const Tensor reward = r.contiguous(), keep = mask.contiguous(), value = next_v.contiguous();
  const Tensor d = d_loss.contiguous();
  std::vector<Tensor> d_qs;
  with_type(r, [&](auto type) {
    using T = decltype(type);
    for (const Tensor& critic : qs) {
      const Tensor q = critic.contiguous();
      d_qs.push_back(dense_like(q));
      share_out(q.numel(), kGrain, [&](cpu::Range range) {
        cpu::elementwise<T>().squared_td_backward(
            read<T>(q), td_target<T>(reward, keep, value, discount),
            upstream<T>(d, reduction, r.numel()), written<T>(d_qs.back()), range);
      });
    }
  });
  return d_qs;
}

#ifdef IQL_WITH_CUDA

// d_qs: of the backward pass; empty in the forward pass.
template <class T>
cuda::TdCritics<T> cuda_td_critics(const DenseList& q, TensorList d_qs, const Tensor& r,
                                   const char* op) {
  TORCH_CHECK(q.tensors.size() <= cuda::kMaxCritics, op, ": on CUDA at most ", cuda::kMaxCritics,
              " critics are supported; stack them");
  cuda::TdCritics<T> critics{};
  critics.count = static_cast<int>(q.tensors.size());
  for (int e = 0; e < critics.count; ++e) {
    critics.q[e] = static_cast<const T*>(q.pointers[e]);
    if (!d_qs.empty()) critics.d_q[e] = written<T>(d_qs[e]);
    critics.repeats[e] = r.numel() == 0 ? 0 : q.tensors[e].numel() / r.numel();
  }
  return critics;
}

Tensor twin_q_loss_cuda(TensorList qs, const Tensor& r, const Tensor& mask, const Tensor& next_v,
                        double discount, std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss");
  const c10::DeviceGuard guard(r.device());
  const DenseList q(qs);
  const Tensor reward = r.contiguous(), keep = mask.contiguous(), value = next_v.contiguous();
  const CudaLoss loss(r, reduction);
  with_type(r, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_squared_td<T>(cuda_td_critics<T>(q, {}, r, "twin_q_loss"),
                                            td_target<T>(reward, keep, value, discount),
                                            loss.output<T>(), current_stream(r)),
                 "twin_q_loss");
  });
  return loss.loss;
}

std::vector<Tensor> twin_q_loss_backward_cuda(const Tensor& d_loss, TensorList qs, const Tensor& r,
                                              const Tensor& mask, const Tensor& next_v,
                                              double discount, std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss_backward");
  check_d_loss(d_loss, r, reduction, "twin_q_loss_backward");
  const c10::DeviceGuard guard(r.device());
  const DenseList q(qs);
  const Tensor reward = r.contiguous(), keep = mask.contiguous(), value = next_v.contiguous();
  const Tensor d = d_loss.contiguous();
  std::vector<Tensor> d_qs;
  for (const Tensor& critic : qs) d_qs.push_back(dense_like(critic));
  with_type(r, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_squared_td_backward<T>(
                     cuda_td_critics<T>(q, d_qs, r, "twin_q_loss_backward"),
                     td_target<T>(reward, keep, value, discount),
                     upstream<T>(d, reduction, r.numel()), current_stream(r)),
                 "twin_q_loss_backward");
  });
  return d_qs;
}

#endif  // IQL_WITH_CUDA

Tensor twin_q_loss_meta(TensorList qs, const Tensor& r, const Tensor& mask, const Tensor& next_v,
                        double, std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss");
  return loss_like(r, reduction);
}

std::vector<Tensor> twin_q_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& r,
                                              const Tensor& mask, const Tensor& next_v, double,
                                              std::int64_t reduction) {
  check_twin_q(qs, r, mask, next_v, reduction, "twin_q_loss_backward");
  check_d_loss(d_loss, r, reduction, "twin_q_loss_backward");
  std::vector<Tensor> d_qs;
  for (const Tensor& q : qs) d_qs.push_back(dense_like(q));
  return d_qs;
}

struct TwinQLoss : torch::autograd::Function<TwinQLoss> {
  static Tensor forward(AutogradContext* context, TensorList qs, const Tensor& r,
                        const Tensor& mask, const Tensor& next_v, double discount,
                        std::int64_t reduction) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved = qs.vec();
    saved.insert(saved.end(), {r, mask, next_v});
    context->save_for_backward(std::move(saved));
    context->saved_data["discount"] = discount;
    context->saved_data["reduction"] = reduction;
    return twin_q_loss_op().call(qs, r, mask, next_v, discount, reduction);
  }
  static variable_list backward(AutogradContext* context, variable_list d_loss) {
    const variable_list saved = context->get_saved_variables();
    const std::size_t critics = saved.size() - 3;
    variable_list gradients = call_backward([&] {
      return twin_q_loss_backward_op().call(d_loss[0], TensorList(saved.data(), critics),
                                            saved[critics], saved[critics + 1], saved[critics + 2],
                                            context->saved_data["discount"].toDouble(),
                                            context->saved_data["reduction"].toInt());
    });
    gradients.resize(critics + 5);
    return gradients;
  }
};

Tensor twin_q_loss_autograd(TensorList qs, const Tensor& r, const Tensor& mask,
                            const Tensor& next_v, double discount, std::int64_t reduction) {
  if (c10::GradMode::is_enabled() && any_needs_gradient(qs)) {
    return TwinQLoss::apply(qs, r, mask, next_v, discount, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return twin_q_loss_op().call(qs, r, mask, next_v, discount, reduction);
}

// Under autocast a loss is computed in float32, as torch's own are.

Tensor single(const Tensor& tensor) {
  return at::autocast::cached_cast(at::kFloat, tensor, tensor.device().type());
}
std::vector<Tensor> single(TensorList tensors) {
  std::vector<Tensor> cast;
  for (const Tensor& tensor : tensors) cast.push_back(single(tensor));
  return cast;
}

template <c10::DispatchKey Key>
struct Autocast {
  using Guard = c10::impl::ExcludeDispatchKeyGuard;

  static Tensor expectile_loss(TensorList qs, const Tensor& v, double tau, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return expectile_loss_op().call(single(qs), single(v), tau, reduction);
  }
  static Tensor awr_weights(TensorList qs, const Tensor& v, double beta, double clip) {
    const Guard no_autocast(Key);
    return awr_weights_op().call(single(qs), single(v), beta, clip);
  }
  static Tensor awr_loss(TensorList qs, const Tensor& v, const Tensor& log_prob, double beta,
                         double clip, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return awr_loss_op().call(single(qs), single(v), single(log_prob), beta, clip, reduction);
  }
  static Tensor gaussian_awr_loss(TensorList qs, const Tensor& v, const Tensor& mean,
                                  const Tensor& log_std, const Tensor& action, double beta,
                                  double clip, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return gaussian_awr_loss_op().call(single(qs), single(v), single(mean), single(log_std),
                                       single(action), beta, clip, reduction);
  }
  static Tensor twin_q_loss(TensorList qs, const Tensor& r, const Tensor& mask,
                            const Tensor& next_v, double discount, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return twin_q_loss_op().call(single(qs), single(r), single(mask), single(next_v), discount,
                                 reduction);
  }

  static void register_in(torch::Library& m) {
    m.impl("expectile_loss", &Autocast::expectile_loss);
    m.impl("awr_weights", &Autocast::awr_weights);
    m.impl("awr_loss", &Autocast::awr_loss);
    m.impl("gaussian_awr_loss", &Autocast::gaussian_awr_loss);
    m.impl("twin_q_loss", &Autocast::twin_q_loss);
  }
};

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_cpu);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_cpu);
  m.impl("awr_weights", &iql::ops::awr_weights_cpu);
  m.impl("awr_loss", &iql::ops::awr_loss_cpu);
  m.impl("awr_loss_forward", &iql::ops::awr_loss_forward_cpu);
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_cpu);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_cpu);
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_cpu);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_cuda);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_cuda);
  m.impl("awr_weights", &iql::ops::awr_weights_cuda);
  m.impl("awr_loss", &iql::ops::awr_loss_cuda);
  m.impl("awr_loss_backward", &iql::ops::awr_loss_backward_cuda);
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_cuda);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_cuda);
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_cuda);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_meta);
  m.impl("expectile_loss_backward", &iql::ops::expectile_loss_backward_meta);
  m.impl("awr_weights", &iql::ops::awr_weights_meta);
  m.impl("awr_loss", &iql::ops::awr_loss_meta);
  m.impl("awr_loss_forward", &iql::ops::awr_loss_forward_meta);
  m.impl("awr_loss_backward", &iql::ops::awr_loss_backward_meta);
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_meta);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_meta);
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_meta);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("expectile_loss", &iql::ops::expectile_loss_autograd);
  m.impl("awr_weights", &iql::ops::awr_weights_autograd);
  m.impl("awr_loss", &iql::ops::awr_loss_autograd);
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_autograd);
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_autograd);
  // A second derivative is an error that names the operator.
  m.impl("awr_loss_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("awr_loss_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("expectile_loss_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("gaussian_awr_loss_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("twin_q_loss_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCPU>::register_in(m);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCUDA>::register_in(m);
}
