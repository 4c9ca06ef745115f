#include "profiler/doctor.h"

#include "profiler/cpu_facts.h"

namespace shardwright {

Diagnosis diagnose() {
  const CpuFacts facts = system_facts(1);
  return {facts.processor, facts.cores, facts.memory, parts()};
}

}  // namespace shardwright
