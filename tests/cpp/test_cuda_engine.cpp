// The CUDA engine under the emulator, kernels and host code, against the CPU engine in fp64.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "beside.h"
#include "check.h"
#include "cuda/engine.h"
#include "engine/cpu_engine.h"
#include "iql/philox.h"

namespace {

using namespace beside;
using namespace iql::engine;

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kBf16x3, Precision::kTf32};

void metrics_agree(const std::vector<MetricSums>& exact, const std::vector<MetricSums>& found,
                   double tolerance) {
  constexpr int kMetrics = sizeof(MetricSums) / sizeof(double);
  for (std::size_t s = 0; s < exact.size(); ++s) {
    const auto* a = reinterpret_cast<const double*>(&exact[s]);
    const auto* b = reinterpret_cast<const double*>(&found[s]);
    for (int i = 0; i < kMetrics; ++i) CHECK_NEAR(b[i], a[i], tolerance);
  }
}

// How far a precision may be from fp64.
struct Tolerance {
  const char* name;
  double gradient, weights, metrics;
  // By how much the input of a ReLU, whose terms are about 1 together, may be wrong, where that is
  // so much that some unit comes to lie there. What those make of a gradient is allowed for, but
  // only up to a limit.
  double edge, limit;
};
Tolerance tolerance_of(Precision precision) {
  // Of gradients: in fp32 and bf16x3 the largest relative error that the precision is known for at
  // the paper's sizes, which in bf16x3 is 8 times the roundoff of a factor, 2^-16. In tf32 that is
  // 2^-11. Adam's first steps are the gradient's sign, which rounding can change where a gradient
  // is all but zero, so weights are held to less.
  constexpr double kTf32 = 0x1p-11;
  switch (precision) {
    case Precision::kBf16x3:
      return {"bf16x3", 1.2e-4, 2e-4, 5e-4, 0, 1.2e-4};
    case Precision::kTf32:
      return {"tf32", 8 * kTf32, 2 * kTf32, 16 * kTf32, kTf32, 0.15};
    case Precision::kFp32:
      break;
  }
  return {"fp32", 9e-6, 2e-5, 2e-5, 0, 9e-6};
}

// One step, whose first moments are a tenth of the gradients, and then some more.
void agrees(const char* name, const Config& c, Precision precision, int more_steps = 3) {
  emulator::set_schedule(0);
  const Transitions columns(200, c.obs_dim, c.act_dim);
  CpuEngine<double> exact(c, columns.dataset());
  CudaEngine engine(c, columns.dataset(), precision, 0);
  initialise(exact, engine, c);
  const Tolerance tolerance = tolerance_of(precision);
  BothSides sides(exact, c, columns.dataset(), tolerance.edge);
  sides.run(1);
  exact.run(1, never);
  engine.run(1, never);
  const Difference first = difference(exact, engine, c);
  const double gradient = difference(exact, engine, c, &sides).moments;
  exact.run(more_steps, never);
  engine.run(more_steps, never);
  const Difference last = difference(exact, engine, c);
  if (std::getenv("IQL_TEST_VERBOSE") != nullptr) {
    std::printf("%-28s %-7s gradient %.1e (%.1e)  weights %.1e  after %d steps: %.1e\n", name,
                tolerance.name, first.moments, gradient, first.weights, more_steps + 1,
                last.weights);
  }
  CHECK(gradient < tolerance.gradient);
  CHECK(first.moments < tolerance.limit);
  CHECK(last.weights < tolerance.weights);
  CHECK(engine.step() == more_steps + 1);
  CHECK(!engine.failure());
  std::int64_t steps = 0, exact_steps = 0;
  const std::vector<MetricSums> expected = exact.take_metrics(&exact_steps);
  metrics_agree(expected, engine.take_metrics(&steps), tolerance.metrics);
  CHECK(steps == exact_steps);
}

void agrees_in_each(const char* name, const Config& c) {
  agrees(name, c, Precision::kFp32);
  agrees(name, c, Precision::kBf16x3, 2);
  agrees(name, c, Precision::kTf32, 2);
}

