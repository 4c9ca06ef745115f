#pragma once

#include <vector>

#include "profiler/execute/programme.h"

namespace shardwright {

/// Models in which no two dimensions have the same size: dense, grouped heads; biases and a tied table; latent
/// attention; experts, with latent attention and shared ones, too.
Model tiny_dense();
Model tiny_tied();
Model tiny_latent();
Model tiny_experts();
/// Experts whose gates are applied behind them, since they have biases; a gate for the shared ones.
Model tiny_gated();
std::vector<Model> tiny_models();

/// A step of a tiny model under a layout in words, "tp 2 sp dp 2 zero 1 group 2 pp 2 zb-h1 batch 8". Keys: tp cp dp ep
/// etp pp vpp zero group batch layers; sp, ring, ulysses, allgather, full (recomputation) and names of schedules.
/// `answers`: as its ranks answer prompts (answering()).
Programme tiny_programme(Model model, const char* layout, bool answers = false);

}  // namespace shardwright
