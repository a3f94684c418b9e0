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

IQL_HD inline int tile_count(const NetworkLayout& net, int tile) {
  const auto along = [tile](int n) { return (n + tile - 1) / tile; };
  int count = 0;
  for (int l = 0; l < net.depth; ++l) {
    count += along(net.hidden[l].rows) * along(net.hidden[l].columns);
  }
  return count + along(net.head_inputs) * along(net.head_columns);
}

template <int kTile>
__device__ TilePlace tile_place(const NetworkLayout& net, int tile) {
  const auto along = [](int n) { return (n + kTile - 1) / kTile; };
  for (int l = 0; l <= net.depth; ++l) {
    const int rows = along(l < net.depth ? net.hidden[l].rows : net.head_inputs);
    const int columns = along(l < net.depth ? net.hidden[l].columns : net.head_columns);
    if (tile < rows * columns) return {l, tile / columns * kTile, tile % columns * kTile};
    tile -= rows * columns;
  }
  return {-1, 0, 0};  // networks with fewer tiles than the grid has
}

// Shared memory: slices of the batch, in whose place the groups' sums then lie, and then the new
// tile and that of the target; parts of the bias gradient; the factor of each row.
template <int kTile>
struct UpdateShared {
  static constexpr int kSlice = kGroups * kGroupRows;  // batch rows
  // Slices at a time: all of the usual batch where a block has a multiprocessor to itself, which is
  // when tiles are small.
  static constexpr int kSlices = kTile == 32 ? 4 : 2;
  static constexpr int kLine = tile_line(kTile);
  static constexpr int kSize = 2 * kSlices * kSlice * kLine;
  static_assert(kSize >= kGroups * kTile * kLine, "the sums lie in the slices' place");
  float *slices, *bias, *factor;

  __device__ UpdateShared()
      : slices(shared_floats()), bias(slices + kSize), factor(bias + kGroups * kTile) {}
  __device__ float* left(int slice) const {
    return slices + slice % kSlices * (2 * kSlice * kLine);
  }
  __device__ float* right(int slice) const { return left(slice) + kSlice * kLine; }
  __device__ float* sum(int group) const { return slices + group * kTile * kLine; }
  __device__ float* tile() const { return sum(0); }
  __device__ float* target() const { return sum(1); }

  static std::size_t bytes(const Problem& p) {
    return (kSize + kGroups * kTile + p.padded_batch) * sizeof(float);
  }
};

