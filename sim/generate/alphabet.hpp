// The letters of a small step space: what can be done to a tiny set of objects.
//
//   memfds a, b (two pages each)   tokens 1, 2   subsystems s, t (a page each)
//
// A letter is one step of a scenario with its objects filled in. Letters come in groups, which the user picks; a group
// is a fixed list, so that the order of an enumeration is fixed as well. What a letter must give is not known here: that
// is the reference (reference.hpp).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim::sim::generate {

enum class Action : u8 {
    // group memfd
    write,
    grow,
    empty,
    close_file,
    // group luo
    preserve,
    unpreserve,
    restore,
    prepare,
    freeze,
    cancel,
    finish,
    open_device,
    close_device,
    // group file-event
    file_prepare,
    file_freeze,
    file_cancel,
    file_finish,
    // group kexec
    load,
    exec,
    kexec,
    // group subsystem
    register_subsystem,
    unregister_subsystem,
};
inline constexpr std::size_t action_count = static_cast<std::size_t>(Action::unregister_subsystem) + 1;
/// Of the step: "luo.preserve".
std::string_view step_name(Action action);

/// The callback of a scripted subsystem that fails, if one does; each with its own errno.
enum class Refusal : u8 { none, prepare, freeze };
std::string_view refusal_errno(Refusal refusal);

inline constexpr int no_object = -1;
inline constexpr int file_count = 2, token_count = 2, subsystem_count = 2;
/// Descriptors c and d are the closing steps' own; no letter uses them.
inline constexpr int descriptor_count = 4;
std::string_view file_name(int file);
std::string_view subsystem_name(int subsystem);
/// What users call it: 1 or 2.
int token_number(int token);

struct Letter {
    Action action{};
    int file = no_object, token = no_object, subsystem = no_object;
    Refusal refusal = Refusal::none;

    /// As in a scenario file: "luo.preserve: {fd: a, token: 1}"; steps without a value without their colon.
    std::string text() const;
    /// For names of files: "preserve-a-1".
    std::string slug() const;
    bool operator==(const Letter&) const = default;
};

struct Group {
    std::string_view name, description;
    std::vector<Letter> letters;
};
std::span<const Group> groups();
/// Null: there is none of that name.
const Group* group_by_name(std::string_view name);

/// The size and content that memfds begin with, and what the letters write.
inline constexpr u64 file_pages = 2, grown_pages = 3;
inline constexpr u32 zero_pattern = 0;
/// Of the pattern that file `file` begins with, and of the one that `write` puts on its second page.
u32 first_pattern(int file);
u32 written_pattern(int file);

}  // namespace kexec_sim::sim::generate
