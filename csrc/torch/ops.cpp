// torch.ops.iql_fast: the kernels as torch operators, for CPU and CUDA tensors.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "cpu/elementwise.h"
#ifdef IQL_WITH_CUDA
#include "cuda/elementwise.h"
#ifdef IQL_OLD_TORCH  // before VirtualGuardImpl::getStreamNativeHandle
#include <c10/cuda/CUDAStream.h>
#endif
#endif

namespace iql {
namespace {

using at::Tensor;

void check_pair(const Tensor& a, const Tensor& b, const char* op) {
  TORCH_CHECK(a.sizes() == b.sizes(), op, ": the tensors have shapes ", a.sizes(), " and ",
              b.sizes(), "; they must be equal");
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.device() == b.device(), op,
              ": the tensors must have the same dtype and device");
}

void check_type(const Tensor& a, bool doubles, const char* op) {
  TORCH_CHECK(a.scalar_type() == at::kFloat || (doubles && a.scalar_type() == at::kDouble), op,
              ": dtype ", a.scalar_type(), " is not supported; use float32",
              doubles ? " or float64" : "");
}

Tensor dense_like(const Tensor& a) { return at::empty_like(a, at::MemoryFormat::Contiguous); }

// Calls body with a value of the tensor's type.
template <class Body>
void with_type(const Tensor& a, const Body& body) {
  if (a.scalar_type() == at::kDouble) {
    body(double{});
  } else {
    body(float{});
  }
}

std::tuple<Tensor, Tensor> expectile_cpu(const Tensor& q, const Tensor& v, double tau) {
  check_pair(q, v, "expectile");
  check_type(q, true, "expectile");
  const Tensor q_dense = q.contiguous(), v_dense = v.contiguous();
  Tensor loss = dense_like(q), d_u = dense_like(q);
  with_type(q, [&](auto type) {
    using T = decltype(type);
    cpu::expectile(q_dense.const_data_ptr<T>(), v_dense.const_data_ptr<T>(),
                   loss.mutable_data_ptr<T>(), d_u.mutable_data_ptr<T>(), q.numel(), T(tau));
  });
  return {loss, d_u};
}

Tensor awr_weights_cpu(const Tensor& advantage, double beta, double clip) {
  check_type(advantage, true, "awr_weights");
  const Tensor dense = advantage.contiguous();
  Tensor weight = dense_like(advantage);
  with_type(advantage, [&](auto type) {
    using T = decltype(type);
    cpu::awr_weights(dense.const_data_ptr<T>(), weight.mutable_data_ptr<T>(), dense.numel(),
                     T(beta), T(clip));
  });
  return weight;
}

void polyak_cpu(Tensor& target, const Tensor& source, double alpha) {
  check_pair(target, source, "polyak_");
  check_type(target, true, "polyak_");
  TORCH_CHECK(target.is_contiguous(), "polyak_: the target must be contiguous");
  const Tensor dense = source.contiguous();
  with_type(target, [&](auto type) {
    using T = decltype(type);
    cpu::polyak_(target.mutable_data_ptr<T>(), dense.const_data_ptr<T>(), dense.numel(), T(alpha));
  });
}

#ifdef IQL_WITH_CUDA

void* current_stream(const Tensor& tensor) {
#ifdef IQL_OLD_TORCH
  return c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream();
#else
  // Device-neutral: torch's CUDA headers do not compile under a CPU build of torch.
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  return guard.getStreamNativeHandle(guard.getStream(tensor.device()));
#endif
}

void check_launch(int code, const char* op) {
  TORCH_CHECK(code == 0, op, ": ", cuda::error_name(code));
}

std::tuple<Tensor, Tensor> expectile_cuda(const Tensor& q, const Tensor& v, double tau) {
  check_pair(q, v, "expectile");
  check_type(q, false, "expectile");
  const c10::DeviceGuard guard(q.device());
  const Tensor q_dense = q.contiguous(), v_dense = v.contiguous();
  Tensor loss = dense_like(q), d_u = dense_like(q);
  check_launch(
      cuda::launch_expectile(q_dense.const_data_ptr<float>(), v_dense.const_data_ptr<float>(),
                             loss.mutable_data_ptr<float>(), d_u.mutable_data_ptr<float>(),
                             q.numel(), static_cast<float>(tau), current_stream(q)),
      "expectile");
  return {loss, d_u};
}

Tensor awr_weights_cuda(const Tensor& advantage, double beta, double clip) {
  check_type(advantage, false, "awr_weights");
  const c10::DeviceGuard guard(advantage.device());
  const Tensor dense = advantage.contiguous();
  Tensor weight = dense_like(advantage);
  check_launch(cuda::launch_awr_weights(
                   dense.const_data_ptr<float>(), weight.mutable_data_ptr<float>(), dense.numel(),
                   static_cast<float>(beta), static_cast<float>(clip), current_stream(advantage)),
               "awr_weights");
  return weight;
}

void polyak_cuda(Tensor& target, const Tensor& source, double alpha) {
  check_pair(target, source, "polyak_");
  check_type(target, false, "polyak_");
  TORCH_CHECK(target.is_contiguous(), "polyak_: the target must be contiguous");
  const c10::DeviceGuard guard(target.device());
  const Tensor dense = source.contiguous();
  check_launch(
      cuda::launch_polyak_(target.mutable_data_ptr<float>(), dense.const_data_ptr<float>(),
                           dense.numel(), static_cast<float>(alpha), current_stream(target)),
      "polyak_");
}

#endif  // IQL_WITH_CUDA

std::tuple<Tensor, Tensor> expectile_meta(const Tensor& q, const Tensor& v, double) {
  check_pair(q, v, "expectile");
  return {dense_like(q), dense_like(q)};
}
Tensor awr_weights_meta(const Tensor& advantage, double, double) { return dense_like(advantage); }
void polyak_meta(Tensor&, const Tensor&, double) {}

// The op's second output is its derivative, so backward is one product.
struct ExpectileFunction : torch::autograd::Function<ExpectileFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const Tensor& q, const Tensor& v, double tau) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("iql_fast::expectile", "")
            .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, double)>();
    auto [loss, d_u] = op.call(q, v, tau);
    context->save_for_backward({d_u});
    context->mark_non_differentiable({d_u});
    return {loss, d_u};
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list d_loss) {
    TORCH_CHECK(!d_loss[0].requires_grad(),
                "expectile: a second derivative is not implemented; use "
                "iql_fast.ops.expectile_loss(..., native=False)");
    const Tensor d_q = at::mul(d_loss[0], context->get_saved_variables()[0]);
    return {d_q, at::neg(d_q), Tensor()};
  }
};

std::tuple<Tensor, Tensor> expectile_autograd(const Tensor& q, const Tensor& v, double tau) {
  const auto outputs = ExpectileFunction::apply(q, v, tau);
  return {outputs[0], outputs[1]};
}

}  // namespace
}  // namespace iql

TORCH_LIBRARY(iql_fast, m) {
  m.def("expectile(Tensor q, Tensor v, float tau) -> (Tensor loss, Tensor d_u)",
        {at::Tag::pt2_compliant_tag});
  m.def("awr_weights(Tensor advantage, float beta, float clip) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("polyak_(Tensor(a!) target, Tensor source, float alpha) -> ()",
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("expectile", &iql::expectile_cpu);
  m.impl("awr_weights", &iql::awr_weights_cpu);
  m.impl("polyak_", &iql::polyak_cpu);
}

#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("expectile", &iql::expectile_cuda);
  m.impl("awr_weights", &iql::awr_weights_cuda);
  m.impl("polyak_", &iql::polyak_cuda);
}
#endif

TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("expectile", &iql::expectile_meta);
  m.impl("awr_weights", &iql::awr_weights_meta);
  m.impl("polyak_", &iql::polyak_meta);
}

TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) { m.impl("expectile", &iql::expectile_autograd); }
