// Advantage-weighted regression (equation 7) of a diagonal Gaussian as a torch operator. mean,
// action:
// [..., A]; log_std: the same, or [A]; qs, v: [...].
#include <ATen/ops/neg.h>

#include "torch/loss_support.h"

namespace iql::ops {
namespace {

// The operators, for calls from autograd to the kernels below it.
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
  check_critics_loss(qs, v, reduction, op);
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
  check_critics_loss(qs, v, reduction, op);
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
  check_critics_loss(qs, v, reduction, op);
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
  check_critics_loss(qs, v, reduction, op);
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
  check_critics_loss(qs, v, reduction, "gaussian_awr_loss");
  check_gaussian(v, mean, log_std, action, "gaussian_awr_loss");
  return loss_like(v, reduction);
}

Pair gaussian_awr_loss_backward_meta(const Tensor& d_loss, TensorList qs, const Tensor& v,
                                     const Tensor& mean, const Tensor& log_std,
                                     const Tensor& action, double, double, std::int64_t reduction) {
  const char* op = "gaussian_awr_loss_backward";
  check_critics_loss(qs, v, reduction, op);
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

template <c10::DispatchKey Key>
struct Autocast {
  using Guard = c10::impl::ExcludeDispatchKeyGuard;

  static Tensor gaussian_awr_loss(TensorList qs, const Tensor& v, const Tensor& mean,
                                  const Tensor& log_std, const Tensor& action, double beta,
                                  double clip, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return gaussian_awr_loss_op().call(single(qs), single(v), single(mean), single(log_std),
                                       single(action), beta, clip, reduction);
  }

  static void register_in(torch::Library& m) {
    m.impl("gaussian_awr_loss", &Autocast::gaussian_awr_loss);
  }
};

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_cpu);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_cuda);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_meta);
  m.impl("gaussian_awr_loss_backward", &iql::ops::gaussian_awr_loss_backward_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("gaussian_awr_loss", &iql::ops::gaussian_awr_loss_autograd);
  // A second derivative is an error that names the operator.
  m.impl("gaussian_awr_loss_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCPU>::register_in(m);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCUDA>::register_in(m);
}
