#include "engine/cpu_engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "cpu/faster_way.h"
#include "iql/adam.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/gaussian.h"
#include "iql/philox.h"

namespace iql::engine {

using cpu::Rows;
using Clock = std::chrono::steady_clock;

namespace {

std::size_t padded(int n, int multiple) {
  return std::size_t(n + multiple - 1) / multiple * multiple;
}

template <class T>
Rows<const T> constant(Rows<T> rows) {
  return {rows.data, rows.panel_stride};
}

// What a step's metrics cost, as Update::cost counts.
constexpr std::int64_t kMetricsCost = 32;

}  // namespace

// What training changes in one seed.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Seed {
  std::uint64_t key;
  SeedHyperparameters hyper;
  std::vector<Net> networks;  // NetworkId order: value, actor, critic 0, critic 1, ...
  MetricSums sums;
  std::optional<Failure> failure;
  std::vector<T> clipped_log_std, inverse_std;  // [A], of this step
  std::vector<char> free_log_std;               // whether the clip leaves it alone
};

// What a step needs and does not keep. Panel matrices of B rows unless said otherwise.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Workspace {
  struct Saved {  // a trained network's activations and their gradients, layer by layer
    std::vector<Buffer<Operand>> activation, gradient;
    // The columns of the gradients past the first layer's, and the blocks of rows in which they are
    // listed.
    std::vector<cpu::ListBuffer<Operand>> columns;
    std::vector<std::vector<char>> listed;
  };
  struct Head {
    Buffer<T> out, d_out;  // [B][outputs]
  };
  Buffer<T> input, next_input;           // observation ++ action; next observation
  Buffer<T> reward, mask;                // [B]
  Buffer<T> q, v, v_next;                // [B]: min of the targets; V that the losses read
  Buffer<T> target_q;                    // [B]: one target critic
  std::vector<Saved> saved;              // by Team::slot
  std::vector<Head> heads;               // by NetworkId
  std::vector<Buffer<Operand>> scratch;  // [layer] of a block of rows: a forward that keeps nothing
  cpu::ListBuffer<Operand> row_lists;    // of a block of rows: the operand of one product
  Buffer<T> sums;                        // of that product
  Buffer<Operand> room;                  // of a dense one
  Buffer<T> gradient;                    // of the weights and biases of one update
  Buffer<T> d_log_std;                   // [B][A]
  Buffer<T> value_loss, advantage, weight, actor_loss, critic_loss;  // [B]
  std::vector<char> clipped;                                         // [B]
  std::vector<std::int64_t> rows;                                    // [B]
};

// A member's rows of the batch: blocks [first, last), block b being rows bounds[b] ... bounds[b +
// 1].
template <class T, class Operand>
struct CpuEngine<T, Operand>::RowShare {
  const int* bounds;
  int blocks;  // of all members
  int first, last;
  int begin() const { return bounds[first]; }
  int end() const { return bounds[last]; }
};

// The work of an update that one thread does at a time.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Update {
  // Panels of a hidden layer's weights (of the first layer's and of its biases: both have to do
  // with the same columns of the gradient), panels of another's biases, or a network's head.
  enum Part { kWeights, kBiases, kHead };

  int id;
  Part part;
  int layer;
  int panel, panels;
  std::int64_t cost;  // the time that it takes, in that of a line of a panel
};

// Networks that a team trains together, with one barrier between their rows and their weights, and
// each member's updates of them.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Group {
  std::vector<int> ids;
  std::vector<std::vector<Update>> updates;
};

// A step of one stage: V, and then the others, group by group.
template <class T, class Operand>
struct CpuEngine<T, Operand>::StagePlan {
  Group value;
  std::vector<Group> others;  // one at least
};

// Threads that train one seed together; they share the workspace of the first.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Team {
  // Rows are shared out evenly and, within a member's share, cut into even blocks, at most so long.
  Team(int size, int first_thread, int batch_size, int block_rows, int together, bool apart)
      : size(size),
        first_thread(first_thread),
        together(together),
        apart(apart),
        barrier(size),
        bounds{0},
        first_block{0} {
    for (int m = 0; m < size; ++m) {
      // Whole cache lines of a column, so that no two members write to one.
      const auto bound = [&](int i) {
        const int at = static_cast<int>(std::int64_t(batch_size) * i / size);
        return i == size ? batch_size : at / 16 * 16;
      };
      const int begin = bound(m), count = bound(m + 1) - begin;
      const int blocks = (count + block_rows - 1) / block_rows;
      for (int b = 1; b <= blocks; ++b) bounds.push_back(begin + count * b / blocks);
      first_block.push_back(static_cast<int>(bounds.size()) - 1);
    }
  }

  int blocks() const { return static_cast<int>(bounds.size()) - 1; }
  RowShare block(int b) const { return {bounds.data(), blocks(), b, b + 1}; }
  RowShare rows(int member) const {
    return {bounds.data(), blocks(), first_block[member], first_block[member + 1]};
  }

  // Which of the workspace's activations are a network's. All networks of a thread alone share
  // them. In a team some members may still be at the weights of one group while others are at the
  // rows of the next, but of no later one; V has the team to itself.
  int group(int id) const { return (id - kActor) / together; }
  int slot(int id) const {
    if (apart) return id < kCritic ? id : id - kCritic;
    if (size == 1 || id == kValue) return 0;
    return group(id) % 2 * together + (id - kActor) % together;
  }
  std::size_t slots() const { return apart ? 2 : size == 1 ? 1 : 2 * together; }

  // Gives each update to the member with the least to do, the costliest first. The first member has
  // `already` to do.
  static std::vector<std::vector<Update>> share_out(std::vector<Update> updates, int members,
                                                    std::int64_t already) {
    std::stable_sort(updates.begin(), updates.end(),
                     [](const Update& a, const Update& b) { return a.cost > b.cost; });
    std::vector<std::vector<Update>> shares(members);
    std::vector<std::int64_t> load(members, 0);
    load[0] = already;
    for (const Update& update : updates) {
      const auto least = std::min_element(load.begin(), load.end());
      *least += update.cost;
      shares[least - load.begin()].push_back(update);
    }
    // In a network's order again: neighbours read the same activations.
    for (auto& share : shares) {
      std::sort(share.begin(), share.end(), [](const Update& a, const Update& b) {
        return std::tie(a.id, a.layer, a.part, a.panel) < std::tie(b.id, b.layer, b.part, b.panel);
      });
    }
    return shares;
  }

  const int size, first_thread;
  const int together;  // networks besides V in a group
  const bool apart;    // whether two members of a pair have two networks each
  cpu::Barrier barrier;
  std::vector<int> bounds;       // of the blocks of rows
  std::vector<int> first_block;  // of each member, and the number of blocks
  std::vector<StagePlan> plans;  // of each stage
  std::unique_ptr<Pair> pair;    // if there is one
  bool stop = false;             // written by member 0 before a barrier, read after it
};

