// Weight gradients, each followed at once by Adam and, for a critic, Polyak: a team takes a tile
// of one layer's weights, and sums over the whole batch.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"
#include "cuda/losses.h"
#include "cuda/metrics.h"
#include "cuda/products.h"
#include "cuda/tiles.h"
#include "iql/polyak.h"

namespace iql::cuda {

// Shared memory of a team: slices of the batch, in whose place the groups' sums then lie, and then
// the new tile and that of the target; parts of the bias gradient; the factor of each row. Of a
// block's teams, each has a share of its own; teams that share a multiprocessor's memory with
// tiles that stay there have fewer slices under way.
template <int kTeams>
struct UpdateShared {
  // At a time; for one team all of the usual batch.
  static constexpr int kSlices = kTeams == 1 ? 4 : 3;
  static constexpr int kBiasParts = 4;  // of a slice
  static constexpr int kSize = 2 * kSlices * kSlice * kTileLine;
  float *slices, *bias, *factor;

  __device__ explicit UpdateShared(const Problem& p)
      : slices(shared_floats() + team() * floats(p)),
        bias(slices + kSize),
        factor(bias + kBiasParts * kTile) {}
  __device__ float* left(int slice) const {
    return slices + slice % kSlices * (2 * kSlice * kTileLine);
  }
  __device__ float* right(int slice) const { return left(slice) + kSlice * kTileLine; }
  __device__ float* sum(int group) const { return slices + group * kTile * kTileLine; }
  __device__ float* tile() const { return sum(0); }
  __device__ float* target() const { return sum(1); }

  // Of the block's teams, the one of this thread.
  __device__ static int team() {
    return kTeams == 1 ? 0 : static_cast<int>(threadIdx.x) / kThreads;
  }
  // The team's barrier.
  __device__ static void sync() {
    if constexpr (kTeams == 1) {
      __syncthreads();
    } else {
      sync_threads(1 + team(), kThreads);
    }
  }

  IQL_HD static int floats(const Problem& p) { return kSize + kBiasParts * kTile + p.padded_batch; }
};

// The operands of a tile of new weights, and of its target's where there is one, from shared
// memory.
template <class Precision, class Shared>
__device__ void write_operands(const Problem& p, int seed, int network, const HiddenLayout& layer,
                               const TilePlace& place, const Shared& shared) {
  float* operands = p.operands_of(seed, network);
  Precision::write_forward(layer, shared.tile(), place.row, place.column, operands + layer.forward);
  if (layer.backward >= 0) {
    Precision::write_backward(layer, shared.tile(), place.row, place.column,
                              operands + layer.backward);
  }
  if (network >= engine::kCritic) {
    Precision::write_forward(layer, shared.target(), place.row, place.column,
                             operands + p.critic.operand_size + layer.forward);
  }
}

// The step of one network: Adam, and Polyak where it has a target.
struct Descent {
  AdamStep<float> adam;
  float alpha;
  bool has_target;

  __device__ Descent(const Problem& p, int seed, int network)
      : adam(p.adam[seed * 3 + (network < engine::kCritic ? network : int(engine::kCritic))]),
        alpha(float(p.hyper[seed].polyak)),
        has_target(network >= engine::kCritic) {}

  __device__ void step(float& weight, float& first, float& second, float& target,
                       float gradient) const {
    adam_update(weight, first, second, gradient, adam);
    if (has_target) target = polyak(target, weight, alpha);
  }
  __device__ void step(float4& weight, float4& first, float4& second, float4& target,
                       const float4& gradient) const {
    step(weight.x, first.x, second.x, target.x, gradient.x);
    step(weight.y, first.y, second.y, target.y, gradient.y);
    step(weight.z, first.z, second.z, target.z, gradient.z);
    step(weight.w, first.w, second.w, target.w, gradient.w);
  }
};

// A tile whose weights, moments and target lie in the network's arrays, `at` a place in those.
struct StreamedTile {
  float *weights, *m, *v, *target;  // no target: nullptr
  float* state;                     // of the four, in shared memory, what the team will update

  // Floats of the state.
  static constexpr int kState = 4 * kTile * kTile;

  __device__ StreamedTile(const Problem& p, int seed, int network, float* state_) : state(state_) {
    const int size = p.layout(network).size;
    weights = p.parameters_of(seed, network);
    m = weights + size;
    v = m + size;
    target = network >= engine::kCritic ? v + size : nullptr;
  }

