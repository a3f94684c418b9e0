// The engine without torch: threads and kernel sets agree, and a failure stops the run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/faster_way.h"
#include "cpu/kernels.h"
#include "cpu/workers.h"
#include "engine/cpu_engine.h"
#include "iql/bfloat16.h"
#include "iql/philox.h"

namespace {

using namespace iql::engine;

constexpr int kObs = 5, kAct = 2, kRows = 64;

// Columns of numbers without structure in [-1, 1).
struct Columns {
  std::vector<float> observations, actions, rewards, masks, next_observations;

  Columns() {
    std::uint32_t index = 0;
    const auto fill = [&](std::vector<float>& column, int size) {
      for (int i = 0; i < size; ++i) {
        const std::uint32_t word = iql::draw(1, 2, 3, index++).word[0];
        column.push_back(static_cast<float>(word / 2147483648.0 - 1.0));
      }
    };
    fill(observations, kRows * kObs);
    fill(actions, kRows * kAct);
    fill(rewards, kRows);
    masks.assign(kRows, 1.0f);
    fill(next_observations, kRows * kObs);
  }

  Dataset dataset() const {
    return {{observations.data(), actions.data(), rewards.data(), masks.data(),
             next_observations.data()},
            kRows};
  }
};

Config config(int seeds, int threads, const std::vector<int>& hidden, double dropout) {
  Config c;
  c.obs_dim = kObs;
  c.act_dim = kAct;
  c.hidden = hidden;
  c.critics = 2;
  c.batch_size = 37;
  for (int s = 0; s < seeds; ++s) {
    c.seeds.push_back(10 + s);
    c.hyper.push_back({0.7, 3.0, 0.99, 0.005, 100.0, 3e-4, 3e-4, 3e-4});
  }
  c.actor_dropout = dropout;
  c.actor_schedule_steps = 100;
  c.threads = threads;
  return c;
}

// Bias with which most hidden units are active, so that products go without lists, and which leaves
// some blocks of rows on either side of the boundary.
constexpr double kMostActive = 10;

// Small numbers that depend on the place alone into every weight, and `bias` more into every bias;
// the target equals the critic.
template <class T, class Operand>
void initialise(CpuEngine<T, Operand>& engine, const Config& c, double bias = 0) {
  for (std::size_t s = 0; s < c.seeds.size(); ++s) {
    for (int n = 0; n < 2 + c.critics; ++n) {
      const NetworkId id = static_cast<NetworkId>(n < 2 ? n : 2);
      for (int piece = 0; piece < engine.pieces(id); ++piece) {
        std::vector<T> values(engine.piece_size(id, piece));
        for (std::size_t i = 0; i < values.size(); ++i) {
          values[i] = T(0.3) * std::sin(T(1 + i + 7 * piece + 31 * n));
          if (piece % 2 == 1) values[i] += T(bias);
        }
        engine.write(static_cast<int>(s), n, kWeights, piece, values.data());
        if (n >= 2) engine.write(static_cast<int>(s), n, kTarget, piece, values.data());
      }
    }
  }
  engine.refresh();
}

template <class T, class Operand>
std::vector<T> all_of(const CpuEngine<T, Operand>& engine, const Config& c, ArrayId array) {
  std::vector<T> all;
  for (std::size_t s = 0; s < c.seeds.size(); ++s) {
    for (int n = 0; n < 2 + c.critics; ++n) {
      const NetworkId id = static_cast<NetworkId>(n < 2 ? n : 2);
      for (int piece = 0; piece < engine.pieces(id); ++piece) {
        std::vector<T> values(engine.piece_size(id, piece));
        engine.read(static_cast<int>(s), n, array, piece, values.data());
        all.insert(all.end(), values.begin(), values.end());
      }
    }
  }
  return all;
}

// Weights after a run, and one from an earlier step on, as from a checkpoint; then the metrics.
template <class T, class Operand>
std::vector<T> trained(const Config& c, double bias) {
  const Columns columns;
  CpuEngine<T, Operand> engine(c, columns.dataset());
  initialise(engine, c, bias);
  CHECK(engine.run(25, [] { return false; }) == 25);
  CHECK(engine.step() == 25);
  engine.set_step(9);
  CHECK(engine.run(6, [] { return false; }) == 6);
  CHECK(!engine.failure());
  std::vector<T> found = all_of(engine, c, kWeights);
  std::int64_t steps = 0;
  for (const auto& sums : engine.take_metrics(&steps)) {
    for (const double sum : {sums.value_loss, sums.critic_loss, sums.actor_loss, sums.value, sums.q,
                             sums.advantage, sums.weight, sums.weight_max}) {
      found.push_back(T(sum));
    }
  }
  CHECK(steps == 31);
  return found;
}

template <class T, class Operand>
void threads_change_nothing_of(Config c, double bias = 0) {
  c.threads = 1;
  const std::vector<T> one = trained<T, Operand>(c, bias);
  for (const T value : one) CHECK(std::isfinite(value));
  for (const int threads : {2, 3, 5}) {
    c.threads = threads;
    c.sharing = Sharing::kNetworks;
    CHECK((trained<T, Operand>(c, bias) == one));
    if (threads > 2 || c.seeds.size() % 2 == 0) continue;  // one pair of threads will do
    c.sharing = Sharing::kRows;
    CHECK((trained<T, Operand>(c, bias) == one));
  }
}

template <class T, class Operand = T>
void threads_change_nothing() {
  for (const int seeds : {1, 2, 3}) {
    for (const std::vector<int>& hidden : {std::vector<int>{33}, std::vector<int>{40, 17, 24}}) {
      threads_change_nothing_of<T, Operand>(config(seeds, 1, hidden, 0.1));
    }
    Config c = config(seeds, 1, {130, 70}, 0);
    threads_change_nothing_of<T, Operand>(c);
    threads_change_nothing_of<T, Operand>(c, kMostActive);
    c.old_value = true;
    threads_change_nothing_of<T, Operand>(c);
    c.old_value = false;
    c.stages = {{true, false, true, 7}, {true, true, true, 11}, {false, true, false}};
    threads_change_nothing_of<T, Operand>(c);
    c.stages = {{}};
    for (const int critics : {1, 3}) {
      c.critics = critics;
      threads_change_nothing_of<T, Operand>(c);
    }
  }
}

// Over the changes from one way of sharing to the other, as they come when both are tried.
void ways_of_sharing_take_turns() {
  const Columns columns;
  Config c = config(1, 2, {33, 20}, 0);
  CpuEngine<float> engine(c, columns.dataset());
  initialise(engine, c);
  const auto start = std::chrono::steady_clock::now();
  std::int64_t steps = 0;
  int changes = 0;
  Sharing before = Sharing::kNetworks;  // the first to be tried
  // A step a call: of two changes within one call none would be seen, and on a busy machine a few
  // steps last longer than a trial. Four trials take less than a second where it is idle.
  while (changes < 3 && std::chrono::steady_clock::now() - start < std::chrono::minutes(2)) {
    steps += engine.run(1, [] { return false; });
    changes += engine.sharing() != before;
    before = engine.sharing();
  }
  CHECK(changes >= 3);  // four trials, in turn
  c.threads = 1;
  CpuEngine<float> alone(c, columns.dataset());
  initialise(alone, c);
  CHECK(alone.run(steps, [] { return false; }) == steps);
  for (const ArrayId array : {kWeights, kFirstMoment, kSecondMoment}) {
    CHECK((all_of(engine, c, array) == all_of(alone, c, array)));
  }
}

void the_faster_way_is_found() {
  iql::cpu::FasterWay faster;
  double seconds_a_unit[2] = {2e-4, 1e-4};
  // The share of way 0 in so many seconds of work.
  const auto work = [&](double seconds) {
    double spent[2] = {0, 0};
    while (spent[0] + spent[1] < seconds) {
      const int way = faster.way();
      spent[way] += 300 * seconds_a_unit[way];
      faster.took(300 * seconds_a_unit[way], 300);
    }
    return spent[0] / (spent[0] + spent[1]);
  };
  const double at_first = work(10);
  CHECK(at_first > 0 && at_first < 0.1);
  CHECK(work(1000) < 0.01);  // tried ever more rarely
  std::swap(seconds_a_unit[0], seconds_a_unit[1]);
  work(2 * iql::cpu::FasterWay::kKept);
  CHECK(work(100) > 0.9);  // it changes its mind

  // A way that was disturbed in one of its trials is judged by the other.
  for (const int when : {1, 3}) {
    iql::cpu::FasterWay disturbed;
    for (int trial = 0; trial < 4; ++trial) {
      CHECK(disturbed.way() == trial % 2);
      const std::int64_t units = trial == when ? 1 : trial % 2 == 1 ? 10 : 5;
      for (int i = 0; i < 4; ++i) disturbed.took(iql::cpu::FasterWay::kTrial / 3.5, units);
    }
    CHECK(disturbed.way() == 1);
  }
}

// Mixed precision with each set of kernels that runs here.
template <class Body>
void with_each_mixed_set(const Body& body) {
  using iql::BFloat16;
  for (const auto* const* set = iql::cpu::all_kernels<float, BFloat16>(); *set != nullptr; ++set) {
    if (!iql::cpu::can_run((*set)->name)) continue;
    setenv("IQL_FAST_CPU_KERNELS", (*set)->name, 1);
    body(std::string((*set)->name));
    unsetenv("IQL_FAST_CPU_KERNELS");
  }
}

void threads_change_nothing_in_mixed_precision() {
  with_each_mixed_set([](const std::string&) { threads_change_nothing<float, iql::BFloat16>(); });
}

// The gradients of a step from equal weights, as Adam's first moments show them: the same operands,
// summed up in other orders, after which one of thousands may be rounded the other way.
void mixed_sets_agree(double bias) {
  for (const std::vector<int>& hidden :
       {std::vector<int>{130, 70}, std::vector<int>{40, 300, 24}}) {
    Config c = config(1, 1, hidden, 0.1);
    c.batch_size = 150;
    // The new V has taken Adam's first step, which turns the rounding of a gradient near zero into
    // a step up or down: the losses read the old one.
    c.old_value = true;
    std::vector<float> first;
    with_each_mixed_set([&](const std::string& name) {
      const Columns columns;
      CpuEngine<float, iql::BFloat16> engine(c, columns.dataset());
      CHECK(engine.kernel_set() == name);
      initialise(engine, c, bias);
      engine.run(1, [] { return false; });
      const std::vector<float> moments = all_of(engine, c, kFirstMoment);
      if (first.empty()) first = moments;
      double difference = 0, size = 0;
      for (std::size_t i = 0; i < moments.size(); ++i) {
        difference += std::pow(double(moments[i]) - first[i], 2);
        size += std::pow(double(first[i]), 2);
      }
      CHECK(size > 0);
      CHECK(std::sqrt(difference / size) < 1e-4);
    });
  }
}

void interruption_ends_between_steps() {
  const Columns columns;
  const Config c = config(2, 2, {16}, 0);
  CpuEngine<float> engine(c, columns.dataset());
  initialise(engine, c);
  int asked = 0;
  bool said = false;
  const std::int64_t done = engine.run(1 << 20, [&] {
    CHECK(!said);  // nobody asks again: who has answered may hold an exception
    // The other thread gets ahead, so that this one has rounds to do after it has answered.
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return said = ++asked == 8;
  });
  CHECK(said);
  CHECK(done > 0);
  CHECK(done < 1 << 20);
  CHECK(engine.step() == done);
}

// Even where the answer comes after the last round of a run's first part, which only takes the
// time.
void interruption_after_the_first_step_ends_there() {
  const Columns columns;
  const Config c = config(1, 1, {16}, 0);
  CpuEngine<float> engine(c, columns.dataset());
  initialise(engine, c);
  int asked = 0;
  CHECK(engine.run(1 << 20, [&] { return ++asked == 1; }) == 1);
  CHECK(asked == 1);
}

void threads_stop_after_the_same_round() {
  constexpr int kThreads = 3;
  for (const std::int64_t asked_to_stop : {0, 1, 20, 1000}) {
    iql::cpu::Rounds rounds(kThreads, 100);
    iql::cpu::Workers workers(kThreads);
    std::vector<std::int64_t> done(kThreads, 0);
    std::atomic<std::int64_t> most_ahead{0}, slowest{0};
    workers.run([&](int thread) {
      for (std::int64_t round = 0; rounds.begin(thread, round); ++round) {
        if (thread == 0) {  // the slowest
          slowest = round;
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        } else if (round - slowest > most_ahead) {
          most_ahead = round - slowest;
        }
        if (thread == 1 && round == asked_to_stop) rounds.stop();
        done[thread] = round + 1;
      }
    });
    for (const std::int64_t rounds_of_one : done) CHECK(rounds_of_one == rounds.count());
    CHECK(rounds.count() > std::min<std::int64_t>(asked_to_stop, 99));
    CHECK(rounds.count() <= asked_to_stop + 10 || rounds.count() == 100);
    CHECK(most_ahead <= 10);
  }
}

void a_loss_that_is_not_finite_stops_the_run() {
  const float infinity = std::numeric_limits<float>::infinity();
  std::optional<Failure> with_one_thread;
  for (const int threads : {1, 2, 3}) {
    const Config c = config(1, threads, {16}, 0);
    const auto failure = [&](const Columns& columns) {
      CpuEngine<float> engine(c, columns.dataset());
      initialise(engine, c);
      engine.run(50, [] { return false; });
      CHECK(engine.failure().has_value());
      CHECK(engine.step() == 1);
      return *engine.failure();
    };
    Columns columns;
    columns.rewards.assign(kRows, infinity);
    const Failure of_critic = failure(columns);
    CHECK(of_critic.step == 1);
    CHECK(std::string(of_critic.network) == "critic");
    CHECK(of_critic.q_min < of_critic.q_max);
    CHECK(of_critic.v_min < of_critic.v_max);
    if (!with_one_thread) with_one_thread = of_critic;
    for (const auto range : {&Failure::q_min, &Failure::q_max, &Failure::v_min, &Failure::v_max}) {
      CHECK(of_critic.*range == (*with_one_thread).*range);
    }
    columns.observations.assign(columns.observations.size(), infinity);
    CHECK(std::string(failure(columns).network) == "value");  // the first in update order
  }
}

// Every kernel set against plain loops, in fp64.
void products_equal_plain_loops() {
  constexpr int m = 13, k = 11, n = 19;
  for (const auto* const* set = iql::cpu::all_kernels<double>(); *set != nullptr; ++set) {
    const auto& kernels = **set;
    if (!iql::cpu::can_run(kernels.name)) continue;
    const int P = kernels.panel;
    const auto panels = [P](int columns) { return (columns + P - 1) / P; };
    const auto at = [P](int rows, int r, int c) { return ((c / P) * rows + r) * P + c % P; };
    Buffer<double> in(panels(k) * m * P), weight(panels(n) * k * P), bias(panels(n) * P),
        out(panels(n) * m * P), transposed(panels(k) * n * P), d_in(panels(k) * m * P),
        d_weight(k * P), d_bias(P);
    for (int r = 0; r < m; ++r) {
      for (int c = 0; c < k; ++c) in[at(m, r, c)] = std::sin(r * 3.0 + c);
    }
    for (int r = 0; r < k; ++r) {
      for (int c = 0; c < n; ++c) weight[at(k, r, c)] = std::cos(r * 5.0 + c);
    }
    for (int c = 0; c < n; ++c) bias[c] = 0.1 * c - 0.5;
    const std::size_t stride = std::size_t(m) * P;
    kernels.forward({in.data(), stride}, m, k, weight.data(), bias.data(), n, {out.data(), stride});
    for (int p = 0; p < panels(n); ++p) {
      kernels.transpose_panel(weight.data() + std::size_t(p) * k * P, k, p, n, transposed.data());
    }
    kernels.dense.backward({out.data(), stride}, m, n, transposed.data(), {in.data(), stride}, k,
                           2.0, nullptr, {d_in.data(), stride});
    for (int r = 0; r < m; ++r) {
      for (int c = 0; c < n; ++c) {
        double sum = bias[c];
        for (int i = 0; i < k; ++i) sum += in[at(m, r, i)] * weight[at(k, i, c)];
        CHECK_NEAR(out[at(m, r, c)], sum > 0 ? sum : 0, 1e-12);
      }
      for (int i = 0; i < k; ++i) {
        double sum = 0;
        for (int c = 0; c < n; ++c) sum += out[at(m, r, c)] * weight[at(k, i, c)];
        CHECK_NEAR(d_in[at(m, r, i)], in[at(m, r, i)] > 0 ? 2 * sum : 0, 1e-11);
      }
    }
    for (int p = 0; p < panels(n); ++p) {
      const double* d_out = out.data() + p * stride;
      kernels.weight_gradient({in.data(), stride}, m, k, d_out, d_weight.data());
      kernels.bias_gradient(d_out, m, d_bias.data());
      for (int c = p * P; c < n && c < (p + 1) * P; ++c) {
        double column = 0;
        for (int r = 0; r < m; ++r) column += out[at(m, r, c)];
        CHECK_NEAR(d_bias[c % P], column, 1e-12);
        for (int i = 0; i < k; ++i) {
          double sum = 0;
          for (int r = 0; r < m; ++r) sum += in[at(m, r, i)] * out[at(m, r, c)];
          CHECK_NEAR(d_weight[i * P + c % P], sum, 1e-11);
        }
      }
    }
  }
}

// Every fp32 kernel set, for moments from nothing to far beyond any that training sees.
void adam_follows_its_formula() {
  constexpr int n = 167;
  for (const auto* const* set = iql::cpu::all_kernels<float>(); *set != nullptr; ++set) {
    if (!iql::cpu::can_run((*set)->name)) continue;
    Buffer<float> weight(n), m(n), v(n), target(n), gradient(n);
    std::vector<double> weights(n), targets(n);
    const iql::AdamStep<float> step = iql::adam_step<float>(3e-4, 5);
    for (int i = 0; i < n; ++i) {
      const double size = i == 0 ? 0 : std::pow(10.0, i % 30 - 18);
      weight[i] = std::sin(float(i));
      target[i] = std::cos(float(i));
      gradient[i] = float(size * std::sin(3.0 * i));
      m[i] = float(size * std::cos(5.0 * i));
      v[i] = float(size * size * (1 + std::sin(7.0 * i)));
      double first = m[i], second = v[i];
      weights[i] = weight[i];
      first += step.one_minus_beta1 * (gradient[i] - first);
      second += step.one_minus_beta2 * (double(gradient[i]) * gradient[i] - second);
      // What fp32 cannot hold is zero.
      if (second < std::numeric_limits<float>::min()) second = 0;
      weights[i] -= step.rate * first / (std::sqrt(second) * step.inverse_root + step.epsilon);
      targets[i] = target[i] + 0.005 * (weights[i] - target[i]);
    }
    const iql::cpu::FlushDenormals flush;
    (*set)->adam({weight.data(), m.data(), v.data(), target.data(), nullptr, nullptr},
                 gradient.data(), n, step, 0.005f);
    for (int i = 0; i < n; ++i) {
      CHECK_NEAR(weight[i], weights[i], 2e-7);
      CHECK_NEAR(target[i], targets[i], 2e-7);
    }
  }
}

}  // namespace

int main() {
  products_equal_plain_loops();
  adam_follows_its_formula();
  threads_change_nothing<float>();
  threads_change_nothing<double>();
  threads_change_nothing_in_mixed_precision();
  ways_of_sharing_take_turns();
  the_faster_way_is_found();
  mixed_sets_agree(0);
  mixed_sets_agree(kMostActive);
  threads_stop_after_the_same_round();
  interruption_ends_between_steps();
  interruption_after_the_first_step_ends_there();
  a_loss_that_is_not_finite_stops_the_run();
}
