// The critics' loss (equation 6) as a torch operator. qs: each of the target's shape, or with
// further axes in front of it.
#include "torch/loss_support.h"

namespace iql::ops {
namespace {

// The operators, for calls from autograd to the kernels below it.
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

template <c10::DispatchKey Key>
struct Autocast {
  using Guard = c10::impl::ExcludeDispatchKeyGuard;

  static Tensor twin_q_loss(TensorList qs, const Tensor& r, const Tensor& mask,
                            const Tensor& next_v, double discount, std::int64_t reduction) {
    const Guard no_autocast(Key);
    return twin_q_loss_op().call(single(qs), single(r), single(mask), single(next_v), discount,
                                 reduction);
  }

  static void register_in(torch::Library& m) { m.impl("twin_q_loss", &Autocast::twin_q_loss); }
};

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_cpu);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_cuda);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_meta);
  m.impl("twin_q_loss_backward", &iql::ops::twin_q_loss_backward_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("twin_q_loss", &iql::ops::twin_q_loss_autograd);
  // A second derivative is an error that names the operator.
  m.impl("twin_q_loss_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCPU>::register_in(m);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  iql::ops::Autocast<c10::DispatchKey::AutocastCUDA>::register_in(m);
}
