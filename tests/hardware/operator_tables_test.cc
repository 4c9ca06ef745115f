#include "hardware/operator_tables.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "hardware/gzip.h"
#include "tests/support/measured.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

using namespace shardwright;

namespace {

/// Every measurement of a folder with one table, "question: seconds, kernel, framework", sorted as tables are.
std::vector<std::string> imported(const std::string& name, const std::string& text, int gpus_per_node = 8) {
  const TemporaryFolder folder;
  folder.write(name, name.ends_with(".gz") ? gzip(text) : text);
  const OperatorImport import = import_operator_tables(folder.path(), gpus_per_node);
  std::vector<std::string> told;
  for (int i = 0; i < kKernelFamilies; ++i) {
    const KernelTable& table = import.measured.table(static_cast<KernelFamily>(i));
    for (std::size_t row = 0; row < table.size(); ++row) {
      char seconds[40];
      std::snprintf(seconds, sizeof seconds, ": %.10g, ", table.seconds()[row]);
      told.push_back(to_string(table.spec(row)) + seconds + std::string(table.kernel(row)) + ", " +
                     std::string(table.framework(row)));
    }
  }
  for (const auto& [reason, rows] : import.files.at(0).left_out) told.push_back("left out: " + reason);
  return told;
}

using Lines = std::vector<std::string>;

const std::string kHead = "framework,version,device,op_name,kernel_source,";

std::string fault_of(const std::string& name, const std::string& text) {
  const TemporaryFolder folder;
  folder.write(name, text);
  const std::string message = message_of([&] { import_operator_tables(folder.path(), 8); });
  return message.starts_with(folder / name) ? message.substr(folder.path().size() + 1) : message;
}

}  // namespace

TEST_CASE("GEMM tables have milliseconds and formats of their own") {
  CHECK(imported("gemm_perf.csv.gz", kHead + "gemm_dtype,m,n,k,latency\n"
                                             "VLLM,0.24.0,GPU,gemm,linear,bfloat16,1,32,64,0.004728\n"
                                             "VLLM,0.24.0,GPU,gemm,DeepGemm,fp8_block,2,32,64,1.5e-2\n"
                                             "VLLM,0.24.0,GPU,gemm,x,int3,2,32,64,1\n"
                                             "VLLM,0.24.0,GPU,gemm,x,fp8,2,32,64,0\n") ==
        Lines{"gemm m=1 n=32 k=64 type=bf16: 4.728e-06, linear, VLLM 0.24.0",
              "gemm m=2 n=32 k=64 type=fp8 scaling=block: 1.5e-05, DeepGemm, VLLM 0.24.0", "left out: no time",
              "left out: unknown gemm_dtype 'int3'"});
}

TEST_CASE("collectives' elements become bytes") {
  CHECK(imported("nccl_perf.csv", kHead + "nccl_dtype,num_gpus,message_size,latency\n"
                                          "TRTLLM,2.29.2,GPU,all_gather,NCCL,half,2,256,0.5\n"
                                          "TRTLLM,2.29.2,GPU,alltoall,NCCL,int8,8,256,0.25\n"
                                          "TRTLLM,2.29.2,GPU,broadcast,NCCL,int8,8,256,0.25\n") ==
        Lines{"collective op=all_gather bytes=512 group=2 type=fp16: 0.0005, NCCL, TRTLLM 2.29.2",
              "collective op=all_to_all bytes=256 group=8 type=int8: 0.00025, NCCL, TRTLLM 2.29.2",
              "left out: unknown collective 'broadcast'"});
  CHECK(imported("custom_allreduce_perf.engine-1.csv", kHead +
                                                           "allreduce_dtype,num_gpus,message_size,latency,backend\n"
                                                           "vLLM,0.24.0,GPU,all_reduce,graph,bfloat16,4,128,0.5,x\n") ==
        Lines{"collective op=all_reduce bytes=256 group=4 type=bf16 algorithm=custom: 0.0005, graph, vLLM 0.24.0"});
}

