// The CUDA engine under the emulator while transitions are met, and the actions that it samples.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "both_forms.h"
#include "check.h"
#include "cuda/engine.h"
#include "engine/cpu_engine.h"
#include "iql/philox.h"

namespace {

using namespace both_forms;
using namespace iql::engine;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Row {
  std::vector<float> observation, action, next_observation;
  float reward, mask;
};

// What the seeds meet, in the columns that an engine reads; and, written plainly, what the ring of
// each seed then holds.
struct Meeting {
  Config c;
  const Transitions& logged;
  std::int64_t slots, capacity, met = 0;
  Transitions columns;  // [S][slots]
  Noise noise{5};
  std::vector<std::vector<Row>> rings;

  Meeting(const Config& config, const Transitions& logged_, std::int64_t slots_,
          std::int64_t capacity_)
      : c(config),
        logged(logged_),
        slots(slots_),
        capacity(capacity_),
        columns(std::int64_t(c.seeds.size()) * slots, c.obs_dim, c.act_dim) {
    for (auto* column : {&columns.observations, &columns.actions, &columns.rewards, &columns.masks,
                         &columns.next_observations}) {
      std::fill(column->begin(), column->end(), kNaN);
    }
    std::vector<Row> ring;
    for (std::int64_t r = 0; r < logged.rows; ++r) {
      const auto part = [r](const std::vector<float>& from, int width) {
        return std::vector<float>(from.begin() + r * width, from.begin() + (r + 1) * width);
      };
      ring.push_back({part(logged.observations, c.obs_dim), part(logged.actions, c.act_dim),
                      part(logged.next_observations, c.obs_dim), logged.rewards[r],
                      logged.masks[r]});
    }
    rings.assign(c.seeds.size(), ring);
  }
  iql::engine::Columns met_columns() const { return columns.dataset().logged; }

  std::int64_t place(std::int64_t number) const { return (logged.rows + number) % capacity; }

