#include "sim/version.hpp"

namespace kexec_sim::sim {

std::string_view program_version() { return KEXEC_SIM_VERSION; }  // made by CMakeLists.txt

}  // namespace kexec_sim::sim
