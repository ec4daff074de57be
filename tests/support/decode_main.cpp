// kho-decode RAMFILE BOOTPARAMS.json [bitmap_bytes]
//
// Prints what one kernel left for the next, one fact a line, from nothing but the RAM file and the boot parameters.
//
// The RAM file is raw: the byte at offset n is the byte at physical address n, holes are zeros, its end is the end of
// RAM. Of the boot parameters only one object matters, at whatever depth it stands:
//
//     "setup_data": {"type": 10, "fdt_addr": "0x...", "fdt_size": "0x...", "scratch_addr": "0x...", "scratch_size":
//     "0x..."}
//
// Exit: 0 decoded, or no handover was passed; 1 decoded with problems; 2 the command or a file is wrong.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "tests/support/decoder.hpp"

namespace {

// The few things of JSON that are needed: find a key, then the flat object behind it.
class JsonScan {
public:
    explicit JsonScan(std::string text) : text_(std::move(text)) {}

    // The text between the braces of the object with this key; nullopt: no such key, or its value is null.
    std::optional<std::string> object(std::string_view key) const {
        std::size_t at = value_of(key);
        if (at == std::string::npos || text_.compare(at, 4, "null") == 0) return std::nullopt;
        if (text_[at] != '{') throw std::runtime_error("\"" + std::string(key) + "\" is no object");
        const std::size_t end = text_.find('}', at);
        if (end == std::string::npos) throw std::runtime_error("object without end");
        return text_.substr(at + 1, end - at - 1);
    }

    // A number, bare or as a string, decimal or with 0x.
    std::uint64_t number(std::string_view key) const {
        const std::size_t at = value_of(key);
        if (at == std::string::npos) throw std::runtime_error("no \"" + std::string(key) + "\" in setup_data");
        const std::size_t first = at + (text_[at] == '"' ? 1 : 0);
        const std::size_t last = std::min(text_.find_first_of("\", \t\n\r}", first), text_.size());
        std::string_view digits = std::string_view(text_).substr(first, last - first);
        const bool is_hex = digits.starts_with("0x");
        if (is_hex) digits.remove_prefix(2);
        std::uint64_t value = 0;
        const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value, is_hex ? 16 : 10);
        if (digits.empty() || parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size())
            throw std::runtime_error("\"" + std::string(key) + "\" is no number");
        return value;
    }

private:
    // Where the value of the first such key starts.
    std::size_t value_of(std::string_view key) const {
        const std::string quoted = "\"" + std::string(key) + "\"";
        for (std::size_t at = text_.find(quoted); at != std::string::npos; at = text_.find(quoted, at + 1)) {
            const std::size_t colon = text_.find_first_not_of(" \t\r\n", at + quoted.size());
            if (colon == std::string::npos || text_[colon] != ':') continue;  // a value that reads like the key
            return text_.find_first_not_of(" \t\r\n", colon + 1);
        }
        return std::string::npos;
    }

    std::string text_;
};

class RamFile {
public:
    explicit RamFile(const char* path) : fd_(open(path, O_RDONLY | O_CLOEXEC)) {
        struct stat about {};
        if (fd_ < 0 || fstat(fd_, &about) != 0) throw std::runtime_error(std::string(path) + ": cannot be read");
        bytes_ = static_cast<std::uint64_t>(about.st_size);
    }
    ~RamFile() { close(fd_); }
    RamFile(const RamFile&) = delete;
    RamFile& operator=(const RamFile&) = delete;

    bool read(std::uint64_t phys, void* out, std::size_t bytes) const {
        if (phys > bytes_ || bytes > bytes_ - phys) return false;
        auto* to = static_cast<char*>(out);
        while (bytes != 0) {
            const ssize_t got = pread(fd_, to, bytes, static_cast<off_t>(phys));
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return false;
            to += got;
            phys += static_cast<std::uint64_t>(got);
            bytes -= static_cast<std::size_t>(got);
        }
        return true;
    }

private:
    int fd_;
    std::uint64_t bytes_ = 0;
};

int run(const char* ram_path, const char* params_path, std::uint32_t bitmap_bytes) {
    std::ifstream file(params_path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string(params_path) + ": cannot be read");
    const JsonScan boot_params(std::string(std::istreambuf_iterator<char>(file), {}));
    const RamFile ram(ram_path);
    const auto setup_data = boot_params.object("setup_data");
    if (!setup_data) {
        std::puts("handover none");
        return 0;
    }
    const JsonScan fields("{" + *setup_data + "}");
    if (fields.number("type") != 10) throw std::runtime_error("setup_data is not of type 10");
    const decoder::HandoverParams params{.fdt_addr = fields.number("fdt_addr"),
                                         .fdt_size = fields.number("fdt_size"),
                                         .scratch_addr = fields.number("scratch_addr"),
                                         .scratch_size = fields.number("scratch_size")};
    const auto result = decoder::decode(
        [&ram](std::uint64_t phys, void* out, std::size_t bytes) { return ram.read(phys, out, bytes); }, params,
        {.bitmap_bytes = bitmap_bytes, .limits = {}});
    std::fputs(decoder::to_text(result).c_str(), stdout);
    return result.problems.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view bitmap = argc == 4 ? argv[3] : "512";
    if (argc < 3 || argc > 4 || (bitmap != "512" && bitmap != "4096")) {
        std::fputs("usage: kho-decode RAMFILE BOOTPARAMS.json [512|4096]\n", stderr);
        return 2;
    }
    try {
        return run(argv[1], argv[2], bitmap == "512" ? 512 : 4096);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "kho-decode: %s\n", error.what());
        return 2;
    }
}