// Two members who share a seed out by networks: the first has V and the actor, the other two
// critics and their targets, eight products of the hidden layers' size each. Weights and
// activations stay with the core that changes them, and only columns of the batch change hands.
template <class T, class Operand>
struct CpuEngine<T, Operand>::Pair {
  Team alone;                     // as either is within its networks
  cpu::Signal q{}, next_value{};  // of a block of a step
  cpu::Signal critic_loss{};      // of a step, counted from 1
  bool by_networks = true;        // or by rows; written by member 0 before a barrier
  cpu::FasterWay faster{};        // 0: by networks, 1: by rows

  std::int64_t number(std::int64_t step, int block) const {
    return step * alone.blocks() + block + 1;
  }
  void reset() {
    for (cpu::Signal* signal : {&q, &next_value, &critic_loss}) signal->post(0);
  }
};

template <class T, class Operand>
CpuEngine<T, Operand>::CpuEngine(Config config, Dataset data)
    : config_(std::move(config)),
      data_(data),
      kernels_(cpu::kernels<T, Operand>()),
      block_rows_(kernels_.piece),
      value_layout_(config_.obs_dim, config_.hidden, 1, 0, kernels_.panel, 64 / sizeof(Operand)),
      actor_layout_(config_.obs_dim, config_.hidden, config_.act_dim, config_.act_dim,
                    kernels_.panel, 64 / sizeof(Operand)),
      critic_layout_(config_.obs_dim + config_.act_dim, config_.hidden, 1, 0, kernels_.panel,
                     64 / sizeof(Operand)) {
  const std::size_t A = config_.act_dim;
  for (std::size_t s = 0; s < config_.seeds.size(); ++s) {
    auto seed = std::make_unique<Seed>();
    seed->key = config_.seeds[s];
    seed->hyper = config_.hyper[s];
    seed->networks.emplace_back(value_layout_, false);
    seed->networks.emplace_back(actor_layout_, false);
    for (int e = 0; e < config_.critics; ++e) seed->networks.emplace_back(critic_layout_, true);
    seed->clipped_log_std.resize(A);
    seed->inverse_std.resize(A);
    seed->free_log_std.resize(A);
    seeds_.push_back(std::move(seed));
  }
  workers_ = std::make_unique<cpu::Workers>(std::max(1, config_.threads));
  // Whole seeds go to threads while there are at least as many seeds as threads; threads share what
  // is left.
  const int threads = workers_->size(), all = static_cast<int>(seeds_.size());
  const auto make_team = [&](int size, int first_thread) {
    // The fewer networks together, the nearer a network's activations when its weights are updated;
    // but every member shall have a share of those, of as many panels as are fastest.
    const int shares = std::max(1, panels(config_.hidden.front()) / kernels_.panels_together);
    auto team =
        std::make_unique<Team>(size, first_thread, config_.batch_size, block_rows_,
                               std::min((size + shares - 1) / shares, 1 + config_.critics), false);
    if (size == 2 && config_.critics == 2) {
      // In two blocks at least, so that one member can be at the second when the other gets the
      // first.
      const int half = (config_.batch_size + 1) / 2;
      team->pair.reset(
          new Pair{{1, first_thread, config_.batch_size, std::min(block_rows_, half), 1, true}});
    }
    return team;
  };
  whole_seeds_ = all / threads * threads;
  for (int t = 0; whole_seeds_ > 0 && t < threads; ++t) alone_.push_back(make_team(1, t));
  const int shared = all - whole_seeds_;
  for (int i = 0; i < shared; ++i) {
    const int first = threads * i / shared, last = threads * (i + 1) / shared;
    shared_.push_back(make_team(last - first, first));
  }
  std::vector<int> blocks(threads, 0);
  std::vector<std::size_t> slots(threads, 0);
  // Plans, and what the workspaces of so many threads need for them.
  const auto prepare = [&](Team& team, int with_workspace) {
    const auto group = [&](const std::vector<int>& ids, bool last) -> Group {
      return {ids, Team::share_out(updates(ids, team.size), team.size, last ? kMetricsCost : 0)};
    };
    for (const Stage& stage : config_.stages) {
      std::vector<std::vector<int>> others(1);
      const auto add = [&](int id) {
        if (!others.back().empty() && team.group(others.back().back()) != team.group(id)) {
          others.emplace_back();
        }
        others.back().push_back(id);
      };
      if (stage.actor) add(kActor);
      for (int e = 0; stage.critic && e < config_.critics; ++e) add(kCritic + e);
      StagePlan plan{group(stage.value ? std::vector<int>{kValue} : std::vector<int>{}, false), {}};
      for (const std::vector<int>& ids : others) {
        plan.others.push_back(group(ids, &ids == &others.back()));
      }
      team.plans.push_back(std::move(plan));
    }
    for (int t = team.first_thread; t < team.first_thread + with_workspace; ++t) {
      blocks[t] = std::max(blocks[t], team.blocks());
      slots[t] = std::max(slots[t], team.slots());
    }
  };
  for (const auto* teams : {&alone_, &shared_}) {
    for (const auto& team : *teams) {
      prepare(*team, 1);
      if (team->pair) prepare(team->pair->alone, 2);
    }
  }
  for (int t = 0; t < threads; ++t) make_workspace(blocks[t], slots[t]);
}

// The updates of the weights of some networks, for a team of so many.
template <class T, class Operand>
std::vector<typename CpuEngine<T, Operand>::Update> CpuEngine<T, Operand>::updates(
    const std::vector<int>& networks, int members) const {
  std::vector<Update> found;
  for (const int id : networks) {
    const NetworkLayout& layout = *seeds_[0]->networks[id].layout;
    for (std::size_t l = 0; l < layout.hidden.size(); ++l) {
      const HiddenLayer& layer = layout.hidden[l];
      const int lines = l == 0 ? layer.inputs : layer.outputs;
      const int panels = this->panels(l == 0 ? layer.outputs : layer.inputs);
      const int each = panels * static_cast<int>(networks.size()) / members;  // a member
      const int together = std::max(1, std::min(kernels_.panels_together, each));
      for (int p = 0; p < panels; p += together) {
        const int count = std::min(together, panels - p);
        found.push_back({id, Update::kWeights, int(l), p, count, std::int64_t(lines) * count});
      }
      const int columns = this->panels(layer.outputs), share = (columns + members - 1) / members;
      for (int p = 0; l > 0 && p < columns; p += share) {
        const int count = std::min(share, columns - p);
        found.push_back({id, Update::kBiases, int(l), p, count, std::int64_t(4) * count});
      }
    }
    found.push_back({id, Update::kHead, -1, 0, 0, 32 * layout.outputs});
  }
  return found;
}

