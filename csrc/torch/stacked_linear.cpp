// A layer of E stacked MLPs as a torch operator: x * weight + bias, and a ReLU where one follows.
// x: [rows, in] for all E, or [E, rows, in]; weight: [E, in, out]; bias: [E, out].
#include <ATen/autocast_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

#include "torch/op_support.h"

namespace iql::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

const auto& stacked_linear_op() {
  static const auto op = operator_handle<Tensor(const Tensor&, const Tensor&, const Tensor&, bool)>(
      "iql_fast::stacked_linear");
  return op;
}
const auto& stacked_linear_backward_op() {
  static const auto op =
      operator_handle<Triple(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool,
                             bool)>("iql_fast::stacked_linear_backward");
  return op;
}

void check_layer(const Tensor& x, const Tensor& weight, const char* op) {
  check_type(x, op);
  TORCH_CHECK(x.scalar_type() == weight.scalar_type() && x.device() == weight.device(), op,
              ": the tensors must have the same dtype and device");
  TORCH_CHECK(weight.dim() == 3 && (x.dim() == 2 || x.dim() == 3) &&
                  x.sym_size(-1) == weight.sym_size(1) &&
                  (x.dim() == 2 || x.sym_size(0) == weight.sym_size(0)),
              op, ": x has shape ", x.sym_sizes(), " and the weight ", weight.sym_sizes(),
              "; they must be [rows, in] or [E, rows, in], and [E, in, out]");
}

void check_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_layer(x, weight, "stacked_linear");
  TORCH_CHECK(bias.dim() == 2 && bias.sym_size(0) == weight.sym_size(0) &&
                  bias.sym_size(1) == weight.sym_size(2),
              "stacked_linear: the bias has shape ", bias.sym_sizes(), " and the weight ",
              weight.sym_sizes(), "; they must be [E, out] and [E, in, out]");
  TORCH_CHECK(bias.scalar_type() == weight.scalar_type() && bias.device() == weight.device(),
              "stacked_linear: the tensors must have the same dtype and device");
}

Tensor for_each_net(const Tensor& x, const Tensor& weight) {
  return x.dim() == 3 ? x : x.expand({weight.size(0), x.size(0), x.size(1)});
}

// [E, m, k] * [E, k, n]. The CPU's batched product is up to ten times slower than single ones where
// a side is as short as a critic's output.
Tensor product(const Tensor& a, const Tensor& b) {
  constexpr std::int64_t kShort = 8;
  const std::int64_t shortest = std::min({a.size(1), a.size(2), b.size(2)});
  if (!a.is_cpu() || shortest >= kShort || shortest == 0) return at::bmm(a, b);
  Tensor out = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
  for (std::int64_t e = 0; e < a.size(0); ++e) {
    Tensor one = out.select(0, e);
    at::mm_out(one, a.select(0, e), b.select(0, e));
  }
  return out;
}

// out [E, rows, columns] += bias, then the ReLU, in place.
void add_bias_(const Tensor& out, const Tensor& bias, bool relu) {
  const Tensor dense = bias.contiguous();
  const std::int64_t E = out.size(0), rows = out.size(1), columns = out.size(2);
  if (out.numel() == 0) return;
  with_type(out, [&](auto type) {
    using T = decltype(type);
#ifdef IQL_WITH_CUDA
    if (out.is_cuda()) {
      check_launch(cuda::launch_bias_relu<T>(written<T>(out), read<T>(dense), relu, E, rows,
                                             columns, current_stream(out)),
                   "stacked_linear");
      return;
    }
#endif
    share_out(E * rows, std::max<std::int64_t>(1, kGrain / columns), [&](cpu::Range range) {
      cpu::elementwise<T>().bias_relu(written<T>(out), read<T>(dense), relu, rows, columns, range);
    });
  });
}

Tensor stacked_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu) {
  check_linear(x, weight, bias);
  const c10::DeviceGuard guard(x.device());
  Tensor out = product(for_each_net(x, weight), weight);
  add_bias_(out, bias, relu);
  return out;
}

