// SPDX-License-Identifier: Apache-2.0
// One registration function per kernel family, the same in _C, _cuda and _simt.
#pragma once

namespace pybind11 {
class module_;  // declared, not included: pybind11 takes seconds to compile
}

namespace tk::bind {
namespace py = pybind11;

void bind_merge(py::module_& m);
void bind_merge_rows(py::module_& m);
void bind_merge_segments(py::module_& m);
void bind_merge_match(py::module_& m);
void bind_merge_soft(py::module_& m);

void bind_attention(py::module_& m);
void bind_attention_core(py::module_& m);
void bind_attention_backward(py::module_& m);
void bind_attention_rope(py::module_& m);
void bind_attention_distill(py::module_& m);
void bind_attention_map(py::module_& m);

void bind_cluster(py::module_& m);
void bind_cluster_kmeans(py::module_& m);
void bind_cluster_order(py::module_& m);

void bind_select(py::module_& m);
void bind_select_points(py::module_& m);
void bind_select_power(py::module_& m);
void bind_select_spatten(py::module_& m);
void bind_select_gate(py::module_& m);

void bind_tree(py::module_& m);
void bind_tree_attention(py::module_& m);
void bind_tree_cache(py::module_& m);
void bind_tree_head(py::module_& m);
void bind_tree_merge(py::module_& m);
void bind_tree_rows(py::module_& m);
void bind_tree_verify(py::module_& m);
void bind_tree_draft(py::module_& m);

void bind_quantize(py::module_& m);
void bind_quantize_nearest(py::module_& m);
void bind_quantize_residual(py::module_& m);
void bind_quantize_bits(py::module_& m);
void bind_quantize_entropy(py::module_& m);
void bind_quantize_product(py::module_& m);
void bind_quantize_codebook(py::module_& m);

void bind_bpe(py::module_& m);
void bind_bpe_added(py::module_& m);
void bind_bpe_split(py::module_& m);
void bind_bpe_vocab(py::module_& m);
void bind_bpe_encode(py::module_& m);
void bind_bpe_train(py::module_& m);
void bind_bpe_count(py::module_& m);
void bind_bpe_device(py::module_& m);
void bind_bpe_lattice(py::module_& m);
void bind_bpe_pieces(py::module_& m);

}  // namespace tk::bind
