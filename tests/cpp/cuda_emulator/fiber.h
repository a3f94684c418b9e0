// A stack that runs a function a piece at a time: one CUDA thread of the emulator.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace emulator {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() begins `body`, which must outlive it. A fiber that has not ended is dropped.
  void start(const std::function<void()>* body);
  // Runs until the body calls suspend() or ends; to be called outside of any fiber.
  void resume();
  // To be called by the body.
  void suspend();
  bool ended() const { return ended_; }

 private:
  struct Context;
  static void enter(Fiber* fiber);
  std::unique_ptr<Context> context_;
  const std::function<void()>* body_ = nullptr;
  bool ended_ = true;
};

}  // namespace emulator
