// Everything of a step that goes row by row: a block takes some rows of one seed's batch through
// one network, forward and, where it is trained, backward. Blocks need nothing of each other.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/layout.h"
#include "cuda/products.h"
#include "cuda/queue.h"
#include "iql/gaussian.h"
#include "iql/philox.h"

namespace iql::cuda {

enum class RowsPass {
  kTrain,     // the trained networks, forward and backward; the targets; where the losses read the
              // old V, V(s') too; and what the step's other launches need to know
  kNewValue,  // V(s) and V(s') after V's update
};

// Blocks of a pass that share rows, one after another in the grid's y.
IQL_HD inline int row_jobs(const Problem& p, RowsPass pass) {
  return pass == RowsPass::kNewValue ? 2 : 2 + 2 * p.critics + (p.old_value ? 1 : 0) + 1;
}

// In the place of a row past the batch. What a seed has met lies at lower ones: record number r of
// Source::met at kNoRow - 1 - r.
constexpr std::int64_t kNoRow = -1;

// Shared memory: a panel of the network's input; one of each hidden layer's activation, in whose
// place its gradient then comes; one of the head's outputs and then its gradient, one of the terms
// of the log-likelihood; the constants; what the products need; the rows' places in the dataset.
struct RowsShared {
  int input_line, line, head_line, panel_size;
  std::int64_t* places;
  float *input, *panels, *head, *fit, *constants, *scratch, *queue;

  __device__ RowsShared(const Problem& p, int rows, int scratch_size)
      : input_line(panel_line(p.input_columns)),
        line(panel_line(p.widest)),
        head_line(padded(p.actor.head_columns)),
        panel_size(rows * line),
        places(reinterpret_cast<std::int64_t*>(shared_floats())),
        input(reinterpret_cast<float*>(places + rows)),
        panels(input + rows * input_line),
        head(panels + p.value.depth * panel_size),
        fit(head + rows * head_line),
        constants(fit + rows * head_line),
        scratch(constants + constants_size(p)),
        queue(scratch + scratch_size) {}

  // A layer's.
  __device__ float* panel(int l) const { return panels + l * panel_size; }

  // Of the weights, those that every block needs as they are: the hidden layers' biases, the
  // head's, and the head's weights unless they are many.
  static constexpr int kMostHeadWeights = 2048;
  IQL_HD static bool has_head_weights(const NetworkLayout& net) {
    return net.outputs * net.head_inputs <= kMostHeadWeights;
  }
  IQL_HD static int constants_size(const Problem& p) {
    int size = padded(p.actor.head_columns);
    for (int l = 0; l < p.actor.depth; ++l) size += p.actor.hidden[l].columns;
    const int critic = p.critic.head_inputs, actor = p.actor.outputs * p.actor.head_inputs;
    return size + (has_head_weights(p.actor) && actor > critic ? actor : critic);
  }

  static std::size_t bytes(const Problem& p, int rows, int scratch_size) {
    const int floats = panel_line(p.input_columns) + p.value.depth * panel_line(p.widest) +
                       2 * padded(p.actor.head_columns);
    return std::size_t(rows) * (floats * sizeof(float) + sizeof(std::int64_t)) +
           (constants_size(p) + scratch_size) * sizeof(float);
  }
};

// A network's products: one for each hidden layer forward and, where it is trained, one for each
// but the first back.
template <class Precision>
struct Way {
  const NetworkLayout& net;
  const float *weights, *operands;
  int count;

  __device__ Way(const NetworkLayout& net_, const float* weights_, const float* operands_,
                 bool trained)
      : net(net_),
        weights(weights_),
        operands(operands_),
        count(trained ? 2 * net_.depth - 1 : net_.depth) {}
  __device__ bool back(int i) const { return i >= net.depth; }
  __device__ int layer(int i) const {
    const int l = back(i) ? 2 * net.depth - 1 - i : i;
    if (l < 0) __builtin_unreachable();  // since i < count
    return l;
  }
  __device__ Weights operator[](int i) const {
    const HiddenLayout& of = net.hidden[layer(i)];
    if (back(i)) return {operands + of.backward, of.columns, of.rows};
    return {Precision::forward(of, weights, operands), of.rows, of.columns};
  }
};

// One network's way through a block's rows.
template <class Precision, int kRows>
struct RowsBlock {
  static constexpr int kThreads = Precision::kRowsThreads;
  const Problem& p;
  const NetworkLayout& net;
  int seed, network, first_row;
  const float* weights;  // all parameters of the network
  RowsShared shared;

