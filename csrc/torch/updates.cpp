// The in-place updates as torch operators: Polyak averaging, and Adam with it.
#include <ATen/ops/empty_strided.h>

#include <algorithm>

#include "torch/op_support.h"

namespace iql::ops {
namespace {

// Lists of tensors as one array: places [offsets[i], offsets[i + 1]) are tensor i's.
struct Places {
  c10::SmallVector<std::int64_t, 16> offsets{0};

  explicit Places(TensorList tensors) {
    for (const Tensor& tensor : tensors) offsets.push_back(offsets.back() + tensor.numel());
  }

  // Calls body(tensor, Range within it) for what a thread is given of the array.
  template <class Body>
  void share_out(const Body& body) const {
    const std::int64_t tensors = static_cast<std::int64_t>(offsets.size()) - 1;
    ops::share_out(offsets.back(), kGrain, [&](cpu::Range places) {
      std::int64_t i =
          std::upper_bound(offsets.begin(), offsets.end(), places.begin) - offsets.begin() - 1;
      for (; i < tensors && offsets[i] < places.end; ++i) {
        const std::int64_t begin = std::max(places.begin, offsets[i]);
        const std::int64_t end = std::min(places.end, offsets[i + 1]);
        if (begin < end) body(i, cpu::Range{begin - offsets[i], end - offsets[i]});
      }
    });
  }
};

void check_in_place(TensorList tensors, const char* what, const char* op) {
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.is_non_overlapping_and_dense(), op, ": ", what,
                " must be dense (a whole tensor, or a slice of a flat one)");
  }
}

void check_lists(TensorList a, TensorList b, const char* op) {
  TORCH_CHECK(a.size() == b.size(), op, ": the lists have ", a.size(), " and ", b.size(),
              " tensors");
  for (std::size_t i = 0; i < a.size(); ++i) {
    check_like(a[i], b[i], op);
    check_type(a[i], op);
    TORCH_CHECK(a[i].scalar_type() == a[0].scalar_type() && a[i].device() == a[0].device(), op,
                ": the tensors of a list must have the same dtype and device");
  }
}

// The tensor's numbers in the order of `layout`'s memory: itself, where the strides agree.
Tensor laid_out_like(const Tensor& tensor, const Tensor& layout) {
  if (tensor.strides() == layout.strides() || (tensor.is_contiguous() && layout.is_contiguous())) {
    return tensor;
  }
  return at::empty_strided(layout.sizes(), layout.strides(), tensor.options()).copy_(tensor);
}

void check_polyak(TensorList targets, TensorList params) {
  check_lists(targets, params, "polyak_update_");
}

void polyak_update_cpu(TensorList targets, TensorList params, double alpha) {
  check_polyak(targets, params);
  check_in_place(targets, "a target", "polyak_update_");
  if (targets.empty()) return;
  c10::SmallVector<Tensor, 16> sources;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    sources.push_back(laid_out_like(params[i], targets[i]));
  }
  with_type(targets[0], [&](auto type) {
    using T = decltype(type);
    c10::SmallVector<T*, 16> to;
    c10::SmallVector<const T*, 16> from;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      to.push_back(written<T>(targets[i]));
      from.push_back(read<T>(sources[i]));
    }
    Places(targets).share_out([&](std::int64_t i, cpu::Range range) {
      cpu::elementwise<T>().polyak(to[i], from[i], alpha, range);
    });
  });
}

#ifdef IQL_WITH_CUDA

void polyak_update_cuda(TensorList targets, TensorList params, double alpha) {
  check_polyak(targets, params);
  check_in_place(targets, "a target", "polyak_update_");
  const c10::DeviceGuard guard(targets[0].device());
  with_type(targets[0], [&](auto type) {
    using T = decltype(type);
    c10::SmallVector<Tensor, 16> sources;  // alive until the launch
    for (std::size_t first = 0; first < targets.size(); first += cuda::kMaxTensors) {
      cuda::PolyakList<T> list{};
      for (std::size_t i = first; i < targets.size() && list.count < cuda::kMaxTensors; ++i) {
        sources.push_back(laid_out_like(params[i], targets[i]));
        list.target[list.count] = written<T>(targets[i]);
        list.source[list.count] = read<T>(sources.back());
        list.n[list.count++] = targets[i].numel();
      }
      check_launch(cuda::launch_polyak<T>(list, alpha, current_stream(targets[0])),
                   "polyak_update_");
    }
  });
}

