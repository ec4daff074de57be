#include "sim/workers/error_capture.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {

ErrorCapture::ErrorCapture() : fd_(memfd_create("kexec-sim-errors", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    // It is as long as it may get, and empty where nobody wrote: a write behind its end is refused.
    if (fd_ < 0 || ftruncate(fd_, bytes_max) != 0 || fcntl(fd_, F_ADD_SEALS, F_SEAL_GROW) != 0) {
        const int why = errno;
        if (fd_ >= 0) close(fd_);
        throw UserError(fmt::format("kexec-sim: error: no file for what a worker says: {}", std::strerror(why)));
    }
}

ErrorCapture::~ErrorCapture() {
    close(fd_);
    if (original_ >= 0) close(original_);
}

void ErrorCapture::begin() {
    original_ = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    dup2(fd_, STDERR_FILENO);
}

std::string ErrorCapture::take() {
    // The position in the file is one for all processes that it was handed to.
    const off_t end = lseek(fd_, 0, SEEK_CUR);
    std::string text(static_cast<std::size_t>(std::max<off_t>(end, 0)), '\0');
    std::size_t got = 0;
    while (got < text.size()) {
        const ssize_t bytes = pread(fd_, text.data() + got, text.size() - got, static_cast<off_t>(got));
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes <= 0) break;
        got += static_cast<std::size_t>(bytes);
    }
    text.resize(got);
    lseek(fd_, 0, SEEK_SET);
    return text;
}

void ErrorCapture::pass_on(std::string_view text) const {
    const int to = original_ >= 0 ? original_ : STDERR_FILENO;
    while (!text.empty()) {
        const ssize_t done = write(to, text.data(), text.size());
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return;  // nobody can be told
        text.remove_prefix(static_cast<std::size_t>(done));
    }
}

}  // namespace kexec_sim::sim
