// The configuration of an engine, and the CPU engine, as Python sees them.
#include "torch/engine_binding.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/memory.h"
#include "cpu/product_times.h"
#include "engine/cpu_engine.h"
#include "torch/py_engine.h"

namespace py = pybind11;

namespace iql {
namespace {

using engine::Config;

template <class T, class Operand = T>
void bind_cpu_engine(py::module_& module, const char* name) {
  using Engine = PyEngine<engine::CpuEngine<T, Operand>, T>;
  EngineClass<Engine> engine(module, name);
  engine.def(py::init<const Config&, Array<float>, Array<float>, Array<float>, Array<float>,
                      Array<float>>(),
             py::arg("config"), py::arg("observations"), py::arg("actions"), py::arg("rewards"),
             py::arg("masks"), py::arg("next_observations"));
  bind_methods(engine).def_property_readonly("kernel_set",
                                             [](Engine& e) { return e.engine().kernel_set(); });
}

// Of the sets in the list that this machine can run.
template <class Set>
std::vector<std::string> names_of(const Set* const* sets) {
  std::vector<std::string> names;
  for (; *sets != nullptr; ++sets) {
    if (cpu::can_run((*sets)->name)) names.emplace_back((*sets)->name);
  }
  return names;
}

}  // namespace

void bind_engine(py::module_& module) {
  using engine::SeedHyperparameters;
  py::class_<SeedHyperparameters>(module, "SeedHyperparameters")
      .def(py::init([](double expectile, double temperature, double discount, double polyak,
                       double weight_clip, double value_lr, double critic_lr, double actor_lr) {
             return SeedHyperparameters{expectile,   temperature, discount,  polyak,
                                        weight_clip, value_lr,    critic_lr, actor_lr};
           }),
           py::kw_only(), py::arg("expectile"), py::arg("temperature"), py::arg("discount"),
           py::arg("polyak"), py::arg("weight_clip"), py::arg("value_lr"), py::arg("critic_lr"),
           py::arg("actor_lr"));
  py::class_<engine::Stage>(module, "Stage")
      .def(py::init([](bool value, bool actor, bool critic, std::optional<std::int64_t> steps) {
             engine::Stage stage{value, actor, critic};
             if (steps) stage.steps = *steps;
             return stage;
           }),
           py::kw_only(), py::arg("value"), py::arg("actor"), py::arg("critic"), py::arg("steps"));
  py::class_<Config>(module, "EngineConfig")
      .def(py::init([](int obs_dim, int act_dim, std::vector<int> hidden, int critics,
                       int batch_size, std::vector<std::uint64_t> seeds,
                       std::vector<SeedHyperparameters> hyper, double actor_dropout,
                       std::int64_t actor_schedule_steps, bool old_value, bool deterministic_policy,
                       std::vector<engine::Stage> stages, int threads, std::string kernels,
                       std::optional<std::array<double, 3>> list_density) {
             if (obs_dim < 1 || act_dim < 1 || hidden.empty() || critics < 1 || batch_size < 1 ||
                 seeds.empty() || hyper.size() != seeds.size() || stages.empty() || threads < 1 ||
                 !(actor_dropout >= 0 && actor_dropout < 1)) {
               throw std::invalid_argument("every size must be positive, one hyper a seed");
             }
             for (const int width : hidden) {
               if (width < 1) throw std::invalid_argument("hidden sizes must be positive");
             }
             Config config;
             config.obs_dim = obs_dim;
             config.act_dim = act_dim;
             config.hidden = std::move(hidden);
             config.critics = critics;
             config.batch_size = batch_size;
             config.seeds = std::move(seeds);
             config.hyper = std::move(hyper);
             config.actor_dropout = actor_dropout;
             config.actor_schedule_steps = actor_schedule_steps;
             config.old_value = old_value;
             config.deterministic_policy = deterministic_policy;
             config.stages = std::move(stages);
             config.threads = threads;
             config.kernels = std::move(kernels);
             if (list_density) {
               const auto [forward, backward, weights] = *list_density;
               config.list_density = {forward, backward, weights};
             }
             return config;
           }),
           py::kw_only(), py::arg("obs_dim"), py::arg("act_dim"), py::arg("hidden"),
           py::arg("critics"), py::arg("batch_size"), py::arg("seeds"), py::arg("hyper"),
           py::arg("actor_dropout"), py::arg("actor_schedule_steps"), py::arg("old_value"),
           py::arg("deterministic_policy"), py::arg("stages"), py::arg("threads") = 1,
           py::arg("kernels") = "", py::arg("list_density") = py::none());
  bind_cpu_engine<float>(module, "CpuEngineFloat");
  bind_cpu_engine<double>(module, "CpuEngineDouble");
  bind_cpu_engine<float, BFloat16>(module, "CpuEngineMixed");
  module.def(
      "cpu_kernel_set",
      [](bool mixed) {
        return std::string(mixed ? cpu::kernels<float, BFloat16>().name
                                 : cpu::kernels<float>().name);
      },
      py::arg("mixed") = false);
  module.def("mixed_unavailable_reason", []() -> std::string {
    try {
      cpu::kernels<float, BFloat16>();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  });
  module.def(
      "time_products",
      [](const std::string& kernels, bool mixed, int rows, int inputs, int outputs,
         double seconds) {
        if (rows < 1 || inputs < 1 || outputs < 1) {
          throw std::invalid_argument("sizes must be positive");
        }
        const auto timed = [&] {
          const py::gil_scoped_release unlocked;
          return mixed ? cpu::time_products(cpu::kernels<float, BFloat16>(kernels), rows, inputs,
                                            outputs, seconds)
                       : cpu::time_products(cpu::kernels<float>(kernels), rows, inputs, outputs,
                                            seconds);
        };
        const cpu::LayerTimes times = timed();
        py::dict found;
        const auto add = [&](const char* kind, const cpu::ProductTimes& of) {
          found[kind] = py::make_tuple(of.dense, of.listed[0], of.listed[1]);
        };
        add("forward", times.forward);
        add("backward", times.backward);
        add("weights", times.weights);
        return found;
      },
      py::arg("kernels"), py::arg("mixed"), py::arg("rows"), py::arg("inputs"), py::arg("outputs"),
      py::arg("seconds"));
  module.attr("timed_densities") = py::make_tuple(cpu::kTimedDensities[0], cpu::kTimedDensities[1]);
  module.def(
      "multiply_and_add",
      [](long rounds) {
        const py::gil_scoped_release unlocked;
        const cpu::Kernels<float>& kernels = cpu::kernels<float>();
        cpu::Buffer<float> out(kernels.panel);
        return kernels.multiply_and_add(rounds, out.data());
      },
      py::arg("rounds"));
  module.def(
      "cpu_kernel_sets",
      [](bool mixed) {
        return mixed ? names_of(cpu::all_kernels<float, BFloat16>())
                     : names_of(cpu::all_kernels<float>());
      },
      py::arg("mixed") = false);
}

}  // namespace iql
