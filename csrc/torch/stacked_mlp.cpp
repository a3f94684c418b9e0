// E stacked MLPs with ReLU between their layers as a torch operator. x: [rows, in] for all E, or
// [E, rows, in]; weights: [E, in, out] of each layer; biases: [E, out].
//
// On the CPU in float32 and float64 this package's own products compute all layers at once; else
// they are one stacked_linear each.
#include "cpu/stacked_mlp.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <vector>

#include "torch/op_support.h"

namespace iql::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Kept = std::tuple<Tensor, std::vector<Tensor>>;
using Gradients = std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>>;

// Rows below which it does not pay to pack the weights.
constexpr std::int64_t kFewRows = 16;

const auto& stacked_mlp_op() {
  static const auto op =
      operator_handle<Tensor(const Tensor&, TensorList, TensorList)>("iql_fast::stacked_mlp");
  return op;
}
const auto& stacked_mlp_forward_op() {
  static const auto op =
      operator_handle<Kept(const Tensor&, TensorList, TensorList)>("iql_fast::stacked_mlp_forward");
  return op;
}
const auto& stacked_mlp_backward_op() {
  static const auto op =
      operator_handle<Gradients(const Tensor&, const Tensor&, TensorList, TensorList, bool, bool)>(
          "iql_fast::stacked_mlp_backward");
  return op;
}
const auto& stacked_linear_op() {
  static const auto op = operator_handle<Tensor(const Tensor&, const Tensor&, const Tensor&, bool)>(
      "iql_fast::stacked_linear");
  return op;
}

void check_mlp(const Tensor& x, TensorList weights, TensorList biases, const char* op) {
  check_type(x, op);
  TORCH_CHECK(!weights.empty() && weights.size() == biases.size(), op, ": there are ",
              weights.size(), " weights and ", biases.size(), " biases");
  TORCH_CHECK(x.dim() == 2 || x.dim() == 3, op, ": x has shape ", x.sym_sizes(),
              "; it must be [rows, in] or [E, rows, in]");
  const Tensor& first = weights[0];
  for (std::size_t l = 0; l < weights.size(); ++l) {
    const Tensor &weight = weights[l], &bias = biases[l];
    TORCH_CHECK(weight.dim() == 3 && bias.dim() == 2 && weight.sym_size(0) == first.sym_size(0) &&
                    bias.sym_size(0) == first.sym_size(0) && bias.sym_size(1) == weight.sym_size(2),
                op, ": layer ", l, " has a weight of shape ", weight.sym_sizes(),
                " and a bias of shape ", bias.sym_sizes(),
                "; they must be [E, in, out] and [E, out]");
    const c10::SymInt inputs = l == 0 ? x.sym_size(-1) : weights[l - 1].sym_size(2);
    TORCH_CHECK(weight.sym_size(1) == inputs, op, ": layer ", l, " takes ", weight.sym_size(1),
                " numbers and is given ", inputs);
    for (const Tensor* tensor : {&weight, &bias}) {
      TORCH_CHECK(tensor->scalar_type() == x.scalar_type() && tensor->device() == x.device(), op,
                  ": the tensors must have the same dtype and device");
    }
  }
  TORCH_CHECK(x.dim() == 2 || x.sym_size(0) == first.sym_size(0), op, ": x has shape ",
              x.sym_sizes(), " for ", first.sym_size(0), " networks");
}

// Whether the products here take these networks; it depends on no number of rows. Of one layer with
// few outputs the library's are faster.
bool taken(const Tensor& x, TensorList weights) {
  return (x.is_cpu() || x.is_meta()) &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble) &&
         (weights.size() > 1 || weights.back().sym_size(2) > cpu::StackedMlp<float>::kWidestHead);
}

Tensor layer_by_layer(const Tensor& x, TensorList weights, TensorList biases) {
  Tensor out = x;
  for (std::size_t l = 0; l < weights.size(); ++l) {
    out = stacked_linear_op().call(out, weights[l], biases[l], l + 1 < weights.size());
  }
  return out;
}

template <class T>
cpu::StackedMlp<T> stacked_mlp_of(const Tensor& x, TensorList weights) {
  std::vector<int> sizes{static_cast<int>(x.size(-1))};
  for (const Tensor& weight : weights) sizes.push_back(static_cast<int>(weight.size(2)));
  const auto share = [](std::int64_t n, const std::function<void(cpu::Range)>& body) {
    share_out(n, 1, body);
  };
  return cpu::StackedMlp<T>(static_cast<int>(weights[0].size(0)), std::move(sizes), x.size(-2),
                            at::get_num_threads(), share);
}

template <class T>
c10::SmallVector<T*, 8> written_list(TensorList tensors) {
  c10::SmallVector<T*, 8> pointers;
  for (const Tensor& tensor : tensors) pointers.push_back(written<T>(tensor));
  return pointers;
}

