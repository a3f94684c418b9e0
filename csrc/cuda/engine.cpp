#include "cuda/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "cuda/acting.h"
#include "cuda/memory.h"
#include "cuda/planned.h"
#include "cuda/ring.h"
#include "engine/drawing.h"

namespace iql::cuda {
namespace {

// Steps of a graph: long enough that launching one costs nothing, and a divisor of the numbers of
// steps that users ask for.
constexpr int kGraphSteps = 50;

// Where piece `piece` of a network (in torch's order) lies: element (output, input) of a weight, or
// element (output) of a bias or of the log-stds.
struct PiecePlace {
  std::size_t outputs, inputs;  // inputs: 1 but for weights
  std::size_t offset, output_step, input_step;
};

PiecePlace piece_place(const NetworkLayout& net, int piece) {
  const int layer = piece / 2;
  const bool weight = piece % 2 == 0;
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  if (layer < net.depth) {
    const HiddenLayout& h = net.hidden[layer];
    if (!weight) return {size(h.outputs), 1, size(h.bias), 1, 0};
    return {size(h.outputs), size(h.inputs), size(h.weight), 1, size(h.columns)};
  }
  const std::size_t outputs = size(net.outputs), last = size(net.hidden[net.depth - 1].outputs);
  if (layer == net.depth) {
    if (!weight) return {outputs, 1, size(net.head_bias), 1, 0};
    return {outputs, last, size(net.head_weight), size(net.head_inputs), 1};
  }
  return {size(net.head_columns) - outputs, 1, size(net.head_bias) + outputs, 1, 0};
}

template <class Visit>
void for_piece(const NetworkLayout& net, int piece, const Visit& visit) {
  const PiecePlace place = piece_place(net, piece);
  std::size_t i = 0;
  for (std::size_t out = 0; out < place.outputs; ++out) {
    for (std::size_t in = 0; in < place.inputs; ++in) {
      visit(i++, place.offset + out * place.output_step + in * place.input_step);
    }
  }
}

}  // namespace

// Everything behind the interface.
struct CudaEngine::Device {
  engine::Config config;
  int index;
  Problem problem;
  StepPlan plan;
  Stream stream;
  GraphExec graph;  // of steps that are launches
  std::optional<ResidentPlan> resident;
  ResidentMemory resident_memory{};
  std::vector<DeviceMemory> arrays;
  std::vector<DeviceMemory> columns;     // of the dataset
  std::vector<HostMemory> host_columns;  // in their place where they do not fit
  std::vector<DeviceMemory> batch;       // columns of the batch of step_on
  Source source{};
  engine::Dataset data;           // but not its logged columns
  std::unique_ptr<Ring> ring;     // where transitions are met
  HostMemory acting;              // observations [S][O], noise [S][A], and actions for them [S][A]
  float* acting_there = nullptr;  // as the device knows it
  HostMemory failures;            // [2][S]: one for each chunk of steps in flight
  Event done[2];
  std::int64_t launched = 0, finished = 0;  // chunks

  std::int64_t step = 0, metric_steps = 0;
  std::optional<engine::Failure> failure;
  mutable std::vector<float> parameters;  // a copy on the host,
  mutable bool copied = false;            // and whether it is up to date

  ~Device() { cudaStreamSynchronize(stream.get()); }  // it may still read what goes now

