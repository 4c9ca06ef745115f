#include "reports/explain_text.h"

#include <doctest/doctest.h>

#include <sstream>
#include <string>

#include "tests/reports/answers.h"

namespace shardwright {
namespace {

/// round_layout with the parts that its prediction has.
ExplainedLayout explained(int tensor, double bubble, int activations) {
  ExplainedLayout e{round_layout(tensor, bubble, activations), {}};
  const Prediction& p = *e.priced.prediction;
  e.parts = {{"gemm", {6}}, {"attention", {2}}, {"exposed tensor", {1}}, {"optimizer", {0.5}}, {"bubble", {bubble}}};
  CHECK(p.step.value == doctest::Approx(9.5 + bubble));
  return e;
}

Explanation slower() {
  Explanation e;
  e.asked.model = "llama-3.1-8b";
  e.asked.machine = "round-gpu";
  e.asked.engine = "generic";
  e.asked.gpus = 64;
  e.asked.is_estimate = true;
  e.asked.workload = round_request().workload;
  e.layout = explained(4, 4.5, 20);
  e.layout.priced.assumed = {"zero", "recompute"};
  e.asked.plans = {e.layout.priced};
  e.best = explained(2, 0.5, 30);
  e.standing = Standing::slower;
  e.search.considered = 1234;
  e.changes.push_back({{LayoutKey::tp}, round_layout(2, 0.5, 30), true});
  return e;
}

bool has(const std::string& text, const std::string& part) {
  CAPTURE(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK_MESSAGE(found, part);
  return found;
}

TEST_CASE("a slower layout is explained by the terms that make it slower and by the change that turns it") {
  const std::string text = explain_text(round_request(), slower(), {"llama-3.1-8b", "round.yaml"}, false);
  has(text,
      "\nIt fits. A step takes 4.00 s (40.0 %) longer than with the best of the 1,234\n"
      "layouts of the question: 4.00 s more bubble. The best has tp 2 instead of 4, dp\n16 instead of 8, fsdp_group 16 "
      "instead of 8.\n");
  has(text, "filled in by the planner: zero, recompute\n");
  has(text,
      "  seconds            this    share    best  this - best\n"
      "  matrix products  6.00 s   42.9 %  6.00 s            0\n"
      "  attention        2.00 s   14.3 %  2.00 s            0\n"
      "  exposed tp       1.00 s    7.1 %  1.00 s            0\n"
      "  optimizer        500 ms    3.6 %  500 ms            0\n"
      "  bubble           4.50 s   32.1 %  500 ms      +4.00 s\n"
      "  step             14.0 s  100.0 %  10.0 s      +4.00 s\n");
  has(text, "  activations           20.00  30.00       -10.00\n");
  has(text, "  reserved              48.00  58.00       -10.00\n  80.00 GiB are usable\n");
  has(text,
      "One key changed, fastest first\n"
      "  tp 4 -> 2 (dp 8 -> 16, fsdp_group 8 -> 16 follow): takes 10.0 GiB, saves 28.6\n"
      "  %; then it is as good as the best, within the errors\n");
  has(text, "The first of these in detail:\n  shardwright estimate llama-3.1-8b round.yaml");
}

TEST_CASE("a tie is called one, and a best layout the best") {
  Explanation e = slower();
  e.standing = Standing::tied;
  has(explain_text(round_request(), e, {"a", "b"}, false),
      "4.00 s more bubble. That is within the errors: a tie on\nthese numbers, which only a run would settle. The best "
      "has tp 2");
  e.standing = Standing::best;
  e.changes.clear();
  has(explain_text(round_request(), e, {"a", "b"}, false),
      "\nIt fits, and none of the 1,234 layouts of the question is faster.\n");
}

TEST_CASE("a layout that does not fit is told by how much, of what, and what would make it fit") {
  Explanation e = slower();
  e.layout = explained(4, 0.5, 60);
  e.layout.priced.fits = false;
  e.layout.priced.rejection = too_large(round_machine(), *e.layout.priced.prediction);
  e.standing = Standing::too_large;
  const std::string text = explain_text(round_request(), e, {"a", "b"}, false);
  has(text,
      "It does not fit.\nmemory: stage 0 needs 88.0 GiB of 80.0 GiB: 8.0 GiB too much. Most of it:\n"
      "activations 60.0 GiB, optimizer 10.0 GiB.\n");
  has(text,
      "One key changed, and it fits; fastest first\n"
      "  tp 4 -> 2 (dp 8 -> 16, fsdp_group 8 -> 16 follow): frees 30.0 GiB, saves 0.0 %\n");
  // With nothing that turns it.
  e.nearest = std::move(e.changes);
  e.changes.clear();
  e.nearest[0].priced = round_layout(2, 0.5, 55);
  has(explain_text(round_request(), e, {"a", "b"}, false),
      "Neither one key nor two make it fit; one key that helps most\n"
      "  tp 4 -> 2 (dp 8 -> 16, fsdp_group 8 -> 16 follow): frees 5.0 GiB, saves 0.0 %;\n"
      "  still 3.0 GiB too much\n");
  e.best.reset();
  e.nearest.clear();
  has(explain_text(round_request(), e, {"a", "b"}, false), "\nNo layout of the same question fits.\n");
}

TEST_CASE("an impossible layout has its reason and no figures") {
  Explanation e = slower();
  e.layout.priced.prediction.reset();
  e.layout.priced.fits = false;
  e.layout.priced.rejection = Rejection{"heads", "tp 4 does not cut 3 KV heads"};
  e.layout.parts.clear();
  e.standing = Standing::impossible;
  const std::string text = explain_text(round_request(), e, {"a", "b"}, true);
  has(text, "It cannot be run.\nheads: tp 4 does not cut 3 KV heads\n");
  has(text, "follow): a step of 10.0 s, 58.0 GiB\n  of a GPU\n");
  CHECK(text.find("Where each second") == std::string::npos);
}

TEST_CASE("a layout to compare with stands beside it, and what ifs follow") {
  Explanation e = slower();
  e.against = explained(8, 1.5, 10);
  WhatIf w{"network_twice", "links between nodes twice as fast", round_request(), {}, {}};
  w.same = round_layout(4, 3.5, 20);
  w.best = round_layout(2, 0.5, 30);
  for (PricedLayout* p : {&*w.same, &*w.best, &e.layout.priced, &e.best->priced})
    p->prediction->tokens_per_second_per_gpu = 1000 / p->prediction->step.value;
  e.what_ifs = {w};
  const std::string text = explain_text(round_request(), e, {"a", "b"}, false);
  has(text, "The layout to compare with has tp 8 instead of 4, dp 4 instead of 8, fsdp_group\n4 instead of 8.\n");
  has(text, "  bubble           4.50 s   32.1 %   1.50 s         +3.00 s\n");
  // 1000 / 13 s is 76.9, 7.7 % above 1000 / 14 s.
  has(text,
      "What if\n  links between nodes twice as fast: this layout has 76.9 tokens/s/GPU (+7.7 %);\n"
      "  the best has 100.0 (+0.0 %), with the same layout as today's best.\n");
  e.against->priced.prediction.reset();
  e.against->priced.rejection = Rejection{"heads", "no"};
  has(explain_text(round_request(), e, {"a", "b"}, false), "The layout to compare with cannot be run: heads: no\n");
}

TEST_CASE("no line of an explanation is longer than 80 characters") {
  PlanRequest request = round_request();
  request.machine = find_machine("a100-sxm-40gb");
  request.workload.formats = formats_for(DataType::bf16);
  request.threads = 1;
  for (const char* layout : {"tp=4,pp=2", "tp=1,pp=8,vpp=2,zero=1", "tp=1,recompute=none,zero=0", "tp=3,pp=1,cp=2"}) {
    CAPTURE(layout);
    request.gpus = 48;
    request.workload.global_batch = 48;
    request.pins = parse_layout(layout, "--layout");
    const Explanation e = explain(request, parse_layout("tp=8,zero=3", "--against"), true);
    std::istringstream lines(explain_text(request, e, {"llama-3.1-8b", "a100-sxm-40gb"}, true));
    for (std::string line; std::getline(lines, line);) CHECK_MESSAGE(line.size() <= 80, line);
  }
}

}  // namespace
}  // namespace shardwright
