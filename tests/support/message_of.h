#pragma once

#include <string>

#include "hardware/input_error.h"

namespace shardwright {

/// The text of the Exception that `call` throws.
template <typename Exception = InputError, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Exception& error) { return error.what(); }
  return "nothing was thrown";
}

}  // namespace shardwright
