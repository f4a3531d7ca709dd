// SPDX-License-Identifier: Apache-2.0
// Ids of unknown number: memory that grows without being copied where the system can move pages, and that Python then
// owns as it is.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace tk::bpe {

class IdBuffer {
 public:
  IdBuffer() = default;
  ~IdBuffer() { std::free(data_); }
  IdBuffer(const IdBuffer&) = delete;
  IdBuffer& operator=(const IdBuffer&) = delete;

  int32_t* data() const { return data_; }
  int64_t size() const { return size_; }
  int32_t* end() const { return data_ + size_; }
  void grew(int64_t count) { size_ += count; }

  // Room for so many more ids.
  void reserve(int64_t more) {
    if (size_ + more <= capacity_) return;
    const int64_t wanted = size_ + more;
    resize(wanted < capacity_ + capacity_ / 2 ? capacity_ + capacity_ / 2 : wanted);
  }

  // Gives back what was not used.
  void trim() {
    if (capacity_ > size_ + size_ / 8) resize(size_);
  }

 private:
  void resize(int64_t capacity) {
    void* moved = std::realloc(data_, static_cast<size_t>(capacity > 0 ? capacity : 1) * sizeof(int32_t));
    if (!moved) throw std::bad_alloc();
    data_ = static_cast<int32_t*>(moved);
    capacity_ = capacity;
  }

  int32_t* data_ = nullptr;
  int64_t size_ = 0, capacity_ = 0;
};

}  // namespace tk::bpe
