#include "hardware/data_type.h"

#include <doctest/doctest.h>

using namespace shardwright;

TEST_CASE("every data type is found again by its name") {
  for (DataType type : kDataTypes) CHECK(data_type_named(name_of(type)) == type);
  CHECK(name_of(DataType::nvfp4) == "nvfp4");
  CHECK(name_of(DataType::tf32) == "tf32");
  CHECK_FALSE(data_type_named("BF16").has_value());
  CHECK_FALSE(data_type_named("").has_value());
}

TEST_CASE("stored bytes count block scales") {
  CHECK(bytes_per_element(DataType::fp32) == 4);
  CHECK(bytes_per_element(DataType::tf32) == 4);
  CHECK(bytes_per_element(DataType::fp16) == 2);
  CHECK(bytes_per_element(DataType::bf16) == 2);
  CHECK(bytes_per_element(DataType::fp8) == 1);
  CHECK(bytes_per_element(DataType::mxfp8) * 32 == 33);  // 32 elements and one scale
  CHECK(bytes_per_element(DataType::nvfp4) * 16 == 9);   // 8 bytes for 16 elements and one scale
}

TEST_CASE("a value per data type is zero until it is given") {
  PerDataType<double> rates = {{DataType::bf16, 2.0}};
  rates[DataType::fp8] = 4.0;
  CHECK(rates[DataType::bf16] == 2.0);
  CHECK(rates[DataType::fp8] == 4.0);
  CHECK(rates[DataType::nvfp4] == 0.0);
}