template <class T, class Operand>
void CpuEngine<T, Operand>::make_workspace(int blocks, std::size_t slots) {
  const std::size_t B = config_.batch_size, A = config_.act_dim, P = kernels_.panel;
  const bool lists = kernels_.list_density > 0;
  auto w = std::make_unique<Workspace>();
  w->input = Buffer<T>(B * padded(config_.obs_dim + config_.act_dim, P));
  w->next_input = Buffer<T>(B * padded(config_.obs_dim, P));
  for (Buffer<T>* column :
       {&w->reward, &w->mask, &w->q, &w->v, &w->v_next, &w->target_q, &w->value_loss, &w->advantage,
        &w->weight, &w->actor_loss, &w->critic_loss}) {
    *column = Buffer<T>(B);
  }
  std::size_t largest = 0;
  for (const Net& net : seeds_[0]->networks) {
    const NetworkLayout& layout = *net.layout;
    for (const HiddenLayer& layer : layout.hidden) {
      const int lines = std::max(layer.inputs, layer.outputs);
      largest = std::max(largest, lines * P * kernels_.panels_together + padded(layer.outputs, P));
    }
    w->heads.push_back({Buffer<T>(B * layout.outputs), Buffer<T>(B * layout.outputs)});
    largest = std::max(largest, std::size_t(layout.outputs) * (layout.head_inputs_padded + 1) +
                                    layout.log_stds + 3 * 16);
  }
  w->saved.resize(slots);
  for (typename Workspace::Saved& saved : w->saved) {
    for (std::size_t l = 0; l < config_.hidden.size(); ++l) {
      const std::size_t width = padded(config_.hidden[l], P);
      saved.activation.emplace_back(B * width);
      saved.gradient.emplace_back(B * width);
      if (l == 0) continue;
      saved.columns.emplace_back(lists ? width : 0, blocks);
      saved.listed.emplace_back(blocks);
    }
  }
  int widest = 0;
  for (const int width : config_.hidden) {
    w->scratch.emplace_back(block_rows_ * padded(width, P));
    widest = std::max(widest, width);
  }
  w->row_lists = cpu::ListBuffer<Operand>(lists ? block_rows_ : 0, kernels_.pieces_of(widest));
  w->sums = Buffer<T>(lists ? block_rows_ * P * kernels_.panels_together : 0);
  if (kernels_.dense.room != nullptr) {
    w->room = Buffer<Operand>(kernels_.dense.room(config_.batch_size, widest));
  }
  w->gradient = Buffer<T>(largest);
  w->d_log_std = Buffer<T>(B * A);
  w->clipped.resize(B);
  w->rows.resize(B);
  workspaces_.push_back(std::move(w));
}

template <class T, class Operand>
CpuEngine<T, Operand>::~CpuEngine() = default;

template <class T, class Operand>
std::int64_t CpuEngine<T, Operand>::run(std::int64_t steps,
                                        const std::function<bool()>& interrupted) {
  constexpr double kRoundSeconds = 0.15;  // short enough for Ctrl-C, long enough to cost nothing
  std::int64_t done = 0;
  // Threads that were ahead when the answer came have this one do a few more rounds. It must not
  // ask again in those: an answer may come once only, as Ctrl-C does.
  bool stopped = false;
  const auto ask = [&] { return stopped = stopped || interrupted(); };
  while (done < steps && !failure_ && !stopped) {
    const std::int64_t planned = round_steps_ == 0 ? 1 : steps - done;  // the first: to be timed
    const Clock::time_point start = Clock::now();
    const std::int64_t now = train(planned, std::max<std::int64_t>(1, round_steps_), nullptr, ask);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    round_steps_ = std::max<std::int64_t>(1, std::int64_t(kRoundSeconds * double(now) / seconds));
    done += now;
  }
  return done;
}

template <class T, class Operand>
void CpuEngine<T, Operand>::step_on(const GivenBatch<T>& batch) {
  train(1, 1, &batch, [] { return false; });
}

// Does `steps` steps in rounds of round_steps, after each of which the calling thread asks whether
// it is interrupted; returns the steps done.
template <class T, class Operand>
std::int64_t CpuEngine<T, Operand>::train(std::int64_t steps, std::int64_t round_steps,
                                          const GivenBatch<T>* given,
                                          const std::function<bool()>& interrupted) {
  const int threads = workers_->size();
  for (const auto& team : shared_) team->stop = false;
  cpu::Rounds rounds(threads, (steps + round_steps - 1) / round_steps);
  workers_->run([&](int thread) {
    const cpu::FlushDenormals flush;
    for (std::int64_t round = 0; rounds.begin(thread, round); ++round) {
      const std::int64_t begin = round * round_steps, count = std::min(round_steps, steps - begin);
      bool stop = false;
      for (int s = thread; s < whole_seeds_; s += threads) {
        alone_[thread]->stop = seeds_[s]->failure.has_value();
        train_seed(s, step_ + begin, count, given, *alone_[thread], 0);
        stop |= seeds_[s]->failure.has_value();
      }
      for (std::size_t i = 0; i < shared_.size(); ++i) {
        const int member = thread - shared_[i]->first_thread;
        if (member >= 0 && member < shared_[i]->size) {
          const int s = whole_seeds_ + static_cast<int>(i);
          train_seed(s, step_ + begin, count, given, *shared_[i], member);
          stop |= shared_[i]->stop;
        }
      }
      if (thread == 0) stop |= interrupted();
      if (stop) rounds.stop();
    }
  });
  const std::int64_t done = std::min(steps, rounds.count() * round_steps);
  step_ += done;
  metric_steps_ += done;
  for (const auto& seed : seeds_) {
    if (seed->failure && (!failure_ || seed->failure->step < failure_->step)) {
      failure_ = seed->failure;
    }
  }
  return done;
}