  // Four neighbours, at a multiple of four: fetch() brings the thread's into shared memory, where
  // step_quad() finds them. What weight and target become is left in shared memory too.
  __device__ void fetch(int at) const {
    float4* to = reinterpret_cast<float4*>(state) + team_thread();
    copy_16_bytes(to, weights + at);
    copy_16_bytes(to + kThreads, m + at);
    copy_16_bytes(to + 2 * kThreads, v + at);
    if (target != nullptr) copy_16_bytes(to + 3 * kThreads, target + at);
  }
  __device__ void step_quad(const Descent& descent, int at, const float4& gradient,
                            float* new_weight, float* new_target) const {
    const float4* from = reinterpret_cast<const float4*>(state) + team_thread();
    float4 w = from[0], first = from[kThreads], second = from[2 * kThreads], t{};
    if (target != nullptr) t = from[3 * kThreads];
    descent.step(w, first, second, t, gradient);
    store4(weights + at, w);
    store4(m + at, first);
    store4(v + at, second);
    store4(new_weight, w);
    if (target == nullptr) return;
    store4(target + at, t);
    store4(new_target, t);
  }
  // An element of the head's weights, or a bias.
  __device__ void step_head(const Descent& descent, int at, int, float gradient) const {
    float w = weights[at], first = m[at], second = v[at], t = 0;
    if (target != nullptr) t = target[at];
    descent.step(w, first, second, t, gradient);
    weights[at] = w;
    m[at] = first;
    v[at] = second;
    if (target != nullptr) target[at] = t;
  }
  __device__ void step_bias(const Descent& descent, int at, int, float gradient) const {
    step_head(descent, at, 0, gradient);
  }
};

// One tile's gradient and step. `Kept` is where its weights, moments and target are between steps:
// StreamedTile says how. A team may take one tile after another, with its barrier in between.
// `begin` is called before anything in device memory is read.
template <class Precision, class Shared, class Kept, class Begin>
__device__ __forceinline__ void update_tile(const Problem& p, int seed, int network,
                                            const TilePlace& place, const Shared& shared,
                                            const Kept& kept, const Begin& begin) {
  const NetworkLayout& net = p.layout(network);
  const bool head = place.layer == net.depth;
  const int thread = team_thread();
  using Tile = typename Precision::Tile;
  static_assert(Tile::kGroups * kTile * kTileLine <= Shared::kSize,
                "the sums in the slices' place");

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
      float* to_left = shared.left(slice) + down * kTileLine + quad;
      float* to_right = shared.right(slice) + down * kTileLine + quad;
#pragma unroll
      for (int r = 0; r < kSlice; r += kDown) {
        const int row = slice * kSlice + r;
        if (in_left) copy_16_bytes(to_left + r * kTileLine, from_left + row * left_line);
        if (in_right) copy_16_bytes(to_right + r * kTileLine, from_right + row * right_line);
      }
    }
    end_of_copies();
  };
  // V and the actor do not take the actions, which lie beside the observations.
  const int own = !in_left ? 0 : from_batch ? inputs - place.row - quad : 4;
  const auto finish = [&](int slice) {
    float* l = shared.left(slice) + down * kTileLine + quad;
    float* g = shared.right(slice) + down * kTileLine + quad;
    const float* factor = shared.factor + slice * kSlice + down;
#pragma unroll
    for (int r = 0; r < kSlice; r += kDown) {
      for (int i = own < 0 ? 0 : own; i < 4; ++i) l[r * kTileLine + i] = 0;
      float4& at = *reinterpret_cast<float4*>(g + r * kTileLine);
      const float f = factor[r];
      at = in_right ? make_float4(at.x * f, at.y * f, at.z * f, at.w * f) : make_float4(0, 0, 0, 0);
    }
  };
  // Of the tile, each thread will update four neighbours.
  static_assert(kTile * kTile == 4 * kThreads, "one quad a thread");
  const bool updates = !head && place.row + down < layer.rows && in_right;
  const int weight = layer.weight + (place.row + down) * layer.columns + place.column + quad;

  begin();
  const RowLosses losses(p, seed);
  const Descent descent(p, seed, network);
  RowLosses::Numbers numbers{};
  if (thread < p.batch) numbers = losses.read(network, thread);
  // With the first slice's, so that whoever waits for that has these too.
  if (updates) kept.fetch(weight);
  for (int slice = 0; slice < Shared::kSlices; ++slice) copy(slice);
