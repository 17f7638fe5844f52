#pragma once
// A file that could not be written: the disk is full, a limit reached, the device gone. Apart from
// other errors because it is not the input's fault: what is finished is worth keeping.
//
// From / to: the writers of files; `rrs-llm quantize`, which then keeps what --resume needs.

#include <stdexcept>
#include <string>

namespace rrs_examples {

struct WriteError : std::runtime_error {
  explicit WriteError(const std::string& what) : std::runtime_error(what) {}
};

}  // namespace rrs_examples