template <class T, class Operand>
void CpuEngine<T, Operand>::train_seed(int index, std::int64_t first_step, std::int64_t steps,
                                       const GivenBatch<T>* given, Team& team, int member) {
  Seed& seed = *seeds_[index];
  Workspace& w = *workspaces_[team.first_thread];
  Workspace& own = *workspaces_[team.first_thread + member];
  const RowShare share = team.rows(member);
  const int begin = share.begin(), end = share.end();
  const Net& value = seed.networks[kValue];
  const T kept = T(1.0 / (1.0 - config_.actor_dropout));
  const auto joint = [&](std::int64_t step) {
    const Stage& stage = config_.stages[moment(config_.stages, step).stage];
    return stage.value && stage.actor && stage.critic;
  };
  const auto paired = [&](std::int64_t step) {
    return team.pair && team.pair->by_networks && joint(step);
  };
  const Parts of_member{member == 0, member == 1};  // of a pair
  const auto draw = [&](std::int64_t step) {
    if (given != nullptr) return;
    if (paired(step)) {
      draw_rows(seed, step, of_member, own, 0, config_.batch_size);
    } else {
      draw_rows(seed, step, {true, true}, w, begin, end);
    }
  };
  if (team.pair && member == 0) {
    team.pair->reset();
    team.pair->by_networks = config_.sharing == Sharing::kNetworks ||
                             (config_.sharing == Sharing::kFaster && team.pair->faster.way() == 0);
  }
  // The first member may still be at a seed of its own, with the workspace that is now to be
  // shared.
  team.barrier.wait();
  const Clock::time_point start = Clock::now();

  draw(first_step);
  for (std::int64_t step = first_step; step < first_step + steps && !team.stop; ++step) {
    const Moment now = moment(config_.stages, step);
    const Stage& stage = config_.stages[now.stage];
    if (paired(step)) {
      gather(index, given, of_member, own, 0, config_.batch_size);
      Workspace& others = *workspaces_[team.first_thread + 1 - member];
      if (member == 0) {
        step_value_and_actor(seed, index, step, now, own, others, *team.pair, draw);
        team.stop = seed.failure.has_value();
      } else {
        step_critics(seed, step, now, own, others, *team.pair, draw);
      }
      team.barrier.wait();
      continue;
    }
    const StagePlan& plan = team.plans[now.stage];
    gather(index, given, {stage.critic, stage.critic}, w, begin, end);
    if (stage.value || stage.actor) least_target(seed, w, share, own);
    if (stage.value) {
      forward_saved(value, kValue, w, team, share, own, nullptr, step);
      value_head(seed, w, begin, end);
      backward(value, kValue, w, team, share, own, T(1));
    }
    const auto read_value = [&] {  // as the losses of the actor and the critics read it
      if (stage.actor) forward(value_layout_, value.trained, w.input, share, own, w.v.data());
      if (stage.critic) {
        forward(value_layout_, value.trained, w.next_input, share, own, w.v_next.data());
      }
    };
    if (!stage.value || config_.old_value) read_value();
    if (member == 0 && stage.actor) read_log_std(seed);
    team.barrier.wait();

    if (stage.value) {
      update(seed, plan.value.updates[member], now, w, team, own);
      team.barrier.wait();
      if (!config_.old_value) read_value();
    }
    for (const Group& group : plan.others) {
      const bool last = &group == &plan.others.back();
      for (const int id : group.ids) {
        const Net& net = seed.networks[id];
        if (id == kActor) {
          forward_saved(net, id, w, team, share, own, &seed, step);
          actor_head(seed, w, begin, end);
          backward(net, id, w, team, share, own, kept);
        } else {
          forward_saved(net, id, w, team, share, own, nullptr, step);
          critic_head(seed, id - kCritic, w, begin, end);
          backward(net, id, w, team, share, own, T(1));
        }
      }
      team.barrier.wait();
      if (last) {
        if (member == 0) {
          add_metrics(seed, index, step, stage, w);
          team.stop = seed.failure.has_value();
        }
        draw(step + 1);  // the rows arrive during this step's last phase
      }
      update(seed, group.updates[member], now, w, team, own);
      if (last) team.barrier.wait();
    }
  }
  // Steps of which some train fewer networks would be compared with others that do not.
  if (team.pair && member == 0 && joint(first_step) && joint(first_step + steps - 1)) {
    team.pair->faster.took(std::chrono::duration<double>(Clock::now() - start).count(), steps);
  }
}

// The first member's step. The other waits for V'(s'), so that goes out as soon as it can.
template <class T, class Operand>
template <class Draw>
void CpuEngine<T, Operand>::step_value_and_actor(Seed& seed, int index, std::int64_t step,
                                                 const Moment& now, Workspace& w,
                                                 Workspace& critics, Pair& pair, const Draw& draw) {
  const Team& team = pair.alone;
  const RowShare all = team.rows(0);
  const StagePlan& plan = team.plans[now.stage];
  Net &value = seed.networks[kValue], &actor = seed.networks[kActor];
  const auto read_value = [&] {
    for (int b = 0; b < team.blocks(); ++b) {
      forward(value_layout_, value.trained, w.next_input, team.block(b), w, critics.v_next.data());
      pair.next_value.post(pair.number(step, b));
    }
    forward(value_layout_, value.trained, w.input, all, w, w.v.data());
  };
  const auto forward_actor = [&](int b) {
    forward_saved(actor, kActor, w, team, team.block(b), w, &seed, step);
  };
  forward_saved(value, kValue, w, team, all, w, nullptr, step);
  if (config_.old_value) read_value();
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    pair.q.wait(pair.number(step, b));
    value_head(seed, w, block.begin(), block.end());
    backward(value, kValue, w, team, block, w, T(1));
    if (b + 1 < team.blocks()) forward_actor(b);  // until the next rows' Q is there
  }
  update(seed, plan.value.updates[0], now, w, team, w);
  if (!config_.old_value) read_value();

  forward_actor(team.blocks() - 1);
  read_log_std(seed);
  actor_head(seed, w, all.begin(), all.end());
  backward(actor, kActor, w, team, all, w, T(1.0 / (1.0 - config_.actor_dropout)));
  draw(step + 1);
  update(seed, plan.others[0].updates[0], now, w, team, w);

  pair.critic_loss.wait(step + 1);
  add_metrics(seed, index, step, config_.stages[now.stage], w);
}

