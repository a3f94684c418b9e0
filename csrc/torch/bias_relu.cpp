// relu(x + bias) as a torch operator. x: [rows, columns]; or [E, ..., columns] with a bias
// [E, columns] of E stacked layers.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include "torch/op_support.h"

namespace iql::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;

void check_bias(const Tensor& x, const Tensor& bias) {
  check_type(x, "bias_relu");
  TORCH_CHECK(x.scalar_type() == bias.scalar_type() && x.device() == bias.device(),
              "bias_relu: x and the bias must have the same dtype and device");
  const bool one = bias.dim() == 1 && x.dim() >= 1;
  const bool stacked = bias.dim() == 2 && x.dim() >= 2 && x.sym_size(0) == bias.sym_size(0);
  TORCH_CHECK((one || stacked) && x.sym_size(-1) == bias.sym_size(-1), "bias_relu: x has shape ",
              x.sym_sizes(), " and the bias ", bias.sym_sizes(),
              "; the bias must be [columns], or [E, columns] for x [E, ..., columns]");
}

// Rows of x, and how many of them each bias is for.
struct Rows {
  std::int64_t count, columns, per_bias;

  Rows(const Tensor& x, std::int64_t biases)
      : count(x.size(-1) == 0 ? 0 : x.numel() / x.size(-1)),
        columns(x.size(-1)),
        per_bias(biases == 0 ? 0 : count / biases) {}
};

Tensor bias_relu_cpu(const Tensor& x, const Tensor& bias) {
  check_bias(x, bias);
  const Tensor in = x.contiguous(), b = bias.contiguous();
  Tensor out = dense_like(x);
  const Rows rows(x, bias.dim() == 2 ? bias.size(0) : 1);
  if (out.numel() == 0) return out;
  with_type(x, [&](auto type) {
    using T = decltype(type);
    share_out(rows.count, std::max<std::int64_t>(1, kGrain / rows.columns), [&](cpu::Range range) {
      cpu::elementwise<T>().bias_relu(read<T>(in), read<T>(b), rows.per_bias, rows.columns,
                                      written<T>(out), range);
    });
  });
  return out;
}

// biases: 0 where the bias has no leading axis, else E.
Tensor bias_like(const Tensor& out, std::int64_t biases) {
  return biases == 0 ? at::empty_symint({out.sym_size(-1)}, out.options())
                     : at::empty_symint({biases, out.sym_size(-1)}, out.options());
}

void check_backward(const Tensor& d_out, const Tensor& out, std::int64_t biases) {
  check_type(out, "bias_relu_backward");
  check_like(d_out, out, "bias_relu_backward");
  TORCH_CHECK(biases == 0 || (out.dim() >= 2 && out.sym_size(0) == biases),
              "bias_relu_backward: the output has shape ", out.sym_sizes(), ", not ", biases,
              " layers");
}

Pair bias_relu_backward_cpu(const Tensor& d_out, const Tensor& out, std::int64_t biases) {
  check_backward(d_out, out, biases);
  const Tensor d = d_out.contiguous(), o = out.contiguous();
  Tensor d_x = dense_like(out), d_bias = bias_like(out, biases);
  if (out.numel() == 0) return {d_x, d_bias.zero_()};
  const std::int64_t layers = std::max<std::int64_t>(biases, 1);
  const Rows rows(out, layers);
  with_type(out, [&](auto type) {
    using T = decltype(type);
    const std::int64_t work = rows.per_bias * rows.columns;
    share_out(layers, std::max<std::int64_t>(1, kGrain / work), [&](cpu::Range range) {
      for (std::int64_t e = range.begin; e < range.end; ++e) {
        cpu::elementwise<T>().bias_relu_backward(
            read<T>(d), read<T>(o), rows.columns, written<T>(d_x),
            written<T>(d_bias) + e * rows.columns, {e * rows.per_bias, (e + 1) * rows.per_bias});
      }
    });
  });
  return {d_x, d_bias};
}

#ifdef IQL_WITH_CUDA

Tensor bias_relu_cuda(const Tensor& x, const Tensor& bias) {
  check_bias(x, bias);
  const c10::DeviceGuard guard(x.device());
  const Tensor in = x.contiguous(), b = bias.contiguous();
  Tensor out = dense_like(x);
  const std::int64_t layers = bias.dim() == 2 ? bias.size(0) : 1;
  const Rows rows(x, layers);
  with_type(x, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_bias_relu<T>(read<T>(in), read<T>(b), layers, rows.per_bias,
                                           rows.columns, written<T>(out), current_stream(x)),
                 "bias_relu");
  });
  return out;
}

Pair bias_relu_backward_cuda(const Tensor& d_out, const Tensor& out, std::int64_t biases) {
  check_backward(d_out, out, biases);
  const c10::DeviceGuard guard(out.device());
  const Tensor d = d_out.contiguous(), o = out.contiguous();
  Tensor d_x = dense_like(out), d_bias = bias_like(out, biases);
  const std::int64_t layers = std::max<std::int64_t>(biases, 1);
  const Rows rows(out, layers);
  with_type(out, [&](auto type) {
    using T = decltype(type);
    check_launch(cuda::launch_bias_relu_backward<T>(read<T>(d), read<T>(o), layers, rows.per_bias,
                                                    rows.columns, written<T>(d_x),
                                                    written<T>(d_bias), current_stream(out)),
                 "bias_relu_backward");
  });
  return {d_x, d_bias};
}

#endif  // IQL_WITH_CUDA

Tensor bias_relu_meta(const Tensor& x, const Tensor& bias) {
  check_bias(x, bias);
  return dense_like(x);
}

Pair bias_relu_backward_meta(const Tensor& d_out, const Tensor& out, std::int64_t biases) {
  check_backward(d_out, out, biases);
  return {dense_like(out), bias_like(out, biases)};
}

const auto& bias_relu_op() {
  static const auto op =
      operator_handle<Tensor(const Tensor&, const Tensor&)>("iql_fast::bias_relu");
  return op;
}

struct BiasRelu : torch::autograd::Function<BiasRelu> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& bias) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    Tensor out = bias_relu_op().call(x, bias);
    context->save_for_backward({out});
    context->saved_data["biases"] = bias.dim() == 2 ? bias.size(0) : std::int64_t{0};
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list d_out) {
    static const auto op = operator_handle<Pair(const Tensor&, const Tensor&, std::int64_t)>(
        "iql_fast::bias_relu_backward");
    const Tensor out = context->get_saved_variables()[0];
    const auto [d_x, d_bias] = call_backward(
        [&] { return op.call(d_out[0], out, context->saved_data["biases"].toInt()); });
    return {d_x, d_bias};
  }
};

Tensor bias_relu_autograd(const Tensor& x, const Tensor& bias) {
  if (c10::GradMode::is_enabled() && (x.requires_grad() || bias.requires_grad())) {
    return BiasRelu::apply(x, bias);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return bias_relu_op().call(x, bias);
}

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("bias_relu", &iql::ops::bias_relu_cpu);
  m.impl("bias_relu_backward", &iql::ops::bias_relu_backward_cpu);
}
#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("bias_relu", &iql::ops::bias_relu_cuda);
  m.impl("bias_relu_backward", &iql::ops::bias_relu_backward_cuda);
}
#endif
TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("bias_relu", &iql::ops::bias_relu_meta);
  m.impl("bias_relu_backward", &iql::ops::bias_relu_backward_meta);
}
TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("bias_relu", &iql::ops::bias_relu_autograd);
  m.impl("bias_relu_backward", torch::autograd::autogradNotImplementedFallback());
}
