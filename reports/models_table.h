#pragma once

#include <string>
#include <vector>

#include "models/model.h"
#include "reports/format.h"

namespace shardwright {

/// One line a model: size, shape, KV cache. A model that this version has no graph for is listed with what it lacks.
std::string models_table(const std::vector<Model>& models, const TableStyle& style = {});

/// One model, every key.
std::string model_text(const Model& model, const TableStyle& style = {});

}  // namespace shardwright