TEST_CASE("attention tables count queries and cached tokens apart") {
  const std::string head = kHead +
                           "batch_size,isl,num_heads,num_key_value_heads,head_dim,beam_width,attn_dtype,"
                           "kv_cache_dtype,step,window_size,latency\n";
  CHECK(imported("context_attention_perf.csv", head + "V,1,G,c,fa3,2,64,8,2,128,1,bfloat16,fp8,0,16,1\n"
                                                      "V,1,G,c,fa3,2,64,8,2,128,1,bfloat16,bfloat16,64,0,1\n"
                                                      "V,1,G,c,fa3,2,64,8,2,128,4,bfloat16,bfloat16,64,0,1\n") ==
        Lines{"attention batch=2 heads=8 kv_heads=2 query=64 head_dim=128 window=16 type=bf16 kv_type=fp8: 0.001, fa3, "
              "V 1",
              "attention batch=2 heads=8 kv_heads=2 query=64 key=128 head_dim=128 type=bf16 queries_last=true: 0.001, "
              "fa3, V 1",
              "left out: beam search"});
  CHECK(
      imported("generation_attention_perf.csv", head + "V,1,G,g,fa3,2,1,8,2,128,1,bfloat16,bfloat16,63,0,1\n") ==
      Lines{
          "attention batch=2 heads=8 kv_heads=2 query=1 key=64 head_dim=128 causal=false type=bf16: 0.001, fa3, V 1"});
}

TEST_CASE("latent attention is attention of wide heads, or of one latent") {
  const std::string head = kHead + "mla_dtype,kv_cache_dtype,num_heads,batch_size,isl,tp_size,step,latency\n";
  CHECK(imported("context_mla_perf.csv", head + "T,1,G,mla_context,default,bfloat16,fp8,16,2,64,8,0,1\n") ==
        Lines{"attention batch=2 heads=16 query=64 head_dim=192 value_dim=128 type=bf16 kv_type=fp8: 0.001, default, "
              "T 1"});
  CHECK(imported("generation_mla_perf.csv", head + "T,1,G,mla_generation,default,bfloat16,bfloat16,16,2,1,8,63,1\n") ==
        Lines{"attention batch=2 heads=16 kv_heads=1 query=1 key=64 head_dim=576 value_dim=512 values_in_keys=true "
              "causal=false type=bf16: 0.001, default, T 1"});
  const std::string module_head =
      kHead + "model,architecture,mla_dtype,kv_cache_dtype,gemm_type,num_heads,batch_size,isl,tp_size,step,latency\n";
  CHECK(imported("mla_context_module_perf.csv",
                 module_head + "T,1,G,m,default,deepseek-ai/DeepSeek-V3,D,bfloat16,bfloat16,fp8_block,16,2,64,1,0,1\n"
                               "T,1,G,m,default,other,D,bfloat16,bfloat16,fp8_block,16,2,64,1,0,1\n") ==
        Lines{"mla_module batch=2 heads=16 query=64 type=bf16 gemm_type=fp8 scaling=block: 0.001, default, T 1",
              "left out: unknown model 'other'"});
  CHECK(imported("mla_generation_module_perf.csv",
                 module_head + "T,1,G,m,default,deepseek-ai/DeepSeek-V3,D,bfloat16,fp8,bfloat16,16,2,1,1,63,1\n") ==
        Lines{"mla_module batch=2 heads=16 query=1 key=64 absorbed=true type=bf16 kv_type=fp8: 0.001, default, T 1"});
  CHECK(imported("mla_bmm_perf.csv", kHead + "bmm_dtype,num_tokens,num_heads,latency\n"
                                             "T,1,G,mla_gen_pre,bmm,bfloat16,4,16,1\n"
                                             "T,1,G,mla_gen_post,block_scaling_bmm,fp8,4,16,1\n"
                                             "T,1,G,mla_gen_mid,bmm,fp8,4,16,1\n") ==
        Lines{"gemm m=4 n=512 k=128 batch=16 type=bf16: 0.001, bmm, T 1",
              "gemm m=4 n=128 k=512 batch=16 type=fp8 scaling=block: 0.001, block_scaling_bmm, T 1",
              "left out: unknown product 'mla_gen_mid'"});
}

