// The command line and its values, against what kernel/params.c and lib/cmdline.c do.
#include <catch2/catch.hpp>

#include "kernel-model/kernel.hpp"

using namespace kexec_sim;

namespace {

std::string joined(std::string_view cmdline) {
    std::string text;
    for (const CmdlineWord& word : parse_cmdline(cmdline)) text += "[" + word.key + "|" + word.value + "]";
    return text;
}

}  // namespace

TEST_CASE("a command line falls into keys and values") {
    CHECK(joined("") == "");
    CHECK(joined("   ") == "");
    CHECK(joined("kho=on liveupdate=on") == "[kho|on][liveupdate|on]");
    CHECK(joined("\t kho=on \n quiet ") == "[kho|on][quiet|]");
    CHECK(joined("kho=") == "[kho|]");
    CHECK(joined("a=b=c") == "[a|b=c]");
    CHECK(joined("kho-scratch=16M,512M,16M") == "[kho_scratch|16M,512M,16M]");
    CHECK(joined("reserve_mem=12M:4096:oops reserve_mem=4M:4096:trace") ==
          "[reserve_mem|12M:4096:oops][reserve_mem|4M:4096:trace]");
}

TEST_CASE("quotes protect spaces and are not part of the word") {
    CHECK(joined("note=\"two words\" kho=on") == "[note|two words][kho|on]");
    CHECK(joined("\"note=two words\" kho=on") == "[note|two words][kho|on]");
    CHECK(joined("note=\"never closed kho=on") == "[note|never closed kho=on]");
    CHECK(joined("\"\"") == "[|]");
    CHECK(joined("\"") == "[|]");
}

TEST_CASE("what follows two dashes is not for the kernel") {
    CHECK(joined("kho=on -- kho=off") == "[kho|on]");
    CHECK(joined("--kho") == "[__kho|]");
    CHECK(joined("=on x") == "[=on|][x|]");
}

TEST_CASE("a boolean is decided by its first letters") {
    for (const char* text : {"1", "y", "Y", "yes", "t", "true", "on", "ON", "On", "1x"})
        CHECK(parse_bool_param(text) == true);
    for (const char* text : {"0", "n", "N", "no", "f", "false", "off", "OFF", "oF"})
        CHECK(parse_bool_param(text) == false);
    for (const char* text : {"", "o", "ox", "2", "-1", "maybe", " 1"}) {
        INFO(text);
        REQUIRE_FALSE(parse_bool_param(text).has_value());
        CHECK(parse_bool_param(text).error() == Errno::einval);
    }
}

TEST_CASE("a size has a base, digits and a suffix") {
    CHECK(parse_size_param("0").value() == 0);
    CHECK(parse_size_param("4096").value() == 4096);
    CHECK(parse_size_param("16M").value() == 16 * MiB);
    CHECK(parse_size_param("16m").value() == 16 * MiB);
    CHECK(parse_size_param("4K").value() == 4 * KiB);
    CHECK(parse_size_param("1G").value() == GiB);
    CHECK(parse_size_param("2T").value() == 2 * TiB);
    CHECK(parse_size_param("0x10K").value() == 16 * KiB);
    CHECK(parse_size_param("010").value() == 8);
    for (const char* text : {"", "M", "x", "-1", "16MiB", "16M ", "12,3"}) {
        INFO(text);
        CHECK_FALSE(parse_size_param(text).has_value());
    }
}

TEST_CASE("what follows a size is left to the caller") {
    std::string_view rest;
    CHECK(parse_size_param("12M:4096:oops", &rest).value() == 12 * MiB);
    CHECK(rest == ":4096:oops");
    CHECK(parse_size_param("16MiB", &rest).value() == 16 * MiB);
    CHECK(rest == "iB");
    CHECK(parse_size_param("0xg", &rest).value() == 0);
    CHECK(rest == "xg");
    CHECK_FALSE(parse_size_param(":1", &rest).has_value());
}
