// An engine as Python sees it: numpy arrays in and out, the GIL released while it trains.
#pragma once

#include <pybind11/numpy.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config.h"

namespace iql {

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

template <class T>
const T* checked(const Array<T>& array, std::initializer_list<pybind11::ssize_t> shape,
                 const char* name) {
  bool right = array.ndim() == static_cast<pybind11::ssize_t>(shape.size());
  std::string expected;
  int axis = 0;
  for (const pybind11::ssize_t length : shape) {
    right = right && array.shape(axis) == length;
    expected += (axis++ > 0 ? ", " : "") + std::to_string(length);
  }
  if (!right)
    throw std::invalid_argument(std::string(name) + " must have shape [" + expected + "]");
  return array.data();
}

// An engine in numbers of type T with references to the dataset's columns, which it may read in
// place.
template <class Engine, class T>
class PyEngine {
 public:
  template <class... Arguments>
  PyEngine(const engine::Config& config, Array<float> observations, Array<float> actions,
           Array<float> rewards, Array<float> masks, Array<float> next_observations,
           Arguments... arguments)
      : columns_{observations, actions, rewards, masks, next_observations},
        config_(config),
        engine_(config, dataset(config), arguments...) {}

  std::int64_t run(std::int64_t steps) { return train(&Engine::run, steps); }
  std::int64_t advance(std::int64_t steps) { return train(&Engine::advance, steps); }

  void step_on(const Array<T>& observations, const Array<T>& actions, const Array<T>& rewards,
               const Array<T>& masks, const Array<T>& next_observations) {
    const pybind11::ssize_t S = static_cast<pybind11::ssize_t>(config_.seeds.size()),
                            B = config_.batch_size;
    const engine::GivenBatch<T> batch{
        checked(observations, {S, B, config_.obs_dim}, "observations"),
        checked(actions, {S, B, config_.act_dim}, "actions"),
        checked(rewards, {S, B}, "rewards"),
        checked(masks, {S, B}, "masks"),
        checked(next_observations, {S, B, config_.obs_dim}, "next_observations"),
    };
    const pybind11::gil_scoped_release release;
    engine_.step_on(batch);
  }

  Array<T> read(int seed, int network, int array, int piece) const {
    Array<T> values(static_cast<pybind11::ssize_t>(piece_size(network, piece)));
    engine_.read(seed, network, static_cast<engine::ArrayId>(array), piece, values.mutable_data());
    return values;
  }

  void write(int seed, int network, int array, int piece, const Array<T>& values) {
    const auto size = static_cast<pybind11::ssize_t>(piece_size(network, piece));
    engine_.write(seed, network, static_cast<engine::ArrayId>(array), piece,
                  checked(values, {size}, "values"));
  }

