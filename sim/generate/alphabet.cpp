#include "sim/generate/alphabet.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace kexec_sim::sim::generate {
namespace {

struct ActionInfo {
    Action action;
    std::string_view step, slug;
};
constexpr ActionInfo action_table[] = {
    {Action::write, "memfd.write", "write"},
    {Action::append, "memfd.write", "append"},
    {Action::empty, "memfd.truncate", "empty"},
    {Action::close_file, "memfd.close", "close"},
    {Action::preserve, "luo.preserve", "preserve"},
    {Action::unpreserve, "luo.unpreserve", "unpreserve"},
    {Action::restore, "luo.restore", "restore"},
    {Action::prepare, "luo.prepare", "prepare"},
    {Action::freeze, "luo.freeze", "freeze"},
    {Action::cancel, "luo.cancel", "cancel"},
    {Action::finish, "luo.finish", "finish"},
    {Action::open_device, "luo.open", "open-device"},
    {Action::close_device, "luo.close", "close-device"},
    {Action::file_prepare, "luo.fd_event", "file-prepare"},
    {Action::file_freeze, "luo.fd_event", "file-freeze"},
    {Action::file_cancel, "luo.fd_event", "file-cancel"},
    {Action::file_finish, "luo.fd_event", "file-finish"},
    {Action::load, "kexec.load", "load"},
    {Action::exec, "kexec.exec", "exec"},
    {Action::kexec, "kexec", "kexec"},
    {Action::register_subsystem, "subsystem.register", "register"},
    {Action::unregister_subsystem, "subsystem.unregister", "unregister"},
    {Action::kho_preserve, "kho.preserve", "preserve"},
    {Action::kho_unpreserve, "kho.unpreserve", "unpreserve"},
    {Action::kho_restore, "kho.restore", "restore"},
    {Action::kho_finalize, "kho.finalize", "finalize"},
    {Action::kho_abort, "kho.abort", "abort"},
};
static_assert(std::size(action_table) == action_count);

const ActionInfo& info(Action action) { return action_table[static_cast<std::size_t>(action)]; }
static_assert(action_table[static_cast<std::size_t>(Action::register_subsystem)].action ==
              Action::register_subsystem);
static_assert(action_table[static_cast<std::size_t>(Action::close_device)].action == Action::close_device);

std::vector<Letter> of_each_file(std::initializer_list<Action> actions) {
    std::vector<Letter> letters;
    for (const Action action : actions)
        for (int file = 0; file < file_count; ++file) letters.push_back({.action = action, .file = file});
    return letters;
}
std::vector<Letter> of_each_token(std::initializer_list<Action> actions) {
    std::vector<Letter> letters;
    for (const Action action : actions)
        for (int token = 0; token < token_count; ++token) letters.push_back({.action = action, .token = token});
    return letters;
}

std::vector<Letter> luo_letters() {
    std::vector<Letter> letters;
    const auto each_pair = [&](Action action) {
        for (int file = 0; file < file_count; ++file)
            for (int token = 0; token < token_count; ++token)
                letters.push_back({.action = action, .file = file, .token = token});
    };
    each_pair(Action::preserve);
    for (const Letter& letter : of_each_token({Action::unpreserve})) letters.push_back(letter);
    for (const Action action : {Action::prepare, Action::freeze, Action::cancel, Action::finish})
        letters.push_back({.action = action});
    each_pair(Action::restore);
    for (const Action action : {Action::open_device, Action::close_device}) letters.push_back({.action = action});
    return letters;
}

std::vector<Letter> kho_letters() {
    std::vector<Letter> letters;
    for (const Action action : {Action::kho_preserve, Action::kho_unpreserve, Action::kho_restore})
        for (int folio = 0; folio < folio_count; ++folio) letters.push_back({.action = action, .folio = folio});
    for (const Action action : {Action::kho_finalize, Action::kho_abort}) letters.push_back({.action = action});
    return letters;
}

std::vector<Letter> subsystem_letters() {
    std::vector<Letter> letters;
    for (int subsystem = 0; subsystem < subsystem_count; ++subsystem)
        for (const Refusal refusal : {Refusal::none, Refusal::prepare, Refusal::freeze})
            letters.push_back({.action = Action::register_subsystem, .subsystem = subsystem, .refusal = refusal});
    for (int subsystem = 0; subsystem < subsystem_count; ++subsystem)
        letters.push_back({.action = Action::unregister_subsystem, .subsystem = subsystem});
    return letters;
}

}  // namespace

std::string_view step_name(Action action) { return info(action).step; }

std::string_view action_detail(Action action) {
    switch (action) {
    case Action::append: return " behind the end";
    case Action::file_prepare: return " prepare";
    case Action::file_freeze: return " freeze";
    case Action::file_cancel: return " cancel";
    case Action::file_finish: return " finish";
    default: return {};
    }
}

