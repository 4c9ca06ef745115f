#include "planner/cost/forward_time.h"

#include <string_view>

#include "planner/pricer.h"

namespace shardwright {
namespace {

/// How many times as long attention takes whose keys are `cached` more than its queries.
double longer_attention(Pricer& pricer, const Layout& layout, std::int64_t cached) {
  Seconds plain, longer;
  for (const AskedKernel& kernel : pricer.asked(layout)) {
    const auto* spec = std::get_if<AttentionSpec>(&kernel.spec);
    if (!spec || spec->backward) continue;
    AttentionSpec behind = *spec;
    behind.key_length += cached;
    behind.causal = behind.queries_last = behind.query_length > 1;
    plain += kernel.times * look_up(*spec, pricer.machine()).time;
    longer += kernel.times * look_up(behind, pricer.machine()).time;
  }
  return plain > Seconds{} ? longer / plain : 1;
}

}  // namespace

Layout answering(Layout layout) {
  layout.sequence_parallel = false;
  layout.data *= layout.context;
  layout.context = 1;
  layout.context_kind = Layout{}.context_kind;
  return layout;
}

std::optional<Seconds> forward_time(const PlanRequest& request, const Layout& trained, std::int64_t tokens,
                                    std::int64_t cached) {
  if (trained.pipeline > 1) return std::nullopt;
  const Layout layout = answering(trained);
  PlanRequest step = request;
  step.workload.sequence_length = tokens;
  step.workload.global_batch *= trained.context;
  Pricer pricer(step);
  const double attention = cached > 0 ? longer_attention(pricer, layout, cached) : 1;
  Seconds sum;
  bool answered = false;  // what follows the logits is the loss
  for (const OperatorTime& o : pricer.operator_times(layout, 0)) {
    if (o.pass != OperatorPass::forward) continue;
    const bool is_logits = o.graph == "head" && o.name == "logits";
    answered = answered || is_logits;
    if (answered && !is_logits) continue;
    sum += (!o.communicates && o.family == KernelFamily::attention ? attention : 1) * o.seconds;
  }
  return 1.0 / static_cast<double>(layout.micro_batches(step.workload.global_batch)) * sum;
}

}  // namespace shardwright
