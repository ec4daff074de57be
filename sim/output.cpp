#include "sim/output.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::size_t waiting_bytes_max = 64 * KiB;

[[noreturn]] void cannot_write(const std::string& name) {
    throw UserError(fmt::format("kexec-sim: error: cannot write {}: {}", name, std::strerror(errno)));
}

}  // namespace

Output::Output(const std::string& path) {
    if (path == "-") {
        fd_ = STDOUT_FILENO;
        name_ = "standard output";
        emptied_ = true;
        return;
    }
    name_ = path;
    // What is there stays until there is something to put in its place.
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) cannot_write(name_);
    owned_ = true;
}

Output::~Output() {
    try {
        if (!waiting_.empty()) flush();
    } catch (const UserError&) {
        // Whoever wants to hear of it calls flush(); here an error is already on its way.
    }
    if (owned_) close(fd_);
}

void Output::write(std::string_view text) {
    waiting_ += text;
    if (waiting_.size() >= waiting_bytes_max) flush();
}

void Output::flush() {
    if (!emptied_) {
        struct stat info {};
        if (fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) && ftruncate(fd_, 0) != 0) cannot_write(name_);
        emptied_ = true;
    }
    std::string text = std::move(waiting_);
    waiting_.clear();
    std::string_view rest = text;
    while (!rest.empty()) {
        const ssize_t written = ::write(fd_, rest.data(), rest.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) cannot_write(name_);
        rest.remove_prefix(static_cast<std::size_t>(written));
    }
}

bool Output::is_terminal() const { return isatty(fd_) == 1; }

}  // namespace kexec_sim::sim
