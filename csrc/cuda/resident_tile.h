// A tile whose weights, moments and target stay in a block's shared memory from step to step.
#pragma once

#include "cuda/update.h"

namespace iql::cuda {

// The four arrays lie behind each other, as cuda/tiles.h lays one out; `at` is a place in the
// network's arrays in device memory. There a step writes only what rows are multiplied by: the
// biases and the head, and of other weights those that Precision reads as they are.
template <class Precision>
struct ResidentTile {
  float *weights, *target;   // of the network; no target: nullptr
  int network_size;          // of one of its arrays
  float* state;              // of the tile
  int elements, parameters;  // of one of its arrays

  __device__ ResidentTile(const Problem& p, int seed, int network, const TilePlace& place,
                          float* state_)
      : weights(p.parameters_of(seed, network)),
        target(network >= engine::kCritic ? weights + 3 * p.layout(network).size : nullptr),
        network_size(p.layout(network).size),
        state(state_),
        elements(tile_elements(p.layout(network), place)),
        parameters(tile_parameters(p.layout(network), place)) {}

  __device__ void fetch(int) const {}  // it is here
  __device__ void step_quad(const Descent& descent, int at, const float4& gradient,
                            float* new_weight, float* new_target) const {
    float* own = state + team_thread() * 4;
    float4 w = load4(own), first = load4(own + parameters), second = load4(own + 2 * parameters);
    float4 t{};
    if (target != nullptr) t = load4(own + 3 * parameters);
    descent.step(w, first, second, t, gradient);
    store4(own, w);
    store4(own + parameters, first);
    store4(own + 2 * parameters, second);
    store4(new_weight, w);
    if (Precision::kForwardIsWeights) store4(weights + at, w);
    if (target == nullptr) return;
    store4(own + 3 * parameters, t);
    store4(new_target, t);
    if (Precision::kForwardIsWeights) store4(target + at, t);
  }
  __device__ void step_head(const Descent& descent, int at, int element, float gradient) const {
    float* own = state + element;
    float t = 0;
    if (target != nullptr) t = own[3 * parameters];
    descent.step(own[0], own[parameters], own[2 * parameters], t, gradient);
    weights[at] = own[0];
    if (target != nullptr) target[at] = own[3 * parameters] = t;
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
    const bool head = place.layer == net.depth;
    const HiddenLayout& layer = net.hidden[head ? net.depth - 1 : place.layer];
    const int arrays = target == nullptr ? 3 : 4;
    for (int e = team_thread(); e < parameters; e += kThreads) {
      const int line = e / kTile, i = e % kTile;
      int at = -1;
      if (e >= elements) {
        const int columns = head ? net.head_columns : layer.columns;
        if (place.column + i < columns) at = (head ? net.head_bias : layer.bias) + place.column + i;
      } else if (head) {
        if (place.row + i < net.head_inputs) {
          at = net.head_weight + (place.column + line) * net.head_inputs + place.row + i;
        }
      } else if (place.column + i < layer.columns) {
        at = layer.weight + (place.row + line) * layer.columns + place.column + i;
      }
      if (at < 0) continue;
      for (int array = 0; array < arrays; ++array) {
        body(weights[array * network_size + at], state[array * parameters + e]);
      }
    }
  }
};

}  // namespace iql::cuda
