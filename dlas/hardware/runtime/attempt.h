// Turns whatever a piece of work throws into a Failure.
#pragma once

#include <tvm/ffi/error.h>

#include <exception>
#include <optional>
#include <string>

#include "failure.h"

namespace dlas {

template <typename Work>
std::optional<Failure> attempt(Work work) {
  try {
    work();
    return std::nullopt;
  } catch (const Failure& failure) {
    return failure;
  } catch (const tvm::ffi::Error& error) {
    return Failure(error.kind() + ": " + error.message());
  } catch (const std::exception& error) {
    return Failure(error.what());
  } catch (...) {
    return Failure("an exception of an unknown kind");
  }
}

}  // namespace dlas
