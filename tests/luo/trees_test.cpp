// What LUO hands over, byte for byte, and what it makes of trees that somebody damaged.
#include "luo_fixture.hpp"

#include "luo/abi/trees.hpp"
#include "tests/golden/worked_examples.hpp"

namespace kexec_sim::luo {
namespace {

std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    for (std::size_t at = 0; at < bytes.size(); ++at)
        text += fmt::format("{}{:02x}", at % 16 ? " " : "\n", static_cast<unsigned>(bytes[at]));
    return text;
}
template <std::size_t count> std::string hex(const std::array<std::uint8_t, count>& bytes) {
    return hex(std::as_bytes(std::span(bytes)));
}

/// The blob of sub-tree LUO in the running kernel.
PhysAddr outgoing(LuoWorld& world) { return world.luo().tree().page(); }

}  // namespace

TEST_CASE("the LUO tree is the worked example, byte for byte") {
    LuoWorld world;
    Subsystem files{.name = "file-descriptors"}, probe{.name = "ksft_luo.0"};
    files.private_data() = 0x1061'6000;
    probe.private_data() = 0x1234'5000;
    Subsystem* const list[] = {&files, &probe};
    Tree tree(world.kernel(), world.kho(), world.luo().edition());
    REQUIRE(tree.build(list));
    REQUIRE(tree.commit(list));
    CHECK(hex(world.ram().read_vector(tree.page(), page_bytes)) == hex(worked_examples::luo_tree));
    tree.destroy();
    CHECK(world.kho().preserved_folios() == 0);
}