// And the other's.
template <class T, class Operand>
template <class Draw>
void CpuEngine<T, Operand>::step_critics(Seed& seed, std::int64_t step, const Moment& now,
                                         Workspace& w, Workspace& value, Pair& pair,
                                         const Draw& draw) {
  const Team& team = pair.alone;
  const RowShare all = team.rows(0);
  const StagePlan& plan = team.plans[now.stage];
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    const int begin = block.begin(), end = block.end();
    least_target(seed, w, block, w);
    std::copy(w.q.data() + begin, w.q.data() + end, value.q.data() + begin);
    pair.q.post(pair.number(step, b));
  }
  const auto critic = [&](int e) -> Net& { return seed.networks[kCritic + e]; };
  for (int e = 0; e < config_.critics; ++e) {
    forward_saved(critic(e), kCritic + e, w, team, all, w, nullptr, step);
  }
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    pair.next_value.wait(pair.number(step, b));
    for (int e = 0; e < config_.critics; ++e) {
      critic_head(seed, e, w, block.begin(), block.end());
      backward(critic(e), kCritic + e, w, team, block, w, T(1));
    }
  }
  std::copy_n(w.critic_loss.data(), config_.batch_size, value.critic_loss.data());
  pair.critic_loss.post(step + 1);
  draw(step + 1);
  for (int e = 0; e < config_.critics; ++e) {
    update(seed, plan.others[1 + e].updates[0], now, w, team, w);
  }
}

template <class T, class Operand>
template <class Element>
Rows<Element> CpuEngine<T, Operand>::rows(Buffer<Element>& matrix, int row) const {
  const std::size_t P = kernels_.panel;
  return {matrix.data() + row * P, config_.batch_size * P};
}

template <class T, class Operand>
template <class Element>
Rows<const Element> CpuEngine<T, Operand>::rows(const Buffer<Element>& matrix, int row) const {
  const std::size_t P = kernels_.panel;
  return {matrix.data() + row * P, config_.batch_size * P};
}

// The batch's transitions.
template <class T, class Operand>
void CpuEngine<T, Operand>::gather(int index, const GivenBatch<T>* given, Parts parts, Workspace& w,
                                   int begin, int end) const {
  const int O = config_.obs_dim, A = config_.act_dim, P = kernels_.panel;
  const std::int64_t B = config_.batch_size;
  const auto copy = [&](const auto* from, int count, Buffer<T>& matrix, int row, int column) {
    T* panel_row = matrix.data() + (std::size_t(column / P) * B + row) * P;
    for (int i = 0, c = column % P; i < count; ++i) {
      panel_row[c] = static_cast<T>(from[i]);
      if (++c == P) {
        c = 0;
        panel_row += B * P;
      }
    }
  };
  const auto take = [&](const auto& source, std::int64_t from, int row) {
    copy(source.observations + from * O, O, w.input, row, 0);
    copy(source.actions + from * A, A, w.input, row, O);
    if (parts.next_observation) {
      copy(source.next_observations + from * O, O, w.next_input, row, 0);
    }
    if (parts.reward_and_mask) {
      w.reward[row] = static_cast<T>(source.rewards[from]);
      w.mask[row] = static_cast<T>(source.masks[from]);
    }
  };
  for (int r = begin; r < end; ++r) {
    if (given != nullptr) {
      take(*given, index * B + r, r);
    } else {
      take(data_, w.rows[r], r);
    }
  }
}

// Draws rows of a step's batch, and has them brought near: most lie in main memory.
template <class T, class Operand>
void CpuEngine<T, Operand>::draw_rows(const Seed& seed, std::int64_t step, Parts parts,
                                      Workspace& w, int begin, int end) const {
  const int O = config_.obs_dim, A = config_.act_dim;
  const auto fetch = [](const float* from, int count) {
    for (int i = 0; i < count; i += 16) __builtin_prefetch(from + i);
    __builtin_prefetch(from + count - 1);
  };
  for (int r = begin; r < end; ++r) {
    const std::int64_t from = batch_row(seed.key, step, r, data_.rows);
    w.rows[r] = from;
    fetch(data_.observations + from * O, O);
    fetch(data_.actions + from * A, A);
    if (parts.next_observation) fetch(data_.next_observations + from * O, O);
    if (parts.reward_and_mask) {
      fetch(data_.rewards + from, 1);
      fetch(data_.masks + from, 1);
    }
  }
}

// The first hidden layer for m rows.
template <class T, class Operand>
void CpuEngine<T, Operand>::first_layer(const NetworkLayout& layout, Weights weights,
                                        Rows<const T> in, int m, Rows<Operand> out) const {
  const HiddenLayer& layer = layout.hidden[0];
  kernels_.forward(in, m, layer.inputs, weights.values + layer.weight, weights.values + layer.bias,
                   layer.outputs, out);
}

// Another one.
template <class T, class Operand>
void CpuEngine<T, Operand>::inner_layer(const HiddenLayer& layer, Weights weights,
                                        Rows<const Operand> in, int m, Workspace& scratch,
                                        Rows<Operand> out) const {
  const Operand* weight = weights.forward + layer.forward;
  const T* bias = weights.values + layer.bias;
  const cpu::Lists<Operand> lists = scratch.row_lists.in_pieces(kernels_.pieces_of(layer.inputs));
  if (list_rows(in, m, layer.inputs, lists)) {
    kernels_.forward_lists(lists, m, layer.inputs, weight, bias, layer.outputs, scratch.sums.data(),
                           out);
  } else {
    kernels_.dense.forward(in, m, layer.inputs, weight, bias, layer.outputs, scratch.room.data(),
                           out);
  }
}

// Lists the nonzero elements of a matrix's rows; returns whether there are few enough for its
// products to go by lists. Where no product does, there are no lists.
template <class T, class Operand>
bool CpuEngine<T, Operand>::list_rows(Rows<const Operand> matrix, int rows, int columns,
                                      cpu::Lists<Operand> lists) const {
  if (kernels_.list_density == 0) return false;
  const std::size_t nonzero = kernels_.list_rows(matrix, rows, columns, lists);
  return double(nonzero) <= kernels_.list_density * rows * columns;
}

// The least of the target critics' values.
template <class T, class Operand>
void CpuEngine<T, Operand>::least_target(const Seed& seed, Workspace& w, const RowShare& share,
                                         Workspace& scratch) const {
  for (int e = 0; e < config_.critics; ++e) {
    const Net& critic = seed.networks[kCritic + e];
    T* out = e == 0 ? w.q.data() : w.target_q.data();
    forward(critic_layout_, critic.target, w.input, share, scratch, out);
    for (int r = share.begin(); e > 0 && r < share.end(); ++r) {
      if (!(w.q[r] <= w.target_q[r])) w.q[r] = w.target_q[r];
    }
  }
}

