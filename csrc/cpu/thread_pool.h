// One pool of threads for the whole process.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastcomb {

// Calls of `work(item, worker)` for items [0, count), taken in order by whichever thread is free.
class ThreadPool {
 public:
  using Work = std::function<void(int64_t item, int worker)>;

  // The process's pool; a forked process gets its own. One call at a time: hold `in_use`.
  static ThreadPool& get();
  std::mutex& in_use() { return in_use_; }

  void resize(int threads);  // the calling thread counts
  int size() const { return (int)threads_.size() + 1; }
  void run(int64_t count, const Work& work);
  ~ThreadPool();

 private:
  void loop(int worker, uint64_t seen);
  void take(int worker);

  std::vector<std::thread> threads_;
  std::mutex in_use_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t count_ = 0;
  const Work* work_ = nullptr;
  bool stop_ = false;
};

// Either the whole pool or the calling thread alone, for loops inside one combination.
struct Team {
  ThreadPool* pool;  // null: alone
  int worker;
  void each(int64_t count, const ThreadPool::Work& work) const {
    if (pool && count > 1) return pool->run(count, work);
    for (int64_t i = 0; i < count; ++i) work(i, worker);
  }
};

}  // namespace fastcomb
