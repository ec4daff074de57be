// A machine with a referee, and short ways to say what a kernel reports to it.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim::test {

inline PfnRange frames(u64 begin, u64 pages) { return pfn_range(Pfn{begin}, pages); }
inline Folio folio(u64 pfn, unsigned order = 0) { return {Pfn{pfn}, Order{order}}; }

/// One word at the start of a frame.
inline void write_word(Machine& machine, u64 pfn, u64 word) { machine.ram.write<u64>(Pfn{pfn}.phys(), word); }

inline MachineConfig small_machine() {
    MachineConfig config;
    config.node_bytes = {64 * MiB};
    return config;
}

struct World {
    MachineHandle handle;
    Machine& machine;
    Referee& referee;
    KernelTraits traits;
    std::vector<std::string> handlers;
    std::map<u64, std::pair<FileView, std::vector<FileExtent>>> files;  // by id, as the kernel model would keep them

    /// A 64 MiB machine on which generation 0 runs: a luo-v3 kernel in state normal, user space reached.
    explicit World(std::string_view edition = "luo-v3", std::vector<std::string> with_handlers = {"memfd-v1"})
        : handle(make_machine(small_machine())),
          machine(*handle),
          referee(machine.referee),
          handlers(std::move(with_handlers)) {
        traits.edition = edition;
        traits.has_luo = edition.starts_with("luo");
        traits.promise_at = traits.has_luo ? KernelTraits::PromiseAt::prepare : KernelTraits::PromiseAt::finalize;
        boot(0);
        if (traits.has_luo) referee.luo_state(LuoState::undefined, LuoState::normal);
        reach_user_space();
    }

    void boot(Generation generation, bool with_handlers = true) {
        machine.set_generation(generation);
        referee.kernel_boots(generation, traits);
        referee.set_file_source(
            [](void* context, u64 id) -> std::optional<FileView> {
                World& world = *static_cast<World*>(context);
                const auto file = world.files.find(id);
                if (file == world.files.end()) return std::nullopt;
                file->second.first.extents = file->second.second;
                return file->second.first;
            },
            this);
        for (const std::string& handler : handlers) {
            if (with_handlers) referee.claimer_present(handler);
            // Tests that are not about callbacks leave them out.
            referee.callback_absent(handler, LuoCallback::prepare);
            referee.callback_absent(handler, LuoCallback::freeze);
        }
    }
    void freeze_and_jump_without_handlers() {
        referee.luo_state(LuoState::prepared, LuoState::frozen);
        referee.luo_request(LuoEvent::freeze, {});
        leave();
        boot(machine.generation + 1, false);
        referee.handover_accepted();
        referee.luo_state(LuoState::undefined, LuoState::updated);
        reach_user_space();
    }
    /// A subsystem without callbacks: only its pages matter.
    void register_silent(std::string_view name) {
        referee.subsystem_registered(name);
        for (const LuoCallback callback :
             {LuoCallback::prepare, LuoCallback::freeze, LuoCallback::boot, LuoCallback::cancel, LuoCallback::finish})
            referee.callback_absent(name, callback);
    }
    void reach_user_space() { referee.user_space_reached(); }

    /// The jump and the successor's boot up to user space; `reserved`: what its boot keeps because the map says so.
    void kexec(std::vector<PfnRange> reserved = {}, bool accepted = true, bool passed = true) {
        if (traits.has_luo && state == LuoState::prepared) {
            referee.luo_state(LuoState::prepared, LuoState::frozen);
            referee.luo_request(LuoEvent::freeze, {});
            state = LuoState::frozen;
        }
        leave(passed);
        arrive(std::move(reserved), accepted);
    }
    void leave(bool passed = true) {
        referee.before_jump(machine.seed);
        referee.jump(passed);
        referee.kernel_ended(KernelEnd::kexec);
        files.clear();
    }
    void arrive(std::vector<PfnRange> reserved, bool accepted = true) {
        boot(machine.generation + 1);
        if (accepted) referee.handover_accepted();
        for (const PfnRange range : reserved) referee.frames_inherited(range);
        // Everything that is not reserved goes to the allocator.
        std::sort(reserved.begin(), reserved.end());
        u64 at = 1024;
        for (const PfnRange range : reserved) {
            referee.frames_to_allocator({Pfn{at}, range.begin});
            at = range.end.raw;
        }
        referee.frames_to_allocator({Pfn{at}, Pfn{16000}});
        if (traits.has_luo) {
            const LuoState next = state == LuoState::frozen && accepted ? LuoState::updated : LuoState::normal;
            referee.luo_state(LuoState::undefined, next);
            state = next;
        }
        reach_user_space();
    }