// Outputs alone, with a network's own weights or its target's.
template <class T, class Operand>
void CpuEngine<T, Operand>::forward(const NetworkLayout& layout, Weights weights,
                                    const Buffer<T>& input, const RowShare& share,
                                    Workspace& scratch, T* out) const {
  const std::size_t block_stride = std::size_t(block_rows_) * kernels_.panel;
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    Rows<Operand> hidden{scratch.scratch[0].data(), block_stride};
    first_layer(layout, weights, rows(input, row), m, hidden);
    for (std::size_t l = 1; l < layout.hidden.size(); ++l) {
      const Rows<Operand> result{scratch.scratch[l].data(), block_stride};
      inner_layer(layout.hidden[l], weights, constant(hidden), m, scratch, result);
      hidden = result;
    }
    kernels_.head_forward(constant(hidden), m, layout.head_inputs,
                          weights.values + layout.head_weight, weights.values + layout.head_bias,
                          layout.outputs, out + std::size_t(row) * layout.outputs);
  }
}

// Outputs, with what the backward pass and the weight gradients need of every activation.
template <class T, class Operand>
void CpuEngine<T, Operand>::forward_saved(const Net& net, int id, Workspace& w, const Team& team,
                                          const RowShare& share, Workspace& scratch,
                                          const Seed* dropout, std::int64_t step) const {
  const NetworkLayout& layout = *net.layout;
  const int last = static_cast<int>(layout.hidden.size()) - 1;
  auto& saved = w.saved[team.slot(id)];
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    const auto finish = [&](int l) {
      if (dropout == nullptr || config_.actor_dropout == 0) return;
      drop(*dropout, step, l, layout.hidden[l].outputs, rows(saved.activation[l], row), row, m);
    };
    first_layer(layout, net.trained, rows(std::as_const(w.input), row), m,
                rows(saved.activation[0], row));
    finish(0);
    for (int l = 1; l <= last; ++l) {
      inner_layer(layout.hidden[l], net.trained, rows(std::as_const(saved.activation[l - 1]), row),
                  m, scratch, rows(saved.activation[l], row));
      finish(l);
    }
    kernels_.head_forward(rows(std::as_const(saved.activation[last]), row), m, layout.head_inputs,
                          net.trained.values + layout.head_weight,
                          net.trained.values + layout.head_bias, layout.outputs,
                          w.heads[id].out.data() + std::size_t(row) * layout.outputs);
  }
}

// Dropout of one layer's activations: batch rows begin ... begin + count.
template <class T, class Operand>
void CpuEngine<T, Operand>::drop(const Seed& seed, std::int64_t step, int layer, int units,
                                 Rows<Operand> rows, int begin, int count) const {
  const int P = kernels_.panel;
  const std::uint32_t threshold = dropout_threshold(config_.actor_dropout);
  const T kept = T(1.0 / (1.0 - config_.actor_dropout));
  for (int r = 0; r < count; ++r) {
    PhiloxWords words{};
    Operand* panel_row = rows.data + std::size_t(r) * P;
    for (int c = 0, column = 0; c < units; ++c, ++column) {
      const std::uint32_t unit = std::uint32_t(begin + r) * units + c;
      if (c == 0 || unit % 4 == 0) words = draw(seed.key, step, kDropoutStream + layer, unit / 4);
      if (column == P) {
        column = 0;
        panel_row += rows.panel_stride;
      }
      Operand& x = panel_row[cpu::place_in_panel<T, Operand>(column, P)];
      x = Operand(words.word[unit % 4] >= threshold ? T(x) * kept : T(0));
    }
  }
}

// From the head's output gradients to those of every hidden layer. `scale` is dropout's factor on
// the units it kept.
template <class T, class Operand>
void CpuEngine<T, Operand>::backward(const Net& net, int id, Workspace& w, const Team& team,
                                     const RowShare& share, Workspace& scratch, T scale) const {
  const NetworkLayout& layout = *net.layout;
  auto& saved = w.saved[team.slot(id)];
  const int last = static_cast<int>(layout.hidden.size()) - 1;
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    const auto activation = [&](int l) { return rows(std::as_const(saved.activation[l]), row); };
    kernels_.head_backward(w.heads[id].d_out.data() + std::size_t(row) * layout.outputs, m,
                           layout.outputs, net.trained.values + layout.head_weight,
                           activation(last), layout.head_inputs, scale,
                           rows(saved.gradient[last], row));
    for (int l = last; l > 0; --l) {
      const HiddenLayer& layer = layout.hidden[l];
      const Rows<const Operand> d_out = rows(std::as_const(saved.gradient[l]), row);
      const Rows<Operand> d_in = rows(saved.gradient[l - 1], row);
      const cpu::Lists<Operand> lists =
          scratch.row_lists.in_pieces(kernels_.pieces_of(layer.outputs));
      const Operand* weight = net.trained.operands + layer.weight;
      const bool by_lists = list_rows(d_out, m, layer.outputs, lists);
      saved.listed[l - 1][block] = by_lists;
      if (by_lists) {
        kernels_.list_columns(d_out, m, layer.outputs, saved.columns[l - 1].in_pieces(share.blocks),
                              block);
        kernels_.backward_lists(lists, m, layer.outputs, weight, activation(l - 1), layer.inputs,
                                scale, scratch.sums.data(), d_in);
      } else {
        kernels_.dense.backward(d_out, m, layer.outputs, weight, activation(l - 1), layer.inputs,
                                scale, scratch.room.data(), d_in);
      }
    }
  }
}

// V's loss and the gradient of its output (equation 5).
template <class T, class Operand>
void CpuEngine<T, Operand>::value_head(const Seed& seed, Workspace& w, int begin, int end) const {
  auto& head = w.heads[kValue];
  const T tau = T(seed.hyper.expectile), B = T(config_.batch_size);
  for (int r = begin; r < end; ++r) {
    const Expectile<T> e = expectile(w.q[r] - head.out[r], tau);
    w.value_loss[r] = e.loss;
    head.d_out[r] = -e.d_u / B;
  }
}

// The actor's loss (equation 7) and the gradients of its output and its log-std.
template <class T, class Operand>
void CpuEngine<T, Operand>::actor_head(const Seed& seed, Workspace& w, int begin, int end) const {
  const int O = config_.obs_dim, A = config_.act_dim, P = kernels_.panel;
  const T B = T(config_.batch_size), beta = T(seed.hyper.temperature),
          clip = T(seed.hyper.weight_clip);
  auto& actor = w.heads[kActor];
  std::vector<const T*> actions;  // column by column
  for (int column = O; column < O + A; ++column) {
    const std::size_t panel = std::size_t(column / P) * config_.batch_size;
    actions.push_back(w.input.data() + panel * P + column % P);
  }
  for (int r = begin; r < end; ++r) {
    const T advantage = w.q[r] - w.v[r];
    const T weight = awr_weight(advantage, beta, clip);
    T fit = 0;
    for (int a = 0; a < A; ++a) {
      const T action = actions[a][std::size_t(r) * P];
      const T output = actor.out[r * A + a];
      const GaussianTerm<T> term =
          config_.deterministic_policy
              ? squared_error_term(action, output)
              : gaussian_term(action, output, seed.clipped_log_std[a], seed.inverse_std[a],
                              seed.free_log_std[a] != 0);
      fit += term.log_prob;
      actor.d_out[r * A + a] = -weight * term.d_output / B;
      w.d_log_std[r * A + a] = -weight * term.d_log_std / B;
    }
    w.advantage[r] = advantage;
    w.weight[r] = weight;
    w.clipped[r] = weight >= clip;
    w.actor_loss[r] = -weight * fit;
  }
}