TEST_CASE("expert layers keep their split, load and weights") {
  const std::string columns = "num_tokens,hidden_size,inter_size,topk,num_experts,";
  CHECK(imported("moe_perf.csv", kHead + "moe_dtype," + columns +
                                     "moe_tp_size,moe_ep_size,distribution,latency\n"
                                     "T,1,G,moe,flow,w4a16_mxfp4,4,64,32,2,8,2,4,power_law_1.2,1\n"
                                     "T,1,G,moe,flow_nongated,fp8,4,64,32,2,8,1,1,balanced,1\n"
                                     "T,1,G,moe,flow,fp8,4,64,32,2,8,1,1,zipf,1\n") ==
        Lines{"moe_layer tokens=4 hidden_size=64 intermediate_size=32 n_routed_experts=8 num_experts_per_tok=2 "
              "gated=false type=fp8: 0.001, flow_nongated, T 1",
              "moe_layer tokens=4 hidden_size=64 intermediate_size=32 n_routed_experts=8 num_experts_per_tok=2 ep=4 "
              "etp=2 routing=power_law_1.2 type=bf16 weights=mxfp4: 0.001, flow, T 1",
              "left out: unknown distribution 'zipf'"});
  const std::string head = kHead + "moe_dtype," + columns + "num_slots,moe_tp_size,moe_ep_size,distribution,latency\n";
  CHECK(imported("wideep_moe_perf.csv", head + "T,1,G,moe,cutlass,fp8_block,4,64,32,2,8,10,1,2,power_law_1.2_eplb,1\n"
                                               "T,1,G,moe,cutlass,fp8_block,4,64,32,2,8,7,1,2,balanced,1\n") ==
        Lines{"moe_layer tokens=4 hidden_size=64 intermediate_size=32 n_routed_experts=8 num_experts_per_tok=2 "
              "redundant_experts=2 ep=2 routing=power_law_1.2 eplb=true router=false type=fp8 scaling=block: 0.001, "
              "cutlass, T 1",
              "left out: fewer slots than experts"});
}

TEST_CASE("a row of the experts' exchange holds dispatch and combine, in microseconds") {
  const std::string columns = "node_num,hidden_size,num_token,num_topk,num_experts,";
  CHECK(imported("wideep_deepep_ll_perf.csv",
                 kHead + columns + "combine_avg_t_us,dispatch_avg_t_us\nS,1,G,ll,deepep,2,64,4,8,16,20,10\n",
                 4) == Lines{"moe_exchange op=dispatch mode=low_latency tokens=4 hidden_size=64 num_experts_per_tok=8 "
                             "n_routed_experts=16 group=8: 1e-05, deepep, S 1",
                             "moe_exchange op=combine mode=low_latency tokens=4 hidden_size=64 num_experts_per_tok=8 "
                             "n_routed_experts=16 group=8: 2e-05, deepep, S 1"});
  CHECK(imported("wideep_deepep_normal_perf.csv",
                 kHead + columns +
                     "dispatch_sms,dispatch_transmit_us,dispatch_notify_us,combine_sms,combine_transmit_us,"
                     "combine_notify_us\nS,1,G,normal,deepep,1,64,4,8,16,20,10,5,24,20,0\n") ==
        Lines{"moe_exchange op=dispatch tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 sms=20 "
              "group=8: 1e-05, deepep, S 1",
              "moe_exchange op=combine tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 sms=24 "
              "group=8: 2e-05, deepep, S 1",
              "moe_exchange op=dispatch_notify tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 "
              "sms=20 group=8: 5e-06, deepep, S 1"});
  const std::string head =
      kHead + "moe_dtype,num_tokens,hidden_size,topk,num_experts,moe_ep_size,distribution,latency\n";
  CHECK(imported("trtllm_alltoall_perf.csv", head +
                                                 "T,1,G,alltoall_prepare,NVLinkTwoSided,fp8,4,64,8,16,2,balanced,1\n"
                                                 "T,1,G,alltoall_dispatch,NVLinkOneSided,fp8,4,64,8,16,2,balanced,1\n"
                                                 "T,1,G,alltoall_combine,NVLinkOneSided,fp8,4,64,8,16,2,balanced,1\n"
                                                 "T,1,G,alltoall_combine_low_precision,NVLinkTwoSided,fp8,4,64,8,16,"
                                                 "2,balanced,1\n"
                                                 "T,1,G,alltoall_wait,NVLinkTwoSided,fp8,4,64,8,16,2,balanced,1\n"
                                                 "T,1,G,alltoall_combine,Pigeon,fp8,4,64,8,16,2,balanced,1\n") ==
        Lines{"moe_exchange op=prepare tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 group=2 "
              "type=fp8 backend=nvlink_two_sided: 0.001, NVLinkTwoSided, T 1",
              "moe_exchange op=dispatch tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 group=2 "
              "type=fp8 backend=nvlink_one_sided: 0.001, NVLinkOneSided, T 1",
              "moe_exchange op=combine tokens=4 hidden_size=64 num_experts_per_tok=8 n_routed_experts=16 group=2 "
              "type=fp8 backend=nvlink_one_sided: 0.001, NVLinkOneSided, T 1",
              "moe_exchange op=combine_low_precision tokens=4 hidden_size=64 num_experts_per_tok=8 "
              "n_routed_experts=16 group=2 type=fp8 backend=nvlink_two_sided: 0.001, NVLinkTwoSided, T 1",
              "left out: unknown kernel 'Pigeon'", "left out: unknown part 'alltoall_wait'"});
}