#pragma unroll 1
  for (int r = thread; r < p.padded_batch; r += kThreads) {
    if (r >= kThreads && r < p.batch) numbers = losses.read(network, r);
    shared.factor[r] = r < p.batch ? losses.factor(network, numbers) : 0;
  }
  shared.sync();

  Tile tile;
  float bias = 0;
  for (int slice = 0; slice < slices; ++slice) {
    if (slice == 0) {
      wait_for_copies<Shared::kSlices - 1>();
    } else {
      wait_for_copies<Shared::kSlices - 2>();
    }
    finish(slice);
    shared.sync();
    // In the place of the slice before, which all have read.
    if (slice > 0) copy(slice - 1 + Shared::kSlices);
    tile.add(shared.left(slice), shared.right(slice));
    if (place.row == 0 && thread < Shared::kBiasParts * kTile) {
      constexpr int kRows = kSlice / Shared::kBiasParts;
      const float* g = shared.right(slice) + thread / kTile * kRows * kTileLine + thread % kTile;
#pragma unroll
      for (int r = 0; r < kRows; ++r) bias += g[r * kTileLine];
    }
  }
  shared.sync();
  tile.store(shared.sum(Tile::group()));
  if (thread < Shared::kBiasParts * kTile) shared.bias[thread] = bias;
  shared.sync();

  let_next_launch_come_up();
  if (place.row == 0 && thread < kTile &&
      place.column + thread < (head ? net.head_columns : layer.outputs)) {
    const auto part = [&](int i) { return shared.bias[i * kTile + thread]; };
    kept.step_bias(descent, (head ? net.head_bias : layer.bias) + place.column + thread, thread,
                   sum_of<Shared::kBiasParts>(part));
  }
  if (head) {  // [outputs][head_inputs]: neighbours are rows of the tile
    for (int e = thread; e < kTile * kTile; e += kThreads) {
      const int i = e % kTile, j = e / kTile;
      if (place.row + i < net.head_inputs && place.column + j < net.outputs) {
        const auto part = [&](int g) { return shared.sum(g)[i * kTileLine + j]; };
        kept.step_head(descent,
                       net.head_weight + (place.column + j) * net.head_inputs + place.row + i, e,
                       sum_of<Tile::kGroups>(part));
      }
    }
    return;
  }
  if (updates) {
    const int at = down * kTileLine + quad;
    const auto part = [&](int g) { return load4(shared.sum(g) + at); };
    const float4 gradient = sum_of<Tile::kGroups>(part);
    kept.step_quad(descent, weight, gradient, shared.tile() + at, shared.target() + at);
  }
  shared.sync();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

// Grid: tiles, networks from `first` on, seeds. The step's last launch has one more place in y, for
// its metrics.
template <class Precision>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ Problem p, int first) {
  using Shared = UpdateShared<1>;
  touch_parameter(p);
  const int network = first + blockIdx.y, seed = blockIdx.z;
  const Shared shared(p);
  if (network == p.networks()) {
    wait_for_previous_launch();
    if (blockIdx.x == 0) add_metrics(p, seed, shared.slices, [] { Shared::sync(); });
    return;
  }
  const TilePlace place = tile_place(p.layout(network), blockIdx.x);
  if (place.layer < 0) return;
  const StreamedTile tile(p, seed, network, shared.slices + Shared::floats(p));
  update_tile<Precision>(p, seed, network, place, shared, tile, [] { wait_for_previous_launch(); });
}

// Operands from weights that the host wrote. Grid: tiles, networks, seeds.
template <class Precision>
__global__ void __launch_bounds__(kThreads) refresh_kernel(const __grid_constant__ Problem p) {
  const int network = blockIdx.y, seed = blockIdx.z;
  const NetworkLayout& net = p.layout(network);
  const TilePlace place = tile_place(net, blockIdx.x);
  if (place.layer < 0 || place.layer == net.depth) return;
  const HiddenLayout& layer = net.hidden[place.layer];
  const UpdateShared<1> shared(p);
  const float* weights = p.parameters_of(seed, network) + layer.weight;
  for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
    const int i = e / kTile, j = e % kTile;
    if (place.row + i >= layer.rows || place.column + j >= layer.columns) continue;
    const int at = (place.row + i) * layer.columns + place.column + j;
    shared.tile()[i * kTileLine + j] = weights[at];
    if (network >= engine::kCritic) shared.target()[i * kTileLine + j] = weights[3 * net.size + at];
  }
  __syncthreads();
  write_operands<Precision>(p, seed, network, layer, place, shared);
}

}  // namespace iql::cuda
