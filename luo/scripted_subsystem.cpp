#include "luo/scripted_subsystem.hpp"

#include <cstring>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"

namespace kexec_sim::luo {
namespace {

/// At the start of each page. Whoever reads it checks all of it.
struct PageHeader {
    u64 magic;
    u64 pages;  // of the chain
    u64 index;  // of this one
    u64 next;   // physical address; 0 in the last
};
static_assert(sizeof(PageHeader) == 32);
constexpr u64 header_magic = 0x6b73'6674'5f6c'756f;  // "oul_tfsk" as bytes
constexpr u64 words_per_page = page_bytes / sizeof(u64);
constexpr u64 first_word = sizeof(PageHeader) / sizeof(u64);

u64 mix(u64 value) {  // splitmix64
    value += 0x9e37'79b9'7f4a'7c15;
    value = (value ^ (value >> 30)) * 0xbf58'476d'1ce4'e5b9;
    value = (value ^ (value >> 27)) * 0x94d0'49bb'1331'11eb;
    return value ^ (value >> 31);
}

u64 name_seed(std::string_view name) {
    u64 seed = 0xcbf2'9ce4'8422'2325;  // FNV-1a
    for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
    return seed;
}

/// Neighbours in the chain that are neighbours in memory.
std::vector<PfnRange> runs_of(const std::vector<Pfn>& chain) {
    std::vector<PfnRange> runs;
    for (const Pfn pfn : chain) {
        if (!runs.empty() && runs.back().end == pfn)
            runs.back().end = pfn + 1;
        else
            runs.push_back(pfn_range(pfn, 1));
    }
    return runs;
}

}  // namespace

ScriptedSubsystem::ScriptedSubsystem(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, std::string name,
                                     Script script)
    : kernel_(kernel),
      kho_(kho),
      orchestrator_(orchestrator),
      script_(script) {
    subsystem_.name = std::move(name);
    subsystem_.in_module = true;
    bind_callbacks();
}

void ScriptedSubsystem::bind_callbacks() {
    subsystem_.prepare = [this](u64* data) { return prepare(data); };
    subsystem_.freeze = [this](u64*) { return freeze(); };
    subsystem_.cancel = [this](u64) { cancel(); };
    subsystem_.finish = [this](u64 data) { finish(data); };
    if (orchestrator_.edition().boot_callback) subsystem_.boot = [this](u64 data) { boot(data); };
}

// --- registration
// ------------------------------------------------------------------------------------------------------

Result<> ScriptedSubsystem::register_with_luo() {
    if (!on_list()) {
        frames_ = TRY(kernel_.pages.alloc_pages(
            {.order = Order{0}, .site = "subsystem.pages", .frame_class = FrameClass::subsystem}, script_.pages));
        fill();
        calls_.clear();
    }
    const auto registered = orchestrator_.register_subsystem(&subsystem_);
    if (!registered && !on_list()) free_pages();
    return registered;
}

Result<> ScriptedSubsystem::unregister_from_luo() {
    TRY(orchestrator_.unregister_subsystem(&subsystem_));
    unpreserve();
    free_pages();
    return {};
}

bool ScriptedSubsystem::on_list() const { return orchestrator_.on_list(&subsystem_); }

void ScriptedSubsystem::free_pages() {
    for (const PfnRange run : frames_) kernel_.pages.free_pages(run);
    frames_.clear();
}

/// Word `at` of page `index`. The top byte keeps it apart from any address.
u64 ScriptedSubsystem::word(u64 index, u64 at) const {
    return u64{0xa5} << 56 | mix(name_seed(subsystem_.name) + index * words_per_page + at) >> 8;
}

void ScriptedSubsystem::fill() {
    std::vector<Pfn> chain;
    for (const PfnRange run : frames_)
        for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) chain.push_back(pfn);
    for (u64 index = 0; index < chain.size(); ++index) {
        const bool last = index + 1 == chain.size();
        std::array<u64, words_per_page> page{header_magic, chain.size(), index,
                                             last ? 0 : chain[index + 1].phys().raw};
        for (u64 at = first_word; at < words_per_page; ++at) page[at] = word(index, at);
        abi_write_bytes(kernel_.machine.ram, chain[index].phys(), std::as_bytes(std::span(page)), "subsystem.page");
    }
}

// --- callbacks of the old kernel
// -----------------------------------------------------------------------------------------

