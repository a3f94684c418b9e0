// What the parts of the CPU engine know of a training run and do not change: its configuration, its
// dataset, the kernels that it runs on, and how these want its networks to lie in memory.
#pragma once

#include <cstddef>
#include <utility>

#include "cpu/kernels.h"
#include "engine/config.h"
#include "engine/network.h"

namespace iql::engine {

// Of the networks of a configuration.
struct Layouts {
  NetworkLayout value, actor, critic;

  Layouts(const Config& config, int panel, int alignment)
      : value(config.obs_dim, config.hidden, 1, 0, panel, alignment),
        actor(config.obs_dim, config.hidden, config.act_dim, config.act_dim, panel, alignment),
        critic(config.obs_dim + config.act_dim, config.hidden, 1, 0, panel, alignment) {}

  const NetworkLayout& of(int id) const {
    return id == kValue ? value : id == kActor ? actor : critic;
  }
};

inline ListDensity own_where_negative(const ListDensity& given, double own) {
  const auto chosen = [own](double density) { return density < 0 || own == 0 ? own : density; };
  return {chosen(given.forward), chosen(given.backward), chosen(given.weights)};
}

template <class T, class Operand>
struct Setup {
  Setup(Config config_, Dataset data_)
      : config(std::move(config_)),
        data(data_),
        kernels(cpu::kernels<T, Operand>(config.kernels)),
        list_density(own_where_negative(config.list_density, kernels.list_density)),
        block_rows(kernels.piece),
        layouts(config, kernels.panel, 64 / sizeof(Operand)) {}

  // A panel matrix of as many rows as the batch, from a row on.
  template <class Element>
  cpu::Rows<Element> rows(Buffer<Element>& matrix, int row) const {
    const std::size_t P = kernels.panel;
    return {matrix.data() + row * P, config.batch_size * P};
  }
  template <class Element>
  cpu::Rows<const Element> rows(const Buffer<Element>& matrix, int row) const {
    const std::size_t P = kernels.panel;
    return {matrix.data() + row * P, config.batch_size * P};
  }

  const Config config;
  Dataset data;  // what was met may grow between runs
  const cpu::Kernels<T, Operand>& kernels;
  const ListDensity list_density;
  // Rows that go through all layers of a network together, at most: their activations stay in the
  // L2 cache from one layer to the next.
  const int block_rows;
  const Layouts layouts;
};

}  // namespace iql::engine
