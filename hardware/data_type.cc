#include "hardware/data_type.h"

#include <cassert>

namespace shardwright {

std::string_view name_of(DataType type) {
  switch (type) {
    case DataType::fp32:
      return "fp32";
    case DataType::tf32:
      return "tf32";
    case DataType::fp16:
      return "fp16";
    case DataType::bf16:
      return "bf16";
    case DataType::fp8:
      return "fp8";
    case DataType::mxfp8:
      return "mxfp8";
    case DataType::nvfp4:
      return "nvfp4";
  }
  assert(false && "a data type without a name");
  return "";
}

std::optional<DataType> data_type_named(std::string_view name) {
  for (DataType type : kDataTypes) {
    if (name_of(type) == name) return type;
  }
  return std::nullopt;
}

double bytes_per_element(DataType type) {
  switch (type) {
    case DataType::fp32:
      return 4;
    case DataType::tf32:
      return 4;
    case DataType::fp16:
      return 2;
    case DataType::bf16:
      return 2;
    case DataType::fp8:
      return 1;
    case DataType::mxfp8:
      return 1 + 1.0 / 32;
    case DataType::nvfp4:
      return 0.5 + 1.0 / 16;
  }
  assert(false && "a data type without a size");
  return 0;
}

double bytes_per_element(StoredType type) {
  switch (type) {
    case StoredType::mxfp4:
      return 0.5 + 1.0 / 32;
    case StoredType::int8:
      return 1;
    case StoredType::int4:
      return 0.5;
    default:
      return bytes_per_element(static_cast<DataType>(type));
  }
}

}  // namespace shardwright
