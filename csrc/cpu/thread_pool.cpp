#include "thread_pool.h"

#include <unistd.h>

namespace fastcomb {

namespace {
// How often a thread looks for work, or for the others' end, before it sleeps or yields: about 20 us.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

ThreadPool& ThreadPool::get() {
  static ThreadPool* pool = new ThreadPool;  // never destroyed: threads may outlive static objects
  static pid_t owner = getpid();
  static std::mutex guard;
  std::lock_guard<std::mutex> lock(guard);
  if (owner != getpid()) {  // after a fork the threads are gone
    pool = new ThreadPool;
    owner = getpid();
  }
  return *pool;
}

ThreadPool::~ThreadPool() { resize(1); }

void ThreadPool::resize(int threads) {
  if (threads == size()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    ++generation_;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
  stop_ = false;
  for (int w = 1; w < threads; ++w) threads_.emplace_back(&ThreadPool::loop, this, w, generation_.load());
}

void ThreadPool::run(int64_t count, const Work& work) {
  if (threads_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    count_ = count;
    work_ = &work;
    next_ = 0;
    busy_ = (int)threads_.size();
    ++generation_;
  }
  wake_.notify_all();
  take(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire); ++spins) {
    if (spins < kSpins) relax();
    else std::this_thread::yield();
  }
}

void ThreadPool::take(int worker) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*work_)(i, worker);
}

void ThreadPool::loop(int worker, uint64_t seen) {
  for (;;) {
    for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) relax();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (stop_) return;
    }
    take(worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace fastcomb