TEST_CASE("the tree of file descriptors is the worked example, byte for byte") {
    LuoWorld world;
    FileTree tree(world.kernel(), world.kho());
    std::string log;
    REQUIRE(tree.build({{0, "memfd-v1"}, {42, "memfd-v1"}}, log));
    REQUIRE(tree.write_data(0, 0x1062'0000) == 0);
    REQUIRE(tree.write_data(42, 0x1064'0000) == 0);
    CHECK(hex(world.ram().read_vector(tree.phys(), 252)) == hex(worked_examples::file_tree));
    CHECK(tree.write_data(43, 1) < 0);
    tree.remove_node(0);
    FileTree seen(world.kernel(), world.kho());
    REQUIRE(seen.adopt(tree.phys()) == 0);
    REQUIRE(seen.nodes().size() == 1);
    CHECK(seen.nodes()[0].name == "0x2a");
    CHECK(seen.nodes()[0].compatible == "memfd-v1");
    CHECK(seen.nodes()[0].data == 0x1064'0000);
    tree.destroy();
}

TEST_CASE("a memfd's tree is the worked example, but for where its pages lie") {
    LuoWorld world;
    const i32 fd = world.memfd(2 * page_bytes);
    world.shmem(fd)->pos = 4096;
    u64 data = 0;
    REQUIRE(world.running->memfd.prepare(*world.shmem(fd), data));
    auto wanted = worked_examples::memfd_tree;
    // The folio array: two elements of 16 bytes at offset 0x74. Pages are always dirty and up to date.
    for (const FileExtent& extent : world.shmem(fd)->extents())
        for (u64 page = 0; page < extent.pages; ++page) {
            const u64 folio[2] = {(extent.pfn + page).raw << 12 | 3, extent.index + page};
            std::memcpy(wanted.data() + 0x74 + 16 * folio[1], folio, sizeof folio);
        }
    CHECK(hex(world.ram().read_vector(PhysAddr{data}, wanted.size())) == hex(wanted));
    world.running->memfd.cancel(*world.shmem(fd), data);
}

TEST_CASE("a token's name is lower-case hex with 0x and comes back as the token") {
    const std::pair<u64, const char*> cases[] = {{0, "0x0"}, {42, "0x2a"}, {~u64{0}, "0xffffffffffffffff"}};
    for (const auto& [token, name] : cases) {
        CHECK(token_name(token) == name);
        CHECK(parse_token(name) == token);
    }
    CHECK(parse_token("10") == 10);
    CHECK(parse_token("010") == 8);
    CHECK(parse_token("0") == 0);
    for (const char* bad : {"", "0x", "x", "0x1g", "-1", "0x1 ", " 1", "0x10000000000000000", "08"}) {
        INFO(bad);
        CHECK_FALSE(parse_token(bad));
    }
}

TEST_CASE("the block of the file tree grows with the number of files") {
    const std::pair<u64, u64> cases[] = {{0, 4096}, {24, 4096}, {25, 8192}, {56, 8192}, {57, 16384}};
    for (const auto& [files, bytes] : cases) {
        LuoWorld world;
        for (u64 token = 0; token < files; ++token)
            REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), token));
        const u64 before = world.kho().preserved_bytes();
        REQUIRE(world.prepare() == Errno::ok);
        // For every file its page and a tree of two; the LUO page; KHO's root page; the file tree.
        CHECK(world.kho().preserved_bytes() - before == files * 3 * page_bytes + 2 * page_bytes + bytes);
    }
}

TEST_CASE("105 subsystems with names of 16 characters fit beside the files, one more does not") {
    LuoWorld world;
    std::vector<std::unique_ptr<Probe>> probes;
    for (unsigned i = 0; i < 106; ++i) {
        probes.push_back(std::make_unique<Probe>(fmt::format("subsystem-nr-{:03}", i)));
        REQUIRE(world.luo().register_subsystem(&probes.back()->subsystem));
        if (i == 104) {
            REQUIRE(world.prepare() == Errno::ok);
            REQUIRE(world.cancel() == Errno::ok);
        }
    }
    CHECK(world.prepare() == Errno::enospc);
    CHECK(world.logged("luo: Failed to setup 'subsystems' node to FDT: FDT_ERR_NOSPACE"));
    CHECK(world.logged("luo: failed to prepare LUO FDT: -28"));
    CHECK(probes[0]->own_calls == Calls{"subsystem-nr-000.prepare", "subsystem-nr-000.cancel"});
}

// --- trees that came with damage
// -------------------------------------------------------------------------------------------

TEST_CASE("a kernel that is handed no proper LUO tree panics at boot with the words of the series") {
    struct Case {
        const char* fault;
        const char* text;
    };
    const Case cases[] = {
        {"handover.luo[LUO]#1=replace(luo-v1,luo-v2)", "FDT 'LUO' is incompatible with 'luo-v1' [1]"},
        {"handover.luo[LUO]#1=zero(0,4096)", "FDT 'LUO' is incompatible with 'luo-v1' [-9]"},
        {"handover.luo[LUO]#1=replace(subsystems-v1,subsystems-v2)",
         "FDT 'subsystems' is incompatible with 'subsystems-v1' [1]"},
        {"handover.luo[file-descriptors]#1=replace(file-descriptors-v1,file-descriptors-v9)",
         "FDT 'file-descriptors' is incompatible with 'file-descriptors-v1' [1]"},
    };
    for (const Case& entry : cases) {
        INFO(entry.fault);
        REQUIRE(parse_fault(entry.fault).has_value());
        LuoWorld world({.faults = entry.fault});
        REQUIRE(world.prepare() == Errno::ok);
        CHECK_THROWS_WITH(world.kexec(), entry.text);
    }
}

TEST_CASE("a LUO tree without its node of subsystems panics at boot") {
    LuoWorld world;
    REQUIRE(world.prepare() == Errno::ok);
    const PhysAddr page = outgoing(world);
    world.before_jump = [&] {
        // The node's name, behind the string "luo-v1": its first letter.
        auto bytes = world.ram().read_vector(page, page_bytes);
        for (u64 at = 0; at + 12 < bytes.size(); ++at)
            if (std::memcmp(bytes.data() + at, "subsystems\0\0", 12) == 0) world.ram().write(page + at, 'x');
    };
    CHECK_THROWS_WITH(world.kexec(), "Failed to find /subsystems node");
}

TEST_CASE("an incoming tree of files that cannot be understood panics when it is used") {
    struct Case {
        const char* fault;
        const char* text;
    };
    const Case cases[] = {
        {"handover.luo[file-descriptors]#1=replace(memfd-v1,other-v1)",
         "FDT node '0x10': No registered handler for compatible 'other-v1'"},
        {"handover.luo[file-descriptors]#1=replace(0x11,0x10)",
         "Duplicate token 16 found in incoming FDT for file descriptors."},
        {"handover.luo[file-descriptors]#1=replace(0x10,0xyz)", "FDT node '0xyz': name is not a token"},
        {"handover.luo[file-descriptors]#1=replace(data,dada)", "Can't recover property 'data' for FDT node '0x10'"},
    };
    for (const Case& entry : cases) {
        INFO(entry.fault);
        LuoWorld world({.faults = entry.fault});
        REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 0x10));
        REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 0x11));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK_THROWS_WITH(world.luo().request(LuoEvent::finish), entry.text);
    }
}

TEST_CASE("a kernel without the memfd handler panics over an incoming memfd") {
    LuoWorld world;
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 0x10));
    REQUIRE(world.prepare() == Errno::ok);
    world.options.without = {"memfd"};
    REQUIRE(world.kexec() == Errno::ok);
    CHECK_THROWS_WITH(world.luo().files().retrieve(0x10),
                      "FDT node '0x10': No registered handler for compatible 'memfd-v1'");
}

}  // namespace kexec_sim::luo
