// The bench's own copy of a file, against the plainest one: a vector of bytes.
#include <catch2/catch.hpp>

#include <random>
#include <vector>

#include "sim/file_copy.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

std::vector<std::byte> content_of(const FileCopy& copy) {
    std::vector<std::byte> bytes(copy.size());
    copy.bytes(0, bytes);
    return bytes;
}

}  // namespace

TEST_CASE("a file's copy agrees with a plain one after any sequence of calls") {
    std::mt19937 random(1);
    const auto below = [&](u64 limit) { return random() % limit; };
    for (unsigned round = 0; round < 200; ++round) {
        FileCopy copy;
        std::vector<std::byte> plain;
        for (unsigned call = 0; call < 20; ++call) {
            const u64 offset = below(3000), length = below(2000);
            switch (below(4)) {
            case 0:
            case 1: {
                const Content content{
                    below(2) ? Fill{Fill::Kind::pattern, below(100), {}} : Fill{Fill::Kind::byte, below(256), {}},
                    offset, length};
                const u64 moved = length - below(2) * (length / 3);  // a short write now and then
                copy.written(content, moved);
                if (moved && plain.size() < offset + moved) plain.resize(offset + moved);
                content.bytes(0, std::span(plain).subspan(moved ? offset : 0, moved));
                break;
            }
            case 2:
                copy.resized(offset);
                plain.resize(offset);
                break;
            case 3:
                copy.punched(offset, length);
                for (u64 at = offset; at < std::min<u64>(plain.size(), offset + length); ++at)
                    plain[at] = std::byte{0};
                break;
            }
            REQUIRE(content_of(copy) == plain);
        }
        // Any part of it, and zeros behind the end.
        std::vector<std::byte> part(500);
        const u64 at = below(4000);
        copy.bytes(at, part);
        for (u64 i = 0; i < part.size(); ++i)
            REQUIRE(part[i] == (at + i < plain.size() ? plain[at + i] : std::byte{0}));
    }
}

TEST_CASE("a text is written from its own first byte, wherever it goes") {
    FileCopy copy;
    copy.written({Fill{Fill::Kind::text, 0, "update"}, 100, 6}, 6);
    std::vector<std::byte> bytes(4);
    copy.bytes(102, bytes);
    CHECK(std::string(reinterpret_cast<const char*>(bytes.data()), 4) == "date");
}
