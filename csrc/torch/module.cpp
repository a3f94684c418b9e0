// The extension module iql_fast._C.
#include <pybind11/pybind11.h>

#include "torch/engine_binding.h"

namespace py = pybind11;

#define IQL_TEXT_(x) #x
#define IQL_TEXT(x) IQL_TEXT_(x)

PYBIND11_MODULE(_C, module) {
  module.doc() = "The native part of iql_fast.";
  module.def("build_config", [] {
    py::dict config;
    config["compiler"] = __VERSION__;
    config["torch"] = IQL_TEXT(IQL_TORCH_VERSION);
#ifdef IQL_WITH_CUDA
    config["cuda_architectures"] = IQL_TEXT(IQL_CUDA_ARCHITECTURES);
#else
    config["cuda_architectures"] = "";
#endif
    return config;
  });
  iql::bind_engine(module);
}
