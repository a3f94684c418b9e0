// Resident steps of more seeds than fit at a time, under the emulator: groups of seeds are trained
// one after another, to the bits of steps that are launches.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "both_forms.h"
#include "check.h"
#include "cuda/deal.h"

namespace {

using namespace both_forms;
using namespace iql::engine;
using iql::cuda::ResidentPlan;

// No two seeds have the same, and their actors' rates fall while they are trained.
Config differing(Config c) {
  for (std::size_t s = 0; s < c.seeds.size(); ++s) {
    const double i = static_cast<double>(s);
    c.hyper[s] = {0.6 + 0.07 * i,  1 + 2 * i,      0.99 - 0.02 * i, 0.005 * (i + 1),
                  100.0 / (i + 1), 3e-4 * (i + 1), 1e-3 / (i + 1),  2e-4 + 1e-4 * i};
  }
  c.actor_schedule_steps = 6;
  return c;
}

// What a training comes to that is done by several calls, with the metrics of each.
struct Outcome {
  std::vector<float> state;
  std::vector<std::vector<MetricSums>> metrics;
};
Outcome trained_by_calls(Training& training, const std::vector<int>& calls) {
  Outcome outcome;
  std::int64_t done = training.engine.step();
  for (const int steps : calls) {
    CHECK(training.engine.run(steps, never) == steps);
    done += steps;
    CHECK(training.engine.step() == done);
    std::int64_t counted = 0;
    outcome.metrics.push_back(training.engine.take_metrics(&counted));
    CHECK(counted == steps);
    CHECK(!training.engine.failure());
  }
  outcome.state = state(training.engine, training.c);
  return outcome;
}

// Room for so many seeds at a time, whose groups are then as large as `largest`.
void equals_the_launches(const char* name, const Config& c, int room, int largest,
                         const std::vector<int>& calls, int multiprocessors = 2) {
  for (const Precision precision : kPrecisions) {
    set_room(c, precision, multiprocessors, room);
    Outcome outcomes[2];
    for (int form = 0; form < 2; ++form) {
      emulator::set_schedule(form);
      Training training(c, precision, kForms[form]);
      CHECK(training.engine.seeds_at_once() == (form == 0 ? int(c.seeds.size()) : largest));
      outcomes[form] = trained_by_calls(training, calls);
      for (const float value : outcomes[form].state) CHECK(std::isfinite(value));
    }
    const bool same = equal(outcomes[0].state, outcomes[1].state);
    if (!same) std::fprintf(stderr, "%s\n", name);
    CHECK(same);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      CHECK(equal_metrics(outcomes[0].metrics[i], outcomes[1].metrics[i]));
    }
  }
}

void seeds_in_turn_equal_the_launches() {
  equals_the_launches("three seeds in two groups", differing(small(3)), 2, 2, {2, 1, 3});
  Config c = differing(small(5));
  equals_the_launches("five seeds in three groups", c, 2, 2, {1, 2});
  c.old_value = true;
  equals_the_launches("five seeds in two groups, old value", c, 3, 3, {3, 1}, 3);
  c = differing(tiny(3));
  c.deterministic_policy = true;
  equals_the_launches("each seed by itself", c, 1, 1, {1, 4}, 1);
}

// A state that is read in the middle, and with which another engine of either form goes on.
void a_state_in_the_middle_is_that_of_all_seeds() {
  emulator::set_schedule(0);
  const Config c = differing(tiny(3));
  set_room(c, Precision::kFp32, 1, 1);
  const std::vector<float> expected = Training(c).state_after(5);
  Training first(c, Precision::kFp32, StepForm::kResident);
  CHECK(equal(first.state_after(2), Training(c).state_after(2)));
  for (const StepForm form : kForms) {
    Training second(c, Precision::kFp32, form);
    for_tensors(c, first.engine.pieces(kActor), [&](int s, int n, ArrayId array, int piece) {
      std::vector<float> values(first.engine.piece_size(kind(n), piece));
      first.engine.read(s, n, array, piece, values.data());
      second.engine.write(s, n, array, piece, values.data());
    });
    second.engine.set_step(2);
    second.engine.refresh();
    CHECK(equal(second.state_after(3), expected));
  }
}

// Among the steps that are drawn.
void a_given_batch_is_every_groups_own() {
  emulator::set_schedule(0);
  const Config c = differing(tiny(3));
  set_room(c, Precision::kFp32, 1, 1);
  const Transitions batch(3 * c.batch_size, c.obs_dim, c.act_dim);
  const auto [o, a, r, m, n] = batch.dataset().logged;
  std::vector<float> states[2];
  for (int form = 0; form < 2; ++form) {
    Training training(c, Precision::kFp32, kForms[form]);
    training.engine.run(1, never);
    training.engine.step_on({o, a, r, m, n});
    states[form] = training.state_after(2);
  }
  CHECK(equal(states[0], states[1]));
}