  template <class T>
  T* array(std::size_t count) {
    arrays.push_back(allocate(count * sizeof(T)));
    return as<T>(arrays.back());
  }
  template <class T>
  T* zeros(std::size_t count) {
    T* at = array<T>(count);
    check(cudaMemsetAsync(at, 0, count * sizeof(T), stream.get()), "cudaMemsetAsync");
    return at;
  }
  void upload(void* to, const void* from, std::size_t bytes) const {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream.get()),
          "copying to the device");
  }
  void download(void* to, const void* from, std::size_t bytes) const {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.get()),
          "copying from the device");
  }
  void wait() const { check(cudaStreamSynchronize(stream.get()), "waiting for the device"); }

  std::size_t parameter_count() const {
    return std::size_t(problem.seeds) * problem.parameters_before(problem.networks());
  }
  // The sizes of a dataset's columns, a row each.
  std::vector<std::size_t> column_widths() const {
    const std::size_t O = config.obs_dim, A = config.act_dim;
    return {O, A, 1, 1, O};
  }
  static std::vector<const float*> pointers(const float* o, const float* a, const float* r,
                                            const float* m, const float* n) {
    return {o, a, r, m, n};
  }
  static Source source_of(const std::vector<float*>& at, std::int64_t rows, bool given) {
    return {at[0], at[1], at[2], at[3], at[4], rows, given, rows, nullptr, 0, 0};
  }
  void use(const Source& now) const {
    upload(const_cast<Source*>(problem.source), &now, sizeof now);
  }

  // Has what was met come to the device before the steps that are launched next.
  void bring_met_rows() {
    if (data.met_rows == 0 && source.met_rows == 0) return;
    source.size = data.size();
    source.met = ring->met();
    source.met_rows = data.met_rows;
    source.capacity = data.capacity;
    ring->bring(data.met_rows, source, const_cast<Source*>(problem.source), stream.get());
  }

  void make_graph() {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    int error = 0;
    for (int i = 0; i < kGraphSteps && error == 0; ++i) {
      error = launch_step(problem, plan, stream.get());
    }
    cudaGraph_t captured = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream.get(), &captured);
    const Graph owned(captured);
    check(error, "a launch of the training step");
    check(ended, "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, captured, 0), "cudaGraphInstantiate");
    graph = GraphExec(executable);
  }

  void make_resident() {
    std::vector<Duty> duties;
    for (const ResidentGroup& group : resident->groups) {
      duties.insert(duties.end(), group.dealt.duties.begin(), group.dealt.duties.end());
    }
    auto* at = array<Duty>(duties.size());
    upload(at, duties.data(), duties.size() * sizeof(Duty));
    resident_memory = {at, array<unsigned>(resident->groups.size())};
    check(prepare_resident(*resident), "preparing the resident step");
    wait();  // the duties have gone up
  }

  // Steps in one launch for each group, their number at most kMostResidentSteps.
  void launch_resident_steps(std::int64_t steps) const {
    check(cudaMemsetAsync(resident_memory.arrived, 0, resident->groups.size() * sizeof(unsigned),
                          stream.get()),
          "cudaMemsetAsync");
    check(
        launch_resident(problem, *resident, resident_memory, static_cast<int>(steps), stream.get()),
        "a launch of resident steps");
  }

  // A chunk of steps, without waiting for it. Two can be in flight.
  void launch(std::int64_t steps) {
    const int slot = launched % 2;
    while (resident && steps > 0) {
      const std::int64_t now = std::min<std::int64_t>(steps, kMostResidentSteps);
      launch_resident_steps(now);
      steps -= now;
    }
    for (; steps >= kGraphSteps; steps -= kGraphSteps) {
      check(cudaGraphLaunch(graph.get(), stream.get()), "cudaGraphLaunch");
    }
    for (; steps > 0; --steps) {
      check(launch_step(problem, plan, stream.get()), "a launch of the training step");
    }
    download(as<FailureRecord>(failures) + slot * problem.seeds, problem.failures,
             problem.seeds * sizeof(FailureRecord));
    check(cudaEventRecord(done[slot].get(), stream.get()), "cudaEventRecord");
    ++launched;
  }

  // Waits for all chunks but the last few.
  void finish_but(int in_flight) {
    while (launched - finished > in_flight) finish(finished++ % 2);
  }
  void finish(int slot) {
    check(cudaEventSynchronize(done[slot].get()), "the training step");
    static const char* const kNames[] = {"value", "actor", "critic"};
    for (int s = 0; s < problem.seeds; ++s) {
      const FailureRecord& record = as<FailureRecord>(failures)[slot * problem.seeds + s];
      if (record.step != 0 && (!failure || record.step < failure->step)) {
        failure = engine::Failure{
            record.step,  s,           kNames[record.network], record.q_min, record.q_max,
            record.v_min, record.v_max};
      }
    }
  }

  void copy_parameters() const {
    if (copied) return;
    download(parameters.data(), problem.parameters, parameters.size() * sizeof(float));
    wait();
    copied = true;
  }
  // An array of a network in the host's copy.
  float* host_array(int seed, int network, engine::ArrayId array) const {
    return parameters.data() + (problem.parameters_of(seed, network) - problem.parameters) +
           std::size_t(array) * problem.layout(network).size;
  }
};

