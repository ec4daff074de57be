#include <catch2/catch.hpp>

#include <array>
#include <cstring>

#include "sim/values.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

TEST_CASE("a size is a number with a binary unit, or nothing") {
    const std::pair<std::string_view, u64> good[] = {{"0", 0},
                                                     {"4096", 4096},
                                                     {"4K", 4096},
                                                     {"4KiB", 4096},
                                                     {"2MiB", 2 * MiB},
                                                     {"1G", GiB},
                                                     {"1TiB", TiB},
                                                     {"0x1000", 4096},
                                                     {"1_000", 1000},
                                                     {"0x10K", 16 * KiB},
                                                     {"18446744073709551615", ~u64{0}}};
    for (const auto& [text, bytes] : good) {
        INFO(text);
        CHECK(parse_size(text) == bytes);
    }
    for (std::string_view text : {"",
                                  "K",
                                  "-1",
                                  "+1",
                                  "1.5M",
                                  "4 K",
                                  "4k",
                                  "4KB",
                                  "4MB",
                                  "4MiBs",
                                  "0x",
                                  "_1",
                                  "1_",
                                  "1__0",
                                  "18446744073709551616",
                                  "16777216T",
                                  "0xfffffffffffffffff",
                                  " 1",
                                  "1 ",
                                  "twelve"}) {
        INFO(text);
        CHECK_FALSE(parse_size(text));
    }
}

TEST_CASE("a duration needs a unit and is counted in nanoseconds") {
    CHECK(parse_duration("500ns") == 500);
    CHECK(parse_duration("10us") == 10'000);
    CHECK(parse_duration("3ms") == 3'000'000);
    CHECK(parse_duration("2s") == 2'000'000'000);
    for (std::string_view text : {"", "10", "s", "10 ms", "1.5s", "-1s", "3m", "10h", "18446744074s"}) {
        INFO(text);
        CHECK_FALSE(parse_duration(text));
    }
}

TEST_CASE("a u64 is hex or decimal with underscores between digits") {
    CHECK(parse_u64("0xFEED_F00D_CAFE_BEE0") == 0xFEEDF00DCAFEBEE0);
    CHECK(parse_u64("0xffffffffffffffff") == ~u64{0});
    CHECK(parse_u64("0010") == 10);
    for (std::string_view text : {"", "0x", "0x_1", "12a", "1K", "0b1", "0xg", "--1"}) {
        INFO(text);
        CHECK_FALSE(parse_u64(text));
    }
}

TEST_CASE("hex bytes come in pairs") {
    CHECK(parse_hex_bytes("00 10a5 FF") == std::string("\x00\x10\xa5\xff", 4));
    CHECK(parse_hex_bytes("") == std::string());
    CHECK_FALSE(parse_hex_bytes("0"));
    CHECK_FALSE(parse_hex_bytes("0 0"));
    CHECK_FALSE(parse_hex_bytes("0x10"));
    CHECK_FALSE(parse_hex_bytes("zz"));
}

TEST_CASE("fills are zero, byte(N) and pattern(SEED)") {
    CHECK(parse_fill("zero") == Fill{});
    CHECK(parse_fill("byte(0xa5)") == Fill{Fill::Kind::byte, 0xa5, {}});
    CHECK(parse_fill("pattern(7)") == Fill{Fill::Kind::pattern, 7, {}});
    for (std::string_view text : {"", "Zero", "byte", "byte()", "byte(256)", "byte(0xa5", "pattern(4294967296)",
                                  "pattern(-1)", "pattern 7", "random(1)", "byte(1))"}) {
        INFO(text);
        CHECK_FALSE(parse_fill(text));
    }
    for (std::string_view text : {"zero", "byte(0xa5)", "pattern(7)"}) CHECK(parse_fill(text)->describe() == text);
}

TEST_CASE("a pattern belongs to the object: any cut of it is the same bytes") {
    // Word i of the object is (7 << 32) | i; the object is cut at every offset and length around two words.
    const Fill fill = *parse_fill("pattern(7)");
    std::array<u64, 4> words{};
    for (u64 i = 0; i < words.size(); ++i) words[i] = u64{7} << 32 | i;
    std::array<u8, sizeof words> whole{};
    std::memcpy(whole.data(), words.data(), sizeof words);
    for (std::size_t begin = 0; begin <= whole.size(); ++begin) {
        for (std::size_t end = begin; end <= whole.size(); ++end) {
            std::array<std::byte, sizeof words> part{};
            fill.write(begin, std::span(part).first(end - begin));
            REQUIRE(std::memcmp(part.data(), whole.data() + begin, end - begin) == 0);
        }
        if (begin < whole.size()) CHECK(fill.byte_at(begin) == whole[begin]);
    }
}

TEST_CASE("the nearest name is suggested within two edits and never a far one") {
    const std::string_view names[] = {"memfd.create", "memfd.close", "luo.prepare", "size", "fd"};
    CHECK(nearest_name("memfd.creat", names) == "memfd.create");
    CHECK(nearest_name("memfd.craete", names) == "memfd.create");
    CHECK(nearest_name("luo.prepaer", names) == "luo.prepare");
    CHECK(nearest_name("szie", names) == "size");
    CHECK(nearest_name("nic.start", names).empty());
    CHECK(nearest_name("as", names).empty());
    CHECK(nearest_name("", names).empty());
    CHECK(did_you_mean("siz", names) == "; did you mean 'size'?");
    CHECK(edit_distance("kitten", "sitting", 10) == 3);
    CHECK(edit_distance("abcd", "abdc", 10) == 1);
}

TEST_CASE("a parameter is replaced wherever it stands and a literal one is escaped") {
    const Substitution values[] = {{"size", "8MiB"}, {"x", "${size}"}};
    CHECK(substitute("${size}", values).text == "8MiB");
    CHECK(substitute("a ${size}${size} b", values).text == "a 8MiB8MiB b");
    CHECK(substitute("${x}", values).text == "${size}");  // what was put in is not looked at again
    CHECK(substitute("$${size} costs $5", values).text == "${size} costs $5");
    CHECK(substitute("plain", values).text == "plain");
    CHECK(substitute("${siez}", values).error == "no parameter is called 'siez'; did you mean 'size'?");
    for (std::string_view text : {"${", "${}", "${size", "${si ze}"}) {
        INFO(text);
        CHECK_FALSE(substitute(text, values).error.empty());
    }
}
