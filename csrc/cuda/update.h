// Weight gradients, each followed at once by Adam and, for a critic, Polyak: a block takes a tile
// of one layer's weights, and sums over the whole batch.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"
#include "cuda/losses.h"
#include "cuda/metrics.h"
#include "cuda/products.h"
#include "iql/polyak.h"

namespace iql::cuda {

// A tile of a layer's weights; `layer` is the network's depth for its head.
struct TilePlace {
  int layer, row, column;
};

IQL_HD inline int tiles_along(int n) { return (n + kTile - 1) / kTile; }

IQL_HD inline int tile_count(const NetworkLayout& net) {
  int count = 0;
  for (int l = 0; l < net.depth; ++l) {
    count += tiles_along(net.hidden[l].rows) * tiles_along(net.hidden[l].columns);
  }
  return count + tiles_along(net.head_inputs) * tiles_along(net.head_columns);
}

IQL_HD inline TilePlace tile_place(const NetworkLayout& net, int tile) {
  for (int l = 0; l <= net.depth; ++l) {
    const int rows = tiles_along(l < net.depth ? net.hidden[l].rows : net.head_inputs);
    const int columns = tiles_along(l < net.depth ? net.hidden[l].columns : net.head_columns);
    if (tile < rows * columns) return {l, tile / columns * kTile, tile % columns * kTile};
    tile -= rows * columns;
  }
  return {-1, 0, 0};  // networks with fewer tiles than the grid has
}

// Shared memory: two slices of the batch, in whose place the tile then lies; the tile of the
// target; parts of the bias gradient; the factor of each row.
struct UpdateShared {
  float *left, *right, *tile, *target, *bias, *factor;

  __device__ UpdateShared() {
    left = tile = shared_floats();
    right = left + kSlice * kTileLine;
    target = tile + kTile * kTileLine;
    bias = target + kTile * kTileLine;
    factor = bias + kThreads;
  }
  static std::size_t bytes(const Problem& p) {
    return (2 * kTile * kTileLine + kThreads + p.padded_batch) * sizeof(float);
  }
};
static_assert(2 * kSlice == kTile, "the two slices and the tile share memory");

// The operands of a tile of new weights, and of its target's where there is one, from shared
// memory.
template <class Precision>
__device__ void write_operands(const Problem& p, int seed, int network, const HiddenLayout& layer,
                               const TilePlace& place, const UpdateShared& shared) {
  float* operands = p.operands_of(seed, network);
  Precision::write_forward(layer, shared.tile, place.row, place.column, operands + layer.forward);
  if (layer.backward >= 0) {
    Precision::write_backward(layer, shared.tile, place.row, place.column,
                              operands + layer.backward);
  }
  if (network >= engine::kCritic) {
    Precision::write_forward(layer, shared.target, place.row, place.column,
                             operands + p.critic.operand_size + layer.forward);
  }
}

// The arrays of one network and their step.
struct Descent {
  float *weights, *m, *v, *target;  // no target: nullptr
  AdamStep<float> adam;
  float alpha;

  __device__ Descent(const Problem& p, int seed, int network) {
    const int size = p.layout(network).size;
    weights = p.parameters_of(seed, network);
    m = weights + size;
    v = m + size;
    target = network >= engine::kCritic ? v + size : nullptr;
    adam = p.adam[seed * 3 + (network < engine::kCritic ? network : int(engine::kCritic))];
    alpha = float(p.hyper[seed].polyak);
  }