  __device__ RowsBlock(const Problem& problem, int seed_, int network_, int first_row_,
                       const float* weights_)
      : p(problem),
        net(problem.layout(network_)),
        seed(seed_),
        network(network_),
        first_row(first_row_),
        weights(weights_),
        shared(problem, kRows, Precision::scratch_size(kRows)) {}

  // Dropout's factor on the units it kept.
  __device__ float scale() const { return network == engine::kActor && p.dropout ? p.kept : 1.0f; }

  // body(row of the block, column) for each element of the block's rows, or for the first of every
  // kStep: a warp takes a row, and its lanes neighbours.
  template <int kStep = 1, class Body>
  __device__ void for_elements(int columns, const Body& body) const {
    for (int row = threadIdx.x / 32; row < kRows; row += kThreads / 32) {
      for (int c = threadIdx.x % 32 * kStep; c < columns; c += 32 * kStep) body(row, c);
    }
  }

  // On their way from here on.
  __device__ void copy_constants() const {
    float* to = shared.constants;
    const auto copy = [&](int from, int count) {
      for (int i = threadIdx.x * 4; i < count; i += kThreads * 4) {
        copy_16_bytes(to + i, weights + from + i);
      }
      to += count;
    };
    copy(net.head_bias, padded(net.head_columns));
    for (int l = 0; l < net.depth; ++l) copy(net.hidden[l].bias, net.hidden[l].columns);
    if (RowsShared::has_head_weights(net)) copy(net.head_weight, net.outputs * net.head_inputs);
    end_of_copies();
  }
  __device__ const float* head_bias() const { return shared.constants; }
  __device__ const float* bias(int l) const {
    const float* at = shared.constants + padded(net.head_columns);
    for (int i = 0; i < l; ++i) at += net.hidden[i].columns;
    return at;
  }
  __device__ const float* head_weights() const {
    return RowsShared::has_head_weights(net) ? bias(net.depth) : weights + net.head_weight;
  }

  // Where the block's rows lie in the dataset or in what was met.
  __device__ void draw_places(const Source& source) const {
    for (int r = threadIdx.x; r < kRows; r += kThreads) {
      const int row = first_row + r;
      std::int64_t place = kNoRow;
      if (row < p.batch) {
        place = source.given ? std::int64_t(seed) * p.batch + row
                             : batch_row(p.keys[seed], p.clocks[seed].next, row, source.size);
      }
      if (source.met_rows > 0 && place >= 0) {
        const std::int64_t slot =
            engine::met_slot(place, source.rows, source.met_rows, source.capacity);
        if (slot >= 0) place = kNoRow - 1 - (slot * p.seeds + seed);
      }
      shared.places[r] = place;
    }
    __syncthreads();
  }

  // Number c of what a row has in a column of the dataset that is so wide, and, if it was met, from
  // number `first` of its record on.
  __device__ float read(const Source& source, int r, const float* column, int width, int first,
                        int c) const {
    const std::int64_t place = shared.places[r];
    if (place >= 0) return column[place * width + c];
    return place == kNoRow ? 0.0f : source.met[(kNoRow - 1 - place) * p.record_size() + first + c];
  }

  // The network's input, from the dataset. `keep` writes the batch down for others.
  __device__ void gather(bool next, bool keep) const {
    const Source source = *p.source;
    draw_places(source);
    const int O = p.obs_dim, A = p.act_dim, inputs = net.hidden[0].inputs;
    const float* observations = next ? source.next_observations : source.observations;
    const int first = next ? p.next_observation_of_record() : 0;
    for_elements(keep ? p.input_columns : net.hidden[0].rows, [&](int r, int c) {
      float x = 0;
      if (c < O) {
        x = read(source, r, observations, O, first, c);
      } else if (c < O + A && (keep || c < inputs)) {
        x = read(source, r, source.actions, A, O, c - O);
      }
      if (keep) p.input(seed)[std::int64_t(first_row + r) * p.input_columns + c] = x;
      if (c < net.hidden[0].rows) shared.input[r * shared.input_line + c] = c < inputs ? x : 0;
    });
  }

