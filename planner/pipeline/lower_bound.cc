#include <algorithm>
#include <cstddef>

#include "planner/pipeline/play.h"

namespace shardwright {
namespace {

/// The least that a schedule can make of each part and stage.
class Least {
 public:
  Least(const Pipeline& pipeline, const PipelineTimes& times)
      : times_(times),
        route_(pipeline),
        backward_(backward_tasks(pipeline.schedule)),
        has_pairs_(has_pairs(pipeline)),
        micro_batches_of_a_chunk_(pipeline.micro_batches / route_.routes()) {}

  const Route& route() const { return route_; }

  /// A part's shortest forward: in a pair, if that is shorter.
  Seconds forward(Place place) const {
    Seconds least = times_.forward[part(place)];
    for (int other = 0; paired() && other < route_.chunks(); ++other)
      least = std::min(least, pair(place.stage, place.chunk, other));
    return least;
  }
  /// How soon after its start a part's gradient can go on.
  Seconds gradient(Place place) const {
    Seconds least = times_.backward[part(place)];
    if (backward_ != BackwardTasks::whole) least = least - times_.weight_gradient[part(place)];
    for (int other = 0; paired() && other < route_.chunks(); ++other)
      least = std::min(least, pair(place.stage, other, place.chunk));
    return least;
  }
  /// What the first part still does after its last gradient.
  Seconds after_all() const { return backward_ == BackwardTasks::split ? times_.weight_gradient.front() : Seconds{}; }
  /// Of all micro-batches, by one stage.
  Seconds work(int stage) const {
    Seconds once, saved;
    for (int c = 0; c < route_.chunks(); ++c) {
      once += times_.forward[part({stage, c})] + times_.backward[part({stage, c})];
      Seconds most;
      for (int other = 0; paired() && other < route_.chunks(); ++other)
        most = std::max(
            most, times_.forward[part({stage, c})] + times_.backward[part({stage, other})] - pair(stage, c, other));
      saved += most;
    }
    return micro_batches_of_a_chunk_ * (once - saved);
  }
  /// That part of it which may follow the stage's last gradient.
  Seconds deferrable(int stage) const {
    Seconds once;
    if (backward_ == BackwardTasks::whole) return once;
    for (int c = 0; c < route_.chunks(); ++c) once += times_.weight_gradient[part({stage, c})];
    return micro_batches_of_a_chunk_ * once;
  }

 private:
  bool paired() const { return has_pairs_ && !times_.pair.empty(); }
  std::size_t part(Place place) const { return static_cast<std::size_t>(route_.part_of(place)); }
  Seconds pair(int stage, int forward, int backward) const {
    const int chunks = route_.chunks();
    return times_.pair[static_cast<std::size_t>((stage * chunks + forward) * chunks + backward)];
  }

  const PipelineTimes& times_;
  Route route_;
  BackwardTasks backward_;
  bool has_pairs_;
  int micro_batches_of_a_chunk_;
};

}  // namespace

Seconds pipeline_lower_bound(const Pipeline& pipeline, const PipelineTimes& times) {
  check(pipeline, times);
  const Least least(pipeline, times);
  const Route& route = least.route();
  // Until a stage's first forward can start, and from its last gradient to the end of all; the first and the last are
  // those of the first part it holds, of either route.
  constexpr Seconds kNever{1e300};
  std::vector<Seconds> arrives(static_cast<std::size_t>(pipeline.stages), kNever), drains(arrives);
  Seconds bound;
  for (int r = 0; r < route.routes(); ++r) {
    Seconds there, back = least.after_all();
    Place before = route.place(r, 0);
    for (int part = 0; part < route.parts(); ++part) {
      const Place place = route.place(r, part);
      const auto s = static_cast<std::size_t>(place.stage);
      if (place.stage != before.stage) {
        there += times.send;
        back += times.send;
      }
      arrives[s] = std::min(arrives[s], there);
      drains[s] = std::min(drains[s], part == 0 ? Seconds{} : back);
      there += least.forward(place);
      back += least.gradient(place);
      before = place;
    }
    bound = std::max(bound, there + back);  // one micro-batch's way
  }
  for (int stage = 0; stage < pipeline.stages; ++stage) {
    const auto s = static_cast<std::size_t>(stage);
    const Seconds work = least.work(stage), deferrable = least.deferrable(stage);
    bound = std::max(bound, arrives[s] + work - deferrable + std::max(deferrable, drains[s]));
  }
  return bound * (1 - 1e-11);
}

}  // namespace shardwright
