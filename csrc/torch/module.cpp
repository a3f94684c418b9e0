// The extension module iql_fast._C.
#include <pybind11/pybind11.h>

#include "torch/direct_binding.h"
#include "torch/engine_binding.h"

namespace py = pybind11;

#if defined(__clang__)
#define IQL_COMPILER __VERSION__
#else
#define IQL_COMPILER "GCC " __VERSION__
#endif

PYBIND11_MODULE(_C, module) {
  module.doc() = "The native part of iql_fast.";
  module.def(
      "build_config",
      [] {
        py::dict config;
        config["compiler"] = IQL_COMPILER;
        config["flags"] = IQL_CORE_FLAGS;
        config["torch"] = IQL_TORCH_VERSION;
#ifdef IQL_WITH_CUDA
        config["cuda_architectures"] = IQL_CUDA_ARCHITECTURES;
#else
        config["cuda_architectures"] = "";
#endif
        return config;
      },
      "How this module was built; cuda_architectures is empty where the CUDA code was left out.");
  pybind11::module_ operators = module.def_submodule("ops", "torch.ops.iql_fast, called directly.");
  iql::bind_operators(operators);
  iql::bind_engine(module);
  iql::bind_cuda_engine(module);
}
