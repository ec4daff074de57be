#include "sim/host_file.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <unistd.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse(const fs::path& path, std::string_view why) {
    throw UserError(fmt::format("kexec-sim: error: {}: {}", path.string(), why));
}

}  // namespace

std::string read_host_file(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) refuse(path, "no such file");
    if (error) refuse(path, error.message());
    if (fs::is_directory(status)) refuse(path, "this is a folder");
    std::ifstream in(path, std::ios::binary);
    if (!in) refuse(path, "cannot be opened");
    std::string text(std::istreambuf_iterator<char>(in), {});
    if (in.bad()) refuse(path, "cannot be read");
    return text;
}

void require_regular_file(const fs::path& path, std::string_view what) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) refuse(path, fmt::format("{} does not exist", what));
    if (error) refuse(path, error.message());
    if (!fs::is_regular_file(status)) refuse(path, fmt::format("{} is no regular file", what));
    if (access(path.c_str(), R_OK) != 0)
        refuse(path, fmt::format("{} cannot be read: {}", what, std::strerror(errno)));
}

std::string module_problem(const fs::path& path) {
    constexpr std::string_view magic =
        "\x7f"
        "ELF";
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) return "no such file";
    if (!fs::is_regular_file(status)) return "no regular file";
    std::string head(magic.size(), '\0');
    std::ifstream in(path, std::ios::binary);
    if (!in) return "cannot be opened";
    in.read(head.data(), static_cast<std::streamsize>(head.size()));
    return head == magic ? "" : "no shared object";
}

bool same_file(const fs::path& left, const fs::path& right) {
    std::error_code error;
    if (fs::equivalent(left, right, error) && !error) return true;
    const fs::path one = fs::weakly_canonical(fs::absolute(left, error), error),
                   other = fs::weakly_canonical(fs::absolute(right, error), error);
    return !one.empty() && one == other;
}

}  // namespace kexec_sim::sim