void every_option_agrees() {
  Config c = config(11, 3, {48, 40}, 37, 2);
  agrees_in_each("authors", c);
  c.hyper[0] = {0.9, 10.0, 0.95, 0.1, 100.0, 1e-3, 3e-4, 1e-4};
  c.hyper[1] = {0.2, 0.5, 1.0, 0.005, 2.0, 0.0, 1e-4, 3e-4};
  agrees_in_each("a value for each seed", c);
  c = config(11, 3, {48, 40}, 37);
  c.hyper[0].temperature = 60;  // almost every weight is at the clip
  c.hyper[0].weight_clip = 3;
  agrees_in_each("clip saturated", c);
  c = config(11, 3, {48, 40}, 37, 2);
  c.actor_dropout = 0.3;
  agrees_in_each("dropout", c);
  c = config(11, 3, {48, 40}, 37, 2);
  c.old_value = true;
  agrees_in_each("old value", c);
  c.old_value = false;
  c.deterministic_policy = true;
  agrees_in_each("deterministic", c);
  c = config(11, 3, {48, 40}, 37);
  c.critics = 1;
  agrees_in_each("one critic", c);
  c.critics = 10;
  agrees_in_each("ten critics", c);
}

void odd_sizes_agree() {
  Config c = config(17, 6, {33}, 1);
  agrees_in_each("one layer, batch 1", c);
  c = config(17, 6, {33, 17, 50}, 40);
  c.actor_dropout = 0.2;
  agrees_in_each("three layers, dropout", c);
  agrees_in_each("four layers", config(60, 30, {24, 70, 24, 24}, 33));
  agrees_in_each("wide", config(5, 1, {40, 300}, 20));
  agrees_in_each("one observation", config(1, 1, {1, 1}, 3));
  agrees_in_each("batch 255", config(11, 3, {32, 32}, 255));
  agrees_in_each("batch 257", config(60, 30, {32, 32}, 257));
  agrees_in_each("obs 17, act 9", config(17, 9, {32, 32}, 64));
}

void the_papers_sizes_agree() {
  for (const Precision precision : kPrecisions) {
    agrees("hopper", config(11, 3, {256, 256}, 256), precision, precision == Precision::kFp32);
  }
}

void the_order_of_threads_and_blocks_changes_nothing() {
  for (const Precision precision : kPrecisions) {
    emulator::set_schedule(0);
    const std::vector<float> expected = Training(small(2), precision).state_after(3);
    for (const float value : expected) CHECK(std::isfinite(value));
    for (unsigned schedule = 1; schedule < 5; ++schedule) {
      emulator::set_schedule(schedule);
      CHECK(equal(Training(small(2), precision).state_after(3), expected));
    }
  }
}

void each_precision_is_one_of_its_own() {
  emulator::set_schedule(0);
  std::vector<std::vector<float>> states;
  for (const Precision precision : kPrecisions) {
    const std::vector<float> found = Training(small(), precision).state_after(1);
    for (const std::vector<float>& other : states) CHECK(!equal(found, other));
    states.push_back(found);
  }
}

// Each barrier of each launch of a step is left out in turn: after the next step, which reads what
// this one left, some schedule must show it.
void every_barrier_is_needed(Precision precision, const Config& c) {
  emulator::set_schedule(0);
  const std::vector<float> expected = Training(c, precision).state_after(2);
  int barriers = 0;
  for (int launch = 0; launch < 4; ++launch) {
    for (int barrier = 0;; ++barrier) {
      bool found = false, reached = true;
      for (unsigned schedule = 0; reached && !found && schedule < 18; ++schedule) {
        emulator::set_schedule(schedule);
        Training training(c, precision);
        emulator::leave_out_barrier(launch, barrier);
        found = !equal(training.state_after(2), expected);
        reached = emulator::barriers_left_out() > 0;
      }
      if (!reached) break;
      if (!found) std::fprintf(stderr, "launch %d, barrier %d\n", launch, barrier);
      CHECK(found);
      ++barriers;
    }
  }
  CHECK(barriers > 20);
  emulator::leave_out_barrier(-1, -1);
}

Config alone_of(const Config& many) {
  Config one = many;
  one.seeds = {many.seeds[4]};
  one.hyper = {many.hyper[4]};
  return one;
}

void a_seed_equals_itself_alone(const Config& many, Precision precision) {
  Training together(many, precision);
  together.engine.run(2, never);
  const Config one = alone_of(many);
  Training alone(one, precision);
  // The same weights, which `initialise` draws for each seed anew.
  const Training fresh(many, precision);
  for_tensors(one, 7, [&](int, int n, ArrayId array, int piece) {
    std::vector<float> values(alone.engine.piece_size(kind(n), piece));
    fresh.engine.read(4, n, array, piece, values.data());
    alone.engine.write(0, n, array, piece, values.data());
  });
  alone.engine.refresh();
  alone.engine.run(2, never);
  for_tensors(one, 7, [&](int, int n, ArrayId array, int piece) {
    std::vector<float> a(alone.engine.piece_size(kind(n), piece)), b(a.size());
    alone.engine.read(0, n, array, piece, a.data());
    together.engine.read(4, n, array, piece, b.data());
    CHECK(equal(a, b));
  });
}