  // Each seed's next transition, which is in its ring from now on.
  void happen() {
    for (std::vector<Row>& ring : rings) {
      if (place(met) == std::int64_t(ring.size())) ring.emplace_back();
      ring[place(met)] = {noise.column(c.obs_dim), noise.column(c.act_dim), noise.column(c.obs_dim),
                          noise(), met % 5 == 2 ? 0.0f : 1.0f};
    }
    ++met;
  }
  // Puts that of a number into the columns.
  void write(std::int64_t number) {
    for (std::size_t s = 0; s < rings.size(); ++s) {
      const Row& row = rings[s][place(number)];
      const std::int64_t at = std::int64_t(s) * slots + number % capacity;
      std::copy_n(row.observation.data(), c.obs_dim, &columns.observations[at * c.obs_dim]);
      std::copy_n(row.action.data(), c.act_dim, &columns.actions[at * c.act_dim]);
      std::copy_n(row.next_observation.data(), c.obs_dim,
                  &columns.next_observations[at * c.obs_dim]);
      columns.rewards[at] = row.reward;
      columns.masks[at] = row.mask;
    }
  }
  // A step on the batch that the step of that number draws.
  void step_plainly(CudaEngine& engine, std::int64_t step) const {
    std::vector<float> batch[5];
    const auto append = [&](int column, const std::vector<float>& from) {
      batch[column].insert(batch[column].end(), from.begin(), from.end());
    };
    for (std::size_t s = 0; s < rings.size(); ++s) {
      for (int r = 0; r < c.batch_size; ++r) {
        const Row& row = rings[s][iql::batch_row(c.seeds[s], step, r, rings[s].size())];
        append(0, row.observation);
        append(1, row.action);
        append(2, {row.reward});
        append(3, {row.mask});
        append(4, row.next_observation);
      }
    }
    engine.step_on(
        {batch[0].data(), batch[1].data(), batch[2].data(), batch[3].data(), batch[4].data()});
  }
};

bool equal_states(const Training& a, const Training& b) {
  return equal(state(a.engine, a.c), state(b.engine, b.c));
}

// As iql_fast/runs/finetuning.py does it: the newest transition is written after the step, unless
// the step draws it. The ring is gone through several times. Resident steps are those of both seeds
// at once, or of one after the other.
void steps_draw_what_was_met(StepForm form) {
  for (const Precision precision : kPrecisions) {
    for (const int at_once : {1, 3}) {
      emulator::set_schedule(at_once);
      Config c = small(2);
      c.batch_size = 5;
      c.old_value = at_once == 3;
      const int seeds = form == StepForm::kResident && at_once == 3 ? 1 : 2;
      const int steps = form == StepForm::kResident ? 10 : 20;
      if (form == StepForm::kResident) set_room(c, precision, 2, seeds);
      Training trained(c, precision, form), plain(c, precision);
      CHECK(trained.engine.seeds_at_once() == seeds);
      Meeting meeting(c, trained.columns, 230, 230);
      trained.engine.meet(meeting.met_columns(), 230, 230);
      trained.engine.run(2, never);
      plain.engine.run(2, never);
      for (int step = 2; step < steps; ++step) {
        for (int i = 0; i < (step == 4 ? 200 : at_once); ++i) {
          meeting.happen();
          if (i > 0) meeting.write(meeting.met - 2);
        }
        trained.engine.set_met_rows(meeting.met);
        const bool drawn = trained.engine.draws_next(meeting.place(meeting.met - 1));
        if (drawn) meeting.write(meeting.met - 1);
        trained.engine.advance(1, never);
        meeting.write(meeting.met - 1);
        meeting.step_plainly(plain.engine, step);
        CHECK(equal_states(trained, plain));
      }
      CHECK(meeting.met > 200);
      CHECK(trained.engine.step() == steps);
    }
  }
}

// Small enough for the newest transition to be drawn often.
void the_newest_is_drawn_as_it_was_written() {
  emulator::set_schedule(0);
  Config c = tiny(2);
  const Transitions logged(4, c.obs_dim, c.act_dim);
  CpuEngine<double> beside(c, logged.dataset());
  CudaEngine trained(c, logged.dataset(), Precision::kFp32, 0),
      plain(c, logged.dataset(), Precision::kFp32, 0);
  initialise(beside, trained, c);
  initialise(beside, plain, c);
  Meeting meeting(c, logged, 9, 9);
  trained.meet(meeting.met_columns(), 9, 9);
  int drawn_newest = 0;
  for (int step = 0; step < 60; ++step) {
    meeting.happen();
    trained.set_met_rows(meeting.met);
    const bool drawn = trained.draws_next(meeting.place(meeting.met - 1));
    drawn_newest += drawn;
    if (drawn) meeting.write(meeting.met - 1);
    trained.advance(1, never);
    meeting.write(meeting.met - 1);
    meeting.step_plainly(plain, step);
  }
  trained.run(0, never);
  CHECK(equal(state(trained, c), state(plain, c)));
  CHECK(drawn_newest > 5);
  CHECK(drawn_newest < 60);
}

// More than is staged at a time, so that pinned memory is written again while a copy from it may go
// on; and once more after other transitions took their place. Of resident steps, each seed does
// several of its own before the next one.
void everything_comes_at_once(StepForm form) {
  emulator::set_schedule(0);
  const Config c = tiny(2);
  if (form == StepForm::kResident) set_room(c, Precision::kFp32, 1, 1);
  Training trained(c, Precision::kFp32, form), plain(c);
  CHECK(trained.engine.seeds_at_once() == (form == StepForm::kResident ? 1 : 2));
  Meeting meeting(c, trained.columns, 1500, 1600);
  trained.engine.meet(meeting.met_columns(), 1500, 1600);
  for (int i = 0; i < 1400; ++i) {
    meeting.happen();
    meeting.write(i);
  }
  trained.engine.set_met_rows(1400);
  trained.engine.run(4, never);
  for (int step = 0; step < 4; ++step) meeting.step_plainly(plain.engine, step);
  CHECK(equal_states(trained, plain));

  Meeting other(c, trained.columns, 1500, 1600);
  other.noise = Noise(6);
  for (int i = 0; i < 300; ++i) {
    other.happen();
    other.write(i);
  }
  meeting.columns = other.columns;
  trained.engine.refresh();
  trained.engine.set_met_rows(300);
  trained.engine.run(2, never);
  for (int step = 4; step < 6; ++step) other.step_plainly(plain.engine, step);
  CHECK(equal_states(trained, plain));

  trained.engine.set_met_rows(0);
  CHECK(equal(trained.state_after(53), plain.state_after(53)));
}

void a_ring_that_does_not_fit_is_refused() {
  const Config c = tiny();
  Training trained(c), plain(c);
  Meeting meeting(c, trained.columns, 1000, 1200);
  std::string said;
  emulator::set_memory(1000);
  try {
    trained.engine.meet(meeting.met_columns(), 1000, 1200);
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  emulator::set_memory(~std::size_t{0});
  CHECK(said ==
        "the CUDA device has not the 0.0 GiB of memory for 1000 transitions to be met by each of 1 "
        "seeds");
  CHECK(equal(trained.state_after(2), plain.state_after(2)));
}

struct Explored {
  std::vector<float> observations, noise;

  explicit Explored(const Config& c) {
    Noise drawn(7);
    observations = drawn.column(c.seeds.size() * c.obs_dim);
    noise = drawn.column(c.seeds.size() * c.act_dim);
  }
  template <class Engine>
  std::vector<float> actions(Engine& engine) const {
    std::vector<float> found(noise.size());
    engine.explore(observations.data(), noise.data(), found.data());
    return found;
  }
};

void actions_are_the_cpu_engines() {
  emulator::set_shared_memory(227 << 10);
  for (const std::vector<int>& hidden :
       std::vector<std::vector<int>>{{7}, {24, 16}, {300, 5, 129}, {20, 33, 17, 50}, {2100}}) {
    const Config c = config(11, 3, hidden, 4, hidden.size() == 1 ? 2 : 3);
    Training training(c);
    const Explored explored(c);
    const std::vector<float> expected = explored.actions(training.beside);
    for (unsigned schedule = 0; schedule < 3; ++schedule) {
      emulator::set_schedule(schedule);
      const std::vector<float> found = explored.actions(training.engine);
      for (std::size_t i = 0; i < found.size(); ++i) CHECK_NEAR(found[i], expected[i], 2e-6);
    }
  }
  emulator::set_shared_memory(163 << 10);
}

void every_barrier_of_acting_is_needed() {
  const Config c = config(40, 3, {70, 70}, 4);
  Training training(c);
  const Explored explored(c);
  emulator::set_schedule(0);
  const std::vector<float> expected = explored.actions(training.engine);
  int barriers = 0;
  for (;; ++barriers) {
    bool found = false, reached = true;
    for (unsigned schedule = 0; reached && !found && schedule < 40; ++schedule) {
      emulator::set_schedule(schedule);
      emulator::leave_out_barrier(0, barriers);
      found = !equal(explored.actions(training.engine), expected);
      reached = emulator::barriers_left_out() > 0;
    }
    if (!reached) break;
    if (!found) std::fprintf(stderr, "barrier %d\n", barriers);
    CHECK(found);
  }
  CHECK(barriers == 5);
  emulator::leave_out_barrier(-1, -1);
}

void a_loss_that_is_not_finite_is_known_when_somebody_waits() {
  emulator::set_schedule(0);
  const Config c = tiny();
  Transitions columns(200, c.obs_dim, c.act_dim);
  columns.rewards.assign(200, kNaN);
  CpuEngine<double> beside(c, columns.dataset());
  CudaEngine engine(c, columns.dataset(), Precision::kFp32, 0);
  initialise(beside, engine, c);
  engine.advance(1, never);
  CHECK(!engine.failure());
  Explored(c).actions(engine);
  CHECK(engine.failure().has_value());
  CHECK(engine.failure()->step == 1);
}

}  // namespace

int main() {
  the_newest_is_drawn_as_it_was_written();
  for (const StepForm form : kForms) {
    steps_draw_what_was_met(form);
    everything_comes_at_once(form);
  }
  set_device(108, 163 << 10);
  a_ring_that_does_not_fit_is_refused();
  a_loss_that_is_not_finite_is_known_when_somebody_waits();
  actions_are_the_cpu_engines();
  every_barrier_of_acting_is_needed();
}