// The operands of a tile of new weights, and of its target's where there is one, from shared
// memory.
template <class Precision, int kTile>
__device__ void write_operands(const Problem& p, int seed, int network, const HiddenLayout& layer,
                               const TilePlace& place, const UpdateShared<kTile>& shared) {
  float* operands = p.operands_of(seed, network);
  Precision::template write_forward<kTile>(layer, shared.tile(), place.row, place.column,
                                           operands + layer.forward);
  if (layer.backward >= 0) {
    Precision::template write_backward<kTile>(layer, shared.tile(), place.row, place.column,
                                              operands + layer.backward);
  }
  if (network >= engine::kCritic) {
    Precision::template write_forward<kTile>(layer, shared.target(), place.row, place.column,
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
  // Four neighbours, at a multiple of four. What they become is left in shared memory too.
  __device__ void step4(int at, const float4& g, float* new_weight, float* new_target) const {
    float4 w = load4(weights + at), first = load4(m + at), second = load4(v + at);
    adam_update(w.x, first.x, second.x, g.x, adam);
    adam_update(w.y, first.y, second.y, g.y, adam);
    adam_update(w.z, first.z, second.z, g.z, adam);
    adam_update(w.w, first.w, second.w, g.w, adam);
    *reinterpret_cast<float4*>(weights + at) = w;
    *reinterpret_cast<float4*>(m + at) = first;
    *reinterpret_cast<float4*>(v + at) = second;
    *reinterpret_cast<float4*>(new_weight) = w;
    if (target == nullptr) return;
    float4 t = load4(target + at);
    t = make_float4(polyak(t.x, w.x, alpha), polyak(t.y, w.y, alpha), polyak(t.z, w.z, alpha),
                    polyak(t.w, w.w, alpha));
    *reinterpret_cast<float4*>(target + at) = t;
    *reinterpret_cast<float4*>(new_target) = t;
  }
};

// Grid: tiles, networks from `first` on, seeds. The step's last launch has one more place in y, for
// its metrics.
template <class Precision, int kTile>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ Problem p, int first) {
  follow_previous_launch();
  if (first + static_cast<int>(blockIdx.y) == p.networks()) {
    if (blockIdx.x == 0) add_metrics(p, blockIdx.z);
    return;
  }
  using Shared = UpdateShared<kTile>;
  constexpr int kLine = Shared::kLine, kSlice = Shared::kSlice, kSlices = Shared::kSlices;
  const int network = first + blockIdx.y, seed = blockIdx.z, thread = threadIdx.x;
  const NetworkLayout& net = p.layout(network);
  const TilePlace place = tile_place<kTile>(net, blockIdx.x);
  if (place.layer < 0) return;
  const bool head = place.layer == net.depth;
  const Shared shared;

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

  // A thread copies some times four columns of either matrix of a slice, as early as there is
  // place, and then multiplies what it copied of the gradient by the rows' factors.
  constexpr int kAcross = kTile / 4, kDown = kThreads / kAcross;
  const int quad = thread % kAcross * 4, down = thread / kAcross;
  const int slices = p.padded_batch / kSlice;
  const bool in_left = place.row + quad < left_line, in_right = place.column + quad < right_line;
  const float* from_left = left + down * left_line + place.row + quad;
  const float* from_right = right + down * right_line + place.column + quad;
  const auto copy = [&](int slice) {
    if (slice < slices) {
      float* to_left = shared.left(slice) + down * kLine + quad;
      float* to_right = shared.right(slice) + down * kLine + quad;
#pragma unroll
      for (int r = 0; r < kSlice; r += kDown) {
        const int row = slice * kSlice + r;
        if (in_left) copy_16_bytes(to_left + r * kLine, from_left + row * left_line);
        if (in_right) copy_16_bytes(to_right + r * kLine, from_right + row * right_line);
      }
    }
    end_of_copies();
  };
  // V and the actor do not take the actions, which lie beside the observations.
  const int own = !in_left ? 0 : from_batch ? inputs - place.row - quad : 4;
  const auto finish = [&](int slice) {
    float* l = shared.left(slice) + down * kLine + quad;
    float* g = shared.right(slice) + down * kLine + quad;
    const float* factor = shared.factor + slice * kSlice + down;
#pragma unroll 2
    for (int r = 0; r < kSlice; r += kDown) {
      for (int i = own < 0 ? 0 : own; i < 4; ++i) l[r * kLine + i] = 0;
      float4& at = *reinterpret_cast<float4*>(g + r * kLine);
      const float f = factor[r];
      at = in_right ? make_float4(at.x * f, at.y * f, at.z * f, at.w * f) : make_float4(0, 0, 0, 0);
    }
  };
  for (int slice = 0; slice < kSlices; ++slice) copy(slice);
  const RowLosses losses(p, seed);
  for (int r = thread; r < p.padded_batch; r += kThreads) {
    shared.factor[r] = r < p.batch ? losses.factor(network, r) : 0;
  }
  __syncthreads();

  const int group = thread / kGroupThreads;
  typename Precision::template Tile<kTile> tile;
  float bias = 0;
  for (int slice = 0; slice < slices; ++slice) {
    if (slice == 0) {
      wait_for_copies<kSlices - 1>();
    } else {
      wait_for_copies<kSlices - 2>();
    }
    finish(slice);
    __syncthreads();
    // In the place of the slice before, which all have read.
    if (slice > 0) copy(slice - 1 + kSlices);
    const int first_row = group * kGroupRows * kLine;
    tile.add(shared.left(slice) + first_row, shared.right(slice) + first_row);
    // The bias: a group's rows of each column a thread.
    if (place.row == 0 && thread < kGroups * kTile) {
      const float* g = shared.right(slice) + thread / kTile * kGroupRows * kLine + thread % kTile;
      for (int r = 0; r < kGroupRows; ++r) bias += g[r * kLine];
    }
  }
  __syncthreads();
  tile.store(shared.sum(group));
  if (thread < kGroups * kTile) shared.bias[thread] = bias;
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
      const int i = e % kTile, j = e / kTile;
      if (place.row + i < net.head_inputs && place.column + j < net.outputs) {
        const auto part = [&](int g) { return shared.sum(g)[i * kLine + j]; };
        descent.step(net.head_weight + (place.column + j) * net.head_inputs + place.row + i,
                     (part(0) + part(1)) + (part(2) + part(3)));
      }
    }
    return;
  }
#pragma unroll
  for (int e = thread; e < kTile * kTile / 4; e += kThreads) {
    const int i = e / kAcross, j = e % kAcross * 4;
    if (place.row + i >= layer.rows || place.column + j >= layer.columns) continue;
    const auto part = [&](int g) { return load4(shared.sum(g) + i * kLine + j); };
    const float4 gradient = add4(add4(part(0), part(1)), add4(part(2), part(3)));
    descent.step4(layer.weight + (place.row + i) * layer.columns + place.column + j, gradient,
                  shared.tile() + i * kLine + j, shared.target() + i * kLine + j);
  }
  __syncthreads();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

// Operands from weights that the host wrote. Grid: tiles, networks, seeds.
template <class Precision>
__global__ void __launch_bounds__(kThreads) refresh_kernel(const __grid_constant__ Problem p) {
  constexpr int kTile = 64;
  const int network = blockIdx.y, seed = blockIdx.z;
  const NetworkLayout& net = p.layout(network);
  const TilePlace place = tile_place<kTile>(net, blockIdx.x);
  if (place.layer < 0 || place.layer == net.depth) return;
  const HiddenLayout& layer = net.hidden[place.layer];
  const UpdateShared<kTile> shared;
  const float* weights = p.parameters_of(seed, network) + layer.weight;
  for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
    const int i = e / kTile, j = e % kTile;
    if (place.row + i >= layer.rows || place.column + j >= layer.columns) continue;
    const int at = (place.row + i) * layer.columns + place.column + j;
    shared.tile()[i * shared.kLine + j] = weights[at];
    if (network >= engine::kCritic) {
      shared.target()[i * shared.kLine + j] = weights[3 * net.size + at];
    }
  }
  __syncthreads();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

}  // namespace iql::cuda
