// The CPU engine as Python sees it: numpy arrays in and out, the GIL released while it trains.
#include "torch/engine_binding.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "engine/cpu_engine.h"

namespace py = pybind11;

namespace iql {
namespace {

using engine::ArrayId;
using engine::Config;
using engine::CpuEngine;
using engine::Dataset;
using engine::NetworkId;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
const T* checked(const Array<T>& array, std::initializer_list<py::ssize_t> shape,
                 const char* name) {
  bool right = array.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string expected;
  int axis = 0;
  for (const py::ssize_t length : shape) {
    right = right && array.shape(axis) == length;
    expected += (axis++ > 0 ? ", " : "") + std::to_string(length);
  }
  if (!right)
    throw std::invalid_argument(std::string(name) + " must have shape [" + expected + "]");
  return array.data();
}

// An engine with references to the dataset's columns, which it reads in place.
template <class T, class Operand>
class PyCpuEngine {
 public:
  PyCpuEngine(const Config& config, Array<float> observations, Array<float> actions,
              Array<float> rewards, Array<float> masks, Array<float> next_observations)
      : columns_{observations, actions, rewards, masks, next_observations},
        config_(config),
        engine_(config, dataset(config)) {}

  std::int64_t run(std::int64_t steps) {
    bool raised = false;
    std::int64_t done = 0;
    {
      const py::gil_scoped_release release;
      done = engine_.run(steps, [&] {
        const py::gil_scoped_acquire acquire;
        raised = PyErr_CheckSignals() != 0;
        return raised;
      });
    }
    if (raised) throw py::error_already_set();
    return done;
  }

  void step_on(const Array<T>& observations, const Array<T>& actions, const Array<T>& rewards,
               const Array<T>& masks, const Array<T>& next_observations) {
    const py::ssize_t S = static_cast<py::ssize_t>(config_.seeds.size()), B = config_.batch_size;
    const engine::GivenBatch<T> batch{
        checked(observations, {S, B, config_.obs_dim}, "observations"),
        checked(actions, {S, B, config_.act_dim}, "actions"),
        checked(rewards, {S, B}, "rewards"),
        checked(masks, {S, B}, "masks"),
        checked(next_observations, {S, B, config_.obs_dim}, "next_observations"),
    };
    const py::gil_scoped_release release;
    engine_.step_on(batch);
  }

  Array<T> read(int seed, int network, int array, int piece) const {
    Array<T> values(static_cast<py::ssize_t>(piece_size(network, piece)));
    engine_.read(seed, network, static_cast<ArrayId>(array), piece, values.mutable_data());
    return values;
  }

  void write(int seed, int network, int array, int piece, const Array<T>& values) {
    const auto size = static_cast<py::ssize_t>(piece_size(network, piece));
    engine_.write(seed, network, static_cast<ArrayId>(array), piece,
                  checked(values, {size}, "values"));
  }

  py::tuple take_metrics() {
    std::int64_t steps = 0;
    py::list seeds;
    for (const engine::MetricSums& sums : engine_.take_metrics(&steps)) {
      py::dict metrics;
      metrics["value_loss"] = sums.value_loss;
      metrics["critic_loss"] = sums.critic_loss;
      metrics["actor_loss"] = sums.actor_loss;
      metrics["value"] = sums.value;
      metrics["q"] = sums.q;
      metrics["advantage"] = sums.advantage;
      metrics["squared_advantage"] = sums.squared_advantage;
      metrics["weight"] = sums.weight;
      metrics["weight_max"] = sums.weight_max;
      metrics["weight_clipped"] = sums.weight_clipped;
      seeds.append(metrics);
    }
    return py::make_tuple(seeds, steps);
  }

  py::object failure() const {
    if (!engine_.failure()) return py::none();
    const engine::Failure& f = *engine_.failure();
    py::dict statistics;
    statistics["q min"] = f.q_min;
    statistics["q max"] = f.q_max;
    statistics["v min"] = f.v_min;
    statistics["v max"] = f.v_max;
    return py::make_tuple(f.step, f.seed_index, f.network, statistics);
  }

  CpuEngine<T, Operand>& engine() { return engine_; }