CudaEngine::CudaEngine(engine::Config config, const engine::Dataset& data, Precision precision,
                       int device, StepForm form)
    : device_(std::make_unique<Device>()) {
  Device& d = *device_;
  d.index = device;
  const DeviceGuard guard(device);
  const Limits limits = limits_of(device, precision);
  std::tie(d.problem, d.plan) = planned(config, precision, limits);
  if (form == StepForm::kResident) d.resident = planned_resident(d.problem, d.plan, limits);
  Problem& p = d.problem;
  d.config = std::move(config);

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  d.stream = Stream(stream);
  for (Event& event : d.done) {
    cudaEvent_t created = nullptr;
    check(cudaEventCreateWithFlags(&created, cudaEventDisableTiming), "cudaEventCreate");
    event = Event(created);
  }
  const std::size_t S = p.seeds;
  p.parameters = d.zeros<float>(d.parameter_count());
  p.operands = d.array<float>(S * p.operands_before(p.networks()));
  p.workspace = d.array<float>(S * p.workspace_before(p.networks()));
  auto* keys = d.array<std::uint64_t>(S);
  auto* hyper = d.array<engine::SeedHyperparameters>(S);
  d.upload(keys, d.config.seeds.data(), S * sizeof *keys);
  d.upload(hyper, d.config.hyper.data(), S * sizeof *hyper);
  p.keys = keys;
  p.hyper = hyper;
  p.adam = d.array<AdamStep<float>>(S * 3);
  p.metrics = d.zeros<engine::MetricSums>(S);
  p.failures = d.zeros<FailureRecord>(S);
  p.clocks = d.zeros<Clock>(S);
  p.source = d.array<Source>(1);
  d.failures = allocate_pinned(2 * S * sizeof(FailureRecord));
  d.acting = allocate_pinned(S * (p.obs_dim + 2 * p.act_dim) * sizeof(float));
  void* acting = nullptr;
  check(cudaHostGetDevicePointer(&acting, d.acting.get(), 0), "cudaHostGetDevicePointer");
  d.acting_there = static_cast<float*>(acting);
  d.parameters.resize(d.parameter_count());

  const std::vector<const float*> from =
      Device::pointers(data.logged.observations, data.logged.actions, data.logged.rewards,
                       data.logged.masks, data.logged.next_observations);
  const std::vector<std::size_t> widths = d.column_widths();
  std::vector<float*> at;
  for (std::size_t c = 0; c < from.size(); ++c) {
    const std::size_t bytes = widths[c] * data.rows * sizeof(float);
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) == cudaSuccess) {
      d.columns.emplace_back(memory);
      d.upload(memory, from[c], bytes);
    } else {
      cudaGetLastError();
      d.host_columns.push_back(allocate_pinned(bytes));
      std::memcpy(d.host_columns.back().get(), from[c], bytes);
      check(cudaHostGetDevicePointer(&memory, d.host_columns.back().get(), 0),
            "cudaHostGetDevicePointer");
    }
    at.push_back(static_cast<float*>(memory));
  }
  d.data.rows = data.rows;
  d.source = Device::source_of(at, data.rows, false);
  d.use(d.source);
  check(prepare(p, d.plan), "preparing the training step");
  if (d.resident) {
    d.make_resident();
  } else {
    d.make_graph();
  }
  d.wait();
}

CudaEngine::~CudaEngine() = default;

