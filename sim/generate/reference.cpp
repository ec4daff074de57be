#include "sim/generate/reference.hpp"

#include <algorithm>

#include "machine/result.hpp"

namespace kexec_sim::sim::generate {

bool World::registered(int subsystem) const {
    return std::ranges::any_of(subsystems, [&](const Subsystem& one) { return one.name == subsystem; });
}

void World::create_file(int file) {
    descriptors.at(file) = static_cast<int>(files.size());
    files.push_back({Pages(file_pages, first_pattern(file))});
}

void World::create_objects() {
    for (int file = 0; file < file_count; ++file) create_file(file);
    if (!edition.has_luo()) folios.resize(folio_count);
}

World next_kernel(World& world) {
    const bool lost = !world.unclaimed.empty() || std::ranges::any_of(world.incoming, [](const auto& one) {
        return !one.second.restored;
    }) || std::ranges::any_of(world.folios, [](const World::Folio& one) { return one.came && !one.restored; });
    if (lost) world.findings.insert("loss.silent");
    World next(world.edition);
    next.generation = world.generation + 1;
    next.findings = std::move(world.findings);
    return next;
}

std::string_view state_name(State state) {
    switch (state) {
    case State::normal: return "normal";
    case State::prepared: return "prepared";
    case State::frozen: return "frozen";
    case State::updated: return "updated";
    }
    return "?";
}

namespace {

constexpr Profiles luo_v2 = profile_bit(Profile::luo_v2), luo_v3 = profile_bit(Profile::luo_v3);
constexpr Profiles luo = luo_v2 | luo_v3;
constexpr Profiles every = luo | profile_bit(Profile::linux_6_16) | profile_bit(Profile::linux_6_18);

// ---- what conditions ask ----

bool always(const World&, const Letter&) { return true; }
bool device_closed(const World& world, const Letter&) { return world.device == World::Device::closed; }
bool under_way(const World& world, const Letter&) {
    return world.state == State::prepared || world.state == State::frozen;
}
bool not_normal(const World& world, const Letter&) { return world.state != State::normal; }
bool not_prepared(const World& world, const Letter&) { return world.state != State::prepared; }
bool not_updated(const World& world, const Letter&) { return world.state != State::updated; }
bool descriptor_closed(const World& world, const Letter& letter) { return !world.is_open(letter.file); }
bool mapping_frozen(const World& world, const Letter& letter) { return world.file_at(letter.file).frozen; }
bool token_taken(const World& world, const Letter& letter) { return world.outgoing.contains(letter.token); }
bool token_unknown(const World& world, const Letter& letter) { return !world.outgoing.contains(letter.token); }

/// The errno with which a callback of prepare fails; "ok": none does. Files come first, by token, then subsystems.
std::string_view prepare_refusal(const World& world) {
    for (const auto& [token, file] : world.outgoing)
        if (file.state == State::normal && world.files[static_cast<std::size_t>(file.file)].pages.empty())
            return "EINVAL";
    for (const World::Subsystem& one : world.subsystems)
        if (one.refusal == Refusal::prepare) return refusal_errno(one.refusal);
    return "ok";
}
bool prepare_refused(const World& world, const Letter&) { return prepare_refusal(world) != "ok"; }

std::string_view freeze_refusal(const World& world) {
    for (const World::Subsystem& one : world.subsystems)
        if (one.refusal == Refusal::freeze) return refusal_errno(one.refusal);
    return "ok";
}
bool freeze_refused(const World& world, const Letter&) { return freeze_refusal(world) != "ok"; }

/// Another token that came for the same file.
const World::Incoming* twin(const World& world, int token) {
    const auto own = world.incoming.find(token);
    if (own == world.incoming.end()) return nullptr;
    for (const auto& [other, file] : world.incoming)
        if (other != token && file.file == own->second.file) return &file;
    return nullptr;
}

// ---- what changes ----

World::File& file_of(World& world, const World::Outgoing& outgoing) {
    return world.files[static_cast<std::size_t>(outgoing.file)];
}

void prepare_file(World& world, World::Outgoing& outgoing) {
    if (outgoing.state != State::normal) return;
    outgoing.state = State::prepared;
    file_of(world, outgoing).frozen = true;
    world.dropped.erase(outgoing.file);
}
void cancel_file(World& world, World::Outgoing& outgoing) {
    if (outgoing.state == State::normal) return;
    outgoing.state = State::normal;
    file_of(world, outgoing).frozen = false;
}
void cancel_files(World& world) {
    for (auto& [token, file] : world.outgoing) cancel_file(world, file);
}

/// CANCEL and a repaired rollback: KHO forgets its map, but its root tree lies where it was.
void abort_kho(World& world) {
    world.finalized = false;
    world.stale_root = true;
    if (!world.edition.strict) return;
    world.dropped.clear();  // LUO-D7: made up for at the abort
    world.cancelled_alone = false;
}

void open(World& world, const Letter&) { world.device = World::Device::open; }

void drop_files(World& world, const Letter&) {
    for (auto& [token, file] : world.outgoing) {
        if (file.state == State::normal) continue;
        if (world.finalized) world.dropped.insert(file.file);
        cancel_file(world, file);
    }
    world.outgoing.clear();
}
void close_device_v3(World& world, const Letter& letter) {
    drop_files(world, letter);
    world.device = World::Device::closed;
}
void close_device_v2(World& world, const Letter&) { world.device = World::Device::closed; }

void call_all(World& world, std::string_view callback) {
    for (World::Subsystem& one : world.subsystems) one.calls.push_back(callback);
}
/// In the order of registration, until one refuses; those before it are then cancelled. No other is (LUO-D4).
void call_until_refusal(World& world, std::string_view callback, Refusal refusal) {
    for (std::size_t k = 0; k < world.subsystems.size(); ++k) {
        world.subsystems[k].calls.push_back(callback);
        if (world.subsystems[k].refusal != refusal) continue;
        for (std::size_t before = 0; before < k; ++before) world.subsystems[before].calls.push_back("cancel");
        return;
    }
}

void prepare(World& world, const Letter&) {
    for (auto& [token, file] : world.outgoing) prepare_file(world, file);
    call_all(world, "prepare");
    world.state = State::prepared;
    world.finalized = true;
    world.stale_root = false;
}
/// The files that were prepared ahead of the event are taken back as well: those before the one that failed, or all
/// where a subsystem failed.
void prepare_failed(World& world, const Letter&) {
    for (auto& [token, file] : world.outgoing) {
        if (file.state == State::normal && file_of(world, file).pages.empty()) return;
        cancel_file(world, file);
    }
    call_until_refusal(world, "prepare", Refusal::prepare);
}

void freeze(World& world, const Letter&) {
    for (auto& [token, file] : world.outgoing)
        if (file.state == State::prepared) file.state = State::frozen;
    call_all(world, "freeze");
    world.state = State::frozen;
}
/// The subsystem of the files comes first, so it is always among those that are cancelled (LUO-D4).
void freeze_failed(World& world, const Letter&) {
    cancel_files(world);
    world.state = State::normal;
    if (world.edition.strict) {
        for (World::Subsystem& one : world.subsystems) {
            one.calls.push_back("freeze");
            if (one.refusal == Refusal::freeze) break;
        }
        call_all(world, "cancel");
        abort_kho(world);
        return;
    }
    call_until_refusal(world, "freeze", Refusal::freeze);
    world.rollback_owed = true;
    world.findings.insert("luo.rollback");
}

void cancel(World& world, const Letter&) {
    cancel_files(world);
    call_all(world, "cancel");
    world.state = State::normal;
    abort_kho(world);
}
void only_abort(World& world, const Letter&) { abort_kho(world); }

void finish(World& world, const Letter&) {
    world.state = State::normal;
    world.incoming.clear();
    world.incoming_subsystems.clear();
    call_all(world, "finish");
    for (const World::Subsystem& one : world.subsystems) world.unclaimed.erase(one.name);
    if (world.dropped_came || !world.unclaimed.empty()) world.findings.insert("frame.accounted");
    world.unclaimed.clear();
    world.dropped_came = false;
}
void finish_panics(World& world, const Letter&) {
    world.dead = true;
    const bool lost = !world.unclaimed.empty() ||
                      std::ranges::any_of(world.incoming, [](const auto& one) { return !one.second.restored; });
    if (lost) world.findings.insert("loss.reported");
}

void restore(World& world, const Letter& letter) {
    World::Incoming& file = world.incoming.at(letter.token);
    file.restored = true;
    world.descriptors.at(letter.file) = static_cast<int>(world.files.size());
    world.files.push_back({file.pages});
    if (const World::Incoming* other = twin(world, letter.token); other && other->restored && !file.pages.empty()) {
        world.findings.insert("frame.once");
        world.undefined = true;
    }
}

void boot_next(World& world, bool handed_over) {
    World next = next_kernel(world);
    if (handed_over) {
        next.state = State::updated;
        for (const auto& [token, file] : world.outgoing)
            if (file.state != State::normal)
                next.incoming[token] = {world.files[static_cast<std::size_t>(file.file)].pages, file.file, false};
        for (const World::Subsystem& one : world.subsystems) {
            next.incoming_subsystems.insert(one.name);
            next.unclaimed.insert(one.name);
        }
        next.dropped_came = !world.dropped.empty();
    }
    world = std::move(next);
}
void jump(World& world, const Letter&) { boot_next(world, false); }
void freeze_and_jump(World& world, const Letter&) { boot_next(world, true); }

bool no_image(const World& world, const Letter& letter) {
    return letter.action == Action::exec && !world.image_loaded;
}
bool prepared(const World& world, const Letter&) { return world.state == State::prepared; }

/// kexec loads first, if nothing is loaded.
void load(World& world, const Letter&) { world.image_loaded = true; }
void load_and_fail_freeze(World& world, const Letter& letter) {
    world.image_loaded = true;
    freeze_failed(world, letter);
}

// ---- the table ----

constexpr std::string_view transitions = "LUO, transition table";
constexpr std::string_view fd_operations = "LUO, FD operations and errors";
constexpr std::string_view prepare_steps = "LUO, what PREPARE does step by step";
constexpr std::string_view freeze_steps = "LUO, what FREEZE does step by step";
constexpr std::string_view cancel_steps = "LUO, what CANCEL does step by step";
constexpr std::string_view finish_steps = "LUO, what FINISH does step by step";
constexpr std::string_view registration = "LUO, subsystem registration rules";
constexpr std::string_view device_v3 = "LUO posting v3, /dev/liveupdate";
constexpr std::string_view device_v2 = "LUO posting v2, /dev/liveupdate";
constexpr std::string_view reboot_path = "LUO, reboot path";
constexpr std::string_view memfd_frozen = "LUO, memfd while prepared";
constexpr std::string_view defects = "LUO, known defects";
constexpr std::string_view handing_over = "KHO v1, handing over to the next kernel";
constexpr std::string_view scenario_steps = "Scenario format, names and agents";
constexpr std::string_view files_of_linux = "memfd_create(2), ftruncate(2), pwrite(2), close(2)";

void write_page(World& world, const Letter& letter, std::size_t page) {
    Pages& pages = world.file_at(letter.file).pages;
    if (pages.size() <= page) pages.resize(page + 1, zero_pattern);
    pages[page] = written_pattern(letter.file);
}

void add_memfd(std::vector<Row>& rows) {
    for (const Action action : {Action::write, Action::append, Action::empty, Action::close_file})
        rows.push_back(
            {action, every, "the descriptor is closed", descriptor_closed, "EBADF", "", nullptr, scenario_steps});
    rows.push_back({Action::empty, luo, "its mapping is frozen", mapping_frozen, "EPERM", "", nullptr, memfd_frozen});
    rows.push_back({Action::append, luo, "its mapping is frozen, and the page lies behind its end",
                    [](const World& world, const Letter& letter) {
                        const World::File& file = world.file_at(letter.file);
                        return file.frozen && file.pages.size() <= file_pages;
                    },
                    "EPERM", "", nullptr, memfd_frozen});
    rows.push_back({Action::write, every, "else", always, "ok", "its second page",
                    [](World& world, const Letter& letter) { write_page(world, letter, file_pages - 1); },
                    files_of_linux});
    rows.push_back({Action::append, every, "else", always, "ok", "its third page, and its size",
                    [](World& world, const Letter& letter) { write_page(world, letter, file_pages); },
                    files_of_linux});
    rows.push_back({Action::empty, every, "else", always, "ok", "its size",
                    [](World& world, const Letter& letter) { world.file_at(letter.file).pages.clear(); },
                    files_of_linux});
    rows.push_back(
        {Action::close_file, every, "else", always, "ok", "the name is free; the file stays while preserved",
         [](World& world, const Letter& letter) { world.descriptors.at(letter.file) = no_object; }, files_of_linux});
}

void add_device(std::vector<Row>& rows) {
    for (const Action action :
         {Action::preserve, Action::unpreserve, Action::restore, Action::prepare, Action::freeze, Action::cancel,
          Action::finish, Action::file_prepare, Action::file_freeze, Action::file_cancel, Action::file_finish})
        rows.push_back({action, luo, "the device was closed", device_closed, "EBADF", "", nullptr, scenario_steps});
    rows.push_back({Action::open_device, luo_v3, "it is open",
                    [](const World& world, const Letter&) { return world.device == World::Device::open; }, "EBUSY",
                    "", nullptr, device_v3});
    rows.push_back({Action::open_device, luo, "else", always, "ok", "it is open", open, device_v3});
    rows.push_back({Action::close_device, luo, "it is not open",
                    [](const World& world, const Letter&) { return world.device != World::Device::open; }, "EBADF",
                    "", nullptr, scenario_steps});
    rows.push_back({Action::close_device, luo_v3, "else", always, "ok",
                    "all outgoing files are dropped (LUO-D7: the state is not)", close_device_v3, device_v3});
    rows.push_back({Action::close_device, luo_v2, "else", always, "ok", "files stay", close_device_v2, device_v2});
}

void add_files(std::vector<Row>& rows) {
    rows.push_back(
        {Action::preserve, luo, "the descriptor is closed", descriptor_closed, "EBADF", "", nullptr, fd_operations});
    rows.push_back({Action::preserve, luo, "prepared or frozen", under_way, "EBUSY", "", nullptr, fd_operations});
    rows.push_back({Action::preserve, luo, "the token is taken", token_taken, "EEXIST", "", nullptr, fd_operations});
    rows.push_back({Action::preserve, luo, "else", always, "ok", "the file is registered under the token",
                    [](World& world, const Letter& letter) {
                        world.outgoing[letter.token] = {world.descriptors.at(letter.file), State::normal};
                    },
                    fd_operations});
    rows.push_back({Action::unpreserve, luo, "prepared or frozen", under_way, "EBUSY", "", nullptr, fd_operations});
    rows.push_back(
        {Action::unpreserve, luo, "the token is unknown", token_unknown, "ENOENT", "", nullptr, fd_operations});
    rows.push_back({Action::unpreserve, luo, "else", always, "ok", "a file that was prepared alone is cancelled",
                    [](World& world, const Letter& letter) {
                        cancel_file(world, world.outgoing.at(letter.token));
                        world.outgoing.erase(letter.token);
                    },
                    fd_operations});
    rows.push_back({Action::restore, luo, "not updated", not_updated, "EBUSY", "", nullptr, fd_operations});
    rows.push_back({Action::restore, luo, "no file came under the token",
                    [](const World& world, const Letter& letter) { return !world.incoming.contains(letter.token); },
                    "ENOENT", "", nullptr, fd_operations});
    rows.push_back({Action::restore, luo, "it was restored before",
                    [](const World& world, const Letter& letter) { return world.incoming.at(letter.token).restored; },
                    "EINVAL", "", nullptr, fd_operations});
    rows.push_back(
        {Action::restore, luo, "else", always, "ok", "the file, as it was at the jump", restore, fd_operations});
}

void add_file_events(std::vector<Row>& rows) {
    for (const Action action : {Action::file_prepare, Action::file_freeze, Action::file_cancel, Action::file_finish})
        rows.push_back({action, luo_v2, "the posting has no such ioctl", always, "ENOTTY", "", nullptr, device_v2});
    for (const Action action : {Action::file_prepare, Action::file_freeze, Action::file_cancel})
        rows.push_back({action, luo_v3, "the token is unknown", token_unknown, "ENOENT", "", nullptr, fd_operations});
    rows.push_back({Action::file_finish, luo_v3, "the token is unknown, in both directions",
                    [](const World& world, const Letter& letter) {
                        return token_unknown(world, letter) && !world.incoming.contains(letter.token);
                    },
                    "ENOENT", "", nullptr, fd_operations});
    rows.push_back({Action::file_finish, luo_v3, "not updated", not_updated, "EBUSY", "", nullptr, fd_operations});
    rows.push_back({Action::file_finish, luo_v3, "else: what a later event finds is not specified", always,
                    unspecified, "", nullptr, fd_operations});
    rows.push_back({Action::file_prepare, luo_v3, "the file is prepared or frozen",
                    [](const World& world, const Letter& letter) {
                        return world.outgoing.at(letter.token).state != State::normal;
                    },
                    "ok", "", nullptr, fd_operations});
    rows.push_back(
        {Action::file_prepare, luo_v3, "the file is empty",
         [](const World& world, const Letter& letter) {
             return world.files[static_cast<std::size_t>(world.outgoing.at(letter.token).file)].pages.empty();
         },
         "EINVAL", "", nullptr, "LUO, memfd preservation: pages are pinned first"});
    rows.push_back({Action::file_prepare, luo_v3, "KHO is finalized",
                    [](const World& world, const Letter&) { return world.finalized; }, "EBUSY", "", nullptr,
                    "KHO v1, differences carried by LUO"});
    rows.push_back({Action::file_prepare, luo_v3, "else", always, "ok", "that file is prepared",
                    [](World& world, const Letter& letter) { prepare_file(world, world.outgoing.at(letter.token)); },
                    fd_operations});
    rows.push_back({Action::file_freeze, luo_v3, "else", always, "ok", "that file is frozen, if it was prepared",
                    [](World& world, const Letter& letter) {
                        World::Outgoing& file = world.outgoing.at(letter.token);
                        if (file.state == State::prepared) file.state = State::frozen;
                    },
                    fd_operations});
    rows.push_back({Action::file_cancel, luo_v3, "else", always, "ok", "that file is cancelled, if it was prepared",
                    [](World& world, const Letter& letter) {
                        World::Outgoing& file = world.outgoing.at(letter.token);
                        if (file.state != State::normal && world.finalized) world.cancelled_alone = true;
                        cancel_file(world, file);
                    },
                    fd_operations});
}

void add_events(std::vector<Row>& rows) {
    rows.push_back({Action::prepare, luo, "not normal", not_normal, "EINVAL", "", nullptr, transitions});
    rows.push_back({Action::prepare, luo, "KHO is still finalized, after a failed freeze (LUO-D5)",
                    [](const World& world, const Letter&) { return world.finalized; }, "EBUSY", "", nullptr,
                    defects});
    rows.push_back({Action::prepare, luo, "a file or subsystem refuses: an empty memfd, a callback", prepare_refused,
                    "", "those before it are cancelled; the state stays", prepare_failed, prepare_steps});
    rows.push_back(
        {Action::prepare, luo, "else", always, "ok", "prepared; KHO is finalized", prepare, prepare_steps});

    rows.push_back({Action::freeze, luo, "not prepared", not_prepared, "EINVAL", "", nullptr, transitions});
    rows.push_back({Action::freeze, luo, "a subsystem refuses", freeze_refused, "",
                    "normal; KHO stays finalized (LUO-D4, D5), unless defects are repaired", freeze_failed,
                    freeze_steps});
    rows.push_back({Action::freeze, luo, "else", always, "ok", "frozen", freeze, freeze_steps});

    rows.push_back({Action::cancel, luo, "normal or updated, KHO is not finalized",
                    [](const World& world, const Letter&) { return !world.finalized; }, "ENOENT", "", nullptr,
                    cancel_steps});
    rows.push_back({Action::cancel, luo, "normal, and KHO is finalized after a failed freeze (LUO-D5)",
                    [](const World& world, const Letter& letter) { return !under_way(world, letter); }, "EINVAL",
                    "KHO is aborted", only_abort, defects});
    rows.push_back({Action::cancel, luo, "else", always, "ok", "normal; all files and subsystems are cancelled",
                    cancel, cancel_steps});

    rows.push_back({Action::finish, luo, "not updated", not_updated, "EINVAL", "", nullptr, transitions});
    rows.push_back({Action::finish, luo, "a registered subsystem has no property in the incoming tree",
                    [](const World& world, const Letter&) {
                        return std::ranges::any_of(world.subsystems, [&](const World::Subsystem& one) {
                            return !world.incoming_subsystems.contains(one.name);
                        });
                    },
                    "panic", "the kernel is dead", finish_panics, finish_steps});
    rows.push_back({Action::finish, luo, "a file came under two tokens and was restored under one",
                    [](const World& world, const Letter&) {
                        return std::ranges::any_of(world.incoming,
                                                   [&](const auto& one) { return twin(world, one.first); });
                    },
                    unspecified, "", nullptr, finish_steps});
    rows.push_back({Action::finish, luo, "else", always, "ok", "normal; what was not restored is discarded", finish,
                    finish_steps});
}

void add_reboot(std::vector<Row>& rows) {
    rows.push_back({Action::load, luo, "always", always, "ok", "an image is loaded", load, handing_over});
    for (const Action action : {Action::exec, Action::kexec}) {
        rows.push_back({action, luo, "prepared, and a subsystem refuses to freeze",
                        [](const World& world, const Letter& letter) {
                            return prepared(world, letter) && freeze_refused(world, letter);
                        },
                        "", "as after a failed freeze; no jump",
                        action == Action::kexec ? load_and_fail_freeze : freeze_failed, reboot_path});
        if (action == Action::exec) {
            rows.push_back({action, luo, "prepared, no image is loaded",
                            [](const World& world, const Letter& letter) {
                                return prepared(world, letter) && no_image(world, letter);
                            },
                            "EINVAL", "frozen", freeze, reboot_path});
            rows.push_back({action, luo, "no image is loaded", no_image, "EINVAL", "", nullptr, reboot_path});
        }
        rows.push_back({action, luo, "normal, and KHO is finalized, or the root tree of an aborted update is stale",
                        [](const World& world, const Letter& letter) {
                            return !under_way(world, letter) && (world.finalized || world.stale_root);
                        },
                        unspecified, "", nullptr, handing_over});
        rows.push_back({action, luo,
                        "prepared or frozen again after a failed freeze: LUO's tree is listed twice (LUO-D5)",
                        [](const World& world, const Letter&) { return world.rollback_owed; }, unspecified, "",
                        nullptr, defects});
        rows.push_back({action, luo, "prepared or frozen, a file was cancelled alone: its record and memory go over",
                        [](const World& world, const Letter& letter) {
                            return under_way(world, letter) && world.cancelled_alone;
                        },
                        unspecified, "", nullptr, fd_operations});
        rows.push_back({action, luo, "normal or updated",
                        [](const World& world, const Letter& letter) { return !under_way(world, letter); }, "ok",
                        "the next kernel is normal; nothing is handed over", jump, reboot_path});
        rows.push_back(
            {action, luo, "else", always, "ok", "the next kernel is updated", freeze_and_jump, reboot_path});
    }
}

void add_subsystems(std::vector<Row>& rows) {
    const auto on_list = [](const World& world, const Letter& letter) { return world.registered(letter.subsystem); };
    const auto append = [](World& world, const Letter& letter) {
        world.subsystems.push_back({letter.subsystem, letter.refusal, {}});
        world.known_subsystems.insert(letter.subsystem);
        // The second posting has no such callback.
        const bool boots = world.edition.profile == Profile::luo_v3 && world.state == State::updated &&
                           world.incoming_subsystems.contains(letter.subsystem);
        if (boots) world.subsystems.back().calls.push_back("boot");
    };
    rows.push_back(
        {Action::register_subsystem, luo, "prepared or frozen", under_way, "EBUSY", "", nullptr, registration});
    rows.push_back(
        {Action::register_subsystem, luo, "the name is taken", on_list, "EEXIST", "", nullptr, registration});
    rows.push_back({Action::register_subsystem, luo_v3, "updated, and the incoming tree has no such property",
                    [](const World& world, const Letter& letter) {
                        return world.state == State::updated && !world.incoming_subsystems.contains(letter.subsystem);
                    },
                    "ENOENT", "it is on the list all the same (LUO-D9)", append, registration});
    rows.push_back(
        {Action::register_subsystem, luo, "else", always, "ok", "it is the last of the list", append, registration});
    rows.push_back(
        {Action::unregister_subsystem, luo, "never registered in this kernel",
         [](const World& world, const Letter& letter) { return !world.known_subsystems.contains(letter.subsystem); },
         "ENOENT", "", nullptr, scenario_steps});
    rows.push_back(
        {Action::unregister_subsystem, luo, "prepared or frozen", under_way, "EBUSY", "", nullptr, registration});
    rows.push_back({Action::unregister_subsystem, luo, "not on the list",
                    [](const World& world, const Letter& letter) { return !world.registered(letter.subsystem); },
                    "ENOENT", "", nullptr, registration});
    rows.push_back({Action::unregister_subsystem, luo, "else", always, "ok", "it is off the list",
                    [](World& world, const Letter& letter) {
                        std::erase_if(world.subsystems,
                                      [&](const World::Subsystem& one) { return one.name == letter.subsystem; });
                    },
                    registration});
}

/// Steps with which an agent that has not opened the device opens it.
bool opens_device(Action action) {
    switch (action) {
    case Action::preserve:
    case Action::unpreserve:
    case Action::restore:
    case Action::prepare:
    case Action::freeze:
    case Action::cancel:
    case Action::finish:
    case Action::file_prepare:
    case Action::file_freeze:
    case Action::file_cancel:
    case Action::file_finish: return true;
    case Action::write:
    case Action::append:
    case Action::empty:
    case Action::close_file:
    case Action::open_device:
    case Action::close_device:
    case Action::load:
    case Action::exec:
    case Action::kexec:
    case Action::register_subsystem:
    case Action::unregister_subsystem:
    case Action::kho_preserve:
    case Action::kho_unpreserve:
    case Action::kho_restore:
    case Action::kho_finalize:
    case Action::kho_abort: return false;
    }
    return false;
}

}  // namespace

void add_luo_rows(std::vector<Row>& rows) {
    add_device(rows);
    add_memfd(rows);
    add_files(rows);
    add_file_events(rows);
    add_events(rows);
    add_reboot(rows);
    add_subsystems(rows);
}

Reference::Reference(Edition edition) : edition_(edition) {
    add_luo_rows(rows_);
    add_kho_rows(rows_);
    std::erase_if(rows_, [&](const Row& row) { return !(row.in & profile_bit(edition.profile)); });
}

const Row& Reference::row_for(const World& world, const Letter& letter) const {
    for (const Row& row : rows_)
        if (row.action == letter.action && row.applies(world, letter)) return row;
    throw SimulatorBug(std::string("the reference has no row for ") + letter.text());
}

Reference::Answer Reference::step(World& world, const Letter& letter) const {
    if (world.dead) return {std::string(dead_word)};
    if (world.undefined) return {std::string(unspecified)};
    if (opens_device(letter.action) && world.device == World::Device::unopened) world.device = World::Device::open;
    const Row& row = row_for(world, letter);
    Answer answer{std::string(row.result), &row};
    if (answer.result.empty())
        answer.result = letter.action == Action::prepare ? prepare_refusal(world) : freeze_refusal(world);
    if (row.then) row.then(world, letter);
    return answer;
}

}  // namespace kexec_sim::sim::generate