std::string_view refusal_errno(Refusal refusal) {
    switch (refusal) {
    case Refusal::none: return "ok";
    case Refusal::prepare: return "ENOMEM";
    case Refusal::freeze: return "EIO";
    }
    return "?";
}

std::string_view file_name(int file) {
    constexpr std::array<std::string_view, descriptor_count> names{"a", "b", "c", "d"};
    return names.at(static_cast<std::size_t>(file));
}

std::string_view subsystem_name(int subsystem) {
    constexpr std::array<std::string_view, subsystem_count> names{"s", "t"};
    return names.at(static_cast<std::size_t>(subsystem));
}

std::string_view folio_name(int folio) {
    constexpr std::array<std::string_view, folio_count> names{"x", "y"};
    return names.at(static_cast<std::size_t>(folio));
}

int token_number(int token) { return token + 1; }

u32 folio_pattern(int folio) { return static_cast<u32>(folio) + 21; }
u32 first_pattern(int file) { return static_cast<u32>(file) + 1; }
u32 written_pattern(int file) { return static_cast<u32>(file) + 11; }

std::string Letter::text() const {
    const std::string_view step = step_name(action);
    const auto event = [&](std::string_view name) {
        return fmt::format("{}: {{token: {}, event: {}}}", step, token_number(token), name);
    };
    switch (action) {
    case Action::write:
    case Action::append:
        return fmt::format("{}: {{fd: {}, offset: {}KiB, fill: pattern({}), length: 4KiB}}", step, file_name(file),
                           (action == Action::write ? file_pages - 1 : file_pages) * page_bytes / KiB,
                           written_pattern(file));
    case Action::empty: return fmt::format("{}: {{fd: {}, size: 0}}", step, file_name(file));
    case Action::close_file: return fmt::format("{}: {{fd: {}}}", step, file_name(file));
    case Action::preserve:
        return fmt::format("{}: {{fd: {}, token: {}}}", step, file_name(file), token_number(token));
    case Action::unpreserve: return fmt::format("{}: {{token: {}}}", step, token_number(token));
    case Action::restore: return fmt::format("{}: {{token: {}, as: {}}}", step, token_number(token), file_name(file));
    case Action::file_prepare: return event("prepare");
    case Action::file_freeze: return event("freeze");
    case Action::file_cancel: return event("cancel");
    case Action::file_finish: return event("finish");
    case Action::register_subsystem:
        return refusal == Refusal::none
                   ? fmt::format("{}: {{name: {}}}", step, subsystem_name(subsystem))
                   : fmt::format("{}: {{name: {}, {}: {}}}", step, subsystem_name(subsystem),
                                 refusal == Refusal::prepare ? "prepare" : "freeze", refusal_errno(refusal));
    case Action::unregister_subsystem: return fmt::format("{}: {{name: {}}}", step, subsystem_name(subsystem));
    case Action::kho_preserve:
    case Action::kho_unpreserve:
    case Action::kho_restore: return fmt::format("{}: {{folio: {}}}", step, folio_name(folio));
    case Action::kho_finalize:
    case Action::kho_abort:
    case Action::prepare:
    case Action::freeze:
    case Action::cancel:
    case Action::finish:
    case Action::open_device:
    case Action::close_device:
    case Action::load:
    case Action::exec:
    case Action::kexec: break;
    }
    return std::string(step);
}

std::string Letter::slug() const {
    std::string text(info(action).slug);
    if (file != no_object) text += fmt::format("-{}", file_name(file));
    if (token != no_object) text += fmt::format("-{}", token_number(token));
    if (subsystem != no_object) text += fmt::format("-{}", subsystem_name(subsystem));
    if (folio != no_object) text += fmt::format("-{}", folio_name(folio));
    if (refusal == Refusal::prepare) text += "-no-prepare";
    if (refusal == Refusal::freeze) text += "-no-freeze";
    return text;
}

std::span<const Group> groups() {
    static const std::vector<Group> all{
        {"memfd", "write a page, append one, empty, close; of each memfd",
         of_each_file({Action::write, Action::append, Action::empty, Action::close_file}), true, true},
        {"luo", "preserve and restore each memfd under each token, unpreserve, the events, open and close the device",
         luo_letters()},
        {"file-event", "the events for one file, by its token",
         of_each_token({Action::file_prepare, Action::file_freeze, Action::file_cancel, Action::file_finish})},
        {"kexec",
         "load, reboot, and both in one",
         {{.action = Action::load}, {.action = Action::exec}, {.action = Action::kexec}},
         true,
         true},
        {"subsystem", "register each subsystem: one that works, whose prepare fails, whose freeze fails; unregister",
         subsystem_letters()},
        {"kho", "preserve, unpreserve and restore each folio, finalize, abort", kho_letters(), false, true},
    };
    return all;
}

const Group* group_by_name(std::string_view name) {
    for (const Group& group : groups())
        if (group.name == name) return &group;
    return nullptr;
}

}  // namespace kexec_sim::sim::generate