std::int64_t CudaEngine::run(std::int64_t steps, const std::function<bool()>& interrupted) {
  const std::int64_t done = advance(steps, interrupted);
  const DeviceGuard guard(device_->index);
  device_->finish_but(0);
  return done;
}

std::int64_t CudaEngine::advance(std::int64_t steps, const std::function<bool()>& interrupted) {
  using Clock = std::chrono::steady_clock;
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  d.copied = false;
  d.bring_met_rows();
  std::int64_t launched = 0, chunk = kGraphSteps;
  bool stop = false;
  Clock::time_point last = Clock::now();
  // Two chunks are in flight, so that the device does not wait while this thread looks around.
  while (launched < steps && !stop && !d.failure) {
    const std::int64_t now = std::min(chunk, steps - launched);
    d.launch(now);
    launched += now;
    d.finish_but(1);
    stop = interrupted();
    const Clock::time_point time = Clock::now();
    const double seconds = std::chrono::duration<double>(time - last).count();
    if (seconds < 0.05) chunk *= 2;
    if (seconds > 0.2 && chunk > kGraphSteps) chunk /= 2;
    last = time;
  }
  d.step += launched;
  d.metric_steps += launched;
  return launched;
}

void CudaEngine::step_on(const engine::GivenBatch<float>& batch) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  d.copied = false;
  const std::int64_t rows = std::int64_t(d.problem.seeds) * d.problem.batch;
  const std::vector<const float*> from = Device::pointers(
      batch.observations, batch.actions, batch.rewards, batch.masks, batch.next_observations);
  const std::vector<std::size_t> widths = d.column_widths();
  std::vector<float*> at;
  for (std::size_t c = 0; c < from.size(); ++c) {
    const std::size_t bytes = widths[c] * rows * sizeof(float);
    if (d.batch.size() <= c) d.batch.push_back(allocate(bytes));
    at.push_back(as<float>(d.batch[c]));
    d.upload(at[c], from[c], bytes);
  }
  d.use(Device::source_of(at, rows, true));
  d.launch(1);
  d.finish_but(0);
  d.use(d.source);
  d.wait();
  ++d.step;
  ++d.metric_steps;
}

void CudaEngine::meet(const engine::Columns& met, std::int64_t slots, std::int64_t capacity) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  engine::Dataset data = d.data;
  data.met = met;
  data.slots = slots;
  data.capacity = capacity;
  auto ring = std::make_unique<Ring>(d.problem, data);
  d.wait();  // the one before may be in use
  d.ring = std::move(ring);
  d.data = data;
}

void CudaEngine::set_met_rows(std::int64_t rows) { device_->data.met_rows = rows; }

void CudaEngine::explore(const float* observations, const float* noise, float* actions) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  const std::size_t S = d.problem.seeds, O = d.problem.obs_dim, A = d.problem.act_dim;
  float* const host = as<float>(d.acting);
  std::copy_n(observations, S * O, host);
  std::copy_n(noise, S * A, host + S * O);
  float* const there = d.acting_there;
  check(launch_act(d.problem, there, there + S * O, there + S * (O + A), d.stream.get()),
        "a launch of the policy");
  d.wait();
  d.finish_but(0);
  std::copy_n(host + S * (O + A), S * A, actions);
}

bool CudaEngine::draws_next(std::int64_t place) const {
  return engine::draws(device_->config, device_->data.size(), device_->step, place);
}

std::int64_t CudaEngine::step() const { return device_->step; }

void CudaEngine::set_step(std::int64_t step) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  const std::vector<cuda::Clock> clocks(d.problem.seeds, {step, step});
  d.upload(d.problem.clocks, clocks.data(), clocks.size() * sizeof clocks[0]);
  d.wait();
  d.step = step;
}

int CudaEngine::pieces(engine::NetworkId id) const {
  const NetworkLayout& net = device_->problem.layout(id);
  return 2 * (net.depth + 1) + (net.head_columns > net.outputs ? 1 : 0);
}

std::size_t CudaEngine::piece_size(engine::NetworkId id, int piece) const {
  const PiecePlace place = piece_place(device_->problem.layout(id), piece);
  return place.outputs * place.inputs;
}

