#include "machine/pci/address.hpp"

#include <fmt/format.h>

namespace kexec_sim {

std::string PciAddress::text() const {
    return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", segment, bdf.bus(), bdf.device(), bdf.function());
}

}  // namespace kexec_sim
