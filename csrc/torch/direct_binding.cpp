// The operators as plain functions: torch.ops puts every argument into a box, and takes it out
// again, which on a few hundred numbers takes longer than the operator.
#include "torch/direct_binding.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <vector>

#include "torch/op_support.h"

namespace py = pybind11;

namespace iql {
namespace {

using at::Tensor;
using at::TensorList;

// What holds an argument while the operator reads it.
template <class Argument>
struct Held {
  using type = Argument;
};
template <>
struct Held<TensorList> {
  using type = const std::vector<Tensor>&;
};

template <class Signature>
struct Operator;

template <class Result, class... Arguments>
struct Operator<Result(Arguments...)> {
  static void bind(py::module_& module, const char* name) {
    const auto op =
        ops::operator_handle<Result(Arguments...)>((std::string("iql_fast::") + name).c_str());
    const bool in_place = name[std::string(name).size() - 1] == '_';
    module.def(name, [op, in_place](typename Held<Arguments>::type... arguments) -> Result {
      try {
        const py::gil_scoped_release no_gil;
        // What writes in place is in no graph.
        std::optional<c10::AutoGradMode> no_grad;
        if (in_place) no_grad.emplace(false);
        return op.call(arguments...);
      } catch (...) {
        torch::translate_exception_to_python(std::current_exception());
        throw py::error_already_set();
      }
    });
  }
};

}  // namespace

void bind_operators(py::module_& module) {
  using Int = std::int64_t;
  using Each = std::vector<Tensor>;
  using In = const Tensor&;
  Operator<Tensor(TensorList, In, double, Int)>::bind(module, "expectile_loss");
  Operator<Tensor(TensorList, In, double, double)>::bind(module, "awr_weights");
  Operator<Tensor(TensorList, In, In, double, double, Int)>::bind(module, "awr_loss");
  Operator<Tensor(TensorList, In, In, In, In, double, double, Int)>::bind(module,
                                                                          "gaussian_awr_loss");
  Operator<Tensor(TensorList, In, In, In, double, Int)>::bind(module, "twin_q_loss");
  Operator<void(TensorList, TensorList, double)>::bind(module, "polyak_update_");
  Operator<void(TensorList, TensorList, TensorList, TensorList, TensorList, TensorList, double,
                double, double, double, double, double)>::bind(module, "adam_");
  Operator<Tensor(In, Int, Int)>::bind(module, "batch_rows_");
  Operator<Each(TensorList, In)>::bind(module, "gather_rows");
  Operator<Tensor(In, TensorList, TensorList)>::bind(module, "stacked_mlp");
}

}  // namespace iql
