// SPDX-License-Identifier: Apache-2.0
// The smallest of many keys, in a heap with the largest of them on top. Included by per-ISA files only.
#pragma once
#include "core/dtype.h"

namespace tk::quantize {
namespace {

struct BestKeys {
  uint64_t* keys;
  int64_t room, count;  // room at least 1

  bool full() const { return count == room; }
  uint64_t worst() const { return keys[0]; }

  void offer(uint64_t key) {
    if (!full()) {
      rise(key);
    } else if (key < keys[0]) {
      sink(key, count);
    }
  }

  // Ascending; what the heap held is then a list.
  void sort() {
    for (int64_t left = count; left > 1; --left) {
      const uint64_t largest = keys[0];
      const uint64_t last = keys[left - 1];
      sink(last, left - 1);
      keys[left - 1] = largest;
    }
  }

 private:
  void rise(uint64_t key) {
    int64_t at = count++;
    while (at > 0 && keys[(at - 1) / 2] < key) {
      keys[at] = keys[(at - 1) / 2];
      at = (at - 1) / 2;
    }
    keys[at] = key;
  }

  // Puts a key in place of the top of the first `size`.
  void sink(uint64_t key, int64_t size) {
    int64_t at = 0;
    for (int64_t child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && keys[child + 1] > keys[child]) ++child;
      if (keys[child] <= key) break;
      keys[at] = keys[child];
      at = child;
    }
    keys[at] = key;
  }
};

}  // namespace
}  // namespace tk::quantize
