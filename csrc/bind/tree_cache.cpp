// SPDX-License-Identifier: Apache-2.0
// Family tree, what outlives a step: the key-value cache and the table of followers. Checked arguments -> launcher.
#include <algorithm>
#include <string>
#include <vector>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/tree_parents.h"
#include "tree/build_tree.h"
#include "tree/compact_cache.h"
#include "tree/update_adjacency.h"

namespace tk::bind {
namespace {

std::string of_sequence(int64_t b) { return " of sequence " + std::to_string(b); }

// ---- compact_cache ----------------------------------------------------------------------------------------------
void check_paths(const Call& call, const tree::CompactCacheArgs& a) {
  const int64_t rows = a.table * a.page_rows;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t length = a.lengths[b];
    if (length < 0 || length > rows) {
      call.fail_value("lengths", "in [0, " + std::to_string(rows) + "], the rows of the cache",
                      std::to_string(length) + of_sequence(b));
    }
    for (int64_t t = 0; t < a.nodes; ++t) {
      const int64_t node = a.path[b * a.nodes + t];
      const int64_t before = t == 0 ? 0 : a.path[b * a.nodes + t - 1];
      const char* rule = nullptr;
      if (node >= rows - length) rule = "of nodes whose rows, behind the length, are in the cache";
      if (t > 0 && node != -1 && before != -1 && node <= before) rule = "strictly increasing";
      if (t > 0 && node != -1 && before == -1) rule = "-1 only behind its nodes";
      if (node < -1) rule = "nodes, then -1";
      if (rule) call.fail_value("path", rule, std::to_string(node) + of_sequence(b));
    }
  }
}

struct PageUse {
  int64_t page, b, slot;  // pages[b, slot] is `page`
  bool written;
};

std::vector<PageUse> page_uses(const tree::CompactCacheArgs& a) {
  std::vector<PageUse> uses;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t t = 0; t < tree::path_nodes(a, b); ++t) {
      const int64_t node = a.path[b * a.nodes + t];
      for (const int64_t row : {t, node}) {
        const int64_t slot = (a.lengths[b] + row) / a.page_rows;
        uses.push_back({a.pages[b * a.table + slot], b, slot, row == t && node != t});
      }
    }
  }
  return uses;
}

// Rows that move must be the sequence's own: no other place of the table may name a page that is written.
void check_pages(const Call& call, const tree::CompactCacheArgs& a) {
  std::vector<PageUse> uses = page_uses(a);
  for (const PageUse& use : uses) {
    if (use.page >= 0 && use.page < a.page_count) continue;
    call.fail_value("pages", "in [0, " + std::to_string(a.page_count) + ") where rows are moved",
                    std::to_string(use.page) + of_sequence(use.b));
  }
  std::sort(uses.begin(), uses.end(), [](const PageUse& x, const PageUse& y) {
    return x.page != y.page ? x.page < y.page : x.written > y.written;
  });
  const PageUse* writer = nullptr;
  for (const PageUse& use : uses) {
    if (!writer || writer->page != use.page) writer = &use;
    if (!writer->written || (writer->b == use.b && writer->slot == use.slot)) continue;
    call.fail_value("pages", "of one sequence, named once, where rows are moved",
                    "page " + std::to_string(use.page) + " twice");
  }
}

py::object compact_cache(py::handle cache_, py::handle lengths_, py::handle path_, py::handle pages_,
                         py::handle new_lengths_) {
  Call call("compact_cache");
  const bool paged = !pages_.is_none();
  const Tensor cache = call.inout("cache", cache_, kFloat, paged ? "P G R D|L P G R D" : "B G S D|L B G S D");
  const Tensor lengths = call.dense("lengths", lengths_, kIndex, "B");
  const Tensor path = call.dense("path", path_, kIndex, "B A");
  const Tensor pages = call.optional_dense("pages", pages_, kIndex, "B M");
  const Tensor new_lengths = call.out("out", new_lengths_, DType::i64, "B");
  const int outer = cache.ndim - 4;
  const tree::CompactCacheArgs args{cache.data,
                                    lengths.as<int64_t>(),
                                    path.as<int64_t>(),
                                    pages.as<int64_t>(),
                                    new_lengths.as<int64_t>(),
                                    cache.dtype,
                                    outer ? cache.size(0) : 1,
                                    call.dim('B'),
                                    call.dim('G'),
                                    call.dim('A'),
                                    call.dim('D'),
                                    cache.size(outer),
                                    cache.size(outer + 2),
                                    paged ? call.dim('M') : 1,
                                    outer ? cache.stride(0) : 0,
                                    cache.stride(outer),
                                    cache.stride(outer + 1),
                                    cache.stride(outer + 2)};
  call.check_extents("pages", {args.table, args.page_rows});
  if (Call::on_host()) check_paths(call, args);
  if (Call::on_host() && paged) check_pages(call, args);
  TK_RUN(call, tree, compact_cache, args);
  return call.results();
}

