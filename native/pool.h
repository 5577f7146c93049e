// A pool of threads that share the chunks of one job at a time.
//
// A job is split into more chunks than there are threads, and each thread takes the next chunk
// when it is free. The caller takes chunks too and waits only for those that others have begun.
// Workers spin briefly for the next job and then sleep. Where other processes use the cores, the
// system may put a worker aside in the middle of a chunk, for milliseconds; after such a wait the
// caller does some jobs alone, the more the more often it happens.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace skipopt {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  using Function = void (*)(void* context, int64_t chunk);

  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      ended_.store(true);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return int(workers_.size()) + 1; }

  // Calls function(context, 0 … chunks - 1), and returns when all have ended.
  void run(Function function, void* context, int64_t chunks) {
    if (alone_ > 0) alone_--;
    if (workers_.empty() || chunks <= 1 || alone_ > 0) {
      for (int64_t i = 0; i < chunks; i++) function(context, i);
      return;
    }
    uint64_t job = next_.load(std::memory_order_relaxed) >> 32;
    next_.store(job << 32 | kClosed);  // nobody takes a chunk while the job is replaced
    function_.store(function, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    chunks_.store(chunks, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    next_.store((job + 1) << 32);
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> hold(mutex_);
      wake_.notify_all();
    }
    take_chunks();
    wait_for(chunks);
  }

 private:
  static constexpr int kSpins = 2000;
  static constexpr uint64_t kClosed = 0xffffffffu;
  // Longer than the host takes between two steps, so that a worker is awake when the next begins.
  static constexpr std::chrono::microseconds kAwake{1500};
  // A chunk takes some ten microseconds; a time slice of the system takes milliseconds.
  static constexpr std::chrono::microseconds kLongWait{500};
  static constexpr int kMinPenalty = 8, kMaxPenalty = 512;  // jobs done alone

  // Waits until all chunks are done.
  void wait_for(int64_t chunks) {
    if (done_.load(std::memory_order_acquire) >= chunks) return;
    auto began = std::chrono::steady_clock::now();
    for (int spins = 0; done_.load(std::memory_order_acquire) < chunks; spins++) {
      if (spins < kSpins) cpu_relax();
      else std::this_thread::yield();
    }
    if (std::chrono::steady_clock::now() - began > kLongWait) {
      penalty_ = std::min(2 * penalty_, kMaxPenalty);
      alone_ = penalty_;
    } else if (penalty_ > kMinPenalty) {
      penalty_--;
    }
  }

  // Takes chunks of the current job until none is left. The upper half of next_ is the number of
  // the job: a chunk is taken only while that has not changed, and a job cannot end while a taken
  // chunk is not done, so what was read of the job belongs to it.
  void take_chunks() {
    uint64_t ticket = next_.load(std::memory_order_acquire);
    for (;;) {
      Function function = function_.load(std::memory_order_relaxed);
      void* context = context_.load(std::memory_order_relaxed);
      int64_t chunks = chunks_.load(std::memory_order_relaxed);
      int64_t chunk = int64_t(ticket & kClosed);
      if (chunk >= chunks) return;
      if (!next_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
      function(context, chunk);
      done_.fetch_add(1, std::memory_order_release);
      ticket = next_.load(std::memory_order_acquire);
    }
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      uint64_t job = next_.load(std::memory_order_acquire) >> 32;
      auto until = std::chrono::steady_clock::now() + kAwake;
      for (int spins = 1; job == seen; spins++) {
        cpu_relax();
        job = next_.load(std::memory_order_acquire) >> 32;
        if (spins % 64 == 0 && std::chrono::steady_clock::now() > until) break;
      }
      if (job == seen) {
        std::unique_lock<std::mutex> hold(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(hold, [&] { return ended_.load() || next_.load() >> 32 != seen; });
        sleeping_.fetch_sub(1);
        if (ended_.load()) return;
        job = next_.load() >> 32;
      }
      seen = job;
      take_chunks();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> chunks_{0};
  alignas(64) std::atomic<uint64_t> next_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> ended_{false};
  int alone_ = 0, penalty_ = kMinPenalty;  // used by the caller only
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace skipopt