// A critic's loss (equation 6), added to those of the critics before it, and the gradient of its
// output.
template <class T, class Operand>
void CpuEngine<T, Operand>::critic_head(const Seed& seed, int e, Workspace& w, int begin,
                                        int end) const {
  const T B = T(config_.batch_size), discount = T(seed.hyper.discount);
  auto& critic = w.heads[kCritic + e];
  for (int r = begin; r < end; ++r) {
    const T target = w.reward[r] + discount * w.mask[r] * w.v_next[r];
    const T error = critic.out[r] - target;
    w.critic_loss[r] = (e == 0 ? T(0) : w.critic_loss[r]) + error * error;
    critic.d_out[r] = T(2) * error / B;
  }
}

template <class T, class Operand>
void CpuEngine<T, Operand>::update(Seed& seed, const std::vector<Update>& share, const Moment& now,
                                   Workspace& w, const Team& team, Workspace& scratch) const {
  const T alpha = T(seed.hyper.polyak);
  const double actor_rate = cosine_schedule(seed.hyper.actor_lr, double(now.actor_updates),
                                            double(config_.actor_schedule_steps));
  for (const Update& update : share) {
    Net& net = seed.networks[update.id];
    const auto [rate, before] =
        update.id == kValue   ? std::pair{seed.hyper.value_lr, now.value_updates}
        : update.id == kActor ? std::pair{actor_rate, now.actor_updates}
                              : std::pair{seed.hyper.critic_lr, now.critic_updates};
    const AdamStep<T> adam = adam_step<T>(rate, double(before + 1));
    switch (update.part) {
      case Update::kWeights:
        update_weights(net, update, adam, alpha, w, team, scratch);
        if (update.layer > 0) break;
        [[fallthrough]];
      case Update::kBiases:
        update_biases(net, update, adam, alpha, w, team, scratch.gradient.data());
        break;
      case Update::kHead:
        update_head(net, update.id, adam, alpha, w, team, scratch.gradient.data());
    }
  }
}

template <class T, class Operand>
void CpuEngine<T, Operand>::update_weights(Net& net, const Update& update, const AdamStep<T>& adam,
                                           T alpha, Workspace& w, const Team& team,
                                           Workspace& scratch) const {
  const HiddenLayer& layer = net.layout->hidden[update.layer];
  const int B = config_.batch_size, l = update.layer, lines = l == 0 ? layer.inputs : layer.outputs;
  const std::size_t P = kernels_.panel, count = P * lines;  // of a panel
  auto& saved = w.saved[team.slot(update.id)];
  T* gradient = scratch.gradient.data();
  const auto from_panel = [&](const Buffer<Operand>& matrix) {
    const Rows<const Operand> all = rows(matrix, 0);
    return Rows<const Operand>{all.data + update.panel * all.panel_stride, all.panel_stride};
  };
  const auto listed = [&](const std::vector<char>& blocks) {
    return std::all_of(blocks.begin(), blocks.begin() + team.blocks(), [](char b) { return b; });
  };
  if (l == 0) {
    const Rows<const Operand> d_out = from_panel(saved.gradient[0]);
    for (int p = 0; p < update.panels; ++p) {
      kernels_.weight_gradient(rows(std::as_const(w.input), 0), B, lines,
                               d_out.data + p * d_out.panel_stride, gradient + p * count);
    }
  } else if (listed(saved.listed[l - 1])) {
    kernels_.weight_gradient_lists(saved.columns[l - 1].in_pieces(team.blocks()),
                                   team.bounds.data(), lines, from_panel(saved.activation[l - 1]),
                                   update.panels, gradient);
  } else {
    kernels_.dense.weight_gradient(rows(std::as_const(saved.gradient[l]), 0), B, lines,
                                   from_panel(saved.activation[l - 1]), update.panels,
                                   scratch.room.data(), gradient);
  }
  kernels_.adam(net.arrays(layer.weight + update.panel * count, l > 0), gradient,
                update.panels * count, adam, alpha);
  for (int p = update.panel; l > 0 && p < update.panel + update.panels; ++p) copy_panel(net, l, p);
}

template <class T, class Operand>
void CpuEngine<T, Operand>::update_biases(Net& net, const Update& update, const AdamStep<T>& adam,
                                          T alpha, Workspace& w, const Team& team,
                                          T* gradient) const {
  const HiddenLayer& layer = net.layout->hidden[update.layer];
  const std::size_t P = kernels_.panel;
  const Rows<const Operand> d_out =
      rows(std::as_const(w.saved[team.slot(update.id)].gradient[update.layer]), 0);
  for (int p = 0; p < update.panels; ++p) {
    kernels_.bias_gradient(d_out.data + (update.panel + p) * d_out.panel_stride, config_.batch_size,
                           gradient + p * P);
  }
  kernels_.adam(net.arrays(layer.bias + update.panel * P, false), gradient, update.panels * P, adam,
                alpha);
}

// Brings the copies for the forward pass of a panel of weights up to date.
template <class T, class Operand>
void CpuEngine<T, Operand>::copy_panel(Net& net, int l, int panel) const {
  const HiddenLayer& layer = net.layout->hidden[l];
  const std::size_t at = layer.weight + std::size_t(panel) * kernels_.panel * layer.outputs;
  for (const Weights& weights : {net.trained, net.target}) {
    if (weights.values == nullptr) continue;
    kernels_.transpose_panel(weights.operands + at, layer.outputs, panel, layer.inputs,
                             weights.forward + layer.forward);
  }
}

