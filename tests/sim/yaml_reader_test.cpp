#include <catch2/catch.hpp>

#include <filesystem>

#include "machine/result.hpp"
#include "sim/yaml_reader.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

Node read(std::string_view text) { return read_yaml(SourceFile("s.yaml", text), text); }

/// The first line of the error, or "" where the text is read.
std::string error_of(std::string_view text) {
    try {
        read(text);
    } catch (const UserError& error) {
        const std::string message = error.what();
        return message.substr(0, message.find('\n'));
    }
    return {};
}

}  // namespace

TEST_CASE("a scalar keeps the text that was written, whatever YAML would make of it") {
    const Node root =
        read("a: no\nb: 0x10_0000\nc: \"quoted\"\nd: 1e3\ne: ~\nf:\ng: [1, {h: true}]\ni: |\n  two\n  lines\n");
    CHECK(root.find("a")->text == "no");
    CHECK(root.find("b")->text == "0x10_0000");
    CHECK_FALSE(root.find("b")->quoted);
    CHECK(root.find("c")->text == "quoted");
    CHECK(root.find("c")->quoted);
    CHECK(root.find("d")->text == "1e3");
    CHECK(root.find("e")->is_null());
    CHECK(root.find("f")->is_null());
    CHECK(root.find("g")->items[1].find("h")->text == "true");
    CHECK(root.find("i")->text == "two\nlines\n");
    CHECK(root.find("z") == nullptr);
}

TEST_CASE("every node knows its line and column, counted in characters from 1") {
    const Node root = read("a: 1\nlist:\n  - x: \"é\"\n    y: {ü: 2, b: 3}\n  - z:\n");
    const Node& first = root.find("list")->items[0];
    CHECK(root.entries[0].pos == SourcePos{1, 1});
    CHECK(root.find("a")->pos == SourcePos{1, 4});
    CHECK(first.entries[0].pos == SourcePos{3, 5});
    CHECK(first.find("x")->pos == SourcePos{3, 8});
    const Node& flow = *first.find("y");
    CHECK(flow.pos == SourcePos{4, 8});
    CHECK(flow.entries[0].pos == SourcePos{4, 9});
    CHECK(flow.entries[1].pos == SourcePos{4, 15});
    CHECK(flow.entries[1].value.pos == SourcePos{4, 18});
    // A value that is not there has no place of its own; its key has.
    CHECK(root.find("list")->items[1].find("z")->pos == SourcePos{5, 5});
}

TEST_CASE("what YAML allows and a scenario must not have is refused where it stands") {
    const std::pair<std::string_view, std::string_view> cases[] = {
        {"a: 1\nb: 2\na: 3\n", "s.yaml:3:1: error: 'a' is written twice; the first one is in line 1"},
        {"x: {k: 1, k: 2}\n", "s.yaml:1:11: error: 'k' is written twice; the first one is in line 1"},
        {"a: &x 1\n", "s.yaml:1:4: error: anchors (&name) are not allowed"},
        {"a: &x [1]\n", "s.yaml:1:4: error: anchors (&name) are not allowed"},
        {"a: &x\n", "s.yaml:1:4: error: anchors (&name) are not allowed"},
        {"&x a: 1\n", "s.yaml:1:1: error: anchors (&name) are not allowed"},
        {"a: !!str 1\n", "s.yaml:1:4: error: tags (!name) are not allowed"},
        {"a: ! 1\n", "s.yaml:1:4: error: tags (!name) are not allowed"},
        {"a: ! \"1\"\n", "s.yaml:1:4: error: tags (!name) are not allowed"},
        {"a: !x {b: 1}\n", "s.yaml:1:4: error: tags (!name) are not allowed"},
        {"a: !!seq [1]\n", "s.yaml:1:4: error: tags (!name) are not allowed"},
        {"a:\n  <<: {b: 1}\n", "s.yaml:2:3: error: merge keys (<<) are not allowed"},
        {"{a: 1}: 2\n", "s.yaml:1:1: error: a key must be a name, not a list or a map; is a bracket not closed?"},
        {"? [a]\n: 2\n", "s.yaml:1:3: error: a key must be a name, not a list or a map; is a bracket not closed?"},
        {"~: 2\n", "s.yaml:1:1: error: a key must be a name, not nothing"},
        {"a: 1\n---\nb: 2\n", "s.yaml:2:1: error: a second document; a scenario is one document"},
        {"%YAML 1.2\n---\na: 1\n", "s.yaml:1:1: error: a YAML directive is not allowed in a scenario"},
        {"# c\n\n%TAG ! tag:x,2000:\n---\na: 1\n",
         "s.yaml:3:1: error: a YAML directive is not allowed in a scenario"},
        {"", "s.yaml:1:1: error: the file is empty; a scenario begins with 'format: 1'"},
        {"# only a comment\n", "s.yaml:1:1: error: the file is empty; a scenario begins with 'format: 1'"},
        {"a: \xff\n", "s.yaml:1:4: error: this is not UTF-8 text"},
        {"a: \xc0\xaf\n", "s.yaml:1:4: error: this is not UTF-8 text"},
        {"a: 1\nb: \x01\n", "s.yaml:2:4: error: control character 0x01"},
        {"a: 1\rb: 2\n", "s.yaml:1:5: error: a carriage return inside a line"},
    };
    for (const auto& [text, message] : cases) {
        INFO(text);
        CHECK(error_of(text) == message);
    }
    CHECK(error_of(std::string_view("a: 1\n\0", 6)) == "s.yaml:2:1: error: a NUL byte; a scenario is a text file");
    CHECK(error_of("a: *x\n").starts_with("s.yaml:1:4: error: "));
    CHECK(error_of("a: 1\r\nb: 2\r\n").empty());
}