Tensor run_forward(const Tensor& x, TensorList weights, TensorList biases, TensorList hidden) {
  const Tensor input = x.contiguous();
  const DenseList weight(weights), bias(biases);
  Tensor out = at::empty({weights[0].size(0), x.size(-2), weights.back().size(2)}, x.options());
  with_type(x, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, BFloat16>) {
      const auto kept = written_list<T>(hidden);
      stacked_mlp_of<T>(x, weights)
          .forward(read<T>(input), x.dim() == 2, {weight.each<T>(), bias.each<T>()},
                   hidden.empty() ? nullptr : kept.data(), written<T>(out));
    }
  });
  return out;
}

Tensor stacked_mlp(const Tensor& x, TensorList weights, TensorList biases) {
  check_mlp(x, weights, biases, "stacked_mlp");
  if (!taken(x, weights) || x.size(-2) < kFewRows) return layer_by_layer(x, weights, biases);
  return run_forward(x, weights, biases, {});
}

Tensor empty_out(const Tensor& x, TensorList weights) {
  return at::empty_symint({weights[0].sym_size(0), x.sym_size(-2), weights.back().sym_size(2)},
                          x.options());
}

// The activations for the backward pass, [E, rows, columns rounded up], in the kernels' own order.
std::vector<Tensor> empty_hidden(const Tensor& x, TensorList weights) {
  constexpr int kWidest = cpu::StackedMlp<float>::kWidest;
  std::vector<Tensor> hidden;
  for (const Tensor& weight : weights.slice(0, weights.size() - 1)) {
    const c10::SymInt columns = (weight.sym_size(2) + (kWidest - 1)) / kWidest * kWidest;
    hidden.push_back(at::empty_symint({weight.sym_size(0), x.sym_size(-2), columns}, x.options()));
  }
  return hidden;
}

void check_taken(const Tensor& x, TensorList weights, const char* op) {
  TORCH_CHECK(taken(x, weights), op, ": only for float32 and float64 on the CPU, with a hidden ",
              "layer or more than ", cpu::StackedMlp<float>::kWidestHead, " outputs");
}

Kept stacked_mlp_forward(const Tensor& x, TensorList weights, TensorList biases) {
  check_mlp(x, weights, biases, "stacked_mlp_forward");
  check_taken(x, weights, "stacked_mlp_forward");
  std::vector<Tensor> hidden = empty_hidden(x, weights);
  for (std::size_t l = 0; l < hidden.size(); ++l) {
    // Where this machine's panels are narrower, some of the last columns are in none, so nothing
    // writes them; but what an operator puts out is compared as a whole.
    if (hidden[l].size(2) != weights[l].size(2)) hidden[l].zero_();
  }
  Tensor out = run_forward(x, weights, biases, hidden);
  return {out, std::move(hidden)};
}

Gradients empty_gradients(const Tensor& d_out, const Tensor& x, TensorList weights,
                          TensorList hidden, bool need_x, bool need_weights) {
  const char* op = "stacked_mlp_backward";
  check_taken(x, weights, op);
  TORCH_CHECK(hidden.size() + 1 == weights.size(), op, ": there are ", hidden.size(),
              " activations for ", weights.size(), " layers");
  const Tensor& head = weights.back();
  TORCH_CHECK(d_out.dim() == 3 && d_out.sym_size(0) == head.sym_size(0) &&
                  d_out.sym_size(1) == x.sym_size(-2) && d_out.sym_size(2) == head.sym_size(2) &&
                  d_out.scalar_type() == x.scalar_type() && d_out.device() == x.device(),
              op, ": the gradient has shape ", d_out.sym_sizes(), "; it must be like the output");
  Gradients gradients;
  auto& [d_x, d_weights, d_biases] = gradients;
  d_x = need_x ? dense_like(x) : at::empty({0}, x.options());
  if (need_weights) {
    for (const Tensor& weight : weights) {
      d_weights.push_back(dense_like(weight));
      d_biases.push_back(
          at::empty_symint({weight.sym_size(0), weight.sym_size(2)}, weight.options()));
    }
  }
  return gradients;
}

