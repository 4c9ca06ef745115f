#include "tests/support/tiny_runs.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>

#include "planner/cost/forward_time.h"

namespace shardwright {

Model tiny_dense() {
  Model m;
  m.name = "tiny-dense";
  m.num_hidden_layers = 2;
  m.hidden_size = 10;
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.head_dim = 6;
  m.intermediate_size = 20;
  m.vocab_size = 13;
  m.max_position_embeddings = 24;
  return m;
}

Model tiny_tied() {
  Model m = tiny_dense();
  m.name = "tiny-tied";
  m.num_key_value_heads = 8;
  m.gated_mlp = false;
  m.tie_word_embeddings = true;
  m.position = Position::learned;
  m.norm = Norm::layernorm;
  m.attention_bias = m.attention_output_bias = m.mlp_bias = true;
  return m;
}

Model tiny_latent() {
  Model m = tiny_dense();
  m.name = "tiny-latent";
  m.num_key_value_heads = 8;
  m.q_lora_rank = 7;
  m.kv_lora_rank = 5;
  m.qk_nope_head_dim = 6;
  m.qk_rope_head_dim = 2;
  m.v_head_dim = 3;
  m.head_dim = 8;
  return m;
}

Model tiny_experts() {
  Model m = tiny_dense();
  m.name = "tiny-experts";
  m.n_routed_experts = 8;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 12;
  m.n_shared_experts = 1;
  m.first_k_dense_replace = 1;
  return m;
}

Model tiny_gated() {
  Model m = tiny_experts();
  m.name = "tiny-gated";
  m.first_k_dense_replace = 0;
  m.mlp_bias = m.router_bias = m.shared_expert_gate = true;
  m.shared_expert_intermediate_size = 16;
  m.qk_norm = QkNorm::head;
  m.sliding_window = 5;
  m.sliding_window_pattern = 2;
  return m;
}

std::vector<Model> tiny_models() { return {tiny_dense(), tiny_tied(), tiny_latent(), tiny_experts()}; }

Programme tiny_programme(Model model, const char* words, bool answers) {
  Layout l;
  Workload w;
  w.sequence_length = 24;
  w.global_batch = 0;
  std::istringstream in(words);
  for (std::string key; in >> key;) {
    if (key == "sp") l.sequence_parallel = true;
    if (key == "ring") l.context_kind = ContextParallel::ring;
    if (key == "ulysses") l.context_kind = ContextParallel::ulysses;
    if (key == "allgather") l.dispatcher = Dispatcher::all_gather;
    if (key == "full") l.recompute.full = true;
    if (key == "dp-last") l.rank_order = RankOrder::tp_cp_pp_dp;
    if (key == "tp") in >> l.tensor;
    if (key == "cp") in >> l.context;
    if (key == "dp") in >> l.data;
    if (key == "ep") in >> l.expert;
    if (key == "etp") in >> l.expert_tensor;
    if (key == "pp") in >> l.pipeline;
    if (key == "vpp") in >> l.virtual_pipeline;
    if (key == "zero") in >> l.zero;
    if (key == "group") in >> l.shard_group;
    if (key == "micro") in >> l.micro_batch;
    if (key == "batch") in >> w.global_batch;
    if (key == "layers") in >> model.num_hidden_layers;
    for (const Schedule schedule : kScheduleList)
      if (name_of(schedule) == key) l.schedule = schedule;
  }
  if (w.global_batch == 0) w.global_batch = std::int64_t{2} * l.data * l.micro_batch;
  if (answers) {
    w.global_batch *= l.context;
    l = answering(l);
  }
  const int parts = l.pipeline * l.virtual_pipeline;
  const auto layers = static_cast<int>(model.num_hidden_layers);
  for (int part = 0; part < parts; ++part)
    l.layers_per_chunk.push_back(layers / parts + (part < layers % parts ? 1 : 0));
  Pipeline p{l.schedule, l.pipeline, l.virtual_pipeline, static_cast<int>(l.micro_batches(w.global_batch))};
  const auto n = static_cast<std::size_t>(p.parts());
  const PipelineTimes times = {p.stages,
                               p.chunks,
                               std::vector<Seconds>(n, Seconds{1}),
                               std::vector<Seconds>(n, Seconds{2}),
                               Seconds{0.1},
                               std::vector<Seconds>(n, Seconds{1}),
                               {}};
  return make_programme(model, l, w, stage_orders(p, times));
}

}  // namespace shardwright
