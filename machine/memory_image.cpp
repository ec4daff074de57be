#include "machine/memory_image.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>
#include <zstd.h>

#include "machine/result.hpp"

namespace kexec_sim {
namespace {

constexpr std::size_t block_bytes = MiB;

[[noreturn]] void refuse(const std::string& path, std::string_view why) {
    throw UserError(fmt::format("kexec-sim: error: {}: {}", path, why));
}

class InputFile {
public:
    explicit InputFile(const std::string& path) : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
        if (fd_ < 0) refuse(path, std::strerror(errno));
    }
    ~InputFile() { close(fd_); }
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;
    int fd() const { return fd_; }
    u64 bytes() const {
        struct stat info {};
        if (fstat(fd_, &info) != 0) refuse(path_, std::strerror(errno));
        if (!S_ISREG(info.st_mode)) refuse(path_, "a memory image is a regular file");
        return static_cast<u64>(info.st_size);
    }
    /// As many bytes as there are, up to the buffer's size.
    std::size_t read_some(std::span<std::byte> buffer) const {
        const ssize_t count = read(fd_, buffer.data(), buffer.size());
        if (count < 0) refuse(path_, std::strerror(errno));
        return static_cast<std::size_t>(count);
    }

private:
    const std::string& path_;
    int fd_;
};

bool compressed(const std::string& path) { return path.ends_with(".zst"); }

void read_raw(const std::string& path, const std::function<void(u64, std::span<const std::byte>)>& block) {
    const InputFile file(path);
    const off_t bytes = static_cast<off_t>(file.bytes());
    std::vector<std::byte> buffer(block_bytes);
    errno = 0;
    for (off_t at = lseek(file.fd(), 0, SEEK_DATA); at >= 0 && at < bytes; at = lseek(file.fd(), at, SEEK_DATA)) {
        at = static_cast<off_t>(align_down(static_cast<u64>(at), page_bytes));
        const ssize_t count = pread(file.fd(), buffer.data(), buffer.size(), at);
        if (count < 0) refuse(path, std::strerror(errno));
        if (count == 0) break;
        block(static_cast<u64>(at), std::span(buffer).first(static_cast<std::size_t>(count)));
        at += static_cast<off_t>(align_up(static_cast<u64>(count), page_bytes));
    }
    if (errno != ENXIO && errno != 0) refuse(path, std::strerror(errno));
}

void read_compressed(const std::string& path, const std::function<void(u64, std::span<const std::byte>)>& block) {
    const InputFile file(path);
    const std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(), &ZSTD_freeDStream);
    std::vector<std::byte> packed(ZSTD_DStreamInSize()), unpacked(block_bytes);
    ZSTD_outBuffer out{unpacked.data(), unpacked.size(), 0};
    u64 offset = 0;
    std::size_t more = 1;  // what the decoder still wants: 0 between frames
    const auto pass_on = [&] {
        block(offset, std::span<const std::byte>(unpacked).first(out.pos));
        offset += out.pos;
        out.pos = 0;
    };
    while (const std::size_t count = file.read_some(packed)) {
        ZSTD_inBuffer in{packed.data(), count, 0};
        // Once more where the output was full: the decoder may hold bytes back without wanting any.
        for (bool held_back = false; in.pos < in.size || held_back; held_back = out.pos == out.size && more != 0) {
            if (out.pos == out.size) pass_on();
            more = ZSTD_decompressStream(stream.get(), &out, &in);
            if (ZSTD_isError(more)) refuse(path, fmt::format("not zstd, or damaged: {}", ZSTD_getErrorName(more)));
        }
    }
    if (more != 0) refuse(path, "the compressed image is cut short");
    if (out.pos) pass_on();
}

}  // namespace

u64 image_file_bytes(const std::string& path) {
    if (!compressed(path)) return InputFile(path).bytes();
    // The frames say how much they hold; if one does not, all is unpacked to find out.
    const InputFile file(path);
    std::vector<std::byte> packed(file.bytes());
    for (std::size_t have = 0; have < packed.size();) {
        const std::size_t count = file.read_some(std::span(packed).subspan(have));
        if (count == 0) break;
        have += count;
    }
    u64 stated = 0;
    std::span<const std::byte> rest = packed;
    while (!rest.empty()) {
        const unsigned long long content = ZSTD_getFrameContentSize(rest.data(), rest.size());
        const std::size_t frame = ZSTD_findFrameCompressedSize(rest.data(), rest.size());
        if (content == ZSTD_CONTENTSIZE_ERROR) refuse(path, "not zstd");
        if (content == ZSTD_CONTENTSIZE_UNKNOWN || ZSTD_isError(frame)) break;
        stated += content;
        rest = rest.subspan(frame);
    }
    if (rest.empty() && !packed.empty()) return stated;
    u64 bytes = 0;
    read_compressed(path, [&](u64 offset, std::span<const std::byte> block) { bytes = offset + block.size(); });
    return bytes;
}

void read_image(const std::string& path, const std::function<void(u64 offset, std::span<const std::byte>)>& block) {
    if (compressed(path))
        read_compressed(path, block);
    else
        read_raw(path, block);
}

}  // namespace kexec_sim