TEST_CASE("YAML that does not parse is one error with a place") {
    for (std::string_view text : {"a: [1\n", "a: {b: 1\n", "a: b: c\n", "- 1\nb: 2\n", "a: \"x", "a:\n\t- 1\n", "]",
                                  "}", "a: 'x", "@x", "`"}) {
        INFO(text);
        const std::string message = error_of(text);
        CHECK(message.starts_with("s.yaml:"));
        CHECK(message.find(": error: not valid YAML: ") != std::string::npos);
    }
}

TEST_CASE("a quote that nothing closes is refused where it begins") {
    for (std::string_view text :
         {"a: \"x\n", "a: 'x\n", "a: \"x\\\"\n", "a: 'x''\n", "a: \"x\n\nb: 2\n", "a: \"\n"}) {
        INFO(text);
        CHECK(error_of(text) == "s.yaml:1:4: error: this quote is not closed");
    }
    for (std::string_view text :
         {"a: \"x\ny\"\n", "a: 'it''s'\n", "a: \"\\\"\"\n", "a: ''\n", "a: it's\n", "a: |\n  \"x\n"}) {
        INFO(text);
        CHECK(error_of(text).empty());
    }
}

TEST_CASE("nesting is bounded before anything recurses") {
    const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
    CHECK(error_of(nested(yaml_depth_max)).empty());
    CHECK(error_of(nested(yaml_depth_max + 1)) == "s.yaml:1:65: error: nested deeper than 64 levels");
    CHECK(error_of(std::string(100'000, '[')).starts_with("s.yaml:1:"));
    CHECK(error_of(std::string(100'000, '{')).starts_with("s.yaml:1:"));
    CHECK(error_of("a: " + nested(100'000)) == "s.yaml:1:67: error: nested deeper than 64 levels");
    std::string dashes;
    for (int i = 0; i < 20'000; ++i) dashes += "- ";
    CHECK(error_of(dashes).find("nested deeper") != std::string::npos);
}

TEST_CASE("the message shows the line and a caret under the column") {
    try {
        read("first: 1\n  second: &é x\n");
        FAIL("was read");
    } catch (const UserError& error) {
        CHECK(std::string(error.what()).find("\n  ") != std::string::npos);
    }
    const SourceFile file("dir/s.yaml", "a\n\tbé: \"c\"\r\n");
    CHECK(file.message({2, 5}, "text") == "dir/s.yaml:2:5: error: text\n   bé: \"c\"\n      ^");
    CHECK(file.message({9, 1}, "text") == "dir/s.yaml:9:1: error: text");
    CHECK(file.message({}, "text") == "dir/s.yaml: error: text");
}

TEST_CASE("a file that cannot be read is an error of the user") {
    const auto message = [](const std::filesystem::path& path) {
        try {
            read_text_file(path);
        } catch (const UserError& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    CHECK(message("no/such/file.yaml") == "kexec-sim: error: no/such/file.yaml: no such file");
    CHECK(message("/") == "kexec-sim: error: /: this is a folder, not a scenario file");
}