  // What later launches read of the batch and gather() does not write down.
  __device__ void keep_rest_of_batch() const {
    const Source source = *p.source;
    draw_places(source);
    for (int r = threadIdx.x; r < kRows; r += kThreads) {
      p.column(seed, kReward)[first_row + r] =
          read(source, r, source.rewards, 1, p.reward_of_record(), 0);
      p.column(seed, kMask)[first_row + r] =
          read(source, r, source.masks, 1, p.mask_of_record(), 0);
    }
    if (p.old_value) return;  // then nothing reads s' again
    for_elements(p.value.hidden[0].rows, [&](int r, int c) {
      p.next_input(seed)[std::int64_t(first_row + r) * p.value.hidden[0].rows + c] =
          c < p.obs_dim ? read(source, r, source.next_observations, p.obs_dim,
                               p.next_observation_of_record(), c)
                        : 0;
    });
  }

  // V's input, as it was written down.
  __device__ void load_input(bool next) const {
    const float* from = next ? p.next_input(seed) : p.input(seed);
    const int line = next ? net.hidden[0].rows : p.input_columns;
    for_elements(net.hidden[0].rows, [&](int r, int c) {
      shared.input[r * shared.input_line + c] =
          c < p.obs_dim ? from[std::int64_t(first_row + r) * line + c] : 0;
    });
  }

  // One draw for each four units of the batch's activation.
  __device__ void drop(int l, int units, float* activation) const {
    const std::int64_t begin = std::int64_t(first_row) * units,
                       end = begin + std::int64_t(kRows) * units;
    for (std::int64_t four = begin / 4 + threadIdx.x; four * 4 < end; four += kThreads) {
      const PhiloxWords words = draw(p.keys[seed], p.clocks[seed].next, kDropoutStream + l,
                                     static_cast<std::uint32_t>(four));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::int64_t unit = four * 4 + i;
        if (unit < begin || unit >= end) continue;
        const int row = static_cast<int>((unit - begin) / units);
        float& x = activation[row * shared.line + (unit - begin) % units];
        x = words.word[i] >= p.drop_below ? x * p.kept : 0;
      }
    }
    __syncthreads();
  }

  // out(row, output, value) of the head's outputs, by one lane of a warp each.
  template <class Out>
  __device__ void head(const Out& out) const {
    const int lane = threadIdx.x % 32;
    const float *weights = head_weights(), *bias = head_bias();
    for (int row = threadIdx.x / 32; row < kRows; row += kThreads / 32) {
      const float* activation = shared.panel(net.depth - 1) + row * shared.line;
      for (int output = 0; output < net.outputs; ++output) {
        const float* weight = weights + output * net.head_inputs;
        float sum = 0;
        for (int k = lane; k < net.head_inputs; k += 32) sum += activation[k] * weight[k];
        sum = warp_sum(sum);
        if (lane == 0) out(row, output, sum + bias[output]);
      }
    }
  }

  // Of the log-likelihood of the batch's actions (of minus their squared error), given the outputs
  // in shared.head: its terms, and in the outputs' place its gradient.
  __device__ void score() const {
    const int A = p.act_dim;
    for_elements(A, [&](int row, int a) {
      float& output = shared.head[row * shared.head_line + a];
      const float action = read(*p.source, row, p.source->actions, A, p.obs_dim, a);
      GaussianTerm<float> term;
      if (p.deterministic_policy) {
        term = squared_error_term(action, output);
      } else {
        const float raw = head_bias()[A + a];
        const float log_std = fminf(fmaxf(raw, float(kLogStdMin)), float(kLogStdMax));
        term = gaussian_term(action, output, log_std, std::exp(-log_std), log_std == raw);
      }
      shared.fit[row * shared.head_line + a] = term.log_prob;
      output = term.d_output;
      shared.head[row * shared.head_line + A + a] = term.d_log_std;
    });
  }
  __device__ void sum_score() const {
    for (int r = threadIdx.x; r < kRows; r += kThreads) {
      float fit = 0;
      for (int a = 0; a < p.act_dim; ++a) fit += shared.fit[r * shared.head_line + a];
      p.column(seed, kFit)[first_row + r] = fit;
    }
  }