void seeds_do_not_depend_on_those_beside() {
  emulator::set_schedule(0);
  // So many that blocks take 32 rows rather than 16.
  Config many = small(9);
  for (int s = 0; s < 9; ++s) many.hyper[s].expectile = 0.1 + 0.1 * s;
  many.batch_size = 230;
  const auto sizes = [](const Config& c, Precision precision) {
    return iql::cuda::plan_step(iql::cuda::plan(c), precision, {108, 163 << 10, false});
  };
  for (const Precision precision : {Precision::kBf16x3, Precision::kTf32}) {
    CHECK(sizes(many, precision).train_rows == 32);
  }
  for (const Precision precision : kPrecisions) {
    CHECK(sizes(alone_of(many), precision).train_rows == 16);
    a_seed_equals_itself_alone(many, precision);
  }
}

// 50 steps of a graph and 3 launches of their own, in the same order as 53 launched alone, and as a
// run that was stopped and went on in another engine.
void a_graph_equals_single_steps() {
  emulator::set_schedule(0);
  const std::vector<float> expected = Training(tiny()).state_after(53);
  Training single(tiny());
  for (int i = 0; i < 53; ++i) CHECK(single.engine.run(1, never) == 1);
  CHECK(equal(state(single.engine, single.c), expected));

  Training first(tiny()), second(tiny());
  first.engine.run(20, never);
  for_tensors(first.c, 5, [&](int s, int n, ArrayId array, int piece) {
    std::vector<float> values(first.engine.piece_size(kind(n), piece));
    first.engine.read(s, n, array, piece, values.data());
    second.engine.write(s, n, array, piece, values.data());
  });
  second.engine.set_step(20);
  second.engine.refresh();
  CHECK(equal(second.state_after(33), expected));
  CHECK(second.engine.step() == 53);
}

void a_given_batch_equals_a_drawn_one() {
  Training drawn(small(2)), given(small(2));
  const Config& c = drawn.c;
  for (int step = 0; step < 3; ++step) {
    std::vector<float> batch[5];
    for (const std::uint64_t seed : c.seeds) {
      for (int r = 0; r < c.batch_size; ++r) {
        const std::int64_t row = iql::batch_row(seed, step, r, drawn.columns.rows);
        const auto take = [&](int column, const std::vector<float>& from, int width) {
          batch[column].insert(batch[column].end(), from.begin() + row * width,
                               from.begin() + (row + 1) * width);
        };
        take(0, drawn.columns.observations, c.obs_dim);
        take(1, drawn.columns.actions, c.act_dim);
        take(2, drawn.columns.rewards, 1);
        take(3, drawn.columns.masks, 1);
        take(4, drawn.columns.next_observations, c.obs_dim);
      }
    }
    given.engine.step_on(
        {batch[0].data(), batch[1].data(), batch[2].data(), batch[3].data(), batch[4].data()});
  }
  CHECK(equal(state(given.engine, c), drawn.state_after(3)));
  // And then it draws again.
  CHECK(equal(given.state_after(2), drawn.state_after(2)));
}

void ties_of_the_targets_agree() {
  // Both targets are the same network, and all rows the same: every q is a tie.
  Config c = small();
  Training training(c);
  for (int piece = 0; piece < 6; ++piece) {
    std::vector<float> values(training.engine.piece_size(kCritic, piece));
    training.engine.read(0, kCritic, kTarget, piece, values.data());
    training.engine.write(0, kCritic + 1, kTarget, piece, values.data());
    const std::vector<double> wide(values.begin(), values.end());
    training.beside.write(0, kCritic + 1, kTarget, piece, wide.data());
  }
  training.engine.refresh();
  training.beside.refresh();
  training.engine.run(1, never);
  training.beside.run(1, never);
  CHECK(difference(training.beside, training.engine, c).moments < 9e-6);
}