  pybind11::tuple take_metrics() {
    std::int64_t steps = 0;
    pybind11::list seeds;
    for (const engine::MetricSums& sums : engine_.take_metrics(&steps)) {
      pybind11::dict metrics;
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
    return pybind11::make_tuple(seeds, steps);
  }

  pybind11::object failure() const {
    if (!engine_.failure()) return pybind11::none();
    const engine::Failure& f = *engine_.failure();
    pybind11::dict statistics;
    statistics["q min"] = f.q_min;
    statistics["q max"] = f.q_max;
    statistics["v min"] = f.v_min;
    statistics["v max"] = f.v_max;
    return pybind11::make_tuple(f.step, f.seed_index, f.network, statistics);
  }

  Engine& engine() { return engine_; }

  Array<float> explore(const Array<float>& observations, const Array<float>& noise) {
    const auto S = static_cast<pybind11::ssize_t>(config_.seeds.size());
    Array<float> actions({S, pybind11::ssize_t(config_.act_dim)});
    engine_.explore(checked(observations, {S, config_.obs_dim}, "observations"),
                    checked(noise, {S, config_.act_dim}, "noise"), actions.mutable_data());
    return actions;
  }

  // Columns [S, slots, ...] of transitions that are met while training goes on; they are kept, and
  // read in place.
  void meet(Array<float> observations, Array<float> actions, Array<float> rewards,
            Array<float> masks, Array<float> next_observations, std::int64_t capacity) {
    const auto S = static_cast<pybind11::ssize_t>(config_.seeds.size());
    const pybind11::ssize_t N = columns_[2].size(), O = config_.obs_dim, A = config_.act_dim;
    const pybind11::ssize_t slots = rewards.ndim() == 2 ? rewards.shape(1) : 0;
    if (slots < 1 || slots > capacity || capacity < N || capacity >= std::int64_t{1} << 32) {
      throw std::invalid_argument(
          "the capacity must be from the dataset's rows to 2^32 - 1, and no less than the slots");
    }
    engine_.meet({checked(observations, {S, slots, O}, "observations"),
                  checked(actions, {S, slots, A}, "actions"),
                  checked(rewards, {S, slots}, "rewards"), checked(masks, {S, slots}, "masks"),
                  checked(next_observations, {S, slots, O}, "next_observations")},
                 slots, capacity);
    met_ = {observations, actions, rewards, masks, next_observations};
    capacity_ = capacity;
  }

  void set_met_rows(std::int64_t rows) {
    const bool fits =
        !met_.empty() && rows >= 0 && (rows <= met_[2].shape(1) || met_[2].shape(1) == capacity_);
    if (!fits) throw std::invalid_argument("there are no slots for so many transitions");
    engine_.set_met_rows(rows);
  }

 private:
  template <class Train>
  std::int64_t train(Train how, std::int64_t steps) {
    bool raised = false;
    std::int64_t done = 0;
    {
      const pybind11::gil_scoped_release release;
      done = (engine_.*how)(steps, [&] {
        const pybind11::gil_scoped_acquire acquire;
        raised = PyErr_CheckSignals() != 0;
        return raised;
      });
    }
    if (raised) throw pybind11::error_already_set();
    return done;
  }

  std::size_t piece_size(int network, int piece) const {
    const int kind = network < engine::kCritic ? network : engine::kCritic;
    const auto id = static_cast<engine::NetworkId>(kind);
    if (network < 0 || network >= engine::kCritic + config_.critics || piece < 0 ||
        piece >= engine_.pieces(id)) {
      throw std::out_of_range("no such network or piece");
    }
    return engine_.piece_size(id, piece);
  }

  engine::Dataset dataset(const engine::Config& config) const {
    const pybind11::ssize_t N = columns_[2].size(), O = config.obs_dim, A = config.act_dim;
    if (N < 1 || N >= pybind11::ssize_t{1} << 32) {
      throw std::invalid_argument("the dataset must have between 1 and 2^32 - 1 rows");
    }
    engine::Dataset data;
    data.logged = {checked(columns_[0], {N, O}, "observations"),
                   checked(columns_[1], {N, A}, "actions"), checked(columns_[2], {N}, "rewards"),
                   checked(columns_[3], {N}, "masks"),
                   checked(columns_[4], {N, O}, "next_observations")};
    data.rows = N;
    return data;
  }

  Array<float> columns_[5];
  std::vector<Array<float>> met_;
  std::int64_t capacity_ = 0;
  engine::Config config_;
  Engine engine_;
};

// Frees an engine, but in a forked process leaves it be: the threads that it would wait for are not
// there.
struct FreeInOwnProcess {
  pid_t owner = getpid();
  template <class Engine>
  void operator()(Engine* engine) const {
    if (getpid() == owner) delete engine;
  }
};

template <class Engine>
using EngineClass = pybind11::class_<Engine, std::unique_ptr<Engine, FreeInOwnProcess>>;

// The methods that every engine has.
template <class Engine>
EngineClass<Engine>& bind_methods(EngineClass<Engine>& engine) {
  namespace py = pybind11;
  engine.def("run", &Engine::run, py::arg("steps"))
      .def("step_on", &Engine::step_on)
      .def("read", &Engine::read, py::arg("seed"), py::arg("network"), py::arg("array"),
           py::arg("piece"))
      .def("write", &Engine::write, py::arg("seed"), py::arg("network"), py::arg("array"),
           py::arg("piece"), py::arg("values"))
      .def("refresh", [](Engine& e) { e.engine().refresh(); })
      .def("take_metrics", &Engine::take_metrics)
      .def("failure", &Engine::failure)
      .def("meet", &Engine::meet, py::arg("observations").noconvert(),
           py::arg("actions").noconvert(), py::arg("rewards").noconvert(),
           py::arg("masks").noconvert(), py::arg("next_observations").noconvert(),
           py::arg("capacity"))
      .def("set_met_rows", &Engine::set_met_rows, py::arg("rows"))
      .def("explore", &Engine::explore, py::arg("observations"), py::arg("noise"))
      .def(
          "draws_next", [](Engine& e, std::int64_t place) { return e.engine().draws_next(place); },
          py::arg("place"))
      .def_property(
          "step", [](Engine& e) { return e.engine().step(); },
          [](Engine& e, std::int64_t step) { e.engine().set_step(step); });
  return engine;
}

}  // namespace iql