// (d_out where out > 0, its sums over rows)
std::tuple<Tensor, Tensor> relu_backward(const Tensor& d_out, const Tensor& out) {
  const Tensor d = d_out.contiguous(), o = out.contiguous();
  const std::int64_t E = out.size(0), rows = out.size(1), columns = out.size(2);
  Tensor passed = dense_like(out), d_bias = at::empty({E, columns}, out.options());
  if (out.numel() == 0) return {passed, d_bias.zero_()};
  with_type(out, [&](auto type) {
    using T = decltype(type);
#ifdef IQL_WITH_CUDA
    if (out.is_cuda()) {
      check_launch(cuda::launch_bias_relu_backward<T>(read<T>(d), read<T>(o), E, rows, columns,
                                                      written<T>(passed), written<T>(d_bias),
                                                      current_stream(out)),
                   "stacked_linear_backward");
      return;
    }
#endif
    share_out(E, std::max<std::int64_t>(1, kGrain / (rows * columns)), [&](cpu::Range nets) {
      for (std::int64_t e = nets.begin; e < nets.end; ++e) {
        cpu::elementwise<T>().bias_relu_backward(
            read<T>(d), read<T>(o), columns, written<T>(passed), written<T>(d_bias) + e * columns,
            {e * rows, (e + 1) * rows});
      }
    });
  });
  return {passed, d_bias};
}

void check_backward(const Tensor& d_out, const Tensor& x, const Tensor& weight, const Tensor& out) {
  check_layer(x, weight, "stacked_linear_backward");
  check_like(d_out, out, "stacked_linear_backward");
}

Triple stacked_linear_backward(const Tensor& d_out, const Tensor& x, const Tensor& weight,
                               const Tensor& out, bool relu, bool need_x) {
  check_backward(d_out, x, weight, out);
  const c10::DeviceGuard guard(x.device());
  Tensor d = d_out, d_bias;
  if (relu) {
    std::tie(d, d_bias) = relu_backward(d_out, out);
  } else {
    d_bias = at::sum(d_out, 1);
  }
  const Tensor d_weight = product(for_each_net(x, weight).transpose(1, 2), d);
  Tensor d_x = need_x ? product(d, weight.transpose(1, 2)) : at::empty({0}, x.options());
  if (need_x && x.dim() == 2) d_x = at::sum(d_x, 0);
  return {d_x, d_weight, d_bias};
}

Tensor stacked_linear_meta(const Tensor& x, const Tensor& weight, const Tensor& bias, bool) {
  check_linear(x, weight, bias);
  return at::empty_symint({weight.sym_size(0), x.sym_size(-2), weight.sym_size(2)}, x.options());
}

Triple stacked_linear_backward_meta(const Tensor& d_out, const Tensor& x, const Tensor& weight,
                                    const Tensor& out, bool, bool need_x) {
  check_backward(d_out, x, weight, out);
  return {need_x ? dense_like(x) : at::empty({0}, x.options()), dense_like(weight),
          at::empty_symint({weight.sym_size(0), weight.sym_size(2)}, weight.options())};
}

struct StackedLinear : torch::autograd::Function<StackedLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, bool relu) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    Tensor out = stacked_linear_op().call(x, weight, bias, relu);
    context->save_for_backward({x, weight, out});
    context->saved_data["relu"] = relu;
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list d_out) {
    const variable_list saved = context->get_saved_variables();
    const bool need_x = context->needs_input_grad(0);
    const auto [d_x, d_weight, d_bias] = call_backward([&] {
      return stacked_linear_backward_op().call(d_out[0], saved[0], saved[1], saved[2],
                                               context->saved_data["relu"].toBool(), need_x);
    });
    return {need_x ? d_x : Tensor(), d_weight, d_bias, Tensor()};
  }
};

Tensor stacked_linear_autograd(const Tensor& x, const Tensor& weight, const Tensor& bias,
                               bool relu) {
  if (c10::GradMode::is_enabled() &&
      (x.requires_grad() || weight.requires_grad() || bias.requires_grad())) {
    return StackedLinear::apply(x, weight, bias, relu);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return stacked_linear_op().call(x, weight, bias, relu);
}

// Under autocast in its dtype, as torch's linear layers.
template <c10::DispatchKey Key>
Tensor stacked_linear_autocast(const Tensor& x, const Tensor& weight, const Tensor& bias,
                               bool relu) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(Key);
  const auto device = x.device().type();
  const auto dtype = at::autocast::get_autocast_dtype(device);
  return stacked_linear_op().call(at::autocast::cached_cast(dtype, x, device),
                                  at::autocast::cached_cast(dtype, weight, device),
                                  at::autocast::cached_cast(dtype, bias, device), relu);
}

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear);
  m.impl("stacked_linear_backward", &iql::ops::stacked_linear_backward);
}
#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear);
  m.impl("stacked_linear_backward", &iql::ops::stacked_linear_backward);
}
#endif
TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear_meta);
  m.impl("stacked_linear_backward", &iql::ops::stacked_linear_backward_meta);
}
TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear_autograd);
  m.impl("stacked_linear_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  m.impl("stacked_linear", &iql::ops::stacked_linear_autocast<c10::DispatchKey::AutocastCUDA>);
}
