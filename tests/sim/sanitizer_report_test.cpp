// Reports of sanitizers, as they are written by GCC 12 and clang, found in what a process says and read.
#include <catch2/catch.hpp>

#include "sim/workers/sanitizer_report.hpp"

using namespace kexec_sim::sim;

namespace {

const std::string use_after_free =
    "=================================================================\n"
    "==24129==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc 0x55a29f5a12cf bp "
    "0x7ffee4196630 sp 0x7ffee4196628\n"
    "READ of size 4 at 0x602000000010 thread T0\n"
    "    #0 0x55a29f5a12ce in use(int*) sim/use.cpp:5\n"
    "    #1 0x55a29f5a149c in main sim/use.cpp:8\n"
    "\n"
    "0x602000000010 is located 0 bytes inside of 4-byte region [0x602000000010,0x602000000014)\n"
    "freed by thread T0 here:\n"
    "    #0 0x7fcbb30ba3c8 in operator delete(void*, unsigned long) "
    "../../../../src/libsanitizer/asan/asan_new_delete.cpp:164\n"
    "    #1 0x55a29f5a1494 in main sim/use.cpp:8\n"
    "\n"
    "SUMMARY: AddressSanitizer: heap-use-after-free sim/use.cpp:5 in use(int*)\n"
    "Shadow bytes around the buggy address:\n"
    "  0x0c047fff7fb0: 00 00 00 00\n"
    "==24129==ABORTING\n";

const std::string double_free =
    "==24548==ERROR: AddressSanitizer: attempting double-free on 0x602000000010 in thread T0:\n"
    "    #0 0x7effb78ba3c8 in operator delete(void*, unsigned long) "
    "../../../../src/libsanitizer/asan/asan_new_delete.cpp:164\n"
    "    #1 0x5604dbd2b52e in kexec_sim::(anonymous namespace)::drop(std::function<void (int)>&) sim/use.cpp:9\n";

const std::string stripped =
    "==7==ERROR: AddressSanitizer: SEGV on unknown address 0x000000005000 (pc 0x55b28eebb2b7 T0)\n"
    "==7==The signal is caused by a READ memory access.\n"
    "    #0 0x55b28eebb2b7 in use(int*) (/usr/bin/kexec-sim+0x21c0) (BuildId: 0123abcd)\n";

const std::string overflow =
    "sim/use.cpp:10:37: runtime error: signed integer overflow: 2 + 2147483647 cannot be represented in type 'int'\n";

const std::string nameless =
    "sim/use.c:63:27: runtime error: signed integer overflow\n"
    "    #0 0x7fb6cfe712a0  (/usr/lib/use.so+0x12a0)\n"
    "    #1 0x55941000857d in main sim/use.cpp:12\n";

const std::string misaligned =
    "sim/use.cpp:12:3: runtime error: load of misaligned address 0x7ffee4196631 for type 'int', which requires 4 "
    "byte "
    "alignment\n"
    "0x7ffee4196631: note: pointer points here\n"
    " 00 00 00  00 01 02 03\n"
    "              ^ \n"
    "    #0 0x55941000857d in load(int*) sim/use.cpp:12\n";

}  // namespace

TEST_CASE("a report of a sanitizer is told in a line, without addresses", "[sanitizer]") {
    const std::pair<std::string, std::string> cases[] = {
        {use_after_free, "AddressSanitizer: heap-use-after-free in use(int*) sim/use.cpp:5"},
        {double_free,
         "AddressSanitizer: attempting double-free in kexec_sim::(anonymous "
         "namespace)::drop(std::function<void (int)>&) sim/use.cpp:9"},
        {stripped, "AddressSanitizer: SEGV in use(int*)"},
        {overflow,
         "UndefinedBehaviorSanitizer: signed integer overflow: 2 + 2147483647 cannot be represented in type "
         "'int' in sim/use.cpp:10:37"},
        {nameless, "UndefinedBehaviorSanitizer: signed integer overflow in sim/use.c:63:27"},
        {misaligned,
         "UndefinedBehaviorSanitizer: load of misaligned address 0x… for type 'int', which requires 4 byte "
         "alignment in load(int*) sim/use.cpp:12:3"},
    };
    for (const auto& [text, message] : cases) {
        const HeardErrors heard = split_sanitizer_report(text);
        CHECK(heard.report == text);
        CHECK(heard.rest.empty());
        CHECK(read_sanitizer_report(heard.report).message() == message);
    }
}

TEST_CASE("what is written before and after a report is not part of it", "[sanitizer]") {
    for (const std::string& report : {use_after_free, overflow, misaligned}) {
        const HeardErrors heard = split_sanitizer_report("before\nthat\n" + report + "after\nthat");
        CHECK(heard.report == report);
        CHECK(heard.rest == "before\nthat\nafter\nthat");
    }
}

TEST_CASE("what only looks like a report is none", "[sanitizer]") {
    for (const std::string text :
         {"", "nothing", "a line\n", "==1==ERROR: something\n", "AddressSanitizer: heap-use-after-free\n",
          "runtime error: in words\n", "kernel: runtime error: in words\n",
          "=================================================================\n",
          "=================================================================\nno report follows\n",
          "==1==ERROR: my own Sanitizer: report\n"}) {
        const HeardErrors heard = split_sanitizer_report(text);
        CHECK(heard.report.empty());
        CHECK(heard.rest == text);
    }
}

TEST_CASE("a report that was cut short is a report", "[sanitizer]") {
    for (std::size_t bytes = use_after_free.find("heap") + 1; bytes < use_after_free.size(); bytes += 7) {
        const HeardErrors heard = split_sanitizer_report(use_after_free.substr(0, bytes));
        REQUIRE(!heard.report.empty());
        CHECK(heard.rest.empty());
        CHECK(read_sanitizer_report(heard.report).tool == "AddressSanitizer");
    }
}
