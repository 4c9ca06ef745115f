#pragma once

#include <array>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>

namespace shardwright {

/// Number formats that a device can be asked to compute in. `tf32` is stored as fp32.
enum class DataType { fp32, tf32, fp16, bf16, fp8, mxfp8, nvfp4 };

inline constexpr std::array kDataTypes = {DataType::fp32, DataType::tf32,  DataType::fp16, DataType::bf16,
                                          DataType::fp8,  DataType::mxfp8, DataType::nvfp4};

/// The spelling of YAML, flags and reports: "fp32", "bf16", "nvfp4", ...
std::string_view name_of(DataType);
std::optional<DataType> data_type_named(std::string_view);

/// Stored bytes of one element, block scales included: mxfp8 has one byte for 32 elements (OCP MX 1.0),
/// nvfp4 one byte for 16.
double bytes_per_element(DataType);

/// How elements lie in memory: the data types, and formats that are unpacked before anything computes in them. The data
/// types come first and in their order, so that a DataType is the same number here.
enum class StoredType { fp32, tf32, fp16, bf16, fp8, mxfp8, nvfp4, mxfp4, int8, int4 };

inline constexpr std::array kStoredTypeNames = {
    std::string_view("fp32"), std::string_view("tf32"),  std::string_view("fp16"),  std::string_view("bf16"),
    std::string_view("fp8"),  std::string_view("mxfp8"), std::string_view("nvfp4"), std::string_view("mxfp4"),
    std::string_view("int8"), std::string_view("int4")};

constexpr StoredType stored(DataType type) { return static_cast<StoredType>(type); }

/// Stored bytes of one element, block scales included: mxfp4 has one byte for 32 elements (OCP MX 1.0).
double bytes_per_element(StoredType);

/// One value for each data type, `Value{}` where none was given. An array, since costs ask it millions of times.
template <typename Value>
class PerDataType {
 public:
  constexpr PerDataType() = default;
  constexpr PerDataType(std::initializer_list<std::pair<DataType, Value>> values) {
    for (const auto& [type, value] : values) (*this)[type] = value;
  }
  constexpr Value& operator[](DataType type) { return values_[static_cast<std::size_t>(type)]; }
  constexpr const Value& operator[](DataType type) const { return values_[static_cast<std::size_t>(type)]; }
  bool operator==(const PerDataType&) const = default;

 private:
  std::array<Value, kDataTypes.size()> values_ = {};
};

}  // namespace shardwright
