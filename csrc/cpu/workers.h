// Threads that do a training run together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace iql::cpu {

// A barrier for the short waits inside a training step. It spins, since the others are microseconds
// away, and gives its core up after a while, since on a shared machine they may not be running.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<int> generation_{0};
};

// What one thread of a step tells another: that it is so far. Waiting spins and yields as a
// barrier's does.
class Signal {
 public:
  // Nobody may be waiting for a greater number when it is set back.
  void post(std::int64_t number) { number_.store(number, std::memory_order_release); }
  void wait(std::int64_t number) const;

 private:
  std::atomic<std::int64_t> number_{0};
};

// n threads, the caller among them, asleep between jobs.
class Workers {
 public:
  // Throws std::runtime_error where the system does not give so many threads.
  explicit Workers(int n);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls job(0) ... job(n - 1), each on its own thread, and returns when all have.
  void run(const std::function<void(int)>& job);

 private:
  void serve(int index);
  void end();

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* job_ = nullptr;
  int generation_ = 0;
  int running_ = 0;
  bool quit_ = false;
  std::vector<std::thread> threads_;
};

// Rounds of work that threads go through at their own pace, a few rounds apart at most, and that
// all end after the same one when any says so.
class Rounds {
 public:
  Rounds(int threads, std::int64_t count) : count_(count), done_(threads, 0) {}

  // Whether there is a round of that number (0, 1, ...) for a thread, which has done those before.
  bool begin(int thread, std::int64_t round);
  // No round begins that no thread has begun.
  void stop();
  std::int64_t count() const { return count_; }  // when all threads have ended

 private:
  static constexpr std::int64_t kLead = 8;  // rounds

  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t count_, begun_ = 0;
  std::vector<std::int64_t> done_;
};

// While it lives, this thread treats denormal numbers as zero: Adam's second moments of units that
// have died decay into them, and arithmetic on denormals is a hundred times slower.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();

 private:
  unsigned long long saved_ = 0;
};

}  // namespace iql::cpu
