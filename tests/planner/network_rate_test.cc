#include "planner/cost/network_rate.h"

#include <doctest/doctest.h>

namespace shardwright {

TEST_CASE("a network's rate is one GPU's share of what the source prints for a node") {
  // 8 x 400 Gb/s for 8 GPUs: 50 GB/s each.
  CHECK(network_rate("NVLink5 + 8x ConnectX-7 NDR 400G per node", 8) == 50e9);
  CHECK(network_rate("NVLink4 + 8x BlueField-3 400G (RoCE) per node", 8) == 50e9);
  CHECK(network_rate("NVLink4 + GPUDirect-TCPXO (8x 200G) per node, GCP A3 Mega", 8) == 25e9);
  CHECK(network_rate("NVLink4 + 8x 400G IB per node", 4) == 100e9);
  CHECK(network_rate("H800, NVLink ~160 GB/s, 1x CX7 400G per GPU", 8) == 50e9);
  CHECK(network_rate("Selene, 8x HDR200 IB per node", 8) == 25e9);
  CHECK(network_rate("IB, 800 Gb/s per node in repo config", 8) == 12.5e9);
  CHECK(network_rate("1600 Gb/s RoCE per node", 8) == 25e9);
  CHECK(network_rate("4x 100 Gb/s RoCE per node", 8) == 6.25e9);
  CHECK(network_rate("8x 50 GB/s InfiniBand per node", 8) == 50e9);
}

TEST_CASE("what states no rate of a node or a GPU has none") {
  for (const char* interconnect : {"", "H100, IB", "NVLink5 + RoCE CX-7", "A100 x4 pairwise NVLink", "AWS p4d EFA",
                                   "4 nodes, RoCE RDMA", "ConnectX-7 NDR 400G, one HCA"}) {
    CAPTURE(interconnect);
    CHECK_FALSE(network_rate(interconnect, 8).has_value());
  }
}

}  // namespace shardwright
