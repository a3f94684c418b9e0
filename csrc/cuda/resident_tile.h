// A tile whose weights, moments and target stay in a block's shared memory from step to step.
#pragma once

#include "cuda/deal.h"
#include "cuda/update.h"

namespace iql::cuda {

// The four arrays lie behind each other, as cuda/tiles.h lays one out; `at` is a place in the
// network's arrays in device memory. There a step writes only what rows are multiplied by: the
// biases and the head, and of other weights those that Precision reads as they are.
template <class Precision>
struct ResidentTile {
  const Problem& p;
  int seed, network;
  float* state;              // of the tile
  int elements, parameters;  // of one of its arrays

  __device__ ResidentTile(const Problem& problem, int seed_, int network_, const TilePlace& place,
                          float* state_)
      : p(problem),
        seed(seed_),
        network(network_),
        state(state_),
        elements(tile_elements(p.layout(network), place)),
        parameters(tile_parameters(p.layout(network), place)) {}

  // Of the network. They are found again each time, since registers are few.
  __device__ float* array(int which) const {
    return p.parameters_of(seed, network) + which * p.layout(network).size;
  }
  __device__ bool has_target() const { return network >= engine::kCritic; }

  __device__ void fetch(int) const {}  // it is here
  __device__ void step_quad(const Descent& descent, int at, const float4& gradient,
                            float* new_weight, float* new_target) const {
    float* own = state + team_thread() * 4;
    float4 w = load4(own), first = load4(own + parameters), second = load4(own + 2 * parameters);
    float4 t{};
    if (has_target()) t = load4(own + engine::kTarget * parameters);
    descent.step(w, first, second, t, gradient);
    store4(own, w);
    store4(own + parameters, first);
    store4(own + 2 * parameters, second);
    store4(new_weight, w);
    if (Precision::kForwardIsWeights) store4(array(engine::kWeights) + at, w);
    if (!has_target()) return;
    store4(own + engine::kTarget * parameters, t);
    store4(new_target, t);
    if (Precision::kForwardIsWeights) store4(array(engine::kTarget) + at, t);
  }
  __device__ void step_head(const Descent& descent, int at, int element, float gradient) const {
    float* own = state + element;
    float t = 0;
    if (has_target()) t = own[engine::kTarget * parameters];
    descent.step(own[0], own[parameters], own[2 * parameters], t, gradient);
    array(engine::kWeights)[at] = own[0];
    if (!has_target()) return;
    own[engine::kTarget * parameters] = t;
    array(engine::kTarget)[at] = t;
  }
  __device__ void step_bias(const Descent& descent, int at, int column, float gradient) const {
    step_head(descent, at, elements + column, gradient);
  }

  // From the network's arrays, and back to them: parts of a team's work without a barrier.
  __device__ void load(const NetworkLayout& net, const TilePlace& place) const {
    for_parameters(net, place, [](float& of_network, float& own) { own = of_network; });
  }
  __device__ void store(const NetworkLayout& net, const TilePlace& place) const {
    for_parameters(net, place, [](float& of_network, float& own) { of_network = own; });
  }

 private:
  template <class Body>
  __device__ void for_parameters(const NetworkLayout& net, const TilePlace& place,
                                 const Body& body) const {
    for (int e = team_thread(); e < parameters; e += kThreads) {
      const int at = in_network(net, place, e);
      if (at < 0) continue;
      for (int i = 0; i < kept_arrays(network); ++i) body(array(i)[at], state[i * parameters + e]);
    }
  }
  // Where a parameter lies in the network's arrays; negative where the tile reaches beyond them.
  __device__ int in_network(const NetworkLayout& net, const TilePlace& place, int parameter) const {
    const bool head = place.layer == net.depth;
    const HiddenLayout& layer = net.hidden[head ? net.depth - 1 : place.layer];
    const int line = parameter / kTile, across = parameter % kTile;
    if (parameter >= elements) {  // a bias
      const int column = place.column + across;
      if (head) return column < net.head_columns ? net.head_bias + column : -1;
      return column < layer.columns ? layer.bias + column : -1;
    }
    if (head) {
      const int input = place.row + across, output = place.column + line;
      return input < net.head_inputs ? net.head_weight + output * net.head_inputs + input : -1;
    }
    const int row = place.row + line, column = place.column + across;
    return column < layer.columns ? layer.weight + row * layer.columns + column : -1;
  }
};

}  // namespace iql::cuda
