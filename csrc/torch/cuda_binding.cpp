// The CUDA engine as Python sees it, where the build has it.
#include "torch/engine_binding.h"

#ifdef IQL_WITH_CUDA
#include <pybind11/stl.h>

#include "cuda/engine.h"
#include "torch/py_engine.h"
#endif

namespace py = pybind11;

namespace iql {

void bind_cuda_engine(py::module_& module) {
#ifdef IQL_WITH_CUDA
  using Engine = PyEngine<cuda::CudaEngine, float>;
  py::enum_<cuda::Precision>(module, "CudaPrecision")
      .value("fp32", cuda::Precision::kFp32)
      .value("bf16x3", cuda::Precision::kBf16x3)
      .value("tf32", cuda::Precision::kTf32);
  py::enum_<cuda::StepForm>(module, "CudaStepForm")
      .value("launches", cuda::StepForm::kLaunches)
      .value("resident", cuda::StepForm::kResident);
  EngineClass<Engine> engine(module, "CudaEngine");
  engine.def(py::init<const engine::Config&, Array<float>, Array<float>, Array<float>, Array<float>,
                      Array<float>, cuda::Precision, int, cuda::StepForm>(),
             py::arg("config"), py::arg("observations"), py::arg("actions"), py::arg("rewards"),
             py::arg("masks"), py::arg("next_observations"), py::arg("precision"),
             py::arg("device"), py::arg("form"));
  bind_methods(engine)
      .def("advance", &Engine::advance, py::arg("steps"))
      .def_property_readonly("seeds_at_once", [](Engine& e) { return e.engine().seeds_at_once(); })
      .def_property_readonly("dataset_on_host",
                             [](Engine& e) { return e.engine().dataset_on_host(); })
      .def(
          "time_launches",
          [](Engine& e, int repeats) {
            const py::gil_scoped_release release;
            return e.engine().time_launches(repeats);
          },
          py::arg("repeats"));
  module.def("cuda_unavailable_reason", &cuda::unavailable_reason, py::arg("device"));
  module.def(
      "cuda_size_reason",
      [](int obs_dim, int act_dim, std::vector<int> hidden, int critics, int batch_size,
         cuda::Precision precision, int device) {
        engine::Config config{obs_dim, act_dim, std::move(hidden), critics, batch_size, {0}, {{}}};
        return cuda::size_reason(config, precision, device);
      },
      py::kw_only(), py::arg("obs_dim"), py::arg("act_dim"), py::arg("hidden"), py::arg("critics"),
      py::arg("batch_size"), py::arg("precision"), py::arg("device"));
  module.def(
      "cuda_resident_reason",
      [](const engine::Config& config, cuda::Precision precision, int device) {
        return cuda::resident_reason(config, precision, device);
      },
      py::arg("config"), py::arg("precision"), py::arg("device"));
#else
  module.def("cuda_unavailable_reason", [](int) {
    return "the extension was built without CUDA (no nvcc was found, or IQL_FAST_CUDA=0 was set)";
  });
#endif
}

}  // namespace iql