// ---- build_tree -------------------------------------------------------------------------------------------------
// Walks every tree as the kernels will, so that nothing is written when the table leads nowhere.
void check_ways(const Call& call, const tree::BuildTreeArgs& a) {
  std::vector<int64_t> tokens(static_cast<size_t>(a.nodes));
  std::vector<int64_t> children(static_cast<size_t>(a.nodes));
  const std::string ranks = "in [0, " + std::to_string(a.candidates) + "), the candidates of a token";
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
    std::fill(children.begin(), children.end(), 0);
    tokens[0] = a.root[b];
    for (size_t i = 1; i < tokens.size() && parents[i] >= 0; ++i) {
      const auto parent = static_cast<size_t>(parents[i]);
      const int64_t among = children[parent]++;
      const int64_t rank = a.rank ? a.rank[b * a.rank_batch_stride + static_cast<int64_t>(i)] : among;
      const auto node = [&] { return " for node " + std::to_string(i) + of_sequence(b); };
      if (rank < 0 || rank >= a.candidates) call.fail_value("rank", ranks, std::to_string(rank) + node());
      tokens[i] = tree::follower(a, tokens[parent], rank);
      if (tokens[i] >= 0 && tokens[i] < a.vocabulary) continue;
      call.fail_value("adjacency", "filled with tokens in [0, " + std::to_string(a.vocabulary) + ")",
                      std::to_string(tokens[i]) + node());
    }
  }
}

py::object build_tree(py::handle adjacency_, py::handle root_, py::handle parents_, py::handle rank_,
                      py::handle tokens_) {
  Call call("build_tree");
  const Tensor adjacency = call.table("adjacency", adjacency_, kIndex, "V K");
  const Tensor root = call.dense("root", root_, kIndex, "B");
  const Tensor parents = tree_parents(call, parents_, "T|B T");
  const Tensor rank = call.optional_dense("rank", rank_, kIndex, "T|B T");
  const Tensor tokens = call.out("out", tokens_, DType::i64, "B T");
  call.check_index("root", root, call.dim('V'));
  const tree::BuildTreeArgs args{adjacency.data,     root.as<int64_t>(),   parents_of(parents),
                                 rank.as<int64_t>(), tokens.as<int64_t>(), adjacency.dtype == DType::i64,
                                 call.dim('V'),      call.dim('K'),        call.dim('B'),
                                 call.dim('T'),      adjacency.stride(0),  rank.ndim == 2 ? rank.stride(0) : 0};
  if (Call::on_host()) check_ways(call, args);
  TK_RUN(call, tree, build_tree, args);
  return call.results();
}

// ---- update_adjacency -------------------------------------------------------------------------------------------
void update_adjacency(py::handle adjacency_, py::handle tokens_, py::handle candidates_) {
  Call call("update_adjacency");
  const Tensor adjacency = call.inout("adjacency", adjacency_, kIndex, "V K");
  const Tensor tokens = call.dense("tokens", tokens_, kIndex, "B T");
  const Tensor candidates = call.dense("candidates", candidates_, kIndex, "B T K");
  call.check_index("tokens", tokens, call.dim('V'), -1);
  call.check_index("candidates", candidates, call.dim('V'));
  TK_RUN(call, tree, update_adjacency,
         tree::UpdateAdjacencyArgs{adjacency.data, tokens.as<int64_t>(), candidates.as<int64_t>(),
                                   adjacency.dtype == DType::i64, call.dim('V'), call.dim('K'),
                                   call.dim('B') * call.dim('T'), adjacency.stride(0)});
}

}  // namespace

void bind_tree_cache(py::module_& m) {
  m.def("compact_cache", &compact_cache);
  m.def("build_tree", &build_tree);
  m.def("update_adjacency", &update_adjacency);
}

}  // namespace tk::bind