template <class T, class Operand>
void CpuEngine<T, Operand>::update_head(Net& net, int id, const AdamStep<T>& adam, T alpha,
                                        Workspace& w, const Team& team, T* gradient) const {
  const NetworkLayout& layout = *net.layout;
  auto& saved = w.saved[team.slot(id)];
  const auto& d_out = w.heads[id].d_out;
  const std::size_t count = std::size_t(layout.outputs) * layout.head_inputs_padded;
  T* d_bias = gradient + count;
  kernels_.head_gradient(rows(std::as_const(saved.activation.back()), 0), config_.batch_size,
                         layout.head_inputs, d_out.data(), layout.outputs, gradient, d_bias);
  const auto descend = [&](std::size_t at, const T* g, std::size_t n) {
    kernels_.adam(net.arrays(at, false), g, n, adam, alpha);
  };
  descend(layout.head_weight, gradient, count);
  descend(layout.head_bias, d_bias, layout.outputs);
  if (layout.log_stds > 0) {
    std::fill(gradient, gradient + layout.log_stds, T(0));
    for (int r = 0; r < config_.batch_size; ++r) {
      for (int a = 0; a < layout.log_stds; ++a) {
        gradient[a] += w.d_log_std[std::size_t(r) * layout.log_stds + a];
      }
    }
    descend(layout.log_std, gradient, layout.log_stds);
  }
}

template <class T, class Operand>
void CpuEngine<T, Operand>::read_log_std(Seed& seed) const {
  const Net& actor = seed.networks[kActor];
  const T* log_std = actor.trained.values + actor.layout->log_std;
  for (int a = 0; a < config_.act_dim; ++a) {
    const T clipped = std::min(std::max(log_std[a], T(kLogStdMin)), T(kLogStdMax));
    seed.clipped_log_std[a] = clipped;
    seed.inverse_std[a] = std::exp(-clipped);
    seed.free_log_std[a] = clipped == log_std[a];
  }
}

template <class T, class Operand>
void CpuEngine<T, Operand>::add_metrics(Seed& seed, int index, std::int64_t step,
                                        const Stage& stage, const Workspace& w) const {
  const int B = config_.batch_size;
  const T *q = w.q.data(), *v = stage.value ? w.heads[kValue].out.data() : w.v.data();
  const bool with_q = stage.value || stage.actor;
  const auto mean = [B](const auto& column) {
    double sum = 0;
    for (int r = 0; r < B; ++r) sum += column[r];
    return sum / B;
  };
  // Of what the stage does not compute, the columns hold nothing of this step.
  const double value_loss = stage.value ? mean(w.value_loss) : 0,
               actor_loss = stage.actor ? mean(w.actor_loss) : 0,
               critic_loss = stage.critic ? mean(w.critic_loss) : 0;
  MetricSums& sums = seed.sums;
  sums.value_loss += value_loss;
  sums.actor_loss += actor_loss;
  sums.critic_loss += critic_loss;
  if (with_q) {
    sums.value += mean(v);
    sums.q += mean(q);
  }
  if (stage.actor) {
    double squared = 0;
    for (int r = 0; r < B; ++r) squared += double(w.advantage[r]) * w.advantage[r];
    sums.advantage += mean(w.advantage);
    sums.squared_advantage += squared / B;
    sums.weight += mean(w.weight);
    sums.weight_clipped += mean(w.clipped);
    for (int r = 0; r < B; ++r) sums.weight_max = std::max(sums.weight_max, double(w.weight[r]));
  }

  const char* network = !std::isfinite(value_loss)    ? "value"
                        : !std::isfinite(actor_loss)  ? "actor"
                        : !std::isfinite(critic_loss) ? "critic"
                                                      : nullptr;
  if (network != nullptr) {
    const auto [q_min, q_max] = std::minmax_element(q, q + B);
    const auto [v_min, v_max] = std::minmax_element(v, v + B);
    const double known = with_q ? 1 : std::numeric_limits<double>::quiet_NaN();
    seed.failure = Failure{step + 1,       index,          network,       known * *q_min,
                           known * *q_max, known * *v_min, known * *v_max};
  }
}

template <class T, class Operand>
Sharing CpuEngine<T, Operand>::sharing() const {
  const auto by_networks = [](const auto& team) { return team->pair && team->pair->by_networks; };
  return std::any_of(shared_.begin(), shared_.end(), by_networks) ? Sharing::kNetworks
                                                                  : Sharing::kRows;
}

template <class T, class Operand>
int CpuEngine<T, Operand>::pieces(NetworkId id) const {
  return piece_count(*seeds_[0]->networks[id].layout);
}

template <class T, class Operand>
std::size_t CpuEngine<T, Operand>::piece_size(NetworkId id, int piece) const {
  return engine::piece_size(*seeds_[0]->networks[id].layout, piece);
}

namespace {

template <class T, class Operand>
T* array_of(const Network<T, Operand>& net, ArrayId array) {
  switch (array) {
    case kWeights:
      return net.trained.values;
    case kFirstMoment:
      return net.m;
    case kSecondMoment:
      return net.v;
    case kTarget:
      return net.target.values;
  }
  return nullptr;
}

}  // namespace

template <class T, class Operand>
void CpuEngine<T, Operand>::read(int seed_index, int network, ArrayId array, int piece,
                                 T* natural) const {
  const Net& net = seeds_[seed_index]->networks[network];
  read_piece(*net.layout, static_cast<const T*>(array_of(net, array)), piece, natural);
}

template <class T, class Operand>
void CpuEngine<T, Operand>::write(int seed_index, int network, ArrayId array, int piece,
                                  const T* natural) {
  Net& net = seeds_[seed_index]->networks[network];
  write_piece(*net.layout, array_of(net, array), piece, natural);
}

template <class T, class Operand>
void CpuEngine<T, Operand>::refresh() {
  for (const auto& seed : seeds_) {
    seed->failure.reset();
    for (Net& net : seed->networks) {
      const std::vector<HiddenLayer>& hidden = net.layout->hidden;
      for (std::size_t l = 1; l < hidden.size(); ++l) {
        const HiddenLayer& layer = hidden[l];
        for (const Weights& weights : {net.trained, net.target}) {
          if (!kRounded || weights.values == nullptr) continue;
          kernels_.operands(weights.values + layer.weight, panels(layer.inputs) * layer.outputs,
                            weights.operands + layer.weight);
        }
        for (int p = 0; p < panels(layer.inputs); ++p) copy_panel(net, static_cast<int>(l), p);
      }
    }
  }
  failure_.reset();
}

template <class T, class Operand>
std::vector<MetricSums> CpuEngine<T, Operand>::take_metrics(std::int64_t* steps) {
  std::vector<MetricSums> sums;
  for (const auto& seed : seeds_) {
    sums.push_back(seed->sums);
    seed->sums = MetricSums{};
  }
  *steps = metric_steps_;
  metric_steps_ = 0;
  return sums;
}

template class CpuEngine<float>;
template class CpuEngine<double>;
template class CpuEngine<float, BFloat16>;

}  // namespace iql::engine