    /// A file of `pages` frames from `pfn` (which are its own already, or not), preserved under `token` and, with
    /// `prepare()`, promised.
    void preserve_file(u64 token, u64 pfn, u64 pages, bool allocated = false) {
        const u64 id = 100 + token;
        files[id] = {FileView{id, pages * page_bytes, 0, {}}, {FileExtent{0, Pfn{pfn}, pages}}};
        if (!allocated) referee.frames_handed_out(frames(pfn, pages), "shmem", FrameClass::file);
        referee.file_preserved(token, "memfd-v1", id);
        files_to_prepare.push_back({token, pfn, pages});
    }
    /// PREPARE as a caller sees it: each file's handler preserves its folios and one page of metadata behind them.
    void prepare(Result<> result = {}) {
        for (const Preserving& file : files_to_prepare) {
            referee.file_callback(file.token, "memfd-v1", LuoCallback::prepare, std::nullopt);
            for (u64 i = 0; i < file.pages; ++i)
                referee.kho_preserved({frames(file.pfn + i, 1), Order{0}, "memfd-v1", false});
            referee.frames_handed_out(frames(file.pfn + file.pages, 1), "memfd.tree", FrameClass::handler);
            referee.kho_preserved({frames(file.pfn + file.pages, 1), Order{0}, "memfd-v1", true});
            referee.file_callback(file.token, "memfd-v1", LuoCallback::prepare, Result<>{});
        }
        files_to_prepare.clear();
        finish_prepare(result);
    }
    void finish_prepare(Result<> result = {}) {
        if (result) {
            referee.luo_state(LuoState::normal, LuoState::prepared);
            state = LuoState::prepared;
            referee.kho_finalized();
        }
        referee.luo_request(LuoEvent::prepare, result);
    }
    void finish() {
        referee.luo_state(LuoState::updated, LuoState::normal);
        state = LuoState::normal;
        referee.luo_request(LuoEvent::finish, {});
    }
    /// The file's folios restored one by one, its tree page restored and freed, then the file shown.
    void restore_file(u64 token, u64 pfn, u64 pages, u64 size = 0) {
        referee.kho_restored(folio(pfn + pages), "memfd-v1");
        for (u64 i = 0; i < pages; ++i) referee.kho_restored(folio(pfn + i), "memfd-v1");
        referee.frames_returned(frames(pfn + pages, 1));
        const FileExtent extent{0, Pfn{pfn}, pages};
        referee.file_restored(token, {1, size ? size : pages * page_bytes, 0, std::span(&extent, 1)});
    }

    /// The ids of all findings, in order, separated by spaces.
    std::string ids() const {
        std::string out;
        for (const Finding& finding : referee.findings()) {
            if (!out.empty()) out += ' ';
            out += invariants()[static_cast<std::size_t>(finding.invariant)].name;
        }
        return out;
    }
    const Finding only() const {
        const std::vector<Finding> all = referee.findings();
        REQUIRE(all.size() == 1);
        return all.front();
    }

    LuoState state = LuoState::normal;
    struct Preserving {
        u64 token, pfn, pages;
    };
    std::vector<Preserving> files_to_prepare;
};

}  // namespace kexec_sim::test
