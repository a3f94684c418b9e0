#include "engine/cpu_engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/drawing.h"
#include "engine/optimizer.h"
#include "engine/seed.h"
#include "engine/steps.h"
#include "engine/workspace.h"

namespace iql::engine {

using Clock = std::chrono::steady_clock;

template <class T, class Operand>
CpuEngine<T, Operand>::CpuEngine(Config config, Dataset data)
    : setup_(std::move(config), data),
      workers_(std::max(1, setup_.config.threads)),
      teams_(setup_.config, setup_.layouts, setup_.block_rows, setup_.kernels.panels_together,
             workers_.size()),
      acting_(setup_) {
  for (std::size_t s = 0; s < setup_.config.seeds.size(); ++s) {
    seeds_.push_back(std::make_unique<Seed<T, Operand>>(setup_, s));
  }
  for (const Teams::Needs& needs : teams_.needs) {
    workspaces_.push_back(
        std::make_unique<Workspace<T, Operand>>(setup_, needs.blocks, needs.slots));
  }
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

template <class T, class Operand>
void CpuEngine<T, Operand>::explore(const float* observations, const float* noise, float* actions) {
  const cpu::FlushDenormals flush;
  const int O = setup_.config.obs_dim, A = setup_.config.act_dim;
  for (std::size_t s = 0; s < seeds_.size(); ++s) {
    acting_.sample(seeds_[s]->networks[kActor], observations + s * O, noise + s * A,
                   actions + s * A);
  }
}

template <class T, class Operand>
bool CpuEngine<T, Operand>::draws_next(std::int64_t place) const {
  return draws(setup_.config, setup_.data.size(), step_, place);
}

// Does `steps` steps in rounds of round_steps, after each of which the calling thread asks whether
// it is interrupted; returns the steps done.
template <class T, class Operand>
std::int64_t CpuEngine<T, Operand>::train(std::int64_t steps, std::int64_t round_steps,
                                          const GivenBatch<T>* given,
                                          const std::function<bool()>& interrupted) {
  const int threads = workers_.size();
  for (const auto& team : teams_.shared) team->stop = false;
  const Steps<T, Operand> all_steps(setup_);
  cpu::Rounds rounds(threads, (steps + round_steps - 1) / round_steps);
  workers_.run([&](int thread) {
    const cpu::FlushDenormals flush;
    for (std::int64_t round = 0; rounds.begin(thread, round); ++round) {
      const std::int64_t begin = round * round_steps, count = std::min(round_steps, steps - begin);
      bool stop = false;
      for (int s = thread; s < teams_.whole_seeds; s += threads) {
        teams_.alone[thread]->stop = seeds_[s]->failure.has_value();
        all_steps.train_seed(*seeds_[s], s, step_ + begin, count, given, *teams_.alone[thread], 0,
                             workspaces_);
        stop |= seeds_[s]->failure.has_value();
      }
      for (std::size_t i = 0; i < teams_.shared.size(); ++i) {
        const int member = thread - teams_.shared[i]->first_thread;
        if (member >= 0 && member < teams_.shared[i]->size) {
          const int s = teams_.whole_seeds + static_cast<int>(i);
          all_steps.train_seed(*seeds_[s], s, step_ + begin, count, given, *teams_.shared[i],
                               member, workspaces_);
          stop |= teams_.shared[i]->stop;
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
Sharing CpuEngine<T, Operand>::sharing() const {
  const auto by_networks = [](const auto& team) { return team->pair && team->pair->by_networks; };
  return std::any_of(teams_.shared.begin(), teams_.shared.end(), by_networks) ? Sharing::kNetworks
                                                                              : Sharing::kRows;
}

template <class T, class Operand>
int CpuEngine<T, Operand>::pieces(NetworkId id) const {
  return piece_count(setup_.layouts.of(id));
}

template <class T, class Operand>
std::size_t CpuEngine<T, Operand>::piece_size(NetworkId id, int piece) const {
  return engine::piece_size(setup_.layouts.of(id), piece);
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
  const Optimizer<T, Operand> optimizer(setup_);
  for (const auto& seed : seeds_) {
    seed->failure.reset();
    for (Net& net : seed->networks) optimizer.refresh(net);
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
