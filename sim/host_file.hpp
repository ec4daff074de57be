// Files of the host that the program is pointed at: read whole, or compared with one another.
#pragma once

#include <filesystem>
#include <string>

namespace kexec_sim::sim {

/// The whole file. UserError ("kexec-sim: error: PATH: …") if it is a folder, missing or unreadable.
std::string read_host_file(const std::filesystem::path& path);

/// UserError unless `path` is a regular file that can be read; `what` begins the message ("the image").
void require_regular_file(const std::filesystem::path& path, std::string_view what);

/// Why the file cannot be loaded as a module; empty: it looks like a shared object.
std::string module_problem(const std::filesystem::path& path);

/// Whether both names mean one file, which may not exist yet.
bool same_file(const std::filesystem::path& left, const std::filesystem::path& right);

}  // namespace kexec_sim::sim