void a_loss_that_is_not_finite_is_noted() {
  const float inf = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  const auto failure_of = [](Transitions& columns) {
    const Config c = tiny(2);
    CpuEngine<double> beside(c, columns.dataset());
    CudaEngine engine(c, columns.dataset(), Precision::kFp32, 0);
    initialise(beside, engine, c);
    engine.run(1 << 20, never);  // stops early: this would take hours
    CHECK(engine.failure().has_value());
    return *engine.failure();
  };
  Transitions columns(200, 3, 1);
  columns.rewards.assign(200, inf);
  const Failure critic = failure_of(columns);
  CHECK(std::string(critic.network) == "critic");
  CHECK(critic.step == 1);
  CHECK(critic.seed_index == 0);
  CHECK(critic.q_min <= critic.q_max);
  CHECK(critic.v_min < critic.v_max);
  columns = Transitions(200, 3, 1);
  columns.observations.assign(200 * 3, nan);
  CHECK(std::string(failure_of(columns).network) == "value");
  // One row alone: found at the first step that draws it, which differs from seed to seed.
  columns = Transitions(200, 3, 1);
  columns.actions[77] = nan;
  const Failure first = failure_of(columns);
  std::int64_t expected = 0, seed = -1;
  while (seed < 0) {
    ++expected;
    for (int s = 1; s >= 0; --s) {
      for (int r = 0; r < 7; ++r) {
        if (iql::batch_row(10 + s, expected - 1, r, 200) == 77) seed = s;
      }
    }
  }
  CHECK(first.step == expected);
  CHECK(first.seed_index == seed);
  CHECK(std::string(first.network) == "value");  // NaN of q
}

void interruption_ends_between_steps() {
  Training training(tiny());
  int asked = 0;
  const std::int64_t done = training.engine.run(1 << 20, [&] { return ++asked == 2; });
  CHECK(done > 0);
  CHECK(done < 1 << 20);
  CHECK(training.engine.step() == done);
}

void a_dataset_that_does_not_fit_stays_on_the_host() {
  const std::vector<float> expected = Training(tiny()).state_after(2);
  Config c = tiny();
  const Transitions columns(200, c.obs_dim, c.act_dim);
  CpuEngine<double> beside(c, columns.dataset());
  // A little too little for all of it: what the engine took before, found by trying.
  const auto with_memory = [&](std::size_t bytes) {
    emulator::set_memory(bytes);
    std::unique_ptr<CudaEngine> engine;
    try {
      engine = std::make_unique<CudaEngine>(c, columns.dataset(), Precision::kFp32, 0);
    } catch (const std::runtime_error& error) {
      CHECK(std::string(error.what()) == "CUDA: cudaMalloc: out of memory");
    }
    emulator::set_memory(~std::size_t{0});
    return engine;
  };
  std::size_t bytes = 1 << 10;
  std::unique_ptr<CudaEngine> engine;
  while (!(engine = with_memory(bytes))) bytes += 1 << 10;
  CHECK(bytes > 1 << 10);
  CHECK(engine->dataset_on_host());
  initialise(beside, *engine, c);
  engine->run(2, never);
  CHECK(equal(state(*engine, c), expected));
  CHECK(!with_memory(1 << 30)->dataset_on_host());
}