Gradients stacked_mlp_backward(const Tensor& d_out, const Tensor& x, TensorList weights,
                               TensorList hidden, bool need_x, bool need_weights) {
  Gradients gradients = empty_gradients(d_out, x, weights, hidden, need_x, need_weights);
  auto& [d_x, d_weights, d_biases] = gradients;
  if (x.size(-2) == 0) {
    for (const auto* list : {&d_weights, &d_biases}) {
      for (const Tensor& tensor : *list) tensor.zero_();
    }
    return gradients;
  }
  const Tensor d = d_out.contiguous(), input = x.contiguous();
  const DenseList weight(weights), kept(hidden);
  const bool shared = x.dim() == 2;
  // Each net's own; they add up where x is shared.
  Tensor each = d_x;
  if (need_x && shared) each = at::empty({d.size(0), x.size(0), x.size(1)}, x.options());
  with_type(x, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, BFloat16>) {
      const auto d_w = written_list<T>(d_weights), d_b = written_list<T>(d_biases);
      stacked_mlp_of<T>(x, weights)
          .backward(read<T>(d), read<T>(input), shared, {weight.each<T>(), nullptr}, kept.each<T>(),
                    need_x ? written<T>(each) : nullptr, need_weights ? d_w.data() : nullptr,
                    need_weights ? d_b.data() : nullptr);
    }
  });
  if (need_x && shared) d_x = at::sum(each, 0);
  return gradients;
}

Tensor stacked_mlp_meta(const Tensor& x, TensorList weights, TensorList biases) {
  check_mlp(x, weights, biases, "stacked_mlp");
  return empty_out(x, weights);
}

Kept stacked_mlp_forward_meta(const Tensor& x, TensorList weights, TensorList biases) {
  check_mlp(x, weights, biases, "stacked_mlp_forward");
  return {empty_out(x, weights), empty_hidden(x, weights)};
}

struct StackedMlpFunction : torch::autograd::Function<StackedMlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, TensorList weights,
                        TensorList biases) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [out, hidden] = stacked_mlp_forward_op().call(x, weights, biases);
    variable_list saved{x};
    saved.insert(saved.end(), weights.begin(), weights.end());
    saved.insert(saved.end(), hidden.begin(), hidden.end());
    context->save_for_backward(std::move(saved));
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list d_out) {
    const variable_list saved = context->get_saved_variables();
    const std::size_t layers = saved.size() / 2;
    const TensorList weights(saved.data() + 1, layers);
    const TensorList hidden(saved.data() + 1 + layers, layers - 1);
    bool need_weights = false;
    for (std::size_t i = 1; i <= 2 * layers; ++i) need_weights |= context->needs_input_grad(i);
    const bool need_x = context->needs_input_grad(0);
    const auto [d_x, d_weights, d_biases] = call_backward([&] {
      return stacked_mlp_backward_op().call(d_out[0], saved[0], weights, hidden, need_x,
                                            need_weights);
    });
    variable_list gradients(1 + 2 * layers);
    if (need_x) gradients[0] = d_x;
    for (std::size_t l = 0; l < d_weights.size(); ++l) {
      gradients[1 + l] = d_weights[l];
      gradients[1 + layers + l] = d_biases[l];
    }
    return gradients;
  }
};

bool any_needs_gradient(TensorList tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor.requires_grad()) return true;
  }
  return false;
}

Tensor stacked_mlp_autograd(const Tensor& x, TensorList weights, TensorList biases) {
  if (c10::GradMode::is_enabled() &&
      (x.requires_grad() || any_needs_gradient(weights) || any_needs_gradient(biases))) {
    check_mlp(x, weights, biases, "stacked_mlp");
    return taken(x, weights) ? StackedMlpFunction::apply(x, weights, biases)
                             : layer_by_layer(x, weights, biases);
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return stacked_mlp_op().call(x, weights, biases);
}

// Under autocast in its dtype, as torch's linear layers.
template <c10::DispatchKey Key>
Tensor stacked_mlp_autocast(const Tensor& x, TensorList weights, TensorList biases) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(Key);
  const auto device = x.device().type();
  const auto dtype = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](TensorList tensors) {
    std::vector<Tensor> made;
    for (const Tensor& tensor : tensors) {
      made.push_back(at::autocast::cached_cast(dtype, tensor, device));
    }
    return made;
  };
  return stacked_mlp_op().call(at::autocast::cached_cast(dtype, x, device), cast(weights),
                               cast(biases));
}

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("stacked_mlp", &iql::ops::stacked_mlp);
  m.impl("stacked_mlp_forward", &iql::ops::stacked_mlp_forward);
  m.impl("stacked_mlp_backward", &iql::ops::stacked_mlp_backward);
}
#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) { m.impl("stacked_mlp", &iql::ops::stacked_mlp); }
#endif
TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("stacked_mlp", &iql::ops::stacked_mlp_meta);
  m.impl("stacked_mlp_forward", &iql::ops::stacked_mlp_forward_meta);
  m.impl("stacked_mlp_backward", &iql::ops::empty_gradients);
}
TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("stacked_mlp", &iql::ops::stacked_mlp_autograd);
  m.impl("stacked_mlp_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("stacked_mlp_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCPU, m) {
  m.impl("stacked_mlp", &iql::ops::stacked_mlp_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(iql_fast, AutocastCUDA, m) {
  m.impl("stacked_mlp", &iql::ops::stacked_mlp_autocast<c10::DispatchKey::AutocastCUDA>);
}