#endif  // IQL_WITH_CUDA

void polyak_update_meta(TensorList targets, TensorList params, double) {
  check_polyak(targets, params);
}

void check_adam(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
                TensorList steps, TensorList targets) {
  check_lists(grads, params, "adam_");
  check_lists(exp_avgs, params, "adam_");
  check_lists(exp_avg_sqs, params, "adam_");
  if (!targets.empty()) check_lists(targets, params, "adam_");
  TORCH_CHECK(steps.size() == params.size(), "adam_: there are ", params.size(), " parameters and ",
              steps.size(), " steps");
  for (const Tensor& step : steps) {
    TORCH_CHECK(step.scalar_type() == at::kFloat && step.dim() == 0,
                "adam_: a step must be a float32 tensor without dimensions");
  }
}

// Counts a step for each parameter; the coefficients of these steps.
c10::SmallVector<AdamStep<double>, 16> count_steps(TensorList steps, double lr, double beta1,
                                                   double beta2, double eps) {
  c10::SmallVector<AdamStep<double>, 16> taken;
  double last = -1;
  for (const Tensor& step : steps) {
    const double t = *written<float>(step) += 1;
    taken.push_back(t == last ? taken.back() : adam_step<double>(lr, t, beta1, beta2, eps));
    last = t;
  }
  return taken;
}

// What goes with a parameter, in the order of its memory: where a tensor lies otherwise, a copy of
// it is updated and copied back.
struct Group {
  Tensor grad, m, v, target;
};

c10::SmallVector<Group, 16> adam_groups(TensorList params, TensorList grads, TensorList exp_avgs,
                                        TensorList exp_avg_sqs, TensorList targets) {
  check_in_place(params, "a parameter", "adam_");
  check_in_place(exp_avgs, "a moment", "adam_");
  check_in_place(exp_avg_sqs, "a moment", "adam_");
  check_in_place(targets, "a target", "adam_");
  c10::SmallVector<Group, 16> groups;
  for (std::size_t i = 0; i < params.size(); ++i) {
    groups.push_back({laid_out_like(grads[i], params[i]), laid_out_like(exp_avgs[i], params[i]),
                      laid_out_like(exp_avg_sqs[i], params[i]),
                      targets.empty() ? Tensor() : laid_out_like(targets[i], params[i])});
  }
  return groups;
}

void write_back(c10::ArrayRef<Group> groups, TensorList exp_avgs, TensorList exp_avg_sqs,
                TensorList targets) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    if (!g.m.is_same(exp_avgs[i])) exp_avgs[i].copy_(g.m);
    if (!g.v.is_same(exp_avg_sqs[i])) exp_avg_sqs[i].copy_(g.v);
    if (g.target.defined() && !g.target.is_same(targets[i])) targets[i].copy_(g.target);
  }
}

void adam_cpu(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
              TensorList steps, TensorList targets, double lr, double beta1, double beta2,
              double eps, double weight_decay, double alpha) {
  check_adam(params, grads, exp_avgs, exp_avg_sqs, steps, targets);
  if (params.empty()) return;
  const auto groups = adam_groups(params, grads, exp_avgs, exp_avg_sqs, targets);
  const auto steps_taken = count_steps(steps, lr, beta1, beta2, eps);
  with_type(params[0], [&](auto type) {
    using T = decltype(type);
    struct Pointers {
      T* weight;
      const T* grad;
      T *m, *v, *target;
    };
    c10::SmallVector<Pointers, 16> pointers;
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Group& g = groups[i];
      pointers.push_back({written<T>(params[i]), read<T>(g.grad), written<T>(g.m), written<T>(g.v),
                          g.target.defined() ? written<T>(g.target) : nullptr});
    }
    Places(params).share_out([&](std::int64_t i, cpu::Range range) {
      const Pointers& p = pointers[i];
      cpu::elementwise<T>().adam(p.weight, p.grad, p.m, p.v, p.target, steps_taken[i], weight_decay,
                                 alpha, range);
    });
  });
  write_back(groups, exp_avgs, exp_avg_sqs, targets);
}

#ifdef IQL_WITH_CUDA

