#pragma once

#include <string>

#include "hardware/input_error.h"

namespace shardwright {

/// The text of the InputError that `call` throws.
template <typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const InputError& error) { return error.what(); }
  return "nothing was thrown";
}

}  // namespace shardwright
