// What the files of torch.ops.iql_fast share: argument checks, dtypes, sharing out among threads,
// and the current CUDA stream.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#ifdef IQL_OLD_TORCH  // before VirtualGuardImpl::getStreamNativeHandle
#include <c10/cuda/CUDAStream.h>
#endif

#include "cpu/elementwise.h"
#ifdef IQL_WITH_CUDA
#include "cuda/elementwise.h"
#endif

namespace iql::ops {

using at::Tensor;
using at::TensorList;

// How a loss is reduced; the numbers are those of torch's own losses (at::Reduction).
enum Reduction : std::int64_t { kNone = 0, kMean = 1, kSum = 2 };

inline void check_like(const Tensor& tensor, const Tensor& other, const char* op) {
  TORCH_CHECK(tensor.sym_sizes() == other.sym_sizes(), op, ": the tensors have shapes ",
              tensor.sym_sizes(), " and ", other.sym_sizes(), "; they must be equal");
  TORCH_CHECK(tensor.scalar_type() == other.scalar_type(), op, ": the tensors have dtypes ",
              tensor.scalar_type(), " and ", other.scalar_type(),
              "; they must have the same dtype");
  TORCH_CHECK(tensor.device() == other.device(), op, ": the tensors are on ", tensor.device(),
              " and ", other.device(), "; they must be on the same device");
}

inline void check_type(const Tensor& a, const char* op) {
  TORCH_CHECK(a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble ||
                  a.scalar_type() == at::kBFloat16,
              op, ": dtype ", a.scalar_type(),
              " is not supported; use float32, float64 or bfloat16");
}

inline void check_reduction(std::int64_t reduction, const char* op) {
  TORCH_CHECK(reduction == kNone || reduction == kMean || reduction == kSum, op,
              ": the reduction is ", reduction, "; it must be 0 (none), 1 (mean) or 2 (sum)");
}

// Critics that are all like `like`; at least one.
inline void check_critics(TensorList qs, const Tensor& like, const char* op) {
  TORCH_CHECK(!qs.empty(), op, ": there is no critic");
  for (const Tensor& q : qs) check_like(q, like, op);
  check_type(like, op);
}

// Calls body with a value of the type that holds the tensor's numbers.
template <class Body>
decltype(auto) with_type(const Tensor& a, const Body& body) {
  switch (a.scalar_type()) {
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

inline Tensor dense_like(const Tensor& a) {
  return at::empty_like(a, at::MemoryFormat::Contiguous);
}

template <class T>
const T* read(const Tensor& dense) {
  return static_cast<const T*>(dense.const_data_ptr());
}
template <class T>
T* written(const Tensor& dense) {
  return static_cast<T*>(dense.mutable_data_ptr());
}

// Contiguous copies of some tensors, where they are not contiguous themselves.
struct DenseList {
  c10::SmallVector<Tensor, 4> tensors;
  c10::SmallVector<const void*, 4> pointers;

  explicit DenseList(TensorList list) {
    for (const Tensor& tensor : list) {
      tensors.push_back(tensor.contiguous());
      pointers.push_back(tensors.back().const_data_ptr());
    }
  }
  template <class T>
  const T* const* each() const {
    return reinterpret_cast<const T* const*>(pointers.data());
  }
  template <class T>
  cpu::Critics<T> critics() const {
    return {each<T>(), static_cast<int>(pointers.size())};
  }
};

// Elements below which a loop is not worth sharing out among threads, as torch has it.
constexpr std::int64_t kGrain = 32768;

// Calls body(Range) for parts of [0, n), on torch's threads.
template <class Body>
void share_out(std::int64_t n, std::int64_t grain, const Body& body) {
  at::parallel_for(0, n, grain,
                   [&](std::int64_t begin, std::int64_t end) { body(cpu::Range{begin, end}); });
}

// The sum of body(Range) over [0, n). Parts of fixed size are summed in their order, so that it
// does not depend on the number of threads. `weight`: elements' work that one of the n means.
template <class Body>
double sum_over(std::int64_t n, std::int64_t weight, const Body& body) {
  const std::int64_t part =
      std::max<std::int64_t>(1, kGrain / 2 / std::max<std::int64_t>(weight, 1));
  if (n <= part) return n == 0 ? 0.0 : body(cpu::Range{0, n});
  const std::int64_t parts = (n + part - 1) / part;
  c10::SmallVector<double, 64> sums(parts);
  at::parallel_for(0, parts, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      sums[i] = body(cpu::Range{i * part, std::min(n, (i + 1) * part)});
    }
  });
  double sum = 0;
  for (const double one : sums) sum += one;
  return sum;
}

// A reduced loss as a tensor without dimensions. The mean of nothing is NaN, as in torch.
inline Tensor scalar_loss(double sum, std::int64_t n, std::int64_t reduction, const Tensor& like) {
  Tensor loss = at::empty({}, like.options());
  with_type(like, [&](auto type) {
    using T = decltype(type);
    *written<T>(loss) = T(reduction == kMean ? sum / double(n) : sum);
  });
  return loss;
}

// Where a loss that was reduced so sends its gradient.
template <class T>
Upstream<T> upstream(const Tensor& dense_d_loss, std::int64_t reduction, std::int64_t n) {
  return {read<T>(dense_d_loss), reduction == kNone, reduction == kMean ? 1.0 / double(n) : 1.0};
}

// The kernel of an operator below autograd.
template <class Signature>
auto operator_handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Calls a backward operator: above autograd only where a second derivative may be asked for, so
// that asking for one is an error.
template <class Call>
auto call_backward(const Call& call) {
  if (c10::GradMode::is_enabled()) return call();
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call();
}

#ifdef IQL_WITH_CUDA

inline void* current_stream(const Tensor& tensor) {
#ifdef IQL_OLD_TORCH
  return c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream();
#else
  // Device-neutral: torch's CUDA headers do not compile under a CPU build of torch.
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  return guard.getStreamNativeHandle(guard.getStream(tensor.device()));
#endif
}

inline void check_launch(int code, const char* op) {
  TORCH_CHECK(code == 0, op, ": ", cuda::error_name(code));
}

#endif  // IQL_WITH_CUDA

}  // namespace iql::ops
