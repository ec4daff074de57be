// The letters of a small step space: what can be done to a tiny set of objects.
//
//   memfds a, b (two pages each)   tokens 1, 2   subsystems s, t (a page each)   folios x, y (a page each)
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
    append,
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
    // group kho, of kernels without LUO
    kho_preserve,
    kho_unpreserve,
    kho_restore,
    kho_finalize,
    kho_abort,
};
inline constexpr std::size_t action_count = static_cast<std::size_t>(Action::kho_abort) + 1;
/// Of the step: "luo.preserve".
std::string_view step_name(Action action);
/// What tells actions of one step apart: " (grow)"; empty where the step says it all.
std::string_view action_detail(Action action);

/// The callback of a scripted subsystem that fails, if one does; each with its own errno.
enum class Refusal : u8 { none, prepare, freeze };
std::string_view refusal_errno(Refusal refusal);

inline constexpr int no_object = -1;
inline constexpr int file_count = 2, token_count = 2, subsystem_count = 2, folio_count = 2;
/// Descriptors c and d are the closing steps' own; no letter uses them.
inline constexpr int descriptor_count = 4;
std::string_view file_name(int file);
std::string_view subsystem_name(int subsystem);
std::string_view folio_name(int folio);
/// What users call it: 1 or 2.
int token_number(int token);

struct Letter {
    Action action{};
    int file = no_object, token = no_object, subsystem = no_object, folio = no_object;
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
    bool with_luo = true, without_luo = false;  // the kernels that it is for
};
std::span<const Group> groups();
/// Null: there is none of that name.
const Group* group_by_name(std::string_view name);

/// The size and content that memfds begin with, and what the letters write.
inline constexpr u64 file_pages = 2;
inline constexpr u32 zero_pattern = 0;
/// Of the pattern that file `file` begins with, and of the one that is written to its second and third page.
u32 folio_pattern(int folio);
u32 first_pattern(int file);
u32 written_pattern(int file);

}  // namespace kexec_sim::sim::generate
