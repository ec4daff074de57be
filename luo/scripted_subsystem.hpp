// A subsystem whose answers a scenario writes down, and which carries real pages.
//
// Its pages are allocated when it registers and filled from its name, so the next kernel knows what they must contain.
// They are chained by a header at the start of each; the data handle is the physical address of the first.
//
//   data ──► | magic | pages | index 0 | next ─┼──► | magic | pages | index 1 | next 0 |
//            | fill from name, index           |    | fill …                           |
//
// prepare preserves the pages (and undoes what it did if it is told to fail), cancel unpreserves them, unregister
// frees them. In the next kernel `boot` follows the chain and compares, `finish` restores the pages and frees them;
// without a boot callback (luo-v2) finish compares first. What the chain says is another kernel's data: addresses,
// counts and indexes are checked.
#pragma once

#include <string>
#include <vector>

#include "luo/orchestrator.hpp"

namespace kexec_sim::luo {

class ScriptedSubsystem {
public:
    /// What a callback does when it is called: succeed, fail with an errno (prepare and freeze only), or panic.
    struct Answer {
        Errno error = Errno::ok;
        bool panic = false;
    };
    struct Script {
        u64 pages = 1;
        Answer prepare = {}, freeze = {}, boot = {}, cancel = {}, finish = {};
    };

    ScriptedSubsystem(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, std::string name, Script script);
    ScriptedSubsystem(const ScriptedSubsystem&) = delete;
    ScriptedSubsystem& operator=(const ScriptedSubsystem&) = delete;

    /// ENOMEM; what registration says. Where that keeps it on the list in spite of the errno, the pages stay too.
    Result<> register_with_luo();
    Result<> unregister_from_luo();
    bool on_list() const;
    /// From here on every callback does its work and succeeds.
    void behave() { script_ = {.pages = script_.pages}; }
    /// Callbacks that ran since the registration: "prepare", "freeze", …
    const std::vector<std::string>& calls() const { return calls_; }

    const Subsystem& subsystem() const { return subsystem_; }
    /// The frames of its own pages, in order of the chain.
    const std::vector<PfnRange>& frames() const { return frames_; }

private:
    int prepare(u64* data);
    int freeze();
    void boot(u64 data);
    void cancel();
    void finish(u64 data);

    void bind_callbacks();
    void called(std::string_view callback, const Answer& answer);
    Result<> preserve();
    void unpreserve();
    void fill();
    void free_pages();
    /// Follows a chain of the previous kernel as far as it makes sense.
    std::vector<Pfn> follow(u64 data);
    bool content_is_ours(const std::vector<Pfn>& chain) const;
    void compare(const std::vector<Pfn>& chain);
    u64 word(u64 index, u64 at) const;

    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
    Script script_;
    Subsystem subsystem_;
    std::vector<PfnRange> frames_;
    bool preserved_ = false;
    std::vector<std::string> calls_;
};

}  // namespace kexec_sim::luo
