// What training changes in one seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/config.h"
#include "engine/network.h"
#include "engine/setup.h"

namespace iql::engine {

template <class T, class Operand>
struct Seed {
  Seed(const Setup<T, Operand>& setup, std::size_t number)
      : index(static_cast<int>(number)),
        key(setup.config.seeds[number]),
        hyper(setup.config.hyper[number]),
        clipped_log_std(setup.config.act_dim),
        inverse_std(setup.config.act_dim),
        free_log_std(setup.config.act_dim) {
    networks.emplace_back(setup.layouts.value, false);
    networks.emplace_back(setup.layouts.actor, false);
    for (int e = 0; e < setup.config.critics; ++e) {
      networks.emplace_back(setup.layouts.critic, true);
    }
  }

  const int index;  // among the seeds
  const std::uint64_t key;
  const SeedHyperparameters hyper;
  std::vector<Network<T, Operand>> networks;  // NetworkId order: value, actor, critic 0, ...
  MetricSums sums;
  std::optional<Failure> failure;
  std::vector<T> clipped_log_std, inverse_std;  // [A], of this step
  std::vector<char> free_log_std;               // whether the clip leaves it alone
};

}  // namespace iql::engine