void adam_cuda(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
               TensorList steps, TensorList targets, double lr, double beta1, double beta2,
               double eps, double weight_decay, double alpha) {
  check_adam(params, grads, exp_avgs, exp_avg_sqs, steps, targets);
  if (params.empty()) return;
  const bool on_device = steps[0].is_cuda();
  for (const Tensor& step : steps) {
    TORCH_CHECK(step.is_cuda() == on_device, "adam_: the steps must all be on the same device");
  }
  const c10::DeviceGuard guard(params[0].device());
  void* stream = current_stream(params[0]);
  // Steps on the device are counted and read there, so that a CUDA graph can replay the update.
  const auto groups = adam_groups(params, grads, exp_avgs, exp_avg_sqs, targets);
  const auto steps_taken = on_device ? c10::SmallVector<AdamStep<double>, 16>()
                                     : count_steps(steps, lr, beta1, beta2, eps);
  with_type(params[0], [&](auto type) {
    using T = decltype(type);
    using C = Computed<T>;
    for (std::size_t first = 0; first < params.size(); first += cuda::kMaxTensors) {
      cuda::AdamList<T> list{};
      cuda::StepList counted{};
      for (std::size_t i = first; i < params.size() && list.count < cuda::kMaxTensors; ++i) {
        const Group& g = groups[i];
        const int k = list.count++;
        list.weight[k] = written<T>(params[i]);
        list.gradient[k] = read<T>(g.grad);
        list.m[k] = written<T>(g.m);
        list.v[k] = written<T>(g.v);
        list.target[k] = g.target.defined() ? written<T>(g.target) : nullptr;
        list.n[k] = params[i].numel();
        if (on_device) {
          list.step[k] = counted.step[counted.count++] = written<float>(steps[i]);
        } else {
          const AdamStep<double>& s = steps_taken[i];
          list.coefficients[k] = {C(s.rate), C(s.inverse_root), C(s.one_minus_beta1),
                                  C(s.one_minus_beta2), C(s.epsilon)};
        }
      }
      if (on_device) check_launch(cuda::launch_count_steps(counted, stream), "adam_");
      check_launch(cuda::launch_adam<T>(list, {lr, beta1, beta2, eps, weight_decay, alpha}, stream),
                   "adam_");
    }
  });
  write_back(groups, exp_avgs, exp_avg_sqs, targets);
}

#endif  // IQL_WITH_CUDA

void adam_meta(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
               TensorList steps, TensorList targets, double, double, double, double, double,
               double) {
  check_adam(params, grads, exp_avgs, exp_avg_sqs, steps, targets);
}

// Autograd does not follow these updates: they are for torch.no_grad().
void check_no_gradient(TensorList tensors, const char* op) {
  if (!c10::GradMode::is_enabled()) return;
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK(!tensor.requires_grad(), op,
                " writes into a tensor that requires a gradient; call it under torch.no_grad()");
  }
}

void count_writes(TensorList tensors) {
  for (const Tensor& tensor : tensors) tensor.unsafeGetTensorImpl()->bump_version();
}

void polyak_update_autograd(TensorList targets, TensorList params, double alpha) {
  check_no_gradient(targets, "polyak_update_");
  static const auto op =
      operator_handle<void(TensorList, TensorList, double)>("iql_fast::polyak_update_");
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    op.call(targets, params, alpha);
  }
  count_writes(targets);
}

void adam_autograd(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
                   TensorList steps, TensorList targets, double lr, double beta1, double beta2,
                   double eps, double weight_decay, double alpha) {
  for (const TensorList list : {params, exp_avgs, exp_avg_sqs, targets}) {
    check_no_gradient(list, "adam_");
  }
  static const auto op =
      operator_handle<void(TensorList, TensorList, TensorList, TensorList, TensorList, TensorList,
                           double, double, double, double, double, double)>("iql_fast::adam_");
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    op.call(params, grads, exp_avgs, exp_avg_sqs, steps, targets, lr, beta1, beta2, eps,
            weight_decay, alpha);
  }
  for (const TensorList list : {params, exp_avgs, exp_avg_sqs, steps, targets}) {
    count_writes(list);
  }
}

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("polyak_update_", &iql::ops::polyak_update_cpu);
  m.impl("adam_", &iql::ops::adam_cpu);
}
#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("polyak_update_", &iql::ops::polyak_update_cuda);
  m.impl("adam_", &iql::ops::adam_cuda);
}
#endif
TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("polyak_update_", &iql::ops::polyak_update_meta);
  m.impl("adam_", &iql::ops::adam_meta);
}
TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("polyak_update_", &iql::ops::polyak_update_autograd);
  m.impl("adam_", &iql::ops::adam_autograd);
}