void ScriptedSubsystem::called(std::string_view callback, const Answer& answer) {
    calls_.emplace_back(callback);
    if (answer.panic) throw KernelPanic(fmt::format("subsystem '{}': panic in {}", subsystem_.name, callback));
}

int ScriptedSubsystem::prepare(u64* data) {
    called("prepare", script_.prepare);
    if (const auto preserved = preserve(); !preserved) return -static_cast<int>(preserved.error());
    if (script_.prepare.error != Errno::ok) {
        unpreserve();
        return -static_cast<int>(script_.prepare.error);
    }
    *data = frames_.empty() ? 0 : frames_.front().begin.phys().raw;
    return 0;
}

int ScriptedSubsystem::freeze() {
    called("freeze", script_.freeze);
    return -static_cast<int>(script_.freeze.error);
}

void ScriptedSubsystem::cancel() {
    called("cancel", script_.cancel);
    unpreserve();
}

Result<> ScriptedSubsystem::preserve() {
    for (std::size_t at = 0; at < frames_.size(); ++at) {
        u64 done = 0;
        const auto preserved = kho_.preserve_folios(frames_[at], subsystem_.name, true, &done);
        if (preserved) continue;
        static_cast<void>(kho_.unpreserve_folios(pfn_range(frames_[at].begin, done), subsystem_.name));
        while (at-- != 0) static_cast<void>(kho_.unpreserve_folios(frames_[at], subsystem_.name));
        return preserved;
    }
    preserved_ = true;
    return {};
}

/// Refused while KHO is finalized (a rollback of freeze): then the pages stay preserved until unregister.
void ScriptedSubsystem::unpreserve() {
    if (!preserved_) return;
    bool all = true;
    for (const PfnRange run : frames_) all &= kho_.unpreserve_folios(run, subsystem_.name).has_value();
    preserved_ = !all;
}

// --- callbacks of the new kernel
// -----------------------------------------------------------------------------------------

void ScriptedSubsystem::boot(u64 data) {
    called("boot", script_.boot);
    compare(follow(data));
}

void ScriptedSubsystem::finish(u64 data) {
    called("finish", script_.finish);
    const std::vector<Pfn> chain = follow(data);
    if (!orchestrator_.edition().boot_callback) compare(chain);
    for (PfnRange run : runs_of(chain)) {
        while (!run.empty()) {
            u64 restored = 0;
            const auto result = kho_.restore_folios_run(run, subsystem_.name, FrameClass::subsystem, &restored);
            kernel_.pages.free_pages(pfn_range(run.begin, restored));
            if (result) break;
            run.begin = run.begin + restored;
            kernel_.log.err("subsystem '{}': page {:#x} cannot be restored: {}", subsystem_.name,
                            run.begin.phys().raw, -static_cast<int>(result.error()));
            run.begin = run.begin + 1;
        }
    }
}

std::vector<Pfn> ScriptedSubsystem::follow(u64 data) {
    const PhysicalMemory& ram = kernel_.machine.ram;
    std::vector<Pfn> chain;
    u64 pages = 1;
    for (PhysAddr at{data}; chain.size() < pages;) {
        const bool readable = at.raw != 0 && at.page_aligned() && ram.contains(at, page_bytes);
        const PageHeader header =
            readable ? read_handed_over<PageHeader>(kernel_.machine, at, subsystem_.name) : PageHeader{};
        if (chain.empty()) pages = header.pages;
        // The sum of all pages bounds the chain, so a loop in it ends.
        const bool ours = header.magic == header_magic && header.index == chain.size() && header.pages == pages &&
                          pages != 0 && pages <= ram.bytes_max() >> page_shift;
        if (!ours) {
            kernel_.log.err("subsystem '{}': no page of it at {:#x}", subsystem_.name, at.raw);
            break;
        }
        chain.push_back(at.pfn());
        at = PhysAddr{header.next};
    }
    return chain;
}

bool ScriptedSubsystem::content_is_ours(const std::vector<Pfn>& chain) const {
    for (u64 index = 0; index < chain.size(); ++index) {
        std::array<u64, words_per_page> page{};
        std::memcpy(page.data(), kernel_.machine.ram.readable(chain[index]), page_bytes);
        for (u64 at = first_word; at < words_per_page; ++at)
            if (page[at] != word(index, at)) return false;
    }
    return true;
}

void ScriptedSubsystem::compare(const std::vector<Pfn>& chain) {
    if (!content_is_ours(chain)) kernel_.log.err("subsystem '{}': content of its pages differs", subsystem_.name);
}

}  // namespace kexec_sim::luo
