// Random sets of files, handed over by the orchestrator and read by the independent decoder from RAM.
//
// Each run makes some memfds of random size, position, content and token, prepares, and stops at the jump. The decoder
// follows the trees down to the folios; every page of every file must hold what was written there, and holes zeros.
#include <catch2/catch.hpp>

#include <cstring>
#include <fmt/format.h>
#include <map>
#include <random>

#include "tests/system/handover.hpp"

using namespace system_test;

namespace {

constexpr u64 page = decoder::page_bytes;
constexpr unsigned runs = 40;

struct File {
    u64 size = 0, pos = 0, seed = 0;
    u64 written_begin = 0, written_end = 0;  // what lies outside is a hole, or zeros
};

/// By token.
using Files = std::map<u64, File>;

Files random_files(std::mt19937_64& random) {
    const auto below = [&](u64 end) { return random() % end; };
    Files files;
    for (u64 count = 1 + below(12); files.size() < count;) {
        File file;
        file.size = 1 + below(below(4) ? 64 * page : 512 * page);
        file.pos = below(2) ? 0 : below(file.size);
        file.seed = 1 + below(1000);
        file.written_begin = below(file.size);
        file.written_end = file.written_begin + 1 + below(file.size - file.written_begin);
        files.emplace(below(2) ? below(100) : random(), file);
    }
    return files;
}

Scenario scenario_of(const Files& files) {
    std::string text =
        "format: 1\nscenario: random-files\nmachine: {memory: 256MiB}\n"
        "kernels: [{profile: luo-v3, cmdline: \"kho=on liveupdate=on\"}]\nsteps:\n";
    for (const auto& [token, file] : files) {
        text += fmt::format("  - memfd.create: {{name: f{:x}, size: {}}}\n", token, file.size);
        text += fmt::format("  - memfd.write: {{fd: f{:x}, offset: {}, length: {}, fill: pattern({})}}\n", token,
                            file.written_begin, file.written_end - file.written_begin, file.seed);
        text += fmt::format("  - memfd.seek: {{fd: f{:x}, to: {}}}\n", token, file.pos);
        text += fmt::format("  - luo.preserve: {{fd: f{:x}, token: {:#x}}}\n", token, token);
    }
    return kexec_sim::sim::parse_scenario(text + "  - luo.prepare:\n  - kexec:\n", "random-files.yaml");
}

/// Page `index` of the file: word number i of the object is seed << 32 | i where it was written.
std::vector<unsigned char> expected_page(const File& file, u64 index) {
    std::vector<unsigned char> bytes(page);
    for (u64 at = 0; at < page; ++at) {
        const u64 offset = index * page + at;
        if (offset < file.written_begin || offset >= file.written_end) continue;
        bytes[at] = static_cast<unsigned char>((file.seed << 32 | offset / 8) >> (offset % 8 * 8));
    }
    return bytes;
}

void check_file(StoppedRun& stopped, const File& file, const decoder::PreservedFile& found) {
    CHECK(found.compatible == "memfd-v1");
    REQUIRE(found.memfd);
    CHECK(found.memfd->size == file.size);
    CHECK(found.memfd->pos == file.pos);
    REQUIRE(found.memfd->folios.size() == (file.size + page - 1) / page);
    u64 index = 0;
    for (const auto& folio : found.memfd->folios) {
        REQUIRE(folio.index == index);
        std::vector<unsigned char> bytes(page);
        REQUIRE(stopped.ram().read(folio.pfn * page, bytes.data(), page));
        REQUIRE(bytes == expected_page(file, index));
        ++index;
    }
}

}  // namespace

TEST_CASE("random files are handed over page by page as they were written", "[random_files]") {
    std::mt19937_64 random(11);
    for (unsigned round = 0; round < runs; ++round) {
        INFO("round " << round);
        const Files files = random_files(random);
        StoppedRun stopped(scenario_of(files), 1);
        const auto decoded = stopped.decode();
        CHECK(decoded.problems.empty());
        CHECK(decoded.findings.empty());
        REQUIRE(decoded.luo);
        REQUIRE(decoded.luo->files.size() == files.size());
        for (const auto& found : decoded.luo->files) {
            INFO("token " << found.token);
            REQUIRE(files.contains(found.token));
            check_file(stopped, files.at(found.token), found);
            for (const auto& folio : found.memfd->folios) REQUIRE(decoder::preserves(decoded, {folio.pfn, 0}));
        }
    }
}