void sizes_that_it_cannot_take_are_refused() {
  const auto refusal = [](const Config& c) -> std::string {
    const Transitions columns(10, c.obs_dim, c.act_dim);
    try {
      const CudaEngine engine(c, columns.dataset(), Precision::kFp32, 0);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  CHECK(refusal(small()).empty());
  CHECK(refusal(config(5, 2, {8, 8, 8, 8, 8}, 4)).find("at most 4") != std::string::npos);
  CHECK(refusal(config(5, 2, {2000}, 4)).find("too wide") != std::string::npos);
  CHECK(refusal(config(5, 2, {30000, 30000}, 4)).find("too large") != std::string::npos);
}

void each_launch_of_a_step_can_be_timed() {
  Config c = tiny();
  for (const bool old_value : {false, true}) {
    c.old_value = old_value;
    Training training(c);
    const std::int64_t before = emulator::launches();
    const auto times = training.engine.time_launches(5);
    CHECK(times.size() == (old_value ? 2 : 4));
    CHECK(emulator::launches() - before == 15 * static_cast<std::int64_t>(times.size()));
  }
}

void little_shared_memory_is_enough() {
  emulator::set_shared_memory(99 << 10);  // of most devices that are not made for servers
  const Config c = config(11, 3, {256, 256}, 256);
  agrees("hopper, little memory", c, Precision::kFp32, 0);
  for (const Precision precision : {Precision::kBf16x3, Precision::kTf32}) {
    const auto plan = iql::cuda::plan_step(iql::cuda::plan(c), precision, {82, 99 << 10, false});
    CHECK(plan.halves == 1);
    agrees("hopper, little memory", c, precision, 0);
    agrees("odd sizes, little memory", config(17, 6, {200, 72}, 255), precision, 0);
  }
  emulator::set_shared_memory(163 << 10);
}

// With what sm_90 has, bf16x3 alone.
template <class Body>
void with_wgmma(const Body& body) {
  emulator::set_shared_memory(227 << 10);
  setenv("IQL_FAST_CUDA_WGMMA", "1", 1);
  body();
  unsetenv("IQL_FAST_CUDA_WGMMA");
  emulator::set_shared_memory(163 << 10);
}

void products_of_warpgroups_agree() {
  const auto agree = [](const char* name, const Config& c) {
    agrees(name, c, Precision::kBf16x3, 1);
  };
  Config c = small(2);
  agree("small, wgmma", c);
  c.old_value = true;
  agree("small, old value, wgmma", c);
  agree("three layers, wgmma", config(60, 30, {33, 17, 50}, 33));
  agree("more than a pass, wgmma", config(11, 3, {300, 144}, 65));
  agree("batch 255, wgmma", config(17, 9, {32, 32}, 255));
  emulator::set_schedule(0);
  const std::vector<float> expected = Training(small(), Precision::kBf16x3).state_after(2);
  unsetenv("IQL_FAST_CUDA_WGMMA");
  CHECK(!equal(Training(small(), Precision::kBf16x3).state_after(2), expected));
  setenv("IQL_FAST_CUDA_WGMMA", "1", 1);
  for (unsigned schedule = 1; schedule < 9; ++schedule) {
    emulator::set_schedule(schedule);
    CHECK(equal(Training(small(), Precision::kBf16x3).state_after(2), expected));
  }
  emulator::set_schedule(0);
  a_seed_equals_itself_alone(small(9), Precision::kBf16x3);
  // So wide that both warpgroups have columns, and read what the other one wrote.
  Config wide = small();
  wide.hidden = {20, 144};
  every_barrier_is_needed(Precision::kBf16x3, wide);
  emulator::set_most_threads(32);  // as where there is no code for it
  CHECK(iql::cuda::size_reason(c, Precision::kBf16x3, 0).find("9.0a") != std::string::npos);
  CHECK(iql::cuda::size_reason(c, Precision::kFp32, 0).empty());
  emulator::set_most_threads(1024);
}

// As docs/performance.md states it.
void shared_memory_at_hoppers_sizes() {
  const iql::cuda::Problem p = iql::cuda::plan(config(11, 3, {256, 256}, 256));
  CHECK(iql::cuda::shared_bytes(p, {Precision::kFp32, 16, 16, 2, false}) == 101056);
  for (const Precision precision : {Precision::kBf16x3, Precision::kTf32}) {
    CHECK(iql::cuda::shared_bytes(p, {precision, 16, 16, 2, false}) == 125632);
    CHECK(iql::cuda::shared_bytes(p, {precision, 32, 32, 2, false}) == 180544);
  }
  CHECK(iql::cuda::shared_bytes(p, {Precision::kBf16x3, 64, 64, 2, false, true}) == 192064);
}

}  // namespace

int main() {
  CHECK(iql::cuda::unavailable_reason(0).empty());
  CHECK(iql::cuda::unavailable_reason(1) == "no CUDA device 1");
  shared_memory_at_hoppers_sizes();
  each_launch_of_a_step_can_be_timed();
  Config c = small(2);
  agrees_in_each("small", c);
  c.old_value = true;
  agrees_in_each("small, old value", c);
  agrees_in_each("three layers, odd widths", config(60, 30, {33, 17, 50}, 33));
  each_precision_is_one_of_its_own();
  a_graph_equals_single_steps();
  a_given_batch_equals_a_drawn_one();
  a_loss_that_is_not_finite_is_noted();
  interruption_ends_between_steps();
  a_dataset_that_does_not_fit_stays_on_the_host();
  sizes_that_it_cannot_take_are_refused();
  if (kBrief) return 0;
  ties_of_the_targets_agree();
  every_option_agrees();
  odd_sizes_agree();
  the_papers_sizes_agree();
  little_shared_memory_is_enough();
  the_order_of_threads_and_blocks_changes_nothing();
  seeds_do_not_depend_on_those_beside();
  for (const Precision precision : kPrecisions) every_barrier_is_needed(precision, small());
  with_wgmma(products_of_warpgroups_agree);
}
