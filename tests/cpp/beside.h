// An engine on the emulated device beside the CPU engine in fp64, and what both are given.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "cuda/engine.h"
#include "engine/cpu_engine.h"
#include "iql/philox.h"

namespace beside {

using namespace iql::engine;
using iql::cuda::CudaEngine;
using iql::cuda::Precision;
using iql::cuda::StepForm;

// Numbers without structure in [-1, 1), always the same.
class Noise {
 public:
  explicit Noise(std::uint64_t key) : key_(key) {}
  float operator()() {
    const std::uint32_t word = iql::draw(key_, 0, 9, index_++).word[0];
    return static_cast<float>(word / 2147483648.0 - 1.0);
  }
  std::vector<float> column(std::size_t size) {
    std::vector<float> values(size);
    for (float& value : values) value = (*this)();
    return values;
  }

 private:
  std::uint64_t key_;
  std::uint32_t index_ = 0;
};

struct Transitions {
  std::vector<float> observations, actions, rewards, masks, next_observations;
  std::int64_t rows;

  Transitions(std::int64_t rows_, int obs, int act) : rows(rows_) {
    Noise noise(1);
    observations = noise.column(rows * obs);
    actions = noise.column(rows * act);
    rewards = noise.column(rows);
    masks.resize(rows);
    for (std::int64_t r = 0; r < rows; ++r) masks[r] = r % 7 == 3 ? 0.0f : 1.0f;
    next_observations = noise.column(rows * obs);
  }
  Dataset dataset() const {
    return {{observations.data(), actions.data(), rewards.data(), masks.data(),
             next_observations.data()},
            rows};
  }
};

inline Config config(int obs, int act, std::vector<int> hidden, int batch, int seeds = 1) {
  Config c;
  c.obs_dim = obs;
  c.act_dim = act;
  c.hidden = std::move(hidden);
  c.critics = 2;
  c.batch_size = batch;
  for (int s = 0; s < seeds; ++s) {
    c.seeds.push_back(10 + s);
    c.hyper.push_back({0.7, 3.0, 0.99, 0.005, 100.0, 3e-4, 3e-4, 3e-4});
  }
  c.actor_schedule_steps = 10;
  return c;
}

// Visits every tensor of an engine: (seed, network, array, piece).
template <class Visit>
void for_tensors(const Config& c, int actor_pieces, const Visit& visit) {
  for (int s = 0; s < static_cast<int>(c.seeds.size()); ++s) {
    for (int n = 0; n < 2 + c.critics; ++n) {
      for (int piece = 0; piece < actor_pieces - (n == kActor ? 0 : 1); ++piece) {
        for (int array = 0; array < (n >= kCritic ? 4 : 3); ++array) {
          visit(s, n, static_cast<ArrayId>(array), piece);
        }
      }
    }
  }
}

inline NetworkId kind(int network) {
  return static_cast<NetworkId>(std::min<int>(network, kCritic));
}

// The same weights for both engines: of the size that a layer's inputs call for, so that about half
// of the units are active. Targets differ from their critics.
template <class A, class B>
void initialise(A& a, B& b, const Config& c) {
  Noise noise(2);
  for_tensors(c, a.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
    if (array == kFirstMoment || array == kSecondMoment) return;
    const std::size_t size = a.piece_size(kind(n), piece);
    CHECK(size == b.piece_size(kind(n), piece));
    const bool weight = piece % 2 == 0 && piece <= 2 * static_cast<int>(c.hidden.size());
    const double inputs = weight ? double(size) / a.piece_size(kind(n), piece + 1) : 100;
    std::vector<float> values = noise.column(size);
    std::vector<double> wide;
    for (float& value : values) value *= static_cast<float>(std::sqrt(6 / inputs));
    wide.assign(values.begin(), values.end());
    a.write(s, n, array, piece, wide.data());
    b.write(s, n, array, piece, values.data());
  });
  a.refresh();
  b.refresh();
}

inline bool never() { return false; }

struct Difference {
  double moments = 0, weights = 0;
};

inline std::vector<double> read(const CpuEngine<double>& engine, int s, int n, ArrayId array,
                                int piece) {
  std::vector<double> values(engine.piece_size(kind(n), piece));
  engine.read(s, n, array, piece, values.data());
  return values;
}
inline std::vector<double> read(const CudaEngine& engine, int s, int n, ArrayId array, int piece) {
  std::vector<float> values(engine.piece_size(kind(n), piece));
  engine.read(s, n, array, piece, values.data());
  return {values.begin(), values.end()};
}

inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares);
}

// A training whose ReLUs open a little later, and one whose ReLUs open sooner. What the two lie
// apart is what becomes of units whose input is all but zero, which one engine takes for active and
// another does not: of a gradient that is about 1 / sqrt(N) with N rows and units.
struct BothSides {
  CpuEngine<double> later, sooner;

  BothSides(const CpuEngine<double>& exact, const Config& c, const Dataset& data, double edge)
      : later(c, data), sooner(c, data) {
    for_tensors(c, exact.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
      std::vector<double> values = read(exact, s, n, array, piece);
      const bool hidden = piece < 2 * static_cast<int>(c.hidden.size());
      const bool bias = hidden && piece % 2 == 1 && (array == kWeights || array == kTarget);
      for (double& value : values) value -= bias ? edge : 0;
      later.write(s, n, array, piece, values.data());
      for (double& value : values) value += bias ? 2 * edge : 0;
      sooner.write(s, n, array, piece, values.data());
    });
    later.refresh();
    sooner.refresh();
  }
  void run(int steps) {
    later.run(steps, never);
    sooner.run(steps, never);
  }
};

// The largest difference of a tensor, in the Frobenius norm and relative to its own norm or, where
// its terms cancel, a tenth of its network's. What two sides lie apart there is not counted.
inline Difference difference(const CpuEngine<double>& exact, const CudaEngine& engine,
                             const Config& c, const BothSides* sides = nullptr) {
  const auto norm = [&](int s, int n, ArrayId array, int piece) {
    const std::vector<double> values = read(exact, s, n, array, piece);
    return distance(values, std::vector<double>(values.size()));
  };
  std::map<std::tuple<int, int, int>, double> network_squares;
  for_tensors(c, engine.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
    network_squares[{s, n, array}] += std::pow(norm(s, n, array, piece), 2);
  });
  Difference worst;
  for_tensors(c, engine.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
    double error = distance(read(engine, s, n, array, piece), read(exact, s, n, array, piece));
    if (sides != nullptr) {
      const double apart =
          distance(read(sides->later, s, n, array, piece), read(sides->sooner, s, n, array, piece));
      if (error == error) error = std::fmax(0, error - apart);
    }
    const double of_network = std::sqrt(network_squares[{s, n, array}]);
    const double scale = std::fmax(norm(s, n, array, piece), of_network / 10);
    const double relative = error / (scale + 1e-12);
    double& largest = array == kFirstMoment ? worst.moments : worst.weights;
    if (array != kSecondMoment && !(relative <= largest)) largest = relative;
  });
  return worst;
}

// Every number of an engine's state.
inline std::vector<float> state(const CudaEngine& engine, const Config& c) {
  std::vector<float> all;
  for_tensors(c, engine.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
    std::vector<float> values(engine.piece_size(kind(n), piece));
    engine.read(s, n, array, piece, values.data());
    all.insert(all.end(), values.begin(), values.end());
  });
  return all;
}

// An engine over its own dataset, with the weights of `initialise`.
struct Training {
  Config c;
  Transitions columns;
  CpuEngine<double> beside;
  CudaEngine engine;

  explicit Training(const Config& config, Precision precision = Precision::kFp32,
                    StepForm form = StepForm::kLaunches)
      : c(config),
        columns(200, c.obs_dim, c.act_dim),
        beside(c, columns.dataset()),
        engine(c, columns.dataset(), precision, 0, form) {
    initialise(beside, engine, c);
  }
  std::vector<float> state_after(int steps) {
    engine.run(steps, never);
    return state(engine, c);
  }
};

inline bool equal(const std::vector<float>& a, const std::vector<float>& b) {  // NaNs too
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline Config small(int seeds = 1) {
  Config c = config(5, 2, {20, 33}, 40, seeds);
  c.actor_dropout = 0.1;
  return c;
}

// For what takes many steps.
inline Config tiny(int seeds = 1) {
  Config c = config(3, 1, {9}, 7, seeds);
  c.critics = 1;
  return c;
}

}  // namespace beside