TEST_CASE("operator tables are known by their files' names") {
  const TemporaryFolder folder;
  CHECK(!has_operator_tables(folder.path()));
  CHECK(!has_operator_tables(folder / "none"));
  folder.write("other_perf.csv", "a\n");
  folder.write("gemm_perf.txt", "a\n");
  CHECK(!has_operator_tables(folder.path()));
  folder.write("gemm_perf.csv", kHead + "gemm_dtype,m,n,k,latency\nV,1,G,gemm,a'b,fp8,1,1,1,1\n");
  CHECK(has_operator_tables(folder.path()));
  const OperatorImport import = import_operator_tables(folder.path(), 8);
  CHECK(import.ignored == Lines{"other_perf.csv"});
  REQUIRE(import.files.size() == 1);
  CHECK(import.files[0].name == "gemm_perf.csv");
  CHECK(import.files[0].rows == 1);
  CHECK(import.files[0].measurements == 0);
  CHECK(import.files[0].left_out ==
        std::map<std::string, std::int64_t>{{"a name with quotes or unprintable letters", 1}});
}

TEST_CASE("faults in operator tables are told with file, line and column") {
  CHECK(fault_of("gemm_perf.csv", "") == "gemm_perf.csv: has no header");
  CHECK(fault_of("gemm_perf.csv", kHead + "gemm_dtype,m,n,latency\nV,1,G,gemm,a,fp8,1,1,1\n") ==
        "gemm_perf.csv:2:1: has no column 'k'");
  const std::string head = kHead + "gemm_dtype,m,n,k,latency\n";
  CHECK(fault_of("gemm_perf.csv", head + "V,1,G,gemm,a,fp8,1.5,1,1,1\n") ==
        "gemm_perf.csv:2:18: 'm' must be a whole number between 1 and 1099511627776, got '1.5'");
  CHECK(fault_of("gemm_perf.csv", head + "V,1,G,gemm,a,fp8,1,1,1,-1\n") ==
        "gemm_perf.csv:2:24: 'latency' must be a time, got '-1'");
  CHECK(fault_of("gemm_perf.csv", head + "V,1,G,gemm,a,fp8,1,1,1,\n") ==
        "gemm_perf.csv:2:24: 'latency' must be a time, got ''");
  CHECK(fault_of("gemm_perf.csv", head + "V,1,G,gemm,a,fp8,1,1,1,nan\n") ==
        "gemm_perf.csv:2:24: 'latency' must be a time, got 'nan'");
  CHECK(
      fault_of("nccl_perf.csv", kHead + "nccl_dtype,num_gpus,message_size,latency\nT,2,G,all_reduce,N,half,0,1,1\n") ==
      "nccl_perf.csv:2:25: 'num_gpus' must be a whole number between 1 and 1099511627776, got '0'");
}

TEST_CASE("every row of the published operator tables is a question whose text reads back") {
  const auto measured = measured_folder();
  if (!measured) return;
  std::int64_t rows = 0, measurements = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*measured / "silicon")) {
    const std::string folder = entry.path().string();
    if (!entry.is_directory() || !has_operator_tables(folder)) continue;
    const OperatorImport import = import_operator_tables(folder, entry.path().filename() == "gb200" ? 4 : 8);
    CHECK(import.ignored.empty());
    for (const ImportedFile& file : import.files) {
      CAPTURE(file.name);
      CHECK(file.left_out.empty());
      CHECK(file.rows > 0);
      CHECK(file.measurements >= file.rows);
      rows += file.rows;
    }
    for (int i = 0; i < kKernelFamilies; ++i) {
      const KernelTable& table = import.measured.table(static_cast<KernelFamily>(i));
      measurements += static_cast<std::int64_t>(table.size());
      for (std::size_t row = 0; row < table.size(); ++row) {
        const std::string text = to_string(table.spec(row));
        const KernelSpec read = parse_kernel_spec(text, "row");
        if (to_string(read) != text || to_slots(read) != table.slots(row)) FAIL(text);
      }
      const std::string csv = kernel_table_csv(table);
      CHECK(kernel_table_csv(read_kernel_table(csv, "again", table.family())) == csv);
    }
  }
  MESSAGE(rows << " rows, " << measurements << " measurements");
  CHECK(rows > 1'000'000);
}