// So that weights come to the chip and go back once for many steps.
void a_group_takes_one_launch() {
  emulator::set_schedule(0);
  const Config c = tiny(5);
  set_room(c, Precision::kFp32, 1, 2);
  Training training(c, Precision::kFp32, StepForm::kResident);
  const std::int64_t before = emulator::launches();
  training.engine.run(4, never);
  CHECK(emulator::launches() - before == 3);
}

// The engine that was made last needs less shared memory.
void engines_of_other_sizes_leave_a_launch_its_memory() {
  emulator::set_schedule(0);
  set_device(3);
  const Config c = small(2);
  const std::vector<float> expected = Training(c).state_after(2);
  for (const StepForm form : kForms) {
    Training large(c, Precision::kFp32, form);
    Training(tiny(), Precision::kFp32, form).state_after(1);
    CHECK(equal(large.state_after(2), expected));
  }
}

// The first one of all seeds', though another's group comes before.
void the_first_failure_of_all_groups_is_noted() {
  emulator::set_schedule(0);
  Config c = tiny(3);
  std::reverse(c.seeds.begin(), c.seeds.end());  // the seed that draws it first comes last
  set_room(c, Precision::kFp32, 1, 1);
  Transitions columns(200, c.obs_dim, c.act_dim);
  columns.actions[77] = std::numeric_limits<float>::quiet_NaN();
  Failure failures[2];
  for (int form = 0; form < 2; ++form) {
    CpuEngine<double> beside(c, columns.dataset());
    CudaEngine engine(c, columns.dataset(), Precision::kFp32, 0, kForms[form]);
    initialise(beside, engine, c);
    engine.run(1 << 20, never);  // stops early
    CHECK(engine.failure().has_value());
    failures[form] = *engine.failure();
  }
  CHECK(failures[0].seed_index == 2);
  CHECK(failures[1].seed_index == failures[0].seed_index);
  CHECK(failures[1].step == failures[0].step);
  CHECK(std::string(failures[1].network) == failures[0].network);
}

void an_interrupted_training_has_the_same_step_for_all() {
  emulator::set_schedule(0);
  const Config c = tiny(2);
  set_room(c, Precision::kFp32, 1, 1);
  Training training(c, Precision::kFp32, StepForm::kResident), launches(c);
  int asked = 0;
  const std::int64_t done = training.engine.run(1 << 20, [&] { return ++asked == 2; });
  CHECK(done > 50);
  launches.engine.run(done, never);
  CHECK(equal(training.state_after(1), launches.state_after(1)));
}

// As docs/performance.md states it.
void groups_at_hoppers_sizes() {
  const auto sizes = [](Precision precision, int seeds) {
    const auto p = iql::cuda::plan(config(11, 3, {256, 256}, 256, seeds));
    const ResidentPlan plan = plan_resident(p, plan_step(p, precision, kH200), kH200);
    CHECK(plan.shared_bytes <= kH200.shared_of_block);
    CHECK(resident_reason(plan, kH200).empty());
    std::vector<int> counts;
    int next = 0;
    for (const auto& [range, dealt] : plan.groups) {
      CHECK(range.first == next);
      next += range.count;
      counts.push_back(range.count);
      for (const auto& duty : dealt.duties) {
        CHECK(duty.seed < 0 || (duty.seed >= range.first && duty.seed < next));
      }
    }
    CHECK(next == seeds);
    CHECK(seeds_at_once_of(plan) == *std::max_element(counts.begin(), counts.end()));
    return counts;
  };
  using Sizes = std::vector<int>;
  CHECK(sizes(Precision::kFp32, 1) == Sizes{1});
  CHECK(sizes(Precision::kFp32, 4) == Sizes{4});
  CHECK((sizes(Precision::kFp32, 5) == Sizes{2, 3}));
  CHECK((sizes(Precision::kFp32, 16) == Sizes{4, 4, 4, 4}));
  for (const Precision precision : {Precision::kBf16x3, Precision::kTf32}) {
    CHECK(sizes(precision, 3) == Sizes{3});
    CHECK((sizes(precision, 4) == Sizes{2, 2}));
    CHECK((sizes(precision, 16) == Sizes{2, 3, 3, 2, 3, 3}));
  }
}

}  // namespace

int main() {
  groups_at_hoppers_sizes();
  a_group_takes_one_launch();
  a_given_batch_is_every_groups_own();
  a_state_in_the_middle_is_that_of_all_seeds();
  the_first_failure_of_all_groups_is_noted();
  an_interrupted_training_has_the_same_step_for_all();
  engines_of_other_sizes_leave_a_launch_its_memory();
  if (kBrief) {
    equals_the_launches("three seeds in two groups", differing(small(3)), 2, 2, {1, 1});
    return 0;
  }
  seeds_in_turn_equal_the_launches();
}