 private:
  std::size_t piece_size(int network, int piece) const {
    const int kind = network < engine::kCritic ? network : engine::kCritic;
    const NetworkId id = static_cast<NetworkId>(kind);
    if (network < 0 || network >= engine::kCritic + config_.critics || piece < 0 ||
        piece >= engine_.pieces(id)) {
      throw std::out_of_range("no such network or piece");
    }
    return engine_.piece_size(id, piece);
  }

  Dataset dataset(const Config& config) const {
    const py::ssize_t N = columns_[2].size(), O = config.obs_dim, A = config.act_dim;
    if (N < 1 || N >= py::ssize_t{1} << 32) {
      throw std::invalid_argument("the dataset must have between 1 and 2^32 - 1 rows");
    }
    return {checked(columns_[0], {N, O}, "observations"),
            checked(columns_[1], {N, A}, "actions"),
            checked(columns_[2], {N}, "rewards"),
            checked(columns_[3], {N}, "masks"),
            checked(columns_[4], {N, O}, "next_observations"),
            N};
  }

  Array<float> columns_[5];
  Config config_;
  CpuEngine<T, Operand> engine_;
};

template <class T, class Operand = T>
void bind_engine_of(py::module_& module, const char* name) {
  using Engine = PyCpuEngine<T, Operand>;
  py::class_<Engine>(module, name)
      .def(py::init<const Config&, Array<float>, Array<float>, Array<float>, Array<float>,
                    Array<float>>(),
           py::arg("config"), py::arg("observations"), py::arg("actions"), py::arg("rewards"),
           py::arg("masks"), py::arg("next_observations"))
      .def("run", &Engine::run, py::arg("steps"))
      .def("step_on", &Engine::step_on)
      .def("read", &Engine::read, py::arg("seed"), py::arg("network"), py::arg("array"),
           py::arg("piece"))
      .def("write", &Engine::write, py::arg("seed"), py::arg("network"), py::arg("array"),
           py::arg("piece"), py::arg("values"))
      .def("refresh", [](Engine& e) { e.engine().refresh(); })
      .def("take_metrics", &Engine::take_metrics)
      .def("failure", &Engine::failure)
      .def_property(
          "step", [](Engine& e) { return e.engine().step(); },
          [](Engine& e, std::int64_t step) { e.engine().set_step(step); })
      .def_property_readonly("kernel_set", [](Engine& e) { return e.engine().kernel_set(); });
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
  py::class_<Config>(module, "EngineConfig")
      .def(py::init([](int obs_dim, int act_dim, std::vector<int> hidden, int critics,
                       int batch_size, std::vector<std::uint64_t> seeds,
                       std::vector<SeedHyperparameters> hyper, double actor_dropout,
                       std::int64_t actor_schedule_steps, bool old_value, bool deterministic_policy,
                       int threads) {
             if (obs_dim < 1 || act_dim < 1 || hidden.empty() || critics < 1 || batch_size < 1 ||
                 seeds.empty() || hyper.size() != seeds.size() || threads < 1 ||
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
             config.threads = threads;
             return config;
           }),
           py::kw_only(), py::arg("obs_dim"), py::arg("act_dim"), py::arg("hidden"),
           py::arg("critics"), py::arg("batch_size"), py::arg("seeds"), py::arg("hyper"),
           py::arg("actor_dropout"), py::arg("actor_schedule_steps"), py::arg("old_value"),
           py::arg("deterministic_policy"), py::arg("threads"));
  bind_engine_of<float>(module, "CpuEngineFloat");
  bind_engine_of<double>(module, "CpuEngineDouble");
  bind_engine_of<float, cpu::Bf16>(module, "CpuEngineMixed");
  module.def("cpu_kernel_set", [] { return std::string(cpu::kernels<float>().name); });
  module.def("mixed_unavailable_reason", []() -> std::string {
    try {
      cpu::kernels<float, cpu::Bf16>();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  });
  module.def("cpu_kernel_sets", [] {
    std::vector<std::string> names;
    for (const auto* const* set = cpu::all_kernels<float>(); *set != nullptr; ++set) {
      if (cpu::can_run((*set)->name)) names.emplace_back((*set)->name);
    }
    return names;
  });
}

}  // namespace iql
