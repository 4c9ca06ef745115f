#include <cstdint>
#include <cstdlib>
#include <string>

#include "hardware/input_error.h"
#include "planner/layout.h"

using namespace shardwright;

namespace {

/// A canonical layout that agrees with the pins, as far as they allow one.
Layout completed(const LayoutPins& pins) {
  Layout layout;
  layout.tensor = pins.tp.value_or(1);
  layout.pipeline = pins.pp.value_or(1) % 64 + 1;  // keeps the list of layers short
  layout.context = pins.cp.value_or(1);
  if (layout.context > 1) layout.context_kind = pins.cp_kind.value_or(ContextParallel::ring);
  layout.data = pins.dp.value_or(1);
  layout.expert = pins.ep.value_or(1);
  layout.expert_tensor = pins.etp.value_or(1);
  if (layout.expert > 1) layout.dispatcher = pins.dispatcher.value_or(Dispatcher::deepep);
  if (layout.pipeline > 1) {
    layout.virtual_pipeline = pins.vpp.value_or(1) % 8 + 1;
    layout.schedule = layout.virtual_pipeline > 1        ? Schedule::interleaved
                      : pins.schedule == Schedule::gpipe ? Schedule::gpipe
                                                         : Schedule::one_f_one_b;
  }
  if (layout.tensor > 1) layout.sequence_parallel = pins.sequence_parallel.value_or(false);
  const bool many = layout.data > 1 || layout.context > 1;
  if (many) layout.zero = pins.zero.value_or(1);
  if (layout.zero > 0) layout.shard_group = pins.fsdp_group.value_or(2);
  layout.recompute = pins.recompute.value_or(Recompute{});
  layout.micro_batch = pins.micro_batch.value_or(1);
  if (layout.data > 1 && layout.pipeline > 1) layout.rank_order = pins.rank_order.value_or(RankOrder::tp_cp_dp_pp);
  layout.overlap = {static_cast<std::uint8_t>(pins.overlap_on.bits & overlaps_of(layout).bits)};
  const std::size_t chunks =
      static_cast<std::size_t>(layout.pipeline) * static_cast<std::size_t>(layout.virtual_pipeline);
  layout.layers_per_chunk.assign(chunks, 1);
  for (std::size_t i = 0; pins.layers_per_stage && i < chunks && i < pins.layers_per_stage->size(); ++i) {
    layout.layers_per_chunk[i] = (*pins.layers_per_stage)[i];
  }
  return layout;
}

template <typename T>
bool pinned_or(const std::optional<T>& pin, const T& value, const T& left_out) {
  return pin.value_or(left_out) == value;
}

/// Every pin that is there is the layout's, and what is not there has the value that the text may leave out.
bool pin_exactly(const LayoutPins& pins, const Layout& layout) {
  return pins.tp == layout.tensor && pins.pp == layout.pipeline && pins.dp == layout.data &&
         pinned_or(pins.vpp, layout.virtual_pipeline, 1) && pinned_or(pins.cp, layout.context, 1) &&
         pinned_or(pins.cp_kind, layout.context_kind, ContextParallel::all_gather) &&
         pinned_or(pins.dispatcher, layout.dispatcher, Dispatcher::all_to_all) && pins.overlap_on == layout.overlap &&
         pinned_or(pins.ep, layout.expert, 1) && pinned_or(pins.etp, layout.expert_tensor, 1) &&
         pinned_or(pins.sequence_parallel, layout.sequence_parallel, false) && pinned_or(pins.zero, layout.zero, 0) &&
         pinned_or(pins.fsdp_group, layout.shard_group, 1) && pins.recompute == layout.recompute &&
         pins.micro_batch == layout.micro_batch && pinned_or(pins.schedule, layout.schedule, Schedule::one_f_one_b) &&
         pinned_or(pins.rank_order, layout.rank_order, RankOrder::tp_cp_dp_pp) &&
         (layout.layers_per_chunk.size() == 1 ? !pins.layers_per_stage
                                              : pins.layers_per_stage == layout.layers_per_chunk);
}

}  // namespace

/// Any bytes as a --layout: pins or an InputError; and what to_string writes is read back.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  LayoutPins pins;
  try {
    pins = parse_layout(text, "--layout");
  } catch (const InputError&) { return 0; }
  const Layout layout = completed(pins);
  if (!pin_exactly(parse_layout(to_string(layout), "--layout"), layout)) std::abort();
  return 0;
}