  // The head's gradient, from shared.head, and from it the last hidden layer's.
  __device__ void head_back() const {
    const int columns = padded(net.head_columns), last = net.depth - 1;
    float* gradient = p.workspace_of(seed, network) + net.head_gradient;
    for_elements(columns, [&](int row, int c) {
      gradient[std::int64_t(first_row + row) * columns + c] =
          c < net.head_columns ? shared.head[row * shared.head_line + c] : 0;
    });
    const float* weights = head_weights();
    float* panel = shared.panel(last);
    for_elements(net.hidden[last].columns, [&](int row, int c) {
      float sum = 0;
      for (int o = 0; o < net.outputs; ++o) {
        sum += shared.head[row * shared.head_line + o] * weights[o * net.head_inputs + c];
      }
      float& at = panel[row * shared.line + c];
      at = at > 0 ? sum * scale() : 0;
    });
    __syncthreads();
    write_down(panel, net.hidden[last].columns, net.hidden[last].gradient);
  }

  // One of the network's products: a layer's activation from the one before it (its input, for the
  // first), or a layer's gradient from that of the one after it. One code for both ways, which is
  // in the instruction cache when the way back begins.
  template <class Queue>
  __device__ void product(const Way<Precision>& way, int i, Queue& queue, bool keep) const {
    const bool back = way.back(i), first = i == 0;
    const HiddenLayout& layer = net.hidden[way.layer(i)];
    const int to = back ? way.layer(i) - 1 : i;
    const int inputs = back ? layer.columns : layer.rows;
    const int outputs = back ? layer.rows : layer.columns;
    float* panel = shared.panel(to);
    const float* own_bias = bias(back ? 0 : i);
    const float own_scale = scale();
    Precision::template rows<kRows>(first  ? shared.input
                                    : back ? shared.panel(to + 1)
                                           : shared.panel(to - 1),
                                    first ? shared.input_line : shared.line, inputs, outputs, queue,
                                    shared.scratch, [&](int row, int column, const auto& sum) {
                                      float* at = panel + row * shared.line + column;
                                      put(at, sum, back ? at : own_bias + column,
                                          [back, own_scale](float x, float beside) {
                                            // Beside is what the unit made of its input, or its
                                            // bias; NaN stays.
                                            if (back) return beside > 0 ? x * own_scale : 0.0f;
                                            const float y = x + beside;
                                            return y < 0 ? 0.0f : y;
                                          });
                                    });
    __syncthreads();
    if (i == way.count - 1) let_next_launch_come_up();
    if (!back && network == engine::kActor && p.dropout) drop(i, layer.outputs, panel);
    if (!keep) return;
    const HiddenLayout& made = net.hidden[to];
    write_down(panel, made.columns, back ? made.gradient : made.activation);
  }

  // Some columns of a panel's row, each after `change`, which also has its number of `beside`.
  template <int kColumns, class Change>
  __device__ void put(float* at, const float (&values)[kColumns], const float* beside,
                      const Change& change) const {
    if constexpr (kColumns == 4) {
      const float4 b = load4(beside);
      *reinterpret_cast<float4*>(at) = make_float4(change(values[0], b.x), change(values[1], b.y),
                                                   change(values[2], b.z), change(values[3], b.w));
    } else {
      const float2 b = *reinterpret_cast<const float2*>(beside);
      *reinterpret_cast<float2*>(at) = make_float2(change(values[0], b.x), change(values[1], b.y));
    }
  }

  __device__ void write_down(const float* panel, int columns, int offset) const {
    float* to = p.workspace_of(seed, network) + offset + std::int64_t(first_row) * columns;
    for_elements<4>(columns, [&](int row, int c) {
      *reinterpret_cast<float4*>(to + row * columns + c) = load4(panel + row * shared.line + c);
    });
  }
};