void CudaEngine::read(int seed_index, int network, engine::ArrayId array, int piece,
                      float* natural) const {
  const Device& d = *device_;
  const DeviceGuard guard(d.index);
  d.copy_parameters();
  const float* values = d.host_array(seed_index, network, array);
  for_piece(d.problem.layout(network), piece,
            [&](std::size_t i, std::size_t at) { natural[i] = values[at]; });
}

void CudaEngine::write(int seed_index, int network, engine::ArrayId array, int piece,
                       const float* natural) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  d.copy_parameters();
  float* values = d.host_array(seed_index, network, array);
  for_piece(d.problem.layout(network), piece,
            [&](std::size_t i, std::size_t at) { values[at] = natural[i]; });
}

void CudaEngine::refresh() {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  d.copy_parameters();
  d.upload(d.problem.parameters, d.parameters.data(), d.parameters.size() * sizeof(float));
  check(launch_refresh(d.problem, d.plan, d.stream.get()), "a launch of the refresh");
  check(cudaMemsetAsync(d.problem.failures, 0, d.problem.seeds * sizeof(FailureRecord),
                        d.stream.get()),
        "cudaMemsetAsync");
  d.wait();
  d.finish_but(0);
  d.failure.reset();
  if (d.ring) d.ring->forget();
}

std::vector<engine::MetricSums> CudaEngine::take_metrics(std::int64_t* steps) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  std::vector<engine::MetricSums> sums(d.problem.seeds);
  const std::size_t bytes = sums.size() * sizeof(engine::MetricSums);
  d.download(sums.data(), d.problem.metrics, bytes);
  check(cudaMemsetAsync(d.problem.metrics, 0, bytes, d.stream.get()), "cudaMemsetAsync");
  d.wait();
  *steps = std::exchange(d.metric_steps, 0);
  return sums;
}

const std::optional<engine::Failure>& CudaEngine::failure() const { return device_->failure; }

std::vector<std::pair<std::string, double>> CudaEngine::time_launches(int repeats) {
  Device& d = *device_;
  const DeviceGuard guard(d.index);
  Event begin, end;
  for (Event* event : {&begin, &end}) {
    cudaEvent_t created = nullptr;
    check(cudaEventCreateWithFlags(&created, cudaEventDefault), "cudaEventCreate");
    *event = Event(created);
  }
  // What a launch takes that is repeated so often.
  const auto time = [&](const char* name, int times, const auto& launch) {
    check(cudaEventRecord(begin.get(), d.stream.get()), "cudaEventRecord");
    for (int i = 0; i < times; ++i) launch();
    check(cudaEventRecord(end.get(), d.stream.get()), "cudaEventRecord");
    check(cudaEventSynchronize(end.get()), name);
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
    return milliseconds * 1e3 / times;
  };
  constexpr int kWarmUp = 10;  // caches and clocks
  std::vector<std::pair<std::string, double>> times;
  if (d.resident) {
    const auto launch = [&d](int steps) { return [&d, steps] { d.launch_resident_steps(steps); }; };
    const char* const once = "weights to the chip and back, once a launch";
    const char* const step = "step";
    time(step, 1, launch(kWarmUp));
    times.emplace_back(once, time(once, repeats, launch(0)));
    const int steps = std::min(repeats, kMostResidentSteps);
    const double all = time(step, 1, launch(steps));
    times.emplace_back(step, (all - times[0].second) / steps);
    return times;
  }
  for (const char* name : launch_names(d.problem)) {
    const int part = static_cast<int>(times.size());
    const auto launch = [&] { check(launch_part(d.problem, d.plan, part, d.stream.get()), name); };
    time(name, kWarmUp, launch);
    times.emplace_back(name, time(name, repeats, launch));
  }
  return times;
}

int CudaEngine::seeds_at_once() const {
  return device_->resident ? seeds_at_once_of(*device_->resident) : device_->problem.seeds;
}

bool CudaEngine::dataset_on_host() const { return !device_->host_columns.empty(); }

}  // namespace iql::cuda
