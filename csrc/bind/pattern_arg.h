// SPDX-License-Identifier: Apache-2.0
// The argument `pattern` of ops that cut text into pieces.
#pragma once
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bpe/pattern.h"

namespace tk::bind {

inline bpe::Pattern pattern_of(const Call& call, std::string_view pattern) {
  using bpe::Pattern;
  if (pattern == "none") return Pattern::none;
  if (pattern == "gpt2") return Pattern::gpt2;
  if (pattern == "cl100k" || pattern == "llama3") return Pattern::cl100k;
  if (pattern == "o200k") return Pattern::o200k;
  if (pattern == "qwen2") return Pattern::qwen2;
  if (pattern == "tekken") return Pattern::tekken;
  call.fail_value("pattern", "'none', 'gpt2', 'cl100k', 'llama3', 'o200k', 'qwen2' or 'tekken'",
                  std::string("'").append(pattern).append("'"));
}

}  // namespace tk::bind