// What only one thread a seed needs to know of a step, so that every other reads it.
__device__ inline void tick(const Problem& p, int seed) {
  if (threadIdx.x != 0) return;
  const std::int64_t step = p.clocks[seed].next;
  const engine::SeedHyperparameters hyper = p.hyper[seed];
  AdamStep<float>* adam = p.adam + seed * 3;
  const double t = double(step + 1);
  adam[0] = adam_step<float>(hyper.value_lr, t);
  adam[1] = adam_step<float>(
      cosine_schedule(hyper.actor_lr, double(step), double(p.actor_schedule_steps)), t);
  adam[2] = adam_step<float>(hyper.critic_lr, t);
  p.clocks[seed].now = step;
}

// Blocks for which a multiprocessor shall have the registers. Before sm_90 it has the shared memory
// for one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <int kThreads>
constexpr int kBlocksTogether = 1;
#else
template <int kThreads>
constexpr int kBlocksTogether = 512 / kThreads;
#endif

// A pass's job for some rows of a seed. A block whose threads all come here may do one after
// another, with a barrier in between. `begin` is called before anything in device memory is read.
template <class Precision, int kRows, class Begin>
__device__ __forceinline__ void take_rows(const Problem& p, RowsPass pass, int rows, int job,
                                          int seed, const Begin& begin) {
  const bool train = pass == RowsPass::kTrain;
  const int trained = train ? p.networks() : 0;
  const bool target = train && job >= trained && job < trained + p.critics;
  const int network = job < trained ? job : target ? job - p.critics : engine::kValue;
  const bool next = train ? job == trained + p.critics : job == 1;
  const bool keep = job < trained;
  const NetworkLayout& net = p.layout(network);
  const float* weights = p.parameters_of(seed, network) + (target ? 3 * net.size : 0);
  const float* operands = p.operands_of(seed, network) + (target ? net.operand_size : 0);
  const int first_row = rows * kRows;
  begin();
  const RowsBlock<Precision, kRows> block(p, seed, network, first_row, weights);
  if (train && job == row_jobs(p, pass) - 1) {
    if (rows == 0) tick(p, seed);
    block.keep_rest_of_batch();
    return;
  }
  block.copy_constants();
  const Way<Precision> way(net, weights, operands, keep);
  WeightQueue<Precision, Way<Precision>> queue(block.shared.queue, way);

  if (train) {
    block.gather(next, job == 0);
  } else {
    block.load_input(next);
  }
  queue.wait_for_others();
  __syncthreads();
#pragma unroll 1
  for (int i = 0;; ++i) {
    if (i == net.depth) {
      if (train && network == engine::kActor) {
        block.head([&](int row, int output, float value) {
          block.shared.head[row * block.shared.head_line + output] = value;
        });
        __syncthreads();
        block.score();
      } else {
        const int critic = network - engine::kCritic;
        const int which = target                      ? kFirstCritic + critic + p.critics
                          : next                      ? kNextValue
                          : !train                    ? kValueNow
                          : network == engine::kValue ? kValueBefore
                                                      : kFirstCritic + critic;
        float* column = p.column(seed, which) + first_row;
        block.head([&](int row, int, float value) {
          column[row] = value;
          block.shared.head[row * block.shared.head_line] = 1;
        });
      }
      if (!keep) return;
      __syncthreads();
      if (network == engine::kActor) block.sum_score();
      block.head_back();
    }
    if (i == way.count) return;
    block.product(way, i, queue, keep);
  }
}

// Grid: blocks of rows, jobs, seeds.
template <class Precision, int kRows>
__global__ void __launch_bounds__(kMostThreads<Precision>, kBlocksTogether<Precision::kRowsThreads>)
    rows_kernel(const __grid_constant__ Problem p, RowsPass pass) {
  touch_parameter(p);
  take_rows<Precision, kRows>(p, pass, blockIdx.x, blockIdx.y, blockIdx.z,
                              [] { wait_for_previous_launch(); });
}

}  // namespace iql::cuda