  struct Result {
    float weight, target;
  };
  __device__ Result step(int at, float gradient) const {
    float weight = weights[at], first = m[at], second = v[at];
    adam_update(weight, first, second, gradient, adam);
    weights[at] = weight;
    m[at] = first;
    v[at] = second;
    if (target == nullptr) return {weight, 0};
    return {weight, target[at] = polyak(target[at], weight, alpha)};
  }
  // Four neighbours, at a multiple of four. The new values replace the gradient and come back.
  __device__ void step4(int at, float* gradient_then_weight, float* new_target) const {
    const auto load = [at](const float* from) {
      return *reinterpret_cast<const float4*>(from + at);
    };
    float4 w = load(weights), first = load(m), second = load(v);
    const float4 g = *reinterpret_cast<const float4*>(gradient_then_weight);
    adam_update(w.x, first.x, second.x, g.x, adam);
    adam_update(w.y, first.y, second.y, g.y, adam);
    adam_update(w.z, first.z, second.z, g.z, adam);
    adam_update(w.w, first.w, second.w, g.w, adam);
    *reinterpret_cast<float4*>(weights + at) = w;
    *reinterpret_cast<float4*>(m + at) = first;
    *reinterpret_cast<float4*>(v + at) = second;
    *reinterpret_cast<float4*>(gradient_then_weight) = w;
    if (target == nullptr) return;
    float4 t = load(target);
    t = make_float4(polyak(t.x, w.x, alpha), polyak(t.y, w.y, alpha), polyak(t.z, w.z, alpha),
                    polyak(t.w, w.w, alpha));
    *reinterpret_cast<float4*>(target + at) = t;
    *reinterpret_cast<float4*>(new_target) = t;
  }
};

// Grid: tiles, networks from `first` on, seeds. The step's last launch has one more place in y, for
// its metrics.
template <class Precision>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ Problem p, int first) {
  if (first + static_cast<int>(blockIdx.y) == p.networks()) {
    if (blockIdx.x == 0) add_metrics(p, blockIdx.z);
    return;
  }
  const int network = first + blockIdx.y, seed = blockIdx.z, thread = threadIdx.x;
  const NetworkLayout& net = p.layout(network);
  const TilePlace place = tile_place(net, blockIdx.x);
  if (place.layer < 0) return;
  const bool head = place.layer == net.depth;
  const UpdateShared shared;
  const RowLosses losses(p, seed);
  for (int r = thread; r < p.padded_batch; r += kThreads) {
    shared.factor[r] = r < p.batch ? losses.factor(network, r) : 0;
  }
  __syncthreads();

  // The layer's input [padded batch][left_line], of which `inputs` columns count, and its gradient
  // [padded batch][right_line].
  const float* workspace = p.workspace_of(seed, network);
  const HiddenLayout& layer = net.hidden[head ? net.depth - 1 : place.layer];
  const bool from_batch = place.layer == 0;
  const float* left = from_batch ? p.input(seed)
                      : head     ? workspace + layer.activation
                                 : workspace + net.hidden[place.layer - 1].activation;
  const int left_line = from_batch ? p.input_columns : head ? net.head_inputs : layer.rows;
  const int inputs = head ? net.head_inputs : layer.inputs;
  const float* right = workspace + (head ? net.head_gradient : layer.gradient);
  const int right_line = head ? padded(net.head_columns) : layer.columns;

  // A slice goes through registers, the next one while this one is worked on: two times four
  // columns of either matrix a thread.
  float4 next_left[2], next_right[2];
  const int quad = thread % 16 * 4;
  const auto fetch = [&](int slice) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = slice + thread / 16 + i * 16;
      const float4 zero = make_float4(0, 0, 0, 0);
      float4 l = zero, r = zero;
      if (place.row + quad < left_line) {
        l = *reinterpret_cast<const float4*>(left + std::int64_t(row) * left_line + place.row +
                                             quad);
      }
      if (from_batch) {  // V and the actor do not take the actions, which lie beside
        const int own = inputs - place.row - quad;
        l = make_float4(own > 0 ? l.x : 0, own > 1 ? l.y : 0, own > 2 ? l.z : 0, own > 3 ? l.w : 0);
      }
      if (place.column + quad < right_line) {
        r = *reinterpret_cast<const float4*>(right + std::int64_t(row) * right_line + place.column +
                                             quad);
        const float f = shared.factor[row];
        r = make_float4(r.x * f, r.y * f, r.z * f, r.w * f);
      }
      next_left[i] = l;
      next_right[i] = r;
    }
  };
  typename Precision::Tile tile;
  float bias = 0;
  fetch(0);
  for (int slice = 0; slice < p.padded_batch; slice += kSlice) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = (thread / 16 + i * 16) * kTileLine + quad;
      *reinterpret_cast<float4*>(shared.left + at) = next_left[i];
      *reinterpret_cast<float4*>(shared.right + at) = next_right[i];
    }
    __syncthreads();
    if (slice + kSlice < p.padded_batch) fetch(slice + kSlice);
    tile.add(shared.left, shared.right);
    // The bias: a quarter of the slice's rows of each column a thread.
    if (place.row == 0) {
      for (int r = 0; r < kSlice / 4; ++r) {
        bias += shared.right[(thread / kTile * (kSlice / 4) + r) * kTileLine + thread % kTile];
      }
    }
    __syncthreads();
  }
  tile.store(shared.tile);
  shared.bias[thread] = bias;
  __syncthreads();

  const Descent descent(p, seed, network);
  if (place.row == 0 && thread < kTile &&
      place.column + thread < (head ? net.head_columns : layer.outputs)) {
    const float* part = shared.bias + thread;
    const float gradient = (part[0] + part[kTile]) + (part[2 * kTile] + part[3 * kTile]);
    descent.step((head ? net.head_bias : layer.bias) + place.column + thread, gradient);
  }
  if (head) {  // [outputs][head_inputs]: neighbours are rows of the tile
    for (int e = thread; e < kTile * kTile; e += kThreads) {
      const int i = place.row + e % kTile, j = place.column + e / kTile;
      if (i < net.head_inputs && j < net.outputs) {
        descent.step(net.head_weight + j * net.head_inputs + i,
                     shared.tile[e % kTile * kTileLine + e / kTile]);
      }
    }
    return;
  }
  for (int e = thread; e < kTile * kTile / 4; e += kThreads) {
    const int i = e / 16, j = e % 16 * 4;
    if (place.row + i >= layer.rows || place.column + j >= layer.columns) continue;
    descent.step4(layer.weight + (place.row + i) * layer.columns + place.column + j,
                  shared.tile + i * kTileLine + j, shared.target + i * kTileLine + j);
  }
  __syncthreads();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

// Operands from weights that the host wrote. Grid: tiles, networks, seeds.
template <class Precision>
__global__ void __launch_bounds__(kThreads) refresh_kernel(const __grid_constant__ Problem p) {
  const int network = blockIdx.y, seed = blockIdx.z;
  const NetworkLayout& net = p.layout(network);
  const TilePlace place = tile_place(net, blockIdx.x);
  if (place.layer < 0 || place.layer == net.depth) return;
  const HiddenLayout& layer = net.hidden[place.layer];
  const UpdateShared shared;
  const float* weights = p.parameters_of(seed, network) + layer.weight;
  for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
    const int i = e / kTile, j = e % kTile;
    if (place.row + i >= layer.rows || place.column + j >= layer.columns) continue;
    const int at = (place.row + i) * layer.columns + place.column + j;
    shared.tile[i * kTileLine + j] = weights[at];
    if (network >= engine::kCritic) shared.target[i * kTileLine + j] = weights[3 * net.size + at];
  }
  __syncthreads();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

}  // namespace iql::cuda
